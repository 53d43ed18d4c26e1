"""The envelope: one request or answer between an owner and a share node.

::

    u32 header length (little-endian) | header (JSON) | payload | tag (0 or 16 bytes)

The header is not confidential inside TLS: it names objects, ranges and key_IDs, which promise 1 lets an observer see.
Whatever could tell about content (shares, digests) travels in the payload, sealed by the transfer class.
The tag covers header and payload. This module only cuts and joins; sealing is in ``sealing``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shosoin.base import PeerFault, Rejected
from shosoin.vault.ports import Buffer

__all__ = [
    "HEADER_BYTES_MAX",
    "MalformedEnvelope",
    "Parts",
    "SharedJson",
    "canonical_json",
    "cut",
    "join",
    "parse_json",
    "request_header",
]

HEADER_BYTES_MAX = 4 << 20
_PREFIX_BYTES = 4
_DEPTH_MAX = 12


class MalformedEnvelope(PeerFault):
    """Bytes that are not an envelope."""

    code = "vault.malformed_envelope"


@dataclass(frozen=True, slots=True)
class Parts:
    """An envelope cut into views."""

    header: memoryview
    sealed: memoryview
    """Payload and, at its end, the tag."""


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
"""Made once: ``json.dumps`` would make an encoder for every call."""


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes."""
    return _encode(value).encode()


class SharedJson(dict[str, Any]):
    """An object that goes to several receivers and is encoded once: nobody changes it after that."""

    __slots__ = ("_encoded",)

    @property
    def encoded(self) -> bytes:
        """Its canonical form."""
        try:
            return self._encoded
        except AttributeError:
            self._encoded: bytes = canonical_json(self)
            return self._encoded


def request_header(
    class_: str, sender: str, receiver: str, operations: Sequence[Any], auth: Mapping[str, Any]
) -> bytes:
    """Return the canonical header of a request."""
    before = canonical_json({"auth": auth, "class": class_, "from": sender})
    after = canonical_json({"to": receiver, "v": 1})
    ops = b",".join(op.encoded if type(op) is SharedJson else canonical_json(op) for op in operations)
    return b"".join((before[:-1], b',"ops":[', ops, b"],", after[1:]))


def parse_json(raw: Buffer) -> dict[str, Any]:
    """Read a JSON object from outside.

    Raises:
        MalformedEnvelope: not JSON, not an object, nested too deep, or numbers that are not finite.
    """
    try:
        text = bytes(raw).decode()  # json.loads would guess at UTF-16 and let half surrogate pairs through
        value = _decode(text)
    except (ValueError, RecursionError):
        raise MalformedEnvelope("not valid JSON") from None
    if not isinstance(value, dict) or _depth(value) > _DEPTH_MAX:
        raise MalformedEnvelope("expected a JSON object of moderate depth")
    if "\\u" in text and not _is_unicode(value):
        raise MalformedEnvelope("text that is not valid Unicode")
    return value


def _finite(digits: str) -> float:
    """Return a number; 1e999 would be an infinity."""
    number = float(digits)
    if not math.isfinite(number):
        raise MalformedEnvelope("a number that is not finite")
    return number


def _refuse(constant: str) -> None:
    raise MalformedEnvelope(f"JSON constant {constant} is not allowed")


_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode


def _is_unicode(value: dict[str, Any]) -> bool:
    """Whether no string holds half a surrogate pair (JSON's escapes can make one)."""
    try:
        canonical_json(value)
    except ValueError:
        return False
    return True


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _DEPTH_MAX:
        depth += 1
        inside = [inner for item in level for inner in (item.values() if type(item) is dict else item)]
        level = [inner for inner in inside if type(inner) is dict or type(inner) is list]
    return depth


def join(header: bytes, payload: list[Buffer], tag: bytes) -> list[Buffer]:
    """Return the parts to send, in order."""
    if len(header) > HEADER_BYTES_MAX:
        raise Rejected(f"envelope header of {len(header)} bytes, at most {HEADER_BYTES_MAX}")
    return [len(header).to_bytes(_PREFIX_BYTES, "little"), header, *payload, *([tag] if tag else [])]


def cut(body: Buffer) -> Parts:
    """Cut received bytes.

    Raises:
        MalformedEnvelope: too short or header length out of bounds.
    """
    view = memoryview(body)
    if len(view) < _PREFIX_BYTES:
        raise MalformedEnvelope(f"envelope of {len(view)} bytes is too short")
    size = int.from_bytes(view[:_PREFIX_BYTES], "little")
    if size > HEADER_BYTES_MAX or _PREFIX_BYTES + size > len(view):
        raise MalformedEnvelope(f"header length {size} does not fit an envelope of {len(view)} bytes")
    end = _PREFIX_BYTES + size
    return Parts(view[_PREFIX_BYTES:end], view[end:])
