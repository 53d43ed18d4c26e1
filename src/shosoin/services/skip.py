"""SKIP, the Secure Key Integration Protocol (draft-cisco-skip-02), over HTTPS with mutual TLS.

A router that encrypts fetches keys here, from the same streams and under the same rules as an SAE does by ETSI GS QKD
014: for the KME it *is* an SAE, the one its certificate names. To each encryptor the KME looks like a Key Provider of
its own, whose system ID is the encryptor's; so a key is for one encryptor, and not for all that the other KME serves.
Pre-shared keys instead of certificates are not offered.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping

from aiohttp import web

from shosoin.adapters.http_parts import PartsPayload
from shosoin.base import Entropy, SaeId, ShosoinError, SystemId
from shosoin.base.ports import Clock
from shosoin.keys.errors import KeyNotFound
from shosoin.keys.kme import Kme
from shosoin.services.guarded_connections import ConnectionGuard
from shosoin.services.http_answers import NO_STORE
from shosoin.services.json_log import described, log
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.request_tally import RequestTally
from shosoin.services.sae_http import Allowed, Drawing, HttpLimits, LeaseSource, SaeHttp, caller_of
from shosoin.services.tls_listener import TlsListener
from shosoin.services.wire_skip import (
    Call,
    CapabilitiesCall,
    EntropyCall,
    FetchKeyCall,
    NewKeyCall,
    algorithm_of,
    bad_request,
    capabilities_json,
    entropy_json,
    error_json,
    error_of,
    key_bytes,
    key_json,
    parse_call,
    status_code,
)

__all__ = ["SkipService"]

_LONG_ANSWER_BYTES = 256 << 10
_METHODS: dict[type[Call], str] = {
    CapabilitiesCall: "capabilities",
    EntropyCall: "entropy",
    NewKeyCall: "new_key",
    FetchKeyCall: "fetch_key",
}


class SkipService:
    """The Key Providers that a KME is to its encryptors.

    Args:
        systems: the SAE of every system ID.
    """

    def __init__(
        self,
        kme: Kme,
        systems: Mapping[SystemId, SaeId],
        entropy: Entropy,
        leases: LeaseSource,
        limits: HttpLimits,
        clock: Clock,
    ) -> None:
        self._kme = kme
        self._sae_of = {str(system): sae for system, sae in systems.items()}
        self._system_of = {sae: system for system, sae in systems.items()}
        self._entropy = entropy
        self._drawing = Drawing(kme, leases, clock, limits.lease_timeout_s)
        self._clock = clock
        self.tally = RequestTally()
        self._answers = MemoryBudget(limits.answers_bytes, code="skip.busy")
        self._http = SaeHttp(self._response, self._malformed, self._answers, limits, self.tally)

    async def listen(
        self, host: str, port: int, context: Callable[[], ssl.SSLContext], allowed: Allowed | None = None
    ) -> TlsListener:
        """Start serving; ``context`` is asked for each connection anew."""
        return await self._http.listen(host, port, context, allowed)

    @property
    def guard(self) -> ConnectionGuard | None:
        """The connections, once it listens."""
        return self._http.guard

    @property
    def memory(self) -> dict[str, MemoryBudget]:
        """What requests may hold at once, by name."""
        return {"answers": self._answers}

    async def _response(self, request: web.BaseRequest, room: Claim) -> web.Response:
        began_s = self._clock.now_s()
        response = await self._outcome(request, room)
        self.tally.answered(_method(request), response.status, self._clock.now_s() - began_s)
        return response

    async def _outcome(self, request: web.BaseRequest, room: Claim) -> web.Response:
        try:
            body = await self._answer(request, room)
        except ShosoinError as err:
            self.tally.refused(err.code, *self._subject(request))
            text, headers = error_of(err)
            return _reply(status_code(err), text, headers)
        except Exception as err:  # noqa: BLE001  # the last line of defence of this process
            log("skip.defect", **described(err))
            self.tally.refused("skip.defect")
            return _reply(500, error_json("the Key Provider failed to handle the request", "skip.defect"))
        return _reply(200, body)

    def _malformed(self, status: int) -> web.Response:
        answer = 500 if status >= 500 else 400
        self.tally.refused("skip.malformed")
        self.tally.answered("other", answer, 0.0)  # the parser refused it at once
        return _reply(answer, error_json("not a well-formed HTTP request", "skip.bad_request"))

    def _subject(self, request: web.BaseRequest) -> tuple[str, str]:
        """Return, for the counters, which stream a request is about: names of ours, or none."""
        try:
            call = parse_call(request.method, request.rel_url.raw_path, request.rel_url.raw_query_string)
        except ShosoinError:
            return "", ""
        if not isinstance(call, NewKeyCall | FetchKeyCall) or call.remote not in self._sae_of:
            return "", ""
        direction = "outgoing" if isinstance(call, NewKeyCall) else "incoming"
        return self._kme.home_of(self._sae_of[call.remote]) or "", direction

    async def _answer(self, request: web.BaseRequest, room: Claim) -> bytes:
        caller = caller_of(request)
        self._kme.require_own(caller)
        url = request.rel_url
        call = parse_call(request.method, url.raw_path, url.raw_query_string)
        if request.body_exists:
            raise bad_request("no request has a body")
        return await self._serve(caller, call, room)

    async def _serve(self, caller: SaeId, call: Call, room: Claim) -> bytes:
        match call:
            case CapabilitiesCall():
                return self._capabilities(caller)
            case EntropyCall(size_bytes):
                room.take(caller, key_bytes(size_bytes))
                return entropy_json(self._entropy.random_bytes(size_bytes))
            case NewKeyCall():
                return await self._new_key(caller, call, room)
            case FetchKeyCall():
                return self._fetch_key(caller, call, room)

    def _capabilities(self, caller: SaeId) -> bytes:
        partners = self._kme.partners(caller)
        far = [facts for sae, facts in partners.items() if self._kme.kme_of(sae) != self._kme.kme_id]
        # The draft wants at least one entry; who is alone may still share keys with itself.
        others = [self._system_of[sae] for sae in partners if sae != caller] or [self._system_of[caller]]
        return capabilities_json(self._system_of[caller], others, algorithm_of(far))

    async def _new_key(self, caller: SaeId, call: NewKeyCall, room: Claim) -> bytes:
        def admit(_: int, total_bytes: int) -> None:
            room.take(caller, key_bytes(total_bytes))

        delivery = await self._drawing.draw(caller, self._remote(call.remote), 1, call.size_bits, admit)
        return key_json(delivery.keys[0])

    def _fetch_key(self, caller: SaeId, call: FetchKeyCall, room: Claim) -> bytes:
        def admit(_: int, total_bytes: int) -> None:
            if call.size_bits not in {None, 8 * total_bytes}:
                raise KeyNotFound  # there is no such key of that size
            room.take(caller, key_bytes(total_bytes))

        delivery = self._kme.dec_keys(caller, self._remote(call.remote), [call.key_id], admit)
        return key_json(delivery.keys[0])

    def _remote(self, name: str) -> SaeId:
        sae = self._sae_of.get(name)
        if sae is None:
            raise bad_request("remoteSystemID is not known to this Key Provider")
        return sae


def _method(request: web.BaseRequest) -> str:
    """Return, for the counters, what a request asks, in a word of ours."""
    try:
        call = parse_call(request.method, request.rel_url.raw_path, request.rel_url.raw_query_string)
    except ShosoinError:
        return "other"
    return _METHODS[type(call)]


def _reply(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    # In one piece a long answer would go to the transport's buffer whole, and nothing would wait for a slow client.
    content = body if len(body) < _LONG_ANSWER_BYTES else PartsPayload((body,))
    return web.Response(status=status, body=content, headers={**NO_STORE, **(headers or {})})
