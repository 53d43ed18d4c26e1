"""Multicast keys in the simulation: ``MulticastKeys`` of each process, its table of copies, and questions to the peer.

Each effect takes time, and the process may die before any of them and after any change of the table. The table is part
of the end's disk: an old copy of the disk has an old table. Questions and answers travel beside the streams; they get
lost, are said twice, and end with the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from shosoin.base import KmeId, SaeId, ShosoinError, Unavailable
from shosoin.keys.copies import HeldCopy, read_head
from shosoin.keys.demands import NO_DEMANDS
from shosoin.keys.errors import KeyNotFound, LeaseNeeded, PeerRefused, StreamNotReady
from shosoin.keys.multicast import COPY, READY, Ask, DrawPad, Effect, MulticastKeys, OnTable, Ready, Together
from shosoin.testing.key_simulation.disk import CopyRows, DiskCrash

if TYPE_CHECKING:
    from shosoin.base.ports import Clock
    from shosoin.testing.key_simulation.judge import Wish
    from shosoin.testing.key_simulation.process import KmeProcess

__all__ = ["Copies"]

_ANSWER_S = 0.6
_PAD_TRIES = 10
_TABLE_S = (0.0002, 0.004)
Done = Callable[[Any, Exception | None], None]
_Steps = Generator[Effect, Any, Any]


class SimulatedTable:
    """``CopyTable`` on a simulated disk; every change is one step, before or after which the process may end."""

    def __init__(self, process: KmeProcess) -> None:
        self._process = process

    @property
    def _rows(self) -> CopyRows:
        return self._process.disk.copies

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        return [replace(copy, bits=b"") for copy in self._rows.held.values()]

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies."""
        rows = {copy.place: replace(copy, bits=bytes(copy.bits)) for copy in copies}
        self._process.disk.change_copies(lambda: self._rows.held.update(rows))

    def take_held(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Remove copies and return their bits."""
        found = [self._rows.held.get(copy.place) for copy in copies]
        self.drop_held(copies)
        if not all(found):
            raise KeyNotFound
        return [bytearray(copy.bits) for copy in found if copy is not None]

    def drop_held(self, copies: Sequence[HeldCopy]) -> None:
        """Remove copies."""
        self._process.disk.change_copies(lambda: [self._rows.held.pop(copy.place, None) for copy in copies])

    def add_sent(self, rows: Sequence[tuple[str, SaeId, KmeId]], born_s: float) -> None:
        """Write down what other KMEs may claim."""
        self._process.disk.change_copies(lambda: self._rows.sent.update(dict.fromkeys(rows, born_s)))

    def shared_with(self, peers: Sequence[KmeId], key_ids: Sequence[str]) -> list[KmeId]:
        """Return those of some KMEs that may claim a copy of one of these keys."""
        found = {peer for key_id, _, peer in self._rows.sent if key_id in key_ids}
        return [peer for peer in peers if peer in found]

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        rows = [(key_id, slave, peer) for key_id in key_ids]
        if not all(row in self._rows.sent for row in rows):
            return False
        self._process.disk.change_copies(lambda: [self._rows.sent.pop(row) for row in rows])
        return True

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove everything born before a time of the wall clock; what was born after ``now_s`` counts as born then."""
        self._process.disk.change_copies(lambda: self._rows.expire(before_s, now_s))


class Copies:
    """Multicast keys of one process, and whoever carries out their steps."""

    def __init__(self, process: KmeProcess, clock: Clock, *, expiry_s: float) -> None:
        self._process, self._world = process, process.world
        self._table = SimulatedTable(process)
        self._peer = KmeId(f"kme-{process.peer}")
        self.keys = MulticastKeys(
            process.kme,
            self._table.index(),
            lambda _: self._line_is_up(),
            entropy=self._world.entropy,
            clock=clock,
            events=process,
            expiry_s=expiry_s,
        )
        self._period_s = expiry_s / 4
        self._world.after(self._period_s, self._expire)

    # What SAEs ask

    def draw(self, wish: Wish, slaves: Sequence[SaeId], then: Callable[[list[str]], None]) -> None:
        """Draw keys for several slaves."""

        def done(delivery: Any, failure: Exception | None) -> None:
            if failure is not None:
                self._world.trace.counts[f"multicast {getattr(failure, 'code', failure)}"] += 1
                return
            keys = [(key.key_id, key.material.take()) for key in delivery.keys]
            self._world.judge.copies.drawn(self._process, keys, wish.master)
            self._world.trace.tell(self._process.name, f"gives {wish.master} {len(keys)} keys for {len(slaves)} slaves")
            self._world.trace.counts["multicast keys drawn"] += len(keys)
            then([key_id for key_id, _ in keys])

        if self._process.answers_saes:
            steps = self.keys.drawing(wish.master, slaves, wish.number, wish.size_bits, _admit, NO_DEMANDS)
            self._run(steps, done)

    def fetch(
        self,
        caller: SaeId,
        master: SaeId,
        key_ids: Sequence[str],
        *,
        then: Callable[[bool], object] = bool,
        rest_fails: bool = False,
    ) -> None:
        """Fetch copies for a slave; one that was drawn at this KME is among its local keys.

        Args:
            rest_fails: whether the request names other keys too, which cannot be had now.
        """
        process, counts = self._process, self._world.trace.counts
        if not process.answers_saes:
            return

        def done(answer: Any, failure: Exception | None) -> None:
            if failure is None:
                self._given(caller, master, list(zip(key_ids, answer[0], strict=True)))
            else:
                counts[f"copies {getattr(failure, 'code', failure)}"] += 1
            then(failure is None)

        try:
            if self.keys.holds_any(master, key_ids):
                self._run(
                    self.keys.taking(self.keys.check(caller, master, key_ids), partial(_fetch_rest, rest_fails)), done
                )
                return
            delivery = process.dec_keys(caller, master, key_ids)
        except ShosoinError as err:
            counts[f"copies {err.code}"] += 1
            then(False)  # not given
            return
        self._given(caller, master, [(key.key_id, key.material.take()) for key in delivery.keys])
        then(True)  # given

    def _given(self, caller: SaeId, master: SaeId, keys: Sequence[tuple[str, bytes | bytearray]]) -> None:
        self._world.judge.copies.fetched(self._process, caller, master, keys)
        self._world.trace.tell(self._process.name, f"gives {caller} {len(keys)} copies", count="copies fetched")

    def _expire(self) -> None:
        if self._process.alive:
            self._run(self.keys.expiring(), _ignore)
            self._world.after(self._period_s, self._expire)

    def burn(self) -> None:
        """Remove all that is stored, and forget it.

        Raises:
            DiskCrash: the process ends before that or after it.
        """
        self._process.disk.change_copies(self._process.disk.copies.burn)
        self.keys.forget_copies_of(self._peer)
        self._world.trace.counts["copies burned by a process"] += 1

    # Steps

    def _run(self, steps: _Steps, done: Done) -> None:
        self._go_on(steps, partial(next, steps), done)

    def _go_on(self, steps: _Steps, step: Callable[[], Effect], done: Done) -> None:
        if not self._process.alive:
            return
        if self._world.now_s < self._process.frozen_until_s:
            self._world.at(self._process.frozen_until_s, partial(self._go_on, steps, step, done))
            return
        try:
            effect = step()
        except StopIteration as end:
            done(end.value, None)
        except ShosoinError as err:
            done(None, err)
        else:
            self._carry_out(effect, partial(self._sent_back, steps, done))

    def _sent_back(self, steps: _Steps, done: Done, answer: Any, failure: Exception | None) -> None:
        step = partial(steps.send, answer) if failure is None else partial(steps.throw, failure)
        self._go_on(steps, step, done)

    def _carry_out(self, effect: Effect, back: Done) -> None:
        match effect:
            case OnTable():
                self._world.after(self._world.rng.uniform(*_TABLE_S), partial(self._on_table, effect, back))
            case Ready(peers):
                if peers:
                    _Question(self._process, READY, b"", partial(_ready, back))
                else:
                    back(None, None)
            case DrawPad():
                self._draw_pad(effect, back, _PAD_TRIES)
            case Ask(_, subject, body):
                if subject == COPY:
                    self._world.judge.copies.sealed(self._process, read_head(body).pad_id, body)
                _Question(self._process, subject, body, back)
            case Together(several):
                _Several(len(several), back).run(self._run, several)

    def _on_table(self, effect: OnTable, back: Done) -> None:
        if not self._process.alive:
            return
        try:
            self._process.count_effect()
            answer = effect.work(self._table)
        except DiskCrash:
            self._world.ended(self._process, "dies over a table of copies")
        except ShosoinError as err:
            back(None, err)
        else:
            back(answer, None)

    def _draw_pad(self, effect: DrawPad, back: Done, tries: int) -> None:
        process = self._process
        if not process.alive:
            return
        try:
            pad_id, pad = process.kme.draw_pad(effect.peer, effect.length_bytes, effect.caller, effect.slaves)
        except LeaseNeeded as need:
            process.ask_lease(need.granules)
            if tries:
                again = partial(self._draw_pad, effect, back, tries - 1)
                self._world.after(self._world.rng.uniform(0.002, 0.05), again)
            else:
                back(None, StreamNotReady("no lease comes"))
        except ShosoinError as err:
            back(None, err)
        else:
            self._world.judge.pad_drawn(process, pad_id, bytes(pad))
            back((pad_id, pad), None)

    # Questions

    def _line_is_up(self) -> bool:
        line = self._process.latest
        return line is not None and line.is_up

    def serve(self, subject: str, body: bytes, done: Done) -> None:
        """Answer a question of the peer."""
        if subject == READY:
            self._run(_saying_ready(), done)
            return
        serving = self.keys.serving_copy if subject == COPY else self.keys.serving_claim
        self._run(serving(self._peer, body), done)


class _Question:
    """A question on its way, and its answer."""

    def __init__(self, process: KmeProcess, subject: str, body: bytes, back: Done) -> None:
        self._process, self._world, self._subject, self._body = process, process.world, subject, body
        self._back: Done | None = back
        self._line = process.latest
        if self._line is None or not self._line.is_up:
            failure = Unavailable("not connected", code="peer.not_connected")
            self._world.after(0.0, partial(self._answered, None, failure))
            return
        self._world.after(_ANSWER_S, partial(self._answered, None, Unavailable("no answer", code="peer.no_answer")))
        for _ in range(self._times()):
            self._world.after(self._world.latency_s(), self._arrive)

    def _times(self) -> int:
        """Return how often a message arrives."""
        fates = self._world.request_fates[self._process.end]
        return fates.popleft() if fates else 1

    def _arrive(self) -> None:
        if self._line is None or not self._line.is_up:
            return
        peer = self._line.peer_of(self._process)
        if peer.alive and peer.started:
            peer.copies.serve(self._subject, self._body, self._answer)

    def _answer(self, answer: Any, failure: Exception | None) -> None:
        if self._line is None or not self._line.is_up:
            return
        refusal = None
        if failure is not None:
            refusal = PeerRefused(str(failure), code=f"peer.refused.{getattr(failure, 'code', 'defect')}")
        for _ in range(self._times()):
            self._world.after(self._world.latency_s(), partial(self._answered, answer, refusal))

    def _answered(self, answer: Any, failure: Exception | None) -> None:
        back, self._back = self._back, None
        if back is not None and self._process.alive:
            back(answer, failure)


class _Several:
    """Generators that are carried out side by side, as ``asyncio.gather`` does."""

    def __init__(self, number: int, back: Done) -> None:
        self._open, self._back = number, back

    def run(self, run: Callable[[_Steps, Done], None], several: Sequence[Any]) -> None:
        """Begin all of them."""
        if not several:
            self._back([], None)
        for steps in several:
            run(steps, self._one_done)

    def _one_done(self, _: Any, failure: Exception | None) -> None:
        back = self._back
        self._open -= 1
        if failure is not None or not self._open:
            self._back = _ignore
            back(None, failure)


def _fetch_rest(fails: bool) -> None:  # what partial is given
    if fails:
        raise StreamNotReady("the other keys of this request cannot be had now")


def _saying_ready() -> _Steps:
    yield OnTable(lambda _: None)
    return b"ready"


def _ready(back: Done, _: Any, failure: Exception | None) -> None:
    back(None, StreamNotReady("the peer does not answer") if isinstance(failure, Unavailable) else None)


def _admit(_: int, __: int) -> None:
    """Refuse nothing."""


def _ignore(_: Any, __: Exception | None) -> None:
    """Forget how it ended."""
