"""``make fuzz``: atheris on each harness for a while, one after the other; a summary line in JSON for each.

    python -m fuzz.run SECONDS [NAME ...]

A finding leaves its input under ``build/fuzz/NAME``; ``python -m fuzz.target NAME FILE`` runs it again.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz.catalogue import HARNESSES
from fuzz.corpus import CORPUS
from fuzz.harness import Harness

__all__ = ["Outcome", "fuzz_one", "main"]

BUILD = Path(__file__).parents[1] / "build" / "fuzz"
TIMEOUT_S = 30
"""Longest time for one input; the ends of the vault's protocol take some milliseconds."""
MEMORY_MIB = 2048
START_S = 300
"""For imports and seeds on a busy machine, and for the last input."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of fuzzing one harness."""

    name: str
    executions: int
    features: int
    """Of coverage, as libFuzzer counts them."""
    found: str
    """The input that broke a property, or empty."""


def fuzz_one(harness: Harness, seconds: int) -> Outcome:
    """Fuzz one harness in a process of its own."""
    place = BUILD / harness.name
    (place / "corpus").mkdir(parents=True, exist_ok=True)
    for old in place.glob("found-*"):
        old.unlink()
    options = {
        "max_total_time": seconds,
        "timeout": TIMEOUT_S,
        "rss_limit_mb": MEMORY_MIB,
        "max_len": harness.size_max,
        "artifact_prefix": f"{place}/found-",
        "print_final_stats": 1,
    }
    command = [sys.executable, "-m", "fuzz.target", harness.name]
    command += [f"-{name}={value}" for name, value in options.items()]
    command += [str(place / "corpus"), str(CORPUS / harness.name)]
    with (place / "log").open("wb") as log:
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, timeout=seconds + START_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    return _outcome(harness.name, place, code)


def _outcome(name: str, place: Path, code: int) -> Outcome:
    log = (place / "log").read_text(errors="replace")
    executions = re.findall(r"(?:stat::number_of_executed_units:|Done) *(\d+)", log) or re.findall(
        r"^#(\d+)", log, re.MULTILINE
    )
    features = re.findall(r" ft: (\d+)", log)
    found = ", ".join(str(path) for path in sorted(place.glob("found-*")))
    if code and not found:
        found = f"no input was kept; see {place / 'log'}"
    return Outcome(name, int(executions[-1]) if executions else 0, int(features[-1]) if features else 0, found)


def main(arguments: list[str]) -> int:
    """Fuzz what is named, or everything; return 1 if anything was found."""
    seconds, names = int(arguments[0]), arguments[1:] or list(HARNESSES)
    found = False
    for name in names:
        outcome = fuzz_one(HARNESSES[name], seconds)
        found = found or bool(outcome.found)
        print(json.dumps(asdict(outcome)), flush=True)
    return int(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
