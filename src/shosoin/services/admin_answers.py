"""What the calls of administrators answer, as JSON Schemas: the OpenAPI document shows them, and a test compares them.

Every object is closed: a member that is not described here is a mistake, in the answer or in the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["ANSWERS", "Schema"]

Schema = Mapping[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
_TRUTH: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NUMBER: Schema = {"type": "number", "minimum": 0}
_TIME: Schema = {"type": "string", "format": "date-time"}


def _object(members: Mapping[str, Schema], optional: Mapping[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": [*members],
        "properties": {**members, **(optional or {})},
        "additionalProperties": False,
    }


def _each(schema: Schema) -> Schema:
    """Return the schema of an object whose members have names of the configuration."""
    return {"type": "object", "additionalProperties": schema}


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_HEALTH = {
    "kme": _TEXT,
    "ready": _TRUTH,
    "reasons": _list(_object({"code": _TEXT, "message": _TEXT})),
    "links": _each({"type": "string", "enum": ["starting", "refused", "down", "suspended", "dry", "up"]}),
}
_PROCESS = {"site": _TEXT, "pid": _COUNT, "live": _TRUTH, "draining": _TRUTH}
_INTERFACE = _object(
    {
        "connections": _COUNT,
        "connections_max": _COUNT,
        "connections_refused": _COUNT,
        "requests": _each(_object({"answers": _each(_COUNT), "mean_ms": _NUMBER})),
        "refusals": _each(_COUNT),
        "memory": _each(_object({"held_bytes": _COUNT, "total_bytes": _COUNT})),
    }
)
_WORKER = _object({"pid": _COUNT, "connections": _COUNT, "answers": _COUNT})
_WORKERS = _object({"configured": _COUNT, "serving": _COUNT, "restarts": _COUNT, "each": _list(_WORKER)})
_LINK_HEAD = {"refused": _TRUTH, "open": _TRUTH, "connected": _TRUTH}
_DIRECTION = _object(
    {"blocks": _COUNT, "secret_bits": _COUNT, "voids": _each(_COUNT)},
    {"qber": _NUMBER, "test_qber": _NUMBER, "f_ec": _NUMBER, "leak_ec_bits": _COUNT},
)
_DEVICES = _object({}, {"sent": _DIRECTION, "received": _DIRECTION, "broken_sessions": _COUNT, "next_session": _TIME})
_LINK_REST = {
    "key_exchange_group": _TEXT_OR_NULL,
    "generation": _COUNT,
    "outgoing_stock_bits": _COUNT,
    "incoming_held_bits": _COUNT,
    "verification_entries": _COUNT,
    "kind": _TEXT,
    "simulated": _TRUTH,
    "secret_key_rate_bps": _NUMBER,
    "source": _TEXT,
    "suspended": _TRUTH,
    "devices": _DEVICES,
}
_LINK = {
    "oneOf": [
        _object({**_LINK_HEAD, "refused": {"const": True}}, {"reason": _TEXT}),
        _object({**_LINK_HEAD, "refused": {"const": False}, **_LINK_REST}, {"reason": _TEXT}),
    ]
}
_PAIR_REST = {
    "open": _TRUTH,
    "connected": _TRUTH,
    "outgoing_stock_bits": _COUNT,
    "leased_bits": _COUNT,
    "incoming_held_bits": _COUNT,
    "delivered_keys": _object({"outgoing": _COUNT, "incoming": _COUNT}),
}
_PAIR = {
    "oneOf": [
        _object({"paused": _TRUTH, "refused": {"const": True}}),
        _object({"paused": _TRUTH, "refused": {"const": False}, **_PAIR_REST}),
    ]
}
_SAE = _object({"kme": _TEXT, "here": _TRUTH, "revoked": _TRUTH, "connections": _COUNT})
_ENDPOINT = _object(
    {
        "identity": _TEXT_OR_NULL,
        "serial": {"type": "string", "pattern": "^[0-9a-f]+$"},
        "sha256": _TEXT,
        "valid_until": _TIME,
        "authorities": _list(_TEXT),
        "authorities_valid_until": _TIME,
        "refused_files": _TEXT_OR_NULL,
        "crl_required": _TRUTH,
        "crl": _list(_object({"issuer": _TEXT, "revoked": _COUNT, "next_update": _TIME})),
        "refused_crl": _list(_TEXT),
        "renewals": _COUNT,
    }
)
_CERTIFICATES = _object(
    {
        "reloads": _COUNT,
        "time": _TIME,
        "endpoints": _each(_ENDPOINT),
        "revoked": _object({"entries": _COUNT, "refused_file": _TEXT_OR_NULL}),
    }
)
_PAUSED = _object({"peer": _TEXT, "paused": _TRUTH})

ANSWERS: Mapping[str, Schema] = {
    "status": _object({**_HEALTH, **_PROCESS}, {"certificates": _each(_TIME)}),
    "links": _object({"links": _each(_LINK)}),
    "pairs": _object({"pairs": _each(_PAIR)}),
    "saes": _object({"saes": _each(_SAE)}),
    "interfaces": _object({"interfaces": _each(_INTERFACE), "workers": {"oneOf": [{"type": "null"}, _WORKERS]}}),
    "certificates": _CERTIFICATES,
    "openapi": {"type": "object", "required": ["openapi", "info", "paths"]},
    "reload": _CERTIFICATES,
    "stop": _object({"stops_in_s": _NUMBER}),
    "pause": _PAUSED,
    "resume": _PAUSED,
    "burn": _object({"peer": _TEXT, "dry_run": _TRUTH, "blocks": _COUNT, "bits": _COUNT}),
    "lift": _object({"peer": _TEXT, "was_suspended": _TRUTH, "code": _TEXT}),
    "revoke": _object({"sae": _TEXT, "revoked": _TRUTH, "connections_ended": _COUNT}),
}
"""By the name of the call (``shosoin.services.admin_calls``)."""
