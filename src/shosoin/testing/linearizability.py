"""Whether a history of reads and writes could have come from one register per name.

A history is linearizable if every operation can be given one moment between its call and its return so that each read
sees the write before it. Names do not influence each other, so each is checked by itself (Herlihy and Wing 1990). The
search tries what could come next, remembers the (done, value) pairs that led nowhere (Wing and Gong 1993, Lowe 2017),
takes a fitting read at once, and takes a write of unknown fate only where a read needs it.

>>> history = [
...     Operation("a", Kind.WRITE, "x", called=1, returned=2),
...     Operation("a", Kind.WRITE, "y", called=3, returned=4),
...     Operation("a", Kind.READ, "x", called=5, returned=6, client="anna"),
... ]
>>> print(find_violations(history)[0].story())
'a' is not linearizable; these operations suffice:
  from 1 to 2: wrote 'x'
  from 3 to 4: wrote 'y'
  from 5 to 6: anna read 'x'
  the last read is stale: 'x' was replaced before the read began

Not covered: reads that were served as unproven promise less and are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

__all__ = ["Fate", "History", "Kind", "Operation", "Pending", "Violation", "find_violations", "is_linearizable"]

_SHOWN_CHARACTERS = 40


class Kind(StrEnum):
    """What an operation does to a name."""

    WRITE = "write"
    REMOVE = "remove"
    READ = "read"


class Fate(StrEnum):
    """What the caller knows of an operation."""

    OK = "ok"
    FAILED = "failed"
    """It certainly had no effect."""
    UNKNOWN = "unknown"
    """It took effect between call and return, or never; without a return: at any moment after the call, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one name; times are of any one clock, in any unit."""

    name: str
    kind: Kind
    value: Hashable = None
    """What was written, or what was read; ``None`` is "no such name"."""
    called: float = 0
    returned: float = math.inf
    fate: Fate = Fate.OK
    client: str = ""
    proven: bool = True
    """False for a read that was served as unproven."""

    @property
    def result(self) -> Hashable:
        """The value that the register has after a write or a removal, or must have at a read."""
        return None if self.kind is Kind.REMOVE else self.value

    @property
    def reads(self) -> bool:
        """Whether it leaves the register as it is."""
        return self.kind is Kind.READ

    def line(self) -> str:
        """Return a line of a story."""
        deed = {
            Kind.WRITE: f"wrote {_shown(self.value)}",
            Kind.REMOVE: "removed it",
            Kind.READ: f"read {_shown(self.value)}" if self.value is not None else "read that there is nothing",
        }[self.kind]
        who = f"{self.client} " if self.client else ""
        times = f"from {self.called:g}" + (f" to {self.returned:g}" if self.returned < math.inf else ", no end known")
        return f"{times}: {who}{'perhaps ' if self.fate is Fate.UNKNOWN else ''}{deed}"


@dataclass(frozen=True, slots=True)
class Violation:
    """A name whose history no register explains, with few operations that already show it."""

    name: str
    operations: tuple[Operation, ...]
    initial: Hashable = None

    def story(self) -> str:
        """Return the operations in order of their calls and, where it is simple, what is wrong."""
        lines = [f"{self.name!r} is not linearizable; these operations suffice:"]
        lines += [f"  {operation.line()}" for operation in self.operations]
        return "\n".join([*lines, f"  {self._reason()}"])

    def _reason(self) -> str:
        for read in reversed([each for each in self.operations if each.reads]):
            sources = [each for each in self.operations if not each.reads and each.result == read.value]
            if not sources and read.value != self.initial:
                return f"nobody wrote {_shown(read.value)}"
            if sources and all(source.called > read.returned for source in sources) and read.value != self.initial:
                return f"{_shown(read.value)} was read before anybody wrote it"
            if self._stale(read, sources):
                return f"the last read is stale: {_shown(read.value)} was replaced before the read began"
        return "every order that respects the times contradicts a read"

    def _stale(self, read: Operation, sources: Sequence[Operation]) -> bool:
        """Whether a write lies between all sources of the read (or the beginning) and the read."""
        known = max((source.returned for source in sources), default=-math.inf)
        return any(
            not each.reads
            and each.fate is Fate.OK
            and each.result != read.value
            and each.called > known
            and each.returned < read.called
            for each in self.operations
        )


def find_violations(operations: Iterable[Operation], initial: Hashable = None) -> list[Violation]:
    """Return a violation for each name whose history no register explains.

    An operation precedes another if it returned strictly before the other was called. ``initial`` is the value of every
    name before the first operation. The violation's operations are a fragment of which none can be spared.
    """
    names: dict[str, list[Operation]] = {}
    for operation in operations:
        names.setdefault(operation.name, []).append(operation)
    return [
        Violation(name, tuple(_fragment(relevant, initial)), initial)
        for name, relevant in ((name, _relevant(found)) for name, found in names.items())
        if not _explained(relevant, initial)
    ]


def is_linearizable(operations: Iterable[Operation], initial: Hashable = None) -> bool:
    """Whether a register per name explains the whole history."""
    return not find_violations(operations, initial)


def _relevant(operations: Iterable[Operation]) -> list[Operation]:
    """Leave out what says nothing, and sort by call."""
    kept = [each for each in operations if each.fate is not Fate.FAILED]
    kept = [each for each in kept if not each.reads or (each.proven and each.fate is Fate.OK)]
    return sorted(kept, key=lambda each: (each.called, each.returned))


def _explained(operations: Sequence[Operation], initial: Hashable) -> bool:
    """Search for an order; ``operations`` are sorted by call and free of failed ones."""
    read_values = {each.value for each in operations if each.reads}
    useful = [each for each in operations if each.fate is Fate.OK or each.result in read_values]
    required = sum(1 << index for index, each in enumerate(useful) if each.fate is Fate.OK)
    stack: list[tuple[int, Hashable]] = [(0, initial)]
    met: set[tuple[int, Hashable]] = set(stack)
    while stack:
        done, value = stack.pop()
        done = _with_fitting_reads(useful, done, value)
        if done & required == required:
            return True
        for index in _next(useful, done):
            each = useful[index]
            if each.reads and each.value != value:
                continue
            if each.fate is Fate.UNKNOWN and not _awaited(useful, done, each.result):
                continue
            state = done | 1 << index, each.result
            if state not in met:
                met.add(state)
                stack.append(state)
    return False


def _next(operations: Sequence[Operation], done: int) -> list[int]:
    """Return what may come next: what was called before the first open operation returned.

    One of unknown fate binds nobody, but its own moment is over when something called after its return has come.
    """
    first = ((done + 1) & ~done).bit_length() - 1
    latest = operations[done.bit_length() - 1].called if done else -math.inf
    limit, found = math.inf, []
    for index in range(first, len(operations)):
        each = operations[index]
        if each.called > limit:
            break
        if not done >> index & 1:
            found.append(index)
            limit = min(limit, each.returned) if each.fate is Fate.OK else limit
    return [index for index in found if operations[index].called <= limit and operations[index].returned >= latest]


def _with_fitting_reads(operations: Sequence[Operation], done: int, value: Hashable) -> int:
    """Take every read that may come next, fits and ends nobody's time; as it changes nothing, no solution is lost."""
    while True:
        possible = _next(operations, done)
        limit = min((operations[index].returned for index in possible), default=math.inf)
        fitting = [i for i in possible if operations[i].reads and operations[i].value == value]
        fitting = [i for i in fitting if operations[i].called <= limit]
        if not fitting:
            return done
        for index in fitting:
            done |= 1 << index


