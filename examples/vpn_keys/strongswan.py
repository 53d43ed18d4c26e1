"""A quantum key as strongSwan's postquantum preshared key (PPK, RFC 8784), a new one for every reauthentication.

    python strongswan.py --follow 192.0.2.2:7350 --directory /run/shosoin-ppk --connection qkd --peer sae-a1 \
        --swanctl /etc/swanctl/swanctl.conf --kme https://127.0.0.1:9001 --kme-name kme-b --certificate ...

The connection in ``swanctl.conf`` takes its PPK from two files that this program writes::

    connections { qkd { ... ppk_required = yes
                        include /run/shosoin-ppk/id.conf } }
    include /run/shosoin-ppk/secret.conf

The key's ID is the PPK_ID, so that both ends name the same key and need no message of their own for it. The one that
leads starts a new IKE SA after each new key. Put the directory on a file system that lives in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from handover import NOBODYS, arguments, run

CALL_S = 30.0
"""What the daemon may take for one command: a feeder that waits for ever would never give up an old key."""


class Ppk:
    """The files of one connection, and the daemon that reads them."""

    def __init__(self, directory: Path, swanctl: Path, uri: str, connection: str, *, starts: bool) -> None:
        self.identity, self.secret = directory / "id.conf", directory / "secret.conf"
        self._swanctl, self._uri, self._connection, self._starts = swanctl, uri, connection, starts
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        for path in (self.identity, self.secret):
            path.touch(mode=0o600)

    async def apply(self, key_id: str, key: bytes) -> None:
        """Have the daemon know a PPK, and (at the side that starts) authenticate anew with it, if that is possible."""
        _write(self.identity, f"ppk_id = {key_id}\n")
        _write(self.secret, f"secrets {{ ppk-shosoin {{ secret = 0x{key.hex()}\n id-1 = {key_id} }} }}\n")
        try:
            await self._call("--load-all", "--file", str(self._swanctl))
        finally:
            _overwrite(self.secret)
        if self._starts:
            await self._call("--terminate", "--ike", self._connection, "--force", "--timeout", "5", tolerant=True)
        if self._starts and not key_id.startswith(NOBODYS):  # with that one nobody can
            await self._call("--initiate", "--ike", self._connection, "--timeout", "10")

    async def _call(self, *words: str, tolerant: bool = False) -> None:
        process = await asyncio.create_subprocess_exec(
            "swanctl", *words, "--uri", self._uri, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(CALL_S):
                said, _ = await process.communicate()
        except TimeoutError as err:
            raise OSError(f"swanctl {words[0]}: the daemon does not answer within {CALL_S:g} s") from err
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode and not tolerant:
            last = said.decode(errors="replace").strip().splitlines()[-1:]
            raise OSError(f"swanctl {words[0]}: {' '.join(last)[:200]}")


def _write(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.touch(mode=0o600)
    part.write_text(text, encoding="ascii")
    part.replace(path)


def _overwrite(path: Path) -> None:
    """Leave nothing of a secret: the daemon has it in memory."""
    with path.open("r+b") as file:
        file.write(b"#" * path.stat().st_size)


def main() -> int:
    """Run the command line."""
    parser = arguments("Feed strongSwan with postquantum preshared keys from a quantum key network.")
    parser.add_argument("--connection", required=True, help="name of the connection in swanctl.conf")
    parser.add_argument("--directory", required=True, type=Path, help="where the two files go")
    parser.add_argument("--swanctl", required=True, type=Path, help="the swanctl.conf that includes them")
    parser.add_argument("--uri", default="unix:///var/run/charon.vici", help="the daemon's control socket")
    given: argparse.Namespace = parser.parse_args()
    ppk = Ppk(given.directory, given.swanctl, given.uri, given.connection, starts=bool(given.lead))
    asyncio.run(run(given, ppk.apply))
    return 0


if __name__ == "__main__":
    sys.exit(main())
