"""A worker of a KME: TLS and HTTP of SAEs, and nothing of the streams.

``python -m shosoin.services.worker_process PARENT LINE LISTENING...`` is started by ``worker_pool`` with a line to the
owner of the streams and sockets that listen. It holds no key longer than it takes to answer, decides nothing, and ends
with its owner: the kernel kills it then, and the end of the line says so where the kernel does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from weakref import WeakKeyDictionary

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.memory import collect_garbage_rarely
from shosoin.adapters.open_files import allow_many_open_files
from shosoin.adapters.state_lock import StateLock
from shosoin.base import Rejected, SaeId, Unavailable
from shosoin.keys.worker_stock import HOLD_S, Draw, Grant, KeyStock, KeyStocks
from shosoin.services.etsi014 import Etsi014Http
from shosoin.services.json_log import LoggedEvents, start_logging
from shosoin.services.kme_config import KmeConfig
from shosoin.services.kme_identity import followed_plane
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.sae_access import draws_ahead, http_limits
from shosoin.services.tls_plane import Approved, TlsPlane
from shosoin.services.wire014 import KeyRequest, parse_key_request
from shosoin.services.worker_counts import WorkerCounts
from shosoin.services.worker_line import FrameKind, WorkerLine, pack_call, unpack_error

__all__ = ["main"]

_REPORT_S = 1.0
_LAST_ANSWERS_S = 1.0
_SPARE_S = 5.0
"""How much longer than its own patience an owner may take."""
_SHORT_BITS = 16 << 13
"""Bits of a request that may be served from stock: such answers are in nobody's budget."""
_PLAIN = {"number", "size"}
_PR_SET_PDEATHSIG = 1


