"""Five real sites, a mixed load, SIGKILL at random moments: nothing is lost, no key bit serves twice.

A failing run names its seed; ``SHOSOIN_SEED=... pytest tests/e2e`` repeats the same targets and pauses (the operating
system's scheduling is not repeated). ``SHOSOIN_KILLS=1000`` kills as often; ``make rounds`` does more than killing.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shosoin.adapters import owner as owner_adapter
from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.owner import load_owner_config, open_vault
from shosoin.base import KeyMaterial, SaeId, ShosoinError, SimulationRng
from shosoin.base.ports import DeliveredKey
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario
from shosoin.vault import Vault
from shosoin.vault.putting import BytesSource

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = int(os.environ.get("SHOSOIN_KILLS", "30"))
CLIENT_KILLS = 12
GRANULE_BYTES = 32
QUIET_S = 20.0


class RecordingKmeClient(KmeClient):
    """The real client; remembers every 32-byte granule of key it was ever given."""

    granules: ClassVar[Counter[bytes]] = Counter()

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        keys = await super().enc_keys(slave, number=number, size_bits=size_bits)
        copies = []
        for key in keys:
            content = key.material.take()
            whole = len(content) - len(content) % GRANULE_BYTES
            self.granules.update(content[at : at + GRANULE_BYTES] for at in range(0, whole, GRANULE_BYTES))
            copies.append(DeliveredKey(key.key_id, KeyMaterial(content), key.facts))
        return copies


@pytest.fixture
async def testbed(tmp_path: Path) -> AsyncIterator[Testbed]:
    """Five sites, ended by pid whatever happens."""
    bed = await Testbed.up(load_scenario("five-sites"), tmp_path / "bed")
    try:
        yield bed
    finally:
        bed.down()


def content_of(rng: SimulationRng) -> bytes:
    """Content that tells its versions apart, small mostly, sometimes of several segments."""
    size = rng.choice([0, 1, 100, 5_000, 40_000, 40_000, 2_500_000])
    return rng.pseudo_bytes(size)


class Load:
    """Writers and readers that remember what was acknowledged."""

    def __init__(self, vault: Vault, rng: SimulationRng) -> None:
        self.vault = vault
        self.rng = rng
        self.acknowledged: dict[str, bytes | None] = {}
        """Last acknowledged content per name; ``None`` after an acknowledged removal."""
        self.possible: dict[str, set[bytes | None]] = {}
        """What a name may hold because an operation on it was not acknowledged since."""
        self.outcomes: Counter[str] = Counter()
        self.stop = False

    async def run(self, worker: int) -> None:
        while not self.stop:
            name = f"w{worker}/{self.rng.integer(0, 3)}"
            try:
                await self.step(name)
            except ShosoinError as error:
                self.outcomes[type(error).__name__] += 1
                await asyncio.sleep(0)

    async def step(self, name: str) -> None:
        kind = self.rng.choice(["put", "put", "get", "get", "rm"])
        if kind == "get":
            await self.check(name)
        elif kind == "put":
            content = content_of(self.rng)
            class_ = "qkd" if len(content) > 100_000 else self.rng.choice(["its", "qkd"])
            self.possible.setdefault(name, set()).add(content)
            await self.vault.put(BytesSource(content), name, class_=class_)
            self.settle(name, content)
        elif self.acknowledged.get(name) is not None:
            self.possible.setdefault(name, set()).add(None)
            await self.vault.rm(name)
            self.settle(name, None)
        self.outcomes[kind] += 1

    def settle(self, name: str, content: bytes | None) -> None:
        self.acknowledged[name] = content
        self.possible[name] = set()

    async def check(self, name: str) -> None:
        """Read a name; what comes back must be its last acknowledged content or one that was never acknowledged."""
        allowed = self.possible.get(name, set()) | {self.acknowledged.get(name)}
        found, proven = await read(self.vault, name)
        if not proven:
            return  # part of the index could not be read, and the answer said that it may be old
        assert found in allowed, f"{name} holds {None if found is None else len(found)} bytes nobody stored last"


class Target:
    """Collects a get in memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, data: Any) -> None:
        self.content += data


