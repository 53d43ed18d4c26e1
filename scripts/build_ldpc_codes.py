"""Build the tables of the LDPC codes from their recipes, or check that those committed are what the recipes give.

python scripts/build_ldpc_codes.py            # writes src/shosoin/link/reconciliation/codes/
python scripts/build_ldpc_codes.py --check    # exit code 1 if a table differs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shosoin.link.reconciliation.code import code_to_text
from shosoin.link.reconciliation.construct import build, four_cycles
from shosoin.link.reconciliation.recipes import RECIPES

CODES = Path(__file__).resolve().parent.parent / "src/shosoin/link/reconciliation/codes"


def main() -> int:
    """Write or check every table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("names", nargs="*", help="codes, by default all")
    arguments = parser.parse_args()
    differ = 0
    for name in arguments.names or RECIPES:
        code = build(RECIPES[name])
        path = CODES / f"{name}.txt"
        text = code_to_text(code)
        if arguments.check:
            same = path.read_text("ascii") == text
            differ += not same
            print(f"{name}: {'as built' if same else 'DIFFERS'}", flush=True)
        else:
            path.write_text(text, "ascii")
            print(f"{name}: {len(code.edges)} edges, {four_cycles(code)} 4-cycles", flush=True)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
