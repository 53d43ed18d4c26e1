"""Rows for LDPC ensembles that others published: how many errors they correct in endless frames."""

from __future__ import annotations

from functools import partial

from shosoin.link.reconciliation.density_evolution import threshold
from shosoin.link.reconciliation.published_degrees import ELKOUSS_2009, PublishedEnsemble
from shosoin.link.validation.row import Row, Within, Witness

__all__ = ["ROWS"]

_TOLERANCE = Within(relative=0.015)
"""Half a per cent each for the search, for ratios 0.15 nats apart, and for the printed digits (at 0.0109)."""

_REASONS = {
    0.85: "the shares of edges printed for this rate add up to 1.0515, so at least one of them is misprinted; ours is "
    "for all of them divided by their sum, which gives a rate of 0.851",
    0.75: "by the paper's own equation 8 the degrees printed for this rate are stable up to an error rate of 0.0378 "
    "only; above that a few errors grow again, however many rounds follow",
}


def _row(published: PublishedEnsemble) -> Row:
    return Row(
        id=f"reconciliation.elkouss-{published.rate * 100:.0f}",
        claim=f"degrees of an LDPC code of rate {published.rate:g}: threshold on the binary symmetric channel",
        source="Elkouss, Leverrier, Alléaume, Boutros 2009 (arXiv 0901.2140), table I",
        witness=Witness.THEORY,
        unit="",
        published=published.threshold,
        criterion=_TOLERANCE,
        compute=partial(threshold, published.ensemble),
        reason=_REASONS.get(published.rate, ""),
    )


ROWS = tuple(_row(published) for published in ELKOUSS_2009)
