"""The specification of key_IDs: addresses of keys in a stream, masked and authenticated under secrets of a pair.

Layout of the 128 bits, as a UUID of version 8 (RFC 9562)::

    tag (64 bits) | masked address (58 bits) | version 8 (4 bits) | variant 2 (2 bits)
    address = 0 (1 bit) | offset modulo 2**36 (36 bits) | length (21 bits)

where version and variant stand between the other bits, as RFC 9562 places them. The tag is BLAKE2b (RFC 7693) with 64
bits of digest, keyed, over a context, the whole offset and the length; the mask is another over the tag. So an ID is
read by taking off the mask, widening the offset to the nearest one around where the stream stands, and comparing tags.
"""

from __future__ import annotations

import hmac
import re
import struct
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["KEY_ID_SECRET_BYTES", "ReferenceKeyIds"]

KEY_ID_SECRET_BYTES = 64

_OFFSET_BITS = 36
_LENGTH_BITS = 21
_SPAN = 1 << _OFFSET_BITS
_ADDRESS = struct.Struct(">QI")
_MASK_58 = (1 << 58) - 1
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-8[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")


class ReferenceKeyIds:
    """IDs of one stream, one after the other."""

    __slots__ = ("_mask", "_tag")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_ID_SECRET_BYTES:
            raise ValueError(f"key_ID secret must be {KEY_ID_SECRET_BYTES} bytes, got {len(secret)}")
        self._tag = blake2b(key=secret[:32], digest_size=8, person=b"shosoin kid tag")
        self._mask = blake2b(key=secret[32:], digest_size=8, person=b"shosoin kid mask")

    def encode(self, context: bytes, addresses: Sequence[tuple[int, int]]) -> list[str]:
        """Return the ID of each address, an offset below 2**64 and a length of 1 to 2**21 - 1."""
        return [self._encode(context, offset, length) for offset, length in addresses]

    def decode(self, context: bytes, key_ids: Sequence[str], near: int) -> list[tuple[int, int] | None]:
        """Return the address of each ID, ``None`` where it was not made under this context; 0 <= ``near`` < 2**63."""
        return [self._decode(context, key_id, near) for key_id in key_ids]

    def _encode(self, context: bytes, offset: int, length: int) -> str:
        if not 0 < length < 1 << _LENGTH_BITS:
            raise ValueError("a length must be 1 to 2^21 - 1")
        tag = self._tag_of(context, offset, length)
        plain = (offset % _SPAN) << _LENGTH_BITS | length
        high = tag.hex()
        low = f"{2 << 62 | (tag[7] & 0xF) << 58 | plain ^ self._mask_of(tag):x}"
        return f"{high[:8]}-{high[8:12]}-8{high[12:15]}-{low[:4]}-{low[4:]}"

    def _decode(self, context: bytes, key_id: str, near: int) -> tuple[int, int] | None:
        if not _UUID.fullmatch(key_id):
            return None
        rest = int(key_id[19:23] + key_id[24:], 16)
        tag = bytes.fromhex(f"{key_id[:8]}{key_id[9:13]}{key_id[15:18]}{rest >> 58 & 0xF:x}")
        plain = rest & _MASK_58 ^ self._mask_of(tag)
        low, length = plain >> _LENGTH_BITS, plain & (1 << _LENGTH_BITS) - 1
        base = max(0, near - _SPAN // 2)
        offset = base + (low - base) % _SPAN
        genuine = hmac.compare_digest(tag, self._tag_of(context, offset, length))
        return (offset, length) if genuine and low < _SPAN and length > 0 else None

    def _tag_of(self, context: bytes, offset: int, length: int) -> bytes:
        state = self._tag.copy()
        state.update(context + _ADDRESS.pack(offset, length))
        return state.digest()

    def _mask_of(self, tag: bytes) -> int:
        state = self._mask.copy()
        state.update(tag)
        return int.from_bytes(state.digest()) & _MASK_58