async def read(vault: Vault, name: str) -> tuple[bytes | None, bool]:
    """Return an object's content, ``None`` if there is none of that name, and whether that is proven to be current."""
    target = Target()
    try:
        receipt = await vault.get(name, target)
    except ShosoinError as error:
        if error.code == "vault.not_found":
            return None, True
        raise
    return bytes(target.content), receipt.freshness == "proven"


async def eventually(vault: Vault, name: str) -> bytes | None:
    """Read once everything runs again: retry what is merely unavailable, for a bounded time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + QUIET_S
    while True:
        try:
            content, proven = await read(vault, name)
            if proven:
                return content
            assert loop.time() < deadline, f"{name} cannot be proven to be current although everything runs"
        except ShosoinError:
            if loop.time() > deadline:
                raise
        await asyncio.sleep(0.2)


def seed() -> int:
    return int(os.environ.get("SHOSOIN_SEED", int.from_bytes(os.urandom(4), "little")))


async def test_nothing_is_lost_and_no_bit_serves_twice(
    testbed: Testbed, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    chosen = seed()
    record_property("seed", chosen)
    print(f"SHOSOIN_SEED={chosen}")  # noqa: T201  # shown when the test fails
    rng = SimulationRng(chosen)
    RecordingKmeClient.granules = Counter()
    monkeypatch.setattr(owner_adapter, "KmeClient", RecordingKmeClient)
    config = load_owner_config(testbed.layout.root / "owners" / "owner-1" / "owner.toml")
    targets = [f"{site.name}/{role}" for site in testbed.layout.scenario.sites for role in ("kme", "node")]
    async with open_vault(config) as vault:
        load = Load(vault, rng)
        workers = [asyncio.create_task(load.run(worker)) for worker in range(3)]
        try:
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(0.0, 0.4))
                target = rng.choice(targets)
                testbed.kill(target)
                await asyncio.sleep(rng.uniform(0.0, 0.2))
                await testbed.start(target)
                for worker in workers:
                    if worker.done():
                        worker.result()
        finally:
            load.stop = True
            results = await asyncio.gather(*workers, return_exceptions=True)
        assert [result for result in results if result is not None] == []
        for name in sorted(set(load.acknowledged) | set(load.possible)):
            allowed = load.possible.get(name, set()) | {load.acknowledged.get(name)}
            assert await eventually(vault, name) in allowed, name
    assert load.outcomes["put"] > 20
    assert load.outcomes["get"] > 20
    twice = [granule for granule, count in RecordingKmeClient.granules.items() if count > 1]
    assert not twice, f"{len(twice)} granules of key were delivered twice"
    assert len(RecordingKmeClient.granules) > 1000


async def run_cli(arguments: Sequence[str], *, kill_after_s: float | None) -> int | None:
    """Run ``shosoin``; with a time, kill it there with SIGKILL unless it has ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "shosoin.cli",
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(process.wait(), kill_after_s)
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        return None


async def test_a_client_killed_in_the_middle_leaves_the_old_or_the_new_version(
    testbed: Testbed, tmp_path: Path
) -> None:
    rng = SimulationRng(seed())
    config = load_owner_config(testbed.layout.root / "owners" / "owner-1" / "owner.toml")
    current: set[bytes | None] = {None}
    async with open_vault(config) as vault:
        for _ in range(CLIENT_KILLS):
            content = rng.pseudo_bytes(rng.integer(1, 60_000))
            path = tmp_path / "file"
            path.write_bytes(content)
            class_ = rng.choice(["its", "qkd"])
            code = await run_cli(
                ["put", str(path), "name", "--class", class_, "--testbed", str(testbed.layout.root)],
                kill_after_s=rng.uniform(0.4, 2.0),
            )
            current = {content} if code == 0 else current | {content}
            assert await eventually(vault, "name") in current
