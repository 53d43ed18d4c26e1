"""Seals that are asked for again: one that still runs is joined, one that is done gets the same answer.

Making a large share durable can take longer than its owner waits. The owner then repeats the request, and by then the
staged bytes are taken: a second seal would find nothing. So a seal runs apart from the request that began it, goes on
when that request is given up, and whoever asks the same meanwhile waits for its end and gets its answer. What the site
committed to contribute to the deal check is remembered, so that the answer does not change afterwards either.

A restart forgets contributions; the next seal then commits to a new one, which serves the owner as well as the lost
one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from shosoin.base import Entropy, OwnerId
from shosoin.base.ports import Runtime, Task
from shosoin.vault.commitments import Contribution, ContributionUnknown
from shosoin.vault.ports import ShareKey

__all__ = ["SealCall", "Seals"]

_REMEMBERED_MAX = 1 << 15
"""Contributions of one owner; of a larger batch the first could not be opened any more."""


class SealCall(Protocol):
    """A request to seal a share."""

    op: dict[str, Any]
    class_: str
    result: dict[str, Any]

    def apart(self) -> Self:
        """Return a copy that holds nothing of the request's payload."""
        ...


C = TypeVar("C", bound=SealCall)


@dataclass(slots=True)
class _Running(Generic[C]):
    call: C
    task: Task[None] | None = None

    def same(self, call: C) -> bool:
        return (self.call.op, self.call.class_) == (call.op, call.class_)


class Seals(Generic[C]):
    """The seals of one site."""

    def __init__(self, runtime: Runtime, entropy: Entropy) -> None:
        self._runtime = runtime
        self._entropy = entropy
        self._running: dict[ShareKey, _Running[C]] = {}
        self._contributions: dict[OwnerId, OrderedDict[ShareKey, Contribution]] = {}
        """By owner, so that nobody makes us forget what others committed to."""

    async def run(
        self, calls: Sequence[tuple[C, ShareKey]], work: Callable[[list[C]], Coroutine[Any, Any, None]]
    ) -> list[tuple[C, ShareKey]]:
        """Give every call its result, from ``work`` or from the same call that is in progress; return the latter.

        ``work`` gets copies of the calls that nobody began and sets their results. A call that differs from one in
        progress on its share waits for that one's end and begins after it.
        """
        while different := [key for call, key in calls if key in self._running and not self._running[key].same(call)]:
            await self._ended(different)
        begun: dict[ShareKey, _Running[C]] = {}
        joined = [(call, key) for call, key in calls if key in self._running]
        waited = [
            (call, self._running.get(key) or begun.setdefault(key, _Running(call.apart()))) for call, key in calls
        ]
        if begun:
            task = self._runtime.start(self._work(begun, work))
            for each in begun.values():
                each.task = task
            self._running.update(begun)
        tasks = {id(each.task): each.task for _, each in waited if each.task is not None}
        await self._runtime.wait(list(tasks.values()), timeout_s=None, first=False)
        for task in tasks.values():
            task.result()
        for call, each in waited:
            call.result = dict(each.call.result)
        return joined

    async def _work(
        self, begun: dict[ShareKey, _Running[C]], work: Callable[[list[C]], Coroutine[Any, Any, None]]
    ) -> None:
        try:
            await work([each.call for each in begun.values()])
        finally:
            for key in begun:
                del self._running[key]

    async def _ended(self, keys: Iterable[ShareKey]) -> None:
        running = [self._running[key].task for key in keys if key in self._running]
        await self._runtime.wait([task for task in running if task is not None], timeout_s=None, first=False)

    def runs(self, key: ShareKey) -> bool:
        """Whether a seal of a share is in progress."""
        return key in self._running

    async def forget(self, keys: Sequence[ShareKey]) -> None:
        """Wait until no seal of these shares runs, and forget what was contributed."""
        while any(key in self._running for key in keys):
            await self._ended(keys)
        for key in keys:
            self._of(key).pop(key, None)

    def contribution(self, key: ShareKey, *, fresh: bool) -> Contribution:
        """Return what a share contributes to its deal check: drawn once, then the same while it is remembered."""
        known = self._of(key)
        found = None if fresh else known.get(key)
        if found is None:
            found = known[key] = Contribution.fresh(self._entropy)
            known.move_to_end(key)
            if len(known) > _REMEMBERED_MAX:
                known.popitem(last=False)
        return found

    def _of(self, key: ShareKey) -> OrderedDict[ShareKey, Contribution]:
        return self._contributions.setdefault(key.owner, OrderedDict())

    def committed(self, key: ShareKey) -> Contribution:
        """Return what a share has committed to contribute.

        Raises:
            ContributionUnknown: nothing is remembered.
        """
        try:
            return self._of(key)[key]
        except KeyError:
            raise ContributionUnknown("nothing is known of a commitment for this share") from None
