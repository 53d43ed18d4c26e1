"""``python -m shosoin.testing.simulation``: run many seeds, or replay one and tell its story."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from shosoin.testing.simulation.plan import Liars, make_plan
from shosoin.testing.simulation.shrinking import shrink
from shosoin.testing.simulation.simulate import Outcome, simulate

_REPEATED = 50
"""Every so many-th seed runs twice, and its two traces must be equal."""
Result = tuple[int, tuple[str, ...], Counter[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 if every seed kept every promise, 1 if not."""
    options = _options(arguments)
    if options.seed is not None:
        return _replay(options, options.seed, shrunk=options.shrink)
    return _soak(options)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shosoin.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run")
    parser.add_argument("--start", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one and tell its story")
    parser.add_argument("--shrink", action="store_true", help="with --seed: make a failing plan small first")
    parser.add_argument("--liars", choices=[each.value for each in Liars], default=Liars.ALL.value)
    parser.add_argument("--class-changes", action="store_true", help="names may go to objects of another class")
    parser.add_argument("--repairs", action="store_true", help="shares get lost and damaged, and are repaired")
    parser.add_argument("--hostile", action="store_true", help="clients attack, and liars conspire")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="machine-readable result on standard output")
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def run_seed(seed: int, liars: Liars, *, class_changes: bool, repairs: bool = False, hostile: bool = False) -> Result:
    """Run one seed; a run that cannot be repeated is a violation too."""
    plan = make_plan(seed, liars, class_changes=class_changes, repairs=repairs, hostile=hostile)
    outcome = simulate(plan)
    violations = outcome.violations
    if seed % _REPEATED == 0 and simulate(plan).digest != outcome.digest:
        violations += (f"seed {seed} gives two different runs",)
    return seed, violations, outcome.counts


def _results(options: argparse.Namespace) -> Iterator[Result]:
    seeds = range(options.start, options.start + options.seeds)
    work = partial(
        run_seed,
        liars=Liars(options.liars),
        class_changes=options.class_changes,
        repairs=options.repairs,
        hostile=options.hostile,
    )
    if options.jobs < 2:
        yield from map(work, seeds)
        return
    with ProcessPoolExecutor(options.jobs) as pool:
        yield from pool.map(work, seeds, chunksize=4)


def _soak(options: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    failed: dict[int, tuple[str, ...]] = {}
    for done, (seed, violations, found) in enumerate(_results(options), start=1):
        counts += found
        if violations:
            failed[seed] = violations
        if not options.json and (done % 25 == 0 or done == options.seeds):
            sys.stderr.write(f"\r{done} of {options.seeds} seeds, {len(failed)} failed ")
            sys.stderr.flush()
    if options.json:
        _say(json.dumps({"seeds": options.seeds, "start": options.start, "counts": counts, "failed": failed}))
        return 1 if failed else 0
    sys.stderr.write("\n")
    for what, number in sorted(counts.items()):
        _say(f"  {what:<24} {number:>9}")
    for seed, violations in list(failed.items())[:20]:
        _say(f"seed {seed} fails: {violations[0]}")
    if failed:
        first = min(failed)
        _replay(options, first, shrunk=True)
        chosen = {"class-changes": options.class_changes, "repairs": options.repairs, "hostile": options.hostile}
        more = "".join(f" --{name}" for name, is_chosen in chosen.items() if is_chosen)
        _say(f"replay: python -m shosoin.testing.simulation --seed {first} --liars {options.liars} --shrink{more}")
    return 1 if failed else 0


def _replay(options: argparse.Namespace, seed: int, *, shrunk: bool) -> int:
    plan = make_plan(
        seed,
        Liars(options.liars),
        class_changes=options.class_changes,
        repairs=options.repairs,
        hostile=options.hostile,
    )
    outcome = simulate(plan)
    if shrunk and outcome.violations:
        outcome = shrink(outcome)
    if options.json:
        _say(json.dumps({"seed": seed, "violations": outcome.violations, "digest": outcome.digest}))
    else:
        _tell(outcome)
    return 1 if outcome.violations else 0


def _tell(outcome: Outcome) -> None:
    plan = outcome.plan
    _say(f"seed {plan.seed}: {plan.scheme}, {len(plan.clients)} clients, {outcome.seconds:.1f} simulated seconds")
    for lie in plan.lies:
        _say(f"  {lie.site} lies: {lie.kind}, from {1000 * lie.at_s:.1f} ms on, with probability {lie.rate:g}")
    for attack in plan.attacks:
        _say(f"  {attack.client} attacks: {attack.kind} {attack.times} times, from {1000 * attack.at_s:.1f} ms on")
    for line in outcome.lines:
        _say(line)
    _say(f"{len(outcome.violations)} violations; digest {outcome.digest[:16]}")


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets must be the same in every process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "shosoin.testing.simulation", *sys.argv[1:]])  # noqa: S606
    sys.exit(main())
