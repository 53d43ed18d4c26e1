"""What both ends of a session share: messages in and out, the journal, leak and epsilons as they are counted.

An end is a state machine in the manner of h11: whole messages and records of the devices go in, messages and outcomes
come out; it never waits, reads no clock and opens no socket. It calls two ports, the journal (which must be durable on
return) and the entropy. Nothing leaves by ``outgoing`` before the journal holds what must be known after a crash.

Leak and epsilon are counted where messages pass, not where they are made: every key-dependent bit of every message of
reconciliation counts, in either direction, and every message adds its chance of forgery to its block.

A failure of any kind ends the session at this end; the blocks in flight are abandoned with it. A new session is a new
object on the same journal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from shosoin.base import Entropy, KeyMaterial
from shosoin.link.epsilons import Epsilons
from shosoin.link.events.monitoring import Decision, LinkMonitor, Observation
from shosoin.link.postprocessing.authentication import (
    FORGERY_EPSILON,
    Direction,
    Header,
    KeyStreams,
    Opener,
    Sealer,
    start_records,
)
from shosoin.link.postprocessing.errors import (
    JournalRefused,
    ParametersDiffer,
    PeerBrokeProtocol,
    RecordRejected,
    VoidReason,
)
from shosoin.link.postprocessing.journal import Journal, KeptKey, kept_keys, number_of
from shosoin.link.postprocessing.messages import NONCE_BYTES, Hello, Kind, Message, decode_message
from shosoin.link.postprocessing.outcome import BlockVoid, KeyReady, Outcome
from shosoin.link.postprocessing.parameters import SessionParameters
from shosoin.link.postprocessing.sifting import SiftedBlock

__all__ = ["BATCHES_MAX", "BLOCKS_IN_FLIGHT_MAX", "SessionEnd", "install_start_key", "refusal"]

BATCHES_MAX = 4
"""Batches that the receiver has announced and the transmitter not yet answered."""
BLOCKS_IN_FLIGHT_MAX = 4
"""Blocks between their end and their key; while there are more, no batch is announced."""
MESSAGES_PER_HASH_KEY = 64
_LEAKING = {Kind.FRAMES, Kind.DECODED, Kind.OPENED, Kind.PARITIES, Kind.VERIFIED}
"""Kinds whose key-dependent bits are leak of reconciliation. The hash in VERIFY is the proofs' log2(2/eps_cor)."""
_DEFERRED = frozenset({int(Kind.PARITIES)})
_OF_BATCHES = {Kind.DETECTED, Kind.SIFTED, Kind.END}
_AFTER_REPORT = {Kind.DONE, Kind.SETTLED}
"""They count for a block before they come: forged, either leaves one end with a key that the other has not."""


def install_start_key(journal: Journal, start_key: bytes) -> None:
    """Give an end the key that both ends were given out of band; once, into an empty journal.

    Raises:
        RecordRejected: the journal is in use already.
        ValueError: the key is no multiple of twice ``STRIDE_BYTES``.
    """
    if journal.load():
        raise RecordRejected("this end has a start key already", code="link.start_key_exists")
    journal.commit(start_records(start_key))


def refusal(parameters: SessionParameters, block: SiftedBlock) -> VoidReason | None:
    """Return why a block must not be reconciled, judged by what both ends know of it."""
    if not block.key_bits or not block.test_detections.sum():
        return VoidReason.ONE_BASIS
    if block.test_qber > parameters.qber_max:
        return VoidReason.QBER_ABOVE_LIMIT
    if block.key_bits > parameters.block_bits_max:
        return VoidReason.TOO_LONG
    return None


