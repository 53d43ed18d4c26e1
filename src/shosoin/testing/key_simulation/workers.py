"""Workers of a simulated KME: the stocks and grants of ``shosoin.keys``, and a line between a worker and its owner.

What a worker and its owner say to each other follows ``shosoin.services.worker_process`` and ``worker_pool``. The line
keeps order, delays and stalls, and ends with either of them; the other notices later, so that a worker of an owner that
is gone goes on serving what it holds for a while. A worker dies, or stands still and goes on.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from shosoin.base import KmeId, SaeId, ShosoinError
from shosoin.keys.errors import LeaseNeeded
from shosoin.keys.worker_grants import Granting, Grants
from shosoin.keys.worker_stock import HOLD_S, Draw, Grant, KeyStock, KeyStocks
from shosoin.testing.key_simulation.judge import Wish

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.process import KmeProcess

__all__ = ["Worker", "WorkerDesk", "workers_of"]

_WORKERS = 2
_PATIENCE_S = 0.6
_REPORT_S = 0.3
_LEASE_TRIES = 12
Then = Callable[[list[str]], None]


@dataclass(slots=True)
class _Question:
    """What a worker has asked its owner."""

    stock: KeyStock | None
    draw: Draw
    then: Then
    asked_s: float


@dataclass(slots=True)
class WorkerDesk:
    """The owner's side of one worker."""

    owner: KmeProcess
    worker: Worker
    grants: Grants
    tasks: dict[int, Generator[int, bytes, bytes]] = field(default_factory=dict)
    is_over: bool = False

    def take(self, kind: str, number: int, payload: Any) -> None:
        """Take a frame, as ``WorkerPool`` does."""
        if self.is_over or not self.owner.alive:
            return
        match kind:
            case "draw":
                steps = self.tasks[number] = self.grants.drawing(number, payload)
                self._go_on(number, payload, partial(next, steps), _LEASE_TRIES)
            case "used":
                self._used(number, payload)
            case "over":
                self.grants.over(number)
            case "cancel":
                self.tasks.pop(number, None)
                self.grants.over(number)

    def _used(self, number: int, keys: int) -> None:
        try:
            self.grants.used(number, keys)
        except ValueError as err:  # here all workers are honest
            self.owner.world.trace.violate(f"a worker reports {err}")

    def end(self) -> None:
        """Notice that the worker is gone."""
        if not self.is_over and self.owner.alive:
            self.is_over = True
            self.tasks.clear()
            self.grants.all_over()
            self.owner.world.judge.check_workers(self.owner, self.worker.name)
            replace_dead(self.owner)

    def _go_on(self, number: int, draw: Draw, step: Callable[[], int], tries: int) -> None:
        try:
            while True:
                wanted = step()
                try:
                    text = self._drawn(draw, wanted)
                except LeaseNeeded as need:
                    self.owner.ask_lease(need.granules)
                    if tries:
                        again = partial(self._again, number, draw, wanted, tries - 1)
                        self.owner.world.after(self.owner.world.rng.uniform(0.002, 0.03), again)
                        return
                    step = partial(self.tasks[number].throw, need)
                except ShosoinError as err:
                    step = partial(self.tasks[number].throw, err)
                else:
                    step = partial(self.tasks[number].send, text)
        except StopIteration as done:
            del self.tasks[number]
            self.worker.answer(number, done.value)
        except ShosoinError as err:
            del self.tasks[number]
            self.owner.world.trace.counts[f"worker refused {err.code}"] += 1
            self.worker.answer(number, err)

    def _again(self, number: int, draw: Draw, wanted: int, tries: int) -> None:
        if number in self.tasks and self.owner.alive and not self.is_over:
            self._go_on(number, draw, lambda: wanted, tries)

    def _drawn(self, draw: Draw, number: int) -> bytes:
        wish = Wish(SaeId(draw.master), SaeId(draw.slave), number, draw.size_bits)
        judge = self.owner.world.judge
        key_ids = judge.drawn(self.owner, wish, self.owner.enc_keys(*wish))
        judge.handed_to_worker(self.owner.name, self.worker.name, key_ids, ahead_from=draw.number)
        items = [{"key_ID": key_id, "key": b64encode(judge.keys[key_id].bits).decode()} for key_id in key_ids]
        return json.dumps({"keys": items, "key_container_extension": {}}, separators=(",", ":")).encode()


