"""key_IDs that only the two KMEs of a pair can make or read.

A key is a slice of a key stream, and its key_ID is that slice's address, so that the slave's KME finds the key without
a message from the master's KME. The address is encrypted and authenticated under secrets of the pair (synthetic-IV
construction: the tag over all context is the nonce of the mask), so an ID says nothing about position, amount or key
bits, nobody else can mint one, and an ID made for one SAE does not open for another.

Layout of the 128 bits, as a UUID of version 8 (RFC 9562)::

    tag (64 bits) | masked address (58 bits) | version 8 (4 bits) | variant 2 (2 bits)
    address = 0 (1 bit) | offset modulo 2**36 granules (36 bits) | length in bytes (21 bits)

Offsets are kept as wide integers; the 36 bits of the ID are widened to the nearest offset around where the stream
stands now (serial-number arithmetic), and the tag covers the wide offset.
Security: forging needs a guess of a 64-bit keyed BLAKE2b tag; this is computational and protects availability and
accounting only: an ID is never a secret and a forged one yields no key bits to anyone but a registered SAE of the pair.
"""

from __future__ import annotations

import hmac
import re
import struct
from dataclasses import dataclass
from hashlib import blake2b

__all__ = ["GRANULE_BYTES", "LENGTH_BYTES_MAX", "KeyAddress", "KeyIdCodec", "granules_of"]

GRANULE_BYTES = 32
LENGTH_BYTES_MAX = (1 << 21) - GRANULE_BYTES
SECRET_BYTES = 64

_OFFSET_BITS = 36
_LENGTH_BITS = 21
_OFFSET_SPAN = 1 << _OFFSET_BITS
_PAIRS_MAX = 1024
_ADDRESS = struct.Struct(">QI")
_MASK_58 = (1 << 58) - 1
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-8[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")


def granules_of(length_bytes: int) -> int:
    """Return how many granules a key of that length takes from the stream."""
    return -(-length_bytes // GRANULE_BYTES)


@dataclass(frozen=True, slots=True)
class KeyAddress:
    """Where a key lies in its stream."""

    offset: int
    """First granule."""
    length_bytes: int

    @property
    def end(self) -> int:
        """Granule after the last one."""
        return self.offset + granules_of(self.length_bytes)


class KeyIdCodec:
    """Makes and reads the key_IDs of one stream.

    Args:
        secret: 64 bytes that both KMEs of the pair hold, used for this stream only.
    """

    __slots__ = ("_mask", "_pairs", "_tag")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"key_ID secret must be {SECRET_BYTES} bytes, got {len(secret)}")
        self._tag = blake2b(key=secret[:32], digest_size=8, person=b"shosoin kid tag")
        self._mask = blake2b(key=secret[32:], digest_size=8, person=b"shosoin kid mask")
        self._pairs: dict[tuple[str, str], blake2b] = {}

    def encode(self, address: KeyAddress, master: str, slave: str) -> str:
        """Return the key_ID of a slice drawn by ``master`` for ``slave``."""
        tag = self._tag_of(address, master, slave)
        plain = (address.offset % _OFFSET_SPAN) << _LENGTH_BITS | address.length_bytes
        # The tag first, then the masked address, in reading order; version and variant stand between their bits.
        high = tag.hex()
        low = f"{2 << 62 | (tag[7] & 0xF) << 58 | plain ^ self._mask_of(tag):x}"
        return f"{high[:8]}-{high[8:12]}-8{high[12:15]}-{low[:4]}-{low[4:]}"

    def decode(self, key_id: str, master: str, slave: str, *, near: int) -> KeyAddress | None:
        """Return the address if the ID was made for exactly this master and slave, else ``None``.

        Args:
            near: a granule offset within 2**35 granules of every key still in use.
        """
        if not _UUID.fullmatch(key_id):
            return None
        rest = int(key_id[19:23] + key_id[24:], 16)
        tag = bytes.fromhex(f"{key_id[:8]}{key_id[9:13]}{key_id[15:18]}{rest >> 58 & 0xF:x}")
        plain = rest & _MASK_58 ^ self._mask_of(tag)
        low, length_bytes = plain >> _LENGTH_BITS, plain & (1 << _LENGTH_BITS) - 1
        base = max(0, near - _OFFSET_SPAN // 2)
        address = KeyAddress(base + (low - base) % _OFFSET_SPAN, length_bytes)
        genuine = hmac.compare_digest(tag, self._tag_of(address, master, slave))
        return address if genuine and low < _OFFSET_SPAN and length_bytes > 0 else None

    def _tag_of(self, address: KeyAddress, master: str, slave: str) -> bytes:
        state = self._state_of(master, slave).copy()
        state.update(_ADDRESS.pack(address.offset, address.length_bytes))
        return state.digest()

    def _state_of(self, master: str, slave: str) -> blake2b:
        """Return the tag's state after the names, which most calls share."""
        state = self._pairs.get((master, slave))
        if state is None:
            if len(self._pairs) >= _PAIRS_MAX:
                self._pairs.clear()
            state = self._tag.copy()
            state.update(f"{master}\0{slave}\0".encode())
            self._pairs[master, slave] = state
        return state

    def _mask_of(self, tag: bytes) -> int:
        state = self._mask.copy()
        state.update(tag)
        return int.from_bytes(state.digest()) & _MASK_58
