"""``python -m shosoin.testing.key_simulation``: run many seeds, or replay one and tell its story."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from shosoin.testing.key_simulation.plan import make_plan
from shosoin.testing.key_simulation.shrinking import shrink
from shosoin.testing.key_simulation.simulate import simulate

__all__ = ["main", "run_seed"]

_REPEATED = 50
"""Every so many-th seed runs twice, and its two traces must be equal."""
_LONGEST = "progress_ms_max"
Result = tuple[int, tuple[str, ...], Counter[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if every seed kept every promise, 1 if not."""
    options = _options(arguments)
    return _soak(options) if options.seed is None else _replay(options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shosoin.testing.key_simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--story", action="store_true", help="with --seed: tell all that happens, line by line")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make a failing plan small first")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="machine-readable result on standard output")
    return parser.parse_args(arguments)


def run_seed(seed: int) -> Result:
    """Run one seed; a run that cannot be repeated is a violation too."""
    plan = make_plan(seed)
    outcome = simulate(plan)
    violations = outcome.violations
    if seed % _REPEATED == 0 and simulate(plan).digest != outcome.digest:
        violations += (f"seed {seed} gives two different runs",)
    return seed, violations, outcome.counts


def _results(options: argparse.Namespace) -> Iterator[Result]:
    seeds = range(options.start, options.start + options.seeds)
    if options.jobs < 2:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        yield from pool.map(run_seed, seeds, chunksize=4)


def _soak(options: argparse.Namespace) -> int:
    began, counts, longest_ms = time.monotonic(), Counter[str](), 0
    failed: dict[int, tuple[str, ...]] = {}
    for done, (seed, violations, found) in enumerate(_results(options), start=1):
        longest_ms = max(longest_ms, found.pop(_LONGEST, 0))
        counts += found
        if violations:
            failed[seed] = violations
        if not options.json and (done % 25 == 0 or done == options.seeds):
            sys.stderr.write(f"\r{done} of {options.seeds} seeds, {len(failed)} failed ")
            sys.stderr.flush()
    report = {"seeds": options.seeds, "start": options.start, "progress_s_longest": longest_ms / 1000}
    if options.json:
        _say(json.dumps({**report, "counts": dict(sorted(counts.items())), "failed": failed}))
        return 1 if failed else 0
    sys.stderr.write("\n")
    for what, number in sorted(counts.items()):
        _say(f"  {what:<40} {number:>9}")
    _say(f"{options.seeds} seeds in {time.monotonic() - began:.0f} s, {len(failed)} failed; after the last fault keys")
    _say(f"flowed again within {longest_ms / 1000:g} simulated seconds")
    for seed, why in list(failed.items())[:20]:
        _say(f"seed {seed} fails: {why[0]}")
        _say(f"  replay: python -m shosoin.testing.key_simulation --seed {seed} --story --shrink")
    return 1 if failed else 0


def _replay(options: argparse.Namespace) -> int:
    outcome = simulate(make_plan(options.seed))
    if options.shrink and outcome.violations:
        outcome = shrink(outcome)
    if options.json:
        report = {"seed": options.seed, "violations": outcome.violations, "digest": outcome.digest}
        _say(json.dumps({**report, "counts": dict(sorted(outcome.counts.items()))}))
        return 1 if outcome.violations else 0
    for line in outcome.lines if options.story else ():
        _say(line)
    if options.shrink and outcome.violations:
        for event in outcome.plan.events:
            _say(f"  {event.at_s:8.3f} s  {event.kind} {event.end} {event.values}")
    for violation in outcome.violations:
        _say(f"broken: {violation}")
    _say(f"seed {options.seed}: {len(outcome.plan.events)} events, {outcome.seconds:.1f} simulated seconds, ")
    _say(f"{len(outcome.violations)} violations; digest {outcome.digest[:16]}")
    return 1 if outcome.violations else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
