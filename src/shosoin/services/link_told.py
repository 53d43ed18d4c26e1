"""What became of the blocks of one end, kept in its journal: it is told again, the same, by every later session.

A key's figures are stored after the key itself is where it is wanted, and before the protocol forgets both.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shosoin.link.postprocessing import VoidReason
from shosoin.link.postprocessing.journal import Journal, number_of

__all__ = ["ToldBlocks"]

_NAME = "told/"


class ToldBlocks:
    """Lines about blocks that are over, by number."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        named = {name.removeprefix(_NAME): raw for name, raw in journal.load().items() if name.startswith(_NAME)}
        self.lines: dict[int, dict[str, Any]] = {int(number): json.loads(raw) for number, raw in named.items()}

    def add(self, block: int, line: dict[str, Any]) -> None:
        """Store a line; durable on return."""
        self._journal.commit({f"{_NAME}{block}": json.dumps(line, separators=(",", ":")).encode()})
        self.lines[block] = line

    @property
    def is_suspended(self) -> bool:
        """Whether a monitor of either end suspended the link."""
        return any(
            line.get("reason") == VoidReason.SUSPENDED.code or line.get("figures", {}).get("suspended", False)
            for line in self.lines.values()
        )

    @property
    def discards(self) -> int:
        """How many blocks up to the last one the own monitor discarded in a row."""
        count = 0
        for block in sorted(self.lines, reverse=True):
            if not _is_own_discard(self.lines[block]):
                break
            count += 1
        return count

    def spent(self) -> dict[str, int]:
        """Return how many pulses and numbers of blocks were used, whatever became of them."""
        records = self._journal.load()
        return {"pulses": number_of(records, "next/pulse"), "blocks": number_of(records, "next/block")}


def _is_own_discard(line: Mapping[str, Any]) -> bool:
    return "findings" in line.get("figures", {})  # whichever reason was told
