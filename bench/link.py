"""What a link costs and yields: amplification, reconciliation, pulses, the whole pipeline, and the models.

Each part lives in a file of its own beside this one and reports into one table: speeds per core beside peers of the
same run, as ratios. ``SHOSOIN_BENCH_LINK=amplification,models`` runs only some parts; ``SHOSOIN_BENCH_SHORT=1`` tells
those that listen to take fewer rounds.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from _common import Report, interleave
from shosoin.link.channels.coexistence import Coexistence, Direction, Traffic
from shosoin.link.channels.fibre import Fibre
from shosoin.link.rates import decoy_published
from shosoin.link.rates.decoy import METRO, secret_key_rate_per_pulse
from shosoin.link.rates.finite_key import Block, FiniteProof, Security
from shosoin.link.rates.optimise import optimise_settings
from shosoin.link.validation import findings

HERE = Path(__file__).resolve().parent
PARTS = tuple(sorted(path.stem.removeprefix("_link_") for path in HERE.glob("_link_*.py")))
MODELS = "models"
_ROUNDS = 5


def short() -> bool:
    """Whether fewer rounds are wanted."""
    return bool(os.environ.get("SHOSOIN_BENCH_SHORT"))


def chosen() -> tuple[str, ...]:
    """Return the parts to run.

    Raises:
        SystemExit: one that is named does not exist.
    """
    wanted = tuple(name for name in os.environ.get("SHOSOIN_BENCH_LINK", "").split(",") if name)
    unknown = set(wanted) - {*PARTS, MODELS}
    if unknown:
        sys.exit(f"bench: error: no part {', '.join(sorted(unknown))}; there are: {', '.join((*PARTS, MODELS))}")
    return wanted or (*PARTS, MODELS)


def part(name: str) -> Callable[[Report], None]:
    """Return what measures a part."""
    report: Callable[[Report], None] = importlib.import_module(f"_link_{name}").report
    return report


def models(report: Report) -> None:
    """Report how fast the models answer: points per second, which is what planning and optimising wait for."""
    losses = np.linspace(0.0, 60.0, 1000)
    wavelengths = np.linspace(1270.0, 1530.0, 200)
    line = Coexistence(Fibre(50.0), [Traffic(1550.0, 0.0), Traffic(1550.0, 0.0, Direction.AGAINST)])
    block = Block(key_detections=1e7)

    def optimum(proof: FiniteProof) -> object:
        return optimise_settings(
            decoy_published.LIM_FIBRE, proof=proof, block=block, attenuation_db=20.0, security=Security()
        )

    cases: dict[str, tuple[Callable[[], object], int]] = {
        "decoy-bb84, 1000 losses": (lambda: secret_key_rate_per_pulse(METRO, attenuation_db=losses), 1000),
        "Raman noise, 200 wavelengths": (lambda: line.noise_photons(wavelengths), 200),
        "best settings, one decoy": (lambda: optimum(FiniteProof.WIESEMANN2024), 1),
        "best settings, two decoys": (lambda: optimum(FiniteProof.LIM2014), 1),
    }
    timed = interleave({name: case for name, (case, _) in cases.items()}, rounds=2 if short() else _ROUNDS)
    for name, (_, points) in cases.items():
        report.emit(f"model: {name}", "numpy", timed[name].per(points), "points/s")
    start = time.perf_counter()
    count = sum(1 for _ in findings(["decoy", "bounds", "turbulence", "satellite"]))
    report.note(f"{count} validation rows in {time.perf_counter() - start:.2f} s")


def main() -> int:
    """Run the chosen parts; return the exit code."""
    report = Report("link")
    for name in chosen():
        start = time.perf_counter()
        (models if name == MODELS else part(name))(report)
        report.note(f"{name}: {time.perf_counter() - start:.0f} s")
    report.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
