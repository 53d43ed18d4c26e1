"""A node link that does not wait twice for a site that hangs.

A process that is stopped, or a machine behind a dead wire, costs a whole deadline at every exchange, and a put has a
dozen of them. After a site let one deadline pass, each further one is short, half of the one before, until the site
answers again. It can still take part whenever it is fast enough.
"""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import ShosoinError, SiteId
from shosoin.base.ports import Clock
from shosoin.vault.ports import Buffer, NodeLink, NodeSlow

__all__ = ["PatientLink"]

_FIRST_S = 2.0
_LEAST_S = 0.25


class PatientLink:
    """``NodeLink`` with a memory for lateness."""

    def __init__(self, link: NodeLink, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._patience_s: float | None = None
        """How long the site gets; ``None`` as long as it answers."""

    @property
    def site(self) -> SiteId:
        """The site that the node belongs to."""
        return self._link.site

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        """Exchange as the link does, within the patience left."""
        patience_s = self._patience_s
        started_s = self._clock.now_s()
        try:
            answer = await self._link.exchange(
                path,
                body,
                response_bytes_max=response_bytes_max,
                timeout_s=timeout_s if patience_s is None else min(timeout_s, patience_s),
            )
        except NodeSlow:
            self._late(patience_s)
            raise
        except ShosoinError:
            self._patience_s = None
            raise
        except BaseException:  # cancelled, perhaps because the others were there long ago
            if self._clock.now_s() - started_s > _FIRST_S:
                self._late(patience_s)
            raise
        self._patience_s = None
        return answer

    def _late(self, patience_s: float | None) -> None:
        self._patience_s = _FIRST_S if patience_s is None else max(patience_s / 2, _LEAST_S)
