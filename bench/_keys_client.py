"""The client of ``bench/keys.py``, as a process of its own: ``_keys_client.py JOB``, figures on standard output.

*Closed loop*: a fixed number of connections, each with one request under way, as fast as they are answered; it finds
the rate. *Open loop*: requests are due at fixed times whatever the server does, and a late answer delays nobody's due
time; it finds the latency at a given rate. A request waits from when it was due, or from when it was sent if no
connection was busy and this client's own timer was late. All connections stand before the clock starts, at the server
too, which in TLS 1.3 looks at a client's certificate when the client is done: each has asked for the status once.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shosoin.adapters.tls import client_context

__all__: list[str] = []

_KEY_ID = re.compile(rb'"key_ID": ?"([0-9a-fA-F-]{36})"')
_LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
_PATIENCE_S = 300.0
_DRY_S = 0.02


class Load:
    """Requests still to be sent, and what came of those that were."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.requests = iter(_requests(job))
        self.due_s: Iterator[float] = iter(())
        self.times_s: list[float] = []
        self.key_ids: list[str] = []
        self.dry = 0
        """Answers 503; they were asked again."""

    async def run(self) -> float:
        """Send all; return how many seconds it took."""
        connections = await asyncio.gather(*(self._connect() for _ in range(self.job["connections"])))
        began_s = time.perf_counter()
        self.due_s = _due(began_s, self.job["rate"])
        await asyncio.gather(*(self._work(*connection) for connection in connections))
        return time.perf_counter() - began_s

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = None
        if self.job["ca"]:
            context = client_context(*(Path(self.job[name]) for name in ("certificate", "key", "ca")))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.job["port"], ssl=context, server_hostname=self.job["server_name"], limit=1 << 20
        )
        writer.write(f"GET {self.job['path'].rpartition('/')[0]}/status HTTP/1.1\r\nHost: kme\r\n\r\n".encode())
        await self._answer(reader)  # whatever it is: a bare handler knows no such call
        return reader, writer

    async def _work(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for request in self.requests:
            due_s = next(self.due_s)
            late_s = time.perf_counter() - due_s
            if late_s < 0:
                await asyncio.sleep(-late_s)
            began_s = due_s if late_s > 0 and self.job["rate"] else time.perf_counter()
            body = await self._answered(reader, writer, request)
            self.times_s.append(time.perf_counter() - began_s)
            if self.job["save"]:
                self.key_ids += [key_id.decode() for key_id in _KEY_ID.findall(body)]
        writer.close()

    async def _answered(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
        while True:
            writer.write(request)
            status, body = await self._answer(reader)
            if status == 200:
                return body
            if status != 503 or not self.job["waits"]:
                raise SystemExit(f"client: {status} {body[:300]!r}")
            self.dry += 1
            await asyncio.sleep(_DRY_S)

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is None:
            raise SystemExit(f"client: an answer without length: {head!r}")
        body = await reader.readexactly(int(length[1]))
        return int(head.split(b" ", 2)[1]), body


def _due(due_s: float, rate: float) -> Iterator[float]:
    while True:
        yield due_s
        due_s += 1 / rate if rate else 0.0


def _requests(job: dict[str, Any]) -> Iterator[bytes]:
    head = f"POST {job['path']} HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\n"
    for body in _bodies(job):
        yield f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _bodies(job: dict[str, Any]) -> Iterator[bytes]:
    if job["ids"] is None:
        body = json.dumps({"number": job["number"], "size": 256}).encode()
        yield from (body for _ in range(job["requests"]))
        return
    ids = json.loads(Path(job["ids"]).read_text())
    for place in range(0, len(ids), job["number"]):
        yield json.dumps({"key_IDs": [{"key_ID": key_id} for key_id in ids[place : place + job["number"]]]}).encode()


async def _main(job: dict[str, Any]) -> None:
    load = Load(job)
    async with asyncio.timeout(_PATIENCE_S):
        wall_s = await load.run()
    if job["save"]:
        Path(job["save"]).write_text(json.dumps(load.key_ids))
    times_ms = sorted(1e3 * each for each in load.times_s)
    count = len(times_ms)
    figures = {"rate": count / wall_s, "p50_ms": times_ms[count // 2], "p99_ms": times_ms[count * 99 // 100]}
    print(json.dumps({**figures, "count": count, "dry": load.dry}))


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
