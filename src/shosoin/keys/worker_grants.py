"""Keys drawn for a worker ahead of demand, at the owner of the streams: how many, and how they are counted.

They are used bits from the moment they are drawn. As *delivered* they count once the worker says that an SAE got them;
what a worker gives up, or takes along when it dies, counts as burned.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, field

from shosoin.base import KmeId, SaeId, ShosoinError
from shosoin.keys.key_id import granules_of
from shosoin.keys.kme import Kme
from shosoin.keys.pair import PairEnd
from shosoin.keys.tally import Burned, StreamTally
from shosoin.keys.worker_stock import Draw

__all__ = ["Granting", "Grants"]

_SHARE = 64


@dataclass(slots=True)
class _Grant:
    """Keys that a worker may still hold."""

    master: SaeId
    slave: SaeId
    size_bits: int
    keys: int
    tally: StreamTally


@dataclass(slots=True)
class Granting:
    """Says how many keys a worker may have ahead of demand."""

    kme: Kme
    pairs: dict[KmeId, PairEnd]
    is_allowed: bool
    """False where bits that nobody uses would count: quotas and policies of SAEs."""
    share: int = _SHARE
    """Of what could be drawn at the moment, a worker gets at most one part in so many ahead of demand."""

    def allowed(self, slave: SaeId, size_bits: int, wanted: int, number: int) -> int:
        """Return how many more keys than ``number`` to draw."""
        home = self.kme.home_of(slave)
        pair = self.pairs.get(home) if home is not None else None
        if not self.is_allowed or pair is None:
            return 0
        leased, size = pair.outgoing.leased_granules(), granules_of(max(8, size_bits) // 8)
        room = min(leased // self.share, leased - number * size) // size  # nobody waits for a lease because of them
        return max(0, min(wanted, room, self.kme.limits.max_key_per_request - number))


@dataclass(slots=True)
class Grants:
    """What one worker holds, by the number of the call that brought it."""

    granting: Granting
    _held: dict[int, _Grant] = field(default_factory=dict)

    def drawing(self, number: int, draw: Draw) -> Generator[int, bytes, bytes]:
        """Yield how many keys to draw, be sent the answer or thrown the refusal; return the answer for the worker.

        Whoever drives this must go on in the same turn in which the keys were drawn, and may close it where the worker
        or its SAE has left: then nothing more is drawn.
        """
        master, slave = SaeId(draw.master), SaeId(draw.slave)
        ahead = self.granting.allowed(slave, draw.size_bits, draw.ahead, draw.number)
        if ahead:
            with suppress(ShosoinError):  # then without; that says what is wrong, if it still is
                answer = yield draw.number + ahead
                self.add(number, master, slave, draw.size_bits, ahead)
                return answer
        return (yield draw.number)

    def add(self, number: int, master: SaeId, slave: SaeId, size_bits: int, keys: int) -> None:
        """Count keys just drawn as held, not delivered; in the same turn of the event loop, so nobody saw them so."""
        kme = self.granting.kme
        tally = self.granting.pairs[kme.kme_of(slave)].outgoing.tally
        grant = self._held[number] = _Grant(master, slave, size_bits, keys, tally)
        self._count(grant, -keys)

    def holds(self, number: int) -> bool:
        """Whether keys that this call brought may still be held."""
        return number in self._held

    def used(self, number: int, keys: int) -> None:
        """Count held keys as delivered; fewer than none, or parts of one, are a defect of the worker."""
        if type(keys) is not int or keys < 0:
            raise ValueError("no number of keys")
        grant = self._held.get(number)
        if grant is not None:
            keys = min(keys, grant.keys)
            grant.keys -= keys
            self._count(grant, keys)

    def over(self, number: int) -> None:
        """Count what is left of a grant as burned."""
        grant = self._held.pop(number, None)
        if grant is not None:
            granules = grant.keys * granules_of(grant.size_bits // 8)
            grant.tally.used_granules -= granules
            grant.tally.burn(Burned.UNUSED, granules)

    def all_over(self) -> None:
        """Count everything as burned: the worker is gone."""
        for number in list(self._held):
            self.over(number)

    def _count(self, grant: _Grant, keys: int) -> None:
        bits = keys * grant.size_bits
        grant.tally.delivered.add(keys, bits)
        self.granting.kme.drawn[grant.master, grant.slave].add(keys, bits)