def _awaited(operations: Sequence[Operation], done: int, value: Hashable) -> bool:
    return any(each.reads and each.value == value and not done >> i & 1 for i, each in enumerate(operations))


def _fragment(operations: Sequence[Operation], initial: Hashable) -> list[Operation]:
    """Drop what the contradiction does not need.

    A read can always be dropped, and a write together with all reads of its value: either leaves a linearizable history
    linearizable, so a fragment that is not proves that the whole is not.
    """
    kept = list(operations)
    size = len(kept)
    while size:
        smaller, at = False, len(kept)
        while at > 0:
            less = _without(kept, kept[max(at - size, 0) : at])
            at -= size
            if not _explained(less, initial):
                kept, smaller = less, True
                at = min(at, len(kept))
        size = 1 if size == 1 and smaller else size // 2
    return kept


def _without(operations: Sequence[Operation], dropped: Sequence[Operation]) -> list[Operation]:
    gone = {id(each) for each in dropped}
    values = {each.result for each in dropped if not each.reads}
    return [each for each in operations if id(each) not in gone and not (each.reads and each.value in values)]


class Pending:
    """An operation that was called and has not returned; call one of its methods when it does."""

    def __init__(self, history: History, operation: Operation) -> None:
        self._history = history
        self._operation = operation
        self._place = history.add(replace(operation, fate=Fate.UNKNOWN))

    def ok(self, value: Hashable = None, *, proven: bool = True) -> None:
        """Record success; a read gives what it read."""
        read = self._operation.reads
        self._end(replace(self._operation, value=value if read else self._operation.value, proven=proven))

    def failed(self) -> None:
        """Record that it certainly had no effect."""
        self._end(replace(self._operation, fate=Fate.FAILED))

    def over(self) -> None:
        """Record that it had its effect by now, or never has one."""
        self._end(replace(self._operation, fate=Fate.UNKNOWN))

    def found_nothing(self) -> None:
        """Record that it did nothing because there is no such name, which is a read."""
        self._end(replace(self._operation, fate=Fate.OK, kind=Kind.READ, value=None))

    def _end(self, operation: Operation) -> None:
        self._history.operations[self._place] = replace(operation, returned=self._history.now())


class History:
    """Records operations as they happen; what never ends stays unknown.

    >>> history = History()
    >>> put = history.begin(Kind.WRITE, "a", "x", client="anna")
    >>> put.ok()
    >>> history.begin(Kind.READ, "a").ok("x")
    >>> is_linearizable(history.operations)
    True
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self._ticks = 0
        self._now = now
        self.operations: list[Operation] = []

    def now(self) -> float:
        """Return the clock's time, or one more than before if there is no clock."""
        if self._now is not None:
            return self._now()
        self._ticks += 1
        return self._ticks

    def begin(self, kind: Kind, name: str, value: Hashable = None, *, client: str = "") -> Pending:
        """Record a call."""
        return Pending(self, Operation(name, kind, value, called=self.now(), client=client))

    def add(self, operation: Operation) -> int:
        """Append an operation and return its place."""
        self.operations.append(operation)
        return len(self.operations) - 1


def _shown(value: Hashable) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
