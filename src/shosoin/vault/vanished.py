"""A share that is erased between the look at its record and the reading of its bytes: gone, and not damaged.

Without a second look a site would report damage of a share that it was told to erase, and be accused of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from shosoin.base import ShosoinError, SiteId, Unavailable
from shosoin.vault.ports import ShareDamaged, ShareKey, ShareRow, SiteStore, SiteTransaction

__all__ = ["after_second_look"]


async def after_second_look(
    store: SiteStore, site: SiteId, read: Sequence[tuple[ShareRow, object]]
) -> dict[int, ShosoinError]:
    """Return, by index, what to answer instead of damage for shares whose record is gone or names other bytes."""
    doubted = [(index, row) for index, (row, outcome) in enumerate(read) if isinstance(outcome, ShareDamaged)]
    if not doubted:
        return {}
    found = await store.transact_each([partial(_record, row.key) for _, row in doubted])
    return {
        index: Unavailable(f"{site} holds no share of version {row.key.version}", code="vault.no_share")
        for (index, row), now in zip(doubted, found, strict=True)
        if not isinstance(now, ShosoinError) and (now is None or now.locator != row.locator)
    }


def _record(key: ShareKey, tx: SiteTransaction) -> ShareRow | None:
    return tx.share(key)
