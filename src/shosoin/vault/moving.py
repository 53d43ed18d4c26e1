"""Replacing a site: what a retired site keeps moves to the site that takes its place.

An owner marks the old site as retired in its configuration and adds the new one. From then on every value that is
written names the new members, and old and new members decide together about the first such value of each register (see
``electorate``). ``move_objects`` does that for objects nobody writes: it proposes a value with the same content, whose
placement has the new site where the old one was, at the same evaluation point. The new site holds no share yet, so the
object is durable at one site less until it is repaired; what the retired site holds is erased only when no site is
missing.

Indexes move with the next commit, which writes their parts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from shosoin.base import ObjectId, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.vault.catalog import Conflict
from shosoin.vault.channel import Channel
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.exposure import checked_statuses
from shosoin.vault.former import facts_after_move, places_after_move
from shosoin.vault.found_bad import found_bad
from shosoin.vault.guard import label_now, verdicts_on
from shosoin.vault.index import Entry
from shosoin.vault.names import Names
from shosoin.vault.proposals import Proposal
from shosoin.vault.putting import erase_everywhere
from shosoin.vault.repair_plan import held_shares
from shosoin.vault.values import RegisterValue, ValueDraft, sign_values
from shosoin.vault.verdicts import refuse_failed

__all__ = ["Moved", "is_settled", "move_objects"]

_TOGETHER = 64
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one object."""

    name: str
    object_id: ObjectId
    good: tuple[SiteId, ...]
    """Sites that hold good shares and are not retired."""
    missing: tuple[SiteId, ...]
    """Sites that should hold one and do not yet: repair them."""
    erased_at: tuple[SiteId, ...] = ()
    """Retired sites that hold nothing of it any more."""
    error: ShosoinError | None = None
    changed: bool = False
    """Whether it was moved just now; what needed no move is listed too."""


async def move_objects(
    context: VaultContext, names: Names, progress: Callable[[int, int], None] | None = None
) -> list[Moved]:
    """Move every named object off retired sites, as far as it can be done now; run it again after a repair.

    Raises:
        Unavailable: part of the index cannot be read, or too few sites answer.
    """
    entries = await names.load()
    moved: list[Moved] = []
    done = 0
    for class_ in CLASSES:
        chosen = [entries[name] for name in sorted(entries) if entries[name].class_ == class_]
        for at in range(0, len(chosen), _TOGETHER):
            moved += await _move_batch(context, names, class_, chosen[at : at + _TOGETHER])
            done += len(chosen[at : at + _TOGETHER])
            if progress is not None:
                progress(done, len(entries))
    await _move_indexes(context, names)
    return moved


async def _move_batch(context: VaultContext, names: Names, class_: str, entries: Sequence[Entry]) -> list[Moved]:
    channels = context.channels(class_)
    readings = await context.catalog.read_many(channels, [ObjectId(entry.object_id) for entry in entries])
    live = [
        (entry, reading.value, reading.certificate)
        for entry, reading in zip(entries, readings, strict=True)
        if reading.value is not None and not reading.value.tombstone
    ]
    settled = [(entry, value) for entry, value, _ in live if is_settled(context, value)]
    moved = await _erase_retired(context, channels, settled)
    todo: list[tuple[Entry, RegisterValue, ValueDraft]] = []
    leaving = [(entry, value, certificate) for entry, value, certificate in live if not is_settled(context, value)]
    held = await held_shares(context, channels, [value.register_id for _, value, _ in leaving])
    for entry, value, certificate in leaving:
        try:
            draft = await _draft(context, value, _pinned(value, certificate, held))
            _check_policy(context, entry.name, value, draft)
            todo.append((entry, value, draft))
        except ShosoinError as error:
            moved.append(_moved(entry, value, error=error))
    handed_over = await _propose(context, channels, [(entry, draft) for entry, _, draft in todo])
    # the first value needed the former members; one more, and the new ones need them no longer
    alone = [(entry, _again(context, value)) for entry, value, failed in handed_over if failed is None]
    moved += [_moved(entry, value, error=failed) for entry, value, failed in handed_over if failed is not None]
    done: list[Entry] = []
    for entry, value, failed in await _propose(context, channels, alone):
        moved.append(_moved(entry, value, error=failed, changed=failed is None))
        if failed is None:
            done.append(replace(entry, version=value.version, counter=value.counter))
    removed = [
        replace(entry, deleted=True, size_bytes=0)
        for entry, reading in zip(entries, readings, strict=True)
        if reading.value is not None and reading.value.tombstone
    ]
    if removed:
        await erase_everywhere(context, channels, [{"op": "erase", "object": entry.object_id} for entry in removed])
    await _tell_index(names, class_, done, removed)
    return moved


