"""SKIP, draft-cisco-skip-02, on the wire: what an encryptor asks, how it is answered, spelling as in the draft.

Everything stands in the path and the query of a GET. What the draft's table 2 does not list is 404 or 405 as table 3
says; a parameter that is malformed or given twice is 400 before anything is drawn. Parameters of other names are
ignored. Hexadecimal digits are read in either case and written in lower case.

>>> parse_call("GET", "/key", "remoteSystemID=Bob&size=128")
NewKeyCall(remote='Bob', size_bits=128)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from shosoin.base import Alarm, Denied, Rejected, ShosoinError, Unavailable
from shosoin.keys.errors import KeyDamaged, KeyNotFound, KeyOfAnotherSae
from shosoin.keys.kme import Key
from shosoin.link import LinkFacts

__all__ = [
    "KEY_BITS",
    "Call",
    "CapabilitiesCall",
    "EntropyCall",
    "FetchKeyCall",
    "MethodUnknown",
    "NewKeyCall",
    "PathUnknown",
    "algorithm_of",
    "bad_request",
    "capabilities_json",
    "entropy_json",
    "error_json",
    "error_of",
    "key_bytes",
    "key_json",
    "parse_call",
    "status_code",
]

KEY_BITS = ENTROPY_BITS = 256
"""Lengths that the draft gives what is asked for without one."""
ENTROPY_BITS_MAX = 1 << 16
_DIGITS_MAX = 12
_FIELDS_MAX = 32
_KEY_ID = re.compile(r"[0-9a-f]{32}")


class PathUnknown(Rejected):
    """The path is none of the draft's table 2."""

    code = "skip.path_unknown"


class MethodUnknown(Rejected):
    """The draft knows GET only."""

    code = "skip.method_unknown"


@dataclass(frozen=True, slots=True)
class CapabilitiesCall:
    """``/capabilities``."""


@dataclass(frozen=True, slots=True)
class NewKeyCall:
    """``/key``; without a size 256 bits."""

    remote: str
    size_bits: int


@dataclass(frozen=True, slots=True)
class FetchKeyCall:
    """``/key/{keyId}``, the ID in our own spelling."""

    key_id: str
    remote: str
    size_bits: int | None


@dataclass(frozen=True, slots=True)
class EntropyCall:
    """``/entropy``."""

    size_bytes: int


Call = CapabilitiesCall | NewKeyCall | FetchKeyCall | EntropyCall


def parse_call(method: str, path: str, query: str) -> Call:
    """Read a request from its method, path and query as they came.

    Raises:
        PathUnknown: no such path.
        MethodUnknown: a known path, another method than GET.
        Rejected: a parameter is missing, malformed or given twice.
    """
    name, _, key_id = path.removeprefix("/").partition("/")
    known = path in {"/capabilities", "/entropy", "/key"} or (path.startswith("/key/") and key_id)
    if not known or "/" in key_id:
        raise PathUnknown("unknown path: expected /capabilities, /key, /key/{keyId} or /entropy")
    if method != "GET":
        raise MethodUnknown("only GET is supported")
    given = _parameters(query)
    if name == "capabilities":
        return CapabilitiesCall()
    if name == "entropy":
        return EntropyCall(_entropy_bytes(given))
    size_bits = _bits(given, "size")
    if not path.startswith("/key/"):
        return NewKeyCall(_remote(given), KEY_BITS if size_bits is None else size_bits)
    return FetchKeyCall(_our_key_id(key_id), _remote(given), size_bits)


def capabilities_json(local: str, remotes: Iterable[str], algorithm: str) -> bytes:
    """Return the capabilities of the Key Provider that one encryptor sees."""
    return _dump(
        {
            "entropy": True,
            "key": True,
            "algorithm": algorithm,
            "localSystemID": local,
            "remoteSystemID": list(remotes),
        }
    )


def algorithm_of(facts: Iterable[LinkFacts]) -> str:
    """Return what makes the keys; where several things do, the one that promises least.

    A client need not take more than 16 bytes.
    """
    found = sorted((not each.simulated, each.kind) for each in facts)
    return found[0][1] if found else "local-generator"


def key_json(key: Key) -> bytes:
    """Return a key; the key material is taken."""
    # Hexadecimal digits need no escaping.
    return f'{{"keyId":"{key.key_id.replace("-", "").lower()}","key":"{key.material.take().hex()}"}}'.encode()


def key_bytes(size_bytes: int) -> int:
    """Return about how long the answer with a key of that length is."""
    return 128 + 2 * size_bytes


def entropy_json(sample: bytes) -> bytes:
    """Return a sample of entropy."""
    return _dump({"randomStr": sample.hex(), "minentropy": 8 * len(sample)})


def error_json(message: str, code: str) -> bytes:
    """Return the body of an error; the draft has none."""
    return _dump({"message": message, "code": code})


def status_code(err: ShosoinError) -> int:
    """Return the HTTP status for an error: this edge's only table."""
    if isinstance(err, PathUnknown):
        return 404
    if isinstance(err, MethodUnknown):
        return 405
    if isinstance(err, Rejected | KeyOfAnotherSae):
        return 400
    if isinstance(err, Denied):
        return 403
    return 503 if isinstance(err, Unavailable) and not isinstance(err, KeyDamaged) else 500


def error_of(err: ShosoinError) -> tuple[bytes, dict[str, str]]:
    """Return the body for an error, and the headers beside it."""
    headers: dict[str, str] = {}
    if isinstance(err, MethodUnknown):
        headers["Allow"] = "GET"
    if status_code(err) == 503 and isinstance(err, Unavailable) and err.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(err.retry_after_s))
    if isinstance(err, KeyNotFound | KeyOfAnotherSae):  # whose key it is, is nobody else's business
        return error_json("the key was not found", KeyNotFound.code), headers
    message = "a security check failed" if isinstance(err, Alarm) else err.message
    return error_json(message, err.code), headers


def bad_request(message: str) -> Rejected:
    """Return an error about a parameter."""
    return Rejected(message, code="skip.bad_request")


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_FIELDS_MAX)
    except ValueError as err:  # too many, or not UTF-8
        raise bad_request("the query cannot be read") from err
    given = dict(pairs)
    if len(given) < len(pairs):
        raise bad_request("a query parameter is given twice")
    return given


def _remote(given: dict[str, str]) -> str:
    if not given.get("remoteSystemID"):
        raise bad_request("remoteSystemID is missing")
    return given["remoteSystemID"]


def _bits(given: dict[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        raise bad_request(f"{name} shall be a whole number of bits")
    return int(text)


def _entropy_bytes(given: dict[str, str]) -> int:
    wanted = _bits(given, "minentropy")
    size_bits = ENTROPY_BITS if wanted is None else wanted
    if not 1 <= size_bits <= ENTROPY_BITS_MAX:
        raise bad_request(f"minentropy shall be 1 to {ENTROPY_BITS_MAX} bits")
    return -(-size_bits // 8)


def _our_key_id(key_id: str) -> str:
    digits = key_id.lower()
    if not _KEY_ID.fullmatch(digits):
        raise bad_request("keyId shall be 32 hexadecimal digits")
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
