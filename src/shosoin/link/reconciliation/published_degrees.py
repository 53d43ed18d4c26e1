"""Degree distributions that others published for reconciliation over the binary symmetric channel.

D. Elkouss, A. Leverrier, R. Alleaume, J. J. Boutros, "Efficient reconciliation protocol for discrete-variable quantum
key distribution", ISIT 2009, arXiv 0901.2140, table I: for nine code rates, shares of edges by degree (the power of x
in the table is the degree less one) and the error rate up to which endless codes correct. No code of the package is
made from them; they are what ours are compared with, and they test :mod:`.density_evolution`.

Shares are as printed. Those of rate 0.85 add up to 1.0515, those of the others to 1 within 0.00003.
"""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.link.reconciliation.density_evolution import Ensemble

__all__ = ["ELKOUSS_2009", "PublishedEnsemble"]


@dataclass(frozen=True, slots=True)
class PublishedEnsemble:
    """One row of the table."""

    rate: float
    threshold: float
    """The largest error rate that is corrected, as printed."""
    ensemble: Ensemble


def _row(rate: float, threshold: float, columns: dict[int, float], checks: dict[int, float]) -> PublishedEnsemble:
    return PublishedEnsemble(rate, threshold, Ensemble(columns, checks))


ELKOUSS_2009 = (
    _row(
        0.90,
        0.0109,
        {2: 0.07689, 3: 0.28096, 5: 0.08933, 9: 0.19620, 12: 0.30631, 21: 0.05031},
        {50: 0.95025, 51: 0.04975},
    ),
    _row(
        0.85,
        0.0199,
        {2: 0.04528, 3: 0.20537, 4: 0.05878, 5: 0.094274, 6: 0.08454, 7: 0.01176, 9: 0.05137, 21: 0.50015},
        {41: 0.54204, 42: 0.45795},
    ),
    _row(
        0.80,
        0.0298,
        {2: 0.09420, 3: 0.18088, 6: 0.11972, 7: 0.08550, 8: 0.09816, 17: 0.07194, 26: 0.34960},
        {29: 0.58807, 30: 0.41193},
    ),
    _row(
        0.75,
        0.0392,
        {2: 0.10805, 3: 0.09511, 4: 0.01449, 5: 0.13764, 6: 0.10667, 7: 0.05288, 28: 0.01107, 31: 0.47408},
        {25: 0.74161, 26: 0.25839},
    ),
    _row(
        0.70,
        0.0504,
        {
            2: 0.05343,
            3: 0.29406,
            6: 0.00896,
            9: 0.15571,
            12: 0.12189,
            25: 0.19872,
            46: 0.09572,
            62: 0.02741,
            65: 0.04056,
            73: 0.00354,
        },
        {20: 0.76922, 21: 0.23077},
    ),
    _row(
        0.65,
        0.0633,
        {
            2: 0.10451,
            3: 0.15652,
            4: 0.08057,
            5: 0.00056,
            9: 0.12151,
            13: 0.10485,
            15: 0.10719,
            21: 0.00771,
            51: 0.31656,
        },
        {2: 0.000578, 15: 0.06089, 16: 0.47001, 21: 0.46852},
    ),
    _row(
        0.60,
        0.0766,
        {2: 0.11040, 3: 0.20804, 8: 0.14163, 9: 0.14858, 26: 0.14438, 27: 0.08909, 46: 0.00748, 71: 0.15038},
        {2: 0.00036, 10: 0.13063, 13: 0.31068, 18: 0.49341, 19: 0.064915},
    ),
    _row(
        0.55,
        0.0904,
        {2: 0.16880, 3: 0.20994, 6: 0.18095, 15: 0.03846, 16: 0.02635, 18: 0.23454, 19: 0.05815, 31: 0.08280},
        {10: 0.27631, 11: 0.72369},
    ),
    _row(
        0.50,
        0.1071,
        {
            2: 0.14438,
            3: 0.19026,
            4: 0.01836,
            5: 0.00233,
            6: 0.04697,
            8: 0.053943,
            9: 0.05590,
            10: 0.01290,
            11: 0.00162,
            14: 0.06159,
            15: 0.13115,
            17: 0.01481,
            47: 0.00879,
            49: 0.00650,
            55: 0.00210,
            56: 0.00099,
            57: 0.11178,
            58: 0.06238,
            59: 0.05094,
            66: 0.02230,
        },
        {10: 0.47575, 12: 0.46847, 13: 0.02952, 14: 0.02626},
    ),
)
"""The nine rows, from the highest rate to the lowest."""
