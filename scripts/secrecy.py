"""Check the secrecy of every protocol against every coalition, on symbols, and print what was checked.

One row for each protocol and scheme: how many runs (variants of challenges, losses, targets), how many coalitions or
schedules of coalitions over all runs, how many of them learn anything (it must be 0), and how many sets of k sites
learn everything (it must be all of them). Then the planted mistakes, each of which must be found.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from shosoin.testing.symbolic.planted import PLANTED
from shosoin.testing.symbolic.suite import PROTOCOLS, SCHEMES, results
from shosoin.vault.layout import ANSWERS_PER_EPOCH


def protocol_rows(answers: int, names: list[str] | None) -> Iterator[dict[str, Any]]:
    """Yield one row for each protocol and scheme."""
    for scheme in SCHEMES:
        for found in results(scheme, answers, names):
            yield {
                "protocol": found.protocol,
                "scheme": str(scheme),
                "runs": found.runs,
                "coalitions": found.views,
                "learn": len(found.findings),
                "first": str(found.findings[0]) if found.findings else None,
                "k_sites_learn_all": found.tight,
                "k_sites_do_not": found.loose,
            }


def planted_rows() -> Iterator[dict[str, Any]]:
    """Yield one row for each planted mistake."""
    for name, build in PLANTED.items():
        found = build(True).findings()
        yield {
            "mistake": name,
            "found_by": len(found),
            "first": str(found[0]) if found else None,
            "without_it": len(build(False).findings()),
        }


def is_good(row: dict[str, Any]) -> bool:
    """Whether a row says what it must."""
    if "mistake" in row:
        return bool(row["found_by"]) and not row["without_it"]
    return not row["learn"] and not row["k_sites_do_not"]


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of the table."""
    verdict = "ok" if is_good(row) else "BAD"
    if "mistake" in row:
        return f"{row['mistake']:<36} found by {row['found_by']:>4}, first {row['first']:<52} {verdict}"
    counts = f"{row['runs']:>3} runs {row['coalitions']:>6} coalitions {row['learn']:>3} learn"
    return (
        f"{row['protocol']:<32} {row['scheme']:<8} {counts} {row['k_sites_learn_all']:>4} sets of k learn all {verdict}"
    )


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    parser.add_argument(
        "--answers", type=int, default=2, help=f"T, audit answers per epoch; the vault gives {ANSWERS_PER_EPOCH} (slow)"
    )
    parser.add_argument("--only", action="append", choices=list(PROTOCOLS), help="a protocol; may be given again")
    arguments = parser.parse_args()
    good = True
    for rows in (protocol_rows(arguments.answers, arguments.only), planted_rows()):
        for row in rows:
            good = good and is_good(row)
            print(json.dumps(row) if arguments.json else line_of(row), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
