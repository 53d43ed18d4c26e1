"""Both ends of a pair, the links and wires between them, and what time makes happen.

Nothing here knows the rules of the key streams: it starts processes, moves messages and blocks, takes and restores
copies of disks, and keeps old processes alive. Two rules keep the faults inside what the design promises to survive:
an end is not put back to an old copy while the other end is behind, and two processes that are both behind do not meet
(``SimulatedDisk.suspect``); for then no record of the truth is left anywhere.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

from shosoin.base import SaeId, ShosoinError, SimulationRng
from shosoin.keys.errors import LeaseNeeded
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.pool import RESERVE_BYTES
from shosoin.testing.key_simulation.disk import SimulatedDisk
from shosoin.testing.key_simulation.judge import Judge, Wish
from shosoin.testing.key_simulation.network import Connection, Wiretap
from shosoin.testing.key_simulation.operators import Operator
from shosoin.testing.key_simulation.process import OTHER, TICK_S, KmeProcess
from shosoin.testing.key_simulation.workers import Worker, workers_of
from shosoin.testing.simulation.trace import Trace

__all__ = ["BlockFate", "End", "Wish", "World"]

_DIAL_S, _DEVICE_S = 0.06, 0.04
_STOCK_GRANULES_MAX = 14
_TURNS_MAX = 400_000
_DRAW_TRIES = 6
_MAX_AGES_S = (0, 0, 20, 60)


class BlockFate(Enum):
    """What becomes of a block of the link."""

    ARRIVES = "arrives"
    LOST = "lost at the receiver"
    ONE_END = "lost at the sender"
    DIFFERS = "differs in a bit"
    LATE = "late"
    AGAIN = "arrives twice"
    OLD_NUMBER = "has the number of an earlier one"


class SimulatedEntropy:
    """``Entropy`` that replays from the seed."""

    source = "simulation"
    physical = False

    def __init__(self, rng: SimulationRng) -> None:
        self._rng = rng

    def random_bytes(self, size_bytes: int) -> bytes:
        """Return bytes that protect nothing."""
        return self._rng.pseudo_bytes(size_bytes)


@dataclass
class End:
    """One end: its disk, perhaps a process, and old processes that do not know they were replaced."""

    name: str
    disk: SimulatedDisk
    main: KmeProcess | None = None
    zombies: list[KmeProcess] = field(default_factory=list)
    snapshots: list[SimulatedDisk] = field(default_factory=list)
    started: int = 0
    in_maintenance: bool = False
    """Its operator is at work, and the KME stands still."""
    doom_at_start: int | None = None
    """Effects that the next process carries out before it dies."""

    def servers(self) -> list[KmeProcess]:
        """Return all that SAEs of this end may reach, the present process first."""
        return [*([self.main] if self.main is not None else []), *self.zombies]


class World:
    """The simulated pair."""

    def __init__(self, seed: int) -> None:
        self.now_s = 0.0
        self.trace = Trace(lambda: self.now_s)
        self.rng = SimulationRng(seed)
        self.entropy = SimulatedEntropy(SimulationRng(seed ^ 0x5EED))
        self.secrets = [self.entropy.random_bytes(1024)]
        """Pair secrets that were ever given to both operators; the last one counts."""
        self.judge = Judge(self.trace)
        self.wiretap = Wiretap(self)
        self.ends = {name: End(name, SimulatedDisk(self.secrets[0])) for name in "ab"}
        self.operators = {name: Operator(self, name) for name in "ab"}
        self.clock_steps_s = {"a": 0.0, "b": 0.0}
        self.wall_steps_s = {"a": 0.0, "b": 0.0}
        self.max_ages_s = {name: self.rng.choice(_MAX_AGES_S) for name in "ab"}
        """Age at which each end wants bits of the pair burned."""
        self.orphans: dict[str, list[Worker]] = {"a": [], "b": []}
        """Workers whose owners are gone."""
        self.fates: dict[str, deque[BlockFate]] = {"a": deque(), "b": deque()}
        self.request_fates: dict[str, deque[int]] = {"a": deque(), "b": deque()}
        """How often the next questions of an end, and their answers, arrive."""
        self.cut_until_s = 0.0
        self.producing = True
        self.quiet = False
        """No more faults: what fails is restarted at once."""
        self._numbers = {"a": 0, "b": 0}
        self._last_bits: dict[str, tuple[int, bytes] | None] = {"a": None, "b": None}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = 0
        for name in self.ends:
            self.start(name)
            self._every(TICK_S, lambda name=name: self._tick(name))  # type: ignore[misc]
            self._every(_DEVICE_S, lambda name=name: self._transmit(name))  # type: ignore[misc]
        self._every(_DIAL_S, self._dial)

    # Time

    def at(self, at_s: float, what: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._turn += 1
        heapq.heappush(self._heap, (at_s, self._turn, what))

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        """Let something happen after a time."""
        self.at(self.now_s + delay_s, what)

    def run_until(self, until_s: float) -> None:
        """Let time pass.

        Raises:
            RuntimeError: if the simulation never comes to an end.
        """
        heap = self._heap
        while heap and heap[0][0] <= until_s and not self.trace.violations:
            if self._turn > _TURNS_MAX:
                raise RuntimeError("too much happens")
            self.now_s, _, what = heapq.heappop(heap)
            what()
        self.now_s = max(self.now_s, until_s)

    def _every(self, period_s: float, what: Callable[[], None]) -> None:
        def again() -> None:
            what()
            self.after(period_s * self.rng.uniform(0.8, 1.2), again)

        self.after(self.rng.uniform(0.0, period_s), again)

    def _tick(self, name: str) -> None:
        for process in self.ends[name].servers():
            process.tick()

    def latency_s(self) -> float:
        """Return how long a message is under way."""
        return self.rng.uniform(0.0002, 0.004) if self.rng.integer(0, 30) else self.rng.uniform(0.004, 0.2)

    # Processes

    def start(self, name: str) -> None:
        """Start the KME of an end, if it does not run."""
        end = self.ends[name]
        if end.main is None and not end.in_maintenance:
            end.started += 1
            end.main = KmeProcess(self, name, end.disk, end.started)
            end.main.doom, end.doom_at_start = end.doom_at_start, None
            self.trace.tell(end.main.name, "starts", count="starts")

    def ended(self, process: KmeProcess, how: str) -> None:
        """Let a process end; mostly it is started again soon."""
        if not process.alive:
            return
        self.check_tallies(process)
        process.die()
        self.trace.tell(process.name, how, count=how)
        end = self.ends[process.end]
        if end.main is process:
            end.main = None
            self.after(0.05 if self.quiet else self.rng.uniform(0.01, 0.8), lambda: self.start(process.end))
        elif process in end.zombies:
            end.zombies.remove(process)

    def gave_up(self, process: KmeProcess) -> None:
        """Have a process restarted that may not use its disk any more."""
        self.after(0.05 if self.quiet else self.rng.uniform(0.05, 1.0), lambda: self.ended(process, "is restarted"))

    def check_tallies(self, process: KmeProcess) -> None:
        """Check that what a process took in is used, burned or left."""
        for side in (process.pair.outgoing, process.pair.incoming):
            tally = side.tally
            lost = tally.used_granules + tally.burned_granules.total()
            if tally.restored_granules + tally.taken_granules != lost + side.left_granules():
                self.trace.violate(f"{process.name}: the tally of a stream does not add up")

    # Secrets

    def era_of(self, secret: bytes) -> int:
        """Return which of all secrets this is."""
        return self.secrets.index(secret)

    def make_secret(self) -> bytes:
        """Return a new secret that both operators have."""
        self.secrets.append(self.entropy.random_bytes(1024))
        return self.secrets[-1]

    # Copies of disks

    def may_restore(self, name: str) -> bool:
        """Whether an end may be put back: only while the other end has the truth."""
        if self.ends[name].in_maintenance:
            return False
        other = self.ends[OTHER[name]]
        met = any(zombie.latest is not None for zombie in other.zombies)
        return not other.disk.suspect and not met

    def restore(self, name: str, disk: SimulatedDisk, *, zombie: bool) -> None:
        """Put an end back to an old copy; the process that ran may run on beside it, with its own disk."""
        end = self.ends[name]
        old = end.main
        end.disk, end.main = disk, None
        self.judge.restored.add(name)
        self.judge.copies.restored_s[name] = self.now_s
        disk.suspect = True
        if old is None:
            pass  # somebody is about to start it
        elif zombie and old.is_serving:
            end.zombies.append(old)
            if old.latest is not None:
                old.latest.end()
        else:
            old.die()
        self.trace.tell(
            name, f"is an old copy{', and the process before it runs on' if zombie else ''}", count="restores"
        )
        self.after(self.rng.uniform(0.01, 0.5), lambda: self.start(name))

    def reconciled(self, process: KmeProcess, channel: Connection) -> None:
        """Note that a process has agreed with the other end on what is unused."""
        process.disk.suspect = False
        other = channel.peer_of(process)
        process.hear_of_burns(other)
        self.trace.tell(process.name, f"agrees with {other.name}", count="handshakes")

    # Connections

    def _dial(self) -> None:
        dialer, listener = self.ends["a"].main, self.ends["b"].main
        if dialer is not None and listener is not None and dialer.latest is None:
            self.connect(dialer, listener)

    def connect(self, dialer: KmeProcess, listener: KmeProcess) -> None:
        """Connect two processes, if they run, are not cut off, and are not both behind."""
        possible = dialer.is_serving and listener.is_serving and self.now_s >= self.cut_until_s
        if not possible or (dialer.disk.suspect and listener.disk.suspect):
            return
        for process in (dialer, listener):
            end = self.ends[process.end]
            for disk in (end.disk, *(zombie.disk for zombie in end.zombies)):
                behind = disk is not process.disk and dialer.era == listener.era == self.era_of(disk.secret)
                disk.suspect = disk.suspect or behind
        connection = Connection(self, dialer, listener)
        for process in (dialer, listener):
            process.attach(connection)
            if self.rng.integer(0, 1):
                process.pair.incoming.forget_bits()

    # Blocks

    def _transmit(self, name: str) -> None:
        process = next((each for each in self.ends[name].servers() if each.pair.is_connected), None)
        if process is None or process.channel is None or not self.producing or not process.is_serving:
            return
        outgoing = process.pair.outgoing
        if not outgoing.can_begin or outgoing.left_granules() >= _STOCK_GRANULES_MAX:
            return
        receiver = process.channel.peer_of(process)
        bits = self.entropy.random_bytes(RESERVE_BYTES + self.rng.integer(1, 6) * GRANULE_BYTES)
        self.judge.produced(name, bits, self.now_s)
        number, self._numbers[name] = self._numbers[name], self._numbers[name] + 1
        fate = self.fates[name].popleft() if self.fates[name] else BlockFate.ARRIVES
        if fate is not BlockFate.ARRIVES:
            self.trace.tell(name, f"block {number} {fate.value}", count=f"block {fate.value}")
        self._deliver(process, receiver, number, bits, fate)
        self._last_bits[name] = number, bits

    def _deliver(self, sender: KmeProcess, receiver: KmeProcess, number: int, bits: bytes, fate: BlockFate) -> None:
        last = self._last_bits[sender.end]
        if fate is BlockFate.OLD_NUMBER and last is not None:
            self._hand_over(receiver, *last)  # the receiver's device says the number before once more
            number = last[0]
        if fate is not BlockFate.ONE_END:
            sender.do(lambda: sender.pair.begin_block(number, bits))
        if fate is BlockFate.LOST:
            return
        seen = bytearray(bits)
        if fate is BlockFate.DIFFERS:
            seen[self.rng.integer(0, len(seen) - 1)] ^= 1 << self.rng.integer(0, 7)
        self._hand_over(receiver, number, bytes(seen), late=fate is BlockFate.LATE)
        if fate is BlockFate.AGAIN:
            self._hand_over(receiver, number, bytes(seen), late=True)

    def _hand_over(self, receiver: KmeProcess, number: int, bits: bytes, *, late: bool = False) -> None:
        def arrive() -> None:
            if receiver.alive:
                receiver.do(lambda: receiver.pair.bits_arrived(number, bytearray(bits)))

        self.after(self.rng.uniform(0.3, 12.0) if late else self.latency_s(), arrive)

    def restart_numbers(self, name: str) -> None:
        """Let a device count its blocks from zero again."""
        self._numbers[name] = 0

    # Keys

    def server(self, name: str) -> KmeProcess | None:
        """Return whom an SAE of an end reaches: now and then an old process."""
        servers = self.ends[name].servers()
        if not servers:
            return None
        return servers[0] if len(servers) == 1 or self.rng.integer(0, 2) else self.rng.choice(servers[1:])

    def worker(self, name: str) -> Worker | None:
        """Return a worker that an SAE of an end reaches: now and then one whose owner is gone."""
        orphans = self.orphans[name] = [worker for worker in self.orphans[name] if worker.alive]
        process = self.server(name)
        living = workers_of(process) if process is not None and process.started else []
        if orphans and (not living or not self.rng.integer(0, 3)):
            return self.rng.choice(orphans)
        return self.rng.choice(living) if living else None

    def draw(
        self, process: KmeProcess, wish: Wish, then: Callable[[list[str]], None], tries: int = _DRAW_TRIES
    ) -> None:
        """Draw keys and hand their IDs on; wait for a lease where one is needed."""
        try:
            delivery = process.enc_keys(*wish)
        except LeaseNeeded as need:
            process.ask_lease(need.granules)
            if tries:
                self.after(self.rng.uniform(0.002, 0.05), lambda: self.draw(process, wish, then, tries - 1))
        except ShosoinError as err:
            self.trace.counts[f"enc_keys {err.code}"] += 1
        else:
            ids = self.judge.drawn(process, wish, delivery)
            self.trace.tell(
                process.name, f"gives {wish.master} {len(ids)} keys of {wish.size_bits} bits for {wish.slave}"
            )
            self.trace.counts["keys drawn"] += len(ids)
            then(ids)

    def fetch(self, process: KmeProcess, caller: SaeId, master: SaeId, key_ids: Sequence[str]) -> bool:
        """Fetch keys; return whether they came."""
        try:
            delivery = process.dec_keys(caller, master, key_ids)
        except ShosoinError as err:
            self.trace.counts[f"dec_keys {err.code}"] += 1
            return False
        self.judge.fetched(process, caller, master, key_ids, delivery)
        self.trace.tell(process.name, f"gives {caller} {len(key_ids)} keys of {master}")
        self.trace.counts["keys fetched"] += len(key_ids)
        return True
