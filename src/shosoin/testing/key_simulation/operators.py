"""The operators of both ends, who burn, heal and re-key the pair while a KME stands still, and are interrupted.

An operator does what ``shosoin.services.kme_pairs`` does with the steps of ``shosoin.keys.burning``: it stops the KME,
carries the steps out one by one, and starts it again. Its machine may fail before any step and inside the commit, so
between a pair's journal and its multicast copies too. What it leaves half done it does again later, for a pair that is
half re-keyed is refused until then; of a burn the KME that is started meanwhile must have finished the rest.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from shosoin.keys.blocks import load_record
from shosoin.keys.burning import (
    InstallSecret,
    OperatorStep,
    burn_batch,
    burn_steps,
    closed_batch,
    rekey_steps,
)
from shosoin.keys.errors import PairSecretRejected, StreamRefused
from shosoin.keys.pair import PAIR_RECORD, secret_check_of
from shosoin.keys.store import BurnCopies, Commit
from shosoin.testing.key_simulation.disk import DiskCrash, SimulatedDisk

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.kinds import Values
    from shosoin.testing.key_simulation.world import World

__all__ = ["Operator", "Order"]

_POLL_S = 0.01


class Order(Enum):
    """A command."""

    BURN = "burns the pair"
    HEAL = "heals the site"
    REKEY = "re-keys the pair"
    REUSE = "re-keys the pair under a secret of before"


class Operator:
    """Whoever runs the KME of one end."""

    def __init__(self, world: World, end: str) -> None:
        self._world, self._end = world, end
        self._other = "b" if end == "a" else "a"
        self._used: set[bytes] = {world.secrets[0]}
        """Secrets that this end ever had, whatever its disk says."""
        self._secret = b""

    @property
    def _disk(self) -> SimulatedDisk:
        return self._world.ends[self._end].disk

    def begin(self, order: Order, values: Values, *, at_last: bool = False) -> None:
        """Stop the KME, carry out a command, be interrupted as ``values`` say, start the KME.

        Args:
            at_last: whether the faults are over and this finishes what was begun.
        """
        world, end = self._world, self._world.ends[self._end]
        if end.in_maintenance or (world.quiet and not at_last):
            return
        end.in_maintenance = True
        world.trace.tell(self._end, f"operator {order.value}", count=f"operator {order.value}")
        main = end.main
        if main is not None and main.started and values[0] % 2:
            main.stop()
        elif main is not None:
            world.ended(main, "is ended by its operator")
        self._await_end(order, values)

    def _await_end(self, order: Order, values: Values) -> None:
        if self._world.ends[self._end].main is not None:
            self._world.after(_POLL_S, partial(self._await_end, order, values))
            return
        self._disk.open()
        try:
            steps = self._steps(order, values)
        except PairSecretRejected:
            self._finish("is told that the secret was used before")
            return
        crash_at = values[1] % (3 * len(steps))
        if not self._world.quiet and crash_at < len(steps) and isinstance(steps[crash_at], Commit):
            self._disk.crash_after = values[2] % 6
            crash_at = len(steps)
        self._go_on(order, deque(steps), len(steps) if self._world.quiet else crash_at)

    def _steps(self, order: Order, values: Values) -> list[OperatorStep]:
        disk, entropy = self._disk, self._world.entropy
        names = f"kme-{self._end}", f"kme-{self._other}"
        records = disk.load()
        if order in {Order.BURN, Order.HEAL}:
            until_rekeyed = order is Order.HEAL
            if records:
                return burn_steps(burn_batch(records, until_rekeyed=until_rekeyed))
            return burn_steps(closed_batch(*names, disk.secret, store=disk, entropy=entropy) if until_rekeyed else None)
        self._secret = self._chosen_secret(order, values)
        return rekey_steps(records, *names, self._secret, store=disk, entropy=entropy)

    def _chosen_secret(self, order: Order, values: Values) -> bytes:
        """Return the secret to install: what the other end may have already, or a fresh one where that is of no use."""
        world = self._world
        if order is Order.REUSE:
            return world.secrets[values[0] % (len(world.secrets) - 1)]
        newest = world.secrets[-1]
        is_done = self.is_in_step() and not self.awaits_rekey
        return world.make_secret() if is_done or (self.awaits_rekey and newest in self._used) else newest

    @property
    def awaits_rekey(self) -> bool:
        """Whether this end wants another secret, as its operator or its journal says."""
        record = self._disk.records.get(PAIR_RECORD)
        return self._disk.awaits_rekey or (record is not None and bool(load_record(record)["awaits_rekey"]))

    def is_in_step(self) -> bool:
        """Whether journal and secret are those of the newest secret."""
        newest, record = self._world.secrets[-1], self._disk.records.get(PAIR_RECORD)
        known = record is None or load_record(record)["secret_check"] == secret_check_of(newest)
        return self._disk.secret == newest and known

    def remembers(self, secret: bytes) -> bool:
        """Whether the journal says that this end has had a secret."""
        record = self._disk.records.get(PAIR_RECORD)
        if record is None:
            return False
        pair = load_record(record)
        return secret_check_of(secret) in (*pair["retired"], pair["secret_check"])

    def _go_on(self, order: Order, steps: deque[OperatorStep], crash_at: int) -> None:
        if not steps:
            self._finish("is done")
            return
        if crash_at == 0:
            self._interrupted(order)
            return
        try:
            self._carry_out(order, steps.popleft())
        except (DiskCrash, StreamRefused):
            self._interrupted(order)
            return
        self._world.after(self._world.rng.uniform(0.001, 0.02), partial(self._go_on, order, steps, crash_at - 1))

    def _carry_out(self, order: Order, step: OperatorStep) -> None:
        disk = self._disk
        match step:
            case Commit(batch):
                try:
                    self._disk.commit(batch)
                finally:
                    if self._disk.records.get(PAIR_RECORD) == batch.records[PAIR_RECORD]:
                        self._note_burn(order)
            case InstallSecret():
                self._disk.secret = self._secret
            case BurnCopies():
                disk.copies.burn()

    def _note_burn(self, order: Order) -> None:
        """Write down beside the disk what its operator now counts on."""
        disk = self._disk
        disk.burned_before_s = disk.copies_burned_before_s = self._world.now_s
        if order is Order.HEAL:
            disk.awaits_rekey = True
        elif order is not Order.BURN:
            disk.awaits_rekey = False
            # Then the journal knows less than this end did once; one that took back an old secret has no excuse.
            disk.suspect = self._secret in self._used and order is Order.REKEY
            self._used.add(self._secret)

    def _interrupted(self, order: Order) -> None:
        self._finish("is interrupted")
        if order is not Order.REUSE:
            self._world.after(self._world.rng.uniform(0.1, 2.0), partial(self._begin_again, order))

    def _begin_again(self, order: Order) -> None:
        rng = self._world.rng
        self.begin(order, (rng.integer(0, 65535), rng.integer(0, 65535), rng.integer(0, 65535)))

    def _finish(self, how: str) -> None:
        self._world.trace.tell(self._end, f"operator {how}", count=f"operator {how}")
        self._world.ends[self._end].in_maintenance = False
        self._world.after(self._world.rng.uniform(0.01, 0.3), partial(self._world.start, self._end))
