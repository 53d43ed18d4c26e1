"""Rounds of ``kill -9`` under load on two real KMEs: ``python -m tests.e2e.key_rounds ROUNDS SEED``.

Two KME processes with one simulated link; clients in this process draw at both and fetch at the other. Each round kills
one KME or both at a random moment, sometimes again while it starts, starts them, and mostly waits until keys flow in
every direction. Whatever anybody was given is written down. At the end everything runs, and this must hold:

* no 32 bytes of key went to two keys, at either end, and no key_ID to two keys;
* master and slave got the same bits for every key_ID, and no slave got a key twice;
* after every wait keys flowed again within ``FLOW_S``, in every direction;
* all stock that the senders still offer can be drawn, and what is drawn can be fetched: the rest was burned;
* no process is left.

The same seed repeats choices; the operating system's scheduling is not repeated.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shosoin.adapters.kme_client import KmeClient
from shosoin.base import PeerFault, Rejected, SaeId, SimulationRng, Unavailable
from tests.e2e.key_rounds_load import DIRECTIONS, Ledger, Route, ask_again, draw_for_ever, fetch_for_ever, flow
from tests.e2e.key_rounds_servers import ForkedServer
from tests.support.kme import SAES, KmePair

__all__ = ["FLOW_S", "Summary", "run"]

KMES = ("kme-a", "kme-b")
FLOW_S = 30.0
"""Bound for a broken build; what was seen is in the summary."""
DRAINED_BITS = 2048
"""Size of the keys that empty the stock."""
ASKED_AGAIN = 200


@dataclass
class Summary:
    """What came of a run; ``ok`` if everything held."""

    seed: int
    rounds: int = 0
    seconds: float = 0.0
    kills: dict[str, int] = field(default_factory=lambda: {"kme-a": 0, "kme-b": 0, "both at once": 0, "in start": 0})
    keys_drawn: int = 0
    keys_fetched: int = 0
    granules: int = 0
    bits_reused: int = 0
    violations: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    flows: int = 0
    """How often it was waited until keys flowed in every direction again."""
    flow_s_longest: float = 0.0
    """From the moment both processes said they were ready to the last direction's first key fetched."""
    outage_s_longest: float = 0.0
    """From the first kill of a round to the same: interpreters that start are in it."""
    stalled: list[str] = field(default_factory=list)
    stock_drained_bits: int = 0
    """What was still in stock at the end, drawn and fetched to the last key."""
    processes_left: list[int] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    """Clients that ended with something that is no kind of error."""

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return not (self.violations or self.stalled or self.processes_left or self.crashed)


