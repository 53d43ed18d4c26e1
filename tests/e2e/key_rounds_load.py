"""The load of the key rounds: masters that draw, slaves that fetch, and a ledger of every bit anybody was given."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from shosoin.adapters.kme_client import KmeClient
from shosoin.base import Denied, PeerFault, Rejected, SaeId, SimulationRng, Unavailable
from shosoin.base.ports import DeliveredKey

__all__ = ["DIRECTIONS", "GRANULE_BYTES", "Ledger", "Route", "ask_again", "draw_for_ever", "fetch_for_ever", "flow"]

GRANULE_BYTES = 32
Route = tuple[str, str]
"""Master and slave."""
DIRECTIONS: tuple[Route, ...] = (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1"), ("sae-a2", "sae-b2"), ("sae-b2", "sae-a2"))
REQUESTS = ((1, 256), (4, 256), (3, 512), (2, 8192), (1, 200))
"""Number and size in bits of what is asked for."""
RECENT = 24
PAUSE_S = 0.02
"""Between two requests of one client: both KMEs, all clients and the harness share a few cores."""


@dataclass
class Ledger:
    """Every key_ID and key that any client ever received, and what is wrong with them."""

    drawn: dict[str, tuple[Route, bytes]] = field(default_factory=dict, repr=False)
    fetched: dict[str, bytes] = field(default_factory=dict, repr=False)
    granules: dict[bytes, str] = field(default_factory=dict, repr=False)
    """Where each 32 bytes of key were handed out to a master."""
    fetched_granules: dict[bytes, str] = field(default_factory=dict, repr=False)
    waiting: list[str] = field(default_factory=list, repr=False)
    """key_IDs that a slave may still ask for."""
    violations: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def draw(self, route: Route, keys: Sequence[DeliveredKey]) -> list[str]:
        """Write down what a master was given; return the key_IDs."""
        ids = []
        for key in keys:
            bits = key.material.take()
            if key.key_id in self.drawn:
                self.violations.append(f"key_ID {key.key_id} was given to two masters")
            self._spend(self.granules, key.key_id, bits, "a master")
            self.drawn[key.key_id] = route, bits
            ids.append(key.key_id)
        self.outcomes["drawn"] += len(ids)
        return ids

    def fetch(self, keys: Sequence[DeliveredKey]) -> None:
        """Write down what a slave was given."""
        for key in keys:
            bits = key.material.take()
            if key.key_id in self.fetched:
                self.violations.append(f"key_ID {key.key_id} was fetched twice")
            if key.key_id not in self.drawn:
                self.violations.append(f"key_ID {key.key_id} was fetched, and nobody drew it")
            elif self.drawn[key.key_id][1] != bits:
                self.violations.append(f"the two ends gave different bits for {key.key_id}")
            self._spend(self.fetched_granules, key.key_id, bits, "a slave")
            self.fetched[key.key_id] = bits
        self.outcomes["fetched"] += len(keys)

    def _spend(self, seen: dict[bytes, str], key_id: str, bits: bytes, whom: str) -> None:
        for start in range(0, len(bits), GRANULE_BYTES):
            granule = bits[start : start + GRANULE_BYTES]
            if len(granule) < 16:
                continue  # so short that two may agree by chance
            if granule in seen:
                self.violations.append(f"{whom} got bits of {seen[granule]} again in {key_id}")
            seen[granule] = key_id


async def draw_for_ever(clients: dict[str, KmeClient], ledger: Ledger, rng: SimulationRng, route: Route) -> None:
    """Draw keys along a route."""
    master, slave = route
    while True:
        await asyncio.sleep(PAUSE_S)
        number, size_bits = rng.choice(REQUESTS)
        try:
            keys = await clients[master].enc_keys(SaeId(slave), number=number, size_bits=size_bits)
        except (Unavailable, PeerFault) as err:
            ledger.outcomes[f"enc_keys: {err.code}"] += 1
            await asyncio.sleep(PAUSE_S)
        else:
            ledger.waiting += ledger.draw(route, keys)


async def fetch_for_ever(clients: dict[str, KmeClient], ledger: Ledger, rng: SimulationRng) -> None:
    """Fetch what was drawn, in any order; leave some of it, and ask for some of it twice."""
    while True:
        await asyncio.sleep(PAUSE_S / 2)
        if not ledger.waiting:
            continue
        # Mostly young keys: a kill burns those under way.
        recent = min(len(ledger.waiting), RECENT if rng.integer(1, 10) > 1 else len(ledger.waiting))
        key_id = ledger.waiting.pop(-rng.integer(1, recent))
        if rng.integer(1, 10) == 1:
            ledger.outcomes["never fetched"] += 1
            continue
        answered = await _try_fetch(clients, ledger, key_id)
        if not answered or rng.integer(1, 10) == 1:
            ledger.waiting.append(key_id)


async def _try_fetch(clients: dict[str, KmeClient], ledger: Ledger, key_id: str) -> bool:
    """Ask a slave's KME for a key; return whether it answered."""
    (master, slave), _ = ledger.drawn[key_id]
    try:
        ledger.fetch(await clients[slave].dec_keys(SaeId(master), [key_id]))
    except (Unavailable, PeerFault) as err:
        ledger.outcomes[f"dec_keys: {err.code}"] += 1
        return False
    except Rejected as err:
        ledger.outcomes[f"dec_keys: {err.code}"] += 1
    return True


async def flow(clients: dict[str, KmeClient], ledger: Ledger, route: Route, timeout_s: float) -> bool:
    """Return whether a fresh key was drawn and fetched along a route within the time."""
    master, slave = route
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    keys = await clients[master].enc_keys(SaeId(slave), number=1, size_bits=256)
                    (key_id,) = ledger.draw(route, keys)
                    if await _try_fetch(clients, ledger, key_id) and key_id in ledger.fetched:
                        return True
                except (Unavailable, PeerFault) as err:
                    ledger.outcomes[f"enc_keys: {err.code}"] += 1
                await asyncio.sleep(PAUSE_S)
    except TimeoutError:
        return False


async def ask_again(clients: dict[str, KmeClient], ledger: Ledger, key_ids: Sequence[str]) -> None:
    """Ask for keys that were fetched before, at both ends and in every name; whatever comes is a violation."""
    for key_id in key_ids:
        for master, slave in DIRECTIONS:
            try:
                await clients[slave].dec_keys(SaeId(master), [key_id])
            except (Rejected, Denied, Unavailable):
                ledger.outcomes["refused when asked again"] += 1
            else:
                ledger.violations.append(f"{key_id} was given again to {slave}")
