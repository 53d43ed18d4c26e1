"""The vault's protocols on symbols, step by step as the code and the protocol page have them.

Arithmetic is that of the reference kernels: ``lagrange_weights`` and ``linear_map`` share by keys, ``split`` shares by
coefficients, ``evaluate`` makes digests and tags. A body is U mask elements and then the elements of the secret: data,
MAC entries, tags, page hashes, names, code words. All of the latter are unknowns of their own, although in truth some
are functions of others: a view whose distribution is the same for *every* value of a body is so for every such body.

Challenges r are public constants. A liar may choose them as it goes along; a view that says nothing for each fixed
sequence of challenges says nothing for a sequence chosen by what was seen before.

``put_by_keys``, ``deal_check``, ``get``, ``audit`` and ``repair`` model code, and tests hold them against recorded runs
of it; ``put_by_coefficients`` is code up to its wire. ``refresh`` models the protocol of the design.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from shosoin.kernels import reference
from shosoin.kernels.fields import Values
from shosoin.testing.symbolic.forms import array, joined
from shosoin.testing.symbolic.transcript import OWNER, WIRE, Transcript, at_site
from shosoin.vault.scheme import Scheme

__all__ = [
    "Shared",
    "audit",
    "body_of",
    "deal_check",
    "digest",
    "get",
    "put_by_coefficients",
    "put_by_keys",
    "repair",
    "repair_messages",
    "share_by_keys",
    "takers_of",
]

_NOTHING = array([])


@dataclass(frozen=True, slots=True)
class Shared:
    """A body that is shared: what each site holds, by place in the placement."""

    name: Hashable
    scheme: Scheme
    body: Values
    shares: Mapping[int, Values]
    home: int = 0


def body_of(run: Transcript, name: Hashable, masks: int, elements: int) -> Values:
    """Return a body: mask elements, then secrets."""
    return joined([run.fresh(("mask", name), masks), run.secrets(("secret", name), elements)])


def share_by_keys(run: Transcript, scheme: Scheme, name: Hashable, body: Values, *, home: int = 0) -> Shared:
    """Make the shares of class ``its``: key bits for k-1 remote sites, what follows from them for the others."""
    points = scheme.points()
    takers = takers_of(scheme, home)
    keys = {site: run.key((OWNER, site), ("take", name, site), len(body)) for site in takers}
    others = [site for site in range(scheme.n) if site not in keys]
    known = [0, *(points[site] for site in takers)]
    rows = [reference.lagrange_weights(run.symbols, known, points[site]) for site in others]
    made = reference.linear_map(run.symbols, rows, [body, *keys.values()])
    shares = dict(sorted((keys | dict(zip(others, made, strict=True))).items()))
    run.reveal(at_site(home, "0"), shares[home])
    return Shared(name, scheme, body, shares, home)


def takers_of(scheme: Scheme, home: int = 0) -> list[int]:
    """Return the k-1 remote sites whose shares are key bits."""
    return [site for site in range(scheme.n) if site != home][: scheme.k - 1]


def put_by_keys(
    run: Transcript, scheme: Scheme, name: Hashable, body: Values, *, home: int = 0, resent: Collection[int] = ()
) -> Shared:
    """Put in class ``its``: sites whose share is key bits are sent none, the others theirs under one-time pads.

    ``resent`` are sites that lost what they got: the same share travels once more, under fresh keys.
    With n = k every share travels, because nothing could be checked.
    """
    shared = share_by_keys(run, scheme, name, body, home=home)
    silent = set(takers_of(scheme, home)) if scheme.n > scheme.k else set()
    for site, share in shared.shares.items():
        if site != home:
            run.exchange(site, _NOTHING if site in silent else share, _NOTHING)
    for site in resent:
        run.exchange(site, shared.shares[site], _NOTHING)
    return shared


def put_by_coefficients(run: Transcript, scheme: Scheme, name: Hashable, body: Values, *, home: int = 0) -> Shared:
    """Share a body in class ``qkd`` or ``pqc``, against sites alone.

    The coefficients come from AES-256 and the wire is under AES-256-GCM: both rest on computation, and are outside. The
    model takes coefficients for uniform and puts nothing on the wire.
    """
    coefficients = [run.fresh(("coefficient", name, j), len(body)) for j in range(scheme.k - 1)]
    split = reference.split(run.symbols, body, coefficients, scheme.points())
    for site, share in enumerate(split):
        run.reveal(at_site(site, "0"), share)
    return Shared(name, scheme, body, dict(enumerate(split)), home)


def digest(run: Transcript, share: Values, r: int) -> Values:
    """Return sum_j r^j y_j, masks first."""
    return reference.evaluate(run.symbols, r, share, ascending=True)


def deal_check(run: Transcript, shared: Shared, r: int) -> None:
    """Have every site answer one challenge, each to the owner alone."""
    audit(run, shared, {site: [r] for site in shared.shares})


def audit(
    run: Transcript,
    shared: Shared,
    challenges: Mapping[int, Sequence[int]],
    *,
    overheard: bool = False,
    period: str = "0",
) -> None:
    """Have sites answer challenges, under the pads of class ``its``.

    ``overheard`` gives the answers of all sites to the adversary, as if the auditor were its own.
    """
    for site, asked in challenges.items():
        for r in asked:
            answer = digest(run, shared.shares[site], r)
            if site != shared.home:
                run.exchange(site, _NOTHING, answer, period)
            if overheard:
                run.reveal(WIRE, answer)


def get(run: Transcript, shared: Shared, sites: Collection[int], start: int = 0, stop: int | None = None) -> None:
    """Have sites send a range of their shares to the owner."""
    for site in sites:
        if site != shared.home:
            run.exchange(site, _NOTHING, shared.shares[site][start:stop])


def repair_messages(
    run: Transcript, shared: Shared, told: Mapping[int, int], attempt: Hashable, period: str = "0"
) -> dict[int, Values]:
    """Return lambda_i y_i and the pairwise pads of every helper; ``told`` is the target that each was told.

    Helpers show each other their orders under two one-time MACs for each pair; these are functions of what is public,
    and the adversary is given their keys. Pads are named by the attempt: two attempts of one number would use one pad
    twice.
    """
    points, symbols = shared.scheme.points(), run.symbols
    helpers = list(told)
    messages = {}
    for place, site in enumerate(helpers):
        weights = reference.lagrange_weights(symbols, [points[helper] for helper in helpers], points[told[site]])
        messages[site] = symbols.scale(weights[place], shared.shares[site])
    for first, second in combinations(helpers, 2):
        title = "pair", shared.name, attempt, first, second
        run.reveal(WIRE, run.key((first, second), (title, "tags"), 4, period))
        pad = run.key((first, second), title, len(shared.body), period)
        messages[first] = symbols.add(messages[first], pad)
        messages[second] = symbols.add(messages[second], pad)
    return messages


def repair(
    run: Transcript,
    shared: Shared,
    target: int,
    helpers: Sequence[int],
    attempt: Hashable,
    *,
    r: int | None = None,
    period: str = "0",
) -> None:
    """Give a site its lost share back: helper i sends lambda_i y_i and pairwise pads that cancel, under a link pad.

    With a challenge r the audit of the repair follows: all that hold a share, the target with them, answer the owner,
    and each helper gives the target a note, under a one-time MAC, that it has recorded r.
    """
    for site, message in repair_messages(run, shared, dict.fromkeys(helpers, target), attempt, period).items():
        run.send((site, target), ("repair", shared.name, attempt, site, target), message, period)
    run.reveal(at_site(target, period), shared.shares[target])
    if r is not None:
        for site in helpers:
            run.reveal(WIRE, run.key((site, target), ("note", shared.name, attempt, site, target), 2, period))
        audit(run, shared, {site: [r] for site in shared.shares}, period=period)
