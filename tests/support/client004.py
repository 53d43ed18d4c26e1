"""A small ETSI GS QKD 004 client for tests, over real mutual TLS; it also sends what no client should."""

from __future__ import annotations

import asyncio
import struct
from uuid import UUID

from shosoin.adapters.tls import client_context
from shosoin.keys.wire004 import (
    JSON_MIMETYPE,
    NO_STREAM,
    CloseRequest,
    GetKeyRequest,
    OpenConnectRequest,
    Qos,
    decode_payload,
    encode_frame,
    parse_header,
)
from tests.support.kme import SAES

QOS = Qos(32, max_bps=1_000_000, min_bps=0, timeout_ms=20_000, ttl_s=600, metadata_mimetype=JSON_MIMETYPE)


class Client004:
    """One connection of one SAE to its KME."""

    def __init__(self, pair, sae, *, kme=None, files=None, port=None, context=None):
        self.sae, self.kme = sae, kme or SAES[sae]
        files = files or pair.saes[sae]
        self.context = context or client_context(files.certificate, files.key, pair.sae_plane.certificate)
        self.port = port or pair.etsi004_port[self.kme]

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context, server_hostname=self.kme
        )
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    async def answer(self):
        service, length = parse_header(await self.reader.readexactly(8))
        return decode_payload(service, await self.reader.readexactly(length))

    async def ask(self, message):
        self.writer.write(encode_frame(message))
        async with asyncio.timeout(30):
            return await self.answer()

    async def open(self, other, qos=QOS, ksid=NO_STREAM, *, source=None, destination=None):
        source, destination = source or f"qkd://{self.sae}", destination or f"qkd://{other}"
        return await self.ask(OpenConnectRequest(source, destination, qos, ksid))

    async def get(self, ksid: UUID, index: int, room: int = 1024):
        return await self.ask(GetKeyRequest(ksid, index, room))

    async def close(self, ksid: UUID):
        return await self.ask(CloseRequest(ksid))

    async def ends_after(self, raw: bytes) -> bytes:
        """Send bytes as they are and return what comes until the server ends the connection."""
        self.writer.write(raw)
        async with asyncio.timeout(20):
            try:
                return await self.reader.read()
            except OSError:
                return b""


def header(service: int, length: int, version=(1, 0, 1)) -> bytes:
    return struct.pack(">BBBBI", *version, service, length)
