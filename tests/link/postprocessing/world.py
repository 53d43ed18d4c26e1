"""A link in memory: made records of devices, journals that survive crashes, a wire that can be listened to and changed.

The records are made here by a plain channel (each photon of a pulse arrives with one probability, bits flip with
another), apart from the package's own event simulation, so that what these tests say does not rest on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

import numpy as np

from shosoin.base import SimulationRng
from shosoin.link.events.records import Detections, SentPulses, Settings
from shosoin.link.postprocessing.authentication import DEFERRED, Direction, Header, KeyStreams, parse_header
from shosoin.link.postprocessing.errors import VoidReason
from shosoin.link.postprocessing.messages import Detected, Message, decode_message
from shosoin.link.postprocessing.outcome import BlockVoid, KeyReady
from shosoin.link.postprocessing.parameters import SessionParameters
from shosoin.link.postprocessing.receiver import Receiver
from shosoin.link.postprocessing.session import install_start_key
from shosoin.link.postprocessing.transmitter import Transmitter

SETTINGS = Settings((0.4, 0.1), (0.4, 0.6), 0.5, 0.5, 1e9)
SMALL = SessionParameters(
    SETTINGS,
    epsilon_secrecy=0.05,
    epsilon_correctness=1e-6,
    block_bits=12_288,
    codes="ldpc",
    authentication_stock_bytes=1024,
)
"""Blocks so small that they only pay with epsilons that nobody would want."""
START_KEY = bytes(range(256)) * 16


class Crash(BaseException):
    """A process died here."""


class SeededEntropy:
    """Repeatable; for tests alone."""

    source = "a seed"
    physical = False

    def __init__(self, seed: int) -> None:
        self._rng = SimulationRng(seed)

    def random_bytes(self, size_bytes: int) -> bytes:
        return self._rng.pseudo_bytes(size_bytes)


class MemoryJournal:
    """Records that outlive the objects that wrote them."""

    def __init__(self, start_key: bytes = START_KEY) -> None:
        self.records: dict[str, bytes] = {}
        self.crash_at: tuple[int, bool] | None = None
        self.history: list[tuple[str, ...]] = []
        if start_key:
            install_start_key(self, start_key)
        self.history.clear()

    @property
    def commits(self) -> int:
        return len(self.history)

    def load(self) -> dict[str, bytes]:
        return dict(self.records)

    def commit(self, records: Mapping[str, bytes | None]) -> None:
        number = self.commits
        self.history.append(tuple(records))
        if self.crash_at == (number, False):
            raise Crash
        for name, value in records.items():
            if value is None:
                self.records.pop(name, None)
            else:
                self.records[name] = value
        if self.crash_at == (number, True):
            raise Crash


@dataclass
class Records:
    """What the two devices recorded."""

    sent: SentPulses
    detections: list[Detections]

    @property
    def detected(self) -> int:
        return sum(len(part.pulses) for part in self.detections)


@cache
def made_records(
    pulses: int = 1_000_000,
    *,
    qber: float = 0.005,
    settings: Settings = SETTINGS,
    transmittance: float = 0.75,
    intercepted: float = 0.0,
    parts: int = 8,
    seed: int = 1,
) -> Records:
    """Return the two records; ``intercepted`` is the share of pulses that somebody measures and sends on."""
    rng = np.random.default_rng(seed)
    intensity = rng.choice(len(settings.intensities), pulses, p=settings.probabilities).astype(np.uint8)
    bits = rng.integers(0, 2, pulses, dtype=np.uint8)
    bases = (rng.random(pulses) >= settings.transmitter_key_basis_probability).astype(np.uint8)
    mean = transmittance * np.asarray(settings.intensities)[intensity]
    clicked = np.flatnonzero(rng.random(pulses) < -np.expm1(-mean)).astype(np.int64)
    light_bits, light_bases = bits[clicked], bases[clicked]
    taken = rng.random(len(clicked)) < intercepted
    eve_bases = rng.integers(0, 2, len(clicked), dtype=np.uint8)
    eve_bits = np.where(eve_bases == light_bases, light_bits, rng.integers(0, 2, len(clicked), dtype=np.uint8))
    light_bits, light_bases = np.where(taken, eve_bits, light_bits), np.where(taken, eve_bases, light_bases)
    measured = (rng.random(len(clicked)) >= settings.receiver_key_basis_probability).astype(np.uint8)
    results = np.where(measured == light_bases, light_bits, rng.integers(0, 2, len(clicked), dtype=np.uint8))
    results = (results ^ (rng.random(len(clicked)) < qber)).astype(np.uint8)
    sent = SentPulses(0, pulses, np.packbits(bits, bitorder="little"), np.packbits(bases, bitorder="little"), intensity)
    edges = [pulses * part // parts for part in range(parts + 1)]
    cuts = np.searchsorted(clicked, edges)
    detections = [
        Detections(
            edges[part],
            edges[part + 1] - edges[part],
            clicked[cuts[part] : cuts[part + 1]],
            measured[cuts[part] : cuts[part + 1]],
            results[cuts[part] : cuts[part + 1]],
        )
        for part in range(parts)
    ]
    return Records(sent, detections)


@dataclass
class Passed:
    """One message that was on the wire."""

    raw: bytes
    header: Header
    message: Message


T = TypeVar("T")
Tamper = Callable[[int, bytes], bytes | list[bytes]]


@dataclass
class World:
    """Both ends, their journals, and what the applications behind them stored."""

    parameters: SessionParameters = SMALL
    records: Records = field(default_factory=made_records)
    journals: tuple[MemoryJournal, MemoryJournal] = field(default_factory=lambda: (MemoryJournal(), MemoryJournal()))
    keys: tuple[dict[int, bytes], dict[int, bytes]] = field(default_factory=lambda: ({}, {}))
    reports: tuple[dict[int, Mapping], dict[int, Mapping]] = field(default_factory=lambda: ({}, {}))
    voids: tuple[dict[int, VoidReason], dict[int, VoidReason]] = field(default_factory=lambda: ({}, {}))
    wire: list[Passed] = field(default_factory=list)
    sessions: int = 0
    kill_after: int | None = None
    """After this many messages in all, everything stops at once."""
    tamper: Tamper | None = None
    receiver_parameters: SessionParameters | None = None

    def run(self, *, sessions_max: int = 6) -> World:
        """Hold sessions until the records are used up and everything is settled."""
        while self.sessions < sessions_max:
            try:
                if self.session():
                    return self
            except Crash:
                continue
        raise AssertionError("the two ends never come to an end")

    def ends(self) -> tuple[Transmitter, Receiver]:
        self.sessions += 1
        entropies = SeededEntropy(2 * self.sessions), SeededEntropy(2 * self.sessions + 1)
        theirs = self.receiver_parameters or self.parameters
        return (
            Transmitter(self.parameters, self.journals[0], entropies[0]),
            Receiver(theirs, self.journals[1], entropies[1]),
        )

    def session(self) -> bool:
        """Hold one session; return whether it came to its end."""
        transmitter, receiver = self.ends()
        self._take(0, transmitter)
        self._take(1, receiver)
        receiver.start()
        todo = [part for part in self.records.detections if part.first + part.count > receiver.first_pulse_wanted]
        has_fed = has_ended = False
        while True:
            moved = self._pass_on(receiver, transmitter) + self._pass_on(transmitter, receiver)
            self._take(0, transmitter)
            self._take(1, receiver)
            if transmitter.is_open and not has_fed:
                transmitter.feed(self.records.sent)
                has_fed = True
            if receiver.wants_detections and todo:
                receiver.feed(todo.pop(0))
            elif receiver.wants_detections and not has_ended:
                receiver.feed_end()
                has_ended = True
            elif not moved:
                return transmitter.is_finished and receiver.is_finished

    def _pass_on(self, source: Transmitter | Receiver, target: Transmitter | Receiver) -> int:
        messages = source.outgoing()
        for raw in messages:
            header = parse_header(raw)
            body = raw[48:] if header.pad_position == DEFERRED else raw[48:-16]
            self.wire.append(Passed(raw, header, decode_message(header.kind, body)))
            if self.kill_after is not None and len(self.wire) > self.kill_after:
                self.kill_after = None
                raise Crash
            changed = raw if self.tamper is None else self.tamper(len(self.wire) - 1, raw)
            for one in [changed] if isinstance(changed, bytes) else changed:
                target.receive(one)
        return len(messages)

    def _take(self, number: int, end: Transmitter | Receiver) -> None:
        for outcome in end.outcomes():
            match outcome:
                case KeyReady(block, key, report):
                    content = key.take()
                    assert self.keys[number].setdefault(block, content) == content
                    self.reports[number][block] = report
                    end.stored(block)
                case BlockVoid(block, reason, _):
                    self.voids[number][block] = reason

    # What must hold whatever happened

    def check(self) -> World:
        """Check what no crash may break."""
        assert self.keys[0] == self.keys[1]
        assert not any(name.startswith("key/") for journal in self.journals for name in journal.records)
        self.check_pads()
        self.check_pulses()
        streams = [
            {name: value for name, value in journal.records.items() if name.startswith("auth/key/")}
            for journal in self.journals
        ]
        assert all(streams[0][name] == streams[1][name] for name in streams[0].keys() & streams[1].keys())
        ends = [[KeyStreams(journal.records).end(way) for way in Direction] for journal in self.journals]
        assert ends[0] == ends[1]
        return self

    def check_pads(self) -> None:
        """No position of a key stream ever served two messages, nor a message and a hash key."""
        for way in Direction:
            used: dict[int, bytes] = {}
            hashes = {passed.header.hash_position for passed in self.wire if passed.header.direction is way}
            for passed in self.wire:
                if passed.header.direction is way and passed.header.pad_position != DEFERRED:
                    assert passed.header.pad_position not in hashes
                    assert used.setdefault(passed.header.pad_position, passed.raw) == passed.raw

    def check_pulses(self) -> None:
        """No pulse was announced twice."""
        announced = [passed.message.pulses for passed in self.wire if isinstance(passed.message, Detected)]
        if announced:
            pulses = np.concatenate(announced)
            assert len(np.unique(pulses)) == len(pulses)

    def messages(self, kind: type[T]) -> Iterable[T]:
        return (passed.message for passed in self.wire if isinstance(passed.message, kind))


def with_codes(codes: str) -> SessionParameters:
    """Return small parameters with other codes."""
    return replace(SMALL, codes=codes)
