"""How a stream store seals what it keeps, whatever it keeps it in.

Records are sealed with AES-256-GCM under their name. Blocks are encrypted with AES-256-CTR under a random nonce, beside
an 8-byte keyed check for every 32-byte granule, so that rot is found before a wrong key is served and a consumed
granule can be overwritten without touching its neighbours.

Security: encryption at rest is computational; it guards stolen disks and copies of a database, not promise 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shosoin.keys.key_id import GRANULE_BYTES

__all__ = ["BLOCK_NONCE_BYTES", "CHECK_BYTES", "BlockSeal", "RecordSeal", "SealedBlock"]

BLOCK_NONCE_BYTES = 16
CHECK_BYTES = 8
"""For each granule."""
_RECORD_NONCE_BYTES = 12


class RecordSeal:
    """Seals records under a storage key, each bound to its name and to a context.

    Args:
        context: what else a record belongs to, where records of many lie in one place.
    """

    def __init__(self, storage_key: bytes, context: bytes = b"") -> None:
        self._seal = AESGCM(_derive(storage_key, b"record"))
        self._context = context

    def seal(self, name: str, value: bytes) -> bytes:
        """Return the sealed record."""
        nonce = os.urandom(_RECORD_NONCE_BYTES)
        return nonce + self._seal.encrypt(nonce, value, self._context + name.encode())

    def unseal(self, name: str, sealed: bytes) -> bytes:
        """Return the record.

        Raises:
            ValueError: it was changed, belongs to another name, or was sealed under another key.
        """
        nonce, content = sealed[:_RECORD_NONCE_BYTES], sealed[_RECORD_NONCE_BYTES:]
        try:
            return self._seal.decrypt(nonce, content, self._context + name.encode())
        except InvalidTag as err:
            raise ValueError(f"record {name} fails its check") from err


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A block as it is stored."""

    nonce: bytes
    cells: bytes
    """Encrypted granules."""
    checks: bytes
    """One of ``CHECK_BYTES`` for each granule."""


class BlockSeal:
    """Seals blocks under a key."""

    def __init__(self, key: bytes) -> None:
        self._block_key = _derive(key, b"block")
        self._check_key = _derive(key, b"check")

    def seal(self, content: bytes) -> SealedBlock:
        """Return the sealed block, under a fresh nonce."""
        nonce = os.urandom(BLOCK_NONCE_BYTES)
        cells = _ctr(self._block_key, nonce, content)
        return SealedBlock(nonce, cells, self._checks(nonce, cells))

    def open(self, sealed: SealedBlock) -> tuple[bytearray, list[int]]:
        """Return the block's bytes and the granules whose check fails; their bytes are zeroed."""
        differs = np.frombuffer(sealed.checks, np.uint64) != np.frombuffer(
            self._checks(sealed.nonce, sealed.cells), np.uint64
        )
        damaged = [int(granule) for granule in np.flatnonzero(differs)]
        plain = bytearray(_ctr(self._block_key, sealed.nonce, sealed.cells))
        _zero(plain, damaged)
        return plain, damaged

    def _checks(self, nonce: bytes, cells: bytes) -> bytes:
        """Return 8 bytes for each granule: a CBC-MAC over (nonce and position, the granule's two halves).

        All inputs have the same three AES blocks, for which CBC-MAC is a pseudorandom function.
        """
        granules = len(cells) // GRANULE_BYTES
        halves = np.frombuffer(cells, np.uint64).reshape(granules, 2, 2)
        place = np.empty((granules, 2), np.uint64)
        base = np.frombuffer(blake2b(nonce, digest_size=16, key=self._check_key).digest(), np.uint64)
        place[:, 0] = base[0]
        place[:, 1] = base[1] ^ np.arange(granules, dtype=np.uint64)
        state = self._aes(place)
        state = self._aes(state ^ halves[:, 0])
        state = self._aes(state ^ halves[:, 1])
        return state[:, 0].tobytes()

    def _aes(self, words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        # ECB is the bare block cipher here, the building block of the MAC; nothing is encrypted with it.
        encryptor = Cipher(algorithms.AES(self._check_key), modes.ECB()).encryptor()  # noqa: S305
        return np.frombuffer(encryptor.update(words.tobytes()), np.uint64).reshape(words.shape)


def _zero(plain: bytearray, granules: Iterable[int]) -> None:
    for granule in granules:
        plain[granule * GRANULE_BYTES : (granule + 1) * GRANULE_BYTES] = bytes(GRANULE_BYTES)


def _derive(key: bytes, purpose: bytes) -> bytes:
    return blake2b(key=key, digest_size=32, person=b"shosoin " + purpose).digest()


def _ctr(key: bytes, nonce: bytes, content: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(content)
