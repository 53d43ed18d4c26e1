"""One KME process: the real ``PairEnd`` and ``Kme``, and a driver that carries out their steps one by one.

The driver does what ``shosoin.services.link_driver`` does, with a simulated clock in place of threads and sockets.
Between an effect's being asked for and its being carried out other things happen: keys are drawn and fetched, messages
arrive, the process dies. Whoever serves keys at an end (``End.servers``) is asked through ``enc_keys``, ``dec_keys``,
by SAEs and by workers (``workers``).
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shosoin.base import KmeId, SaeId, ShosoinError
from shosoin.base.ports import Event
from shosoin.kernels import polynomial_mac
from shosoin.keys.errors import StreamNotReady, StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.kme import Delivery, Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.messages import Closed, Leased, Message, Welcome, encode_message
from shosoin.keys.pair import PairEnd, PairLimits
from shosoin.keys.policy import KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.keys.store import BurnCopies, Commit, Effect, Emit, Mac, ReadBlock, Send, Steps
from shosoin.link.port import LinkFacts
from shosoin.testing.key_simulation.copies import Copies
from shosoin.testing.key_simulation.disk import DiskCrash, SimulatedDisk

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.network import Connection
    from shosoin.testing.key_simulation.workers import Worker
    from shosoin.testing.key_simulation.world import World

__all__ = ["DIRECTORY", "EXPIRY_S", "LIMITS", "OTHER", "SAES", "KmeProcess"]

OTHER = {"a": "b", "b": "a"}
SAES = {"a": (SaeId("sae-a1"), SaeId("sae-a2")), "b": (SaeId("sae-b1"), SaeId("sae-b2"))}
DIRECTORY = {sae: KmeId(f"kme-{end}") for end, saes in SAES.items() for sae in saes}
EXPIRY_S = 6.0
COPIES_EXPIRY_S = 8.0
LIMITS = PairLimits(lease_bytes=4 * GRANULE_BYTES, capacity_bytes=64 * GRANULE_BYTES, expiry_s=EXPIRY_S)
TICK_S = 0.25
_FAREWELL_S = 1.0
_FACTS = LinkFacts("simulated-qkd", simulated=True, epsilon=1e-10, secret_key_rate_bps=1000.0)
_COSTS_S = {
    Commit: (0.0002, 0.004),
    BurnCopies: (0.0002, 0.004),
    ReadBlock: (0.00005, 0.0005),
    Mac: (0.00001, 0.0001),
    Send: (0.00001, 0.0002),
}


class _Clock:
    """``Clock`` of one machine: the wall clock steps both ways, the other one, as the port says, never back."""

    def __init__(self, process: KmeProcess) -> None:
        self._process = process

    def now_s(self) -> float:
        return self._process.now_s

    def wall_s(self) -> float:
        return 1.7e9 + self._process.now_s + self._process.world.wall_steps_s[self._process.end]


class KmeProcess:
    """A running KME of end ``a`` or ``b``."""

    def __init__(self, world: World, end: str, disk: SimulatedDisk, number: int) -> None:
        self.world, self.end, self.peer = world, end, OTHER[end]
        self.name = f"{end}{number}"
        self.disk = disk
        disk.open()
        clock = _Clock(self)
        limits = replace(LIMITS, max_age_s=world.max_ages_s[end])
        self.pair = PairEnd(
            f"kme-{end}", f"kme-{self.peer}", disk.secret, disk, world.entropy, limits, wall_s=clock.wall_s
        )
        self.era = world.era_of(disk.secret)
        self.burned_before_s = disk.burned_before_s
        self.copies_burned_before_s = disk.copies_burned_before_s
        self.heard_of_burn_s = world.now_s
        self.alive, self.started, self.failed, self.stopping = True, False, False, False
        self.frozen_until_s = 0.0
        self.doom: int | None = None
        """Effects that are still carried out before the process dies."""
        self.latest: Connection | None = None
        self.channel: Connection | None = None
        self._queue: deque[tuple[Callable[[], Steps], Connection | None]] = deque()
        self._steps: Steps | None = None
        self._pending: Effect | None = None
        self._busy = self._ticking = self._lease_asked = False
        self.workers: list[Worker] = []
        self.workers_started = 0
        self._macs: dict[str, tuple[bytes, bytes]] = {}
        self.kme = self._make_kme(clock)
        self.copies = Copies(self, clock, expiry_s=COPIES_EXPIRY_S)
        self.do(self._start)

    def _make_kme(self, clock: _Clock) -> Kme:
        peer = KmeId(f"kme-{self.peer}")
        return Kme(
            KmeId(f"kme-{self.end}"),
            directory=DIRECTORY,
            pairs={peer: self.pair},
            facts={peer: _FACTS},
            max_stock_bits={peer: 1 << 20},
            local=LocalKeys(self.world.entropy, clock, capacity_bytes=4096, expiry_s=EXPIRY_S),
            quota=Quota(clock, rate_bps=20_000.0, burst_bits=20_000.0),
            guesses=Quota(clock, rate_bps=100.0, burst_bits=400.0),
            policies=PolicyBook(KmeLimits(max_key_size_bits=8192, max_key_per_request=16), (), clock),
            events=self,
        )

    @property
    def now_s(self) -> float:
        """Time on this machine's clock."""
        return self.world.now_s + self.world.clock_steps_s[self.end]

    @property
    def is_serving(self) -> bool:
        """Whether it works, and takes connections of its peer."""
        return self.answers_saes and not self.stopping

    @property
    def answers_saes(self) -> bool:
        """Whether it answers SAEs, which it does until the very end."""
        return self.alive and self.started and self.world.now_s >= self.frozen_until_s

    def hear_of_burns(self, other: KmeProcess) -> None:
        """Learn what was burned at the other end, or had been heard of there, when the two agreed."""
        self.burned_before_s = max(self.burned_before_s, other.burned_before_s)
        self.disk.burned_before_s = max(self.disk.burned_before_s, self.burned_before_s)
        if other.copies_burned_before_s > self.copies_burned_before_s:
            self.copies_burned_before_s, self.heard_of_burn_s = other.copies_burned_before_s, self.world.now_s
        self.disk.copies_burned_before_s = max(self.disk.copies_burned_before_s, self.copies_burned_before_s)

    # What SAEs ask

    def enc_keys(self, caller: SaeId, slave: SaeId, number: int, size_bits: int) -> Delivery:
        """Draw keys, as the HTTP side does."""
        self._require_service()
        delivery = self.kme.enc_keys(caller, slave, number, size_bits)
        if self.pair.outgoing.lease_low:
            self.ask_lease(0)
        return delivery

    def dec_keys(self, caller: SaeId, master: SaeId, key_ids: Sequence[str]) -> Delivery:
        """Fetch keys."""
        self._require_service()
        return self.kme.dec_keys(caller, master, key_ids)

    def ask_lease(self, granules: int) -> None:
        """Ask the peer for a higher lease, unless that is under way."""
        if not self._lease_asked and self.pair.is_connected:
            self._lease_asked = True
            self.do(lambda: self._extend_lease(granules))

    def _require_service(self) -> None:
        if not self.answers_saes:
            raise StreamNotReady("nobody answers")

    # Life

    def die(self) -> None:
        """End here, whatever is under way."""
        self.alive = False
        for worker in self.workers:
            worker.orphan()
        self.world.orphans[self.end] += self.workers
        if self._steps is not None:
            self._steps.close()
        self._queue.clear()
        if self.latest is not None:
            self.latest.end()

    def stop(self) -> None:
        """Stop cleanly, within a bounded time."""
        if not self.alive or self.stopping:
            return
        self.stopping = True
        self.do(lambda: self.pair.tick(self.now_s))
        self.do(self._close)
        self.world.after(_FAREWELL_S, self._leave)

    def _close(self) -> Steps:
        connected = self.pair.is_connected
        yield from self.pair.close()
        if not connected:
            self.world.after(0.0, self._leave)

    def _leave(self) -> None:
        if self.alive:
            self.pair.wipe()
            self.world.ended(self, "stopped cleanly")

    def tick(self) -> None:
        """Do what time makes due, unless the last tick is still under way."""
        if self.is_serving and not self.failed and not self._ticking:
            self._ticking = True
            self.do(self._tick)

    def _tick(self) -> Steps:
        self._ticking = False
        yield from self.pair.tick(self.now_s)

    def _start(self) -> Steps:
        yield from self.pair.start()
        self.started = True

    # Channels

    def attach(self, channel: Connection) -> None:
        """Take up a new channel; the one before is closed."""
        if self.latest is not None:
            self.latest.end()
        self.latest = channel
        self.do(lambda: self._attach(channel))

    def channel_ended(self, channel: Connection) -> None:
        """Notice that a channel is gone."""
        channel.end()
        if self.latest is channel:
            self.latest = None
        if self.alive:
            self.do(lambda: self._detach(channel))

    def receive(self, channel: Connection, message: Message) -> None:
        """Queue a message."""
        if self.alive:
            self.do(lambda: self._receive(channel, message), channel)

    def _attach(self, channel: Connection) -> Steps:
        self.channel = channel
        self._lease_asked = False
        yield from self.pair.connected()

    def _detach(self, channel: Connection) -> Steps:
        if self.channel is channel:
            self.channel = None
            self._lease_asked = False
            self.pair.disconnected()
        yield from ()

    def _receive(self, channel: Connection, message: Message) -> Steps:
        yield from self.pair.receive(message, self.now_s)
        if isinstance(message, Leased):
            self._lease_asked = False
        elif isinstance(message, Welcome) and self.pair.is_connected:
            self.world.reconciled(self, channel)
        elif isinstance(message, Closed) and self.stopping:
            self.world.after(0.0, self._leave)

    def _extend_lease(self, granules: int) -> Steps:
        sent = False
        for effect in self.pair.extend_lease(granules):
            sent = sent or isinstance(effect, Send)
            yield effect
        if not sent:
            self._lease_asked = False

    def _drop_channel(self) -> None:
        if self.channel is not None:
            self.channel.end()
            self.channel = None
        self._lease_asked = False
        self.pair.disconnected()

    # Steps

    def do(self, make: Callable[[], Steps], channel: Connection | None = None) -> None:
        """Queue steps; those from a channel are void when it is no longer the pair's."""
        self._queue.append((make, channel))
        if not self._busy:
            self._busy = True
            self.world.after(0.00005, self._turn)

    def _turn(self) -> None:
        if not self.alive:
            return
        if self.world.now_s < self.frozen_until_s:
            self.world.at(self.frozen_until_s, self._turn)
            return
        try:
            self._advance()
        except DiskCrash:
            self.world.ended(self, "dies inside a commit")
            return
        except StreamRefused as err:
            self._give_up(err.message)
        except ShosoinError as err:
            self.world.trace.tell(self.name, f"ends the channel: {err.message}", count="protocol errors")
            self._quit_steps()
            self._drop_channel()
        except Exception:  # noqa: BLE001  # a defect is a finding, with its place
            self.world.trace.violate(f"defect in {self.name}: {traceback.format_exc(limit=-3)}")
            self._give_up("a defect")
        self._schedule()

    def _schedule(self) -> None:
        if not self.alive:
            return
        if self._pending is not None:
            low, high = _COSTS_S[type(self._pending)]
            self.world.after(self.world.rng.uniform(low, high), self._turn)
        elif self._queue:
            self.world.after(0.00005, self._turn)
        else:
            self._busy = False

    def _advance(self) -> None:
        """Carry out the effect that is due, if any, and go on to the next one."""
        if self._pending is None:
            self._begin()
            answer = None
        else:
            effect, self._pending = self._pending, None
            answer = self._carry_out(effect)
        while self._steps is not None and self.alive:
            try:
                effect = self._steps.send(answer)
            except StopIteration:
                self._quit_steps()
                return
            if not isinstance(effect, Emit):
                self._pending = effect
                return
            self.emit(effect.event)
            answer = None

    def _begin(self) -> None:
        if not self._queue:
            return
        make, channel = self._queue.popleft()
        stale = channel is not None and channel is not self.channel
        if not self.failed and not stale:
            self._steps = make()

    def _quit_steps(self) -> None:
        if self._steps is not None:
            self._steps.close()
        self._steps = self._pending = None

    def count_effect(self) -> None:
        """Count an effect that is about to be carried out.

        Raises:
            DiskCrash: the process was to die before it.
        """
        if self.doom is not None:
            if self.doom == 0:
                raise DiskCrash
            self.doom -= 1

    def _carry_out(self, effect: Effect) -> Any:
        self.count_effect()
        match effect:
            case Commit(batch):
                self.disk.commit(batch)
                self.world.judge.committed(self, batch)
            case BurnCopies():
                self.copies.burn()
            case ReadBlock(name):
                return self.disk.read_block(name)
            case Mac(key, parts):
                content = b"".join(parts)
                tag = polynomial_mac(key, content)
                self._macs[tag.hex()] = (key, content)
                return tag
            case Send(message):
                self._send(message)
        return None

    def _send(self, message: Message) -> None:
        if self.channel is None:
            return
        self.world.trace.tell(self.name, f"sends {message.type}")
        tag = getattr(message, "tag", None)
        if tag in self._macs:
            self.world.judge.authenticated(self, *self._macs[tag])
        self.channel.send(self, encode_message(message))

    def _give_up(self, why: str) -> None:
        self._quit_steps()
        self._queue.clear()
        self.failed = True
        self.pair.abandon()
        self._drop_channel()
        self.world.trace.tell(self.name, f"gives the stream up: {why}", count="streams given up")
        self.world.gave_up(self)

    def emit(self, event: Event) -> None:
        """Take an event of the key layer, as its sink."""
        if event.name == "keys.restored_copy":
            self.world.judge.accused(self, event.fields["restored"].removeprefix("kme-"))
        if event.name != "keys.stream_open":
            self.world.trace.tell(self.name, f"reports {event.name}", count=event.name)
