"""What commands answer, as JSON objects; the lines for people are made from the same objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shosoin.base.ports import Event
    from shosoin.testbed.choice import Choice
    from shosoin.vault.receipts import GetReceipt, Listing, PutReceipt, RemoveReceipt, Stat, VerifyReport
    from shosoin.vault.repair import Repaired
    from shosoin.vault.repair_plan import Need

__all__ = [
    "events_json",
    "get_json",
    "listing_json",
    "need_json",
    "plan_json",
    "put_json",
    "repaired_json",
    "rm_json",
    "stat_json",
    "verify_json",
]


def events_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return events with their fields beside their names."""
    return [{"event": event.name, "severity": event.severity, **event.fields} for event in events]


def plan_json(choice: Choice) -> dict[str, Any]:
    """Return what a put would take out of the key stock."""
    plan = choice.plan
    return {
        "class": plan.class_,
        "needed_bits": dict(plan.needed_bits),
        "stock_bits": dict(plan.stock_bits),
        "wait_s": plan.wait_s,
        "enough": choice.enough,
    }


def put_json(receipt: PutReceipt) -> dict[str, Any]:
    """Return a put's receipt."""
    return {
        "name": receipt.name,
        "object_id": str(receipt.object_id),
        "version": str(receipt.version),
        "size_bytes": receipt.size_bytes,
        "durable_at": receipt.durable_at,
        "acknowledged": [str(site) for site in receipt.acknowledged],
        "missing": [str(site) for site in receipt.missing],
        "key_bits_used": dict(receipt.key_bits_used),
        "seconds": round(receipt.seconds, 6),
        "alarms": events_json(receipt.alarms),
        "label": receipt.label.to_json(),
    }


def get_json(receipt: GetReceipt) -> dict[str, Any]:
    """Return a get's receipt."""
    return {
        "name": receipt.name,
        "size_bytes": receipt.size_bytes,
        "sites_used": [str(site) for site in receipt.sites_used],
        "key_bits_used": dict(receipt.key_bits_used),
        "seconds": round(receipt.seconds, 6),
        "freshness": receipt.freshness,
        "alarms": events_json(receipt.alarms),
        "label": receipt.label.to_json(),
    }


def listing_json(listing: Listing) -> dict[str, Any]:
    """Return one line of a listing."""
    return {
        "name": listing.name,
        "size_bytes": listing.size_bytes,
        "content_type": listing.content_type,
        "class": listing.class_,
        "scheme": {"k": listing.scheme.k, "n": listing.scheme.n},
        "object_id": str(listing.object_id),
        "version": str(listing.version),
        "created_wall_s": listing.created_wall_s,
    }


def stat_json(stat: Stat) -> dict[str, Any]:
    """Return all that is known of one object."""
    return listing_json(stat.listing) | {
        "placement": [str(site) for site in stat.placement],
        "share_bytes": stat.share_bytes,
        "label": stat.label.to_json(),
    }


def rm_json(receipt: RemoveReceipt) -> dict[str, Any]:
    """Return a removal's receipt."""
    return {
        "name": receipt.name,
        "object_id": str(receipt.object_id),
        "erased_at": [str(site) for site in receipt.erased_at],
        "pending_at": [str(site) for site in receipt.pending_at],
    }


def verify_json(report: VerifyReport) -> dict[str, Any]:
    """Return the state of an object at every site."""
    return {
        "name": report.name,
        "ok": report.ok,
        "per_site": {str(site): str(state) for site, state in report.per_site.items()},
        "alarms": events_json(report.alarms),
    }


def need_json(need: Need) -> dict[str, Any]:
    """Return a share that has to be rebuilt, with what that takes of the links between sites."""
    return {
        "name": need.name,
        "object_id": str(need.value.register_id),
        "version": str(need.body.version),
        "site": str(need.target),
        "reason": need.reason,
        "size_bytes": need.size_bytes,
        "helpers": [str(site) for site in need.helpers],
        "needed_bits": {"-".join(link): bits for link, bits in need.bits.items()},
        "stock_bits": {"-".join(link): bits for link, bits in need.stock.items()},
        "wait_s": need.wait_s,
        "problem": need.problem,
    }


def repaired_json(repaired: Repaired) -> dict[str, Any]:
    """Return what came of a share."""
    return {
        "name": repaired.name,
        "object_id": str(repaired.object_id),
        "version": repaired.version,
        "site": str(repaired.site),
        "reason": repaired.reason,
        "done": repaired.done,
        "durable_at": repaired.durable_at,
        "helpers": [str(site) for site in repaired.helpers],
        "size_bytes": repaired.size_bytes,
        "key_bits": {"-".join(link): bits for link, bits in repaired.key_bits.items()},
        "attempts": repaired.attempts,
        "seconds": round(repaired.seconds, 6),
        "suspects": [str(site) for site in repaired.suspects],
        "problem": repaired.problem,
    }
