"""Running several coroutines at once over the ``Runtime`` port: all of them, or as many as are enough."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from shosoin.base.ports import Runtime, Task

__all__ = ["collect", "failure", "gather", "gather_few", "settle", "succeeded"]

T = TypeVar("T")


async def settle(runtime: Runtime, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[Task[T]]:
    """Run all to their end and return the ended tasks in order; cancel all if the caller is cancelled."""
    tasks = [runtime.start(coroutine) for coroutine in coroutines]
    try:
        if tasks:
            await runtime.wait(tasks, timeout_s=None, first=False)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
    return tasks


async def gather(runtime: Runtime, coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all to their end and return the results in order, or raise the first failure."""
    return [task.result() for task in await settle(runtime, coroutines)]


async def gather_few(runtime: Runtime, coroutines: Sequence[Coroutine[Any, Any, T]], *, at_once: int) -> list[T]:
    """Like ``gather`` with at most ``at_once`` running; after a failure no more are started."""
    left = iter(coroutines)
    results: list[list[T]] = []
    failed = False

    async def work() -> None:
        nonlocal failed
        for coroutine in left:
            place: list[T] = []
            results.append(place)
            try:
                place.append(await coroutine)
            except BaseException:
                failed = True
                raise
            if failed:
                return

    try:
        await gather(runtime, [work() for _ in range(min(at_once, len(coroutines)))])
    finally:
        for coroutine in coroutines:
            coroutine.close()
    return [place[0] for place in results]


async def collect(
    runtime: Runtime,
    coroutines: Iterable[Coroutine[Any, Any, T]],
    *,
    enough: int,
    grace_s: float,
    running: Iterable[Task[T]] = (),
) -> list[Task[T]]:
    """Run all, but once ``enough`` have succeeded wait only ``grace_s`` more; stragglers are cancelled.

    ``running`` are tasks that have been started and count too. Returns the tasks in order, those first; what was cut
    short is not ``done`` or holds a cancellation.
    """
    tasks = [*running, *(runtime.start(coroutine) for coroutine in coroutines)]
    deadline_s: float | None = None
    try:
        while pending := [task for task in tasks if not task.done()]:
            if deadline_s is None and sum(succeeded(task) for task in tasks) >= enough:
                deadline_s = runtime.now_s() + grace_s
            left_s = None if deadline_s is None else deadline_s - runtime.now_s()
            if left_s is not None and left_s <= 0:
                break
            await runtime.wait(pending, timeout_s=left_s, first=True)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
    return tasks


def succeeded(task: Task[Any]) -> bool:
    """Whether a task ended without an exception."""
    return task.done() and failure(task) is None


def failure(task: Task[Any]) -> BaseException | None:
    """Return what a task raised; a task that was cut short counts as cancelled."""
    if not task.done():
        return TimeoutError("cut short")
    try:
        task.result()
    except BaseException as error:  # noqa: BLE001  # cancellation of the task is a result here, not ours
        return error
    return None
