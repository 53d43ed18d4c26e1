"""Rounds of faults under a mixed load on real processes: ``python -m tests.e2e.rounds ROUNDS SEED``.

Five sites; three clients of two owners in this process and more in processes of their own, which are killed as well.
Each round lets one to three faults happen (``rounds_faults``) while the clients work. At the end everything runs again,
every name is read by a fresh client, and this must hold:

* every name can be read, and the history of each, those reads included, is linearizable: so every acknowledged object
  reads back, and nothing that was replaced comes back;
* alarms, verify and audit name only sites whose shares were tampered with, of those objects;
* no process is left.

The same seed repeats choices and contents; the operating system's scheduling is not repeated.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shosoin.adapters.owner import load_owner_config, open_vault
from shosoin.base import ShosoinError, SimulationRng
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario
from shosoin.testing.linearizability import find_violations
from tests.e2e.rounds_faults import Faults
from tests.e2e.rounds_load import Client, Journal, Sink, put_in_a_process

__all__ = ["Summary", "run"]

CLIENTS = (("a", "owner-1"), ("b", "owner-1"), ("c", "owner-2"))
NAMES = 4
ROUNDS_PER_ERA = 10
"""Then the clients turn to new names: histories stay short, and old names must keep what they hold."""
FAULTS_MAX = 3
QUIET_S = 30.0
STUCK_S = 120.0
"""An operation that takes longer once no more faults happen will never end."""


@dataclass
class Summary:
    """What came of a run; ``ok`` if everything held."""

    seed: int
    rounds: int = 0
    seconds: float = 0.0
    operations: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    alarms: int = 0
    names_read: int = 0
    unreadable: list[str] = field(default_factory=list)
    not_linearizable: list[str] = field(default_factory=list)
    strangers_accused: list[str] = field(default_factory=list)
    processes_left: list[int] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    """Clients that ended with something that is no kind of error."""

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return not (
            self.unreadable or self.not_linearizable or self.strangers_accused or self.processes_left or self.crashed
        )


@dataclass
class _Run:
    testbed: Testbed
    rng: SimulationRng
    journal: Journal
    faults: Faults
    directory: Path
    tell: Callable[[str], None]
    era: int = 0

    def names(self) -> list[str]:
        """Return the names of this era."""
        return [f"era{self.era}/{number}" for number in range(NAMES)]

    async def client(self, stack: AsyncExitStack, label: str, owner: str) -> Client:
        """Open a client."""
        config = load_owner_config(self.testbed.layout.owner_config(owner))
        shutil.rmtree(config.state / "index", ignore_errors=True)  # a client that remembers nothing asks the sites
        vault = await stack.enter_async_context(open_vault(config, sink=Sink(self.journal, owner)))
        rng = SimulationRng(self.rng.integer(0, 1 << 30))
        return Client(label, owner, vault, self.journal, rng, self.names)

    async def rounds(self, count: int) -> list[str]:
        """Run rounds under load; return what clients died of."""
        for first in range(0, count, ROUNDS_PER_ERA):
            self.era = first // ROUNDS_PER_ERA
            async with AsyncExitStack() as stack:
                clients = [await self.client(stack, label, owner) for label, owner in CLIENTS]
                crashed = await self._era(clients, range(first, min(first + ROUNDS_PER_ERA, count)))
            if crashed:
                return crashed
        return []

    async def _era(self, clients: list[Client], rounds: range) -> list[str]:
        workers = [asyncio.create_task(client.run()) for client in clients]
        try:
            for number in rounds:
                await self._round(number, clients)
        finally:
            for client in clients:
                client.stop = True
            _, stuck = await asyncio.wait(workers, timeout=STUCK_S)
            where = {task: _where(task) for task in stuck}
            for task in stuck:
                task.cancel()
            ended = await asyncio.gather(*workers, return_exceptions=True)
        return [
            f"client {client.label}: {end!r} {where.get(task, '')}"
            for client, task, end in zip(clients, workers, ended, strict=True)
            if end is not None
        ]

    async def _round(self, number: int, clients: list[Client]) -> None:
        started = time.monotonic()
        client = self.rng.choice(clients)
        putting = asyncio.create_task(
            put_in_a_process(
                client,
                self.testbed.layout.root,
                self.rng.choice(self.names()),
                self.directory,
                kill_after_s=self.rng.choice([0.5, 1.5, 3.0, 6.0, 30.0]),
            )
        )
        happened = []
        for _ in range(self.rng.integer(1, FAULTS_MAX)):
            await asyncio.sleep(self.rng.uniform(0.0, 0.5))
            happened.append(await self.faults.one())
        await putting
        self.tell(f"round {number + 1}: {', '.join(happened)}; {time.monotonic() - started:.1f} s")

    async def read_everything(self) -> list[str]:
        """Start whatever does not run, read every name with fresh clients; return what cannot be read."""
        await self.testbed.start(*self.faults.sites)
        unreadable = []
        async with AsyncExitStack() as stack:
            readers = {owner: await self.client(stack, "reader", owner) for owner in ("owner-1", "owner-2")}
            for full in sorted({operation.name for operation in self.journal.operations}):
                owner, _, name = full.partition(":")
                why = await _until_read(readers[owner], name)
                if why:
                    self.tell(f"{full} cannot be read: {why}")
                    unreadable.append(f"{full}: {why}")
                for deed in ("verify", "audit"):
                    await readers[owner].step(deed, name)
        return unreadable


def _where(task: asyncio.Task[None]) -> str:
    """Return where a task waits."""
    said = io.StringIO()
    task.print_stack(file=said)
    coroutine: Any = task.get_coro()
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is not None:
            said.write(f"{frame.f_code.co_qualname} line {frame.f_lineno}\n")
        coroutine = getattr(coroutine, "cr_await", None)
    return said.getvalue()


async def _until_read(reader: Client, name: str) -> str:
    """Read a name, again while it is merely unavailable; return why it cannot be read, or nothing."""
    deadline = time.monotonic() + QUIET_S
    while True:
        try:
            await reader.get(name)
        except ShosoinError as error:
            if time.monotonic() > deadline:
                return f"{error.code} {error.message}"
            await asyncio.sleep(0.3)
        else:
            return ""


async def run(rounds: int, seed: int, root: Path, tell: Callable[[str], None] = lambda _: None) -> Summary:
    """Run on a new testbed in ``root`` and end every process of it."""
    rng, journal, summary = SimulationRng(seed), Journal(), Summary(seed, rounds)
    started = time.monotonic()
    testbed = await Testbed.up(load_scenario("five-sites"), root)
    faults = Faults(testbed, rng, journal)
    this = _Run(testbed, rng, journal, faults, root.parent, tell)
    try:
        summary.crashed = await this.rounds(rounds)
        summary.unreadable = await this.read_everything()
    finally:
        testbed.down()
    summary.processes_left = _left(root)
    summary.not_linearizable = [violation.story() for violation in find_violations(journal.operations)]
    summary.strangers_accused = faults.strangers()
    summary.seconds = round(time.monotonic() - started, 1)
    _count(summary, journal, faults)
    return summary


def _count(summary: Summary, journal: Journal, faults: Faults) -> None:
    summary.operations = len(journal.operations)
    summary.outcomes = dict(sorted(journal.outcomes.items()))
    summary.errors = dict(sorted(journal.errors.items()))
    summary.faults = dict(sorted(faults.done.items()))
    summary.alarms = len(journal.alarms) + len(journal.reported)
    summary.names_read = len({operation.name for operation in journal.operations})


def _left(root: Path) -> list[int]:
    """Return the processes that still work on a testbed."""
    left = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if any(str(root) in argument for argument in command):
            left.append(process.pid)
    return left


def _printable(summary: Summary) -> dict[str, Any]:
    return {**{name: getattr(summary, name) for name in summary.__dataclass_fields__}, "ok": summary.ok}


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def main(arguments: list[str]) -> int:
    """Run and print the summary; exit 1 if something did not hold."""
    rounds, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else time.time_ns() % (1 << 30)
    with tempfile.TemporaryDirectory(prefix="shosoin-rounds-") as directory:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the testbed ends with us
        summary = asyncio.run(run(rounds, seed, Path(directory) / "bed", _say))
    sys.stdout.write(json.dumps(_printable(summary), indent=1) + "\n")
    return 0 if summary.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
