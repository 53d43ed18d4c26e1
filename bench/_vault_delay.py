"""A wire with a round trip: a TCP proxy on loopback that hands every byte on a fixed time later.

``python _vault_delay.py DELAY_MS PORT:TARGET [PORT:TARGET ...]``. Delay in each direction, so a round trip takes twice
as long more. Order is kept, rate is not limited, a reader that falls behind by ``PENDING_BYTES`` stops the sender.
Connection set-up costs its round trips as TLS sees them; TCP's own handshake is not delayed.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

PENDING_BYTES = 32 << 20
_PIECE_BYTES = 1 << 20


class _Wire:
    """One direction of a connection: pieces with the moment at which they are due."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._pending: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._changed = asyncio.Condition()

    async def take(self, reader: asyncio.StreamReader) -> None:
        """Read until the end; an empty piece stands for it."""
        loop, data = asyncio.get_running_loop(), b"."
        while data:
            data = await reader.read(_PIECE_BYTES)
            async with self._changed:
                await self._changed.wait_for(lambda: self._held_bytes < PENDING_BYTES)
                self._pending.append((loop.time() + self._delay_s, data))
                self._held_bytes += len(data)
                self._changed.notify_all()

    async def give(self, writer: asyncio.StreamWriter) -> None:
        """Write each piece when it is due, until the end."""
        loop = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: bool(self._pending))
                due_s, data = self._pending.popleft()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if not data:
                return
            writer.write(data)
            await writer.drain()
            async with self._changed:
                self._held_bytes -= len(data)
                self._changed.notify_all()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    wire = _Wire(delay_s)
    taking = asyncio.create_task(wire.take(reader))
    try:
        await wire.give(writer)
    except ConnectionError:
        return
    finally:
        taking.cancel()
        writer.close()


async def _serve(delay_s: float, routes: list[tuple[int, int]]) -> None:
    pumps: set[asyncio.Task[None]] = set()

    async def route(port: int, target: int) -> asyncio.Server:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
            for source, sink in ((reader, far_writer), (far_reader, writer)):
                task = asyncio.create_task(_pump(source, sink, delay_s))
                pumps.add(task)
                task.add_done_callback(pumps.discard)

        return await asyncio.start_server(connected, "127.0.0.1", port)

    servers = [await route(port, target) for port, target in routes]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    pairs = [argument.split(":") for argument in sys.argv[2:]]
    asyncio.run(_serve(float(sys.argv[1]) / 1000, [(int(port), int(target)) for port, target in pairs]))
