"""A node link that does not wait twice for a site that hangs.

A process that is stopped, or a machine behind a dead wire, costs a whole deadline at every exchange, and a put has a
dozen of them. After a site let one deadline pass, each further one is short, half of the one before, until the site
answers again. An honest site on a slow wire must not be starved by that: it always gets twice what its last good
exchange took, and everybody gets a whole deadline again once a minute.
"""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import ShosoinError, SiteId
from shosoin.base.ports import Clock
from shosoin.vault.ports import Buffer, NodeLink, NodeSlow

__all__ = ["PatientLink"]

_FIRST_S = 2.0
_LEAST_S = 0.25
_FORGIVEN_S = 60.0


class PatientLink:
    """``NodeLink`` with a memory for lateness."""

    def __init__(self, link: NodeLink, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._patience_s: float | None = None
        """How long the site gets; ``None`` as long as it answers."""
        self._usual_s = 0.0
        """What its last good exchange took."""
        self._late_s = 0.0
        """When it last let a whole deadline pass."""

    @property
    def site(self) -> SiteId:
        """The site that the node belongs to."""
        return self._link.site

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        """Exchange as the link does, within the patience left."""
        started_s = self._clock.now_s()
        if self._patience_s is not None and started_s >= self._late_s + _FORGIVEN_S:
            self._patience_s = None
        try:
            answer = await self._link.exchange(
                path,
                body,
                response_bytes_max=response_bytes_max,
                timeout_s=timeout_s if self._patience_s is None else min(timeout_s, self._patience_s),
            )
        except NodeSlow:
            self._late()
            raise
        except ShosoinError:
            self._patience_s = None
            raise
        except BaseException:  # cancelled, perhaps because the others were there long ago
            if self._clock.now_s() - started_s > max(_FIRST_S, 2 * self._usual_s):
                self._late()
            raise
        self._patience_s, self._usual_s = None, self._clock.now_s() - started_s
        return answer

    def _late(self) -> None:
        if self._patience_s is None:
            self._patience_s, self._late_s = _FIRST_S, self._clock.now_s()
        else:
            self._patience_s = max(self._patience_s / 2, _LEAST_S)
        self._patience_s = max(self._patience_s, 2 * self._usual_s)
