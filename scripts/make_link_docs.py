"""Write docs/reference/link-validation.md from the models themselves; make_link_pictures.py draws what it shows.

    python scripts/make_link_docs.py          # the table (some 25 s)
    python scripts/make_link_docs.py --check  # only say whether the verdicts on the page are today's

Numbers in the table may differ in their last digits from machine to machine; verdicts may not, and a test compares
them.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from shosoin.link.validation import Finding, Verdict, findings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "link-validation.md"
LINE = re.compile(r"^\| `([\w.-]+)` \|.*\| ([a-z ]+) \|$")

HEAD = """# Published figures beside ours

<!-- Written by scripts/make_link_docs.py; change the rows in src/shosoin/link/validation, then run it again. -->

Every row is a figure and what the models of `shosoin.link` compute for it. `shosoin link validate` computes the same
table anew; `--only SUBJECT` a part of it. *Who says it* tells what a row is worth:

* **experiment**, **theory**, **standard**: a paper measured or computed the figure, or a standard prints it;
* **independent program**: a program that we did not write computes it, now or when the row was made;
* **arithmetic**: it follows from a printed formula or printed parts with a pocket calculator, and the source need not
  print it; the row shows that our formula is that one, or that printed parts agree, and nothing about the world.

No verdict is written by hand. Each follows from the two numbers and the tolerance, which is part of the row:

* **reproduced**: a number within its tolerance;
* **compatible**: a claim that fixes no number (at least, at most, right up to a factor) holds;
* **not reproduced**: neither; the reason is below the table, and a row without one fails the tests;
* **not derivable**: the source does not say enough to compute it; what is missing is below the table.

Nothing is tuned: parameters are those of the source, and where one is ours the claim says so. Where a source was not at
hand and its figure is taken from somebody who quotes it, the tolerance covers the digits quoted.

"""

SUBJECTS = {
    "decoy": "Decoy-state BB84, infinitely many pulses",
    "finite": "Decoy-state BB84, finite blocks",
    "bounds": "Bounds above every protocol",
    "bbm92": "BBM92",
    "mdi": "Measurement-device-independent QKD",
    "peers": "Independent programs",
    "twin-field": "Twin field",
    "cv": "Continuous variables",
    "fibre": "Fibre",
    "raman": "Raman scattering",
    "coexistence": "Traffic in the same fibre",
    "turbulence": "Turbulence",
    "air": "Air",
    "sky": "Light of the sky",
    "satellite": "Satellites",
    "amplification": "Privacy amplification",
    "reconciliation": "Reconciliation",
}

PICTURES = {
    "link-rates": "Secret bits over fibre, each protocol by what it sends, system as in `shosoin link protocols NAME`",
    "link-finite-key": "What a block is worth in the system of Lim et al. 2014: two decoys, and one (corrected proof)",
    "link-raman": "Photons of Raman scattering over wavelength, beside one channel of 0 dBm at 1550 nm",
    "link-codes": "Bits that the LDPC codes disclose over the Shannon limit, planned for one lost frame in a thousand",
    "link-frame-errors": "How many frames of one code are lost as the disclosed bits come closer to the Shannon limit",
    "link-costs": "What one core does in a second, as measured with `make bench ONLY=link`",
    "link-pass": "A simulated pass of a satellite at 500 km: elevation, loss, and detections in the key basis",
}


def table(found: Sequence[Finding]) -> Iterator[str]:
    """Yield the lines of one subject's table and the reasons below it."""
    yield "| row | claim | source | who says it | published | ours | tolerance | verdict |"
    yield "| --- | --- | --- | --- | ---: | ---: | --- | --- |"
    for each in found:
        row = each.row
        values = [_number(each.published, row.unit), _number(each.ours, row.unit)]
        cells = [f"`{row.id}`", row.claim, row.source, str(row.witness), *values, str(row.criterion), str(each.verdict)]
        yield f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
    yield ""
    reasons: dict[str, list[str]] = {}
    for each in found:
        if each.why:
            reasons.setdefault(each.why, []).append(f"`{each.row.id}`")
    yield from (f"* {', '.join(ids)}: {why}." for why, ids in reasons.items())
    yield ""


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.5g} {unit}".rstrip()


def page(found: Sequence[Finding]) -> str:
    """Return the whole page."""
    count = Counter(each.verdict for each in found)
    lines = [f"{len(found)} rows: {', '.join(f'{count[verdict]} {verdict}' for verdict in Verdict)}.", ""]
    for subject, rows in groupby(found, key=lambda each: each.row.subject):
        lines += [f"## {SUBJECTS[subject]}", "", *table(list(rows))]
    lines += [
        "## Pictures",
        "",
        "Drawn by `scripts/make_link_pictures.py`. All is computed, but for lost frames, which were counted, with",
        "simulated errors (`docs/data/reconciliation.json`), and for costs, which were measured",
        "(`docs/data/link-costs.json`).",
        "",
    ]
    for name, caption in PICTURES.items():
        lines += [f"![{caption.replace('`', '')}](../images/{name}.svg)", "", f"{caption}.", ""]
    text = re.sub(r"\n{3,}", "\n\n", HEAD + "\n".join(lines))
    return text.rstrip() + "\n"


def verdicts(text: str) -> dict[str, str]:
    """Return the verdicts that a page shows, by row."""
    return {match[1]: match[2] for line in text.splitlines() if (match := LINE.match(line))}


def main(arguments: Sequence[str]) -> int:
    """Write or check; return the exit code."""
    fresh = page(list(findings()))
    if "--check" in arguments:
        if PAGE.exists() and verdicts(PAGE.read_text(encoding="utf-8")) == verdicts(fresh):
            return 0
        print(f"{PAGE.relative_to(ROOT)} is stale: run scripts/make_link_docs.py")
        return 1
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
