"""Write docs/reference/cli.md from the command line itself; with --check, only say whether it is fresh.

The text comes from the parser's own help, so a page that passes the check cannot describe an option that is not there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "cli.md"
WIDTH = "100"

HEAD = """# Command line

<!-- Written by scripts/gen_cli_reference.py; change the commands, then run it again. -->

Data goes to standard output; talk goes to standard error, as `shosoin: error: ...`, `shosoin: hint: ...` and
`shosoin: alarm: ...`. Commands that answer something take `--json` and then print one object on one line. Progress bars
appear only on a terminal. The language follows `SHOSOIN_LANG`, else the locale (`en`, and `ja` for the demonstration,
for labels and for the doctor); errors are always English. `SHOSOIN_DEBUG=1` adds the traceback to a defect.

## Exit codes

| code | meaning | what to do |
| --- | --- | --- |
| 0 | done | read standard error all the same: a site that lied is named there even when the right bytes were served |
| 2 | rejected: the request itself is wrong | change it; repeating it cannot succeed |
| 3 | denied: the caller may not do this | check the certificate and the owner |
| 4 | unavailable: right, but not now | try again, after the time given if one is given |
| 5 | peer fault: the other side broke the protocol | look at its log and version |
| 6 | alarm: a security property failed | find out who altered what; do not retry it away |
| 70 | a defect of shosoin | report it |
| 130 | stopped by Ctrl-C (143: SIGTERM, 129: SIGHUP) | nothing was left half done |
| 141 | whoever read the output went away | nothing |

## Which owner speaks

Commands that work on objects need an owner: `--testbed DIR` (with `--as OWNER` for another than the first) or
`--config FILE`. Without either, `SHOSOIN_CONFIG` and then `SHOSOIN_TESTBED` are looked at.

"""


def commands(command: Any, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """Return every command below one, groups before their members."""
    found = [(names, command)] if names else []
    for name, member in getattr(command, "commands", {}).items():
        found += commands(member, (*names, name))
    return found


def page() -> str:
    """Return the whole page."""
    os.environ.update(COLUMNS=WIDTH, TERMINAL_WIDTH=WIDTH, NO_COLOR="1")
    from shosoin.cli.app import command  # noqa: PLC0415  # after the width is set

    parts = [HEAD]
    for names, member in commands(command(), ()):
        title = " ".join(("shosoin", *names))
        context = member.make_context(title, [], resilient_parsing=True, terminal_width=int(WIDTH))
        parts.append(f"## {title}\n\n```text\n{member.get_help(context).rstrip()}\n```\n\n")
    return "".join(parts).rstrip() + "\n"


def main() -> int:
    """Write or check the page; return the exit code."""
    fresh = page()
    if "--check" in sys.argv[1:]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == fresh:
            return 0
        print(f"{PAGE.relative_to(ROOT)} is stale: run scripts/gen_cli_reference.py")
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
