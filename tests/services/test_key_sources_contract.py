"""What every key source keeps, whatever stands behind it: equal bits at both ends, none twice, and it comes back."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest

from shosoin.base import PeerFault, Rejected, Unavailable
from shosoin.base.ports import Event
from shosoin.services.kme import KmeProcess
from shosoin.services.peer_channel import Channel, ChannelKind
from tests.services.test_kme_processes import Ledger
from tests.support.key_sources import RIGS
from tests.support.kme import KmePair, ServerProcess, until, until_stock

DIRECTIONS = (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1"))
COORDINATED = [kind for kind in RIGS if kind != "simulated"]
STOCK_BITS = 1 << 21


@pytest.fixture(params=list(RIGS))
async def rig(request, tmp_path):
    root = tmp_path / "rig"
    root.mkdir()
    rig = RIGS[request.param](root)
    await rig.start()
    yield rig
    await rig.stop()


coordinated = pytest.mark.parametrize("rig", COORDINATED, indirect=True)


class Watched:
    """Two KMEs in this process, clients of both, and every event."""

    def __init__(self, processes: dict[str, KmeProcess], clients: dict[str, Any]) -> None:
        self.processes, self.clients = processes, clients
        self.events: dict[str, list[Event]] = {}
        self.ledger = Ledger()
        for name, process in processes.items():
            self.events[name] = []
            self._listen(process._events, self.events[name])

    @staticmethod
    def _listen(sink: Any, seen: list[Event]) -> None:
        emit = sink.emit

        def heard(event: Event) -> None:
            seen.append(event)
            emit(event)

        sink.emit = heard

    def names(self, kme: str) -> set[str]:
        return {event.name for event in self.events[kme]}

    def codes(self) -> set[str]:
        return {event.fields.get("code", event.name) for seen in self.events.values() for event in seen}

    def taken(self, kme: str, direction: str = "outgoing") -> int:
        pair = next(iter(self.processes[kme].drivers.values())).pair
        return getattr(pair, direction).tally.taken_granules

    async def works(self, *, keys: int = 8) -> None:
        """Draw and fetch in both directions."""
        for master, slave in DIRECTIONS:  # both first: what is fetched must come from a KME whose pair is open
            await until_stock(self.clients[master], slave, 4 * keys)
        for master, slave in DIRECTIONS:
            drawn = await self._draw(master, slave, keys)
            ids = [key.key_id for key in drawn]
            self.ledger.draw(master, slave, drawn)
            self.ledger.fetch(await self.clients[slave].dec_keys(master, ids))

    async def _draw(self, master, slave, keys):
        while True:
            with suppress(Unavailable):
                return await self.clients[master].enc_keys(slave, number=keys, size_bits=1024)
            await asyncio.sleep(0.02)

    async def drain(self) -> None:
        """Draw and fetch in both directions what there is now; the sources make more meanwhile."""
        for master, slave in DIRECTIONS:
            left = (await self.clients[master].status(slave)).stored_key_count // 4
            while left > 0:
                drawn = await self._draw_some(master, slave, min(64, left))
                self.ledger.draw(master, slave, drawn)
                if drawn:
                    self.ledger.fetch(await self.clients[slave].dec_keys(master, [key.key_id for key in drawn]))
                left -= 64

    async def _draw_some(self, master, slave, keys):
        try:
            return await self.clients[master].enc_keys(slave, number=keys, size_bits=1024)
        except Unavailable:
            return []


def pair_of(tmp_path, rig):
    return KmePair(tmp_path, stock_bits=STOCK_BITS, source=rig.link, limits={"lease_bytes": 16384})


@asynccontextmanager
async def watched(tmp_path, rig):
    pair = pair_of(tmp_path, rig)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running())
        clients = {name: await stack.enter_async_context(pair.client(name)) for name in ("sae-a1", "sae-b1")}
        yield Watched(processes, clients)


async def test_both_ends_get_equal_bits_and_none_twice(tmp_path, rig):
    async with watched(tmp_path, rig) as kmes:
        for _ in range(3):
            await kmes.works()
        await kmes.drain()
        await kmes.works()
        assert len(kmes.ledger.granules) > 500
        assert not {event.name for seen in kmes.events.values() for event in seen if event.severity == "alarm"}


async def test_status_and_containers_say_what_was_declared(tmp_path, rig):
    kind, simulated, epsilon = rig.facts
    async with watched(tmp_path, rig) as kmes:
        await kmes.works()
        for master, slave in DIRECTIONS:
            extension = (await kmes.clients[master].status(slave)).extension
            assert extension["shosoin_source"] == kind
            assert extension["shosoin_simulated"] is simulated
            assert extension["shosoin_epsilon"] == epsilon
            (key,) = await kmes._draw(master, slave, 1)
            assert (key.facts.kind, key.facts.simulated, key.facts.epsilon) == (kind, simulated, epsilon)
            (key,) = await kmes.clients[slave].dec_keys(master, [key.key_id])
            assert (key.facts.kind, key.facts.simulated, key.facts.epsilon) == (kind, simulated, epsilon)
        state = kmes.processes["kme-a"].link_states()["kme-b"]
        assert (state["kind"], state["simulated"]) == (kind, simulated)
        assert state["source"] in {"working", "full", "dry"}


@coordinated
async def test_a_source_that_restarts_at_either_end_comes_back(tmp_path, rig):
    async with watched(tmp_path, rig) as kmes:
        await kmes.works()
        for site in ("kme-a", "kme-b"):
            await rig.restart(site)
            await kmes.drain()
            await kmes.works(keys=32)
        await kmes.drain()


@coordinated
async def test_bits_that_differ_at_one_end_never_reach_anybody(tmp_path, rig):
    rig.differ()
    async with watched(tmp_path, rig) as kmes:
        await until(lambda: "keys.block_mismatch" in kmes.names("kme-a") | kmes.names("kme-b"))
        for master, slave in DIRECTIONS:
            assert (await kmes.clients[master].status(slave)).stored_key_count == 0
        rig.heal()
        if rig.kind == "replay":
            return  # the file was read when the KME started, its header is the same
        await kmes.works()


@coordinated
async def test_a_source_that_stalls_is_waited_for_and_left_alone(tmp_path, rig):
    """At one end, which transmits in one direction and receives in the other."""
    async with watched(tmp_path, rig) as kmes:
        await kmes.works()
        rig.stall("kme-b")
        await kmes.drain()
        before = len(getattr(rig, "vendor", rig).calls) if hasattr(rig, "vendor") else 0
        await asyncio.sleep(1.5)
        await kmes.drain()
        if hasattr(rig, "vendor"):
            assert len(rig.vendor.calls) - before < 60  # a pause between any two attempts
        rig.heal()
        await kmes.works(keys=32)
        await kmes.drain()


@coordinated
async def test_what_only_one_end_has_is_burned(tmp_path, rig):
    async with watched(tmp_path, rig) as kmes:
        await kmes.works()
        rig.withhold()
        await kmes.drain()
        await asyncio.sleep(1.0)
        await kmes.drain()
        rig.heal()
        await kmes.works(keys=32)
        await kmes.drain()


@coordinated
@pytest.mark.parametrize("claimed", [0, 10**9])
async def test_a_source_that_lies_about_its_stock_does_no_harm(tmp_path, rig, claimed):
    rig.lie_about_stock(claimed)
    if claimed and hasattr(rig, "vendor") and rig.kind == "etsi014":
        rig.vendor.stock = dict.fromkeys(rig.vendor.stock, 700)
    async with watched(tmp_path, rig) as kmes:
        if claimed or rig.kind != "etsi004":
            await kmes.works()
            await kmes.drain()
        rig.heal()
        if rig.kind == "etsi014":
            rig.vendor.stock = dict.fromkeys(rig.vendor.stock, 100_000)
        await kmes.works()


@coordinated
async def test_bits_that_come_again_are_refused_with_an_alarm(tmp_path, rig):
    rig.repeat()
    async with watched(tmp_path, rig) as kmes:
        await until(lambda: "source.repeated_bits" in kmes.names("kme-a"))
        await until(lambda: "source.repeated_bits" in kmes.names("kme-b"))
        assert kmes.taken("kme-a") == kmes.taken("kme-b") == 0
        rig.heal()
        if rig.kind != "replay":
            await kmes.works()


def tampered(kmes, change):
    """Let everything that kme-a's source asks kme-b's go through ``change(ask, question)``."""
    requests = kmes.processes["kme-a"].links.requests
    ask = requests.ask

    async def asked(peer, subject, body, timeout_s):
        if subject != "source" or b"tickets" not in body:
            return await ask(peer, subject, body, timeout_s)
        return await change(lambda question: ask(peer, subject, question, timeout_s), body)

    requests.ask = asked


@coordinated
async def test_a_block_that_is_offered_twice_is_taken_once(tmp_path, rig):
    twice: list[Any] = []

    async def double(ask, question):
        answer = await ask(question)
        try:
            twice.append(await ask(question))
        except (PeerFault, Unavailable) as err:
            twice.append(err.code)
        return answer

    async with watched(tmp_path, rig) as kmes:
        tampered(kmes, double)
        await until(lambda: len(twice) >= 2)
        assert set(twice) <= {"peer.refused.source.used_before", "peer.refused.source.pausing"}
        assert "source.used_before" in kmes.names("kme-b")
        await kmes.works()
        await kmes.drain()


@coordinated
async def test_blocks_whose_offer_or_answer_is_lost_are_burned(tmp_path, rig):
    lost: list[int] = []

    async def lose(ask, question):
        if len(lost) < 4:
            if len(lost) % 2:
                await ask(question)
            lost.append(1)
            raise Unavailable("lost", code="test.lost")
        return await ask(question)

    async with watched(tmp_path, rig) as kmes:
        tampered(kmes, lose)
        await until(lambda: len(lost) == 4)
        await kmes.works()
        await kmes.drain()


@coordinated
async def test_blocks_out_of_order_are_taken_or_burned_and_never_mixed_up(tmp_path, rig):
    kept: list[bytes] = []
    seen: list[int] = []

    async def reorder(ask, question):
        """The first and the third block are begun at once and offered only after the next ones."""
        seen.append(1)
        if len(seen) in {1, 3}:
            kept.append(question)
            return b'{"note":""}'
        answer = await ask(question)
        while kept:
            with suppress(PeerFault, Unavailable):
                await ask(kept.pop())
        return answer

    async with watched(tmp_path, rig) as kmes:
        outgoing = next(iter(kmes.processes["kme-a"].drivers.values())).pair.outgoing
        await until(lambda: outgoing.verification_entries >= 20)  # enough for several blocks in flight
        tampered(kmes, reorder)
        await until(lambda: len(seen) > 4)
        await kmes.works()
        await kmes.drain()


class _Frames:
    """What becomes of frames on the simulated quantum channel, once it is switched on: the first four only."""

    def __init__(self, how: str) -> None:
        self.how, self.on, self.done = how, False, 0
        self.waiting: list[bytes] = []

    async def next(self, receive: Any) -> bytes:
        if self.waiting:
            return self.waiting.pop()
        frame: bytes = await receive()
        if not self.on or self.done >= 4:
            return frame
        self.done += 1
        match self.how:
            case "flip":
                return frame[:-1] + bytes([frame[-1] ^ 1])
            case "double":
                self.waiting.append(frame)
            case "swap":
                self.waiting.append(frame)
                frame = await receive()
            case "lose":
                return await receive()
            case "stale":  # bits of another block under this one's number
                return frame[:8] + frame[8:][::-1]
        return frame


@pytest.mark.parametrize("how", ["flip", "double", "swap", "lose", "stale"])
async def test_a_simulated_channel_that_spoils_frames_costs_blocks_and_nothing_else(tmp_path, monkeypatch, how):
    receive, frames = Channel.receive, _Frames(how)

    async def spoilt(channel: Channel) -> bytes:
        if (channel.kind, channel.peer) != (ChannelKind.SIMULATED_QUANTUM, "kme-a"):
            return await receive(channel)
        return await frames.next(lambda: receive(channel))

    monkeypatch.setattr(Channel, "receive", spoilt)
    monkeypatch.setattr("shosoin.keys.receiver._WAIT_S", 1.0)  # for bits that never come
    async with watched(tmp_path, RIGS["simulated"](tmp_path)) as kmes:
        outgoing = next(iter(kmes.processes["kme-a"].drivers.values())).pair.outgoing
        await until(lambda: outgoing.verification_entries >= 16)
        frames.on = True
        await kmes.drain()
        await until(lambda: frames.done >= 2)
        await kmes.drain()
        await kmes.works()
        assert ("keys.block_mismatch" in kmes.names("kme-a")) is (how in {"flip", "stale"})


@coordinated
async def test_ends_that_declare_different_origins_share_nothing(tmp_path, rig):
    pair = pair_of(tmp_path, rig)
    if rig.kind == "replay":
        pytest.skip("what a recording says is in its header, and both ends have the same")
    path = pair.config("kme-b")
    path.write_text(path.read_text().replace("min_block_bits", "simulated = true\nmin_block_bits"))
    async with pair.running() as processes:
        kmes = Watched(processes, {})
        await until(lambda: all("source.origins_differ" in kmes.names(name) for name in processes))
        assert kmes.taken("kme-a") == kmes.taken("kme-b") == 0


@pytest.mark.processes
async def test_kmes_that_are_killed_use_nothing_twice(tmp_path, rig):
    pair = pair_of(tmp_path, rig)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
        await asyncio.gather(*(server.start() for server in servers.values()))
        clients = {name: await stack.enter_async_context(pair.client(name)) for name in ("sae-a1", "sae-b1")}
        kmes = Watched({}, clients)
        await kmes.works()
        for server in servers.values():
            await server.kill()
            await server.start()
            await kmes.works()
        await kmes.drain()
        for name in servers:
            log = (pair.config(name).parent / "log").read_text()
            assert not {"source.repeated_bits", "source.defect", "kme.defect"} & _events(log)


def _events(log: str) -> set[str]:
    return {json.loads(line)["event"] for line in log.splitlines() if line.startswith("{")}


async def test_what_was_fetched_cannot_be_fetched_again(tmp_path, rig):
    async with watched(tmp_path, rig) as kmes:
        await kmes.works()
        for key_id in kmes.ledger.fetched:
            for master, slave in DIRECTIONS:
                with pytest.raises(Rejected):
                    await kmes.clients[slave].dec_keys(master, [key_id])
