"""How much an owner may have at a site, staged bytes included, and under which class each staging area was begun."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shosoin.base import Denied, OwnerId, Rejected, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Clock
from shosoin.vault.ports import ShareKey, ShareRow, SiteStore, SiteTransaction

__all__ = ["OwnerRecord", "StagingQuotas"]

_AREAS_PER_OWNER_MAX = 4096
_ABORTED_MAX = 1 << 14
_STALE_S = 900.0
_SWEEP_S = 10.0
_SWEEP_FULL_S = 1.0
"""Looking through thousands of areas for every refused write would stop the node."""


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """What a node knows of an owner."""

    owner: OwnerId
    home_site: SiteId
    signing_public_key: bytes
    quota_bytes: int


@dataclass(slots=True)
class _Area:
    """A staging area: its class and how far it reaches."""

    class_: str
    size_bytes: int
    touched_s: float


class StagingQuotas:
    """Counts staged bytes in memory (a restart drops staging areas, and this count with them)."""

    def __init__(self, site: SiteId, store: SiteStore, clock: Clock) -> None:
        self._site = site
        self._store = store
        self._clock = clock
        self._areas: dict[ShareKey, _Area] = {}
        self._count: Counter[OwnerId] = Counter()
        """Staging areas of each owner."""
        self._staged: Counter[OwnerId] = Counter()
        """Bytes that they reach to."""
        self._recorded: dict[OwnerId, int] = {}
        """Bytes of recorded shares as of the last look; looked up again when a request would not fit."""
        self._swept_s: dict[OwnerId, float] = {}
        self._aborted: OrderedDict[ShareKey, None] = OrderedDict()
        """Versions given up lately: a write that was overtaken by its abort must not stage anything again."""

    async def admit(self, owner: OwnerRecord, key: ShareKey, class_: str, reach_bytes: int) -> None:
        """Let a staging area grow to ``reach_bytes``.

        Raises:
            Rejected: code ``vault.quota_exceeded``; or ``vault.aborted``, the share was given up.
            Unavailable: too many unfinished shares.
            Denied: the area was begun under another class.
        """
        if key not in self._areas:
            await self._drop_stale(owner)
        area = self.area(key, class_)  # looked up after the wait: another write may have begun it meanwhile
        if area is None:
            if self._count[owner.owner] >= _AREAS_PER_OWNER_MAX:
                raise Unavailable(
                    f"{owner.owner} has {_AREAS_PER_OWNER_MAX} unfinished shares at {self._site}",
                    code="vault.too_many_stages",
                    hint="seal or abort some of them first",
                )
            area = self._areas[key] = _Area(class_, 0, self._clock.now_s())
            self._count[owner.owner] += 1
        area.touched_s = self._clock.now_s()
        if reach_bytes <= area.size_bytes:
            return
        total = self._staged[owner.owner] - area.size_bytes + reach_bytes
        if owner.owner not in self._recorded or self._recorded[owner.owner] + total > owner.quota_bytes:
            self._recorded[owner.owner] = await self._store.transact(lambda tx: tx.used_bytes(owner.owner))
        if self._recorded[owner.owner] + total > owner.quota_bytes:
            self._refuse(owner)
        if self._areas.get(key) is area and reach_bytes > area.size_bytes:  # it may have ended while we looked
            self._staged[owner.owner] += reach_bytes - area.size_bytes
            area.size_bytes = reach_bytes

    def area(self, key: ShareKey, class_: str) -> _Area | None:
        """Return the staging area of a share, if there is one.

        Raises:
            Rejected: code ``vault.aborted``, the share was given up.
            Denied: the area was begun under another class.
        """
        area = self._areas.get(key)
        if area is not None and class_ not in {"local", area.class_}:
            raise Denied(f"this share is staged under class {area.class_}", code="vault.wrong_class")
        if key in self._aborted:
            raise Rejected("this version was aborted", code="vault.aborted")
        return area

    def holds(self, key: ShareKey) -> bool:
        """Whether a share has a staging area; one that nobody touched for long is dropped."""
        return key in self._areas

    def _leave(self, key: ShareKey) -> None:
        area = self._areas.pop(key, None)
        if area is not None:
            self._count[key.owner] -= 1
            self._staged[key.owner] -= area.size_bytes

    async def _drop_stale(self, owner: OwnerRecord) -> None:
        """Forget the staging areas that an owner left behind, of a client that died in the middle of a put."""
        now_s = self._clock.now_s()
        pause_s = _SWEEP_S if self._count[owner.owner] < _AREAS_PER_OWNER_MAX else _SWEEP_FULL_S
        if now_s < self._swept_s.get(owner.owner, -pause_s) + pause_s:
            return
        self._swept_s[owner.owner] = now_s
        oldest_s = now_s - _STALE_S
        stale = [key for key, area in self._areas.items() if key.owner == owner.owner and area.touched_s < oldest_s]
        for key in stale:
            self._leave(key)
            await self._store.discard(key)

    async def enter_all(self, owner: OwnerRecord, rows: Sequence[ShareRow]) -> list[ShosoinError | None]:
        """Record finished shares; their staging areas end.

        Returns for each row ``None``, or why it was not taken; then its bytes are dropped.
        """

        def entering(row: ShareRow) -> Callable[[SiteTransaction], None]:
            def step(tx: SiteTransaction) -> None:
                used_bytes = tx.used_bytes(owner.owner) + row.size_bytes
                if used_bytes > owner.quota_bytes:
                    self._refuse(owner)
                tx.put_share(row)
                self._recorded[owner.owner] = used_bytes

            return step

        try:
            outcomes = await self._store.transact_each([entering(row) for row in rows])
        finally:
            for row in rows:
                self._leave(row.key)
        for row, outcome in zip(rows, outcomes, strict=True):
            if outcome is not None:
                await self._store.discard(row.key)
        return outcomes

    async def forget(self, key: ShareKey, class_: str) -> None:
        """End a staging area without a share, for good."""
        area = self._areas.get(key)
        if area is not None and class_ not in {"local", area.class_}:
            raise Denied(f"this share is staged under class {area.class_}", code="vault.wrong_class")
        self._aborted[key] = None
        if len(self._aborted) > _ABORTED_MAX:
            self._aborted.popitem(last=False)
        await self.drop(key)

    async def drop(self, key: ShareKey) -> None:
        """Drop what is staged of a share, under whatever class."""
        self._leave(key)
        await self._store.discard(key)

    def _refuse(self, owner: OwnerRecord) -> None:
        raise Rejected(
            f"{owner.owner} would exceed its quota of {owner.quota_bytes} bytes at {self._site}",
            code="vault.quota_exceeded",
        )
