"""Cascade beside the one of TNO's package qkd_key_rate, on blocks of the same length with as many errors.

Question: what does the optional code cost, in time and in bits? Both ends run in one thread. f here counts one
direction, as it is usually given; ours counts both as leak, since both ends send their parities
(``shosoin.link.reconciliation.cascade``). TNO's is a reference in Python objects, not made for speed, with parameters
of its own test.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from _common import Median, Report, median_of
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation.cascade import CascadeEnd

__all__ = ["report"]

BITS = 100_000
PEER_BITS = 10_000
ROUNDS = 3
QBERS = (0.01, 0.03, 0.05)
_Result = tuple[float, float]
"""Seconds, and bits that one end disclosed."""


def ours(bits: int, qber: float, seed: int) -> _Result:
    """Correct a block; both ends work."""
    rng = np.random.default_rng(seed)
    sent = rng.integers(0, 2, bits, dtype=np.uint8)
    seen = sent ^ (rng.random(bits) < qber).astype(np.uint8)
    start, disclosed = time.thread_time(), 0
    there = CascadeEnd(sent, qber, seed=seed, corrects=False)
    here = CascadeEnd(seen, qber, seed=seed, corrects=True)
    while not there.is_over:
        one, other = there.parities, here.parities
        disclosed += len(one)
        there.take(other)
        here.take(one)
    assert np.array_equal(here.bits, sent)
    return time.thread_time() - start, disclosed


def tno(bits: int, qber: float, seed: int) -> _Result:
    """Correct a block with TNO's package."""
    from tno.quantum.communication.qkd_key_rate.classical import (  # noqa: PLC0415  # may be missing
        Message,
        ParityStrategy,
        Permutations,
    )
    from tno.quantum.communication.qkd_key_rate.classical.cascade import (  # noqa: PLC0415
        CascadeCorrector,
        CascadeReceiver,
        CascadeSender,
    )

    sent = Message(np.random.default_rng(seed).integers(0, 2, bits).tolist())
    seen = sent.apply_errors(error_rate=qber)
    orders = Permutations.random_permutation(number_of_passes=8, message_size=bits)
    strategy = ParityStrategy(error_rate=qber, sampling_fraction=0.34, number_of_passes=8, switch_after_pass=3)
    start = time.thread_time()
    alice = CascadeSender(message=sent, permutations=orders)
    bob = CascadeReceiver(message=seen, permutations=orders, parity_strategy=strategy)
    results = CascadeCorrector(alice=alice, bob=bob).correct_errors()
    assert results.output_alice == results.output_bob
    return time.thread_time() - start, results.number_of_exposed_bits


def measure(case: Callable[[int, float, int], _Result], bits: int, qber: float) -> tuple[Median, float]:
    """Return the rate in Mb/s, and f in one direction."""
    results = [case(bits, qber, seed) for seed in range(ROUNDS)]
    entropy = bits * float(binary_entropy(qber))
    return median_of([s for s, _ in results]).per(bits / 1e6), sum(leak for _, leak in results) / ROUNDS / entropy


def report(report: Report) -> None:
    """Measure and report."""
    for qber in QBERS:
        rate, efficiency = measure(ours, BITS, qber)
        report.emit(f"cascade, {BITS} bits, QBER {100 * qber:g} %, f {efficiency:.3f}", "numpy", rate, "Mb/s")
        try:
            peer, efficiency = measure(tno, PEER_BITS, qber)
        except ImportError:
            report.note("qkd_key_rate: not installed")
            continue
        name = f"cascade of qkd_key_rate, {PEER_BITS} bits, QBER {100 * qber:g} %, f {efficiency:.3f}"
        report.emit(name, "python", peer, "Mb/s", ratio=rate.value / peer.value, ratio_to="ours to it")


def main() -> None:
    """Run alone."""
    table = Report("link_cascade")
    report(table)
    table.close()


if __name__ == "__main__":
    main()
