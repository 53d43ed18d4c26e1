"""What the owner knows of shares that turned out bad, for labels: who was found without a good share is not counted.

A register says who took a share; it does not say whose disk rotted since. Audits, keyed checks and reads do, and the
owner's ledger remembers what they found of each body until the next one, or until the share is rebuilt. Only findings
about a site itself count (wrong, damaged, missing): one that was silent or doubtful may hold its share all the same.

A ledger that cannot be read or written changes no answer; labels then rest on the register alone, as they do on another
computer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from shosoin.base import ShosoinError, SiteId
from shosoin.base.ports import Event
from shosoin.vault.audit_ledger import AuditRecord, BodyName
from shosoin.vault.context import VaultContext
from shosoin.vault.values import RegisterValue

__all__ = ["found_bad", "last_audited", "note_accused", "note_found", "note_rebuilt"]

_BAD = frozenset({"wrong", "damaged", "missing"})
_ACCUSED = {"share_wrong": "wrong", "share_damaged": "damaged", "share_missing": "missing"}
"""What accusations of a read say of the accused site."""
_TOLD = _BAD | {"ok"}
"""Findings that replace an earlier one."""


def found_bad(context: VaultContext, value: RegisterValue) -> frozenset[SiteId]:
    """Return the sites that were found without a good share of one of the bodies of a value."""
    epochs: dict[BodyName, int] = {(value.register_id, body.version): body.epoch for body in value.bodies}
    with suppress(ShosoinError):
        records = context.ledger.records(list(epochs))
        return frozenset(
            site
            for name, record in records.items()
            if record.epoch == epochs[name]
            for site, state in (record.states or {}).items()
            if str(state) in _BAD
        )
    return frozenset()


def last_audited(context: VaultContext, value: RegisterValue) -> float | None:
    """Return when all bodies of a value were audited last, in seconds since 1970; ``None`` if that is not known."""
    epochs: dict[BodyName, int] = {(value.register_id, body.version): body.epoch for body in value.bodies}
    with suppress(ShosoinError):
        records = context.ledger.records(list(epochs))
        times = [record.audited_wall_s for name, record in records.items() if record.epoch == epochs[name]]
        if len(times) == len(epochs) and min(times, default=0.0) > 0.0:
            return min(times)
    return None


def note_found(context: VaultContext, found: Iterable[tuple[BodyName, int, Mapping[SiteId, str]]]) -> None:
    """Remember what keyed checks found of bodies, each with its epoch."""
    rows = list(found)
    with suppress(ShosoinError):
        known = context.ledger.records([name for name, _, _ in rows])
        changed: dict[BodyName, AuditRecord] = {}
        for name, epoch, states in rows:
            record = known.get(name)
            if record is None or record.epoch != epoch:
                record = AuditRecord(epoch)
            told = {site: str(state) for site, state in states.items() if str(state) in _TOLD}
            merged = {**(record.states or {}), **told}
            if merged != (record.states or {}) and (record.states or _BAD.intersection(told.values())):
                changed[name] = replace(record, states=merged)
        context.ledger.save(changed)


def note_accused(context: VaultContext, body: BodyName, epoch: int, alarms: Iterable[Event]) -> None:
    """Remember whom a read accused: it checked the answers under the owner's keys."""
    states = {
        SiteId(str(alarm.fields["site"])): _ACCUSED[str(alarm.fields["kind"])]
        for alarm in alarms
        if alarm.fields.get("kind") in _ACCUSED
    }
    if states:
        note_found(context, [(body, epoch, states)])


def note_rebuilt(context: VaultContext, name: BodyName, epoch: int, site: SiteId) -> None:
    """Remember that a site has a good share of a body again."""
    note_found(context, [(name, epoch, {site: "ok"})])
