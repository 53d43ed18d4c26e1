"""Measure what reconciliation yields on simulated errors: f, frame errors, iterations, megabits per second and core.

    python scripts/measure_frame_errors.py --output docs/data/reconciliation.json

Alice's bits and the errors come from a seeded generator; each frame goes through ``disclose`` and ``correct`` as in a
protocol and is then compared with Alice's. Time is processor time of the one thread, disclosure not included.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shosoin.kernels import active_path
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation import FramePlan, correct, disclose, plan_frame

TABLE_QBERS = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.045, 0.06, 0.08, 0.095, 0.11)
CURVE_FACTORS = (1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.08)


class NoEntropy:
    """For plans that puncture nothing: it is never asked."""

    source = "none"
    physical = False

    def random_bytes(self, size_bytes: int) -> bytes:
        """Refuse."""
        raise AssertionError("a plan without punctured bits asked for entropy")


def measured(plan: FramePlan, qber: float, frames: int, seed: int) -> dict[str, Any]:
    """Return what happened to so many frames of one plan at one true error rate."""
    rng = np.random.default_rng(seed)
    failed = undetected = errors = iterations = 0
    seconds = 0.0
    for _ in range(frames):
        alice = np.frombuffer(rng.bytes(plan.payload_bits // 8), dtype=np.uint8)
        pattern = rng.random(plan.payload_bits, dtype=np.float32) < qber
        errors += int(np.count_nonzero(pattern))
        bob = alice ^ np.packbits(pattern, bitorder="little")
        message = disclose(plan, alice, NoEntropy()).message
        start = time.thread_time()
        correction = correct(plan, bob, message)
        seconds += time.thread_time() - start
        iterations += correction.iterations
        failed += not correction.converged
        undetected += correction.converged and correction.bits != alice.tobytes()
    true_qber = errors / (frames * plan.payload_bits)
    return {
        "code": plan.code,
        "payload_bits": plan.payload_bits,
        "leak_bits": plan.leak_bits,
        "planned_qber": plan.qber,
        "qber": qber,
        "true_qber": round(true_qber, 7),
        "f_ec": round(plan.leak_bits / (plan.payload_bits * float(binary_entropy(true_qber))), 4),
        "frames": frames,
        "failed": failed,
        "wrong_though_converged": undetected,
        "iterations": round(iterations / frames, 1),
        "megabits_per_second": round(plan.payload_bits * frames / seconds / 1e6, 1),
        "seed": seed,
    }


def rows(arguments: argparse.Namespace, done: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run every part that is not done."""
    centre = plan_frame(0.045)
    if "point" not in done:
        yield "point", measured(centre, 0.045, arguments.point_frames, 1)
    if "target" not in done:
        yield "target", {"margin": 0.02, **measured(plan_frame(0.045, margin=0.02), 0.045, arguments.target_frames, 6)}
    if "margin" not in done:
        for margin in (0.01, 0.02, 0.025):
            yield "margin", {"margin": margin, **measured(plan_frame(0.045, margin=margin), 0.045, arguments.frames, 2)}
    if "long" not in done:
        for qber in TABLE_QBERS:
            yield "long", measured(plan_frame(qber), qber, arguments.frames, 3)
    if "short" not in done:
        for qber in TABLE_QBERS:
            yield "short", measured(plan_frame(qber, frame_bits=65536), qber, arguments.short_frames, 4)
    if "curve" not in done:
        for factor in CURVE_FACTORS:
            yield "curve", measured(centre, 0.045 * factor, arguments.curve_frames, 5)


def processor() -> str:
    """Return the processor's name where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--resume", type=Path, help="a file whose parts are kept as they are")
    parser.add_argument("--point-frames", type=int, default=2500, help="frames at QBER 4.5 %%")
    parser.add_argument("--target-frames", type=int, default=3200, help="the same, with a margin of 2 %%")
    parser.add_argument("--frames", type=int, default=300, help="long frames for each other point")
    parser.add_argument("--short-frames", type=int, default=2000)
    parser.add_argument("--curve-frames", type=int, default=100)
    arguments = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    result: dict[str, Any] = {
        "what": "one-way LDPC reconciliation of simulated errors, one thread",
        "commit": commit,
        "kernels": active_path(),
        "processor": processor(),
    }
    if arguments.resume:
        result |= json.loads(arguments.resume.read_text())
    for part, row in rows(arguments, dict(result)):
        result.setdefault(part, []).append(row)
        print(part, json.dumps(row), flush=True)
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
