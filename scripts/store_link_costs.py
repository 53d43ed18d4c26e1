"""Keep what the benchmark of the link measured, for the picture of costs in the documentation.

::

    make bench ONLY=link >results.jsonl
    .venv/bin/python scripts/store_link_costs.py <results.jsonl

writes ``docs/data/link-costs.json``, which ``make_link_pictures.py link-costs`` draws. Only the cases that are drawn
are kept, with machine and commit.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

COSTS = Path(__file__).resolve().parent.parent / "docs" / "data" / "link-costs.json"
Found = re.Match[str]

_POWER = r"(?:\d+\*)?\d+\^\d+"
_WHOLE_BLOCK_BITS = 10_000_000


def power(text: str) -> int:
    """Return the number that ``5*10^6`` or ``2^27`` stands for."""
    factor, _, rest = text.rpartition("*")
    base, _, exponent = rest.partition("^")
    return int(int(factor or 1) * int(base) ** int(exponent))


def _amplified(found: Found) -> dict[str, Any]:
    return {"key_bits": power(found[1]), "output_bits": power(found[2])}


def _corrected(found: Found) -> dict[str, Any]:
    return {"frame_bits": int(found[1]), "qber": float(found[2]) / 100, "f_ec": float(found[3])}


def _piped(found: Found) -> dict[str, Any]:
    return {"block_bits": power(found[1]) if found[1] else _WHOLE_BLOCK_BITS, "qber": float(found[2]) / 100}


_PARTS: dict[str, tuple[re.Pattern[str], Callable[[Found], dict[str, Any]]]] = {
    "amplification": (re.compile(rf"amplify ({_POWER}) to ({_POWER})"), _amplified),
    "reconciliation": (re.compile(r"correct (\d+) bits at QBER ([0-9.]+)%, f ([0-9.]+)"), _corrected),
    "pipeline": (re.compile(rf"pipeline, both ends, (?:blocks of ({_POWER}), )?QBER ([0-9.]+) %"), _piped),
}


def costs(lines: Iterable[str]) -> dict[str, Any]:
    """Return the costs among the results of a run."""
    kept: dict[str, Any] = {name: [] for name in _PARTS}
    for result in map(json.loads, lines):
        if result["case"] == "machine":
            kept["machine"] = {name: result[name] for name in ("cpu", "cores", "commit", "clean")}
        for name, (pattern, read) in _PARTS.items():
            found = pattern.fullmatch(result["case"])
            if found is not None:
                kept[name].append({**read(found), "path": result["path"], "mbps": result["value"]})
    return kept


def main() -> int:
    """Read standard input and write the file; return the exit code."""
    kept = costs(line for line in sys.stdin if line.startswith("{"))
    missing = [name for name in (*_PARTS, "machine") if not kept.get(name)]
    if missing:
        print(f"store_link_costs: error: the results lack {', '.join(missing)}", file=sys.stderr)
        return 1
    COSTS.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
