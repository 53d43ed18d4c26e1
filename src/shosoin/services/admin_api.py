"""The interface of a KME's administrators: JSON over HTTP under mutual TLS 1.3, with port and authority of its own.

Who calls is who the certificate says, ``urn:shosoin:admin:<id>``; what they may do is in ``[admin.roles]``. Every call
is recorded, allowed or not (``shosoin.adapters.admin_log``): one that changes something before it is carried out and
again with its outcome. What cannot be recorded is not done.

A browser would show an administrator's certificate to any page that asks, so whatever changes something has to be
declared as JSON: a page of somebody else's cannot do that without asking first, and asking is not answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from shosoin.adapters.admin_log import AdminLog
from shosoin.adapters.tls import Identity
from shosoin.base import Denied, Rejected, SaeId, ShosoinError, Unavailable
from shosoin.base.ports import Clock
from shosoin.keys.errors import QuotaExceeded
from shosoin.keys.quota import Quota
from shosoin.services.admin_actions import AdminActions, AdminTarget
from shosoin.services.admin_calls import AdminCall, BadMethod, NotThere, find_call
from shosoin.services.admin_config import AdminRole, AdminSection
from shosoin.services.guarded_connections import ConnectionGuard, identity_of
from shosoin.services.http_answers import answer, json_response, refusal
from shosoin.services.json_log import described, log
from shosoin.services.tls_listener import TlsListener, listen_tls
from shosoin.services.tls_plane import TlsPlane

__all__ = ["ADMIN_LOG_FOLDER", "AdminApi"]

ADMIN_LOG_FOLDER = "admin-log"
_BODY_BYTES_MAX = 4096
_BURST = 10.0
"""Calls at once, in seconds of the steady rate."""
_UNKNOWN = Identity("unknown", "")
"""Whoever has a certificate of the administrators' authority that names nobody."""
_STATUS = ((NotThere, 404), (BadMethod, 405), (QuotaExceeded, 429), (Rejected, 400), (Denied, 403), (Unavailable, 503))
"""All others are 500: alarms, defects."""


