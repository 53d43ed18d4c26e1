"""The end that detected the pulses: it announces detections, corrects its bits, and decides that a block has a key.

A block is a group of detections, ``SessionParameters.block_detections`` of them. Of none of them this end says anything
before the last is recorded, so that no basis, bit or intensity of a block is public while a pulse of it is still to be
received (which pulses were detected may be told by whoever runs this end). The record of the next group is taken
meanwhile.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shosoin.base import Entropy
from shosoin.link.amplification import amplify, seed_bits
from shosoin.link.events.devices import ReceiverReadings
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.records import TEST_BASIS, Detections
from shosoin.link.postprocessing.authentication import Direction, Header
from shosoin.link.postprocessing.errors import JournalRefused, PeerBrokeProtocol, RecordRejected, VoidReason
from shosoin.link.postprocessing.journal import Journal, KeptKey
from shosoin.link.postprocessing.messages import (
    BLOCKS_MAX,
    Amplify,
    Detected,
    Done,
    End,
    Frames,
    Hello,
    Message,
    Opened,
    Parities,
    Settled,
    Sifted,
    Verified,
    Verify,
    Void,
)
from shosoin.link.postprocessing.outcome import block_report
from shosoin.link.postprocessing.parameters import SessionParameters, secret_length, verification_bits
from shosoin.link.postprocessing.reconciling import Corrector, corrector
from shosoin.link.postprocessing.session import (
    BATCHES_MAX,
    BLOCKS_IN_FLIGHT_MAX,
    SessionEnd,
    refusal,
    unexpected,
)
from shosoin.link.postprocessing.sifting import Accumulator, Announced, SiftedBlock, announcement, kept_of_receiver
from shosoin.link.postprocessing.verification import hash_block, hashes_agree
from shosoin.link.postprocessing.watching import ReadingsQueue, received_observation

__all__ = ["Receiver"]

Bytes = npt.NDArray[np.uint8]

BATCH_DETECTIONS = 1 << 17
"""At most so many detections are announced in one message; what is worked on then stays in a processor's cache."""
JOINED_DETECTIONS = 4096
BATCHES_PER_BLOCK = 4
"""At least, so that the two ends work at the same time."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class _Recorded:
    """Detections that wait to be announced."""

    pulses: npt.NDArray[np.int64]
    is_test: npt.NDArray[np.bool_]
    bits: Bytes


class _Stage(Enum):
    WAITING = auto()
    RECONCILING = auto()
    VERIFIED = auto()


@dataclass(slots=True, repr=False)
class _InFlight:
    block: SiftedBlock
    corrector: Corrector
    stage: _Stage = _Stage.WAITING
    errors: tuple[int, ...] = ()


class Receiver(SessionEnd):
    """One session of the receiving end. ``start`` sends the first message of the session."""

    speaks: ClassVar[Direction] = Direction.TO_TRANSMITTER

    def __init__(
        self,
        parameters: SessionParameters,
        journal: Journal,
        entropy: Entropy,
        *,
        monitor: LinkMonitor | None = None,
    ) -> None:
        super().__init__(parameters, journal, entropy, monitor=monitor)
        self._block_detections = parameters.block_detections
        self._readings = ReadingsQueue[ReceiverReadings]()
        """By number of the detection in this session."""
        self._fed_count = 0
        self._first_block = 0
        self._recorded: deque[_Recorded] = deque()
        self._recorded_end = 0
        self._recorded_count = 0
        self._released_count = 0
        """Detections that are recorded and may be announced: the rest of one whole group."""
        self._announced: dict[int, tuple[Detected, Announced]] = {}
        self._next_batch = 0
        self._accumulator: Accumulator | None = None
        self._in_flight: dict[int, _InFlight] = {}
        self._judged: set[int] = set()
        """Blocks that the monitor has looked at, as far back as one in flight may follow."""
        self._given_up: set[int] = set()
        self._is_over = False
        self._has_sent_end = False
        self._is_ended = False

    def start(self) -> None:
        """Greet."""
        self._greet()

    # Device records

    @property
    def wants_detections(self) -> bool:
        """Whether there is room for more of the device's record.

        That holds until a whole group is there, besides what may be announced already. So at most two groups and what
        was fed last are held, ten octets a detection, and a third one that is announced and not answered.
        """
        held = self._recorded_count - self._released_count
        return self.is_open and not self._is_over and held < self._block_detections

    @property
    def _batch_detections(self) -> int:
        return min(BATCH_DETECTIONS, -(-self._block_detections // BATCHES_PER_BLOCK))

    @property
    def first_pulse_wanted(self) -> int:
        """Pulses below were announced before, in this or an earlier session; they are dropped when fed."""
        return self._next_pulse

    def feed(self, detections: Detections, readings: ReceiverReadings | None = None) -> None:
        """Take the next part of the device's record; parts must follow each other.

        Args:
            readings: what the receiver's devices read meanwhile, for the monitor. They count for every block that a
                detection in this part, or a pulse behind its last, may belong to.

        Raises:
            RecordRejected: parts overlap, or the record was said to be over.
        """
        self._require_whole()
        if self._is_over or detections.first < self._recorded_end:
            raise RecordRejected(f"detections from pulse {detections.first} come after the end or overlap")
        self._recorded_end = detections.first + detections.count
        unspent = slice(int(np.searchsorted(detections.pulses, self._next_pulse)), None)
        recorded = _slice_of(_Recorded(detections.pulses, detections.bases == TEST_BASIS, detections.bits), unspent)
        self._hold(recorded)
        if readings is not None and self._monitor is not None:
            self._readings.add(self._fed_count, self._fed_count + len(recorded.pulses), readings)
        self._fed_count += len(recorded.pulses)
        self._recorded_count += len(recorded.pulses)
        self._announce()

    def _hold(self, recorded: _Recorded) -> None:
        """Add to the record; small parts become one, so that a dark link does not hold many tiny ones."""
        size = len(recorded.pulses)
        if not size:
            return
        if self._recorded and size + len(self._recorded[-1].pulses) <= JOINED_DETECTIONS:
            recorded = _joined([self._recorded.pop(), recorded])
        self._recorded.append(recorded)

    def feed_end(self) -> None:
        """Say that the device's record is over."""
        self._require_whole()
        self._is_over = True
        self._announce()

    @property
    def is_finished(self) -> bool:
        """Whether the record is over and every block has ended at both ends."""
        unsettled = any(not kept.is_agreed for kept in self._kept.values())
        return self._is_ended and not self._in_flight and not unsettled

    def _announce(self) -> None:
        """Announce what may be, as far as the other end may have it; then the end of the record."""
        while (
            self._is_open
            and self._release()
            and len(self._announced) < BATCHES_MAX
            and len(self._in_flight) < BLOCKS_IN_FLIGHT_MAX
        ):
            self._announce_batch(self._next_parts())
        is_all_said = self._is_open and self._is_over and not self._recorded_count
        if is_all_said and not self._has_sent_end and len(self._announced) < BATCHES_MAX:
            self._has_sent_end = True
            self._send(End(), self._next_batch)
            self._next_batch += 1
        if self._has_sent_end and not self._announced and not self._is_ended:
            self._is_ended = True
            block = self._opened().finish(self._next_batch - 1)
            if block is not None:
                self._begin(block)

    def _release(self) -> bool:
        """Return whether something may be announced: the group before is, and the next one is recorded whole.

        The last group of a record may be shorter; that it is over depends on no basis either.
        """
        if not self._released_count and (self._is_over or self._recorded_count >= self._block_detections):
            self._released_count = min(self._recorded_count, self._block_detections)
        return self._released_count > 0

    def _next_parts(self) -> list[_Recorded]:
        """Take a batch off the record; it lies within one group."""
        wanted = min(self._batch_detections, self._released_count)
        parts, count = [], 0
        while count < wanted:
            head, rest = self._recorded.popleft(), wanted - count
            if len(head.pulses) > rest:
                self._recorded.appendleft(_slice_of(head, slice(rest, None)))
                head = _slice_of(head, slice(0, rest))
            parts.append(head)
            count += len(head.pulses)
        self._recorded_count -= count
        self._released_count -= count
        return parts

    def _announce_batch(self, parts: list[_Recorded]) -> None:
        recorded = _joined(parts)
        self._advance_pulses(int(recorded.pulses[-1]))
        detected, kept = announcement(recorded.pulses, recorded.is_test, recorded.bits)
        self._announced[self._next_batch] = (detected, kept)
        self._send(detected, self._next_batch)
        self._next_batch += 1

    # Messages

    def _react(self, header: Header, message: Message) -> None:
        number = header.number
        if not self._is_open:
            if not isinstance(message, Hello):
                raise unexpected(message, number)
            self._on_hello(message)
            return
        if number in self._given_up and not isinstance(message, Sifted | Settled):
            self._forget_block(number)
            return
        match message:
            case Sifted():
                self._on_sifted(number, message)
            case Frames():
                self._on_frames(number, message)
            case Opened():
                self._on_opened(number, message)
            case Parities():
                self._on_parities(number, message)
            case Verify():
                self._on_verify(number, message)
            case Amplify():
                self._on_amplify(number, message)
            case Settled():
                self._on_settled(number)
            case Void(reason):
                self._on_void(number, reason)
            case _:
                raise unexpected(message, number)

    def _first_session(self) -> bytes:
        return self._nonce + bytes(len(self._nonce))

    def receive(self, raw: bytes | memoryview) -> None:
        """Take one whole message; the first is bound to our own greeting, which no recorded one can be."""
        if not self._is_open:
            self._opener.session = self._first_session()
        super().receive(raw)

    def _on_hello(self, hello: Hello) -> None:
        self._check_parameters(hello)
        if hello.next_pulse > self._next_pulse:
            raise JournalRefused(f"we would begin at pulse {self._next_pulse}, {hello.next_pulse} are spent")
        if hello.blocks:
            raise unexpected(hello, 0)
        self._sealer.session = self._opener.session = self._nonce + hello.nonce
        self._is_open = True
        self._first_block = max(self._next_block, hello.next_block)
        self._accumulator = Accumulator(
            self._block_detections, len(self.parameters.settings.intensities), self._first_block, self._next_pulse
        )
        self._announce()

    def _opened(self) -> Accumulator:
        if self._accumulator is None:
            raise RecordRejected("no session is open", code="link.session_over")
        return self._accumulator

    def _on_sifted(self, number: int, sifted: Sifted) -> None:
        if not self._announced or number != min(self._announced):
            raise unexpected(sifted, number)
        detected, announced = self._announced.pop(number)
        kept = kept_of_receiver(detected, announced, sifted, len(self.parameters.settings.intensities))
        block = self._opened().add(number, kept, int(detected.pulses[-1]))
        if block is not None:
            self._begin(block)
        self._announce()

    def _begin(self, block: SiftedBlock) -> None:
        self._advance_blocks(block.number)
        self._count_batches(block)
        self._in_flight[block.number] = _InFlight(block, corrector(self.parameters, block))

    def _expect(self, number: int, message: Message, stage: _Stage) -> _InFlight:
        found = self._in_flight.get(number)
        if found is None or found.stage is not stage:
            raise unexpected(message, number)
        return found

    def _on_frames(self, number: int, frames: Frames) -> None:
        found = self._expect(number, frames, _Stage.WAITING)
        if refusal(self.parameters, found.block) is not None:
            raise unexpected(frames, number)
        found.stage = _Stage.RECONCILING
        self._send(found.corrector.on_frames(frames), number)

    def _on_opened(self, number: int, opened: Opened) -> None:
        self._expect(number, opened, _Stage.RECONCILING).corrector.on_opened(opened)

    def _on_parities(self, number: int, parities: Parities) -> None:
        answer = self._expect(number, parities, _Stage.RECONCILING).corrector.on_parities(parities)
        if answer is not None:
            self._send(answer, number)

    def _on_verify(self, number: int, verify: Verify) -> None:
        found = self._expect(number, verify, _Stage.RECONCILING)
        block, corrected = found.block, found.corrector.corrected
        if corrected is None or verify.hash_bits != verification_bits(self.parameters, block.key_bits):
            raise unexpected(verify, number)
        is_equal = hashes_agree(hash_block(corrected, verify.function, verify.hash_bits), verify.value)
        widths = tuple(int(count).bit_length() or 1 for count in block.key_detections)
        found.errors = block.errors_by_intensity(corrected) if is_equal else (0,) * len(widths)
        reason = self._judge_received(found) if is_equal else None
        if reason is not None:
            self._give_up(number, reason)
            return
        found.stage = _Stage.VERIFIED
        self._send(Verified(is_equal, found.errors, widths), number)
        if not is_equal:
            self._drop(number, VoidReason.NOT_EQUAL)

    def _judge_received(self, found: _InFlight) -> VoidReason | None:
        counts = found.block.counts(found.errors or None)
        observation = received_observation(counts, self._readings_until(found.block.number))
        return self._judge(found.block.number, observation)

    def _readings_until(self, number: int) -> ReceiverReadings | None:
        """Return what was read during a block, and during those right before it that nobody judges.

        A block before it may be judged later, since parities take their time: what was read during that stays, and
        counts once.
        """
        behind = number + 1
        judged = (other for other, found in self._in_flight.items() if found.stage is _Stage.VERIFIED)
        first_unjudged = min(self._in_flight.keys() - {number, *judged}, default=behind)
        end, settled = ((block - self._first_block) * self._block_detections for block in (behind, first_unjudged))
        others = self._judged | self._in_flight.keys()
        before = max((other for other in others if other < number), default=self._first_block - 1)
        begin = (before + 1 - self._first_block) * self._block_detections
        oldest = min(self._in_flight, default=number)
        last = max((other for other in self._judged if other < oldest), default=oldest)
        self._judged = {other for other in self._judged if other >= last} | {number}
        return self._readings.take(end, begin=begin, settled=min(end, settled))

    def _give_up(self, number: int, reason: VoidReason) -> None:
        """End a block without a key, and tell the other end, whatever it has sent about the block already."""
        self._given_up.add(number)
        self._send(Void(reason), number)
        self._drop(number, reason)

    def _on_amplify(self, number: int, message: Amplify) -> None:
        found = self._expect(number, message, _Stage.VERIFIED)
        block, corrected = found.block, found.corrector.corrected
        unsettled = sum(not kept.is_agreed for kept in self._kept.values())
        if corrected is None or unsettled >= BLOCKS_MAX:  # a greeting has no room for more
            raise unexpected(message, number)
        leak = self._leak_bits[number]
        counts = block.counts(found.errors)
        bound, secret_bits = secret_length(self.parameters, counts, leak_bits=leak, block_bits=block.key_bits)
        too_much = sum(message.refill_bytes) * 8 > secret_bits
        too_noisy = sum(found.errors) / block.key_bits > self.parameters.qber_max
        if message.secret_bits != secret_bits or not secret_bits or too_much or too_noisy:
            raise PeerBrokeProtocol(f"the transmitter makes {message.secret_bits} bits of key, we {secret_bits}")
        if message.seed_bits != seed_bits(block.key_bits, secret_bits):
            raise PeerBrokeProtocol(f"a seed of {message.seed_bits} bits for {secret_bits} bits of key")
        material = amplify(bytearray(corrected), block.key_bits, message.seed, secret_bits).take()
        there, both = message.refill_bytes[0], sum(message.refill_bytes)
        position = self._streams.end(self.speaks)
        further = self._streams.extend(Direction.TO_RECEIVER, material[:there])
        further |= self._streams.extend(Direction.TO_TRANSMITTER, material[there:both])
        report = block_report(
            block,
            counts,
            leak_bits=leak,
            bound=bound,
            secret_bits=secret_bits,
            refill_bytes=message.refill_bytes,
            epsilons=bound.epsilons + self._authentication_epsilon(number),
        )
        kept = KeptKey(number, False, False, position, report, (0, 0), material[both:])
        self._keep(kept, further)  # from here on the block has a key, at both ends, whatever happens
        del self._in_flight[number]
        self._forget_block(number)
        self._tell(kept)
        self._send(Done(), number)
        self._announce()

    def _on_settled(self, number: int) -> None:
        kept = self._kept.get(number)
        if kept is None or kept.is_agreed:
            return
        if kept.is_stored:
            del self._kept[number]
            self._commit({kept.name: None})
        else:
            self._keep(kept.agreed(), {})

    def _on_void(self, number: int, reason: VoidReason) -> None:
        found = self._in_flight.get(number)
        if found is None:
            raise unexpected(Void(reason), number)
        # That the block has no key is settled; what the own devices read tells more than a reason that is no alarm.
        own = None if found.stage is _Stage.VERIFIED else self._judge_received(found)
        self._drop(number, reason if own is None or reason.is_alarm else own)

    def _drop(self, number: int, reason: VoidReason) -> None:
        block = self._in_flight.pop(number).block
        self._tell_void(number, reason, block)
        self._forget_block(number)
        self._announce()

    def _limit(self) -> int:
        """Return the end of the own stream as far as the transmitter is known to have it."""
        positions = [kept.own_position for kept in self._kept.values() if not kept.is_agreed]
        return min(positions, default=super()._limit())

    def _is_mine_to_tell(self, kept: KeptKey) -> bool:
        return not kept.is_stored


def _joined(parts: list[_Recorded]) -> _Recorded:
    if len(parts) == 1:
        return parts[0]
    columns = zip(*((part.pulses, part.is_test, part.bits) for part in parts), strict=True)
    return _Recorded(*(np.concatenate(column) for column in columns))


def _slice_of(recorded: _Recorded, part: slice) -> _Recorded:
    return _Recorded(recorded.pulses[part], recorded.is_test[part], recorded.bits[part])