async def _tell_index(names: Names, class_: str, done: Sequence[Entry], removed: Sequence[Entry]) -> None:
    """Have the index vouch for the new versions, and finish removals whose client died before its name was gone.

    The register of such an object stays with the old sites: once they left the configuration nobody could read it, and
    it would keep the registers that are read together with it. A name that somebody else changes meanwhile is left out.
    """
    left = [*done, *removed]
    for _ in range(_ATTEMPTS):
        if not left:
            return
        await names.check_routes(class_)
        with suppress(Conflict):
            await names.commit(class_, left, {entry.name: entry.object_id for entry in left})
            return
        known = await names.load()
        left = [each for each in left if each.name in known and known[each.name].object_id == each.object_id]


async def _propose(
    context: VaultContext, channels: Mapping[SiteId, Channel], drafts: Sequence[tuple[Entry, ValueDraft]]
) -> list[tuple[Entry, RegisterValue, ShosoinError | None]]:
    values = sign_values([draft for _, draft in drafts], context.signer)
    proposals = [Proposal(value.register_id, value, fresh=False) for value in values]
    outcomes = await context.catalog.propose(channels, proposals)
    return [(entry, value, outcome.error) for (entry, _), value, outcome in zip(drafts, values, outcomes, strict=True)]


def _again(context: VaultContext, value: RegisterValue) -> ValueDraft:
    """Return the same content once more, for the same members."""
    return ValueDraft(
        kind=value.kind,
        register_id=value.register_id,
        owner=value.owner,
        version=VersionId.from_bytes(context.entropy.random_bytes(16)),
        parent=value,
        scheme=value.scheme,
        class_=value.class_,
        placement=value.placement,
        electorate=value.electorate,
        bodies=value.bodies,
        added=0,
        created_wall_s=value.created_wall_s,
        facts=dict(value.facts),
    )


def is_settled(context: VaultContext, value: RegisterValue) -> bool:
    """Whether a register names members only, and they decide alone."""
    mine = value.electorate.decides_like(context.electorate) and value.former is None
    return mine and set(value.placement) <= set(context.members)


def _moved(entry: Entry, value: RegisterValue, **more: Any) -> Moved:
    return Moved(entry.name, value.register_id, value.bodies[0].good, _missing(value), **more)


def _missing(value: RegisterValue) -> tuple[SiteId, ...]:
    """Return the sites of the placement that lack a good share of any body."""
    return tuple(site for site in value.placement if any(site not in body.good for body in value.bodies))


def _pinned(
    value: RegisterValue, certificate: Sequence[SiteId], held: Mapping[SiteId, set[tuple[str, str, int]]]
) -> list[SiteId]:
    """Return the sites that pinned what the value counts on, without those that say that they lost it.

    The register does not know of losses, and the old site's share may be one of the last: it must not be left behind.
    """
    needed = {(value.register_id, body.version, body.epoch) for body in value.bodies}
    return [site for site in value.durable_sites(certificate) if needed <= held.get(site, needed)]


