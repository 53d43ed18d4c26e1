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


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
    loop = asyncio.get_running_loop()
    pending: deque[tuple[float, bytes]] = deque()
    changed = asyncio.Condition()
    held_bytes = 0

    async def take() -> None:
        nonlocal held_bytes
        while True:
            data = await reader.read(_PIECE_BYTES)
            async with changed:
                await changed.wait_for(lambda: held_bytes < PENDING_BYTES)
                pending.append((loop.time() + delay_s, data))
                held_bytes += len(data)
                changed.notify_all()
            if not data:
                return

    taking = asyncio.create_task(take())
    try:
        while True:
            async with changed:
                await changed.wait_for(lambda: bool(pending))
                due_s, data = pending.popleft()
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            if not data:
                return
            writer.write(data)
            await writer.drain()
            async with changed:
                held_bytes -= len(data)
                changed.notify_all()
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
