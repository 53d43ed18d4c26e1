"""Vendors of key material for tests: ETSI GS QKD 014 and 004, two sites, mutual TLS, honest until told otherwise.

Both sites of a vendor live in this process and share their keys, as a QKD network would. Nothing of the product serves
here, so that the product's clients meet somebody else's servers.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web
from cryptography import x509

from shosoin.adapters.tls import server_context
from shosoin.keys.wire004 import (
    HEADER_BYTES,
    NO_STREAM,
    CloseRequest,
    CloseResponse,
    GetKeyRequest,
    GetKeyResponse,
    OpenConnectRequest,
    OpenConnectResponse,
    Qos,
    Status,
    decode_payload,
    encode_frame,
    parse_header,
)
from tests.support.pki import TestAuthority

SITES = ("kme-a", "kme-b")
Twist = Callable[[str, str, Any], Awaitable[Any]]


def serial_shown(transport: Any) -> int:
    """Return the serial number of the certificate that a client shows on a connection."""
    der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number


def flipped(bits: bytes) -> bytes:
    return bytes([bits[0] ^ 1]) + bits[1:]


@dataclass
class Planes:
    """Certificates of a vendor: servers at both sites, and our KMEs as its clients."""

    authority: TestAuthority

    def __post_init__(self) -> None:
        self.server = {site: self.authority.issue("vendor", f"vendor-{site}", uris=[]) for site in SITES}
        self.client = {site: self.authority.issue("sae", f"our-{site}") for site in SITES}

    def context(self, site: str):
        files = self.server[site]
        return server_context(files.certificate, files.key, self.authority.certificate)


@dataclass
class Vendor014:
    """Two KMEs of another maker; ``twist(site, call, answer)`` may change any answer, or wait, or raise."""

    planes: Planes
    key_bits: int = 256
    per_request: int = 128
    stock: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SITES, 100_000))
    claimed: int | None = None
    twist: Twist | None = None
    extension: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.keys: dict[str, dict[str, bytes]] = {site: {} for site in SITES}
        """Keys waiting at each site for ``dec_keys``."""
        self.calls: list[tuple[str, str]] = []
        self.shown: dict[str, int] = {}
        """What certificate came with the latest request, by site."""
        self.runners: dict[str, web.AppRunner] = {}
        self.port: dict[str, int] = {}

    async def start(self, *sites: str) -> None:
        for site in sites or SITES:
            app = web.Application()
            app.router.add_route("*", "/api/v1/keys/{sae}/{call}", partial(self._handle, site))
            runner = self.runners[site] = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            place = web.TCPSite(
                runner, "127.0.0.1", self.port.get(site, 0), ssl_context=self.planes.context(site), reuse_address=True
            )
            await place.start()
            self.port[site] = runner.addresses[0][1]

    async def stop(self, *sites: str) -> None:
        for site in sites or SITES:
            if site in self.runners:
                await self.runners.pop(site).cleanup()

    async def _handle(self, site: str, request: web.Request) -> web.Response:
        call = request.match_info["call"]
        self.calls.append((site, call))
        self.shown[site] = serial_shown(request.transport)
        body = json.loads(await request.read() or b"{}")
        status, answer = {"status": self._status, "enc_keys": self._enc, "dec_keys": self._dec}[call](site, body)
        if self.twist is not None:
            twisted = await self.twist(site, call, answer)
            if isinstance(twisted, web.Response):
                return twisted
            answer = twisted
        return web.json_response(answer, status=status)

    def _status(self, site: str, _: Any) -> tuple[int, Any]:
        return 200, {
            "source_KME_ID": f"vendor-{site}",
            "target_KME_ID": "vendor-other",
            "master_SAE_ID": f"our-{site}",
            "slave_SAE_ID": "our-other",
            "key_size": self.key_bits,
            "stored_key_count": self.stock[site] if self.claimed is None else self.claimed,
            "max_key_count": 100_000,
            "max_key_per_request": self.per_request,
            "max_key_size": 1024,
            "min_key_size": 64,
            "max_SAE_ID_count": 0,
        }

    def _enc(self, site: str, body: Any) -> tuple[int, Any]:
        number, size = body.get("number", 1), body.get("size", self.key_bits)
        if number > self.per_request or size > 1024:
            return 400, {"message": "too much"}
        if self.stock[site] < number:
            return 503, {"message": "insufficient keys"}
        self.stock[site] -= number
        other = SITES[1 - SITES.index(site)]
        made = {str(uuid.uuid4()): os.urandom(size // 8) for _ in range(number)}
        self.keys[other] |= made
        return 200, self._container(made)

    def _dec(self, site: str, body: Any) -> tuple[int, Any]:
        wanted = [item["key_ID"] for item in body["key_IDs"]]
        if not all(key_id in self.keys[site] for key_id in wanted):
            return 404, {"message": "not found"}  # common in the wild
        return 200, self._container({key_id: self.keys[site].pop(key_id) for key_id in wanted})

    def _container(self, keys: dict[str, bytes]) -> Any:
        items = [{"key_ID": key_id, "key": base64.b64encode(bits).decode()} for key_id, bits in keys.items()]
        return {"keys": items} if self.extension is None else {"keys": items, "key_container_extension": self.extension}


@dataclass
class Vendor004:
    """Two key managers of another maker; ``twist(site, call, answer)`` as above."""

    planes: Planes
    twist: Twist | None = None
    chunks: int = 1 << 20
    """How many chunks each stream has."""

    def __post_init__(self) -> None:
        self.streams: dict[uuid.UUID, tuple[Qos, dict[int, bytes], set[str]]] = {}
        self.given: dict[tuple[str, uuid.UUID], set[int]] = {}
        self.calls: list[tuple[str, str]] = []
        self.shown: dict[str, int] = {}
        self.servers: dict[str, asyncio.Server] = {}
        self.tasks: dict[str, set[Any]] = {site: set() for site in SITES}
        self.port: dict[str, int] = {}

    async def start(self, *sites: str) -> None:
        for site in sites or SITES:
            server = self.servers[site] = await asyncio.start_server(
                partial(self._serve, site),
                "127.0.0.1",
                self.port.get(site, 0),
                ssl=self.planes.context(site),
            )
            self.port[site] = server.sockets[0].getsockname()[1]

    async def stop(self, *sites: str) -> None:
        """Stop key managers, which then know no stream any more."""
        for site in sites or SITES:
            if site in self.servers:
                self.servers.pop(site).close()
            tasks = list(self.tasks[site])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for _, _, joined in self.streams.values():
                joined.discard(site)

    async def _serve(self, site: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks[site].add(asyncio.current_task())
        try:
            while True:
                service, length = parse_header(await reader.readexactly(HEADER_BYTES))
                request = decode_payload(service, await reader.readexactly(length))
                answer: Any = self._answer(site, request)
                self.calls.append((site, type(request).__name__))
                self.shown[site] = serial_shown(writer)
                if self.twist is not None:
                    answer = await self.twist(site, type(request).__name__, answer)
                writer.write(answer if isinstance(answer, bytes) else encode_frame(answer))
                await writer.drain()
        except (OSError, EOFError, ConnectionError):
            pass
        finally:
            self.tasks[site].discard(asyncio.current_task())
            writer.transport.abort()
            await asyncio.sleep(0)

    def _answer(self, site: str, request: Any) -> Any:
        match request:
            case OpenConnectRequest(key_stream_id=wanted):
                stream = uuid.uuid4() if wanted == NO_STREAM else wanted
                self.streams.setdefault(stream, (request.qos, {}, set()))[2].add(site)
                alone = len(self.streams[stream][2]) < 2
                return OpenConnectResponse(
                    Status.PEER_NOT_CONNECTED if alone else Status.SUCCESS, self.streams[stream][0], stream
                )
            case GetKeyRequest():
                return self._chunk(site, request)
            case CloseRequest(stream):
                if stream in self.streams:
                    self.streams[stream][2].discard(site)
                return CloseResponse(0)
        raise AssertionError(request)

    def _chunk(self, site: str, request: GetKeyRequest) -> GetKeyResponse:
        known = self.streams.get(request.key_stream_id)
        if known is None or len(known[2]) < 2:
            return GetKeyResponse(Status.PEER_NOT_CONNECTED_GET_KEY)
        given = self.given.setdefault((site, request.key_stream_id), set())
        if request.index >= self.chunks:
            return GetKeyResponse(Status.INSUFFICIENT_KEY)
        assert request.index not in given, "an index was asked for twice"
        given.add(request.index)
        bits = known[1].setdefault(request.index, os.urandom(known[0].key_chunk_size_bytes))
        return GetKeyResponse(0, request.index, bits)
