"""Group commit: one thread owns the writing connection and lets steps that came together share one flush.

Each step runs inside its own savepoint, so a step that raises undoes itself and nothing else. All steps of a group
become durable with one COMMIT; only then does any caller hear of it. If the COMMIT fails, every caller of the group
is told so. After a failed flush the thread goes on with reads and refuses writes (see ``share_store_errors``).
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from shosoin.adapters.share_store_errors import StorageFailed, StoreBusy, from_sqlite_error
from shosoin.adapters.share_store_records import Records
from shosoin.base import ShosoinError, Unavailable

__all__ = ["GroupWriter"]

T = TypeVar("T")
Step = Callable[[Records], T]
GROUP_MAX = 512
QUEUE_MAX = 16_384


class _Waiter(Protocol):
    """Who hears of a step: a future of either kind, or a place in a list of outcomes."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


@dataclass(slots=True)
class _Outcomes:
    """The outcomes of steps that belong together; the caller hears when the last is there."""

    values: list[Any]
    future: asyncio.Future[list[Any]]
    missing: int

    def put(self, index: int, outcome: Any) -> None:
        self.values[index] = outcome
        self.missing -= 1
        if not self.missing and not self.future.done():
            self.future.set_result(self.values)


@dataclass(frozen=True, slots=True)
class _Place:
    """One place in a list of outcomes."""

    outcomes: _Outcomes
    index: int

    def done(self) -> bool:
        return False

    def set_result(self, result: Any, /) -> None:
        self.outcomes.put(self.index, result)

    def set_exception(self, exception: BaseException, /) -> None:
        self.outcomes.put(self.index, _Failure(exception))


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


@dataclass(slots=True)
class _Job:
    step: Step[Any]
    waiter: _Waiter
    loop: asyncio.AbstractEventLoop | None
    outside: bool = False
    """Runs between transactions (maintenance)."""
    value: Any = None
    error: BaseException | None = None
    effects: list[Callable[[], None]] = field(default_factory=list)

    def resolve(self) -> None:
        """Tell the caller."""
        if self.error is None:
            for effect in self.effects:
                effect()
        if self.waiter.done():
            return
        if self.error is None:
            self.waiter.set_result(self.value)
        else:
            # A future refuses StopIteration, and one refusal must not keep the others of the group waiting.
            stopped = isinstance(self.error, StopIteration)
            self.waiter.set_exception(RuntimeError("a step raised StopIteration") if stopped else self.error)


class GroupWriter:
    """Runs steps one after the other on a connection that nobody else writes with."""

    def __init__(self, connection: sqlite3.Connection, records: Callable[[], Records]) -> None:
        self._connection = connection
        self._records = records
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._failed: str | None = None
        self._closed = False
        self._closing = threading.Lock()
        """Nothing may be queued behind the end of the queue: nobody would answer it."""
        self.commits = 0
        self.steps = 0
        self._thread = threading.Thread(target=self._run, name="shosoin-records", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> str | None:
        """Why writes are refused, ``None`` while they are not."""
        return self._failed

    async def run(self, step: Step[T], *, outside: bool = False) -> T:
        """Run a step; when this returns, its effects are durable."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._put(_Job(step, future, loop, outside))
        return await future

    async def run_each(self, steps: Sequence[Step[T]]) -> list[T | ShosoinError]:
        """Run several steps, each atomic by itself; when this returns, their effects are durable."""
        if not steps:
            return []
        loop = asyncio.get_running_loop()
        outcomes = _Outcomes([None] * len(steps), loop.create_future(), len(steps))
        self._put(*(_Job(step, _Place(outcomes, index), loop) for index, step in enumerate(steps)))
        found = await outcomes.future
        for index, outcome in enumerate(found):
            if isinstance(outcome, _Failure):
                if not isinstance(outcome.error, ShosoinError):
                    raise outcome.error
                found[index] = outcome.error
        return found

    def post(self, step: Step[T]) -> Future[T]:
        """Run a step for a caller without an event loop."""
        future: Future[T] = Future()
        self._put(_Job(step, future, None))
        return future

    def _put(self, *jobs: _Job) -> None:
        with self._closing:
            if self._closed:
                raise Unavailable("the share store is closed", code="vault.store_closed")
            if self._queue.qsize() + len(jobs) > QUEUE_MAX:
                raise StoreBusy(f"{QUEUE_MAX} steps wait for the records", retry_after_s=1.0)
            for job in jobs:
                self._queue.put(job)

    def refuse_writes(self, reason: str) -> None:
        """Write nothing more until the store is opened again."""
        self._failed = self._failed or reason

    def close(self) -> None:
        """Run what is queued, then end the thread."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            first = self._queue.get()
            group, going = self._group(first)
            inside = [job for job in group if not job.outside]
            if inside:
                self._commit(inside)
            for job in group:
                if job.outside:
                    self._maintain(job)
            _deliver(group)

    def _group(self, first: _Job | None) -> tuple[list[_Job], bool]:
        group: list[_Job] = []
        job = first
        while job is not None:
            group.append(job)
            if len(group) >= GROUP_MAX:
                return group, True
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Job]) -> None:
        connection = self._connection
        try:
            connection.execute(f"PRAGMA query_only = {1 if self._failed else 0}")
            connection.execute("BEGIN" if self._failed else "BEGIN IMMEDIATE")
            for job in group:
                self._step(job)
            connection.execute("COMMIT")
            self.commits += 1
            self.steps += len(group)
        except BaseException as err:  # noqa: BLE001  # this thread must outlive everything, or all callers wait for ever
            self._undo(group, err)

    def _step(self, job: _Job) -> None:
        connection, records = self._connection, self._records()
        connection.execute("SAVEPOINT step")
        try:
            job.value = job.step(records)
            job.effects = records.after_commit
        except BaseException as err:  # whatever it is, it belongs to the caller
            if isinstance(err, sqlite3.Error) and (self._is_fatal(err) or not connection.in_transaction):
                raise
            connection.execute("ROLLBACK TO step")
            job.error = self._refusal(err)
        connection.execute("RELEASE step")

    def _refusal(self, err: BaseException) -> BaseException:
        if self._failed and getattr(err, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
            return StorageFailed(f"writes are refused since: {self._failed}")
        return err

    @staticmethod
    def _is_fatal(err: sqlite3.Error) -> bool:
        primary = getattr(err, "sqlite_errorcode", 0) & 0xFF
        return primary in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

    def _undo(self, group: list[_Job], err: BaseException) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self.refuse_writes("a transaction could not be rolled back")
        meaning = from_sqlite_error(err) if isinstance(err, sqlite3.Error) else StorageFailed(type(err).__name__)
        if isinstance(meaning, StorageFailed):
            self.refuse_writes(meaning.message)
        for job in group:
            job.value, job.effects = None, []
            job.error = type(meaning)(meaning.message, retry_after_s=meaning.retry_after_s)
            job.error.__cause__ = err

    def _maintain(self, job: _Job) -> None:
        try:
            job.value = job.step(self._records())
        except sqlite3.Error as err:
            job.error = from_sqlite_error(err)
        except BaseException as err:  # noqa: BLE001  # belongs to the caller
            job.error = err


def _deliver(group: list[_Job]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop | None, list[_Job]] = {}
    for job in group:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, jobs in by_loop.items():
        if loop is None:
            _resolve(jobs)
            continue
        try:
            loop.call_soon_threadsafe(_resolve, jobs)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        job.resolve()
