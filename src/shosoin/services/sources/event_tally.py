"""What came of one direction of an event-level link since the KME started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shosoin.link.postprocessing import KeyReady, Outcome

__all__ = ["Tally"]

_SHOWN = ("qber", "test_qber", "f_ec", "leak_ec_bits")
"""Of the report on the last block."""


@dataclass(slots=True)
class Tally:
    """Counts for operators; nothing secret."""

    blocks: int = 0
    secret_bits: int = 0
    voids: dict[str, int] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        """Count what became of a block."""
        if isinstance(outcome, KeyReady):
            self.blocks += 1
            self.secret_bits += 8 * len(outcome.key)
            self.last = outcome.report
        else:
            self.voids[outcome.reason.code] = self.voids.get(outcome.reason.code, 0) + 1

    def to_json(self) -> dict[str, Any]:
        """Return what an operator may read."""
        shown = {name: self.last[name] for name in _SHOWN if name in self.last}
        return {"blocks": self.blocks, "secret_bits": self.secret_bits, "voids": dict(self.voids), **shown}
