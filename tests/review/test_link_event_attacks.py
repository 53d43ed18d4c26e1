"""A peer KME of an event-level link that lies: it ends its own session, with a kind, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import struct
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.private_files import create_private
from shosoin.base import KeyMaterial, KmeId, PeerFault, SimulationRng, Unavailable
from shosoin.base.ports import Event
from shosoin.link.postprocessing import BlockVoid, KeyReady, Receiver, VoidReason
from shosoin.link.postprocessing.authentication import STRIDE_BYTES, Direction
from shosoin.link.postprocessing.messages import Detected
from shosoin.services.sources import event_pace, event_session, suspension
from shosoin.services.sources import events as event_devices
from shosoin.services.sources.config import EventsSection
from shosoin.services.sources.event_greeting import Greeting, read_greeting
from shosoin.services.sources.event_journals import open_link_journals
from shosoin.services.sources.event_line import EventLine, event_line
from shosoin.services.sources.event_session import BATCH_PULSES, EventSession
from shosoin.services.sources.events import EventDevices
from shosoin.services.sources.suspension import Suspension, lift_suspension, read_suspension
from tests.support.kme import KmePair, until

SECTION = EventsSection(attenuation_db=3.0, authentication_key_file=Path("unused"), pulses_per_s=1e9)
LINE = event_line(SECTION)
SECRET, START_KEY = os.urandom(1024), os.urandom(1 << 14)
EVENTS = """kind = "events"