class _Run:
    """One pair of KMEs, and who works with them."""

    def __init__(self, root: Path, rng: SimulationRng, summary: Summary, tell: Callable[[str], None]) -> None:
        self.pair = KmePair(root, stock_bits=1 << 19, speedup=40.0, limits={"lease_bytes": 8192})
        self.servers = {name: ForkedServer(self.pair.config(name)) for name in KMES}
        self.rng, self.summary, self.tell = rng, summary, tell
        self.ledger = Ledger()
        self.clients: dict[str, KmeClient] = {}
        self.pids: list[int] = []
        self.stop = asyncio.Event()
        """Ends the rounds early; what must hold at the end is checked all the same."""

    async def rounds(self, count: int) -> None:
        """Run under load, then without it."""
        async with AsyncExitStack() as stack:
            for server in self.servers.values():
                stack.push_async_callback(server.kill)
            await self._start(KMES)
            for sae in SAES:
                self.clients[sae] = await stack.enter_async_context(self.pair.client(sae, timeout_s=10))
            await self._until_keys_flow("start")
            await self._under_load(count)
            await self._start([name for name in KMES if self.servers[name].process is None])
            await self._until_keys_flow("end")
            for route in DIRECTIONS[:2]:  # one for each stream
                await self._drain(route)
            await ask_again(self.clients, self.ledger, self._some_fetched())
        self.summary.processes_left = [pid for pid in self.pids if _runs(pid)]

    async def _under_load(self, count: int) -> None:
        arguments = self.clients, self.ledger, self.rng
        load = [asyncio.create_task(draw_for_ever(*arguments, route)) for route in DIRECTIONS]
        load += [asyncio.create_task(fetch_for_ever(*arguments)) for _ in range(3)]
        try:
            for number in range(count):
                await self._round(number)
                broken = self.ledger.violations or self.summary.stalled or any(task.done() for task in load)
                if broken or self.stop.is_set():
                    break
        finally:
            for task in load:
                task.cancel()
            ended = await asyncio.gather(*load, return_exceptions=True)
        self.summary.crashed = [repr(end) for end in ended if not isinstance(end, asyncio.CancelledError)]

    async def _round(self, number: int) -> None:
        began = time.monotonic()
        await asyncio.sleep(self.rng.uniform(0.0, 0.3))
        victims = self.rng.choice([("kme-a",), ("kme-b",), KMES])
        killed = time.monotonic()
        for victim in victims:
            await self.servers[victim].kill()
            self.summary.kills[victim] += 1
        self.summary.kills["both at once"] += len(victims) - 1
        if self.rng.integer(1, 4) == 1:
            await self._kill_in_start(self.rng.choice(victims))
        await self._start(victims)
        if self.rng.integer(1, 4) > 1:  # else the next kill may hit a handshake
            await self._until_keys_flow(f"round {number + 1}")
            outage_s = round(time.monotonic() - killed, 2)
            self.summary.outage_s_longest = max(self.summary.outage_s_longest, outage_s)
        self.summary.rounds += 1
        self.tell(f"round {number + 1}: killed {' and '.join(victims)}; {time.monotonic() - began:.1f} s")

    async def _kill_in_start(self, victim: str) -> None:
        """Start a KME and kill it before it can know that it started."""
        server = self.servers[victim]
        server.spawn()
        self._note_pid(victim)
        await asyncio.sleep(self.rng.uniform(0.02, 0.4))
        await server.kill()
        self.summary.kills["in start"] += 1

    async def _start(self, names: Any) -> None:
        await asyncio.gather(*(self.servers[name].start() for name in names))
        for name in names:
            self._note_pid(name)

    def _note_pid(self, name: str) -> None:
        pid = self.servers[name].pid
        if pid is not None:
            self.pids.append(pid)

    async def _until_keys_flow(self, when: str) -> None:
        began = time.monotonic()
        flowed = await asyncio.gather(*(flow(self.clients, self.ledger, route, FLOW_S) for route in DIRECTIONS))
        self.summary.flows += 1
        self.summary.flow_s_longest = max(self.summary.flow_s_longest, round(time.monotonic() - began, 2))
        stuck = [route for route, well in zip(DIRECTIONS, flowed, strict=True) if not well]
        self.summary.stalled += [f"{when}: no key from {master} to {slave}" for master, slave in stuck]

    async def _drain(self, route: Route) -> None:
        """Draw all that a sender says it has, and fetch it all."""
        master, slave = route
        left = await self._stored(route) * 256 // DRAINED_BITS
        while left > 0:
            number = min(left, 128)
            try:
                drawn = await self.clients[master].enc_keys(SaeId(slave), number=number, size_bits=DRAINED_BITS)
            except Unavailable:
                await asyncio.sleep(0.05)  # a lease is under way, or what is left is in pieces
                left = min(left - 1, await self._stored(route) * 256 // DRAINED_BITS)
                continue
            ids = self.ledger.draw(route, drawn)
            try:
                self.ledger.fetch(await self.clients[slave].dec_keys(SaeId(master), ids))
            except (Rejected, Unavailable, PeerFault) as err:
                self.summary.stalled.append(f"stock from {master} to {slave} was drawn and not fetched: {err.message}")
                return
            self.summary.stock_drained_bits += number * DRAINED_BITS
            left -= number

    async def _stored(self, route: Route) -> int:
        return (await self.clients[route[0]].status(SaeId(route[1]))).stored_key_count

    def _some_fetched(self) -> list[str]:
        fetched = list(self.ledger.fetched)
        return fetched[:: max(1, len(fetched) // ASKED_AGAIN)]


def _runs(pid: int) -> bool:
    try:
        return b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()  # else the number went to another one
    except OSError:
        return False


async def run(rounds: int, seed: int, root: Path, tell: Callable[[str], None] = lambda _: None) -> Summary:
    """Run on a new pair in ``root`` and end every process of it."""
    summary = Summary(seed)
    began = time.monotonic()
    this = _Run(root, SimulationRng(seed), summary, tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, this.stop.set)
    await this.rounds(rounds)
    ledger = this.ledger
    summary.seconds = round(time.monotonic() - began, 1)
    summary.keys_drawn, summary.keys_fetched = len(ledger.drawn), len(ledger.fetched)
    summary.granules = len(ledger.granules)
    summary.bits_reused = sum("again" in violation or "twice" in violation for violation in ledger.violations)
    summary.violations = ledger.violations[:20]
    summary.outcomes = dict(sorted(ledger.outcomes.items()))
    return summary


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Run and print the summary; exit 1 if something did not hold."""
    rounds, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else time.time_ns() % (1 << 30)
    with tempfile.TemporaryDirectory(prefix="shosoin-key-rounds-") as directory:
        summary = asyncio.run(run(rounds, seed, Path(directory), _say))
    sys.stdout.write(json.dumps({**asdict(summary), "ok": summary.ok}, indent=1) + "\n")
    return 0 if summary.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
