"""How much an owner may have at a site, staged bytes included, and under which class each staging area was begun."""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.base import Denied, OwnerId, Rejected, SiteId, Unavailable
from shosoin.base.ports import Clock
from shosoin.vault.ports import ShareKey, ShareRow, SiteStore, SiteTransaction

__all__ = ["OwnerRecord", "StagingQuotas"]

_AREAS_PER_OWNER_MAX = 4096
_STALE_S = 900.0


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
        self._recorded: dict[OwnerId, int] = {}
        """Bytes of recorded shares as of the last look; looked up again when a request would not fit."""

    async def admit(self, owner: OwnerRecord, key: ShareKey, class_: str, reach_bytes: int) -> None:
        """Let a staging area grow to ``reach_bytes``.

        Raises:
            Rejected: code ``vault.quota_exceeded``.
            Unavailable: too many unfinished shares.
            Denied: the area was begun under another class.
        """
        area = self._areas.get(key)
        if area is not None and class_ not in {"local", area.class_}:
            raise Denied(f"this share is staged under class {area.class_}", code="vault.wrong_class")
        if area is None:
            await self._drop_stale(owner)
            if sum(name.owner == owner.owner for name in self._areas) >= _AREAS_PER_OWNER_MAX:
                raise Unavailable(
                    f"{owner.owner} has {_AREAS_PER_OWNER_MAX} unfinished shares at {self._site}",
                    code="vault.too_many_stages",
                    hint="seal or abort some of them first",
                )
            area = self._areas[key] = _Area(class_, 0, self._clock.now_s())
        area.touched_s = self._clock.now_s()
        if reach_bytes <= area.size_bytes:
            return
        staged = sum(each.size_bytes for name, each in self._areas.items() if name.owner == owner.owner)
        total = staged - area.size_bytes + reach_bytes
        if owner.owner not in self._recorded or self._recorded[owner.owner] + total > owner.quota_bytes:
            self._recorded[owner.owner] = await self._store.transact(lambda tx: tx.used_bytes(owner.owner))
        if self._recorded[owner.owner] + total > owner.quota_bytes:
            self._refuse(owner)
        area.size_bytes = max(area.size_bytes, reach_bytes)

    async def _drop_stale(self, owner: OwnerRecord) -> None:
        """Forget the staging areas that an owner left behind, of a client that died in the middle of a put."""
        oldest_s = self._clock.now_s() - _STALE_S
        stale = [key for key, area in self._areas.items() if key.owner == owner.owner and area.touched_s < oldest_s]
        for key in stale:
            del self._areas[key]
            await self._store.discard(key)

    async def enter(self, owner: OwnerRecord, row: ShareRow) -> None:
        """Record a finished share; its staging area ends.

        Raises:
            Rejected: code ``vault.quota_exceeded``; the bytes are dropped.
        """

        def step(tx: SiteTransaction) -> int:
            if tx.used_bytes(owner.owner) + row.size_bytes > owner.quota_bytes:
                self._refuse(owner)
            tx.put_share(row)
            return tx.used_bytes(owner.owner)

        try:
            self._recorded[owner.owner] = await self._store.transact(step)
        except Rejected:
            await self._store.discard(row.key)
            raise
        finally:
            self._areas.pop(row.key, None)

    async def forget(self, key: ShareKey, class_: str) -> None:
        """End a staging area without a share."""
        area = self._areas.get(key)
        if area is not None and class_ not in {"local", area.class_}:
            raise Denied(f"this share is staged under class {area.class_}", code="vault.wrong_class")
        self._areas.pop(key, None)
        await self._store.discard(key)

    def _refuse(self, owner: OwnerRecord) -> None:
        raise Rejected(
            f"{owner.owner} would exceed its quota of {owner.quota_bytes} bytes at {self._site}",
            code="vault.quota_exceeded",
        )
