"""What the vault needs of the outside: a way to a share node, and a durable store at a share node.

Both are protocols. ``shosoin.adapters`` has the real ones (HTTPS, files with SQLite); a simulation brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from shosoin.base import ObjectId, OwnerId, ShosoinError, SiteId, Unavailable, VersionId

__all__ = [
    "Buffer",
    "NodeLink",
    "NodeSlow",
    "RegisterRow",
    "ShareDamaged",
    "ShareKey",
    "ShareRow",
    "ShareState",
    "SiteStore",
    "SiteTransaction",
]

T = TypeVar("T")
Buffer = bytes | bytearray | memoryview


class ShareDamaged(Unavailable):
    """The share at rest no longer matches its own local checksum (bit rot); it is not served."""

    code = "vault.share_damaged"


class NodeSlow(Unavailable):
    """A node did not answer in the time it was given."""

    code = "vault.node_slow"


class ShareState(StrEnum):
    """Life of a share at a site."""

    STAGED = "staged"
    """Durable, complete, not part of an object yet; an orphan after a while."""
    PINNED = "pinned"
    """The register accepted a value that counts on it; never collected."""
    COMMITTED = "committed"
    """Part of a committed version."""


@dataclass(frozen=True, slots=True)
class ShareKey:
    """Names one share at one site."""

    owner: OwnerId
    object_id: ObjectId
    version: VersionId
    epoch: int


@dataclass(frozen=True, slots=True)
class ShareRow:
    """What a site records of a share beside its bytes."""

    key: ShareKey
    size_bytes: int
    state: ShareState
    created_wall_s: float
    x_index: int
    """1-based position of the site in the object's placement; its evaluation point is ``kernels.point_of(x_index)``."""
    threshold: int
    """k of the scheme."""
    mask_elements: int
    """U: number of audit mask elements at the start of the share."""
    locator: str
    """Where the store keeps the bytes; meaningful to the store alone."""
    class_: str
    """Transfer class it came under; only requests of that class (or of the home site) get at it."""

    def with_state(self, state: ShareState) -> ShareRow:
        """Return a copy in another state."""
        return replace(self, state=state)


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """Durable state of one register at one site. Values are canonical JSON text."""

    promised: tuple[int, str] = (0, "")
    """Highest ballot promised: (round, proposer)."""
    accepted_ballot: tuple[int, str] = (0, "")
    accepted_value: str | None = None
    committed_ballot: tuple[int, str] = (0, "")
    committed_value: str | None = None
    certificate: str | None = None
    """Who accepted the committed value, without their signatures."""
    signature_set: str | None = None
    """Name of the signatures that the certificate refers to (see ``put_signatures``)."""


class SiteTransaction(Protocol):
    """One atomic step on a site's records. All or none of it is durable."""

    def register(self, owner: OwnerId, register_id: ObjectId) -> RegisterRow | None:
        """Return a register, or ``None`` if nobody wrote it."""
        ...

    def put_register(self, owner: OwnerId, register_id: ObjectId, row: RegisterRow) -> None:
        """Replace a register. Signatures that no register refers to any more may be forgotten."""
        ...

    def put_signatures(self, name: str, text: str) -> None:
        """Keep signatures that registers will refer to, in this transaction at the latest."""
        ...

    def signatures(self, name: str) -> str | None:
        """Return signatures that a register refers to."""
        ...

    def share(self, key: ShareKey) -> ShareRow | None:
        """Return a share's record."""
        ...

    def put_share(self, row: ShareRow) -> None:
        """Insert or replace a share's record."""
        ...

    def shares_of(self, owner: OwnerId, object_id: ObjectId) -> Sequence[ShareRow]:
        """Return the records of all versions and epochs of an object."""
        ...

    def list_shares(self, owner: OwnerId, after: str, limit: int) -> Sequence[ShareRow]:
        """Return records in order of object ID, starting after the given one."""
        ...

    def delete_share(self, key: ShareKey) -> None:
        """Delete a record; its bytes are overwritten and removed after the transaction is durable."""
        ...

    def used_bytes(self, owner: OwnerId) -> int:
        """Return the bytes that an owner's shares take, staged ones included."""
        ...

    def challenges(self, key: ShareKey) -> Sequence[str]:
        """Return the audit challenges already answered for a share, as hexadecimal text."""
        ...

    def add_challenge(self, key: ShareKey, challenge: str) -> None:
        """Record an audit challenge."""
        ...

    def use_attempt(self, key: ShareKey, attempt: str) -> bool:
        """Record that an attempt to repair a share was begun; false if it was recorded before. Never forgotten."""
        ...


class SiteStore(Protocol):
    """Everything durable at a share node.

    Raises: ``Unavailable`` with code ``vault.disk_full`` when the disk is full (nothing half done stays).
    """

    async def transact(self, step: Callable[[SiteTransaction], T]) -> T:
        """Run ``step`` atomically; when this returns its effects survive a crash.

        Steps of concurrent callers may share one commit. ``step`` is synchronous, short, and may run again never:
        if it raises, nothing of it is kept and the exception is passed on.
        """
        ...

    async def transact_each(self, steps: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps in order, each atomic by itself, and return what each returned or why it failed.

        Cheaper than ``transact`` for each. What is no ``ShosoinError`` is raised, whichever step it came from.
        """
        ...

    async def look_each(self, looks: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps that only read; what they saw was durable when this returns.

        Cheaper than ``transact_each``: nothing is committed.
        """
        ...

    async def write(self, key: ShareKey, offset: int, data: Buffer) -> None:
        """Put bytes into the staging area of a share (created on first use); not durable yet."""
        ...

    async def finish(self, key: ShareKey, size_bytes: int) -> str:
        """Make the staged bytes durable and return their locator.

        Raises ``Rejected`` (code ``vault.stage_incomplete``) unless exactly ``[0, size_bytes)`` was written.
        The caller then inserts a ``ShareRow`` with the locator; bytes without a row are garbage after a restart.
        """
        ...

    async def read(self, row: ShareRow, offset: int, length: int) -> Buffer:
        """Return bytes of a share.

        Raises ``ShareDamaged`` when the local checksum of a touched part fails or the bytes are gone.
        """
        ...

    async def read_each(self, wanted: Sequence[tuple[ShareRow, int, int]]) -> list[Buffer | ShosoinError]:
        """Read several ranges (row, offset, length); each is the bytes or the error that ``read`` would raise."""
        ...

    async def discard(self, key: ShareKey) -> None:
        """Forget a staging area; no error if there is none."""
        ...


class NodeLink(Protocol):
    """A client's way to one share node: request bytes out, response bytes back."""

    @property
    def site(self) -> SiteId:
        """The site that the node belongs to."""
        ...

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        """POST ``body`` (parts, sent one after the other) and return the answer.

        Raises: ``NodeSlow`` (timeout), ``Unavailable`` (unreachable, HTTP 503), ``Denied`` (401), ``Rejected`` (400),
        ``PeerFault`` (anything else, too much, not HTTP), ``Alarm`` (500 of kind alarm).
        """
        ...


Json = dict[str, Any]
