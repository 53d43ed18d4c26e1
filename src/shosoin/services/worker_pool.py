"""Worker processes of a KME: started, restarted, asked to stop, and answered, by the process that owns the streams.

Everything that decides about a key stays in this process: a worker sends it what an SAE asked, and gets the answer. So
quotas, counters and what was fetched are one, and a worker that dies takes along no more than answers under way. The
listening sockets are this process's and outlive each worker: connections that nobody has accepted yet wait for the
next.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pickle
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shosoin.base import Rejected, SaeId, ShosoinError, Unavailable
from shosoin.keys.worker_grants import Granting, Grants
from shosoin.keys.worker_stock import Draw
from shosoin.services.etsi014 import Etsi014Service
from shosoin.services.json_log import described, log
from shosoin.services.kme_config import KmeConfig
from shosoin.services.memory_budget import Budget, Claim
from shosoin.services.request_tally import RequestTally
from shosoin.services.storage_key_config import PassphraseSection
from shosoin.services.tls_listener import listening_sockets
from shosoin.services.tls_plane import Approved
from shosoin.services.worker_counts import WorkerCounts
from shosoin.services.worker_line import FrameKind, WorkerLine, pack_error, unpack_call

__all__ = ["WORKERS_FILE", "WorkerPool"]

WORKERS_FILE = "workers.json"
"""What the owner says of them, in the KME's directory."""

_START_S = 60.0
_SILENCE_S = 5.0
"""A worker that was not heard for so long does not answer; it reports every second."""
_STOP_S = 4.0
_PORT_S = 5.0
"""For how long workers of an owner that was killed may still hold the port."""
_FRAME_BYTES_SPARE = 16 << 20
"""What a worker may send at once besides the body of a request: a report of very many callers."""
_CALLS_PER_CONNECTION = 2
"""One at a time, and one that has been left and is not known to be."""
_DIGEST = re.compile(rb"[0-9a-f]{64}")
_LINGER_S = 1.0
"""For how long a worker may live on whose line has ended."""
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.1, 10.0
_LASTING_S = 30.0
"""A worker that lived so long may be followed by another at once."""


@dataclass(slots=True)
class _Worker:
    """One worker process, and what is under way for it."""

    process: asyncio.subprocess.Process
    grants: Grants
    counts: WorkerCounts = field(default_factory=WorkerCounts)
    is_set_up: bool = False
    is_ready: bool = False
    shows: str = ""
    """Digest of its certificate."""
    heard_s: float = 0.0
    """When it said something last, by the event loop's clock."""
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    rooms: dict[int, Claim] = field(default_factory=dict)
    """Memory of answers that the worker has not sent on yet."""
    line: WorkerLine | None = None

    def let_go(self, number: int) -> None:
        """Forget a call."""
        task, room = self.tasks.pop(number, None), self.rooms.pop(number, None)
        if task is not None:
            task.cancel()
        if room is not None:
            room.drop()


@dataclass(frozen=True, slots=True)
class PooledBodies:
    """Memory for bodies of requests in all workers."""

    pool: WorkerPool
    total_bytes: int

    @property
    def held_bytes(self) -> int:
        """What was held a second ago at most."""
        return self.pool.counts.bodies_bytes


@dataclass(slots=True)
class PooledConnections:
    """Connections of all workers, as metrics count them."""

    pool: WorkerPool
    connections_max: int

    @property
    def open(self) -> int:
        """Connections at this moment, or a second ago."""
        return self.pool.counts.connections

    @property
    def refused(self) -> int:
        """Connections that were too many."""
        return self.pool.counts.connections_refused

    async def end_all(self) -> None:
        """End the workers."""
        await self.pool.stop()


