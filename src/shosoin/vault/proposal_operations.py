"""The operations that propose and commit a value: encoded once for all sites, and no longer than each of them needs.

A site is shown the newest certified value only if it does not hold it, and a value that it has just accepted not again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from shosoin.base import ObjectId, SiteId
from shosoin.vault.acceptor import Certified
from shosoin.vault.attestations import SignatureSet
from shosoin.vault.envelope import SharedJson
from shosoin.vault.proposals import Attempt

__all__ = ["Operation", "accept_operations", "commit_operation", "commit_operations", "with_sets"]

Operation = dict[str, Any]
"""What one site is told of one register, or answers to it."""


def accept_operations(
    members: Sequence[SiteId], attempt: Attempt, sets: Mapping[SiteId, dict[str, SignatureSet]]
) -> dict[SiteId, Operation]:
    """Return what each site is told, and add the signatures that it needs to ``sets``.

    The newest certified value is shown to those that do not hold it.
    """
    common: Operation = {  # encoded once for all sites
        "op": "accept",
        "register": attempt.register_id,
        "ballot": list(attempt.ballot),
        "value": attempt.value.text,
    }
    if attempt.after is not None:
        return _shown(members, common, attempt.after.certified, set(attempt.after.held_by), sets)
    if not attempt.promised:
        return dict.fromkeys(members, SharedJson(common))
    signed = SignatureSet.of({site: one.signature for site, one in attempt.promised.items()})
    for needed in sets.values():
        needed[signed.name] = signed
    given = [one.promise.to_json() for one in attempt.promised.values()]
    common["promises"] = {"set": signed.name, "given": given}
    top = attempt.top
    if top is None:
        return dict.fromkeys(members, SharedJson(common))
    holding = {site for site, one in attempt.promised.items() if one.top is not None and one.top.ballot == top.ballot}
    return _shown(members, common, top, holding, sets)


def _shown(
    members: Sequence[SiteId],
    common: Operation,
    top: Certified,
    holding: set[SiteId],
    sets: Mapping[SiteId, dict[str, SignatureSet]],
) -> dict[SiteId, Operation]:
    """Return an operation for each site, which shows a certified value to those that do not hold it."""
    shown = {"ballot": list(top.ballot), "certificate": top.certificate.text, "value": top.value.text}
    lacking = [site for site in members if site not in holding]
    for site in lacking:
        sets[site][top.signatures.name] = top.signatures
    told = dict.fromkeys(members, cast("Operation", SharedJson(common)))
    return told | dict.fromkeys(lacking, SharedJson(common, top=shown))


def with_sets(operations: Sequence[Operation], sets: Mapping[str, SignatureSet]) -> list[Operation]:
    """Put the signatures that operations refer to in front of them."""
    return [*(_brings(one.text) for one in sets.values()), *operations]


@lru_cache(maxsize=64)
def _brings(text: str) -> Operation:
    return SharedJson(op="signatures", text=text)


def commit_operations(sites: Sequence[SiteId], certified: Certified) -> dict[SiteId, Operation]:
    """Tell sites that a value is certified: the whole value unless a site has just accepted it."""
    whole: Operation = commit_operation(certified.value.register_id, certified)
    short: Operation = SharedJson((key, what) for key, what in whole.items() if key != "value")
    return {site: short if site in certified.signers else whole for site in sites}


def commit_operation(register_id: ObjectId, certified: Certified) -> Operation:
    """Return the operation that gives a site a certified value."""
    return SharedJson(
        op="commit",
        register=register_id,
        ballot=list(certified.ballot),
        digest=certified.value.digest,
        value=certified.value.text,
        certificate=certified.certificate.text,
    )
