"""``[kme] storage_key_file`` or ``[kme.storage_key]``: where a KME's storage key comes from.

The old way, still valid, is ``storage_key_file``: the storage key itself, 32 bytes in a file. A table instead of it
names what seals the storage key in its envelope, by ``source``: ``file``, ``passphrase`` or ``pkcs11``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.adapters.pkcs11_token import MECHANISMS, TokenKey
from shosoin.adapters.storage_keys import (
    SCRYPT_LOG2_N,
    FileKey,
    Passphrase,
    WrappingKeySource,
    passphrase_from_environment,
    passphrase_from_file,
)
from shosoin.services.toml_sections import Sections

__all__ = [
    "STORAGE_KEY_NAMES",
    "FileSection",
    "PassphraseSection",
    "PlainKeyFile",
    "StorageKeyChoice",
    "TokenSection",
    "read_storage_key",
    "secret_files",
    "source_of",
]

STORAGE_KEY_NAMES = {"storage_key", "storage_key_file"}
_WHERE = "kme.storage_key"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOG2_N_MIN, _LOG2_N_MAX = 14, 20
_NOWHERE = Path()


@dataclass(frozen=True, slots=True)
class PlainKeyFile:
    """``[kme] storage_key_file``: the storage key itself."""

    path: Path
    source: str = "storage_key_file"


@dataclass(frozen=True, slots=True)
class FileSection:
    """``[kme.storage_key]`` with ``source = "file"``."""

    source: str
    key_file: Path
    """32 random bytes, made if there is no envelope yet."""


@dataclass(frozen=True, slots=True)
class PassphraseSection:
    """``[kme.storage_key]`` with ``source = "passphrase"``; the passphrase itself is never here."""

    source: str
    passphrase_file: Path = _NOWHERE
    """Readable by its owner only; a service manager's credential is one."""
    passphrase_env: str = ""
    """Name of an environment variable, instead."""
    scrypt_log2_n: int = SCRYPT_LOG2_N
    """Cost of the next envelope: memory is 2^n KiB."""


@dataclass(frozen=True, slots=True)
class TokenSection:
    """``[kme.storage_key]`` with ``source = "pkcs11"``."""

    source: str
    module: Path
    token: str
    key: str
    pin_file: Path
    token_serial: str = ""
    mechanism: str = ""
    """Of the next envelope; empty: the best that the token offers."""


StorageKeyChoice = PlainKeyFile | FileSection | PassphraseSection | TokenSection
_KINDS: dict[str, type[Any]] = {"file": FileSection, "passphrase": PassphraseSection, "pkcs11": TokenSection}


def read_storage_key(kme: Mapping[str, Any], sections: Sections) -> StorageKeyChoice:
    """Read which of the two it is.

    Raises:
        Rejected: both or neither are there, or something in the table is wrong.
    """
    if ("storage_key" in kme) == ("storage_key_file" in kme):
        found = "both" if "storage_key" in kme else "neither"
        raise sections.wrong(f"[kme] takes either 'storage_key_file' or a table [{_WHERE}], {found} given")
    if "storage_key_file" in kme:
        return sections.read(PlainKeyFile, "kme", {"path": kme["storage_key_file"]})
    table = sections.table(kme, "storage_key", _WHERE)
    source = table.get("source")
    kind = _KINDS.get(source) if isinstance(source, str) else None
    if kind is None:
        raise sections.wrong(f"[{_WHERE}] source must be one of {', '.join(_KINDS)}, got {str(source)[:40]!r}")
    choice: StorageKeyChoice = sections.read(kind, _WHERE, table)
    _check_meaning(choice, sections)
    return choice


def source_of(choice: StorageKeyChoice, kme: str) -> WrappingKeySource:
    """Return the source of the wrapping key; a plain key file has none.

    Raises:
        ValueError: it is a plain key file.
    """
    match choice:
        case FileSection(key_file=path):
            return FileKey(path)
        case PassphraseSection():
            if choice.passphrase_env:
                return Passphrase(passphrase_from_environment(choice.passphrase_env), choice.scrypt_log2_n)
            return Passphrase(passphrase_from_file(choice.passphrase_file), choice.scrypt_log2_n)
        case TokenSection():
            context = f"shosoin storage key\0{kme}".encode()
            return TokenKey(
                choice.module,
                choice.token,
                choice.key,
                choice.pin_file,
                context,
                serial=choice.token_serial,
                mechanism=choice.mechanism,
            )
    raise ValueError("a plain key file wraps nothing")


def secret_files(choice: StorageKeyChoice) -> list[Path]:
    """Return the files that a choice reads its secret from."""
    match choice:
        case PlainKeyFile(path=path) | FileSection(key_file=path) | TokenSection(pin_file=path):
            return [path]
        case PassphraseSection(passphrase_file=path) if path != _NOWHERE:
            return [path]
    return []


def _check_meaning(choice: StorageKeyChoice, sections: Sections) -> None:
    if isinstance(choice, PassphraseSection):
        if (choice.passphrase_file != _NOWHERE) == (choice.passphrase_env != ""):
            raise sections.wrong(f"[{_WHERE}] takes either 'passphrase_file' or 'passphrase_env'")
        if choice.passphrase_env and not _VARIABLE.fullmatch(choice.passphrase_env):
            raise sections.wrong(f"[{_WHERE}] passphrase_env must be the name of an environment variable")
        if not _LOG2_N_MIN <= choice.scrypt_log2_n <= _LOG2_N_MAX:
            raise sections.wrong(f"[{_WHERE}] scrypt_log2_n must be {_LOG2_N_MIN} to {_LOG2_N_MAX}")
    if isinstance(choice, TokenSection) and choice.mechanism not in {"", *MECHANISMS}:
        raise sections.wrong(f"[{_WHERE}] mechanism must be one of {', '.join(MECHANISMS)}")
