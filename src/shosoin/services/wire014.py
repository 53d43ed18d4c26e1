"""ETSI GS QKD 014 V1.1.1 (2019-02) on the wire: parsing requests, building answers, spelling as in the standard.

The standard knows three error codes: 400, 401 and 503. Everything that is wrong with a request is 400, whatever the
framework would have said. Bodies are JSON whatever their content type claims, because clients in the field do not set
it; unknown members are ignored, because clients in the field add some.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from shosoin.base import Alarm, Denied, Rejected, SaeId, ShosoinError, Unavailable
from shosoin.keys.demands import NO_DEMANDS, Demands
from shosoin.keys.kme import Delivery, KmeStatus
from shosoin.link import LinkFacts
from shosoin.services.extensions014 import parse_extensions

__all__ = [
    "KeyRequest",
    "container_bytes",
    "container_json",
    "error_json",
    "error_of",
    "parse_key_ids",
    "parse_key_request",
    "status_code",
    "status_json",
]

_DIGITS_MAX = 12
_KNOWN_BODY_BYTES_MAX = 512


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A key request; ``None`` where the caller leaves the choice to the KME."""

    number: int
    size_bits: int | None
    additional: tuple[SaeId, ...] = ()
    """Slaves beside the one in the path."""
    mandatory: Demands = NO_DEMANDS
    optional: Demands = NO_DEMANDS


def parse_key_request(body: bytes, query: Mapping[str, str]) -> KeyRequest:
    """Read a key request from a body, or from the query where there is no body.

    Raises:
        Rejected: with the standard's message where it has one.
    """
    if not body:
        return _key_request({name: _query_integer(query, name) for name in query})
    return _parsed(body) if len(body) <= _KNOWN_BODY_BYTES_MAX else _key_request(_object(body))


@lru_cache(maxsize=256)
def _parsed(body: bytes) -> KeyRequest:
    """Read a short body; an SAE asks for the same again and again, and no body of a key request is secret."""
    return _key_request(_object(body))


def _key_request(members: Mapping[str, Any]) -> KeyRequest:
    for name in ("extension_mandatory", "extension_optional", "additional_slave_SAE_IDs"):
        if not isinstance(members.get(name, []), list):
            raise _bad(f"{name} shall be an array")
    number, size = members.get("number", 1), members.get("size")
    if type(number) is not int:
        raise _bad("number shall be an integer")
    if type(size) is not int and "size" in members:
        raise _bad("size shall be an integer")
    return KeyRequest(
        number,
        size,
        additional=_saes(members.get("additional_slave_SAE_IDs", [])),
        mandatory=parse_extensions(members.get("extension_mandatory", []), mandatory=True),
        optional=parse_extensions(members.get("extension_optional", []), mandatory=False),
    )


def _saes(items: list[Any]) -> tuple[SaeId, ...]:
    if not all(isinstance(item, str) for item in items):
        raise _bad("additional_slave_SAE_IDs shall be an array of strings")
    return tuple(dict.fromkeys(SaeId(item) for item in items))


def parse_key_ids(body: bytes, query: Mapping[str, str]) -> list[str]:
    """Read the key_IDs to fetch.

    Raises:
        Rejected: if there is none, or one is not a string.
    """
    if not body:
        if "key_ID" not in query:
            raise _bad("key_ID is missing")
        return [query["key_ID"]]
    items = _object(body).get("key_IDs")
    if not isinstance(items, list) or not items:
        raise _bad("key_IDs shall be a non-empty array")
    key_ids = [item.get("key_ID") if isinstance(item, dict) else None for item in items]
    if not all(isinstance(key_id, str) for key_id in key_ids):
        raise _bad("every item of key_IDs shall have a key_ID string")
    return [str(key_id) for key_id in key_ids]


def status_json(status: KmeStatus) -> bytes:
    """Return a Status."""
    limits, facts = status.limits, status.facts
    extension: dict[str, Any] = {"shosoin_stream_open": status.stream_open}
    if facts is not None:
        extension["shosoin_secret_key_rate_bps"] = round(facts.secret_key_rate_bps, 3)
        extension["shosoin_simulated"] = facts.simulated
        extension["shosoin_source"] = facts.kind
        extension["shosoin_epsilon"] = facts.epsilon
        extension["shosoin_relays"] = []  # keys come from a link of its own: no third party sees them
    return _dump(
        {
            "source_KME_ID": status.source_kme,
            "target_KME_ID": status.target_kme,
            "master_SAE_ID": status.master,
            "slave_SAE_ID": status.slave,
            "key_size": limits.key_size_bits,
            "stored_key_count": status.stored_key_count,
            "max_key_count": status.max_key_count,
            "max_key_per_request": limits.max_key_per_request,
            "max_key_size": limits.max_key_size_bits,
            "min_key_size": limits.min_key_size_bits,
            "max_SAE_ID_count": limits.max_additional_slaves,
            "status_extension": extension,
        }
    )


def container_json(delivery: Delivery) -> bytes:
    """Return a Key container; the key material is taken."""
    # UUIDs and base64 need no escaping, and a request may be for a hundred keys.
    keys = ",".join([f'{{"key_ID":"{key_id}","key":"{material.take_base64()}"}}' for key_id, material in delivery.keys])
    extension = _source(delivery.facts)
    if delivery.age_s is not None:
        extension = f'{extension[:-1]},"shosoin_age_s":{round(delivery.age_s, 3)}}}'
    return f'{{"keys":[{keys}],"key_container_extension":{extension}}}'.encode()


def container_bytes(number: int, total_bytes: int) -> int:
    """Return about how long a Key container is with ``number`` keys of ``total_bytes`` bytes together."""
    return 1024 + 128 * number + total_bytes * 4 // 3


@lru_cache(maxsize=64)
def _source(facts: LinkFacts) -> str:
    source = {"kind": facts.kind, "simulated": facts.simulated, "epsilon": facts.epsilon, "link": facts.to_json()}
    return json.dumps({"shosoin_source": source}, separators=(",", ":"))


def error_json(message: str, details: list[dict[str, Any]] | None = None) -> bytes:
    """Return an Error."""
    return _dump({"message": message, "details": details or []})


def status_code(err: ShosoinError) -> int:
    """Return the HTTP status for an error kind: this edge's only table."""
    if isinstance(err, Rejected):
        return 400
    if isinstance(err, Denied):
        return 401
    return 503


def error_of(err: ShosoinError) -> bytes:
    """Return the Error body for an error."""
    details: list[dict[str, Any]] = [{"shosoin_code": err.code}]
    if isinstance(err, Unavailable) and err.retry_after_s is not None:
        details.append({"retry_after_s": round(err.retry_after_s, 3)})
    message = "a security check failed" if isinstance(err, Alarm) else err.message
    return error_json(message, details)


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        loaded = _JSON.decode(body.removeprefix(BOM_UTF8).decode())
    except (ValueError, RecursionError) as err:
        raise _bad("body shall be a JSON object") from err
    if not isinstance(loaded, dict):
        raise _bad("body shall be a JSON object")
    return loaded


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise _bad("a member of a JSON object is given twice")
    return members


def _no_number(text: str) -> None:
    raise _bad(f"{text} is no JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_number)
"""RFC 8259 to the letter, in UTF-8: of two members of one name nobody knows which one counts."""


def _query_integer(query: Mapping[str, str], name: str) -> Any:
    text = query[name]
    if name not in {"number", "size"}:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        raise _bad(f"{name} shall be an integer")
    return int(text)


def _bad(message: str) -> Rejected:
    return Rejected(message, code="etsi014.bad_request")


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
