"""Seals that take longer than their owner waits: asked for again, they are one seal with one answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.node_link import NodeSession
from shosoin.adapters.runtime import AsyncioRuntime
from shosoin.adapters.share_store import ShareStore
from shosoin.adapters.share_store_files import Disk
from shosoin.base import OwnerId, SaeId, SiteId
from shosoin.services.node import listening
from shosoin.services.node_edge import NodeEdge
from shosoin.testing.memory_keys import MemoryKeyNetwork
from shosoin.vault.envelope import canonical_json, cut, join, parse_json
from shosoin.vault.signing import SiteSigner
from shosoin.vault.site import OwnerRecord, SiteNode
from tests.adapters.store_support import ManualClock, content, open_store
from tests.services.test_node import Recorder, Served, config_in, directory  # noqa: F401  # a fixture

BIG = 300_000
OWNER = OwnerId("owner-1")
SHARE = {"object": "1" * 32, "version": "2" * 32, "epoch": 0}
SEAL = {"op": "seal", **SHARE, "size": BIG, "x": 1, "k": 3, "masks": 48}
WRITE = {"op": "write", **SHARE, "offset": 0, "size": BIG}


class SlowDisk(Disk):
    """A disk whose flushes of files end when the test says so."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.failure: OSError | None = None

    def sync(self, descriptor):
        self.reached.set()
        assert self.gate.wait(30)
        if self.failure is not None:
            raise self.failure
        super().sync(descriptor)

    @contextmanager
    def stuck(self) -> Iterator[None]:
        self.reached.clear()
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    async def is_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 30)


@dataclass
class Site:
    """A site's real logic over a real store on a disk that can be slow."""

    node: SiteNode
    store: ShareStore
    disk: SlowDisk

    async def ask(self, *operations: dict[str, Any], payload: bytes = b"") -> list[dict[str, Any]]:
        answer = await self.node.exchange(OWNER, envelope(list(operations), payload))
        return results_of(b"".join(answer))

    async def is_empty(self) -> None:
        """Nothing is staged, in memory or on disk."""
        await self.store.transact(lambda _: None)
        assert await asyncio.to_thread(self.store._eraser.wait_idle, 30)
        assert list(self.store._directory.staging.iterdir()) == []
        assert len(self.store._uploads._staging) == 0

    async def stage(self) -> None:
        assert await self.ask(WRITE, payload=content(BIG)) == [{}]


def envelope(operations: list[dict[str, Any]], payload: bytes = b"") -> bytes:
    header = {"v": 1, "class": "local", "from": OWNER, "to": "node-a", "ops": operations, "auth": {"answer": 1000}}
    return b"".join(join(canonical_json(header), [payload], b""))


def results_of(raw: bytes) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = parse_json(cut(raw).header)["results"]
    return results


@asynccontextmanager
async def site_in(path: Path) -> AsyncIterator[Site]:
    disk, clock, runtime = SlowDisk(), ManualClock(), AsyncioRuntime()
    store = open_store(path, clock, disk=disk)
    owner = OwnerRecord(OWNER, SiteId("koganei"), bytes(1952), 10_000_000)
    node = SiteNode(
        SiteId("koganei"),
        SaeId("node-a"),
        {OWNER: owner},
        store,
        MemoryKeyNetwork().kme(SaeId("node-a")),
        entropy=SystemEntropy(),
        clock=clock,
        sink=Recorder(),
        runtime=runtime,
        signer=SiteSigner(bytes(32)),
        site_keys={},
    )
    try:
        yield Site(node, store, disk)
    finally:
        disk.gate.set()
        runtime.close()
        await store.close()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_in(tmp_path / "store") as made:
        yield made


async def until_waiting(task: asyncio.Task[Any]) -> None:
    """Let a task run until it waits for something that only the test can bring about."""
    for _ in range(50):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)  # the writer's thread answers in the meantime
    assert not task.done()


async def test_a_seal_repeated_while_the_first_runs_waits_and_gets_the_same_answer(site):
    await site.stage()
    with site.disk.stuck():
        first = asyncio.create_task(site.ask(SEAL))
        await site.disk.is_reached()
        second = asyncio.create_task(site.ask(SEAL))
        await until_waiting(second)
        assert not first.done()
    answers = [await first, await second]
    assert answers[0] == answers[1]
    assert list(answers[0][0]) == ["contribution"]
    assert await site.ask(SEAL) == answers[0]
    listed = await site.ask({"op": "inventory", "limit": 10})
    assert len(listed[0]["shares"]) == 1


async def test_the_seal_of_a_client_that_gave_up_goes_on_and_is_joined(site):
    await site.stage()
    with site.disk.stuck():
        given_up = asyncio.create_task(site.ask(SEAL))
        await site.disk.is_reached()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        again = asyncio.create_task(site.ask(SEAL))
        await until_waiting(again)
    answer = await again
    assert list(answer[0]) == ["contribution"]
    assert await site.ask(SEAL) == answer


