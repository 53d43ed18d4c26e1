"""LDPC reconciliation on one core, beside the PyPI package ldpc on the same code and the same errors.

Question: how many bits of sifted key does one core correct in a second, and at what f? Rates are payload bits; f is the
leak over the entropy of the errors that were really there. Seconds are those of the thread's CPU time. Errors are
simulated. The peer, where it is installed, decodes a short frame of ours by belief propagation on doubles, flooding
and without our layers: it gets our parity-check matrix and our syndrome, and its result is checked against ours. It is
a decoder for research, not made for speed. No peer is measured on long frames: they would take it half a minute each.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from _common import Median, Report, interleave, median_of
from shosoin.kernels import available_paths, paths
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation import FramePlan, correct, disclose, plan_frame

__all__ = ["report"]

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
FRAMES = int(os.environ.get("BENCH_FRAMES", "20"))
PEER_FRAMES = 3
QBERS = (0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.11)
WANTED_MBPS = 25.0
WANTED_F = 1.12


class NoEntropy:
    """For plans that puncture nothing: it is never asked."""

    source = "none"
    physical = False

    def random_bytes(self, size_bytes: int) -> bytes:
        """Refuse."""
        raise AssertionError("a plan without punctured bits asked for entropy")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame at both ends, and its syndrome."""

    plan: FramePlan
    alice: bytes
    bob: bytes
    message: bytes
    errors: int

    @classmethod
    def of(cls, plan: FramePlan, seed: int) -> Frame:
        """Return a frame of noise, with errors as the plan expects them."""
        rng = np.random.default_rng(seed)
        alice = rng.bytes(plan.payload_bits // 8)
        pattern = rng.random(plan.payload_bits) < plan.qber
        bob = np.frombuffer(alice, np.uint8) ^ np.packbits(pattern, bitorder="little")
        message = disclose(plan, alice, NoEntropy()).message
        return cls(plan, alice, bob.tobytes(), message, int(np.count_nonzero(pattern)))

    @property
    def f_ec(self) -> float:
        """The leak over the entropy of these errors."""
        entropy = float(binary_entropy(self.errors / self.plan.payload_bits))
        return self.plan.leak_bits / (self.plan.payload_bits * entropy)

    def correct(self) -> bool:
        """Correct Bob's bits; return whether they are Alice's now."""
        correction = correct(self.plan, self.bob, self.message)
        return correction.converged and correction.bits == self.alice


def timed(case: Callable[[], bool]) -> tuple[float, bool]:
    """Return seconds of this thread and the result."""
    start = time.thread_time()
    good = case()
    return time.thread_time() - start, good


def measure_path(report: Report, path: str, plan: FramePlan, frames: int, *, wanted: bool = False) -> None:
    """Report the rate of one path on fresh frames of one plan."""
    before = paths.active().name
    paths.use(path)
    try:
        cases = [Frame.of(plan, seed) for seed in range(frames)]
        cases[0].correct()
        results = [(*timed(case.correct), case.f_ec) for case in cases]
    finally:
        paths.use(before)
    f_ec = float(np.mean([f for _, _, f in results]))
    failed = sum(not good for _, good, _ in results)
    rate = median_of([seconds for seconds, _, _ in results]).per(plan.payload_bits / 1e6)
    report.emit(
        f"correct {plan.payload_bits} bits at QBER {plan.qber:.1%}, f {f_ec:.3f}",
        path,
        rate,
        "Mb/s",
        ratio=rate.value / WANTED_MBPS,
        ratio_to=f"{WANTED_MBPS:g} Mb/s",
        wanted=1.0 if wanted and f_ec <= WANTED_F else None,
    )
    if failed:
        report.note(f"{failed} of {frames} frames failed at QBER {plan.qber}")


def measure_syndrome(report: Report) -> None:
    """Report how fast Alice is."""
    plan = plan_frame(0.045)
    alice = np.random.default_rng(1).bytes(plan.payload_bits // 8)
    times = interleave({"disclose": lambda: disclose(plan, alice, NoEntropy())}, rounds=ROUNDS, clock=time.thread_time)
    rate = times["disclose"].per(plan.payload_bits / 1e9)
    report.emit(f"disclose {plan.payload_bits} bits", available_paths()[0], rate, "Gb/s")


# --------------------------------------------------------------------------------------------------------------- peer


def matrix_of(plan: FramePlan) -> sparse.csr_matrix:
    """Return the parity-check matrix of the payload."""
    code = plan.matrix()
    edges = np.array([edge for edge in code.edges if edge[1] < plan.used_columns])
    lifted = np.arange(code.lifting)
    checks = (edges[:, :1] * code.lifting + lifted).reshape(-1)
    bits = (edges[:, 1:2] * code.lifting + (lifted + edges[:, 2:]) % code.lifting).reshape(-1)
    ones = np.ones(bits.size, dtype=np.uint8)
    return sparse.csr_matrix((ones, (checks, bits)), shape=(code.syndrome_bits, plan.payload_bits))


def unpacked(data: bytes) -> npt.NDArray[np.uint8]:
    """Return a byte for each bit."""
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def measure_peer(report: Report) -> None:
    """Measure the package ldpc and our best path on the same short frames."""
    try:
        from ldpc.bp_decoder import BpDecoder  # noqa: PLC0415  # may be missing
    except ImportError:
        report.note("ldpc: not installed")
        return
    plan = plan_frame(0.045, frame_bits=65536)
    matrix = matrix_of(plan)
    frames = [Frame.of(plan, 100 + seed) for seed in range(PEER_FRAMES)]
    ours = median_of([timed(frame.correct)[0] for frame in frames for _ in range(3)])
    for method in ("product_sum", "minimum_sum"):
        decoder = BpDecoder(matrix, error_rate=plan.qber, max_iter=100, bp_method=method)
        seconds, good = [], 0
        for frame in frames:
            syndrome = unpacked(frame.message) ^ (matrix @ unpacked(frame.bob) & 1).astype(np.uint8)
            start = time.thread_time()
            found = decoder.decode(syndrome)
            seconds.append(time.thread_time() - start)
            good += np.array_equal(found, unpacked(frame.alice) ^ unpacked(frame.bob))
        theirs = median_of(seconds)
        name = f"ldpc {method}, {good} of {PEER_FRAMES} corrected"
        case = f"correct {plan.payload_bits} bits at QBER {plan.qber:.1%}"
        report.emit(case, name, theirs.per(plan.payload_bits / 1e6), "Mb/s")
        speedup = Median(theirs.value / ours.value, theirs.low / ours.high, theirs.high / ours.low)
        report.emit(f"{case}: times faster", available_paths()[0], speedup, "x", ratio=speedup.value, ratio_to=name)


def report(report: Report) -> None:
    """Measure reconciliation."""
    best = available_paths()[0]
    if best == "reference":
        report.note("no native kernels here: the reference alone is measured, on a short frame")
        measure_path(report, best, plan_frame(0.045, frame_bits=65536), 2)
        return
    measure_path(report, best, plan_frame(0.045, margin=0.02), FRAMES, wanted=True)
    measure_syndrome(report)
    for path in available_paths()[1:-1]:
        measure_path(report, path, plan_frame(0.045, margin=0.02), max(2, FRAMES // 5))
    for qber in QBERS:
        measure_path(report, best, plan_frame(qber), max(2, FRAMES // 2))
        measure_path(report, best, plan_frame(qber, frame_bits=65536), FRAMES)
    measure_peer(report)


def main() -> None:
    """Measure it alone."""
    alone = Report("reconciliation")
    report(alone)
    alone.close()


if __name__ == "__main__":
    main()
