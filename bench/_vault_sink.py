"""The physical limit beside the vault: a process that takes an upload over mutual TLS, writes it and flushes it.

``python _vault_sink.py PORT HOME FILE``; ``HOME`` holds ``ca.crt``, ``sink.crt`` and ``sink.key``. One long POST with a
known length, the same server settings as a share node, no parsing, no sealing, no checksums: whatever stores five
copies of an object with this HTTP stack cannot be much faster.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

from shosoin.adapters.certificates import Authority, Role
from shosoin.adapters.tls import server_context

READ_BUFFER_BYTES = 1 << 20
SERVER_NAME = "sink"


def make_certificates(home: Path) -> None:
    """Write an authority, a server and a client."""
    authority = Authority.create("bench")
    authority.issued.write(home / "ca.crt", home / "ca.key")
    for role, name in ((Role.NODE, "sink"), (Role.SAE, "uploader")):
        leaf = authority.issue(role, name, server=role is Role.NODE, client=True)
        leaf.write(home / f"{name}.crt", home / f"{name}.key")


async def _serve(port: int, home: Path, file: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.Response:
        loop = asyncio.get_running_loop()
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        size_bytes = 0
        try:
            async for part in request.content.iter_any():
                size_bytes += os.write(descriptor, part)
            await loop.run_in_executor(None, os.fsync, descriptor)
        finally:
            os.close(descriptor)
        return web.Response(text=str(size_bytes))

    server = web.Server(handle, access_log=None, auto_decompress=False, read_bufsize=READ_BUFFER_BYTES)
    context = server_context(home / "sink.crt", home / "sink.key", home / "ca.crt")
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", port, ssl=context)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
