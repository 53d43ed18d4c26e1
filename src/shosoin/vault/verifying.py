"""Checking many objects under their keys: all shares are read, and what the object's own MACs tell is right.

Unlike an audit this names a site for certain, whoever else lies, while k honest sites answer: what a share has to be
follows from data whose MAC or AMD code word holds. Small objects travel together; whatever is not plain (a share
that is missing, an object replaced meanwhile) is checked once more on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shosoin.base import Alarm, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.vault.audit import Audited, ShareFound
from shosoin.vault.context import VaultContext
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.reading import ObjectReader

__all__ = ["TOGETHER", "keyed_entry", "record_keyed", "verify_small"]

TOGETHER = 128
"""Objects that are looked up together."""
_TOGETHER_BYTES = 4 << 20
_SMALL_BYTES = 256 << 10
_GONE = {"vault.share_damaged", "vault.no_share", "vault.wrong_size"}


@dataclass(slots=True)
class _Small:
    """Small objects that are read in one exchange per site."""

    readers: list[ObjectReader]
    size_bytes: int = 0


async def verify_small(context: VaultContext, readers: Sequence[ObjectReader]) -> dict[int, Audited]:
    """Return the states of those objects, by place, of which the batch told everything."""
    places = {id(reader): place for place, reader in enumerate(readers)}
    found: dict[int, Audited] = {}
    for group in _groups([reader for reader in readers if _is_small(reader)]):
        states = await _verify_group(context, group.readers)
        found |= {places[id(reader)]: states[at] for at, reader in enumerate(group.readers) if at in states}
    return found


def _is_small(reader: ObjectReader) -> bool:
    layout = reader.body.layout
    # In class its every exchange needs its own look at who would see the keys; those go one by one.
    return layout.total <= _SMALL_BYTES and not layout.pages and reader.value.class_ != "its"


def _groups(readers: Sequence[ObjectReader]) -> list[_Small]:
    groups: dict[tuple[object, ...], list[_Small]] = {}
    for reader in readers:
        value, size = reader.value, reader.body.layout.total
        same = groups.setdefault((value.class_, value.scheme, value.placement), [])
        if not same or same[-1].size_bytes + size > _TOGETHER_BYTES:
            same.append(_Small([]))
        same[-1].readers.append(reader)
        same[-1].size_bytes += size
    return [group for same in groups.values() for group in same]


async def _verify_group(context: VaultContext, readers: Sequence[ObjectReader]) -> dict[int, Audited]:
    fetcher = readers[0].fetcher
    placement = readers[0].value.placement
    wanted = [reader.whole_range() for reader in readers]
    answers = await fetcher.fetch_all_shares(wanted)
    away = {site for site in placement if site not in answers.shares and answers.errors[site].code not in _GONE}
    forged = {site for site in away if isinstance(answers.errors[site], Alarm)}
    found: dict[int, Audited] = {}
    for at, item in enumerate(wanted):
        if any(answers.shares.get(site, [None] * len(wanted))[at] is None for site in placement if site not in away):
            continue
        try:
            wrong = await fetcher.disagreeing(at, item, answers)
        except (Unavailable, NotRecoverable):
            continue
        states = dict.fromkeys(placement, ShareFound.OK)
        states |= dict.fromkeys(away, ShareFound.UNREACHABLE)
        found[at] = states | dict.fromkeys({*wrong, *forged}, ShareFound.WRONG)
        for site in sorted(wrong | forged):
            kind = "share_wrong" if site in wrong else "message_forged"
            fields = {"site": str(site), "kind": kind, "object": str(item.key.object_id), "part": item.label}
            context.sink.emit(Event("vault.bad_share", "alarm", fields))
    return found


def keyed_entry(readers: Sequence[ObjectReader], states: Sequence[Mapping[SiteId, str]]) -> list[dict[str, object]]:
    """Return the evidence of keyed checks."""
    rows = [
        [
            reader.key.object_id,
            reader.key.version,
            reader.key.epoch,
            {str(site): str(state) for site, state in each.items()},
        ]
        for reader, each in zip(readers, states, strict=True)
    ]
    return [{"kind": "keyed check", "objects": rows}] if rows else []


async def record_keyed(context: VaultContext, alarms: Sequence[Event]) -> None:
    """Keep what a read found as evidence; reading goes on when that fails, and says so."""
    if not alarms:
        return
    entry = {"kind": "read", "accused": [dict(sorted(alarm.fields.items())) for alarm in alarms]}
    try:
        await context.runtime.in_thread(context.evidence.append, [entry])
    except ShosoinError as error:
        context.sink.emit(Event("vault.evidence_lost", "alarm", {"code": error.code}))