async def _draft(context: VaultContext, value: RegisterValue, pinned: Sequence[SiteId]) -> ValueDraft:
    """Return the same content for the new members; ``pinned`` are the sites that hold a share.

    Raises:
        Unavailable: too few sites that stay hold good shares.
        Exposed: an allowed coalition could learn k shares in the new placement.
    """
    placement = places_after_move(value, context.members)
    if value.class_ == "its":
        await checked_statuses(context, placement, value.scheme, value)
    staying = set(placement).intersection(pinned) - found_bad(context, value)
    bodies = tuple(replace(body, good=tuple(site for site in body.good if site in staying)) for body in value.bodies)
    if placement != value.placement and any(len(body.good) < value.scheme.durable_min for body in bodies):
        raise Unavailable(
            f"{len(bodies[0].good)} sites that stay hold good shares, {value.scheme.durable_min} are needed",
            code="vault.repair_first",
            hint="repair the object at the sites that stay first; until then the retired site is needed",
        )
    return ValueDraft(
        kind=value.kind,
        register_id=value.register_id,
        owner=value.owner,
        version=VersionId.from_bytes(context.entropy.random_bytes(16)),
        parent=value,
        scheme=value.scheme,
        class_=value.class_,
        placement=placement,
        electorate=context.electorate,
        bodies=bodies,
        added=0,
        created_wall_s=value.created_wall_s,
        facts=facts_after_move(value, placement, {site: each.names() for site, each in context.domains.items()}),
    )


def _check_policy(context: VaultContext, name: str, value: RegisterValue, draft: ValueDraft) -> None:
    """Refuse a move after which an object fails a policy that it meets now.

    Durability is left out: a site less until the repair is what a move costs.

    Raises:
        PolicyRefused: with what would be found.
    """
    (then,) = sign_values([draft], context.signer)
    failed = [
        {verdict.clause: verdict for verdict in verdicts_on(context, name, each, label) if verdict.met is False}
        for each in (value, then)
        for label in (label_now(context, each, pinned=each.bodies[0].good),)
    ]
    worse = [
        verdict for clause, verdict in failed[1].items() if clause not in failed[0] and clause.subject != "durable"
    ]
    refuse_failed(name, worse, undone="the object stays where it is")


async def _erase_retired(
    context: VaultContext, channels: Mapping[SiteId, Channel], settled: Sequence[tuple[Entry, RegisterValue]]
) -> list[Moved]:
    """Have retired sites erase what they hold of objects that lack no site."""
    moved = [_moved(entry, value) for entry, value in settled]
    whole = [one.object_id for one in moved if not one.missing]
    retired = {site.name: channels[site.name] for site in context.sites if site.retired}
    if not whole or not retired:
        return moved
    await context.catalog.tell_all(channels, whole)  # one that was away does not know yet that it holds old shares
    erased = await erase_everywhere(context, retired, [{"op": "erase", "object": each} for each in whole])
    return [replace(one, erased_at=tuple(erased.get(one.object_id, ()))) for one in moved]


async def _move_indexes(context: VaultContext, names: Names) -> None:
    """Write indexes anew that are kept by former members; retired sites erase what they hold of whole ones.

    Raises: what kept one of them from it, when the others are done.
    """
    failed: ShosoinError | None = None
    for class_ in CLASSES:
        try:
            await _move_index(context, names, class_)
        except ShosoinError as error:
            failed = failed or error
    if failed is not None:
        raise failed


async def _move_index(context: VaultContext, names: Names, class_: str) -> None:
    state = names.states.get(class_)
    if state is None or state.value is None:
        return
    if not is_settled(context, state.value):
        await names.rewrite(class_)
    value = names.states[class_].value
    if value is not None and not _missing(value):
        channels = context.channels(class_)
        retired = {site.name: channels[site.name] for site in context.sites if site.retired}
        await context.catalog.tell_all(channels, [value.register_id])
        await erase_everywhere(context, retired, [{"op": "erase", "object": value.register_id}])
