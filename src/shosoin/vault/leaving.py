"""What still ties an owner to sites that are being replaced, and when the last tie is gone.

A site may be switched off when no register names it any more, neither as a place of shares nor among those who decide,
when every site that stays knows so, and when it lists no share of the owner. A site that was away while several others
were replaced would know none of those who decide now, and believe nobody; so one is not let go before all have heard of
it. Registers are read with their certificates, so a site cannot talk itself out;
that it lists nothing is its own word, and nobody can prove that a disk is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from shosoin.base import ObjectId, PeerFault, ShosoinError, SiteId
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import gather
from shosoin.vault.context import CLASSES, KEYLESS_CLASS, VaultContext
from shosoin.vault.index import index_register
from shosoin.vault.moving import is_settled
from shosoin.vault.names import Names
from shosoin.vault.putting import erase_everywhere
from shosoin.vault.values import RegisterValue

__all__ = ["Leaving", "Tied", "Ties", "erase_leftovers", "find_ties"]

_TOGETHER = 64
_PAGE = 1000
_PAGES_MAX = 1 << 13
"""Pages taken from one site: a site that lies could list for ever."""
_LEFTOVERS_MAX = 1 << 16
"""Unknown objects of one site that are looked up in one run; the next run goes on with what is left."""
_ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Tied:
    """One object, or the index of a class (``is_index``), as its register has it now."""

    name: str
    object_id: ObjectId
    sites: tuple[SiteId, ...]
    """Sites that its register names and that are no members (any more): it has to move off them."""
    missing: tuple[SiteId, ...]
    """Members that should hold good shares and do not: repair them."""
    to_move: bool
    """Whether its register has to name other sites, or other deciders."""
    is_index: bool = False


@dataclass(frozen=True, slots=True)
class Leaving:
    """One site that is no member any more."""

    site: SiteId
    is_configured: bool
    """Whether the configuration still has it, so that it can be asked."""
    needed_by: int
    """Objects and indexes whose registers name it."""
    unrepaired: int
    """Objects and indexes that lack a share at a site that stays: the old shares are kept until they do not."""
    listed: int | None
    """Objects of which it lists shares; ``None`` if it was not asked or did not answer."""
    behind: tuple[SiteId, ...] = ()
    """Members that have not taken all that was decided; they may still count on this site."""

    @property
    def may_go(self) -> bool:
        """Whether nothing refers to it and it says that it has erased everything."""
        return self.needed_by == 0 and self.unrepaired == 0 and self.listed == 0 and not self.behind


@dataclass(frozen=True, slots=True)
class Ties:
    """What is left to do until the old sites may go."""

    objects: tuple[Tied, ...]
    sites: tuple[Leaving, ...]


async def find_ties(context: VaultContext, names: Names) -> Ties:
    """Say what still ties objects and indexes to sites that are no members; members hear what was decided.

    Raises:
        Unavailable: part of the index cannot be read, or too few sites answer.
    """
    entries = await names.load()
    found: list[Tied] = []
    registers: dict[str, list[ObjectId]] = {}
    for class_ in CLASSES:
        asked = [(name, ObjectId(entry.object_id)) for name, entry in sorted(entries.items()) if entry.class_ == class_]
        for at in range(0, len(asked), _TOGETHER):
            some = asked[at : at + _TOGETHER]
            readings = await context.catalog.read_many(context.channels(class_), [each for _, each in some])
            for (name, _), reading in zip(some, readings, strict=True):
                value = reading.value
                if value is not None and not (value.tombstone and is_settled(context, value)):
                    found.append(_tied(context, name, value, is_index=False))
        state = names.states.get(class_)
        if state is not None and state.value is not None:
            found.append(_tied(context, class_, state.value, is_index=True))
            registers[class_] = [state.value.register_id, *(object_id for _, object_id in asked)]
    return Ties(tuple(found), await _leaving(context, found, registers))


def _tied(context: VaultContext, name: str, value: RegisterValue, *, is_index: bool) -> Tied:
    named = [*value.placement, *(site for electorate in value.electorates for site in electorate.members)]
    sites = tuple(dict.fromkeys(site for site in named if site not in context.members))
    short = {site for body in value.bodies for site in value.placement if site not in body.good}
    missing = tuple(site for site in value.placement if site in short and site in context.members)
    return Tied(name, value.register_id, sites, missing, not is_settled(context, value), is_index)


async def _leaving(
    context: VaultContext, found: Sequence[Tied], registers: Mapping[str, Sequence[ObjectId]]
) -> tuple[Leaving, ...]:
    retired = [site.name for site in context.sites if site.retired]
    gone = sorted({site for each in found for site in each.sites}.difference(retired))
    channels = context.channels(KEYLESS_CLASS)
    listed = await gather(context.runtime, (_count(channels[site]) for site in retired))
    counts = dict(zip(retired, listed, strict=True))
    unrepaired = sum(bool(each.missing) for each in found)
    waiting = any(each.sites or each.missing or each.to_move for each in found)
    behind = () if waiting or not counts else await _behind(context, registers)  # asked last, for it takes keys
    return tuple(
        Leaving(site, site in counts, sum(site in each.sites for each in found), unrepaired, counts.get(site), behind)
        for site in [*retired, *gone]
    )


async def _behind(context: VaultContext, registers: Mapping[str, Sequence[ObjectId]]) -> tuple[SiteId, ...]:
    """Tell all members what was decided; return those that did not take it."""
    found: set[SiteId] = set()
    for class_, ids in registers.items():
        for at in range(0, len(ids), _TOGETHER):
            found |= await context.catalog.tell_all(context.channels(class_), ids[at : at + _TOGETHER])
    return tuple(site for site in context.members if site in found)


async def _count(channel: Channel) -> int | None:
    try:
        return len(await _listed_objects(channel))
    except ShosoinError:
        return None


async def _listed_objects(channel: Channel) -> list[ObjectId]:
    """Return the IDs of the objects of which a site lists shares: all of them, or as many as anybody could have.

    Raises:
        ShosoinError: it does not answer, or not as it should.
    """
    found: list[ObjectId] = []
    for _ in range(_PAGES_MAX):
        ask = {"op": "inventory", "after": found[-1] if found else "", "limit": _PAGE}
        results = (await channel.exchange([ask], timeout_s=_ASK_TIMEOUT_S)).results
        shares = results[0].get("shares") if results else None
        if not isinstance(shares, list) or not all(isinstance(each, list) and each for each in shares):
            raise PeerFault("an inventory that cannot be read", code="vault.bad_inventory")
        page = {ObjectId(str(each[0])) for each in shares}
        fresh = sorted(each for each in page if not found or each > found[-1])
        if not fresh:
            break
        found += fresh
    return found


async def erase_leftovers(context: VaultContext, names: Names) -> None:
    """Have retired sites erase what is left of objects that were removed while they were away, as far as they answer.

    Whoever asks for the ties learns what is left.
    """
    keyless = context.channels(KEYLESS_CLASS)
    known = names.object_ids() | {str(index_register(context.owner, class_)) for class_ in CLASSES}
    for site in [each.name for each in context.sites if each.retired]:
        left: list[ObjectId] = []
        with suppress(ShosoinError):
            left = [each for each in await _listed_objects(keyless[site]) if each not in known][:_LEFTOVERS_MAX]
        for at in range(0, len(left), _TOGETHER):
            with suppress(ShosoinError):  # one register that cannot be read must not keep the others
                await _erase_removed(context, site, left[at : at + _TOGETHER])


async def _erase_removed(context: VaultContext, site: SiteId, object_ids: Sequence[ObjectId]) -> None:
    readings = await context.catalog.read_many(context.channels(KEYLESS_CLASS), object_ids)
    removed = [reading.value for reading in readings if reading.value is not None and reading.value.tombstone]
    for class_ in CLASSES:
        ids = [value.register_id for value in removed if value.class_ == class_]
        if ids:
            channels = context.channels(class_)
            await context.catalog.tell_all(channels, ids)  # it does not know yet that they were removed
            await erase_everywhere(context, {site: channels[site]}, [{"op": "erase", "object": each} for each in ids])