class SessionEnd(ABC):
    """One end of one session; see ``Transmitter`` and ``Receiver``."""

    speaks: ClassVar[Direction]

    def __init__(
        self,
        parameters: SessionParameters,
        journal: Journal,
        entropy: Entropy,
        *,
        monitor: LinkMonitor | None = None,
    ) -> None:
        records = journal.load()
        self._monitor = monitor
        self._findings: dict[int, list[dict[str, object]]] = {}
        self.parameters = parameters
        self._journal = journal
        self._entropy = entropy
        self._streams = KeyStreams(records)
        self._sealer = Sealer(self._streams, self.speaks)
        self._opener = Opener(self._streams, self.speaks.other, _DEFERRED)
        self._kept = kept_keys(records)
        self._next_block = number_of(records, "next/block")
        self._next_pulse = number_of(records, "next/pulse")
        self._nonce = entropy.random_bytes(NONCE_BYTES)
        self._is_open = False
        self._is_broken = False
        self._outbox: list[bytes] = []
        self._outcomes: list[Outcome] = []
        self._leak_bits: dict[int, int] = {}
        self._message_counts: dict[int, int] = {}
        self._batch_counts: dict[int, int] = {}
        self._hello_count = 0
        self._sent_count = 0
        for kept in self._kept.values():
            if self._is_mine_to_tell(kept):
                self._tell(kept)

    # What whoever runs this end calls

    def receive(self, raw: bytes | memoryview) -> None:
        """Take one whole message of the other end.

        Raises:
            Alarm: it is forged, or contradicts the journal.
            PeerFault: no correct peer sends it.
            Rejected: the two ends are configured differently.
        """
        self._require_whole()
        try:
            header, body, changes = self._opener.open(raw)
            self._commit(changes)
            message = self._decode(header.kind, body)
            self._count(header.kind, header.number, message)
            self._react(header, message)
        except BaseException:
            self._is_broken = True
            raise

    def outgoing(self) -> list[bytes]:
        """Return the messages to send, in order, and forget them."""
        sent, self._outbox = self._outbox, []
        return sent

    def outcomes(self) -> list[Outcome]:
        """Return what became of blocks since the last call."""
        told, self._outcomes = self._outcomes, []
        return told

    def stored(self, block: int) -> None:
        """Say that the key of a block was taken and is durable elsewhere; this end then forgets it."""
        self._require_whole()
        kept = self._kept[block]
        if kept.is_agreed:
            del self._kept[block]
            self._commit({kept.name: None})
        elif not kept.is_stored:
            self._kept[block] = kept.without_key()
            self._commit({kept.name: self._kept[block].encode()})

    @property
    def is_open(self) -> bool:
        """Whether both ends have greeted each other."""
        return self._is_open and not self._is_broken

    # What the roles use

    def _decode(self, kind: int, body: memoryview) -> Message:
        return decode_message(kind, body)

    @abstractmethod
    def _is_mine_to_tell(self, kept: KeptKey) -> bool:
        """Return whether this end may hand out a key that it found in its journal."""

    @abstractmethod
    def _react(self, header: Header, message: Message) -> None:
        """Take an authentic message."""

    def _limit(self) -> int:
        """Return the position of the own stream that must not be passed."""
        return self._streams.end(self.speaks)

    def _require_whole(self) -> None:
        if self._is_broken:
            raise RecordRejected("this session is over", code="link.session_over")

    def _commit(self, records: Mapping[str, bytes | None]) -> None:
        if records:
            self._journal.commit(records)

    def _send(self, message: Message, number: int = 0) -> None:
        body = message.encode()
        self._count(message.kind, number, message)
        if message.kind in _DEFERRED:
            self._outbox.append(self._sealer.defer(message.kind, number, body))
            return
        if self._sent_count % MESSAGES_PER_HASH_KEY == 0:
            self._sealer.renew()
        self._sent_count += 1
        self._commit(self._sealer.prepare(self._limit()))
        self._outbox.append(self._sealer.seal(message.kind, number, body))

    def _count(self, kind: int, number: int, message: Message) -> None:
        if kind == Kind.HELLO:
            self._hello_count += 1
        elif kind in _OF_BATCHES:
            self._batch_counts[number] = self._batch_counts.get(number, 0) + 1
        elif kind not in _AFTER_REPORT:
            self._message_counts[number] = self._message_counts.get(number, 0) + 1
        if kind in _LEAKING:
            self._leak_bits[number] = self._leak_bits.get(number, 0) + message.key_bits

    def _count_batches(self, block: SiftedBlock) -> None:
        """Count the messages about a block's batches for the block: all have passed when it begins, at either end."""
        batches = range(block.first_batch, block.last_batch + 1)
        passed = sum(self._batch_counts.pop(batch, 0) for batch in batches)
        self._message_counts[block.number] = self._message_counts.get(block.number, 0) + passed

    def _authentication_epsilon(self, number: int) -> Epsilons:
        messages = self._hello_count + self._message_counts[number] + len(_AFTER_REPORT)
        return Epsilons({"authentication": messages * FORGERY_EPSILON})

    def _greet(self) -> None:
        unsettled = tuple(block for block, kept in self._kept.items() if not kept.is_agreed)
        blocks = unsettled if self.speaks is Direction.TO_TRANSMITTER else ()
        self._send(Hello(self.parameters.encode(), self._nonce, self._next_block, self._next_pulse, blocks))

    def _check_parameters(self, hello: Hello) -> None:
        if hello.parameters != self.parameters.encode():
            names = ", ".join(self.parameters.differences(hello.parameters))
            raise ParametersDiffer(f"the two ends differ in: {names}")

    def _advance_blocks(self, number: int) -> None:
        """Store that a block's number is used, before anything is said about it."""
        if number >= self._next_block:
            self._next_block = number + 1
            self._commit({"next/block": self._next_block.to_bytes(8, "little")})

    def _advance_pulses(self, last: int) -> None:
        """Store that pulses up to this one are spent, before anything is said about them."""
        self._next_pulse = last + 1
        self._commit({"next/pulse": self._next_pulse.to_bytes(8, "little")})

    def _keep(self, kept: KeptKey, further: Mapping[str, bytes | None]) -> None:
        self._kept[kept.block] = kept
        self._commit({kept.name: kept.encode(), **further})

    def _tell(self, kept: KeptKey) -> None:
        self._outcomes.append(KeyReady(kept.block, KeyMaterial(kept.material), kept.report))

    def _tell_void(self, block: int, reason: VoidReason, sifted: SiftedBlock | None = None) -> None:
        figures: dict[str, Any] = {}
        if sifted is not None:
            figures = {"pulses": sifted.pulses, "key_basis_bits": sifted.key_bits, "test_qber": sifted.test_qber}
        findings = self._findings.pop(block, None)
        if findings:
            figures["findings"] = findings
        if self._monitor is not None and self._monitor.suspended:
            figures["suspended"] = True  # whatever reason is told: a later session has to know
        self._outcomes.append(BlockVoid(block, reason, figures))

    def _judge(self, block: int, observation: Observation) -> VoidReason | None:
        """Return why the monitor wants no key of a block."""
        if self._monitor is None:
            return None
        verdict = self._monitor.inspect(observation)
        if verdict.decision is Decision.CONTINUE:
            return None
        self._findings[block] = [finding.to_json() for finding in verdict.findings]
        return VoidReason.SUSPENDED if verdict.decision is Decision.SUSPEND else VoidReason.DISCARDED

    def _forget_block(self, number: int) -> None:
        """Drop the counters of a block that is over."""
        self._leak_bits.pop(number, None)
        self._message_counts.pop(number, None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(open={self.is_open}, redacted)"


def unexpected(message: Message, number: int) -> PeerBrokeProtocol:
    """Return the error for a message that does not fit what came before."""
    return PeerBrokeProtocol(f"{type(message).__name__} about {number} does not fit what came before")


def require_known(hello: Hello, next_pulse: int) -> None:
    """Check that a peer has not forgotten what it said.

    Raises:
        JournalRefused: it would announce pulses again.
    """
    if hello.next_pulse < next_pulse:
        raise JournalRefused(f"the peer would begin at pulse {hello.next_pulse}, {next_pulse} are spent")
