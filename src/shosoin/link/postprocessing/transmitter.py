"""The end that sent the pulses: it answers detections, discloses, and says how long a key becomes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shosoin.base import Entropy
from shosoin.link.amplification import amplify, seed_bits
from shosoin.link.events.devices import TransmitterReadings
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.records import SentPulses
from shosoin.link.postprocessing.authentication import STRIDE_BYTES, Direction, Header
from shosoin.link.postprocessing.errors import PeerBrokeProtocol, RecordRejected, VoidReason
from shosoin.link.postprocessing.journal import Journal, KeptKey
from shosoin.link.postprocessing.messages import (
    Amplify,
    Decoded,
    Detected,
    Done,
    End,
    Hello,
    Message,
    Parities,
    Settled,
    Verified,
    Verify,
    Void,
)
from shosoin.link.postprocessing.outcome import block_report
from shosoin.link.postprocessing.parameters import SessionParameters, secret_length, verification_bits
from shosoin.link.postprocessing.reconciling import Discloser, discloser, expected_qber
from shosoin.link.postprocessing.sent_record import DetectedPulses, SentRecord, look_up, thinned
from shosoin.link.postprocessing.session import (
    BATCHES_MAX,
    SessionEnd,
    refusal,
    require_known,
    unexpected,
)
from shosoin.link.postprocessing.sifting import Accumulator, SentAt, SiftedBlock, sift
from shosoin.link.postprocessing.verification import FUNCTION_BYTES, hash_block
from shosoin.link.postprocessing.watching import SentTally

__all__ = ["Transmitter"]


class _Stage(Enum):
    RECONCILING = auto()
    VERIFYING = auto()
    VERIFIED = auto()


@dataclass(slots=True, repr=False)
class _InFlight:
    block: SiftedBlock
    discloser: Discloser
    tally: SentTally
    stage: _Stage = _Stage.RECONCILING
    errors: tuple[int, ...] = field(default=())


class Transmitter(SessionEnd):
    """One session of the transmitting end."""

    speaks: ClassVar[Direction] = Direction.TO_RECEIVER

    def __init__(
        self,
        parameters: SessionParameters,
        journal: Journal,
        entropy: Entropy,
        *,
        monitor: LinkMonitor | None = None,
    ) -> None:
        super().__init__(parameters, journal, entropy, monitor=monitor)
        self._watch = SentTally(len(parameters.settings.intensities))
        self._sent: deque[SentRecord] = deque()
        self._waiting: deque[tuple[int, Detected | End]] = deque()
        self._next_batch = 0
        self._accumulator: Accumulator | None = None
        self._in_flight: dict[int, _InFlight] = {}
        self._key_qber: float | None = None
        self._is_ended = False
        self._first_pulse = self._next_pulse

    # Device records

    @property
    def wants_pulses(self) -> bool:
        """Whether a batch waits for more of the device's record."""
        return self.is_open and any(isinstance(message, Detected) for _, message in self._waiting)

    def feed(self, sent: SentPulses, readings: TransmitterReadings | None = None) -> None:
        """Take the next part of the device's record; parts must follow each other.

        Args:
            readings: what the monitor diode read meanwhile, for the monitor.

        Raises:
            RecordRejected: parts overlap, or name an intensity that the settings lack.
        """
        self._require_whole()
        if self._sent and sent.first < self._sent[-1].first + self._sent[-1].count:
            raise RecordRejected(f"pulses from {sent.first} overlap those before")
        if int(sent.intensity.max(initial=0)) >= len(self.parameters.settings.intensities):
            raise RecordRejected("the record names an intensity that the settings lack")
        if sent.first + sent.count > self._next_pulse:
            self._sent.append(sent)
            if readings is not None and self._monitor is not None:
                self._watch.read(sent.first, sent.first + sent.count, readings)
        self._work_off()

    def forget_undetected(self, first: int, pulses: npt.NDArray[np.int64]) -> None:
        """Keep only the detected pulses of a part of the record; a part that is used up already is passed over.

        Nothing but the receiver's word is needed for this: pulses that it does not name it cannot announce.

        Args:
            first: number of the part's first pulse.
            pulses: numbers of the pulses of this part that the receiver detected, rising.

        Raises:
            PeerBrokeProtocol: the pulses are not of the part.
        """
        self._require_whole()
        for place, part in enumerate(self._sent):
            if part.first == first and isinstance(part, SentPulses):
                self._replace(place, thinned(part, pulses, len(self.parameters.settings.intensities)))
                return

    def _replace(self, place: int, kept: DetectedPulses) -> None:
        before = self._sent[place - 1] if place else None
        both = before.joined(kept) if isinstance(before, DetectedPulses) else None
        if both is None:
            self._sent[place] = kept
        else:
            self._sent[place - 1] = both
            del self._sent[place]

    def feed_end(self) -> None:
        """Say that the device's record is over.

        Raises:
            RecordRejected: detections wait for pulses that were never recorded.
        """
        self._require_whole()
        self._work_off()
        if any(isinstance(message, Detected) for _, message in self._waiting):
            raise RecordRejected("the receiver detected pulses beyond the end of the transmitter's record")

    @property
    def first_pulse_wanted(self) -> int:
        """Pulses below were announced in earlier sessions: a device that starts anew numbers its pulses from here."""
        return self._first_pulse

    @property
    def held_pulses(self) -> int:
        """Pulses whose record is held because nothing was announced of them yet, less those known to be undetected."""
        return sum(part.count if isinstance(part, SentPulses) else len(part.offsets) for part in self._sent)

    @property
    def is_finished(self) -> bool:
        """Whether the receiver's record is over and every block has ended at both ends."""
        unsettled = any(not kept.is_agreed for kept in self._kept.values())
        return self._is_ended and not self._in_flight and not unsettled

    # Messages

    def _react(self, header: Header, message: Message) -> None:
        number = header.number
        if not self._is_open:
            if not isinstance(message, Hello):
                raise unexpected(message, number)
            self._on_hello(message)
            return
        match message:
            case Detected() | End():
                self._on_batch(number, message)
            case Decoded():
                self._on_decoded(number, message)
            case Parities():
                self._on_parities(number, message)
            case Verified():
                self._on_verified(number, message)
            case Done():
                self._on_done(number)
            case Void(reason):
                self._on_void(number, reason)
            case _:
                raise unexpected(message, number)

    def _on_hello(self, hello: Hello) -> None:
        self._sealer.session = hello.nonce + bytes(len(hello.nonce))
        self._greet()
        self._check_parameters(hello)
        require_known(hello, self._next_pulse)
        self._first_pulse = hello.next_pulse
        self._sealer.session = self._opener.session = hello.nonce + self._nonce
        self._is_open = True
        self._settle(hello)
        first = max(self._next_block, hello.next_block)
        self._accumulator = Accumulator(
            self.parameters.block_detections, len(self.parameters.settings.intensities), first, hello.next_pulse
        )
        self._watch.next_pulse = hello.next_pulse

    def _settle(self, hello: Hello) -> None:
        """Agree with the receiver about every key of earlier sessions: it has it, or there is none."""
        for block, kept in list(self._kept.items()):
            if not kept.is_agreed and block not in hello.blocks:
                del self._kept[block]
                self._commit({kept.name: None})
                self._tell_void(block, VoidReason.ABANDONED)
        for block in hello.blocks:
            if block >= self._next_block:
                raise PeerBrokeProtocol(f"the receiver has a key of block {block}, which never was")
            self._on_done(block, may_be_over=True)

    def _on_batch(self, number: int, message: Detected | End) -> None:
        is_over = self._is_ended or any(isinstance(waiting, End) for _, waiting in self._waiting)
        if is_over or number != self._next_batch or len(self._waiting) >= BATCHES_MAX:
            raise unexpected(message, number)
        self._next_batch += 1
        self._waiting.append((number, message))
        self._work_off()

    def _work_off(self) -> None:
        """Answer the batches that the device's record covers by now."""
        while self._waiting:
            number, message = self._waiting[0]
            if isinstance(message, End):
                self._waiting.popleft()
                self._on_end(number)
            elif self._sent and self._sent[-1].first + self._sent[-1].count > message.pulses[-1]:
                self._waiting.popleft()
                self._on_detected(number, message)
            else:
                return

    def _on_detected(self, number: int, detected: Detected) -> None:
        if detected.pulses[0] < self._next_pulse:
            raise PeerBrokeProtocol(f"pulse {detected.pulses[0]} was announced before")
        accumulator = self._opened()
        if len(detected.pulses) > accumulator.missing:
            # The receiver cannot have waited for the last pulse of the block behind.
            raise PeerBrokeProtocol(f"{len(detected.pulses)} detections, the block lacks {accumulator.missing}")
        self._advance_pulses(int(detected.pulses[-1]))
        if self._monitor is not None:
            self._watch.count_pulses(self._sent, int(detected.pulses[-1]) + 1)
        sent = self._look_up(detected.pulses)
        if self._monitor is not None:
            self._watch.count_detections(sent)
        sifted, kept = sift(detected, sent, len(self.parameters.settings.intensities))
        self._send(sifted, number)
        block = accumulator.add(number, kept, int(detected.pulses[-1]))
        if block is not None:
            self._begin(block)

    def _opened(self) -> Accumulator:
        if self._accumulator is None:
            raise RecordRejected("no session is open", code="link.session_over")
        return self._accumulator

    def _look_up(self, pulses: npt.NDArray[np.int64]) -> SentAt:
        """Return what was sent in some pulses, and drop the record up to the last of them."""
        found = []
        start = 0
        while start < len(pulses):
            part = self._sent[0]
            end = start + int(np.searchsorted(pulses[start:], part.first + part.count))
            if end > start:
                if pulses[start] < part.first:
                    raise PeerBrokeProtocol(f"pulse {pulses[start]} is not in the transmitter's record")
                found.append(look_up(part, pulses[start:end]))
            start = end
            if start < len(pulses):
                self._sent.popleft()
        return found[0] if len(found) == 1 else SentAt.joined(found)

    def _on_end(self, number: int) -> None:
        self._is_ended = True
        block = self._opened().finish(number)
        if block is not None:
            self._begin(block)

    def _begin(self, block: SiftedBlock) -> None:
        self._advance_blocks(block.number)
        self._count_batches(block)
        tally = self._watch.take()
        reason = refusal(self.parameters, block) or self._hopeless(block)
        if reason is not None:
            # A block without a key is looked at as well: the eavesdropper who took too much may be why it has none.
            found = self._judge(block.number, tally.observation(block.counts()))
            self._void(block, reason if found is None or reason is VoidReason.QBER_ABOVE_LIMIT else found)
            return
        qber = self._key_qber or expected_qber(int(block.test_errors.sum()), int(block.test_detections.sum()))
        started = discloser(self.parameters, block, qber, self._entropy)
        self._in_flight[block.number] = _InFlight(block, started, tally)
        for message in started.opening():
            self._send(message, block.number)

    def _hopeless(self, block: SiftedBlock) -> VoidReason | None:
        """Return a reason if not even an error-free block of these counts had a key: nothing is disclosed then."""
        _, bits = secret_length(self.parameters, block.counts(), leak_bits=0, block_bits=block.key_bits)
        if bits:
            return None
        return (
            VoidReason.NO_SECRET_LENGTH
            if block.detections == self.parameters.block_detections
            else VoidReason.TOO_SHORT
        )

    def _void(self, block: SiftedBlock, reason: VoidReason) -> None:
        self._in_flight.pop(block.number, None)
        self._send(Void(reason), block.number)
        self._tell_void(block.number, reason, block)
        self._forget_block(block.number)
        self._amplify_those_due()

    def _expect(self, number: int, message: Message, stage: _Stage) -> _InFlight:
        found = self._in_flight.get(number)
        if found is None or found.stage is not stage:
            raise unexpected(message, number)
        return found

    def _on_decoded(self, number: int, decoded: Decoded) -> None:
        found = self._expect(number, decoded, _Stage.RECONCILING)
        opened = found.discloser.on_decoded(decoded)
        if opened is not None:
            self._send(opened, number)
        self._verify(found)

    def _on_parities(self, number: int, parities: Parities) -> None:
        found = self._expect(number, parities, _Stage.RECONCILING)
        answer = found.discloser.on_parities(parities)
        if answer is None:
            self._verify(found)
        else:
            self._send(answer, number)

    def _verify(self, found: _InFlight) -> None:
        found.stage = _Stage.VERIFYING
        function = self._entropy.random_bytes(FUNCTION_BYTES)
        bits = verification_bits(self.parameters, found.block.key_bits)
        self._send(Verify(function, bits, hash_block(found.block.bits, function, bits)), found.block.number)

    def _on_verified(self, number: int, verified: Verified) -> None:
        found = self._expect(number, verified, _Stage.VERIFYING)
        if len(verified.errors) != len(self.parameters.settings.intensities):
            raise unexpected(verified, number)
        if not verified.is_equal:
            del self._in_flight[number]
            self._tell_void(number, VoidReason.NOT_EQUAL, found.block)
            self._forget_block(number)
        else:
            found.stage, found.errors = _Stage.VERIFIED, verified.errors
            self._key_qber = expected_qber(sum(verified.errors), found.block.key_bits)
        self._amplify_those_due()

    def _amplify_those_due(self) -> None:
        """Amplify verified blocks in the order of their numbers, so that both ends' key streams grow alike."""
        while self._in_flight:
            found = self._in_flight[min(self._in_flight)]
            if found.stage is not _Stage.VERIFIED:
                return
            del self._in_flight[found.block.number]
            self._amplify(found)

    def _amplify(self, found: _InFlight) -> None:
        block, number = found.block, found.block.number
        if np.any(np.asarray(found.errors) > block.key_detections):
            raise PeerBrokeProtocol("more errors than detections")
        counts = block.counts(found.errors)
        reason = self._judge(number, found.tally.observation(counts))
        if sum(found.errors) / block.key_bits > self.parameters.qber_max:
            reason = VoidReason.QBER_ABOVE_LIMIT
        if reason is not None:
            self._void(block, reason)
            return
        leak = self._leak_bits[number]
        bound, secret_bits = secret_length(self.parameters, counts, leak_bits=leak, block_bits=block.key_bits)
        if not secret_bits:
            self._void(block, VoidReason.NO_SECRET_LENGTH)
            return
        refill = self._refill(secret_bits // 8)
        wanted = seed_bits(block.key_bits, secret_bits)
        seed = bytearray(self._entropy.random_bytes((wanted + 7) // 8))
        seed[-1] &= 0xFF >> -wanted % 8
        message = Amplify(secret_bits, refill, wanted, bytes(seed))
        material = amplify(bytearray(block.bits), block.key_bits, message.seed, secret_bits).take()
        self._count(message.kind, number, message)
        report = block_report(
            block,
            counts,
            leak_bits=leak,
            bound=bound,
            secret_bits=secret_bits,
            refill_bytes=refill,
            epsilons=bound.epsilons + self._authentication_epsilon(number),
        )
        self._keep(KeptKey(number, False, False, 0, report, refill, material), {})
        self._send(message, number)
        self._forget_block(number)

    def _refill(self, secret_bytes: int) -> tuple[int, int]:
        """Return how many bytes each stream gets: up to the agreed stock, but not more than its share of the key.

        Half of a key is for whoever wants keys. A stream that is nearly dry gets more, since a link that cannot
        authenticate makes none at all; a quarter of the key is left even then.
        """
        coming = [sum(kept.refill_bytes[way] for kept in self._kept.values()) for way in Direction]
        held = [self._streams.end(way) - self._streams.marks[way] + coming[way] for way in Direction]
        stock = self.parameters.authentication_stock_bytes
        eighths = [3 if have < stock // 8 else 2 for have in held]
        most = [secret_bytes * share // 8 // STRIDE_BYTES * STRIDE_BYTES for share in eighths]
        missing = [-(-max(0, stock - have) // STRIDE_BYTES) * STRIDE_BYTES for have in held]
        there, back = map(min, most, missing)
        return there, back

    def _on_done(self, number: int, *, may_be_over: bool = False) -> None:
        kept = self._kept.get(number)
        if kept is None and not may_be_over:
            raise PeerBrokeProtocol(f"the receiver has a key of block {number}, which was not offered")
        if kept is not None and not kept.is_agreed:
            there = kept.refill_bytes[Direction.TO_RECEIVER]
            further = self._streams.extend(Direction.TO_RECEIVER, kept.material[:there])
            back = kept.material[there : sum(kept.refill_bytes)]
            further |= self._streams.extend(Direction.TO_TRANSMITTER, back)
            self._keep(kept.agreed(), further)
            self._tell(self._kept[number])
        self._send(Settled(), number)

    def _on_void(self, number: int, reason: VoidReason) -> None:
        """Drop a block that the receiver gives up, which it may until it has the key."""
        found, kept = self._in_flight.pop(number, None), self._kept.get(number)
        if kept is not None and kept.is_agreed:
            raise PeerBrokeProtocol(f"block {number} was agreed upon and is given up now")
        if kept is not None:
            del self._kept[number]
            self._commit({kept.name: None})
        if found is not None or kept is not None:
            self._tell_void(number, reason, found.block if found else None)
        self._forget_block(number)
        self._amplify_those_due()

    def _is_mine_to_tell(self, kept: KeptKey) -> bool:
        return kept.is_agreed