async def test_a_client_that_gave_up_finds_its_seal_done(site):
    await site.stage()
    with site.disk.stuck():
        given_up = asyncio.create_task(site.ask(SEAL))
        await site.disk.is_reached()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    while not (await site.ask({"op": "inventory", "limit": 10}))[0]["shares"]:
        await asyncio.sleep(0)
    answer = await site.ask(SEAL)
    assert list(answer[0]) == ["contribution"]
    assert await site.ask(SEAL) == answer


async def test_the_writes_that_are_repeated_with_a_seal_leave_nothing(site):
    await site.stage()
    with site.disk.stuck():
        first = asyncio.create_task(site.ask(SEAL))
        await site.disk.is_reached()
        second = asyncio.create_task(site.ask(WRITE, SEAL, payload=content(BIG)))
        await until_waiting(second)
    answer = await first
    assert (await second)[1:] == answer
    assert (await site.ask(WRITE, SEAL, payload=content(BIG)))[1:] == answer
    await site.is_empty()


@pytest.mark.parametrize("change", [{"size": BIG - 16}, {"x": 2}, {"k": 4}, {"masks": 32}])
async def test_another_seal_of_the_same_share_is_no_repetition(site, change):
    await site.stage()
    with site.disk.stuck():
        first = asyncio.create_task(site.ask(SEAL))
        await site.disk.is_reached()
        other = asyncio.create_task(site.ask({**SEAL, **change}))
        await until_waiting(other)
    answer = await first
    assert (await other)[0]["error"]["code"] == "vault.sealed_otherwise"
    assert (await site.ask({**SEAL, **change}))[0]["error"]["code"] == "vault.sealed_otherwise"
    assert await site.ask(SEAL) == answer


async def test_all_who_wait_are_told_when_the_seal_fails_and_the_next_begins_afresh(site):
    await site.stage()
    with site.disk.stuck():
        asked = [asyncio.create_task(site.ask(SEAL))]
        await site.disk.is_reached()
        asked.append(asyncio.create_task(site.ask(SEAL)))
        await until_waiting(asked[1])
        site.disk.failure = OSError(28, "full")
    told = await asyncio.gather(*asked)
    assert [answer[0]["error"]["code"] for answer in told] == ["vault.disk_full"] * 2
    site.disk.failure = None
    assert (await site.ask(SEAL))[0]["error"]["code"] == "vault.stage_incomplete"
    await site.stage()
    assert list((await site.ask(SEAL))[0]) == ["contribution"]


async def test_an_abort_waits_for_the_seal_and_leaves_nothing(site):
    """The share's record would come after the abort, and stay as an orphan."""
    await site.stage()
    with site.disk.stuck():
        sealing = asyncio.create_task(site.ask(SEAL))
        await site.disk.is_reached()
        sealing.cancel()
        aborting = asyncio.create_task(site.ask({"op": "abort", **SHARE}))
        await until_waiting(aborting)
    assert await aborting == [{}]
    assert (await site.ask({"op": "inventory", "limit": 10}))[0]["shares"] == []
    await site.is_empty()


@pytest.mark.parametrize("staged", [False, True])
async def test_what_an_abort_has_overtaken_stages_nothing(site, staged):
    """Requests travel over several connections; a version is never written again once its owner gave it up."""
    if staged:
        await site.stage()
    assert await site.ask({"op": "abort", **SHARE}) == [{}]
    late = await site.ask(WRITE, SEAL, payload=content(BIG))
    assert [answer["error"]["code"] for answer in late] == ["vault.aborted"] * 2
    await site.is_empty()
    other = {"version": "3" * 32}
    results = await site.ask({**WRITE, **other}, {**SEAL, **other}, payload=content(BIG))
    assert list(results[1]) == ["contribution"]


async def test_a_restart_forgets_the_contribution_and_not_the_share(tmp_path):
    async with site_in(tmp_path / "store") as site:
        await site.stage()
        first = await site.ask(SEAL)
    async with site_in(tmp_path / "store") as site:
        again = await site.ask(SEAL)
        assert list(again[0]) == ["contribution"]
        assert again != first
        assert await site.ask(SEAL) == again


async def test_a_connection_that_breaks_in_the_middle_of_a_seal_changes_nothing(directory, site):  # noqa: F811
    config = config_in(directory, directory / "unused")
    edge = NodeEdge(site.node, config.limits, Recorder())
    async with listening(config, edge) as port:
        served = Served(site.node, Recorder(), edge, port, directory)

        async def ask(session: NodeSession, *operations: dict[str, Any], payload: bytes = b"") -> list[dict[str, Any]]:
            body = [envelope(list(operations), payload)]
            raw = await served.link(session).exchange("/v1/exchange", body, response_bytes_max=100_000, timeout_s=60)
            return results_of(raw)

        async with served.session() as session:
            assert await ask(session, WRITE, payload=content(BIG)) == [{}]
        with site.disk.stuck():
            async with served.session() as session:
                sealing = asyncio.create_task(ask(session, SEAL))
                await site.disk.is_reached()
                sealing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sealing
            async with served.session() as session:
                again = asyncio.create_task(ask(session, SEAL))
                while edge.running < 1:
                    await asyncio.sleep(0)
                await until_waiting(again)
                site.disk.gate.set()
                answer = await again
        async with served.session() as session:
            assert await ask(session, SEAL) == answer
    assert list(answer[0]) == ["contribution"]
