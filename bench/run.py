"""Run the benchmarks: ``python bench/run.py [NAME ...]``, or ``make bench ONLY=name``.

Each ``bench/NAME.py`` is a program of its own: JSON lines on standard output, its table on standard error, exit code
zero unless it failed. One process each, one after the other, so that no benchmark warms or crowds another. What they
print passes through unchanged; a line on standard output that is not a JSON object is a failure, because whatever
collects the figures would choke on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run" and not path.stem.startswith("_"))


def is_result(line: str) -> bool:
    """Return whether a line is one JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def run(name: str) -> str | None:
    """Run one benchmark and return why it failed, or None."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    results = strays = 0
    with subprocess.Popen([sys.executable, HERE / f"{name}.py"], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if is_result(line):
                results += 1
                print(line, end="", flush=True)
            elif line.strip():
                strays += 1
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        return f"exit code {process.returncode}"
    if strays:
        return f"{strays} lines on standard output are not JSON objects"
    return None if results else "no result"


def main(chosen: list[str]) -> int:
    """Run the chosen benchmarks, or all; return the exit code."""
    known = names()
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        print(f"bench: error: no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    failures = {name: why for name in chosen or known if (why := run(name)) is not None}
    for name, why in failures.items():
        print(f"bench: error: {name}: {why}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
