"""``python -m tests.mutants [NAME ...]``: which deliberate mistakes are caught, by what, and how long that takes.

Exit status 1 if one survives, or if what should catch it finds something in the vault as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from tests.mutants.catalogue import MUTANTS, Mutant, applied, table


@dataclass(frozen=True, slots=True)
class Trial:
    """One mutant before one of its catchers."""

    mutant: str
    catcher: str
    without: str | None
    """What the catcher finds in the vault as it is: nothing."""
    found: str | None
    """What it finds with the mistake."""
    seconds: float
    """Of this processor, for both runs."""

    @property
    def caught(self) -> bool:
        """Whether the catcher found the mistake, and nothing else."""
        return self.without is None and self.found is not None


def trials(mutants: Sequence[Mutant]) -> Iterator[Trial]:
    """Try every mutant with every one of its catchers."""
    for mutant in mutants:
        for catcher in mutant.caught_by:
            started_s = time.process_time()
            without = catcher.run()
            with applied(mutant):
                found = catcher.run()
            yield Trial(mutant.name, catcher.name, without, found, round(time.process_time() - started_s, 2))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or with ``--json`` a line of JSON for each trial."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these mutants")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each trial")
    parser.add_argument("--table", action="store_true", help="try nothing, print the table of the documentation")
    options = parser.parse_args(arguments)
    if options.table:
        _say(table())
        return 0
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    says = {mutant.name: mutant.says for mutant in chosen}
    lost: set[str] = set()
    for trial in trials(chosen):
        if not trial.caught:
            lost.add(trial.mutant)
        _say(json.dumps(asdict(trial)) if options.json else _told(trial, says[trial.mutant]))
    if not options.json:
        _say(f"{len(chosen) - len(lost)} of {len(chosen)} mutants caught")
    return 1 if lost or not chosen else 0


def _told(trial: Trial, says: str) -> str:
    line = f"{trial.mutant:<32} {trial.catcher:<46} {trial.seconds:6.2f} s"
    if not trial.caught:
        return f"{line}\n    SURVIVES: {says}\n    without it: {trial.without}\n    with it: {trial.found}"
    return f"{line}\n    {says}\n    found: {str(trial.found).splitlines()[0][:150]}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets must be the same in every process
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.mutants", *sys.argv[1:]])
    sys.exit(main())
