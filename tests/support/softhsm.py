"""A SoftHSM token for one test: real PKCS#11, in a directory of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs import library, program

__all__ = ["PIN", "SoftHsm", "softhsm_at"]

PIN = "271828"


class SoftHsm:
    """The tokens in one directory."""

    def __init__(self, root: Path) -> None:
        # Resolved, as a configuration does: under two names one library would be initialized twice.
        self.module = library("/usr/lib/softhsm/libsofthsm2.so").resolve()
        self.util = program("softhsm2-util")
        self.root = root
        self.conf = root / "softhsm2.conf"
        self.pin_file = root / "pin"
        (root / "tokens").mkdir(parents=True)
        self.conf.write_text(
            f"directories.tokendir = {root / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self.pin_file.write_text(f"{PIN}\n")
        self.pin_file.chmod(0o600)

    def init(self, label: str = "kme") -> None:
        """Make one more token."""
        command = [self.util, "--init-token", "--free", "--label", label, "--so-pin", "314159", "--pin", PIN]
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.conf)}
        subprocess.run(command, check=True, capture_output=True, env=environment)

    def reload(self):
        """Return the library, which looks at the tokens anew."""
        import pkcs11

        found = pkcs11.lib(str(self.module))
        found.reinitialize()
        return found

    def make_key(self, label: str = "kek", *, token: str = "kme", bits: int = 256, **attributes) -> None:
        """Make an AES key on a token, one that the token keeps to itself unless ``attributes`` say otherwise."""
        from pkcs11 import Attribute, KeyType

        template = {Attribute.EXTRACTABLE: False, Attribute.SENSITIVE: True}
        template |= {Attribute[name]: value for name, value in attributes.items()}
        with self.reload().get_token(token_label=token).open(rw=True, user_pin=PIN) as session:
            session.generate_key(KeyType.AES, bits, label=label, store=True, template=template)

    def table(self, **changes: str) -> str:
        """Return ``[kme.storage_key]`` for the token ``kme`` and its key ``kek``."""
        values = {
            "source": "pkcs11",
            "module": self.module,
            "token": "kme",
            "key": "kek",
            "pin_file": self.pin_file,
            **changes,
        }
        return "[kme.storage_key]\n" + "\n".join(f'{name} = "{value}"' for name, value in values.items())


@contextmanager
def softhsm_at(root: Path) -> Iterator[SoftHsm]:
    """Let this process and those it starts see tokens in ``root`` and nowhere else."""
    before = os.environ.get("SOFTHSM2_CONF")
    tokens = SoftHsm(root)
    os.environ["SOFTHSM2_CONF"] = str(tokens.conf)
    try:
        yield tokens
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