class WorkerPool:
    """The workers of one KME; to its operators it is one interface for SAEs, and one listener.

    Args:
        service: answers what workers are asked.
        granting: says what they get ahead of demand.
        approved: tells what certificate, key, authorities and lists a worker has to use: the ones in use here.
    """

    def __init__(
        self, service: Etsi014Service, config: KmeConfig, granting: Granting, approved: Callable[[], Approved]
    ) -> None:
        self._service, self._config, self._granting, self._approved = service, config, granting, approved
        self._sockets: list[socket.socket] = []
        self._workers: dict[int, _Worker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._past = WorkerCounts()
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self.restarts = 0
        """Workers that ended without being told to."""
        self.guard = PooledConnections(self, config.limits.max_connections)

    # What operators see

    @property
    def counts(self) -> WorkerCounts:
        """What all workers have counted, those that ended too."""
        return WorkerCounts.total([self._past, *(worker.counts for worker in self._workers.values())])

    @property
    def tally(self) -> RequestTally:
        """What was answered."""
        return self.counts.tally

    @property
    def memory(self) -> Mapping[str, Budget]:
        """What requests may hold at once: bodies in the workers, answers here."""
        bodies = PooledBodies(self, self._config.limits.max_bodies_bytes)
        return {"bodies": bodies, "answers": self._service.memory["answers"]}

    def counts_by_pid(self) -> dict[int, WorkerCounts]:
        """Return what each worker that lives has counted, by its process id."""
        return {worker.process.pid: worker.counts for worker in self._workers.values()}

    def counts_by_place(self) -> dict[int, WorkerCounts]:
        """Return the same by place: whoever follows a worker that ended has its place, and begins at zero."""
        return {place: worker.counts for place, worker in sorted(self._workers.items())}

    @property
    def pids(self) -> list[int]:
        """Workers that accept connections."""
        return [worker.process.pid for worker in self._workers.values() if worker.is_ready]

    def state(self) -> dict[str, Any]:
        """Return what an operator wants to know of each; nothing secret."""
        oldest_s = asyncio.get_running_loop().time() - _SILENCE_S
        return {
            "configured": self._config.kme.workers,
            "restarts": self.restarts,
            "workers": [
                {
                    "pid": worker.process.pid,
                    "answers": worker.is_ready and worker.heard_s >= oldest_s,
                    "certificate": worker.shows,
                }
                for worker in self._workers.values()
            ],
        }

    @property
    def port(self) -> int:
        """The port they listen on."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    @property
    def is_serving(self) -> bool:
        """Whether anyone accepts connections."""
        return bool(self.pids) and not self._stopping.is_set()

    # Life

    async def start(self, host: str, port: int) -> None:
        """Listen, and start all workers.

        Raises:
            OSError: the port cannot be used.
            Rejected: the workers do not start.
        """
        if not hasattr(os, "memfd_create"):
            raise Rejected("[kme] workers needs Linux", code="kme.workers_do_not_start", hint="leave it out")
        self._sockets = await _sockets_soon(host, port)
        count = self._config.kme.workers
        self._tasks = [asyncio.create_task(self._keep(place)) for place in range(count)]
        try:
            async with asyncio.timeout(_START_S):
                while len(self.pids) < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as err:
            raise Rejected(f"{len(self.pids)} of {count} workers started", code="kme.workers_do_not_start") from err

    def close(self) -> None:
        """Accept no more; what is under way is answered."""
        self._stopping.set()
        for one in self._sockets:
            one.close()
        for worker in self._workers.values():
            if worker.line is not None:
                worker.line.send(FrameKind.STOP)

    def reload(self) -> None:
        """Have all workers use what is in use here now, those that still start before they accept anybody."""
        payload = pickle.dumps(self._approved())
        for worker in self._workers.values():
            if worker.is_set_up and worker.line is not None:
                worker.line.tell(FrameKind.RELOAD, payload)

    async def stop(self) -> None:
        """Wait until all workers are gone; end those that do not go."""
        self.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_STOP_S)
            for worker in self._workers.values() if late else ():
                _kill(worker.process)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _keep(self, place: int) -> None:
        """Have a worker at a place until the pool stops."""
        pause_s = _PAUSE_S_MIN
        while not self._stopping.is_set():
            try:
                lived_s = await self._run_one(place)
            except OSError as err:  # no memory or no process to be had now
                lived_s = 0.0
                log("worker.not_started", reason=err.strerror or str(err))
            pause_s = _PAUSE_S_MIN if lived_s > _LASTING_S else min(_PAUSE_S_MAX, 2 * pause_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def _run_one(self, place: int) -> float:
        """Run one worker process and return how long it lived."""
        began_s = asyncio.get_running_loop().time()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await _spawn(theirs, self._sockets, _environment(self._config))
        except BaseException:
            ours.close()  # which ends the worker, if there is one
            raise
        worker = self._workers[place] = _Worker(process, Grants(self._granting))
        try:
            await self._attach(worker, ours)
            code = await process.wait()
        finally:
            _kill(process)  # where this was cancelled: it must not outlive the pool
            self._detach(place, worker)
        if not self._stopping.is_set():
            self.restarts += 1
            log("worker.ended", pid=process.pid, exit_code=code)
        return asyncio.get_running_loop().time() - began_s

    async def _attach(self, worker: _Worker, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        line = worker.line = WorkerLine(
            lambda kind, number, payload: self._take(worker, kind, number, payload),
            lambda: loop.call_later(_LINGER_S, _kill, worker.process),
            frame_bytes_max=self._config.limits.max_body_bytes + _FRAME_BYTES_SPARE,
            # An honest worker releases no memory of an answer that it has not read.
            unsent_bytes_max=self._config.limits.max_answers_bytes + _FRAME_BYTES_SPARE,
        )
        await loop.create_unix_connection(lambda: line, sock=ours)
        line.tell(FrameKind.SETUP, pickle.dumps((self._config, self._approved())))
        worker.is_set_up = True
        if self._stopping.is_set():
            line.send(FrameKind.STOP)

    def _detach(self, place: int, worker: _Worker) -> None:
        for number in [*worker.tasks, *worker.rooms]:
            worker.let_go(number)
        worker.grants.all_over()
        if worker.line is not None:
            worker.line.close()
        self._past = WorkerCounts.total([self._past, worker.counts.over()])
        del self._workers[place]

    # What workers say

    def _take(self, worker: _Worker, kind: FrameKind, number: int, payload: bytes) -> None:
        worker.heard_s = asyncio.get_running_loop().time()
        match kind:
            case FrameKind.SHOWS:
                worker.shows = _digest(payload)
            case FrameKind.CALL:
                self._begin(worker, number, partial(self._act, payload))
            case FrameKind.DRAW:
                self._begin(worker, number, partial(self._draw, worker, number, Draw.unpack(payload)))
            case FrameKind.USED:
                worker.grants.used(number, json.loads(payload))
            case FrameKind.OVER:
                worker.grants.over(number)
            case FrameKind.CANCEL:
                worker.let_go(number)
                worker.grants.over(number)
            case FrameKind.RELEASE:
                worker.let_go(number)
            case FrameKind.REPORT:
                worker.counts = WorkerCounts.load(payload, after=worker.counts)
            case FrameKind.READY if not worker.is_ready:
                worker.is_ready = True
                log("worker.ready", pid=worker.process.pid)
                self._changed.set()

    def _begin(self, worker: _Worker, number: int, work: Callable[[Claim], Awaitable[bytes]]) -> None:
        # The memory of one of the two would never come back, nor what was granted to it.
        if number in worker.tasks or number in worker.rooms or worker.grants.holds(number):
            raise ValueError("a call has the number of another")
        if len(worker.tasks.keys() | worker.rooms.keys()) >= _CALLS_PER_CONNECTION * max(2, self.guard.connections_max):
            raise ValueError("more calls than connections can make")
        worker.tasks[number] = asyncio.create_task(self._answer(worker, number, work))

    async def _answer(self, worker: _Worker, number: int, work: Callable[[Claim], Awaitable[bytes]]) -> None:
        room = worker.rooms[number] = self._service.memory["answers"].claim()
        kind = FrameKind.REFUSAL
        try:
            answer = await work(room)
            kind = FrameKind.ANSWER
        except ShosoinError as err:
            answer = pack_error(err)
        except Exception as err:  # noqa: BLE001  # whatever one request provokes must not end the KME
            log("etsi014.defect", **described(err))
            answer = pack_error(Unavailable("the KME failed to handle the request", code="etsi014.defect"))
        del worker.tasks[number]
        if kind is FrameKind.REFUSAL:
            worker.let_go(number)
        if worker.line is not None:
            worker.line.send(kind, number, answer)

    async def _act(self, payload: bytes, room: Claim) -> bytes:
        caller, sae, call, query, body = unpack_call(payload)
        return await self._service.act(SaeId(caller), SaeId(sae), call, body, query, room)

    async def _draw(self, worker: _Worker, number: int, draw: Draw, room: Claim) -> bytes:
        steps = worker.grants.drawing(number, draw)
        wanted = next(steps)
        try:
            while True:
                try:
                    answer = await self._enc_keys(draw, wanted, room)
                except ShosoinError as err:
                    wanted = steps.throw(err)
                else:
                    wanted = steps.send(answer)
        except StopIteration as done:
            return bytes(done.value)

    async def _enc_keys(self, draw: Draw, number: int, room: Claim) -> bytes:
        body = json.dumps({"number": number, "size": draw.size_bits}).encode()
        return await self._service.act(SaeId(draw.master), SaeId(draw.slave), "enc_keys", body, {}, room)


def _digest(payload: bytes) -> str:
    """Return what a worker says that it shows.

    Raises:
        ValueError: it is no digest of a certificate.
    """
    if not _DIGEST.fullmatch(payload):
        raise ValueError("no digest of a certificate")
    return payload.decode()


def _environment(config: KmeConfig) -> dict[str, str]:
    """Return the environment without what opens the stores, which is no affair of workers."""
    choice = config.storage_key
    secret = {"PGPASSWORD", choice.passphrase_env if isinstance(choice, PassphraseSection) else ""}
    return {name: value for name, value in os.environ.items() if name not in secret}


async def _spawn(
    line: socket.socket, listening: list[socket.socket], environment: dict[str, str]
) -> asyncio.subprocess.Process:
    inherited = [line.fileno(), *(one.fileno() for one in listening)]
    command = [sys.executable, "-m", "shosoin.services.worker_process", str(os.getpid()), *map(str, inherited)]
    return await asyncio.create_subprocess_exec(
        *command, pass_fds=inherited, stdin=asyncio.subprocess.DEVNULL, env=environment
    )


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


async def _sockets_soon(host: str, port: int) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + _PORT_S
    while True:
        try:
            return await listening_sockets(host, port)
        except OSError as err:
            if err.errno != errno.EADDRINUSE or loop.time() > deadline_s:
                raise
            await asyncio.sleep(0.05)
