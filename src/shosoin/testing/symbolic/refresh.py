"""Refresh of an object's shares, as the design has it: a model of the design, not of code.

Every dealer deals zero-sharings for the secret part, fresh masks for the mask part, and blinding sharings of either
kind. Sites answer a challenge on what each dealer dealt, masked by the blinding, and the answers are public. The new
share is the old one and everything dealt; the masks are new ones. Transfers are under pads of the links between sites,
drawn from stock of the refresh itself; what a site held before or after does not tell it these keys.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from shosoin.kernels import reference
from shosoin.kernels.fields import Values
from shosoin.testing.symbolic.forms import joined
from shosoin.testing.symbolic.protocols import Shared, digest
from shosoin.testing.symbolic.transcript import WIRE, Transcript, at_site

__all__ = ["at_rest", "refresh"]


def at_rest(run: Transcript, shared: Shared, epoch: int) -> None:
    """Let whoever owns a site in an epoch know its share."""
    for site, share in shared.shares.items():
        run.reveal(at_site(site, str(epoch)), share)


def refresh(
    run: Transcript,
    shared: Shared,
    epoch: int,
    *,
    masks: int,
    blinding: int,
    dealers: Sequence[int],
    challenges: Mapping[int, int],
    fresh_masks: bool = True,
    extracted: int = 1,
) -> Shared:
    """Lead from an epoch to the next; return what is shared then.

    Args:
        masks: U, the mask elements at the start of the body.
        blinding: further sharings that hide what the check of a deal says; n-k+1.
        challenges: the challenge that each site answers on every deal; equal if the coin is common.
        fresh_masks: False deals zero-sharings for the masks too, which is a mistake.
        extracted: how many elements of the secret one zero-sharing of every dealer serves, each with other factors of a
            Vandermonde matrix; 1 sums them, n'-k+1 for n' dealers is the design's cheaper way.
    """
    shares = dict(shared.shares)
    if fresh_masks:
        shares = {
            site: joined([run.symbols.zeros_like(share[:masks]), share[masks:]]) for site, share in shares.items()
        }
    for dealer in dealers:
        for site, dealt in _deal(
            run,
            shared,
            (shared.name, epoch, dealer),
            masks=masks,
            blinding=blinding,
            challenges=challenges,
            fresh_masks=fresh_masks,
            extracted=extracted,
        ):
            shares[site] = run.symbols.add(shares[site], dealt)
    after = replace(shared, shares=shares)
    at_rest(run, after, epoch + 1)
    return after


def _deal(
    run: Transcript,
    shared: Shared,
    title: tuple[Hashable, int, int],
    *,
    masks: int,
    blinding: int,
    challenges: Mapping[int, int],
    fresh_masks: bool,
    extracted: int,
) -> list[tuple[int, Values]]:
    """Return what one dealer adds to the share of each site."""
    _, epoch, dealer = title
    period, symbols = f"{epoch}>{epoch + 1}", run.symbols
    zeros = symbols.zeros_like(shared.body[masks::extracted])
    factors = [reference.power(symbols, shared.scheme.points()[dealer], row) for row in range(extracted)]
    if fresh_masks:
        top = run.fresh(("new mask and blinding", title), blinding + masks)
        run.reveal(at_site(dealer, period), top)
    else:
        top = symbols.zeros_like(run.fresh(("no mask", title), blinding + masks))
    below = joined([symbols.zeros_like(run.fresh(("no blinding", title), blinding)), zeros])
    dealt = [_split(run, shared, (kind, title), part, period) for kind, part in (("masks", top), ("zeros", below))]
    added = []
    for site in shared.shares:
        parts = [shares[site] for shares in dealt]
        if site != dealer:
            run.send((dealer, site), ("deal", title, site), joined(parts), period)
        run.reveal(at_site(site, period), joined(parts))
        for part in parts:
            run.reveal(WIRE, digest(run, part, challenges[site]))
        spread = [
            symbols.scale(factor, parts[1][at : at + 1]) for at in range(blinding, len(parts[1])) for factor in factors
        ]
        added.append((site, joined([parts[0][blinding:], *spread])[: len(shared.body)]))
    return added


def _split(
    run: Transcript, shared: Shared, title: tuple[str, tuple[Hashable, int, int]], values: Values, period: str
) -> list[Values]:
    """Share values with coefficients of the dealer's; ``title`` ends with the dealer."""
    dealer = title[1][2]
    coefficients = [run.fresh((title, j), len(values)) for j in range(shared.scheme.k - 1)]
    for coefficient in coefficients:
        run.reveal(at_site(dealer, period), coefficient)
    return reference.split(run.symbols, values, coefficients, shared.scheme.points())