class Worker:
    """One worker of a KME process."""

    def __init__(self, owner: KmeProcess, name: str) -> None:
        self.world, self.owner, self.name = owner.world, owner, name
        granting = Granting(owner.kme, {KmeId(f"kme-{owner.peer}"): owner.pair}, is_allowed=True, share=1)
        self.desk = WorkerDesk(owner, self, Grants(granting))
        self.alive = True
        self.frozen_until_s = self.stalled_until_s = 0.0
        self._stocks = KeyStocks(self._tell)
        self._turns: dict[KeyStock, deque[tuple[Draw, Then]]] = {}
        """Requests that wait while somebody asks for more, by stock."""
        self._questions: dict[int, _Question] = {}
        self._number = 0
        self._latest_s = {"owner": 0.0, "worker": 0.0}
        self._last_words_arrive = True
        self._report()

    @property
    def _now_s(self) -> float:
        return self.owner.now_s

    # Life

    def die(self) -> None:
        """End here; what was on its way may be lost, and the owner notices soon."""
        if not self.alive:
            return
        self.alive = False
        rng = self.world.rng
        self._last_words_arrive = rng.integer(0, 1) == 1
        self.world.after(rng.uniform(0.01, 0.3), self.desk.end)

    def freeze(self, time_s: float) -> None:
        """Stand still for a while."""
        self.frozen_until_s = self.world.now_s + time_s

    def orphan(self) -> None:
        """Go on for a while without an owner."""
        self.world.after(self.world.rng.uniform(0.0, 1.2), self.die)

    def give_up(self) -> None:
        """Overwrite what is held, and leave."""
        self._stocks.give_up()
        self._post("owner", self.desk.end)
        self.alive = False

    def _report(self) -> None:
        if not self.alive:
            return
        if self.world.now_s >= self.frozen_until_s:
            self._stocks.report(self._now_s)
        self.world.after(_REPORT_S, self._report)

    # The line

    def _post(self, to: str, arrive: Callable[[], None]) -> None:
        """Have something arrive after what was sent before."""
        delay_s = self.world.rng.uniform(0.0001, 0.003)
        at_s = self._latest_s[to] = max(self._latest_s[to], self.world.now_s + delay_s, self.stalled_until_s)
        self.world.at(at_s, partial(self._arrive, to, arrive))

    def _arrive(self, to: str, arrive: Callable[[], None]) -> None:
        is_lost = not self.alive and (to == "worker" or not self._last_words_arrive)
        thaws_s = self.frozen_until_s if to == "worker" else self.owner.frozen_until_s
        if is_lost:
            return
        if self.world.now_s < thaws_s:
            self.world.at(thaws_s, partial(self._arrive, to, arrive))
        else:
            arrive()

    def answer(self, number: int, answer: bytes | ShosoinError) -> None:
        """Send the owner's answer to a question."""
        self._post("worker", partial(self._answered, number, answer))

    def _say(self, kind: str, number: int, payload: Any = None) -> None:
        self._post("owner", partial(self.desk.take, kind, number, payload))

    def _tell(self, number: int, used: int, is_over: bool) -> None:
        if used:
            self._say("used", number, used)
        if is_over:
            self._say("over", number)

    # What SAEs ask

    def draw(self, draw: Draw, then: Then) -> None:
        """Draw keys; whoever has to wait for others does."""
        if not self.alive:
            return
        if self.world.now_s < self.frozen_until_s:
            self.world.at(self.frozen_until_s, partial(self.draw, draw, then))
            return
        stock = self._stocks.get(draw.master, draw.slave, draw.size_bits)
        if stock is not None and stock in self._turns:
            self._turns[stock].append((draw, then))
            return
        if stock is not None:
            self._turns[stock] = deque()
        self._serve(stock, draw, then)

    def _serve(self, stock: KeyStock | None, draw: Draw, then: Then) -> None:
        outcome = self._stocks.draw(stock, draw, self._now_s)
        if isinstance(outcome, bytes):
            self._give(outcome, then, from_stock=True)
            self._next_turn(stock)
            return
        self._number += 1
        self._questions[self._number] = _Question(stock, outcome, then, self._now_s)
        self._say("draw", self._number, outcome)
        self.world.after(_PATIENCE_S, partial(self._lose_patience, self._number))

    def _answered(self, number: int, answer: bytes | ShosoinError) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            return  # whoever asked has left
        if isinstance(answer, bytes):
            grant = Grant(number, bytearray(answer), question.asked_s + HOLD_S)
            content = self._stocks.granted(question.stock, question.draw, grant)
            self._give(content, question.then, from_stock=False)
        self._next_turn(question.stock)

    def _lose_patience(self, number: int) -> None:
        if not self.alive:
            return
        if self.world.now_s < self.frozen_until_s:
            self.world.at(self.frozen_until_s, partial(self._lose_patience, number))
            return
        question = self._questions.pop(number, None)
        if question is not None:
            self.world.trace.counts["questions of workers given up"] += 1
            self._say("cancel", number)
            self._next_turn(question.stock)

    def _next_turn(self, stock: KeyStock | None) -> None:
        if stock is None:
            return
        waiting = self._turns.pop(stock)
        if waiting:
            draw, then = waiting.popleft()
            self._turns[stock] = waiting
            self._serve(stock, draw, then)

    def _give(self, content: bytes, then: Then, *, from_stock: bool) -> None:
        keys = [(item["key_ID"], b64decode(item["key"])) for item in json.loads(content)["keys"]]
        self.world.judge.served(self.name, keys, from_stock=from_stock, now_s=self.world.now_s)
        self.world.trace.tell(self.name, f"gives {len(keys)} keys", count="keys of workers")
        self.world.trace.counts["keys drawn ahead and used"] += len(keys) if from_stock else 0
        then([key_id for key_id, _ in keys])


def workers_of(owner: KmeProcess) -> list[Worker]:
    """Return the living workers of a process; whoever is missing is started."""
    while owner.alive and len(owner.workers) < _WORKERS:
        owner.workers_started += 1
        owner.workers.append(Worker(owner, f"{owner.name}.{owner.workers_started}"))
    return [worker for worker in owner.workers if worker.alive]


def replace_dead(owner: KmeProcess) -> None:
    """Make room for workers in the place of those that are gone, once the owner knows."""
    owner.workers = [worker for worker in owner.workers if not worker.desk.is_over]
