"""key_IDs that only the two KMEs of a pair can make or read.

A key is a slice of a key stream, and its key_ID is that slice's address, so that the slave's KME finds the key without
a message from the master's KME. The address is encrypted and authenticated under secrets of the pair (synthetic-IV
construction: the tag over all context is the nonce of the mask), so an ID says nothing about position, amount or key
bits, nobody else can mint one, and an ID made for one SAE does not open for another.

Offsets are kept as wide integers; the 36 bits of the ID are widened to the nearest offset around where the stream
stands now (serial-number arithmetic), and the tag covers the wide offset. ``shosoin.kernels.reference_key_ids`` has the
layout.
Security: forging needs a guess of a 64-bit keyed BLAKE2b tag; this is computational and protects availability and
accounting only: an ID is never a secret and a forged one yields no key bits to anyone but a registered SAE of the pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shosoin.kernels import KEY_ID_SECRET_BYTES, key_ids

__all__ = ["GRANULE_BYTES", "LENGTH_BYTES_MAX", "KeyAddress", "KeyIdCodec", "granules_of", "spans_of"]

GRANULE_BYTES = 32
LENGTH_BYTES_MAX = (1 << 21) - GRANULE_BYTES
SECRET_BYTES = KEY_ID_SECRET_BYTES
_new = tuple.__new__
"""Makes an address of a pair at a third of what its class takes; there may be hundreds of thousands in a second."""


def granules_of(length_bytes: int) -> int:
    """Return how many granules a key of that length takes from the stream."""
    return -(-length_bytes // GRANULE_BYTES)


class KeyAddress(NamedTuple):
    """Where a key lies in its stream."""

    offset: int
    """First granule."""
    length_bytes: int

    @property
    def end(self) -> int:
        """Granule after the last one."""
        return self.offset + granules_of(self.length_bytes)


def spans_of(addresses: Iterable[KeyAddress]) -> list[tuple[int, int]]:
    """Return the first granule of each key, and the one after its last."""
    return [(offset, offset - -length // GRANULE_BYTES) for offset, length in addresses]


class KeyIdCodec:
    """Makes and reads the key_IDs of one stream.

    Args:
        secret: 64 bytes that both KMEs of the pair hold, used for this stream only.
    """

    __slots__ = ("_ids",)

    def __init__(self, secret: bytes) -> None:
        self._ids = key_ids(secret)

    def encode(self, address: KeyAddress, master: str, slave: str) -> str:
        """Return the key_ID of a slice drawn by ``master`` for ``slave``."""
        return self._ids.encode(_context(master, slave), (address,))[0]

    def encode_all(self, addresses: Sequence[KeyAddress], master: str, slave: str) -> list[str]:
        """Return the key_ID of each slice, in order."""
        return self._ids.encode(_context(master, slave), addresses)

    def decode(self, key_id: str, master: str, slave: str, *, near: int) -> KeyAddress | None:
        """Return the address if the ID was made for exactly this master and slave, else ``None``.

        Args:
            near: a granule offset within 2**35 granules of every key still in use.
        """
        return self.decode_all((key_id,), master, slave, near=near)[0]

    def decode_all(self, key_ids: Sequence[str], master: str, slave: str, *, near: int) -> list[KeyAddress | None]:
        """Return the address of each ID, or ``None``; see ``decode``."""
        found = self._ids.decode(_context(master, slave), key_ids, near)
        return [_new(KeyAddress, one) if one is not None else None for one in found]


def _context(master: str, slave: str) -> bytes:
    # A format string would ask each name how it is spelled, as names have a class of their own: four times as long.
    return "\0".join((master, slave, "")).encode()  # noqa: FLY002
