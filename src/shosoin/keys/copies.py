"""Multicast keys on their way: one authenticated record with one padded copy for each KME that serves a slave.

A key for several slaves cannot be a slice of one stream. Its bits come from the master's KME, and every other KME gets
a copy under bits of the stream that leads to it: 32 bytes key a one-time MAC over the whole record, the rest pads the
copy. Both are one key of that stream, drawn by one KME for the other, so that all its rules hold: used once, by these
two, over crashes and restored copies.

Record::

    length of head (4 bytes) | head (JSON) | padded keys, one after the other | tag (16 bytes)

Security: secrecy and authenticity of the copy are information-theoretic, as far as the stream's bits are.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shosoin.base import KmeId, Rejected, SaeId
from shosoin.kernels import polynomial_mac
from shosoin.keys.errors import PairProtocolError

__all__ = ["COPY_BYTES_MAX", "CopyHead", "HeldCopy", "open_copies", "pad_bytes", "read_head", "seal_copies"]

COPY_BYTES_MAX = 1 << 20
"""Bits of all keys of one request, in bytes."""
_KEYS_MAX = 4096
_SLAVES_MAX = 256
_HEAD_BYTES_MAX = 1 << 20
_MAC_KEY_BYTES, _TAG_BYTES = 32, 16
_LENGTH = struct.Struct(">I")
_PREFIX = struct.Struct(">8sQ")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class CopyHead:
    """What a record says about the keys in it."""

    master: SaeId
    slaves: tuple[SaeId, ...]
    """Those of the receiving KME."""
    key_ids: tuple[str, ...]
    length_bytes: int
    """Of each key."""
    pad_id: str
    """The key of the stream that authenticates and pads the record."""
    simulated: bool
    """Whether a link that any of the copies travels over is simulated."""


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """A key that a slave of this KME may fetch."""

    key_id: str
    slave: SaeId
    master: SaeId
    peer: KmeId
    """KME of the master."""
    born_s: float
    length_bytes: int
    named: frozenset[SaeId]
    """All SAEs of this KME that the key was drawn for."""
    bits: bytes | bytearray = field(default=b"", repr=False)
    simulated: bool = True
    """Whether one of the links that copies of the key travelled over is simulated."""

    @property
    def place(self) -> tuple[KmeId, str, SaeId]:
        """What names the copy: peers choose key_IDs, and one could choose another's."""
        return self.peer, self.key_id, self.slave


def pad_bytes(number: int, length_bytes: int) -> int:
    """Return how long the key must be that a record needs."""
    return _MAC_KEY_BYTES + number * length_bytes


def seal_copies(head: CopyHead, keys: Sequence[bytes | bytearray], pad: bytearray) -> bytes:
    """Return the record; the pad is zeroed."""
    raw = json.dumps(
        {
            "master": head.master,
            "slaves": head.slaves,
            "key_ids": head.key_ids,
            "length_bytes": head.length_bytes,
            "pad_id": head.pad_id,
            "simulated": head.simulated,
        },
        separators=(",", ":"),
    ).encode()
    content = _LENGTH.pack(len(raw)) + raw + _xor(b"".join(keys), pad[_MAC_KEY_BYTES:])
    tag = _tag(pad, content)
    pad[:] = bytes(len(pad))
    return content + tag


def read_head(record: bytes) -> CopyHead:
    """Read what a record claims; believe none of it before ``open_copies``.

    Raises:
        PairProtocolError: if it is no record.
    """
    try:
        (length,) = _LENGTH.unpack_from(record)
        if length > _HEAD_BYTES_MAX:
            raise PairProtocolError(f"head of {length} bytes")
        found = json.loads(record[_LENGTH.size : _LENGTH.size + length])
        head = _head(found)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, Rejected) as err:
        raise PairProtocolError("not a record of multicast keys") from err
    if len(record) != _LENGTH.size + length + len(head.key_ids) * head.length_bytes + _TAG_BYTES:
        raise PairProtocolError("a record of multicast keys has the wrong length")
    return head


def open_copies(head: CopyHead, record: bytes, pad: bytearray) -> list[bytearray]:
    """Return the keys of a record whose tag is right; the pad is zeroed.

    Raises:
        PairProtocolError: if it is not: somebody else wrote or changed it.
    """
    content, tag = record[:-_TAG_BYTES], record[-_TAG_BYTES:]
    try:
        if not hmac.compare_digest(tag, _tag(pad, content)):
            raise PairProtocolError("a record of multicast keys fails its authentication")
        start = len(content) - len(head.key_ids) * head.length_bytes
        plain = bytearray(_xor(content[start:], pad[_MAC_KEY_BYTES:]))
    finally:
        pad[:] = bytes(len(pad))
    size = head.length_bytes
    keys = [plain[place * size : (place + 1) * size] for place in range(len(head.key_ids))]
    plain[:] = bytes(len(plain))
    return keys


def _head(found: Any) -> CopyHead:
    slaves, key_ids, length = found["slaves"], found["key_ids"], found["length_bytes"]
    right = (
        isinstance(slaves, list)
        and isinstance(key_ids, list)
        and 1 <= len(slaves) <= _SLAVES_MAX
        and 1 <= len(key_ids) <= _KEYS_MAX
        and len(set(key_ids)) == len(key_ids)
        and all(isinstance(key_id, str) and _UUID.fullmatch(key_id) for key_id in key_ids)
        and type(length) is int
        and type(found["simulated"]) is bool
        and 1 <= length * len(key_ids) <= COPY_BYTES_MAX
    )
    if not right:
        raise ValueError("fields out of range")
    names = tuple(SaeId(_text(slave)) for slave in slaves)
    master, pad_id = SaeId(_text(found["master"])), _text(found["pad_id"])
    return CopyHead(master, names, tuple(key_ids), length, pad_id, found["simulated"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004  # what its caller takes for a wrong record
    return value


def _tag(pad: bytearray, content: bytes) -> bytes:
    prefix = _PREFIX.pack(b"shosmult", len(content))
    return polynomial_mac(pad[:_MAC_KEY_BYTES], prefix + content + bytes(-len(content) % 16))


def _xor(left: bytes | bytearray, right: bytes | bytearray) -> bytes:
    return (np.frombuffer(left, np.uint8) ^ np.frombuffer(right, np.uint8)).tobytes()
