"""The recipes of our codes: degrees by number of base rows, from ``scripts/optimise_ldpc_degrees.py``.

Rows grow by about 15 per cent, so that shortening never has to remove more than that of a frame. The degrees are our
own: density evolution at the error rate where decoding takes about 150 rounds, mean degree at most 6.5. (Degrees for
this channel were published by Elkouss, Leverrier, Alleaume and Boutros, arXiv 0901.2140: :mod:`.published_degrees`.
Ours are made for fewer rounds and for as many rates as are wanted; ``scripts/compare_ldpc_degrees.py`` compares them.)
"""

from __future__ import annotations

from types import MappingProxyType

from shosoin.link.reconciliation.construct import Recipe

__all__ = ["LONG", "RECIPES", "SHORT"]

_LONG_DEGREES = {
    20: {2: 19, 3: 232, 6: 17, 7: 52, 16: 80},
    23: {2: 22, 3: 233, 6: 13, 7: 53, 16: 79},
    26: {2: 25, 3: 229, 7: 52, 8: 32, 20: 62},
    30: {2: 29, 3: 229, 7: 43, 8: 39, 20: 60},
    34: {2: 33, 3: 231, 8: 63, 10: 33, 25: 40},
    39: {2: 38, 3: 232, 8: 25, 10: 75, 25: 5, 30: 25},
    45: {2: 44, 3: 229, 8: 26, 10: 71, 30: 30},
    52: {2: 51, 3: 225, 8: 22, 10: 74, 30: 24, 40: 4},
    60: {2: 59, 3: 220, 8: 18, 10: 76, 30: 18, 40: 9},
    69: {2: 68, 3: 213, 8: 15, 10: 78, 30: 11, 40: 15},
    79: {2: 78, 3: 207, 8: 9, 10: 83, 30: 2, 40: 21},
    91: {2: 90, 3: 195, 8: 24, 10: 66, 40: 25},
    104: {2: 103, 3: 183, 8: 37, 10: 53, 40: 24},
    120: {2: 119, 3: 166, 8: 62, 10: 29, 40: 24},
    138: {2: 127, 3: 163, 8: 57, 10: 30, 40: 23},
    158: {2: 136, 3: 160, 8: 56, 10: 27, 40: 21},
    182: {2: 144, 3: 159, 8: 46, 10: 32, 40: 19},
    209: {2: 155, 3: 157, 8: 42, 10: 29, 40: 17},
    240: {2: 165, 3: 156, 8: 30, 10: 35, 40: 14},
}
_SHORT_DEGREES = {
    8: {2: 7, 3: 65, 6: 56},
    9: {2: 8, 3: 71, 7: 49},
    10: {2: 9, 3: 75, 8: 44},
    12: {2: 11, 3: 74, 8: 43},
    14: {2: 13, 3: 79, 10: 36},
    16: {2: 15, 3: 78, 5: 1, 12: 34},
    19: {2: 18, 3: 73, 6: 9, 14: 28},
    22: {2: 21, 3: 69, 6: 7, 7: 9, 16: 22},
    25: {2: 24, 3: 66, 7: 12, 8: 10, 20: 16},
    29: {2: 28, 3: 63, 7: 19, 8: 2, 20: 16},
    33: {2: 32, 3: 60, 8: 24, 25: 12},
    38: {2: 37, 3: 55, 8: 26, 30: 10},
    44: {2: 43, 3: 49, 7: 9, 8: 18, 30: 9},
    50: {2: 43, 3: 51, 8: 19, 10: 8, 40: 7},
    58: {2: 46, 3: 51, 8: 15, 10: 10, 40: 6},
    66: {2: 49, 3: 50, 8: 13, 10: 10, 40: 6},
    76: {2: 52, 3: 50, 8: 11, 10: 10, 40: 5},
}

LONG = tuple(Recipe(f"long-{rows:03d}", rows, 2048, degrees) for rows, degrees in _LONG_DEGREES.items())
"""Frames of 400 blocks of 2,048 bits: 819,200."""

SHORT = tuple(Recipe(f"short-{rows:03d}", rows, 512, degrees) for rows, degrees in _SHORT_DEGREES.items())
"""Frames of 128 blocks of 512 bits: 65,536."""

RECIPES = MappingProxyType({recipe.name: recipe for recipe in (*LONG, *SHORT)})