class _Owner:
    """Who has the streams, as a worker sees it: questions out, answers in."""

    def __init__(self) -> None:
        self.setup: asyncio.Future[KmeConfig] = asyncio.get_running_loop().create_future()
        self.approved: Approved | None = None
        """What the owner uses for TLS now."""
        self.stopping = asyncio.Event()
        self.is_gone = False
        self.follow: Callable[[Approved], None] = lambda _: None
        """Called when that changes."""
        self.line = WorkerLine(self._take, self._ended)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0

    async def ask(self, kind: FrameKind, payload: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Return the number of a call, to be released, and its answer."""
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self.line.send(kind, number, payload)
        try:
            async with asyncio.timeout(timeout_s):
                return number, await answer
        except TimeoutError:
            self.line.send(FrameKind.CANCEL, number)
            message = "the KME does not answer"
            raise Unavailable(message, code="etsi014.owner_silent", retry_after_s=1.0) from None
        except asyncio.CancelledError:
            self.line.send(FrameKind.CANCEL, number)
            raise
        finally:
            del self._waiting[number]

    def _take(self, kind: FrameKind, number: int, payload: bytes) -> None:
        answer = self._waiting.get(number)
        if kind is FrameKind.SETUP:
            config, self.approved = pickle.loads(payload)  # noqa: S301  # our own parent's, over a line of our own
            self.setup.set_result(config)
        elif kind is FrameKind.STOP:
            self.stopping.set()
        elif kind is FrameKind.RELOAD:
            self.approved = pickle.loads(payload)  # noqa: S301  # likewise
            self.follow(self.approved)
        elif answer is None or answer.done():
            return  # whoever asked has left
        elif kind is FrameKind.ANSWER:
            answer.set_result(payload)
        elif kind is FrameKind.REFUSAL:
            answer.set_exception(unpack_error(payload))

    def _ended(self) -> None:
        self.is_gone = True
        self.stopping.set()
        self.setup.cancel()


class _Room(Claim):
    """Memory for one answer, which the owner counts until it is told that the answer is out of it."""

    number = 0

    def __init__(self, answers: _Answers, line: WorkerLine) -> None:
        super().__init__(answers)
        self._answers, self._line = answers, line

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.number:
            self._line.send(FrameKind.RELEASE, self.number)
        self._answers.leave()


class _Answers(MemoryBudget):
    """The owner's budget for answers, from here."""

    def __init__(self, line: WorkerLine) -> None:
        super().__init__(0, code="etsi014.busy")
        self._line = line
        self._open = 0
        self.none_open = asyncio.Event()
        self.none_open.set()

    def claim(self) -> Claim:
        """Return a claim that the owner holds."""
        self._open += 1
        self.none_open.clear()
        return _Room(self, self._line)

    def leave(self) -> None:
        """Count one answer less."""
        self._open -= 1
        if not self._open:
            self.none_open.set()


class _Etsi014OfWorker(Etsi014Http):
    """Has everything done by the owner."""

    def __init__(self, config: KmeConfig, owner: _Owner) -> None:
        limits = http_limits(config.limits, workers=config.kme.workers)
        self.answers = _Answers(owner.line)
        super().__init__(config.directory.get, limits, SystemClock(), self.answers)
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._limits_of_keys = config.limits
        self._draws_ahead = draws_ahead(config)
        self._stocks = KeyStocks(self._tell)
        self._turns: WeakKeyDictionary[KeyStock, asyncio.Lock] = WeakKeyDictionary()
        """Whoever finds too few keys asks for more while the others wait."""
        self._timeout_s = limits.lease_timeout_s + _SPARE_S
        self.plane: TlsPlane | None = None
        """The endpoint, once it listens."""

    async def act(
        self, caller: SaeId, sae: SaeId, call: str, body: bytes, query: Mapping[str, str], room: Claim
    ) -> bytes:
        """Ask the owner, or take keys that it gave ahead of demand."""
        wanted = self._plain(body, query) if call == "enc_keys" and self._draws_ahead else None
        if wanted is not None:
            return await self._draw(caller, sae, *wanted)
        question = pack_call(caller, sae, call, query, body)
        number, answer = await self._owner.ask(FrameKind.CALL, question, self._timeout_s)
        if isinstance(room, _Room):
            room.number = number
        return answer

    def report(self) -> None:
        """Tell the owner what there is to count."""
        self._stocks.report(self._loop.time())
        self._owner.line.send(FrameKind.REPORT, payload=self._counts().dump())

    def give_up(self) -> None:
        """Overwrite all keys."""
        self._stocks.give_up()

    def _plain(self, body: bytes, query: Mapping[str, str]) -> tuple[int, int] | None:
        """Return number and size of a request for a few short keys and nothing else; all others are the owner's."""
        try:
            wanted = plain_request(body, query)
        except Rejected:
            return None
        if wanted is None:
            return None
        limits = self._limits_of_keys
        size_bits = limits.key_size_bits if wanted.size_bits is None else wanted.size_bits
        short = size_bits % 8 == 0 and size_bits > 0 and wanted.number * size_bits <= _SHORT_BITS
        return (wanted.number, size_bits) if short and 0 < wanted.number <= limits.max_key_per_request else None

    async def _draw(self, master: SaeId, slave: SaeId, number: int, size_bits: int) -> bytes:
        stock = self._stocks.get(master, slave, size_bits)
        turn = self._turns.setdefault(stock, asyncio.Lock()) if stock is not None else contextlib.nullcontext()
        async with turn:
            outcome = self._stocks.draw(stock, Draw(master, slave, size_bits, number), self._loop.time())
            if isinstance(outcome, bytes):
                return outcome
            return self._stocks.granted(stock, outcome, await self._ask_for(outcome))

    async def _ask_for(self, draw: Draw) -> Grant:
        until_s = self._loop.time() + HOLD_S
        number, answer = await self._owner.ask(FrameKind.DRAW, draw.pack(), self._timeout_s)
        self._owner.line.send(FrameKind.RELEASE, number)
        return Grant(number, bytearray(answer), until_s)

    def _tell(self, number: int, used: int, is_over: bool) -> None:
        if used:
            self._owner.line.send(FrameKind.USED, number, json.dumps(used).encode())
        if is_over:
            self._owner.line.send(FrameKind.OVER, number)

    def _counts(self) -> WorkerCounts:
        """Return what there is to report."""
        guard = self.guard
        now = (guard.open, guard.refused) if guard is not None else (0, 0)
        counts = WorkerCounts(self.tally, *now, self._bodies.held_bytes)
        if self.plane is not None:
            tally = self.plane.tally
            counts.turned_away, counts.cut, counts.callers = tally.turned_away, tally.cut, self.plane.callers("sae")
        return counts


def plain_request(body: bytes, query: Mapping[str, str]) -> KeyRequest | None:
    """Return a request that has a number and a size and nothing else, ``None`` for all others.

    Raises:
        Rejected: it is malformed.
    """
    if body:
        try:
            members = json.loads(body)
        except (ValueError, RecursionError):
            return None
        if not isinstance(members, dict) or not members.keys() <= _PLAIN:
            return None
    elif not query.keys() <= _PLAIN:
        return None
    return parse_key_request(body, query)


async def _run(line: socket.socket, listening: list[socket.socket]) -> None:
    loop, owner = asyncio.get_running_loop(), _Owner()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Whoever ends a whole group of processes means the owner, who has this one answer what is under way.
        loop.add_signal_handler(number, lambda: None)
    await loop.create_unix_connection(lambda: owner.line, sock=line)
    with contextlib.suppress(asyncio.CancelledError):
        await _serve(await owner.setup, owner, listening)


async def _serve(config: KmeConfig, owner: _Owner, listening: list[socket.socket]) -> None:
    service = _Etsi014OfWorker(config, owner)
    lock = StateLock(config.kme.directory, exclusive=False)  # what burns or rotates waits for the last of us
    assert owner.approved is not None  # noqa: S101  # it comes with the setup
    approved = owner.approved
    plane = service.plane = followed_plane(config, approved, SystemClock(), LoggedEvents())

    def follow(now: Approved) -> None:
        plane.follow(now)
        owner.line.send(FrameKind.SHOWS, payload=plane.credential.digest.encode())

    follow(approved)
    owner.follow = follow
    listener = await service.listen("", 0, plane.server_context, plane.admit, sockets=listening)
    owner.line.send(FrameKind.READY)
    while not owner.stopping.is_set():
        service.report()
        plane.cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REPORT_S):
                await owner.stopping.wait()
    listener.close()
    if not owner.is_gone:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_ANSWERS_S):
                await service.answers.none_open.wait()
    if service.guard is not None:
        await service.guard.end_all()
    service.give_up()
    service.report()
    owner.line.close()
    lock.release()


def _die_with(parent: int) -> None:
    """Have the kernel end this process with its parent, even one that is stopped or busy."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Run until the owner says stop, or is gone."""
    parent, line, *listening = map(int, sys.argv[1:])
    _die_with(parent)
    start_logging()
    allow_many_open_files()
    collect_garbage_rarely()
    asyncio.run(_run(socket.socket(fileno=line), [socket.socket(fileno=each) for each in listening]))


if __name__ == "__main__":
    main()
