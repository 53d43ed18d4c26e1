"""Objects without a name: what a writer leaves that dies between its object's register and the index.

Such an object is complete, pinned and unreachable, and only its owner can tell: names are nobody else's business. To
remove it is dangerous while its writer may be slow rather than dead. So its object ID is first *condemned* in the index
register, which both sides must change: either the writer's name is there before, and the object stays, or the writer
finds its object condemned and reports a failure. The time since the object was made only decides what is worth the
trouble; nothing rests on clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import ObjectId, ShosoinError, SiteId
from shosoin.vault.concurrency import settle
from shosoin.vault.context import CLASSES, KEYLESS_CLASS, VaultContext
from shosoin.vault.index import index_register
from shosoin.vault.names import Names
from shosoin.vault.putting import remove_objects
from shosoin.vault.values import RegisterValue

__all__ = ["remove_unnamed"]

_PAGE = 1000
_TOGETHER = 128
_LISTED_MAX = 1 << 22
"""IDs taken from one site: a site that lies could list for ever."""


async def remove_unnamed(context: VaultContext, names: Names, older_than_s: float) -> list[RegisterValue]:
    """Remove the owner's objects that have no name and are older than that; return their last values.

    Raises:
        Unavailable: part of the index cannot be read, or too few sites answer.
    """
    await names.load()
    candidates = await _candidates(context, names, older_than_s)
    removed: list[RegisterValue] = []
    for class_ in CLASSES:
        found = [value for value in candidates if value.class_ == class_]
        for at in range(0, len(found), _TOGETHER):
            some = found[at : at + _TOGETHER]
            condemned = await names.condemn(class_, [value.register_id for value in some])
            doomed = [value for value in some if value.register_id in condemned]
            for value, (outcome, _) in zip(doomed, await remove_objects(context, class_, doomed), strict=True):
                if outcome.error is None:
                    removed.append(value)
    return removed


async def _candidates(context: VaultContext, names: Names, older_than_s: float) -> list[RegisterValue]:
    """Return the values of unnamed objects of every class."""
    before_s = context.clock.wall_s() - older_than_s
    known = names.object_ids() | {str(index_register(context.owner, class_)) for class_ in CLASSES}
    unknown = sorted(await _stored(context) - known)
    values: list[RegisterValue] = []
    channels = context.channels(KEYLESS_CLASS)  # a register may be read under any class, and says which is its own
    for at in range(0, len(unknown), _TOGETHER):
        ids = [ObjectId(object_id) for object_id in unknown[at : at + _TOGETHER]]
        for reading in await context.catalog.read_many(channels, ids):
            value = reading.value
            if value is not None and value.kind == "object" and value.created_wall_s <= before_s:
                values.append(value)
    return values


async def _stored(context: VaultContext) -> set[str]:
    """Return the IDs of all objects that any site has a share of; a site that does not answer adds none."""
    tasks = await settle(context.runtime, (_stored_at(context, site) for site in context.members))
    return {object_id for task in tasks for object_id in task.result()}


async def _stored_at(context: VaultContext, site: SiteId) -> Sequence[str]:
    channel = context.channels(KEYLESS_CLASS)[site]
    found: list[str] = []
    while len(found) < _LISTED_MAX:
        try:
            answer = await channel.exchange([{"op": "inventory", "after": found[-1] if found else "", "limit": _PAGE}])
        except ShosoinError:
            return found
        shares = answer.results[0].get("shares") if answer.results else None
        page = {object_id for share in shares if (object_id := _listed(share))} if isinstance(shares, list) else set()
        page = {object_id for object_id in page if not found or object_id > found[-1]}
        if not page:
            return found
        found += sorted(page)
    return found


def _listed(share: object) -> str | None:
    """Return the object ID of an entry of an inventory, unless it is junk: one site must not spoil it for all."""
    try:
        return ObjectId(share[0]) if isinstance(share, list) and share and isinstance(share[0], str) else None
    except ShosoinError:
        return None
