"""What must hold: the promises of the vault as checks on what clients saw and on what lies on the disks.

A check never asks the code under test: it compares bytes with what was put, and receipts with the records of honest
sites. A liar's disk proves nothing, so liars are counted as if they held what they claim.
"""

from __future__ import annotations

import json

from shosoin.base import AssuranceLabel, ObjectId, SiteId, VersionId
from shosoin.testing.simulation.world import OWNER, World
from shosoin.vault import PutReceipt
from shosoin.vault.ports import ShareState

__all__ = ["AUDITOR", "check_label", "check_put", "tag_of"]

AUDITOR = "auditor"
"""The client that reads everything back when all faults are over."""


def tag_of(world: World, client: str, name: str, content: bytes, start: int, length: int | None) -> str | None:
    """Return which put the bytes came from; bytes that nobody put are a violation."""
    stop = None if length is None else start + length
    found = {tag for whole, (tag, of) in world.contents.items() if of == name and whole[start:stop] == content}
    if not found:
        world.trace.violate(f"{client} got {len(content)} bytes for {name} that nobody put there")
    return found.pop() if len(found) == 1 else None


def check_put(world: World, client: str, receipt: PutReceipt) -> None:
    """Check an acknowledgement: so many sites hold the share and will not drop it."""
    who = f"{client}'s put of {receipt.name}"
    k, n = world.scheme.k, world.scheme.n
    if receipt.durable_at < k + (n - k) // 2:
        world.trace.violate(f"{who} was acknowledged at {receipt.durable_at} sites, fewer than k + f")
    if receipt.durable_at > len(set(receipt.acknowledged)):
        world.trace.violate(f"{who} claims {receipt.durable_at} sites and names {len(receipt.acknowledged)}")
    for site in receipt.acknowledged:
        if site not in world.plan.liars and not holds(world, site, receipt.object_id, receipt.version):
            world.trace.violate(f"{who} names {site}, which does not hold the share durably")
    check_label(world, client, receipt.name, receipt.label)
    held = [
        site
        for site in world.plan.sites
        if site in world.plan.liars or holds(world, site, receipt.object_id, receipt.version)
    ]
    if receipt.label.durable_at > len(held):
        world.trace.violate(f"{who} is labelled durable at {receipt.label.durable_at} sites, {len(held)} hold it")


def check_label(world: World, client: str, name: str, label: AssuranceLabel) -> None:
    """Check that a label claims no more sites than there are."""
    if not 0 <= label.durable_at <= len(world.plan.sites):
        world.trace.violate(f"{client}: the label of {name} claims {label.durable_at} sites")


def holds(world: World, site: SiteId | str, object_id: str, version: str) -> bool:
    """Whether a site holds a version for good (or did until it was lost), or knows that a later one replaced it."""
    disk = world.disks[str(site)]
    if any(where == site and (key.object_id, key.version) == (object_id, version) for where, key in world.hurt):
        return True
    rows = [row for row in disk.shares() if row.key.object_id == object_id and row.key.version == version]
    if any(row.state is not ShareState.STAGED for row in rows):
        return True
    committed = disk.committed(OWNER, ObjectId(object_id))
    return committed is not None and json.loads(json.loads(committed)["owner"])["version"] != VersionId(version)
