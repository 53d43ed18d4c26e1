"""Looking over many objects at once: their labels, how each fares under its policy, and what a put would be."""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import ObjectId, ShosoinError
from shosoin.vault.catalog import Reading
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.guard import foresee, label_of_reading, never_met, verdicts_on
from shosoin.vault.index import Entry
from shosoin.vault.names import Names
from shosoin.vault.receipts import Foreseen, Labelled, Listing, PolicyInForce
from shosoin.vault.scheme import Scheme
from shosoin.vault.verdicts import judge

__all__ = ["foreseen_put", "labelled", "listing_of", "policy_in_force"]

_READ_TOGETHER = 64


def listing_of(entry: Entry) -> Listing:
    """Return what a listing shows of an entry."""
    return Listing(
        name=entry.name,
        size_bytes=entry.size_bytes,
        class_=entry.class_,
        scheme=Scheme(entry.k, entry.n),
        object_id=entry.object_id,
        version=entry.version,
        created_wall_s=entry.created_wall_s,
        content_type=entry.content_type,
    )


async def labelled(context: VaultContext, names: Names, wanted: Sequence[Entry]) -> list[Labelled]:
    """Return the labels of entries, in their order; registers are read in batches, and no share is touched.

    An object whose register cannot be read has no label; ``trouble`` says why.
    """
    durable = names.durable_everywhere()
    found: dict[str, Labelled] = {}
    for class_ in CLASSES:
        entries = [entry for entry in wanted if entry.class_ == class_]
        for at in range(0, len(entries), _READ_TOGETHER):
            batch = entries[at : at + _READ_TOGETHER]
            try:
                readings = await context.catalog.read_many(
                    context.channels(class_), [ObjectId(entry.object_id) for entry in batch]
                )
            except ShosoinError as error:
                found |= {entry.name: _troubled(entry, error.message) for entry in batch}
                continue
            for entry, reading in zip(batch, readings, strict=True):
                found[entry.name] = _labelled(context, entry, reading, durable.get(entry.name, 0))
    return [found[entry.name] for entry in wanted]


def _labelled(context: VaultContext, entry: Entry, reading: Reading, durable_max: int) -> Labelled:
    if reading.value is None or reading.value.tombstone:
        return _troubled(entry, "it was removed, and its name will follow")
    label = label_of_reading(context, reading.value, reading, durable_max)
    return Labelled(listing_of(entry), label, verdicts_on(context, entry.name, reading.value, label))


def _troubled(entry: Entry, trouble: str) -> Labelled:
    return Labelled(listing_of(entry), None, (), trouble)


def policy_in_force(context: VaultContext, name: str) -> PolicyInForce:
    """Return the policy that binds a name, and why nothing could ever meet it, if nothing could."""
    policies = context.policies
    clauses = policies.in_force(name)
    return PolicyInForce(
        name=name,
        clauses=clauses,
        classes=policies.classes(name),
        names_fallback=policies.names_fallback(name),
        never_met=tuple(never_met(context, clauses)),
    )


async def foreseen_put(context: VaultContext, name: str, scheme: Scheme, class_: str) -> Foreseen:
    """Return what can be known of a put before it, and how its policy would fare; no key is drawn."""
    findings = await foresee(context, scheme, class_)
    return Foreseen(findings, judge(context.policies.in_force(name), findings))
