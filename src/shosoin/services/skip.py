"""SKIP, the Secure Key Integration Protocol (draft-cisco-skip-02), over HTTPS with mutual TLS.

A router that encrypts fetches keys here, from the same streams and under the same rules as an SAE does by ETSI GS QKD
014: for the KME it *is* an SAE, the one its certificate names. To each encryptor the KME looks like a Key Provider of
its own, whose system ID is the encryptor's; so a key is for one encryptor, and not for all that the other KME serves.
Pre-shared keys instead of certificates are not offered.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

from aiohttp import web

from shosoin.adapters.http_parts import PartsPayload
from shosoin.base import Entropy, SaeId, ShosoinError, SystemId
from shosoin.base.ports import Clock
from shosoin.keys.errors import KeyNotFound
from shosoin.keys.kme import Kme
from shosoin.services.json_log import described, log
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.sae_http import Drawing, HttpLimits, LeaseSource, SaeHttp, caller_of
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
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store"}


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
        self._limits = limits
        self._answers = MemoryBudget(limits.answers_bytes, code="skip.busy")

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Start serving; returns the listening server."""
        return await SaeHttp(self._response, _malformed, self._answers, self._limits).listen(host, port, context)

    async def _response(self, request: web.BaseRequest, room: Claim) -> web.Response:
        try:
            body = await self._answer(request, room)
        except ShosoinError as err:
            text, headers = error_of(err)
            return _reply(status_code(err), text, headers)
        except Exception as err:  # noqa: BLE001  # the last line of defence of this process
            log("skip.defect", **described(err))
            return _reply(500, error_json("the Key Provider failed to handle the request", "skip.defect"))
        return _reply(200, body)

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


def _malformed(status: int) -> web.Response:
    return _reply(500 if status >= 500 else 400, error_json("not a well-formed HTTP request", "skip.bad_request"))


def _reply(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> web.Response:
    # In one piece a long answer would go to the transport's buffer whole, and nothing would wait for a slow client.
    content = body if len(body) < _LONG_ANSWER_BYTES else PartsPayload((body,))
    return web.Response(status=status, body=content, headers={**_HEADERS, **(headers or {})})
