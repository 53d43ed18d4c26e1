"""The load of the rounds: clients that put, get, remove, verify and audit the same names, and write down what happened.

Contents are told apart by a tag, which is what the history holds. A write that failed may have been chosen without its
writer knowing, and may yet be finished by another: its fate is unknown, with no end. A read that failed says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shosoin.base import ShosoinError, SimulationRng
from shosoin.base.ports import Event
from shosoin.testing.linearizability import Fate, Kind, Operation
from shosoin.vault import Vault
from shosoin.vault.putting import BytesSource

__all__ = ["Client", "Journal", "tag_of"]

SIZES = (0, 1, 100, 5_000, 40_000, 40_000, 700_000)
LARGE_BYTES = 100_000
"""Larger ones go in class qkd: their pads would drain the links."""
DEEDS = ("put", "put", "put", "get", "get", "get", "rm", "verify", "audit")


def tag_of(content: bytes) -> str:
    """Return what the history holds of a content."""
    return f"{len(content)}:{hashlib.sha256(content).hexdigest()[:12]}"


@dataclass
class Journal:
    """Everything that anybody did, and everything that was alarmed."""

    operations: list[Operation] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)
    """Object IDs that a name had, by owner and name, the newest last."""
    alarms: list[tuple[str, Event]] = field(default_factory=list)
    """With the owner whose client raised it."""
    reported: list[tuple[str, str, str]] = field(default_factory=list)
    """(owner, site, what a verify or an audit said) of every bad share."""
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def note(self, name: str, kind: Kind, value: str | None, called: float, **how: Any) -> None:
        """Write down an operation that returns now."""
        how.setdefault("returned", time.monotonic())
        self.operations.append(Operation(name, kind, value, called=called, **how))


@dataclass
class Sink:
    """Keeps the alarms of one client."""

    journal: Journal
    owner: str

    def emit(self, event: Event) -> None:
        """Take an event."""
        if event.severity == "alarm":
            self.journal.alarms.append((self.owner, event))


class Target:
    """Collects a get in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, data: Any) -> None:
        """Take the next bytes."""
        self.content += data


@dataclass
class Client:
    """One client; ``names`` is called for each operation, because the names change over the rounds."""

    label: str
    owner: str
    vault: Vault
    journal: Journal
    rng: SimulationRng
    names: Callable[[], list[str]]
    stop: bool = False

    async def run(self) -> None:
        """Work until told to stop."""
        while not self.stop:
            await self.step(self.rng.choice(DEEDS), self.rng.choice(self.names()))
            await asyncio.sleep(self.rng.uniform(0.0, 0.05))

    async def step(self, deed: str, name: str) -> None:
        """Do one thing."""
        deeds: dict[str, Callable[[str], Awaitable[None]]] = {
            "put": self.put,
            "get": self.get,
            "rm": self.remove,
            "verify": self.verify,
            "audit": self.audit,
        }
        try:
            await deeds[deed](name)
        except ShosoinError as error:
            self.journal.outcomes[f"{deed} {type(error).__mro__[-4].__name__}"] += 1
            self.journal.errors[f"{deed} {error.code}"] += 1
        else:
            self.journal.outcomes[deed] += 1

    def _called(self, name: str) -> str:
        return f"{self.owner}:{name}"

    async def put(self, name: str) -> None:
        """Store a new content."""
        content = self.rng.pseudo_bytes(self.rng.choice(SIZES))
        class_ = "qkd" if len(content) > LARGE_BYTES else self.rng.choice(["its", "qkd"])
        called, full = time.monotonic(), self._called(name)
        try:
            receipt = await self.vault.put(BytesSource(content), name, class_=class_)
        except BaseException:
            self._unknown(full, Kind.WRITE, tag_of(content), called)
            raise
        self.journal.note(full, Kind.WRITE, tag_of(content), called, client=self.label)
        self.journal.objects.setdefault(full, []).append(receipt.object_id)

    def _unknown(self, full: str, kind: Kind, value: str | None, called: float) -> None:
        self.journal.note(full, kind, value, called, returned=float("inf"), fate=Fate.UNKNOWN, client=self.label)

    async def get(self, name: str) -> None:
        """Read."""
        called, full, target = time.monotonic(), self._called(name), Target()
        try:
            receipt = await self.vault.get(name, target)
        except ShosoinError as error:
            if error.code != "vault.not_found":
                raise
            self.journal.note(full, Kind.READ, None, called, client=self.label)
            return
        proven = receipt.freshness != "unproven"
        self.journal.note(full, Kind.READ, tag_of(bytes(target.content)), called, client=self.label, proven=proven)

    async def remove(self, name: str) -> None:
        """Remove; to find nothing is to read nothing."""
        called, full = time.monotonic(), self._called(name)
        try:
            await self.vault.rm(name)
        except ShosoinError as error:
            if error.code == "vault.not_found":
                self.journal.note(full, Kind.READ, None, called, client=self.label)
                return
            self._unknown(full, Kind.REMOVE, None, called)
            raise
        except BaseException:
            self._unknown(full, Kind.REMOVE, None, called)
            raise
        self.journal.note(full, Kind.REMOVE, None, called, client=self.label)

    async def verify(self, name: str) -> None:
        """Check every share of one object."""
        try:
            report = await self.vault.verify(name)
        except ShosoinError as error:
            if error.code == "vault.not_found":
                return
            raise
        for site, state in report.per_site.items():
            if state in {"damaged", "wrong"}:
                self.journal.reported.append((self._called(name), str(site), f"verify {state}"))

    async def audit(self, name: str) -> None:
        """Ask the sites for digests."""
        try:
            states = await self.vault.audit([name])
        except ShosoinError as error:
            if error.code == "vault.not_found":
                return
            raise
        for site, state in states.get(name, {}).items():
            if state in {"damaged", "wrong"}:
                self.journal.reported.append((self._called(name), str(site), f"audit {state}"))


async def put_in_a_process(client: Client, root: Path, name: str, directory: Path, *, kill_after_s: float) -> None:
    """Put from a process of its own and kill that with SIGKILL, unless it has ended by then."""
    content = client.rng.pseudo_bytes(client.rng.integer(1, 60_000))
    file = directory / f"file-{client.label}"
    file.write_bytes(content)
    called, full = time.monotonic(), f"{client.owner}:{name}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shosoin.cli", "put", str(file), name, "--class", client.rng.choice(["its", "qkd"]),
        "--testbed", str(root), "--as", client.owner, "--json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        out, _ = await asyncio.wait_for(process.communicate(), kill_after_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):  # it may just have ended
            process.kill()
        await process.wait()
        out = b""
    if process.returncode == 0 and out:
        client.journal.note(full, Kind.WRITE, tag_of(content), called, client="process")
        client.journal.outcomes["process put"] += 1
        return
    client.journal.outcomes["process killed" if process.returncode == -9 else "process failed"] += 1
    client.journal.note(
        full, Kind.WRITE, tag_of(content), called, returned=float("inf"), fate=Fate.UNKNOWN, client="process"
    )
