"""What commands answer, as JSON objects; the lines for people are made from the same objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shosoin.base.ports import Event
    from shosoin.testbed.choice import Choice
    from shosoin.vault.policies import Policies
    from shosoin.vault.receipts import (
        Foreseen,
        GetReceipt,
        Labelled,
        Listing,
        PolicyInForce,
        PutReceipt,
        RemoveReceipt,
        Stat,
        VerifyReport,
    )
    from shosoin.vault.repair import Repaired
    from shosoin.vault.repair_plan import Need

__all__ = [
    "checked_json",
    "events_json",
    "foreseen_json",
    "get_json",
    "labelled_json",
    "listing_json",
    "need_json",
    "plan_json",
    "policies_json",
    "policy_json",
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


def foreseen_json(foreseen: Foreseen) -> dict[str, Any]:
    """Return what a put would be, as far as can be known before it."""
    found = foreseen.findings
    return {
        "foreseen": {
            "class": found.class_,
            "scheme": {"k": found.scheme[0], "n": found.scheme[1]},
            "home": found.home,
            "collusion_number": found.collusion,
            "collusion_set": list(found.collusion_set),
            "collusion_complete": not found.collusion_gap,
            "collusion_gap": found.collusion_gap,
            "durable_at_most": found.durable,
            "epsilon_at_least": found.epsilon,
            "everlasting": found.everlasting,
            "reasons": list(found.reasons),
            "simulated": found.simulated,
            "deal_checked": found.deal_checked,
        },
        "policy": [verdict.to_json() for verdict in foreseen.policy],
        "policy_met": _met(verdict.met for verdict in foreseen.policy),
    }


def _met(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all clauses are met; ``None`` if none fails and one is not decided."""
    met = list(verdicts)
    return False if False in met else None if None in met else True


def policies_json(policies: Policies) -> dict[str, Any]:
    """Return all policies of an owner."""
    return {
        "policies": [
            {"prefix": policy.prefix, "require": [str(clause) for clause in policy.clauses]}
            for policy in policies.policies
        ]
    }


def policy_json(policy: PolicyInForce) -> dict[str, Any]:
    """Return the policy that binds a name."""
    return {
        "name": policy.name,
        "clauses": [{"source": each.source, "clause": str(each.clause)} for each in policy.clauses],
        "classes": None if policy.classes is None else list(policy.classes),
        "never_met": list(policy.never_met),
    }


def checked_json(found: Labelled) -> dict[str, Any]:
    """Return how a stored object fares under its policy."""
    return {
        "name": found.listing.name,
        "met": None if found.label is None else _met(verdict.met for verdict in found.policy),
        "policy": [verdict.to_json() for verdict in found.policy],
        "trouble": found.trouble,
    }


def labelled_json(found: Labelled) -> dict[str, Any]:
    """Return one line of a long listing."""
    checked = checked_json(found)
    return listing_json(found.listing) | {
        "label": None if found.label is None else found.label.to_json(),
        "policy_met": checked["met"],
        "policy": checked["policy"],
        "trouble": found.trouble,
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
        "warnings": events_json(receipt.warnings),
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
        "policy": [verdict.to_json() for verdict in stat.policy],
        "policy_met": _met(verdict.met for verdict in stat.policy),
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
