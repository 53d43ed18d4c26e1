"""Pauses between attempts: they double with every failure, up to a bound, until something succeeds."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Pauses"]

_DOUBLINGS_MAX = 20


class Pauses:
    """How long to wait after each of a row of failures.

    Args:
        least_s: the first pause.
        most_s: no pause is longer.
        draw: returns numbers from 0 to 1; each takes up to half off a pause, so that many do not come back at once.
    """

    def __init__(self, least_s: float, most_s: float, draw: Callable[[], float] | None = None) -> None:
        self._least_s, self._most_s, self._draw = least_s, most_s, draw
        self.failures = 0
        """In a row."""

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Count one more failure and return how long to wait.

        Args:
            at_least_s: what this failure asks for, within the bound, before anything is drawn off.
        """
        pause_s = self._least_s * 2.0 ** min(self.failures, _DOUBLINGS_MAX)
        self.failures += 1
        whole_s = min(self._most_s, max(pause_s, at_least_s))
        return whole_s * (1.0 - self._draw() / 2) if self._draw is not None else whole_s

    def reset(self) -> None:
        """All is well."""
        self.failures = 0