[link.events]
attenuation_db = 3.0
authentication_key_file = "authentication.key"
"""
_END = b""


@pytest.fixture(autouse=True)
def opened(monkeypatch):
    """Close the journals that a test opens."""
    with contextlib.ExitStack() as closing:

        def opening(*where):
            journals = open_link_journals(*where)
            for journal in journals:
                closing.callback(journal.close)
            return journals

        monkeypatch.setitem(globals(), "journals_in", opening)
        yield


def journals_in(*where):
    raise NotImplementedError


class Wire:
    """One end of a connection in memory."""

    peer = "kme-b"

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()
        self.reads_on = asyncio.Event()
        self.reads_on.set()
        self.is_closed = False

    async def receive(self) -> bytes:
        frame = await self.arrived.get()
        if frame == _END:
            raise PeerFault("the connection ended")
        return frame

    async def send(self, *parts: bytes) -> None:
        await self.reads_on.wait()
        self.sent.put_nowait(b"".join(parts))

    def close(self) -> None:
        self.is_closed = True
        self.arrived.put_nowait(_END)


class HurriedClock:
    """Whoever looks at it finds that more time has passed."""

    def __init__(self, step_s: float = 10.0) -> None:
        self.s, self.step_s = 1000.0, step_s

    def now_s(self) -> float:
        self.s += self.step_s
        return self.s

    def wall_s(self) -> float:
        return 1.8e9 + self.s


def greeting(*, suspended: bool = False) -> bytes:
    return Greeting(LINE.to_json(), suspended).encode()


def light(number: int, count: int = 8, state: int = 0) -> bytes:
    return b"L" + struct.pack(">Q", number) + bytes([state]) * count


def credit(number: int, count: int = 8, *detected: int) -> bytes:
    bits = np.zeros(count, np.uint8)
    bits[list(detected)] = 1
    return b"C" + struct.pack(">QI", number, count) + np.packbits(bits, bitorder="little").tobytes()


class Liar:
    """Holds the key of the link, and says what it likes."""

    def __init__(self, directory: Path, wire: Wire) -> None:
        self.wire = wire
        self.journals = journals_in(directory, SECRET, False, START_KEY)
        self.receiver = Receiver(LINE.parameters, self.journals[1], SystemEntropy())

    async def greet(self) -> None:
        """Greet as devices do, then open the direction in which it receives."""
        self.wire.arrived.put_nowait(greeting())
        await self.open()

    async def open(self) -> None:
        """Open the direction in which it receives."""
        self.receiver.start()
        self.speak()
        while not self.receiver.is_open:
            frame = await self.wire.sent.get()
            if frame[:1] == b"R":
                self.receiver.receive(frame[1:])

    def speak(self) -> None:
        for message in self.receiver.outgoing():
            self.wire.arrived.put_nowait(b"T" + message)

    def announce(self, batch: int, *pulses: int) -> None:
        tests = np.zeros(len(pulses), np.bool_)
        self.receiver._send(Detected(np.array(pulses, np.int64), tests, np.zeros(0, np.uint8)), batch)
        self.speak()


async def nothing(*_: object) -> None:
    return None


@contextlib.contextmanager
def session_of(tmp_path: Path, wire: Wire, *, sent: Any = nothing, received: Any = nothing, is_first: bool = True):
    journals = open_link_journals(tmp_path / "a", SECRET, is_first, START_KEY)
    monitors = (LINE.monitor(), LINE.monitor())
    try:
        yield EventSession(
            wire,  # type: ignore[arg-type]
            LINE,
            journals,
            monitors,
            SystemEntropy(),
            SimulationRng(1),
            sent=sent,
            received=received,
            stock=nothing,
        )
    finally:
        for journal in journals:
            journal.close()


def devices_of(
    tmp_path: Path, taken: list[object], *, clock: Any = None, told: list[Event] | None = None, line: EventLine = LINE
) -> EventDevices:
    async def do(steps: object) -> None:
        taken.append(steps)

    outgoing = SimpleNamespace(can_begin=True, left_granules=lambda: 0)
    incoming = SimpleNamespace(forget_bits=lambda: None)
    pair = SimpleNamespace(
        peer="kme-b", is_connected=True, outgoing=outgoing, incoming=incoming, bits_arrived=nothing, begin_block=nothing
    )
    sink = SimpleNamespace(emit=[].append if told is None else told.append)
    parts = SimpleNamespace(
        driver=SimpleNamespace(pair=pair, progress=asyncio.Event(), do=do),
        entropy=SystemEntropy(),
        clock=clock or SystemClock(),
        events=sink,
        max_stock_bits=1 << 20,
        directory=tmp_path / "link",
        suspension=lambda: Suspension(tmp_path / "link", "kme-b", clock or SystemClock(), sink, simulated=True),
    )
    journals = tmp_path / "a"
    return EventDevices(
        parts,  # type: ignore[arg-type]
        line,
        lambda: open_link_journals(journals, SECRET, True, START_KEY),
        stock_bits=0,
        seed=1,
    )


@pytest.mark.timeout(60)
async def test_a_peer_whose_lie_shows_while_light_is_made_ends_its_session_and_not_the_kme(tmp_path):
    wire = Wire()
    devices, liar = devices_of(tmp_path, []), Liar(tmp_path / "b", wire)
    transmitting = asyncio.create_task(devices.transmit())
    handling = asyncio.create_task(devices.handle(wire))  # type: ignore[arg-type]
    await liar.greet()
    liar.announce(0, 1, BATCH_PULSES + 5)
    liar.announce(1, 3)  # told before, and found out only when there is light enough for the first announcement
    await handling
    await asyncio.sleep(0.3)
    assert not transmitting.done()
    transmitting.cancel()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "frames",
    [
        [light(0)],
        [b"greet", b"spent", light(0)],
        [b"greet", light(0, state=8)],
        [b"greet", light(0, count=BATCH_PULSES + 1)],
        [b"greet", light(0), light(9)],
        [b"greet", light((1 << 64) - 4)],
    ],
    ids=["before the greeting", "without credit", "no state", "too long", "with a gap", "beyond all numbers"],
)
async def test_light_that_no_transmitter_sends_is_the_peers_fault(tmp_path, frames):
    wire = Wire()
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        if frames[0] == b"greet":
            await greeted_as_transmitter(tmp_path, wire)
        if b"spent" in frames:
            session._light_due = 0  # as if four batches waited to be worked off
        for frame in frames:
            if frame[:1] == b"L":
                wire.arrived.put_nowait(frame)
        with pytest.raises(PeerFault, match="light"):
            async with asyncio.timeout(20):
                await running


async def greeted_as_transmitter(tmp_path: Path, wire: Wire) -> None:
    from shosoin.link.postprocessing import Transmitter

    journals = journals_in(tmp_path / "b", SECRET, False, START_KEY)
    transmitter = Transmitter(LINE.parameters, journals[0], SystemEntropy())
    while not transmitter.is_open:
        frame = await wire.sent.get()
        if frame[:1] == b"T":
            transmitter.receive(frame[1:])
    for message in transmitter.outgoing():
        wire.arrived.put_nowait(b"R" + message)


@pytest.mark.timeout(60)
async def test_a_receiver_wants_no_light_without_end_from_a_peer_that_answers_nothing(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "LINE", event_line(replace(SECTION, block_bits=2048)))
    wire, count, allowed, sent = Wire(), 1 << 16, event_session._CREDIT_BATCHES, 0
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        await greeted_as_transmitter(tmp_path, wire)
        while sent < allowed and sent < 60:
            wire.arrived.put_nowait(light(sent * count, count))
            sent += 1
            while session._light_end < sent * count and not running.done():
                await asyncio.sleep(0.001)
            async with session._turn:
                pass
            while not session._outbox.empty():
                await asyncio.sleep(0)
            while not wire.sent.empty():
                allowed += wire.sent.get_nowait()[:1] == b"C"
        assert 8 < sent < 60
        group, recorded = LINE.parameters.block_detections, session._receiver._recorded_count
        assert recorded < 2 * group + 5 * session._receiver._fed_count / sent
        wire.close()
        with pytest.raises(PeerFault):
            await running


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "frame",
    [b"C", b"C" + bytes(12), credit(0)[:-1], credit(0) + b"\0", credit((1 << 64) - 4), credit(0, BATCH_PULSES + 8)],
    ids=["empty", "of nothing", "cut", "longer", "beyond all numbers", "too long"],
)
async def test_credit_that_no_receiver_gives_is_the_peers_fault(tmp_path, frame):
    wire = Wire()
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        wire.arrived.put_nowait(frame)
        with pytest.raises(PeerFault):
            async with asyncio.timeout(20):
                await running


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "given",
    [
        [(0, BATCH_PULSES)] * 2,
        [(BATCH_PULSES, BATCH_PULSES)],
        [(0, BATCH_PULSES), (2 * BATCH_PULSES, BATCH_PULSES)],
        [(0, 8)],
        [(BATCH_PULSES - 8, BATCH_PULSES)],
    ],
    ids=["twice", "before its turn", "for light that was not made", "for a part", "for what lies across"],
)
async def test_credit_comes_once_for_all_light_in_its_order(tmp_path, given):
    """Else a peer pulls light that nobody detects, and the transmitter holds a part for each of it without end."""
    wire = Wire()
    liar = Liar(tmp_path / "b", wire)
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        await liar.open()
        for _ in range(2):
            assert await session.send_light()
        for first, count in given:
            wire.arrived.put_nowait(credit(first, count))
        with pytest.raises(PeerFault, match="credit"):
            async with asyncio.timeout(20):
                await running
        assert session._credit <= event_session._CREDIT_BATCHES - 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("first", [(1 << 61) + 1, 1 << 62])
async def test_a_peer_that_wants_light_beyond_all_numbers_is_at_fault(tmp_path, first):
    wire = Wire()
    liar = Liar(tmp_path / "b", wire)
    liar.receiver._next_pulse = first
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        await liar.open()
        with pytest.raises(PeerFault, match="light"):
            await session.send_light()
        wire.close()
        with pytest.raises(PeerFault):
            await running


@pytest.mark.timeout(60)
async def test_light_of_which_nothing_is_detected_is_held_in_one_part(tmp_path):
    wire = Wire()
    liar = Liar(tmp_path / "b", wire)
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        await liar.open()
        for batch in range(8):
            assert await session.send_light()
            wire.arrived.put_nowait(credit(batch * BATCH_PULSES, BATCH_PULSES))
            while session._uncredited and not running.done():
                await asyncio.sleep(0)
        assert len(session._transmitter._sent) == 1
        assert session._transmitter.held_pulses == 0
        wire.close()
        with pytest.raises(PeerFault):
            await running


@pytest.mark.timeout(60)
async def test_a_peer_that_announces_what_it_said_it_never_detected_ends_its_session(tmp_path):
    wire = Wire()
    liar = Liar(tmp_path / "b", wire)
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        await liar.open()
        assert await session.send_light()
        wire.arrived.put_nowait(credit(0, BATCH_PULSES, 3, 5))
        liar.announce(0, 3, 4)
        with pytest.raises(PeerFault, match="not to be detected"):
            async with asyncio.timeout(20):
                await running


@pytest.mark.timeout(120)
async def test_a_block_that_takes_more_light_than_a_transmitter_holds_comes_to_its_end(tmp_path, monkeypatch):
    far = event_line(replace(SECTION, attenuation_db=20.0, block_bits=2048))
    monkeypatch.setitem(globals(), "LINE", far)
    monkeypatch.setattr(event_session, "_HELD_BATCHES", 5)
    there, back = Wire(), Wire()
    there.sent, back.sent = back.arrived, there.arrived
    sent: asyncio.Queue[Any] = asyncio.Queue()
    received: asyncio.Queue[Any] = asyncio.Queue()
    with (
        session_of(tmp_path / "one", there, sent=sent.put) as here,
        session_of(tmp_path / "other", back, is_first=False, received=received.put) as peer,
    ):
        running = [asyncio.create_task(end.run()) for end in (here, peer)]
        async with asyncio.timeout(100):
            while sent.empty() or received.empty():
                await here.send_light()
                await asyncio.sleep(0.005)
        ours, theirs = sent.get_nowait(), received.get_nowait()
        assert ours == theirs
        assert ours.figures["pulses"] > here._held_pulses_max
        assert here._transmitter.held_pulses < here._held_pulses_max
        for wire in (there, back):
            wire.close()
        await asyncio.gather(*running, return_exceptions=True)


async def test_what_comes_after_the_end_of_a_session_fails_with_a_kind(tmp_path):
    wire = Wire()
    with session_of(tmp_path, wire) as session:
        wire.close()
        with pytest.raises(PeerFault):
            await session.run()
        with pytest.raises(PeerFault):
            await session.store(1, transmitted=True)
        with pytest.raises(PeerFault):
            await session._do(lambda: None)


@pytest.mark.timeout(60)
async def test_a_peer_that_gives_credit_and_reads_nothing_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(event_session, "_OUTBOX_LIGHT_MAX", 2)
    wire = Wire()
    liar = Liar(tmp_path / "b", wire)
    with session_of(tmp_path, wire) as session:
        running = asyncio.create_task(session.run())
        await liar.open()
        wire.reads_on.clear()
        sent = 0
        for batch in range(12):
            sent += await session.send_light()
            if sent > batch:
                wire.arrived.put_nowait(credit(batch * BATCH_PULSES, BATCH_PULSES))
            await asyncio.sleep(0.01)
        assert 1 <= sent <= 5
        wire.close()
        with pytest.raises(PeerFault):
            await running


async def test_the_peers_stock_is_of_its_own_numbers_and_nothing_of_it_counts_on_a_suspended_link(tmp_path):
    taken: list[object] = []
    devices = devices_of(tmp_path, taken)
    with pytest.raises(PeerFault):
        await devices._stock_arrived(5, bytearray(1 << 16))
    await devices._stock_arrived(1 << 62, bytearray(1 << 16))
    assert len(taken) == 1
    await devices._suspension.begin("link.suspended")
    bits = bytearray(b"\x01" * 4096)
    await devices._stock_arrived((1 << 62) + 1, bits)
    assert len(taken) == 1
    assert not any(bits)


@pytest.mark.timeout(60)
async def test_whoever_breaks_every_session_burns_a_bounded_number_of_pads(tmp_path, monkeypatch):
    monkeypatch.setattr(event_pace, "_LOOK_S", 0.0)
    clock = HurriedClock()
    devices, connections = devices_of(tmp_path, [], clock=clock), 0
    while clock.s < 1000.0 + 6 * 3600.0:
        wire = Wire()
        wire.arrived.put_nowait(greeting())
        wire.arrived.put_nowait(_END)
        await devices.handle(wire)  # type: ignore[arg-type]
        connections += 1
    assert devices.condition.startswith("pausing")
    assert devices.figures()["broken_sessions"] == connections
    journals = open_link_journals(tmp_path / "a", SECRET, True, START_KEY)
    mark = int.from_bytes(journals[1].load()[f"auth/mark/{int(Direction.TO_TRANSMITTER)}"], "little")
    for journal in journals:
        journal.close()
    # Twelve pauses from half a second to 1024 s, then 1800 s, each cut by up to half.
    assert 12 + (6 * 3600 - 2048 - 300) / 1800 <= mark // STRIDE_BYTES <= 13 + (6 * 3600 - 1023) / 900


async def test_a_connection_that_ends_during_a_pause_costs_nothing_and_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(event_pace, "_LOOK_S", 0.0)
    devices = devices_of(tmp_path, [])
    devices._pace.begin()
    devices._pace.end(differs=False)
    gone, replaced = Wire(), Wire()
    gone.close()
    await devices.handle(gone)  # type: ignore[arg-type]
    waiting = asyncio.create_task(devices.handle(replaced))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    devices.close()
    await waiting
    assert gone.sent.empty()
    assert replaced.sent.empty()
    assert devices.figures()["broken_sessions"] == 1


async def test_a_finished_block_ends_the_pauses_and_a_long_session_is_no_break():
    clock = HurriedClock()
    pace = event_pace.SessionPace(clock, SystemEntropy(), "kme-b")
    for _ in range(14):
        pace.begin()
        pace.end(differs=False)
    assert pace.breaks == 14
    assert pace.is_pausing
    pace.begin()
    clock.s += 1800.0
    pace.end(differs=False)
    assert pace.breaks == 14
    pace.begin()
    pace.brought_block(transmitted=True)
    pace.end(differs=False)
    assert pace.breaks == 0
    assert not pace.is_pausing


def test_who_ends_each_session_before_one_directions_first_block_is_made_to_wait_though_the_other_brings_blocks():
    clock = HurriedClock(0.0)
    pace, sessions = event_pace.SessionPace(clock, SystemEntropy(), "kme-b"), 0
    while clock.s < 1000.0 + 24 * 3600.0:
        pace.begin()
        pace.brought_block(transmitted=True)
        clock.s += 3.0
        pace.end(differs=False)
        sessions += 1
        while pace.is_pausing:
            clock.s += 10.0
    # 15 are excused; then twelve pauses from half a second to 1024 s, and 900 s at least for each further one.
    assert 24 * 2 < sessions <= 15 + 13 + 24 * 4
    assert sessions * 192 < LINE.parameters.authentication_stock_bytes * 2
    pace.brought_block(transmitted=False)
    pace.brought_block(transmitted=True)
    assert pace.breaks == 0
    assert not pace.is_pausing


async def test_blocks_without_a_key_end_the_session_and_the_next_one_waits_though_this_one_brought_a_key(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(event_devices, "_HEARD_S", 0.0)
    told: list[Event] = []
    devices = devices_of(tmp_path, [], clock=HurriedClock(0.0), told=told)
    ended: list[int] = []
    devices._session = SimpleNamespace(close=lambda: ended.append(1))  # type: ignore[assignment]
    devices._pace.begin()
    devices._pace.brought_block(transmitted=False)

    async def void(number: int, reason: VoidReason = VoidReason.NO_SECRET_LENGTH, *, transmitted: bool = False) -> None:
        await devices._deliver(BlockVoid(number, reason, {}), lifts=0, transmitted=transmitted)

    for number in range(7):
        await void(number)
        await void(number, VoidReason.ABANDONED)  # of a session that broke
        await void(number, transmitted=True)
    assert not devices._is_ending
    await void(7)
    assert devices._is_ending
    await void(8)
    assert [(event.name, event.severity) for event in told] == [("link.blocks_without_key", "warning")]
    await asyncio.sleep(0.01)
    assert ended == [1]
    devices._pace.end(differs=False)
    assert devices.figures()["broken_sessions"] == 1


async def test_a_suspension_that_could_not_be_written_outlives_that_a_link_is_opened_anew(tmp_path):
    pair = KmePair(tmp_path, source=lambda _: EVENTS)
    for kme in ("kme-a", "kme-b"):
        create_private(tmp_path / kme / "authentication.key", START_KEY)
    async with pair.running("kme-a") as kmes:
        links, peer = kmes["kme-a"].links, KmeId("kme-b")
        before = links._sources[peer]
        directory = pair.directory("kme-a") / "sources" / "kme-b"
        if directory.exists():
            shutil.rmtree(directory)
        directory.parent.mkdir(exist_ok=True)
        directory.write_text("in the way, as a full disk would be")
        await before._suspension.begin("link.suspended")
        directory.unlink()
        await links.burn(peer, dry_run=False)
        assert links._sources[peer] is not before
        assert links.states()[peer]["suspended"] is True
        await until(lambda: read_suspension(directory) == "link.suspended")
        assert await links.lift(peer) == "link.suspended"
        await links.burn(peer, dry_run=False)
        assert links.states()[peer]["suspended"] is False


class Crossed(Wire):
    """One end of a connection between two devices; whoever closes it takes what was not read yet away."""

    def __init__(self, other: Crossed | None = None) -> None:
        super().__init__()
        self.other = other
        if other is not None:
            other.other = self

    async def send(self, *parts: bytes) -> None:
        if self.other is not None and not self.other.is_closed:
            self.other.arrived.put_nowait(b"".join(parts))

    def close(self) -> None:
        for end in (self, self.other):
            if end is not None and not end.is_closed:
                end.is_closed = True
                end.arrived = asyncio.Queue() if end is not self else end.arrived
                Wire.close(end)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"epsilon_secrecy": 1e-8}, "epsilon_secrecy"),
        ({"attenuation_db": 4.0, "block_bits": 1 << 17}, "attenuation_db"),
    ],
)
async def test_two_ends_that_are_set_differently_both_say_in_what_and_burn_nothing(tmp_path, changed, named):
    clock, told = HurriedClock(0.001), ([], [])
    lines = (LINE, event_line(replace(SECTION, **changed)))
    ends = [devices_of(tmp_path, [], clock=clock, told=told[at], line=lines[at]) for at in (0, 1)]
    ours = Crossed()
    async with asyncio.timeout(10):
        await asyncio.gather(ends[0].handle(ours), ends[1].handle(Crossed(ours)))  # type: ignore[arg-type]
    for end, events in zip(ends, told, strict=True):
        assert end.condition == "failed: link.parameters_differ"
        (event,) = events
        assert event.name == "link.parameters_differ"
        assert named in str(event.fields["reason"])
        assert end.figures()["broken_sessions"] == 0
        assert "next_session" in end.figures()
    assert not (tmp_path / "a").exists()
    clock.s += 30.0
    assert not any("next_session" in end.figures() for end in ends)


async def test_while_the_peers_end_is_suspended_no_session_begins_and_this_end_is_not(tmp_path):
    devices, wire = devices_of(tmp_path, []), Wire()
    handling = asyncio.create_task(devices.handle(wire))  # type: ignore[arg-type]
    await wire.sent.get()
    assert devices.condition == "waiting: the peer's end does not greet yet"
    wire.arrived.put_nowait(greeting(suspended=True))
    while wire.arrived.qsize():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert devices.condition == "waiting: the peer's end is suspended"
    assert not devices.suspension
    wire.close()
    await handling
    assert not (tmp_path / "a").exists()


async def test_an_alarm_is_on_the_disk_before_anybody_hears_of_it(tmp_path):
    file, seen = tmp_path / "link" / "suspended.json", []

    def append(event: Event) -> None:
        assert event.fields["simulated"] is True
        seen.append((event.name, file.exists()))

    told = SimpleNamespace(append=append)
    devices = devices_of(tmp_path, [], told=told)  # type: ignore[arg-type]
    devices._session = SimpleNamespace()  # type: ignore[assignment]
    await devices._deliver(BlockVoid(3, VoidReason.QBER_ABOVE_LIMIT, {}), lifts=0, transmitted=True)
    assert seen == [("link.suspended", True), ("link.block_alarm", True)]
    assert devices_of(tmp_path, []).suspension == "link.qber_above_limit"


async def test_no_key_leaves_a_suspended_link_and_none_of_a_session_from_before_a_lift(tmp_path):
    taken: list[object] = []
    devices, stored = devices_of(tmp_path, taken), []

    async def store(block: int, **_: object) -> None:
        stored.append(block)

    async def deliver(block: int, *, lifts: int = 0) -> None:
        ready = KeyReady(block, KeyMaterial(os.urandom(4096)), {})
        await devices._deliver(ready, lifts=lifts, transmitted=True)

    devices._session = SimpleNamespace(store=store)  # type: ignore[assignment]
    await deliver(1)
    assert (stored, len(taken)) == ([1], 1)
    await devices._suspension.begin("link.suspended")
    await deliver(2)
    assert (stored, len(taken)) == ([1, 2], 1)
    assert devices.figures()["sent"]["secret_bits"] == 8 * 4096
    for monitor in devices._monitors:
        monitor.suspended = True
    devices._pace.begin()
    devices._pace.end(differs=False)
    assert await devices.lift() == "link.suspended"
    assert not any(monitor.suspended for monitor in devices._monitors)
    assert devices.figures()["broken_sessions"] == 0
    await deliver(3)
    await devices._deliver(BlockVoid(4, VoidReason.SUSPENDED, {}), lifts=0, transmitted=True)
    assert (stored, len(taken), devices.suspension) == ([1, 2], 1, "")
    await deliver(3, lifts=1)
    assert (stored, len(taken)) == ([1, 2, 3], 2)


async def test_a_monitor_that_has_enough_of_discarded_blocks_suspends_the_link(tmp_path):
    devices = devices_of(tmp_path, [])
    devices._session = SimpleNamespace()  # type: ignore[assignment]
    await devices._deliver(BlockVoid(3, VoidReason.DISCARDED, {}), lifts=0, transmitted=True)
    assert devices.suspension == ""
    devices._monitors[0].suspended = True
    await devices._deliver(BlockVoid(4, VoidReason.DISCARDED, {}), lifts=0, transmitted=True)
    assert read_suspension(tmp_path / "link") == devices.suspension != ""


async def test_a_monitor_whose_session_ends_before_it_is_heard_suspends_the_link(tmp_path, monkeypatch):
    devices, wire = devices_of(tmp_path, []), Wire()

    async def run(_: EventSession) -> None:
        devices._monitors[1].suspended = True
        raise PeerFault("the connection ended")

    monkeypatch.setattr(EventSession, "run", run)
    wire.arrived.put_nowait(greeting())
    await devices.handle(wire)  # type: ignore[arg-type]
    assert devices.suspension == read_suspension(tmp_path / "link") == "link.suspended"


async def test_a_void_block_is_told_here_before_the_peer_hears_of_it_and_also_where_the_work_fails(tmp_path):
    seen: list[tuple[int, int]] = []

    async def told(outcome: BlockVoid) -> None:
        seen.append((outcome.block, session._outbox.qsize()))

    with session_of(tmp_path, Wire(), sent=told) as session:

        def void(block: int) -> None:
            session._transmitter._tell_void(block, VoidReason.QBER_ABOVE_LIMIT)
            session._transmitter._outbox.append(b"void")

        def fail() -> None:
            void(2)
            raise PeerFault("forged")

        await session._do(lambda: void(1))
        with pytest.raises(PeerFault, match="forged"):
            await session._do(fail)
        assert seen == [(1, 0), (2, 1)]
        await asyncio.to_thread(session._thread.shutdown)


async def test_a_suspension_that_cannot_be_written_holds_and_is_written_as_soon_as_it_can_be(tmp_path):
    told: list[Event] = []
    (tmp_path / "link").write_text("in the way")
    devices = devices_of(tmp_path, [], clock=HurriedClock(), told=told)
    assert devices.suspension == "link.suspension_unreadable"
    (tmp_path / "link").unlink()
    assert await devices.lift() == "link.suspension_unreadable"
    (tmp_path / "link").write_text("in the way")
    await devices._suspension.begin("link.suspended")
    assert [event.name for event in told[1:]] == ["link.suspension_not_kept", "link.suspended"]
    assert devices.condition == "suspended: link.suspended"
    with pytest.raises(Unavailable):
        await devices.lift()
    (tmp_path / "link").unlink()
    await devices._suspension.settle()
    assert read_suspension(tmp_path / "link") == "link.suspended"


async def test_an_alarm_while_an_administrator_lifts_what_was_not_suspended_suspends_the_link(tmp_path, monkeypatch):
    devices, may_end = devices_of(tmp_path, []), threading.Event()

    def slow(directory: Path) -> str:
        may_end.wait(10)
        return lift_suspension(directory)

    monkeypatch.setattr(suspension, "lift_suspension", slow)
    lifting = asyncio.create_task(devices.lift())
    await asyncio.sleep(0.01)
    alarm = asyncio.create_task(devices._suspension.begin("link.qber_above_limit"))
    await asyncio.sleep(0.01)
    may_end.set()
    assert await lifting == ""
    await alarm
    assert devices.suspension == read_suspension(tmp_path / "link") == "link.qber_above_limit"
    assert await devices.lift() == "link.qber_above_limit"
    assert devices.suspension == read_suspension(tmp_path / "link") == ""


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"reason": 7}', b'{"reason": ""}', b"[" * 4000, b'{"reason": "a b"}']
)
async def test_what_cannot_be_read_of_a_suspension_counts_as_one(tmp_path, content):
    (tmp_path / "suspended.json").write_bytes(content)
    assert read_suspension(tmp_path) == "link.suspension_unreadable"


@pytest.mark.parametrize(
    "put_there",
    [lambda path: path.symlink_to(path.with_name("nowhere")), os.mkfifo, Path.mkdir],
    ids=["a link to nowhere", "a pipe", "a directory"],
)
def test_what_is_no_file_where_a_suspension_would_be_counts_as_one_and_holds_nobody_up(tmp_path, put_there):
    put_there(tmp_path / "suspended.json")
    assert read_suspension(tmp_path) == "link.suspension_unreadable"


@pytest.mark.parametrize("frame", [b"", b"T", b"G", b"G[]", b'G{"line": 1, "suspended": true}', b"G" + b"[" * 9000])
def test_a_first_frame_that_is_no_greeting_is_the_peers_fault(frame):
    with pytest.raises(PeerFault, match="set to"):
        read_greeting(frame)
