"""The operations of one envelope as calls: each with its slice of the payload, its room in the answer, its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from shosoin.base import ObjectId, Rejected, ShosoinError, Unavailable, VersionId
from shosoin.base.errors import Alarm, Denied, PeerFault
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.envelope import HEADER_BYTES_MAX, MalformedEnvelope
from shosoin.vault.ports import Buffer, ShareKey, SiteTransaction
from shosoin.vault.quotas import OwnerRecord
from shosoin.vault.register_operations import RegisterCall

__all__ = [
    "KINDS",
    "READ_BYTES_MAX",
    "Call",
    "Step",
    "bytes_answered",
    "number_of",
    "raised",
    "ranks",
    "share_key",
    "split_calls",
    "told",
    "within",
]

KINDS: dict[str, type[ShosoinError]] = {
    "rejected": Rejected,
    "denied": Denied,
    "unavailable": Unavailable,
    "peer_fault": PeerFault,
    "alarm": Alarm,
}
Step = Callable[[SiteTransaction], dict[str, Any]]
"""What an operation does to the records, in one transaction."""
T = TypeVar("T")
READ_BYTES_MAX = 8 << 20
_OPERATIONS_MAX = 4096
_RESULT_BYTES, _LISTED_BYTES = 128, 128
"""What a result takes beside its texts, and an entry of an inventory."""


def kind_of(error: ShosoinError) -> str:
    """Return the wire name of an error's kind."""
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "defect")


def share_key(owner: OwnerRecord, op: dict[str, Any]) -> ShareKey:
    """Read which share an operation is about.

    Raises:
        Rejected: an epoch or an identifier that cannot be read.
    """
    epoch = op.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch < 1 << 31:
        raise Rejected("an epoch that cannot be read", code="vault.bad_operation")
    return ShareKey(owner.owner, ObjectId(str(op.get("object"))), VersionId(str(op.get("version"))), epoch)


def number_of(op: dict[str, Any], name: str, high: int, low: int = 0) -> int:
    """Read a whole number of an operation.

    Raises:
        Rejected: it is none, or outside its range.
    """
    value = op.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Rejected(f"{name} must be a whole number from {low} to {high}", code="vault.bad_operation")
    return value


@dataclass(slots=True)
class Room:
    """What the results of one envelope may still take: a short request must not make the node build a long answer."""

    left_bytes: int = HEADER_BYTES_MAX
    sets: dict[str, str] = field(default_factory=dict)
    """Signatures that results refer to; each is sent once."""

    def attach(self, name: str, text: str) -> None:
        """Send signatures along.

        Raises:
            Rejected: they do not fit.
        """
        if name not in self.sets:
            self.take_bytes(len(text))
            self.sets[name] = text

    def take(self, result: dict[str, Any]) -> None:
        """Count a result.

        Raises:
            Rejected: it does not fit.
        """
        size = _RESULT_BYTES + sum(len(value) for value in result.values() if isinstance(value, str))
        size += _LISTED_BYTES * len(result.get("shares", ()))
        self.take_bytes(size)

    def take_bytes(self, size: int) -> None:
        """Count so many bytes of a header.

        Raises:
            Rejected: they do not fit.
        """
        if size > self.left_bytes:
            raise Rejected("the answer would be longer than any may be", code="vault.answer_too_long")
        self.left_bytes -= size


@dataclass(slots=True)
class Call:
    """One operation with its slice of the payload, and what came of it."""

    op: dict[str, Any]
    data: memoryview
    result: dict[str, Any]
    class_: str
    room: Room
    out: Buffer = field(default=b"", repr=False)
    register: RegisterCall | None = None
    """The operation as one on a register, if it is."""

    def apart(self) -> Call:
        """Return a copy that holds nothing of the payload."""
        return replace(self, data=memoryview(b""))

    def require(self, bound: str) -> None:
        """Refuse what came under another class: a forged certificate must not reach what class its protects."""
        if self.class_ not in {"local", bound}:
            raise Denied(
                f"this belongs to class {bound}, the request came under {self.class_}", code="vault.wrong_class"
            )


@dataclass(frozen=True, slots=True)
class told:  # noqa: N801  # reads as a verb: with told(call)
    """Make an error the result of its operation: one that fails does not spoil the others."""

    call: Call

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ShosoinError):
            return False
        self.call.out = b""
        self.call.result = {"error": {"kind": kind_of(error), "code": error.code, "message": error.message}}
        return True


def raised(outcome: T | ShosoinError) -> T:
    """Return an outcome, or raise it if it is an error."""
    if isinstance(outcome, ShosoinError):
        raise outcome
    return outcome


def within(room: Room, step: Step, tx: SiteTransaction) -> dict[str, Any]:
    """Run a step; it is undone if its result is too long."""
    result = step(tx)
    room.take(result)
    return result


def ranks(calls: Sequence[Call]) -> list[list[Call]]:
    """Sort operations by how many of the same object come before them."""
    ranks: list[list[Call]] = []
    seen: Counter[str] = Counter()
    for call in calls:
        where = str(call.op.get("object", call.op.get("register")))
        rank = seen[where]
        seen[where] += 1
        if rank == len(ranks):
            ranks.append([])
        ranks[rank].append(call)
    return ranks


def bytes_answered(op: dict[str, Any]) -> int:
    """Return how much payload an operation answers with."""
    if op.get("op") == "read":
        return number_of(op, "size", READ_BYTES_MAX, 1)
    return ELEMENT_BYTES if str(op.get("op")) in {"digest", "repair_digest"} else 0


def split_calls(class_: str, operations: Any, payload: memoryview) -> list[Call]:
    """Give each operation its slice of the payload (``write`` takes ``size`` bytes, others none)."""
    if not isinstance(operations, list) or not 0 < len(operations) <= _OPERATIONS_MAX:
        raise MalformedEnvelope(f"expected 1 to {_OPERATIONS_MAX} operations")
    calls, position, room = [], 0, Room()
    for op in operations:
        if not isinstance(op, dict):
            raise MalformedEnvelope("an operation that is not an object")
        size = number_of(op, "size", len(payload) - position) if op.get("op") == "write" else 0
        calls.append(Call(op, payload[position : position + size], {}, class_, room))
        position += size
    if position != len(payload):
        raise MalformedEnvelope("the payload is longer than its operations")
    return calls
