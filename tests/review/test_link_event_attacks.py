"""A peer KME of an event-level link that lies: it ends its own session, with a kind, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.entropy import SystemEntropy
from shosoin.base import PeerFault, SimulationRng
from shosoin.link.postprocessing import Receiver
from shosoin.link.postprocessing.messages import Detected
from shosoin.services.sources import event_session
from shosoin.services.sources.config import EventsSection
from shosoin.services.sources.event_journals import open_link_journals
from shosoin.services.sources.event_line import event_line
from shosoin.services.sources.event_session import BATCH_PULSES, EventSession
from shosoin.services.sources.events import EventDevices

SECTION = EventsSection(attenuation_db=3.0, authentication_key_file=Path("unused"), pulses_per_s=1e9)
LINE = event_line(SECTION)
SECRET, START_KEY = os.urandom(1024), os.urandom(1 << 14)
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

    async def receive(self) -> bytes:
        frame = await self.arrived.get()
        if frame == _END:
            raise PeerFault("the connection ended")
        return frame

    async def send(self, *parts: bytes) -> None:
        await self.reads_on.wait()
        self.sent.put_nowait(b"".join(parts))

    def close(self) -> None:
        self.arrived.put_nowait(_END)


def light(number: int, count: int = 8, state: int = 0) -> bytes:
    return b"L" + struct.pack(">Q", number) + bytes([state]) * count


class Liar:
    """Holds the key of the link, and says what it likes."""

    def __init__(self, directory: Path, wire: Wire) -> None:
        self.wire = wire
        self.journals = journals_in(directory, SECRET, False, START_KEY)
        self.receiver = Receiver(LINE.parameters, self.journals[1], SystemEntropy())

    async def greet(self) -> None:
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
def session_of(tmp_path: Path, wire: Wire):
    journals = open_link_journals(tmp_path / "a", SECRET, True, START_KEY)
    monitors = (LINE.monitor(), LINE.monitor())
    try:
        yield EventSession(
            wire,  # type: ignore[arg-type]
            LINE,
            journals,
            monitors,
            SystemEntropy(),
            SimulationRng(1),
            sent=nothing,
            received=nothing,
            stock=nothing,
        )
    finally:
        for journal in journals:
            journal.close()


def devices_of(tmp_path: Path, taken: list[object]) -> EventDevices:
    async def do(steps: object) -> None:
        taken.append(steps)

    outgoing = SimpleNamespace(can_begin=True, left_granules=lambda: 0)
    incoming = SimpleNamespace(forget_bits=lambda: None)
    pair = SimpleNamespace(
        peer="kme-b", is_connected=True, outgoing=outgoing, incoming=incoming, bits_arrived=nothing, begin_block=nothing
    )
    parts = SimpleNamespace(
        driver=SimpleNamespace(pair=pair, progress=asyncio.Event(), do=do),
        entropy=SystemEntropy(),
        clock=SystemClock(),
        events=SimpleNamespace(emit=lambda event: None),
        max_stock_bits=1 << 20,
    )
    journals = tmp_path / "a"
    return EventDevices(
        parts,  # type: ignore[arg-type]
        LINE,
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
        await liar.greet()
        wire.reads_on.clear()
        sent = 0
        for _ in range(12):
            sent += await session.send_light()
            wire.arrived.put_nowait(b"C")
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
    devices._suspend("link.suspended")
    bits = bytearray(b"\x01" * 4096)
    await devices._stock_arrived((1 << 62) + 1, bits)
    assert len(taken) == 1
    assert not any(bits)
