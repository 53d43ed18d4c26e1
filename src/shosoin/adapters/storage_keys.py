"""Where the key comes from that opens a KME's storage key: a file, a passphrase, a token (``pkcs11_token``).

Each source leads to a 32-byte *wrapping key*, which seals the storage key in its envelope (``storage_envelope``).
What a source needs besides its secret to reach the same key again (salt, cost, what a token wrapped) are its
*parameters*, plain JSON that the envelope keeps and authenticates.

Security: as strong as the source. A passphrase is stretched with scrypt: guessing costs memory and time, but no
stretching makes up for a passphrase that can be guessed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from shosoin.adapters.private_files import read_private
from shosoin.base import Rejected

__all__ = [
    "SCRYPT_LOG2_N",
    "BadStorageKey",
    "FileKey",
    "Passphrase",
    "WrappingKeySource",
    "passphrase_from_environment",
    "passphrase_from_file",
]

KEY_BYTES = 32
SCRYPT_LOG2_N = 17
"""128 MiB and about half a second."""
_LOG2_N_MIN, _LOG2_N_MAX = 14, 20
_R, _P = 8, 1
_SALT_BYTES = 16
_PASSPHRASE_BYTES_MIN, _PASSPHRASE_BYTES_MAX = 12, 1024


class BadStorageKey(Rejected):
    """The secret does not open the storage key; a wrong secret and an altered envelope cannot be told apart."""

    code = "store.bad_key"
    hint = "is it the right secret for this KME, and the storage-key.json that belongs to this state?"


class WrappingKeySource(Protocol):
    """One source; reads its secret anew for each call and keeps none."""

    @property
    def source(self) -> str:
        """Its name, as in the configuration."""
        ...

    def new(self) -> tuple[dict[str, Any], bytes]:
        """Return fresh parameters and the wrapping key that they lead to.

        Raises:
            ShosoinError: the secret cannot be had, or is too weak.
        """
        ...

    def again(self, parameters: Mapping[str, Any]) -> bytes:
        """Return the wrapping key for the parameters of an envelope, perhaps a wrong one if the secret is wrong.

        Raises:
            BadStorageKey: the parameters are none of this source's.
            ShosoinError: the secret cannot be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileKey:
    """A file of 32 random bytes."""

    path: Path
    source: str = "file"

    def new(self) -> tuple[dict[str, Any], bytes]:
        """Return a salt and the wrapping key."""
        salt = os.urandom(_SALT_BYTES)
        return {"salt": salt.hex()}, self._key(salt)

    def again(self, parameters: Mapping[str, Any]) -> bytes:
        """Return the wrapping key for a salt."""
        return self._key(_salt(parameters, {"salt"}))

    def _key(self, salt: bytes) -> bytes:
        secret = read_private(self.path, "[kme.storage_key] key_file", bytes_max=KEY_BYTES)
        if len(secret) != KEY_BYTES:
            raise BadStorageKey(f"key file {self.path} has {len(secret)} bytes, expected {KEY_BYTES}")
        return blake2b(salt, key=secret, digest_size=KEY_BYTES, person=b"shosoin filekey").digest()


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A passphrase, stretched with scrypt.

    Args:
        read: returns the passphrase.
        log2_n: cost of the next envelope; an envelope's own cost is in its parameters.
    """

    read: Callable[[], bytes]
    log2_n: int = SCRYPT_LOG2_N
    source: str = "passphrase"

    def new(self) -> tuple[dict[str, Any], bytes]:
        """Return salt and cost, and the wrapping key."""
        passphrase = self.read()
        if len(passphrase) < _PASSPHRASE_BYTES_MIN:
            raise Rejected(
                f"the passphrase has {len(passphrase)} bytes, expected at least {_PASSPHRASE_BYTES_MIN}",
                code="store.weak_passphrase",
                hint="six random words, or 24 random characters",
            )
        salt = os.urandom(_SALT_BYTES)
        parameters = {"kdf": "scrypt", "log2_n": self.log2_n, "r": _R, "p": _P, "salt": salt.hex()}
        return parameters, _stretched(passphrase, salt, self.log2_n)

    def again(self, parameters: Mapping[str, Any]) -> bytes:
        """Return the wrapping key for salt and cost; a cost beyond bounds is not paid."""
        salt = _salt(parameters, {"kdf", "log2_n", "r", "p", "salt"})
        log2_n = parameters["log2_n"]
        known = (parameters["kdf"], parameters["r"], parameters["p"]) == ("scrypt", _R, _P)
        if not known or type(log2_n) is not int or not _LOG2_N_MIN <= log2_n <= _LOG2_N_MAX:
            raise BadStorageKey("the envelope names a way of stretching passphrases that this version does not know")
        return _stretched(self.read(), salt, log2_n)


def passphrase_from_file(path: Path) -> Callable[[], bytes]:
    """Return what reads a passphrase from a private file; one line end after it does not count."""

    def read() -> bytes:
        content = read_private(path, "[kme.storage_key] passphrase_file", bytes_max=_PASSPHRASE_BYTES_MAX)
        return _checked(content.removesuffix(b"\n").removesuffix(b"\r"), str(path))

    return read


def passphrase_from_environment(name: str) -> Callable[[], bytes]:
    """Return what reads a passphrase from an environment variable."""

    def read() -> bytes:
        value = os.environb.get(name.encode())
        if value is None:
            raise Rejected(f"environment variable {name} is not set", code="store.no_passphrase")
        return _checked(value, f"environment variable {name}")

    return read


def _checked(passphrase: bytes, where: str) -> bytes:
    if not passphrase:
        raise Rejected(f"the passphrase in {where} is empty", code="store.no_passphrase")
    return passphrase


def _stretched(passphrase: bytes, salt: bytes, log2_n: int) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=1 << log2_n, r=_R, p=_P).derive(passphrase)


def _salt(parameters: Mapping[str, Any], names: set[str]) -> bytes:
    """Return the salt of parameters that have exactly these names."""
    try:
        if set(parameters) != names:
            raise ValueError("other names")
        salt = bytes.fromhex(parameters["salt"])
    except (TypeError, ValueError) as err:
        raise BadStorageKey("the envelope's parameters belong to another source of keys") from err
    return salt
