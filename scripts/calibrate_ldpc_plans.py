"""Measure how little each LDPC code may leak: the numbers of ``shosoin.link.reconciliation.catalogue``.

A frame of a given number of errors either decodes or not, almost whatever the errors are, so what makes frames fail
is the number of errors. For each code, whole and shortened, the script looks for the smallest f at which every one of
a few frames decodes in the rounds given although it has 3.3 standard deviations more errors than expected (one frame
in two thousand has). Errors are simulated.
"""

from __future__ import annotations

import argparse

import numpy as np

from shosoin.kernels.ldpc import KNOWN, MESSAGE_MAX, UNITS_PER_NAT, ldpc_kernels
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation.code import LdpcCode, code_named
from shosoin.link.reconciliation.recipes import LONG, SHORT

_RATES = np.linspace(1e-4, 0.25, 250_000)
_ENTROPIES = binary_entropy(_RATES)


def decodes(code: LdpcCode, used: int, f_ec: float, *, frames: int, rounds: int, seed: int) -> bool:
    """Return whether all frames decode that have 3.3 standard deviations too many errors for this f."""
    rng = np.random.default_rng(seed)
    bits = used * code.lifting
    qber = float(np.interp(code.syndrome_bits / bits / f_ec, _ENTROPIES, _RATES))
    errors = round(bits * qber + 3.3 * np.sqrt(bits * qber * (1 - qber)))
    magnitudes = np.full(code.columns, KNOWN, dtype="<i2")
    magnitudes[:used] = min(MESSAGE_MAX, round(UNITS_PER_NAT * float(np.log((1 - qber) / qber))))
    edges, kernels = code.packed_edges(), ldpc_kernels()
    for _ in range(frames):
        pattern = np.zeros(code.bits, dtype=np.uint8)
        pattern[rng.choice(bits, errors, replace=False)] = 1
        packed = np.packbits(pattern, bitorder="little").tobytes()
        syndrome = kernels.syndrome(code.rows, code.lifting, edges, packed)
        found, _, converged = kernels.decode(code.rows, code.lifting, edges, magnitudes.tobytes(), syndrome, rounds)
        if not converged or found != packed:
            return False
    return True


def least_f(code: LdpcCode, used: int, *, frames: int, rounds: int) -> float:
    """Return the smallest f, in steps of 0.005."""
    low, high = 200, 400
    while low < high:
        middle = (low + high) // 2
        if decodes(code, used, middle / 200, frames=frames, rounds=rounds, seed=middle):
            high = middle
        else:
            low = middle + 1
    return high / 200


def main() -> None:
    """Print a line for each code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    for recipe in (*LONG, *SHORT):
        code = code_named(recipe.name)
        found = [
            least_f(code, used, frames=arguments.frames, rounds=arguments.rounds)
            for used in (code.columns, code.columns * 87 // 100)
        ]
        print(f"    {recipe.name} {recipe.rows}: ({found[0]}, {found[1]}),", flush=True)


if __name__ == "__main__":
    main()
