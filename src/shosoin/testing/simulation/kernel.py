"""A deterministic event loop: simulated time, a seeded choice among what can run, and processes that can die.

Code under test sees it through the ports ``Runtime`` and ``Clock`` alone. A *process* owns coroutines; killing it
closes them where they stand, and every port of a dead process raises ``Killed`` at once, so that no handler of the dead
code reaches the outside. A frozen process keeps its coroutines, and what should run waits until it is thawed.

>>> kernel = Kernel(seed=1)
>>> async def nap(runtime):
...     await runtime.sleep(2.5)
...     return runtime.now_s()
>>> process = kernel.process("client")
>>> task = process.start(nap(process.runtime))
>>> kernel.run(until_s=10.0)
>>> task.result()
2.5
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Coroutine, Generator
from itertools import count
from typing import Any, Generic, TypeVar

from shosoin.base import SimulationRng
from shosoin.base.ports import Task

__all__ = ["EPOCH_S", "Cancelled", "Kernel", "Killed", "Process", "ProcessRuntime", "SimTask"]

T = TypeVar("T")
EPOCH_S = 1_800_000_000.0
"""Wall clock at the start of every simulation."""
_STEPS_MAX = 5_000_000


class Killed(BaseException):
    """The process died; nothing of it goes on."""


class Cancelled(BaseException):
    """The task was asked to stop."""


class _Park:
    """Gives control back to the kernel until somebody wakes the task."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class SimTask(Generic[T]):
    """A coroutine of a process."""

    def __init__(self, process: Process, coroutine: Coroutine[Any, Any, T], origin: str) -> None:
        self.process = process
        self.origin = origin
        """Who caused it: a client's name for what a node does for that client."""
        self._coroutine = coroutine
        self._cancelling = False
        self._ended = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self.queued = False
        self._watchers: list[SimTask[Any]] = []

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended

    def result(self) -> T:
        """Return what it returned or raise what it raised."""
        if not self._ended:
            raise RuntimeError("the task still runs")
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # it ended without an error

    def cancel(self) -> None:
        """Ask it to stop."""
        if not self._ended:
            self._cancelling = True
            self.wake()

    def wake(self) -> None:
        """Let it run again."""
        if not self._ended:
            self.process.kernel.ready(self)

    def watch(self, task: SimTask[Any]) -> None:
        """Wake another task when this one ends."""
        self._watchers.append(task)

    def step(self) -> None:
        """Run until it parks or ends."""
        try:
            if self._cancelling:
                self._cancelling = False
                self._coroutine.throw(Cancelled())
            else:
                self._coroutine.send(None)
        except StopIteration as stop:
            self._end(stop.value, None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # whatever a task raises is its result
            self._end(None, error)

    def kill(self) -> None:
        """Stop it where it stands."""
        if not self._ended:
            self._end(None, Killed())
            try:
                self._coroutine.close()
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:  # noqa: BLE001, S110  # handlers of dead code met dead ports
                pass

    def _end(self, value: T | None, error: BaseException | None) -> None:
        self._ended, self._value, self._error = True, value, error
        self.process.tasks.pop(self, None)
        for watcher in self._watchers:
            watcher.wake()
        self._watchers = []


class Process:
    """Something that can crash and freeze by itself: a client, a share node."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        self.kernel = kernel
        self.name = name
        self.alive = True
        self.frozen = False
        self.wall_offset_s = 0.0
        self.tasks: dict[SimTask[Any], None] = {}
        self.parked: list[SimTask[Any]] = []
        self.runtime = ProcessRuntime(self)

    def check(self) -> None:
        """Raise ``Killed`` if the process is dead."""
        if not self.alive:
            raise Killed

    def start(self, coroutine: Coroutine[Any, Any, T], origin: str = "") -> SimTask[T]:
        """Run a coroutine in this process."""
        if not self.alive:
            coroutine.close()
            raise Killed
        current = self.kernel.current
        task = SimTask(self, coroutine, origin or (current.origin if current else ""))
        self.tasks[task] = None
        self.kernel.ready(task)
        return task

    def kill(self) -> None:
        """Crash: memory and coroutines are gone. A coroutine that runs now meets ``Killed`` at its next port."""
        self.alive = False
        for task in list(self.tasks):
            if task is not self.kernel.current:
                task.kill()
        self.parked.clear()

    def freeze(self) -> None:
        """Stop running without losing anything."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on."""
        self.frozen = False
        parked, self.parked = self.parked, []
        for task in parked:
            task.queued = False
            task.wake()


class ProcessRuntime:
    """``Runtime`` and ``Clock`` of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._kernel = process.kernel

    def now_s(self) -> float:
        """Return simulated seconds since the start."""
        self._process.check()
        return self._kernel.now_s

    def wall_s(self) -> float:
        """Return the process's idea of the time of day; a fault may step it."""
        self._process.check()
        return EPOCH_S + self._kernel.now_s + self._process.wall_offset_s

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self.wait_until(lambda: False, timeout_s=max(seconds, 0.0))

    def start(self, coroutine: Coroutine[Any, Any, T]) -> SimTask[T]:
        """Run a coroutine beside the caller."""
        return self._process.start(coroutine)

    async def wait(self, tasks: Collection[Task[Any]], *, timeout_s: float | None, first: bool) -> None:
        """Wait until all tasks (or, with ``first``, any one) ended or the time is over."""
        self._process.check()
        current = self._kernel.running()
        enough = any if first else all
        if not tasks or enough(task.done() for task in tasks):
            return
        for task in tasks:
            if not task.done():
                task.watch(current)  # type: ignore[attr-defined]  # every task here is one of ours
        await self.wait_until(lambda: enough(task.done() for task in tasks), timeout_s=timeout_s)

    async def wait_until(self, ended: Callable[[], bool], *, timeout_s: float | None) -> None:
        """Wait until a condition holds (whoever makes it true wakes the task) or the time is over."""
        self._process.check()
        current, deadline_s = self._kernel.running(), None
        if timeout_s is not None:
            deadline_s = self._kernel.now_s + timeout_s
            self._kernel.at(deadline_s, current.wake)
        while not ended() and (deadline_s is None or self._kernel.now_s < deadline_s):
            await _Park()
            self._process.check()

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Compute, after letting others run."""
        self._process.check()
        self._kernel.running().wake()
        await _Park()
        self._process.check()
        return function(*arguments)


class Kernel:
    """Time and the choice of what runs next."""

    def __init__(self, seed: int) -> None:
        self.now_s = 0.0
        self.current: SimTask[Any] | None = None
        self.steps = 0
        self._rng = SimulationRng(seed)
        self._ready: list[SimTask[Any]] = []
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()

    def process(self, name: str) -> Process:
        """Return a new process."""
        return Process(self, name)

    def running(self) -> SimTask[Any]:
        """Return the task that runs now."""
        if self.current is None:
            raise RuntimeError("a port was used outside of any task")
        return self.current

    def ready(self, task: SimTask[Any]) -> None:
        """Queue a task, or park it while its process is frozen."""
        if task.queued:
            return
        task.queued = True
        (task.process.parked if task.process.frozen else self._ready).append(task)

    def at(self, time_s: float, callback: Callable[[], object]) -> None:
        """Call something at a time."""
        heapq.heappush(self._timers, (max(time_s, self.now_s), next(self._numbers), callback))

    def after(self, delay_s: float, callback: Callable[[], object]) -> None:
        """Call something later."""
        self.at(self.now_s + delay_s, callback)

    def run(self, *, until_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Run until a time, until nothing can run, or until ``stop`` holds (asked whenever time moves)."""
        while True:
            while self._ready:
                self._step()
            if stop() or not self._timers or self._timers[0][0] > until_s:
                return
            self.now_s, _, callback = heapq.heappop(self._timers)
            callback()

    def _step(self) -> None:
        self.steps += 1
        if self.steps > _STEPS_MAX:
            raise RuntimeError("the simulation does not come to rest")
        place = self._rng.integer(0, len(self._ready) - 1)
        self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
        task = self._ready.pop()
        task.queued = False
        if task.done():
            return
        if task.process.frozen:
            self.ready(task)
            return
        self.current = task
        try:
            task.step()
        finally:
            self.current = None
