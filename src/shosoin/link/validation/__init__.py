"""Published figures of QKD links beside ours, each with a verdict that code derives.

>>> from shosoin.link.validation import findings
>>> [finding] = findings(["decoy.gys-cutoff"])
>>> print(f"{finding.published:g} {finding.row.unit} published, {finding.ours:.1f} computed: {finding.verdict}")
142.05 km published, 142.0 computed: reproduced

``shosoin link validate`` prints all of them; ``docs/reference/link-validation.md`` keeps them.
"""

from shosoin.link.validation.row import (
    AtLeast,
    AtMost,
    Criterion,
    Factor,
    Finding,
    Row,
    Verdict,
    Within,
    Witness,
    judged,
)
from shosoin.link.validation.table import findings, names, rows

__all__ = [
    "AtLeast",
    "AtMost",
    "Criterion",
    "Factor",
    "Finding",
    "Row",
    "Verdict",
    "Within",
    "Witness",
    "findings",
    "judged",
    "names",
    "rows",
]