class AdminApi:
    """Serves administrators until it is stopped."""

    def __init__(self, target: AdminTarget, section: AdminSection, plane: TlsPlane, clock: Clock) -> None:
        self._section, self._plane = section, plane
        self._log = AdminLog(
            target.config.kme.directory / ADMIN_LOG_FOLDER,
            clock,
            file_bytes=section.audit_file_bytes,
            files=section.audit_files,
        )
        self._actions = AdminActions(target, clock)
        self._quota = Quota(clock, rate_bps=section.calls_per_s, burst_bits=max(1.0, section.calls_per_s * _BURST))
        self._limited: set[str] = set()
        """Callers whose excess is recorded already."""
        self._turn = asyncio.Lock()
        self.guard: ConnectionGuard | None = None
        self.port = 0
        """Where it listens."""

    async def start(self) -> TlsListener:
        """Listen."""
        section = self._section
        manager = web.Server(self._handle)

        def connect() -> RequestHandler:
            return _Connection(
                manager,
                loop=asyncio.get_running_loop(),
                access_log=None,  # type: ignore[arg-type]  # which means that there is none
                keepalive_timeout=section.idle_timeout_s,
                auto_decompress=False,
            )

        self.guard = ConnectionGuard(
            connect, section.max_connections, section.idle_timeout_s, who=_name_of, allowed=self._plane.admit
        )
        listener = await listen_tls(self.guard, self._plane.server_context, section.host, section.port)
        self.port = listener.port
        log("admin.listening", host=section.host, port=self.port, remote=section.allow_remote, head=self._log.head)
        return listener

    async def stop(self) -> None:
        """End every connection."""
        self._actions.close()
        if self.guard is not None:
            await self.guard.end_all()
        async with self._turn:
            self._log.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        return await answer(request, self._response)

    async def _response(self, request: web.BaseRequest) -> web.Response:
        try:
            who = identity_of(request.transport) or _UNKNOWN
            return json_response(200, await self._answer(request, who))
        except ShosoinError as err:
            status = next((status for kind, status in _STATUS if isinstance(err, kind)), 500)
            response = refusal(status, {"code": err.code, "message": err.message, "hint": err.hint})
            if isinstance(err, BadMethod):
                response.headers["Allow"] = err.allowed
            return response
        except Exception as err:  # noqa: BLE001  # whoever administers must not be able to end the KME by a defect
            log("admin.defect", **described(err))
            return refusal(500, {"code": "admin.defect", "message": "internal error", "hint": "see the KME's log"})

    async def _answer(self, request: web.BaseRequest, who: Identity) -> dict[str, Any]:
        name, roles = f"{who.role}:{who.id}", self._roles_of(who)
        entry: dict[str, Any] = {"who": name, "roles": sorted(roles)}
        await self._check_rate(name, entry)
        call = None
        try:
            call, subject = find_call(request.method, request.rel_url.raw_path)
            entry = {**entry, "call": call.name, "on": subject[:64]}
            if call.role not in roles:
                raise Denied(f"{name} is no {call.role.value}", code="admin.denied", hint="roles are in [admin.roles]")
            body = await self._body(request, call)
        except ShosoinError as err:
            told = {"call": f"{request.method[:8]} {request.rel_url.raw_path[:100]}", **entry}
            await self._record({**told, "result": "refused", "code": err.code})
            raise
        return await self._carried_out(call, subject, body, who.id, entry)

    async def _carried_out(
        self, call: AdminCall, subject: str, body: Mapping[str, Any], who: str, entry: dict[str, Any]
    ) -> dict[str, Any]:
        if call.changes:
            await self._record({**entry, "with": dict(body), "result": "begun"})
        try:
            answer = await self._actions.do(call, subject, body, who)
        except ShosoinError as err:
            await self._record({**entry, "result": "failed", "code": err.code})
            raise
        except Exception:
            await self._record({**entry, "result": "failed", "code": "admin.defect"})
            raise
        await self._record({**entry, "result": "done"})
        return answer

    def _roles_of(self, who: Identity) -> frozenset[AdminRole]:
        return self._section.roles.get(who.id, frozenset()) if who.role == "admin" else frozenset()

    async def _check_rate(self, name: str, entry: dict[str, Any]) -> None:
        """Refuse who calls too often; recorded once, or it would fill the record."""
        bucket = SaeId(hashlib.sha256(name.encode()).hexdigest())  # whatever the name, in the form of an id
        try:
            self._quota.check(bucket, 1)
        except QuotaExceeded as err:
            if name not in self._limited:
                self._limited.add(name)
                await self._record({"call": "", **entry, "result": "refused", "code": "admin.too_many_calls"})
            raise QuotaExceeded("too many calls", code="admin.too_many_calls", retry_after_s=err.retry_after_s) from err
        self._limited.discard(name)
        self._quota.spend(bucket, 1)

    async def _body(self, request: web.BaseRequest, call: AdminCall) -> dict[str, Any]:
        if not call.changes:
            return {}
        if request.content_type != "application/json":
            raise Rejected("the content type must be application/json", code="admin.bad_request")
        body = bytearray()
        try:
            async with asyncio.timeout(self._section.idle_timeout_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > _BODY_BYTES_MAX:
                        raise Rejected(f"body is longer than {_BODY_BYTES_MAX} bytes", code="admin.bad_request")
        except (web.RequestPayloadError, ConnectionError, TimeoutError) as err:
            raise Rejected("body cannot be read", code="admin.bad_request") from err
        return _members(bytes(body), call)

    async def _record(self, entry: dict[str, Any]) -> None:
        async with self._turn:
            line = await asyncio.to_thread(self._log.append, entry)
        told = {name: value for name, value in line.items() if name not in {"time", "previous", "who"}}
        log("admin.call", caller=line["who"], **told)


class _Connection(RequestHandler):
    """One connection, which answers in JSON what the HTTP parser refuses: that is no call of anybody."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer; what the parser says of it may quote the request."""
        words = "internal error" if status >= 500 else "not a well-formed HTTP request"
        code = "admin.defect" if status >= 500 else "admin.bad_request"
        return refusal(500 if status >= 500 else 400, {"code": code, "message": words, "hint": ""})


def _members(raw: bytes, call: AdminCall) -> dict[str, Any]:
    try:
        found = json.loads(raw or b"{}", parse_constant=float)
    except (ValueError, RecursionError) as err:
        raise Rejected("body is not JSON", code="admin.bad_request") from err
    unknown = [name for name in found if name not in call.body] if isinstance(found, dict) else None
    if unknown is None or unknown:
        known = ", ".join(call.body) or "none"
        raise Rejected("body has members that are not defined", code="admin.bad_request", hint=f"defined are: {known}")
    for name, value in found.items():
        if not _is_of(value, call.body[name]):
            raise Rejected(f"{name} must be {_words(call.body[name])}", code="admin.bad_request")
    return dict(found)


def _is_of(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value is what a call defines; only then can it be in the record."""
    if schema["type"] == "string":
        return isinstance(value, str) and len(value) <= schema["maxLength"] and _is_line(value, schema["pattern"])
    if schema["type"] == "boolean":
        return isinstance(value, bool)
    # ``type``: a truth value is no number. What is not finite is not within bounds.
    return (type(value) is int or type(value) is float) and schema["minimum"] <= value <= schema["maximum"]


def _is_line(text: str, pattern: str) -> bool:
    half = any("\ud800" <= letter <= "\udfff" for letter in text)  # which JSON can say and no file can hold
    return not half and re.fullmatch(pattern, text) is not None


def _words(schema: Mapping[str, Any]) -> str:
    if schema["type"] == "string":
        return f"a line of at most {schema['maxLength']} characters, none of which controls a terminal"
    if schema["type"] == "boolean":
        return "true or false"
    return f"{schema['minimum']:g} to {schema['maximum']:g}"


def _name_of(transport: asyncio.Transport) -> str:
    identity = identity_of(transport)
    return f"{identity.role}:{identity.id}" if identity is not None else ""
