"""What the thief does to registers: as a proposer that lies to the sites, each time in another way."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from shosoin.base import SiteId
from shosoin.testing.simulation.thief import Target, Thief, accept_operations, draft_after, harmless, newest_of
from shosoin.vault.attestations import Certificate, SignatureSet
from shosoin.vault.ballots import JUMP_MAX, ROUND_MAX, Ballot
from shosoin.vault.catalog_answers import Promised
from shosoin.vault.electorate import Electorate
from shosoin.vault.envelope import canonical_json
from shosoin.vault.signing import SIGNATURE_BYTES
from shosoin.vault.values import sign_values

__all__ = [
    "forged_certificate",
    "huge_ballots",
    "own_electorate",
    "roll_back",
    "stale_top",
    "two_values",
    "unjustified",
    "withheld_commit",
]


async def two_values(thief: Thief) -> None:
    """Propose two values under one ballot: to different sites first, then each to the others; commit both."""
    if (target := thief.target()) is None:
        return
    ballot, promises = await thief.promised(target)
    if (top := newest_of(promises)) is None or top.tombstone:
        return
    values = [harmless(thief, top), harmless(thief, top)]
    sites = list(thief.sites)
    middle = thief.rng.integer(1, len(sites) - 1)
    asked: dict[int, list[Any]] = {0: [], 1: []}
    for halves in ((sites[:middle], sites[middle:]), (sites[middle:], sites[:middle])):
        for index, half in enumerate(halves):
            ops = accept_operations(values[index], ballot, promises)
            asked[index].append((await thief.accept(target, dict.fromkeys(half, ops), values[index], ballot))[1])
    thief.happened("two_values")
    for index, value in enumerate(values):
        commit, signatures, _ = thief.certified(value, ballot, asked[index])
        ops = [{"op": "signatures", "text": signatures.text}, commit]
        await thief.ask(target.class_, dict.fromkeys(sites, ops))


async def unjustified(thief: Thief) -> None:
    """Send accepts without promises, with those of another ballot, with too few, and with invented ones."""
    if (target := thief.target()) is None:
        return
    ballot, promises = await thief.promised(target)
    top = newest_of(promises)
    if top is None or top.tombstone:
        return
    quorum = target.value.electorate.quorum
    few = dict(list(promises.items())[: quorum - 1])
    later: Ballot = (ballot[0] + 1, thief.fresh_name())
    first: Ballot = (1, thief.fresh_name())
    tries: list[tuple[Ballot, dict[SiteId, Promised]]] = [(later, {}), (first, {}), (later, promises), (ballot, few)]
    granted: set[SiteId] = set()
    for tried, shown in tries:
        value = harmless(thief, top)
        ops = accept_operations(value, tried, shown)
        granted |= set((await thief.accept(target, dict.fromkeys(thief.sites, ops), value, tried))[0])
    invented = _invented(thief, target, later)
    granted |= set((await thief.accept(target, dict.fromkeys(thief.sites, invented), target.value, later))[0])
    thief.must_refuse("unjustified", granted, "a value accepted that no quorum of promises justifies")


def _invented(thief: Thief, target: Target, ballot: Ballot) -> list[dict[str, Any]]:
    """Return an accept with promises that nobody gave."""
    signatures = SignatureSet.of({site: thief.rng.pseudo_bytes(SIGNATURE_BYTES) for site in thief.sites})
    given = [[site, [0, ""], None, "AAA="] for site in thief.sites]
    value = harmless(thief, target.value)
    op = {"op": "accept", "register": target.register_id, "ballot": list(ballot), "value": value.text}
    return [
        {"op": "signatures", "text": signatures.text},
        {**op, "promises": {"set": signatures.name, "given": given}},
    ]


async def stale_top(thief: Thief) -> None:
    """Show an older certified value in the place of the newest one, and propose what would have followed it."""
    if (target := thief.target()) is None:
        return
    ballot, promises = await thief.promised(target)
    top = newest_of(promises)
    older = [one for one in thief.older(target) if top is not None and one.value.digest != top.digest]
    older = [one for one in older if not one.value.tombstone]
    if top is None or not older:
        return
    shown = thief.rng.choice(older)
    value = harmless(thief, shown.value)
    if value.follows(top) or value.text == top.text or len(promises) < top.electorate.quorum:
        return
    ops = accept_operations(value, ballot, promises, top=shown)
    granted, _ = await thief.accept(target, dict.fromkeys(thief.sites, ops), value, ballot)
    thief.must_refuse("stale_top", granted, "a value accepted that follows an old one")


async def roll_back(thief: Thief) -> None:
    """Propose an older version again, whole and validly signed; show its old certificate, too."""
    if (target := thief.target()) is None:
        return
    ballot, promises = await thief.promised(target)
    top = newest_of(promises)
    older = [one for one in thief.older(target) if top is not None and one.value.digest != top.digest]
    if top is None or not older:
        return
    old = thief.rng.choice(older)
    if old.value.follows(top):
        return
    ops = accept_operations(old.value, ballot, promises)
    granted, _ = await thief.accept(target, dict.fromkeys(thief.sites, ops), old.value, ballot)
    thief.must_refuse("roll_back", granted, "an old version accepted")
    again = [{"op": "signatures", "text": old.signatures.text}, old.operation()]
    await thief.ask(target.class_, dict.fromkeys(thief.sites, again))


async def forged_certificate(thief: Thief) -> None:
    """Commit with one acceptance too few, with an invented one, and with those of another ballot."""
    if (target := thief.target()) is None:
        return
    ballot, promises = await thief.promised(target)
    top = newest_of(promises)
    if top is None or top.tombstone:
        return
    value = harmless(thief, top)
    lying = [site for site in thief.sites if not thief.is_honest(site)]
    honest = [site for site in thief.sites if thief.is_honest(site)]
    few = [*lying, *honest][: value.electorate.quorum - 1]
    _, asked = await thief.accept(target, dict.fromkeys(few, accept_operations(value, ballot, promises)), value, ballot)
    commit, signatures, count = thief.certified(value, ballot, [asked])
    if count >= value.electorate.quorum:
        raise RuntimeError("a certificate that was to be forged is genuine")
    granted: set[SiteId] = set()
    for forged, signed in _forgeries(thief, commit, signatures, ballot):
        ops = [{"op": "signatures", "text": signed.text}, forged]
        told = await thief.ask(target.class_, dict.fromkeys(thief.sites, ops))
        granted |= {site for site, results in told.answers.items() if results[-1].get("granted") is True}
    must_not = [site for site in granted if thief.is_honest(site)]
    thief.must_refuse("forged_certificate", must_not, "a value committed that no quorum accepted")


def _forgeries(
    thief: Thief, commit: dict[str, Any], signatures: SignatureSet, ballot: Ballot
) -> list[tuple[dict[str, Any], SignatureSet]]:
    """Return commits whose certificates prove nothing."""
    certificate = Certificate.parse(commit["certificate"])
    paths = {site: path for path, sites in certificate.paths for site in sites}
    path = next(iter(paths.values()), b"\0\0")
    doubled = canonical_json(
        {"paths": [*([each[0], [*each[1], *each[1]]] for each in _raw_paths(commit))], "set": signatures.name}
    ).decode()
    padded = SignatureSet.of(
        {
            **{site: thief.rng.pseudo_bytes(SIGNATURE_BYTES) for site in thief.sites},
            **signatures.signatures,
        }
    )
    invented = Certificate.of(padded.name, {**dict.fromkeys(thief.sites, path), **paths}).text
    return [
        (commit, signatures),
        ({**commit, "certificate": doubled}, signatures),
        ({**commit, "certificate": invented}, padded),
        ({**commit, "ballot": [ballot[0] + 1, ballot[1]]}, signatures),
    ]


def _raw_paths(commit: dict[str, Any]) -> list[Any]:
    return list(json.loads(commit["certificate"])["paths"])


async def withheld_commit(thief: Thief) -> None:
    """Have a value certified, and tell nobody, or one site alone; or stop after a few acceptances."""
    if (target := thief.target()) is None:
        return
    ballot, promises = await thief.promised(target)
    top = newest_of(promises)
    if top is None or top.tombstone:
        return
    value = harmless(thief, top)
    some = list(thief.sites) if thief.rng.integer(0, 2) else [thief.rng.choice(thief.sites)]
    ops = accept_operations(value, ballot, promises)
    _, asked = await thief.accept(target, dict.fromkeys(some, ops), value, ballot)
    thief.happened("withheld_commit")
    commit, signatures, _ = thief.certified(value, ballot, [asked])
    if thief.rng.integer(0, 1):
        told = thief.rng.choice(thief.sites)
        await thief.exchange(target.class_, told, [{"op": "signatures", "text": signatures.text}, commit])


async def own_electorate(thief: Thief) -> None:
    """Name one lying site as the only one to decide, and have it certify that the object is gone.

    A site that never heard of the register cannot tell, and its word alone counts for nothing.
    """
    target, lying = thief.target(), sorted(thief.world.plan.liars)
    if target is None or not lying:
        return
    alone, ballot = SiteId(thief.rng.choice(lying)), (target.ballot[0] + 1, "zz")
    draft = replace(
        draft_after(thief, target.value),
        kind="tombstone",
        parent=None,
        electorate=Electorate((alone,), 1, 0),
        bodies=(),
    )
    (value,) = sign_values([draft], thief.party.signer)
    ops = accept_operations(value, ballot, {})
    _, asked = await thief.accept(target, {alone: ops}, value, ballot)
    commit, signatures, _ = thief.certified(value, ballot, [asked])
    shown = [{"op": "signatures", "text": signatures.text}, commit]
    knowing = thief.knowing(target)
    told = await thief.ask(target.class_, dict.fromkeys(thief.sites, shown))
    granted = [site for site, results in told.answers.items() if results[-1].get("granted") is True]
    honest = [site for site in granted if site in knowing]
    thief.must_refuse("own_electorate", honest, "a value committed that liars alone decided about")


async def huge_ballots(thief: Thief) -> None:
    """Drive ballots up as far as sites let it, at some sites more than at others, and beyond what they may."""
    if (target := thief.target()) is None:
        return
    current = target.ballot[0]
    for _ in range(3):
        current += JUMP_MAX
        name = thief.fresh_name()
        some = [site for site in thief.sites if thief.rng.integer(0, 3)]
        op = {"op": "prepare", "register": target.register_id, "ballot": [current, name]}
        await thief.ask(target.class_, {site: [op] for site in some or thief.sites[:1]})
    beyond = [
        {"op": "prepare", "register": target.register_id, "ballot": [number, "z"]}
        for number in (ROUND_MAX, ROUND_MAX + 1, current + 5 * JUMP_MAX)
    ]
    told = await thief.ask(target.class_, dict.fromkeys(thief.sites, beyond))
    granted = [
        site
        for site, results in told.answers.items()
        if thief.is_honest(site) and any(result.get("granted") is True for result in results)
    ]
    thief.must_refuse("huge_ballots", granted, "a ballot promised that would block the register for ever")
