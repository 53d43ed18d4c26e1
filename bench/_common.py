"""What benchmarks share: interleaved runs, medians, JSON lines on standard output, a table on standard error.

On a shared machine the speed of a run depends on its neighbours, so what is compared runs in turn, round after round,
and only ratios within one process count.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

__all__ = ["Median", "Report", "interleave", "machine", "median_of"]


@dataclass(frozen=True, slots=True)
class Median:
    """The median of some runs with the smallest and the largest."""

    value: float
    low: float
    high: float

    def per(self, amount: float) -> Median:
        """Turn seconds into a rate: ``amount`` per second."""
        return Median(amount / self.value, amount / self.high, amount / self.low)


def median_of(samples: Sequence[float]) -> Median:
    """Return the median and the extremes."""
    return Median(statistics.median(samples), min(samples), max(samples))


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    sample_s: float = 0.02,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Median]:
    """Time every case in turn, ``rounds`` times; seconds per call.

    Each case runs twice before, to warm up and to learn how many calls make a sample of ``sample_s``. For what runs in
    one thread and waits for nothing, ``time.thread_time`` leaves out what the machine does for others meanwhile.
    """
    calls = {}
    for name, case in cases.items():
        case()
        start = clock()
        case()
        calls[name] = max(1, round(sample_s / max(clock() - start, 1e-6)))
    samples: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            start = clock()
            for _ in range(calls[name]):
                case()
            samples[name].append((clock() - start) / calls[name])
    return {name: median_of(values) for name, values in samples.items()}


def machine() -> dict[str, object]:
    """Return what ran this: processor, cores, Python, commit."""
    root = Path(__file__).resolve().parent.parent
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": _git(root, "rev-parse", "--short=12", "HEAD") or "unknown",
        "clean": _git(root, "status", "--porcelain") == "",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)  # noqa: S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


class Report:
    """The results of one benchmark: each is printed as a JSON object at once, and all as a table at the end."""

    def __init__(self, bench: str) -> None:
        self.bench = bench
        self.console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
        self._table = Table(title=f"{bench}: medians (lowest to highest)", title_justify="left")
        for heading in ("case", "path", "value", "ratio", "of", "wanted"):
            self._table.add_column(heading, justify="right" if heading in {"value", "ratio", "wanted"} else "left")
        facts = machine()
        print(json.dumps({"bench": bench, "case": "machine", **facts}), flush=True)
        self.note(", ".join(f"{name} {value}" for name, value in facts.items()))

    def emit(
        self,
        case: str,
        path: str,
        value: Median,
        unit: str,
        *,
        ratio: float | None = None,
        ratio_to: str | None = None,
        wanted: float | None = None,
    ) -> None:
        """Report one measurement, its ratio to a peer or a limit of the same run, and the ratio it must reach."""
        result = {
            "bench": self.bench,
            "case": case,
            "path": path,
            "value": round(value.value, 4),
            "low": round(value.low, 4),
            "high": round(value.high, 4),
            "unit": unit,
            "ratio": None if ratio is None else round(ratio, 4),
            "ratio_to": ratio_to,
            "wanted": wanted,
        }
        print(json.dumps(result), flush=True)
        self._table.add_row(
            case,
            path,
            f"{value.value:.3g} {unit} ({value.low:.3g} to {value.high:.3g})",
            "" if ratio is None else f"{ratio:.3g}",
            ratio_to or "",
            "" if wanted is None else f"{wanted:g} {'reached' if ratio and ratio >= wanted else 'MISSED'}",
        )

    def note(self, text: str) -> None:
        """Tell the reader something that is no measurement."""
        self.console.print(f"{self.bench}: {text}", highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Print the table."""
        self.console.print(self._table)
