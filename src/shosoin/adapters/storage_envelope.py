"""The envelope of a KME's storage key: ``storage-key.json`` beside its state.

The storage key is random. The envelope holds it sealed with AES-256-GCM under the wrapping key of a source
(``storage_keys``), so that passphrase or token can change without touching what is stored. Everything else in the file
(format, KME, source and its parameters, files still to be overwritten) is authenticated with it: an envelope of another
KME, or one that was altered anywhere, does not open.

While everything is being re-encrypted an envelope holds two keys, the old and the new one; no KME starts on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shosoin.adapters.private_files import create_private, replace_private
from shosoin.adapters.storage_keys import KEY_BYTES, BadStorageKey, WrappingKeySource
from shosoin.base import Rejected

__all__ = ["ENVELOPE_NAME", "Envelope", "EnvelopeFile", "new_storage_key"]

ENVELOPE_NAME = "storage-key.json"
_FORMAT = "shosoin storage key 1"
_MEMBERS = {"format", "kme", "source", "parameters", "retire", "sealed"}
_BYTES_MAX = 1 << 16
_NONCE_BYTES = 12
_KEYS_MAX = 2


def new_storage_key() -> bytes:
    """Return a random storage key."""
    return os.urandom(KEY_BYTES)


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope holds."""

    keys: tuple[bytes, ...] = field(repr=False)
    """The storage key; during re-encryption the old one and the new one."""
    retire: tuple[str, ...] = ()
    """Files that hold a key no longer in use, to be overwritten."""

    @property
    def is_settled(self) -> bool:
        """Whether no rotation is under way."""
        return len(self.keys) == 1 and not self.retire


class EnvelopeFile:
    """The envelope of one KME.

    Args:
        directory: the KME's state directory.
        kme: whose storage key it is.
    """

    def __init__(self, directory: Path, kme: str) -> None:
        self.path = directory / ENVELOPE_NAME
        self._kme = kme

    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.exists()

    def source(self) -> str:
        """Return the kind of source that the envelope says it was sealed for; unproven before it is opened."""
        return str(self._parsed()["source"])

    def open(self, key_source: WrappingKeySource) -> Envelope:
        """Return what is inside.

        Raises:
            BadStorageKey: the source's secret does not open it, or it was altered.
            Rejected: it is no envelope, or was sealed for another kind of source.
            ShosoinError: the source's secret cannot be had.
        """
        found = self._parsed()
        if found["source"] != key_source.source:
            raise Rejected(
                f"{self.path} was sealed for source {found['source'][:40]!r}, configured is {key_source.source!r}",
                code="store.other_source",
                hint="change [kme.storage_key], or rotate: shosoin kme rotate-storage-key",
            )
        if found["kme"] != self._kme:
            raise Rejected(f"{self.path} belongs to KME {found['kme'][:64]!r}, not {self._kme}", code="store.other_kme")
        header = {**_header(self._kme, key_source, found["parameters"]), "retire": found["retire"]}
        try:
            sealed = bytes.fromhex(found["sealed"])
            keys = AESGCM(key_source.again(found["parameters"])).decrypt(
                sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _canonical(header)
            )
        except (InvalidTag, ValueError) as err:
            raise BadStorageKey(f"{key_source.source} does not open {self.path}") from err
        return Envelope(_cut(keys), tuple(found["retire"]))

    def create(self, key_source: WrappingKeySource) -> None:
        """Make a storage key and its envelope, unless another process has done so meanwhile."""
        try:
            create_private(self.path, self._sealed(Envelope((new_storage_key(),)), key_source))
        except FileExistsError:
            return

    def replace(self, envelope: Envelope, key_source: WrappingKeySource) -> None:
        """Seal anew, durably; the old envelope is overwritten."""
        replace_private(self.path, self._sealed(envelope, key_source))

    def _sealed(self, envelope: Envelope, key_source: WrappingKeySource) -> bytes:
        parameters, wrapping_key = key_source.new()
        header = {**_header(self._kme, key_source, parameters), "retire": list(envelope.retire)}
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(wrapping_key).encrypt(nonce, b"".join(envelope.keys), _canonical(header))
        return json.dumps({**header, "sealed": sealed.hex()}, indent=1).encode() + b"\n"

    def _parsed(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                raw = file.read(_BYTES_MAX + 1)
        except OSError as err:
            raise Rejected(f"cannot read {self.path}: {err.strerror}", code="store.unreadable") from err
        try:
            found = json.loads(raw.decode("ascii"))
            _check_shape(found)
        except (ValueError, RecursionError) as err:
            raise Rejected(
                f"{self.path} is no envelope of a storage key",
                code="store.bad_envelope",
                hint="put back the copy of it that was kept; without it what is stored cannot be read",
            ) from err
        return dict(found)


def _check_shape(found: Any) -> None:
    if not isinstance(found, dict) or set(found) != _MEMBERS or found["format"] != _FORMAT:
        raise ValueError("wrong members or format")
    texts = all(isinstance(found[name], str) for name in ("kme", "source", "sealed"))
    retire = found["retire"]
    names = isinstance(retire, list) and all(isinstance(item, str) for item in retire)
    if not (texts and names and isinstance(found["parameters"], dict)):
        raise ValueError("wrong types")


def _header(kme: str, key_source: WrappingKeySource, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": _FORMAT, "kme": kme, "source": key_source.source, "parameters": dict(parameters)}


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _cut(keys: bytes) -> tuple[bytes, ...]:
    count, rest = divmod(len(keys), KEY_BYTES)
    if rest or not 1 <= count <= _KEYS_MAX:
        raise BadStorageKey(f"the envelope holds {len(keys)} bytes of keys")
    return tuple(keys[i * KEY_BYTES : (i + 1) * KEY_BYTES] for i in range(count))
