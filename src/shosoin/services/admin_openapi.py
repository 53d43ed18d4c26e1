"""The OpenAPI 3.1 document of the admin interface, made from the table of calls."""

from __future__ import annotations

import json
from typing import Any

from shosoin.services.admin_answers import ANSWERS
from shosoin.services.admin_calls import CALLS, PREFIX, AdminCall

__all__ = ["openapi_document", "openapi_text"]

_ID = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
_REFUSALS = {
    "400": "The request is wrong.",
    "403": "The caller has not the role that it takes.",
    "405": "The path is for another method, which `Allow` names.",
    "429": "Too many calls of one administrator.",
    "500": "A defect of the KME, which its log describes, or the alarm that `code` names.",
    "503": "Not possible now.",
}


def openapi_document() -> dict[str, Any]:
    """Return the document."""
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(PREFIX + call.path, {})[call.method.lower()] = _operation(call)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Administration of a Shosoin KME",
            "version": "1",
            "description": "Mutual TLS 1.3; the role of the caller follows from its certificate. Every path and every "
            "method is answered with JSON, an error with an Error; a path that is not here is 404.",
        },
        "security": [{"administrator_certificate": []}],
        "paths": paths,
        "components": {
            "schemas": {"Error": _error()},
            "securitySchemes": {"administrator_certificate": {"type": "mutualTLS"}},
        },
    }


def openapi_text() -> str:
    """Return the document as the file in ``docs/reference`` has it."""
    return json.dumps(openapi_document(), indent=2) + "\n"


def _operation(call: AdminCall) -> dict[str, Any]:
    refusals = {**_REFUSALS, "404": f"No such {call.target}."} if call.target else _REFUSALS
    operation: dict[str, Any] = {
        "operationId": call.name,
        "summary": call.summary,
        "x-role": call.role.value,
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": dict(ANSWERS[call.name])}}},
            **{status: _refusal(status, words) for status, words in sorted(refusals.items())},
        },
    }
    if call.target:
        operation["parameters"] = [
            {"name": "id", "in": "path", "required": True, "description": call.target, "schema": _ID}
        ]
    if call.changes:
        schema = {"type": "object", "properties": dict(call.body), "additionalProperties": False}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _refusal(status: str, words: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    refusal: dict[str, Any] = {"description": words, "content": {"application/json": {"schema": schema}}}
    if status == "405":
        refusal["headers"] = {"Allow": {"required": True, "schema": {"type": "string"}}}
    return refusal


def _error() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["code", "message", "hint"],
        "properties": {"code": text, "message": text, "hint": text},
        "additionalProperties": False,
    }
