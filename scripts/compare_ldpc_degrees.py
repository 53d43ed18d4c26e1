"""Compare codes from published degrees with ours: density evolution, then frames, at equal leak and equal errors.

    python scripts/compare_ldpc_degrees.py --frames 30 --output docs/data/published-degrees.json

For each rate a quasi-cyclic code of the long frame is built from the distribution of Elkouss et al. (arXiv 0901.2140,
table I) by the same construction as ours: columns of each degree rounded, rows filled evenly whatever the table says
of checks. Beside it stands the code of the package with no more rows than that, shortened by whole columns until it
leaks as much of its payload. Both meet errors simulated at the same rate, in the same decoder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shosoin.kernels import active_path
from shosoin.kernels.ldpc import KNOWN, MESSAGE_MAX, UNITS_PER_NAT, ldpc_kernels
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation.code import LdpcCode, code_named
from shosoin.link.reconciliation.construct import Recipe, build
from shosoin.link.reconciliation.density_evolution import Ensemble, rounds_to_correct, threshold
from shosoin.link.reconciliation.published_degrees import ELKOUSS_2009, PublishedEnsemble
from shosoin.link.reconciliation.recipes import LONG

COLUMNS, LIFTING = 400, 2048
_RATES = np.linspace(1e-4, 0.25, 250_000)
_ENTROPIES = binary_entropy(_RATES)


def published_recipe(row: PublishedEnsemble) -> Recipe:
    """Return the recipe of a long frame with the degrees of one row of the table."""
    rows = round((1 - row.rate) * COLUMNS)
    return Recipe(f"elkouss-{rows:03d}", rows, LIFTING, row.ensemble.column_counts(COLUMNS))


def our_recipe(leak: float) -> tuple[Recipe, int]:
    """Return the recipe of ours that leaks so much of its payload, and how many of its columns are used for that."""
    recipe = max((each for each in LONG if each.rows <= leak * COLUMNS), key=lambda each: each.rows)
    return recipe, round(recipe.rows / leak)


def qber_at(leak: float, f_ec: float) -> float:
    """Return the error rate of which this leak is f times the entropy."""
    return float(np.interp(leak / f_ec, _ENTROPIES, _RATES))


def decoded(code: LdpcCode, used: int, qber: float, *, frames: int, rounds: int, seed: int) -> dict[str, Any]:
    """Return how many frames failed and what decoding took."""
    rng = np.random.default_rng(seed)
    magnitudes = np.full(code.columns, KNOWN, dtype="<i2")
    magnitudes[:used] = min(MESSAGE_MAX, round(UNITS_PER_NAT * float(np.log((1 - qber) / qber))))
    edges, kernels = code.packed_edges(), ldpc_kernels()
    failed, seconds, iterations = 0, 0.0, []
    for _ in range(frames):
        pattern = np.zeros(code.bits, dtype=np.uint8)
        pattern[: used * LIFTING] = rng.random(used * LIFTING, dtype=np.float32) < qber
        packed = np.packbits(pattern, bitorder="little").tobytes()
        syndrome = kernels.syndrome(code.rows, code.lifting, edges, packed)
        start = time.thread_time()
        found, needed, converged = kernels.decode(
            code.rows, code.lifting, edges, magnitudes.tobytes(), syndrome, rounds
        )
        seconds += time.thread_time() - start
        if converged and found == packed:
            iterations.append(needed)
        else:
            failed += 1
    return {
        "frames": frames,
        "failed": failed,
        "iterations": round(float(np.mean(iterations)), 1) if iterations else None,
        "megabits_per_second": round(used * LIFTING * frames / seconds / 1e6, 1),
    }


def compared(row: PublishedEnsemble, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a line for each code and f."""
    theirs = published_recipe(row)
    leak = theirs.rows / COLUMNS
    ours, used = our_recipe(leak)
    for source, recipe, columns in (("published", theirs, COLUMNS), ("ours", ours, used)):
        ensemble = Ensemble.of_columns(recipe.degrees, recipe.rows)
        code = code_named(recipe.name) if source == "ours" else build(recipe)
        facts = {
            "rate": row.rate,
            "degrees": source,
            "code": recipe.name,
            "leak": round(recipe.rows / columns, 5),
            "used_columns": columns,
            "edges": len(code.edges),
            **({"threshold": round(threshold(ensemble), 5)} if arguments.thresholds else {}),
        }
        for f_ec in arguments.f:
            qber = qber_at(recipe.rows / columns, f_ec)
            found = decoded(code, columns, qber, frames=arguments.frames, rounds=arguments.rounds, seed=arguments.seed)
            # Shortened columns were spread over all degrees, so endless frames are asked at the same f, unshortened.
            evolved = rounds_to_correct(ensemble, qber_at(recipe.rows / COLUMNS, f_ec))
            yield facts | {"f_ec": f_ec, "qber": round(qber, 6), "evolution_rounds": evolved} | found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.85, 0.70, 0.50])
    parser.add_argument("--f", type=float, nargs="+", default=[1.14, 1.12, 1.10, 1.08, 1.06])
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=100, help="iterations at most")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--thresholds", action="store_true", help="of both ensembles too (a minute)")
    parser.add_argument("--output", type=Path, help="a file; what it has of other rates is kept")
    arguments = parser.parse_args()
    kept = []
    if arguments.output and arguments.output.exists():
        kept = [
            line for line in json.loads(arguments.output.read_text())["rows"] if line["rate"] not in arguments.rates
        ]
    result: dict[str, Any] = {
        "what": "codes of the long frame from published degrees and from ours; errors simulated",
        "source": "arXiv 0901.2140, table I",
        "kernels": active_path(),
        "iterations_max": arguments.rounds,
        "rows": kept,
    }
    for row in ELKOUSS_2009:
        if row.rate in arguments.rates:
            for line in compared(row, arguments):
                print(json.dumps(line), flush=True)
                result["rows"].append(line)
                if arguments.output:
                    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
