"""ETSI GS QKD 014 over HTTPS with mutual TLS.

Every path, method and malformed request is answered with 400, 401 or 503 and an Error body, as the standard has no
other codes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from urllib.parse import unquote

from aiohttp import web

from shosoin.adapters.http_parts import PartsPayload
from shosoin.base import KeyMaterial, KmeId, Rejected, SaeId, ShosoinError
from shosoin.base.ports import Clock
from shosoin.keys.demands import NO_DEMANDS, Demands
from shosoin.keys.errors import DemandUnmet, KeyNotFound, RequestInvalid
from shosoin.keys.kme import Admit, Delivery, Key, Kme
from shosoin.services.guarded_connections import ConnectionGuard
from shosoin.services.http_answers import NO_STORE
from shosoin.services.json_log import described, log
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.multicast import Multicast
from shosoin.services.request_tally import RequestTally
from shosoin.services.sae_http import Allowed, Drawing, HttpLimits, LeaseSource, SaeHttp, caller_of
from shosoin.services.tls_listener import TlsListener
from shosoin.services.wire014 import (
    KeyRequest,
    container_bytes,
    container_json,
    error_json,
    error_of,
    parse_key_ids,
    parse_key_request,
    status_code,
    status_json,
)

__all__ = ["Etsi014Http", "Etsi014Service", "HttpLimits", "LeaseSource"]

_PREFIX = "/api/v1/keys/"
_DIRECTIONS = {"status": "outgoing", "enc_keys": "outgoing", "dec_keys": "incoming"}
"""The calls, and which of the two streams with a KME each is about."""
_LONG_ANSWER_BYTES = 256 << 10


class Etsi014Http(ABC):
    """The HTTP side of ETSI GS QKD 014: who calls, what is asked, and how errors are spelled.

    Args:
        home_of: the KME of an SAE, if it is known.
        answers: memory for answers.
    """

    def __init__(
        self, home_of: Callable[[SaeId], KmeId | None], limits: HttpLimits, clock: Clock, answers: MemoryBudget
    ) -> None:
        self._home_of = home_of
        self.tally = RequestTally()
        self._clock = clock
        self._limits = limits
        self._bodies = MemoryBudget(limits.bodies_bytes, code="etsi014.busy")
        self._answers = answers
        self._http = SaeHttp(self._response, self._malformed, self._answers, limits, self.tally)

    async def listen(
        self,
        host: str,
        port: int,
        context: Callable[[], ssl.SSLContext],
        allowed: Allowed | None = None,
        *,
        sockets: Sequence[socket.socket] = (),
    ) -> TlsListener:
        """Start serving; ``context`` is asked for each connection anew, ``sockets`` may listen already."""
        return await self._http.listen(host, port, context, allowed, sockets=sockets)

    @property
    def guard(self) -> ConnectionGuard | None:
        """The connections, once it listens."""
        return self._http.guard

    @property
    def memory(self) -> dict[str, MemoryBudget]:
        """What requests may hold at once, by name."""
        return {"bodies": self._bodies, "answers": self._answers}

    async def _response(self, request: web.BaseRequest, room: Claim) -> web.Response:
        began_s = self._clock.now_s()
        call, peer = self._subject(request)
        body, status, code = await self._outcome(request, room)
        if code:
            self.tally.refused(code, peer, _DIRECTIONS.get(call, ""))
        self.tally.answered(call, status, self._clock.now_s() - began_s)
        return _reply(status, body)

    def _subject(self, request: web.BaseRequest) -> tuple[str, str]:
        """Return, for the counters, what a request asks and about which KME: names of ours, or none."""
        try:
            sae, call = _route(request.rel_url.raw_path)
        except ShosoinError:
            return "other", ""
        return (call if call in _DIRECTIONS else "other"), self._home_of(sae) or ""

    async def _outcome(self, request: web.BaseRequest, room: Claim) -> tuple[bytes, int, str]:
        """Return a body, its status, and the error code if it is one."""
        try:
            with self._bodies.claim() as body_room:
                body = await self._answer(request, body_room, room)
        except ShosoinError as err:
            return error_of(err), status_code(err), err.code
        except TimeoutError:
            return error_json("the request took too long"), 400, "etsi014.slow_request"
        except Exception as err:  # noqa: BLE001  # the last line of defence of this process
            log("etsi014.defect", **described(err))
            return error_json("the KME failed to handle the request"), 503, "etsi014.defect"
        return body, 200, ""

    def _malformed(self, status: int) -> web.Response:
        answer = 503 if status >= 500 else 400
        self.tally.refused("etsi014.malformed")
        self.tally.answered("other", answer, 0.0)  # the parser refused it at once
        return _reply(answer, error_json("not a well-formed HTTP request"))

    async def _answer(self, request: web.BaseRequest, body_room: Claim, room: Claim) -> bytes:
        caller = caller_of(request)
        sae, call = _route(request.rel_url.raw_path)
        if call not in _DIRECTIONS:
            raise _bad("unknown path: expected /api/v1/keys/{SAE_ID}/status, enc_keys or dec_keys")
        if request.method not in ({"GET"} if call == "status" else {"GET", "POST"}):
            raise _bad(f"method {request.method[:16]} is not defined for {call}")
        body = await self._body(request, caller, body_room)
        query = {} if call == "status" else _query(request)
        return await self.act(caller, sae, call, body, query, room)

    @abstractmethod
    async def act(
        self, caller: SaeId, sae: SaeId, call: str, body: bytes, query: Mapping[str, str], room: Claim
    ) -> bytes:
        """Do what is asked and return the body of the answer; ``room`` is for its memory."""

    async def _body(self, request: web.BaseRequest, caller: SaeId, room: Claim) -> bytes:
        if not request.body_exists:
            return b""
        if request.content.is_eof() and request.content.total_bytes <= self._limits.body_bytes:
            room.take(caller, request.content.total_bytes)
            return request.content.read_nowait()  # it came with the headers, as nearly all do
        if (request.content_length or 0) > self._limits.body_bytes:
            raise _bad(f"body is longer than {self._limits.body_bytes} bytes")
        length = request.content_length
        room.take(caller, self._limits.body_bytes if length is None else length)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        async with asyncio.timeout(self._limits.request_timeout_s):
            try:
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > self._limits.body_bytes:
                        raise _bad(f"body is longer than {self._limits.body_bytes} bytes")
            except (web.RequestPayloadError, ConnectionError) as err:
                raise _bad("body cannot be read") from err
        return bytes(body)


class Etsi014Service(Etsi014Http):
    """ETSI GS QKD 014 of a KME in this process."""

    def __init__(self, kme: Kme, leases: LeaseSource, limits: HttpLimits, clock: Clock, multicast: Multicast) -> None:
        super().__init__(kme.home_of, limits, clock, MemoryBudget(limits.answers_bytes, code="etsi014.busy"))
        self._kme = kme
        self._multicast = multicast
        self._drawing = Drawing(kme, leases, clock, limits.lease_timeout_s)

    async def act(
        self, caller: SaeId, sae: SaeId, call: str, body: bytes, query: Mapping[str, str], room: Claim
    ) -> bytes:
        """Ask the KME."""
        if call == "status":
            return status_json(self._kme.status(caller, sae))

        def admit(number: int, total_bytes: int) -> None:
            room.take(caller, container_bytes(number, total_bytes))

        if call == "enc_keys":
            return container_json(await self._enc_keys(caller, sae, parse_key_request(body, query), admit))
        return container_json(await self._dec_keys(caller, sae, parse_key_ids(body, query), admit))

    async def _enc_keys(self, caller: SaeId, slave: SaeId, wanted: KeyRequest, admit: Admit) -> Delivery:
        size_bits = wanted.size_bits
        if size_bits is None:
            size_bits = self._kme.policies.of(caller, slave).limits.key_size_bits

        async def draw(demands: Demands) -> Delivery:
            if wanted.additional:
                slaves = tuple(dict.fromkeys((slave, *wanted.additional)))
                return await self._multicast.draw(caller, slaves, wanted.number, size_bits, admit, demands)
            return await self._drawing.draw(caller, slave, wanted.number, size_bits, admit, demands)

        if wanted.optional != NO_DEMANDS:
            with suppress(DemandUnmet):  # what is optional may be left undone
                return await draw(wanted.mandatory.and_also(wanted.optional))
        return await draw(wanted.mandatory)

    async def _dec_keys(self, caller: SaeId, master: SaeId, key_ids: list[str], admit: Admit) -> Delivery:
        if not self._multicast.holds_any(master, key_ids):
            try:
                return self._kme.dec_keys(caller, master, key_ids, admit)
            except KeyNotFound:
                self._multicast.require_indexed()  # else nobody can say that a key is not there
                raise
        return await self._dec_copies(caller, master, key_ids, admit)

    async def _dec_copies(self, caller: SaeId, master: SaeId, key_ids: list[str], admit: Admit) -> Delivery:
        """Fetch keys of which some or all were drawn for several slaves."""
        self._kme.require_own(caller)
        if len(key_ids) > self._kme.limits.max_key_per_request:
            raise RequestInvalid(f"number of key_IDs shall be 1 to {self._kme.limits.max_key_per_request}")
        holds = self._multicast.holds
        copies = self._multicast.check(caller, master, [one for one in key_ids if holds(master, one)])
        rest = [one for one in key_ids if not holds(master, one)]
        held_bytes = sum(copy.length_bytes for copy in copies)
        admit(len(copies), held_bytes)
        facts = self._kme.facts_of(master)

        def fetch_rest() -> dict[str, Key]:
            if not rest:
                return {}
            others = self._kme.dec_keys(caller, master, rest, lambda n, size: admit(n + len(copies), size + held_bytes))
            return {key.key_id: key for key in others.keys}

        taken, keys = await self._multicast.take(copies, fetch_rest)
        for copy, bits in zip(copies, taken, strict=True):
            keys[copy.key_id] = Key(copy.key_id, KeyMaterial(bits))
            bits[:] = bytes(len(bits))
        self._kme.fetched[master, caller].add(len(copies), held_bytes * 8)
        in_order = tuple(keys[one] if one in keys else keys[one.lower()] for one in key_ids)
        simulated = facts.simulated or any(copy.simulated for copy in copies)
        return Delivery(in_order, replace(facts, kind="multicast", epsilon=None, simulated=simulated))


@lru_cache(maxsize=1024)
def _route(raw_path: str) -> tuple[SaeId, str]:
    parts = raw_path[len(_PREFIX) :].split("/") if raw_path.startswith(_PREFIX) else []
    if len(parts) != 2:
        raise _bad("unknown path: expected /api/v1/keys/{SAE_ID}/status, enc_keys or dec_keys")
    try:
        return SaeId(unquote(parts[0], errors="strict")), parts[1]
    except UnicodeDecodeError as err:
        raise _bad("SAE_ID is not UTF-8") from err


def _query(request: web.BaseRequest) -> Mapping[str, str]:
    if not request.rel_url.raw_query_string:
        return {}
    query = request.rel_url.query
    if len(set(query)) < len(query):
        raise _bad("a query parameter is given twice")
    return query


def _reply(status: int, body: bytes) -> web.Response:
    # In one piece a long answer would go to the transport's buffer whole, and nothing would wait for a slow client.
    content = body if len(body) < _LONG_ANSWER_BYTES else PartsPayload((body,))
    return web.Response(status=status, body=content, headers=NO_STORE)


def _bad(message: str) -> Rejected:
    return Rejected(message, code="etsi014.bad_request")
