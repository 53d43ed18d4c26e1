"""Every protocol of an object's life under every scheme that is checked, with challenges that a liar would choose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice, product

from shosoin.kernels import reference
from shosoin.testing.symbolic.coalitions import Finding, check, coalitions
from shosoin.testing.symbolic.forms import joined
from shosoin.testing.symbolic.planted import Case
from shosoin.testing.symbolic.protocols import (
    Shared,
    audit,
    body_of,
    deal_check,
    get,
    put_by_coefficients,
    put_by_keys,
    repair,
)
from shosoin.testing.symbolic.refresh import at_rest, refresh
from shosoin.testing.symbolic.transcript import Transcript
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.scheme import Scheme

__all__ = ["PROTOCOLS", "SCHEMES", "Result", "challenge_patterns", "results"]

SCHEMES = (Scheme(2, 3), Scheme(2, 4), Scheme(3, 4), Scheme(3, 5), Scheme(4, 7))
_ELEMENTS = 2
"""Secret elements of a body: two, so that digests mix them; elements are shared one by one."""


def masks_for(scheme: Scheme, answers: int) -> int:
    """U = (n-k+1) T."""
    return (scheme.n - scheme.k + 1) * answers


def challenge_patterns(run: Transcript, scheme: Scheme, answers: int) -> dict[str, dict[int, list[int]]]:
    """Return challenges for every site, ``answers`` different ones at most, as a liar would choose them."""
    n = scheme.n
    subfield = _small_subfield(run)
    return {
        "equal at all sites": {site: [run.public("r", at) for at in range(answers)] for site in range(n)},
        "all different": {site: [run.public("r", site, at) for at in range(answers)] for site in range(n)},
        "zero, one, points": {site: [*range(answers - 1), site + 20] for site in range(n)},
        "in a small subfield": {
            site: [subfield[(site * answers + at) % 255] for at in range(answers)] for site in range(n)
        },
        "repeated": {site: [run.public("r", site, at // 2) for at in range(2 * answers)] for site in range(n)},
    }


def _small_subfield(run: Transcript) -> list[int]:
    """Return the 255 elements of GF(2^8) inside GF(2^128), whose powers repeat soonest."""
    generator = reference.power(run.base, 2, ((1 << 128) - 1) // 255)
    elements = [1]
    while (following := run.symbols.multiply(elements[-1], generator)) != 1:
        elements.append(following)
    return elements


def _one_epoch(run: Transcript, scheme: Scheme) -> Case:
    return Case(run, scheme.n, allowed=list(coalitions(scheme.n, scheme.k - 1)))


def put_its(scheme: Scheme, _: int) -> Iterator[tuple[str, Case]]:
    """Put, and put so that every transfer is lost and sent again."""
    for title, resent in (("", range(0)), ("everything sent again", range(1, scheme.n))):
        run = Transcript()
        put_by_keys(run, scheme, "object", body_of(run, "object", 2, _ELEMENTS), resent=resent)
        yield title, _one_epoch(run, scheme)


def put_its_without_spare(scheme: Scheme, _: int) -> Iterator[tuple[str, Case]]:
    """n = k: key bits are shares, and travel under pads."""
    run, all_needed = Transcript(), Scheme(scheme.k, scheme.k)
    put_by_keys(run, all_needed, "object", body_of(run, "object", 2, _ELEMENTS), resent=range(1, scheme.k))
    yield "", _one_epoch(run, all_needed)


def put_deal_check_its(scheme: Scheme, answers: int) -> Iterator[tuple[str, Case]]:
    """Put with a deal check whose answers the adversary hears, for a random r, 0 and 1."""
    for title in ("random", "zero", "one"):
        run = Transcript()
        r = {"random": run.public("deal"), "zero": 0, "one": 1}[title]
        shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks_for(scheme, answers), _ELEMENTS))
        deal_check(run, shared, r)
        audit(run, shared, {site: [r] for site in shared.shares}, overheard=True)
        yield f"r {title}", _one_epoch(run, scheme)


def get_its(scheme: Scheme, _: int) -> Iterator[tuple[str, Case]]:
    """Put, get the whole from every site, and ranges."""
    run = Transcript()
    shared = put_by_keys(run, scheme, "object", body_of(run, "object", 2, _ELEMENTS + 1))
    for start, stop in ((0, None), (0, None), (2, 3), (3, None)):
        get(run, shared, range(scheme.n), start, stop)
    yield "twice, and ranges", _one_epoch(run, scheme)


def audit_its(scheme: Scheme, answers: int) -> Iterator[tuple[str, Case]]:
    """T answers of every site; private to the owner, and heard by the adversary."""
    for overheard in (False, True):
        for title, challenges in challenge_patterns(Transcript(), scheme, answers).items():
            run = Transcript()
            shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks_for(scheme, answers), _ELEMENTS))
            audit(run, shared, challenges, overheard=overheard)
            yield f"{title}, {'overheard' if overheard else 'private'}", _one_epoch(run, scheme)


def audit_sites(scheme: Scheme, answers: int) -> Iterator[tuple[str, Case]]:
    """Classes ``qkd`` and ``pqc`` against sites alone: T answers heard by the adversary."""
    for title, challenges in challenge_patterns(Transcript(), scheme, answers).items():
        run = Transcript()
        body = body_of(run, "object", masks_for(scheme, answers), _ELEMENTS)
        audit(run, put_by_coefficients(run, scheme, "object", body), challenges, overheard=True)
        yield title, _one_epoch(run, scheme)


def manifest_its(scheme: Scheme, _: int) -> Iterator[tuple[str, Case]]:
    """Share a body as it is: data, its one-time MAC entry, an AMD code word over both; the secret is the data alone."""
    run = Transcript()
    data = run.secrets("data", 2)
    entry = joined([run.fresh("s", 1), run.tag(run.fresh("s", 1), "r", data)])
    record = joined([data, entry])
    amd = run.symbols.scale(run.public("x"), reference.evaluate(run.symbols, run.public("x"), record, ascending=True))
    shared = put_by_keys(run, scheme, "object", joined([record, amd]))
    get(run, shared, range(scheme.n))
    yield "", _one_epoch(run, scheme)


def life_its(scheme: Scheme, answers: int) -> Iterator[tuple[str, Case]]:
    """Object and index part: put twice over, deal check, T-1 audits heard by all, gets, repairs of two sites."""
    run = Transcript()
    for name in ("object", "index part"):
        body = body_of(run, name, masks_for(scheme, answers), _ELEMENTS)
        shared = put_by_keys(run, scheme, name, body, resent=range(1, scheme.n))
        asked = challenge_patterns(run, scheme, answers)["all different"]
        audit(run, shared, {site: asked[site] for site in range(scheme.n)}, overheard=True)
        get(run, shared, range(scheme.n))
        if scheme.n > scheme.k:
            for target in (0, 1):
                _repair_all(run, shared, target, attempts=1)
    yield "", _one_epoch(run, scheme)


def _repair_all(run: Transcript, shared: Shared, target: int, attempts: int) -> None:
    """Repair with several sets of helpers, and audit what came of it."""
    others = [site for site in range(shared.scheme.n) if site != target]
    for attempt, helpers in enumerate(islice(combinations(others, shared.scheme.k), attempts)):
        repair(run, shared, target, helpers, (target, attempt), r=run.public("repair", target, attempt))


def repair_its(scheme: Scheme, answers: int) -> Iterator[tuple[str, Case]]:
    """Repairs of every site in turn, each tried with three sets of helpers; and one whose audit is heard by all.

    A target answers the challenge of its repair beyond its T answers, for its helpers have that one among theirs.
    """
    run = Transcript()
    shared = put_by_keys(run, scheme, "object", body_of(run, "object", 0, _ELEMENTS))
    for target in range(scheme.n):
        _repair_all(run, shared, target, attempts=3)
    yield "every target, three attempts", _one_epoch(run, scheme)
    if scheme.n > scheme.k:
        run = Transcript()
        shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks_for(scheme, answers), _ELEMENTS))
        asked = challenge_patterns(run, scheme, answers)["all different"]
        target, r = scheme.n - 1, run.public("repair")
        own = {site: [*asked[site][: answers - (site != target)], r] for site in range(scheme.n)}
        audit(run, shared, own, overheard=True)
        repair(run, shared, target, range(scheme.k), "attempt", r=r)
        yield "audit heard by all, after T answers", _one_epoch(run, scheme)


def refresh_design(scheme: Scheme, answers: int) -> Iterator[tuple[str, Case]]:
    """Two or three epochs with audits in each; the coalition may be another in every epoch."""
    n, k = scheme.n, scheme.k
    answers = min(answers, 2 if n < 6 else 1)  # masks are dealt by every dealer: the bulk of the work
    masks = masks_for(scheme, answers)
    for title, coins, blinding in (
        ("common coin", dict.fromkeys(range(n), 700), n - k + 1),
        ("unequal coins", {site: 700 + site for site in range(n)}, n - k + 2),
    ):
        for epochs in (2, 3) if k == 2 else (2,):
            run = Transcript()
            shared = put_by_coefficients(run, scheme, "object", body_of(run, "object", masks, 1))
            at_rest(run, shared, 0)
            for epoch in range(epochs):
                asked = {site: [run.public("r", epoch, site, at) for at in range(answers)] for site in range(n)}
                audit(run, shared, asked, overheard=True, period=str(epoch))
                if epoch < epochs - 1:
                    shared = refresh(
                        run, shared, epoch, masks=masks, blinding=blinding, dealers=range(k), challenges=coins
                    )
            largest = list(coalitions(n, k - 1, exactly=True, tapping=n < 4))
            schedules = list(product(largest, repeat=epochs))
            yield f"{title}, {epochs} epochs", Case(run, n, schedules=schedules)


def refresh_extracted(scheme: Scheme, _: int) -> Iterator[tuple[str, Case]]:
    """Refresh with n'-k+1 zero-sharings from one of each of n' dealers, for all n and for k + 1 of them."""
    n, k = scheme.n, scheme.k
    for dealers in sorted({n, min(k + 1, n)}):
        run = Transcript()
        extracted = dealers - k + 1
        shared = put_by_coefficients(run, scheme, "object", body_of(run, "object", 0, extracted))
        at_rest(run, shared, 0)
        coins = dict.fromkeys(range(n), 700)
        refresh(run, shared, 0, masks=0, blinding=1, dealers=range(dealers), challenges=coins, extracted=extracted)
        largest = list(coalitions(n, k - 1, exactly=True, tapping=n < 4))
        yield f"{dealers} dealers", Case(run, n, schedules=list(product(largest, repeat=2)))


Protocol = Callable[[Scheme, int], Iterator[tuple[str, Case]]]
PROTOCOLS: Mapping[str, Protocol] = {
    "put (its)": put_its,
    "put (its), n = k": put_its_without_spare,
    "put and deal check (its)": put_deal_check_its,
    "get (its)": get_its,
    "audit (its)": audit_its,
    "audit (qkd, pqc: sites alone)": audit_sites,
    "manifest (its)": manifest_its,
    "one epoch of a life (its)": life_its,
    "repair (its)": repair_its,
    "refresh (design)": refresh_design,
    "refresh, extracted (design)": refresh_extracted,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What the check of one protocol under one scheme gave."""

    protocol: str
    scheme: Scheme
    runs: int
    views: int
    """Coalitions and schedules of coalitions checked, over all runs."""
    findings: tuple[Finding, ...]
    tight: int
    """Sets of k sites of which each learns everything."""
    loose: int
    """Sets of k sites that do not, which would mean that the model holds too little."""


def results(scheme: Scheme, answers: int = ANSWERS_PER_EPOCH, names: list[str] | None = None) -> Iterator[Result]:
    """Check protocols under a scheme, with T = ``answers``."""
    for name, protocol in PROTOCOLS.items():
        if names is not None and name not in names:
            continue
        runs = views = tight = loose = 0
        findings: list[Finding] = []
        for _, case in protocol(scheme, answers):
            runs += 1
            views += len(case.allowed) + len(case.schedules)
            findings += case.findings()
            whole, part = _tightness(case, scheme.k) if case.allowed else (0, 0)
            tight, loose = tight + whole, loose + part
        yield Result(name, scheme, runs, views, tuple(findings), tight, loose)


def _tightness(case: Case, k: int) -> tuple[int, int]:
    """Count the sets of k sites that learn the whole secret, and those that do not."""
    allowed = list(coalitions(case.n, k, exactly=True, tapping=False))
    found = {finding.coalition[0]: finding.elements for finding in check(case.run, case.n, allowed)}
    whole = sum(found.get(one) == len(case.run.secret) for one in allowed)
    return whole, len(allowed) - whole
