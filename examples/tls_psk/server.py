"""Serve TLS 1.3 with quantum keys as pre-shared keys.

    python server.py --port 8443 --peer sae-a1 --kme https://127.0.0.1:9002 --kme-name kme-b \
        --certificate sae-b1.crt --key sae-b1.key --ca sae-ca.crt

Reads which key_ID a client offers, fetches that key from this end's KME, shakes hands, checks who the client is, and
answers each line. Prints its port, then one line for each connection.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import ssl
import sys

from peers import PATIENCE_S, Sae, Stream

from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.tls import negotiated_group
from shosoin.adapters.tls_psk import PskHello, psk_server_context
from shosoin.base import Denied, PeerFault, SaeId, ShosoinError

CONNECTIONS_MAX = 64
_KEY_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Server:
    """One SAE that serves."""

    def __init__(self, sae: Sae, kme: KmeClient) -> None:
        self._sae, self._kme = sae, kme
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            connection, _ = await loop.sock_accept(listener)
            task = loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()

    async def _serve(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(2 * PATIENCE_S):
                try:
                    stream = await self._shake_hands(connection)
                except BaseException:
                    connection.close()
                    raise
                try:
                    await self._answer(stream)
                finally:
                    stream.writer.close()
        except (ShosoinError, ssl.SSLError, OSError) as err:
            tell(f"refused: {str(err) or type(err).__name__}")

    async def _shake_hands(self, connection: socket.socket) -> Stream:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        hello = PskHello()
        async with asyncio.timeout(PATIENCE_S):
            key_id = None
            while key_id is None:
                read = await loop.sock_recv(connection, 4096)
                if not read:
                    raise PeerFault("the client has gone")
                key_id = hello.feed(read)
        if not _KEY_ID.fullmatch(key_id):  # nothing that the KME need be asked about
            raise PeerFault("the client offers something that is no key_ID")
        (fetched,) = await self._kme.dec_keys(SaeId(self._sae.peer), [key_id])
        key = bytearray(fetched.material.take())
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            context = psk_server_context(key_id, key, hello.heard)
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection, ssl=context)
        finally:
            key[:] = bytes(len(key))
        return Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def _answer(self, stream: Stream) -> None:
        group = negotiated_group(stream.tls)
        await self._sae.prove(stream, is_client=False)
        tell(f"serving {self._sae.peer} over {group}")
        try:
            while True:
                line = (await stream.receive()).decode(errors="replace")
                stream.send(f"you said {line!r} over {group}".encode())
                await stream.writer.drain()
        except Denied:
            return  # it has gone


def tell(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    Sae.arguments(parser)
    given = parser.parse_args()
    sae = Sae.of(given)
    with socket.create_server(("127.0.0.1", given.port), backlog=CONNECTIONS_MAX) as listener:
        listener.setblocking(False)
        async with sae.client() as kme:
            tell(f"port {listener.getsockname()[1]}")
            await Server(sae, kme).run(listener)


if __name__ == "__main__":
    asyncio.run(main())
