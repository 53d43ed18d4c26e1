"""Reconciliation of one block as the session sees it: messages in, messages out, whichever codes are in use.

With ``ldpc`` the transmitter sends the syndromes of all frames at once, and in full what did not converge: a frame is
never thrown away for having many errors, because a key made only of frames that went well is a selection that the
adversary takes part in, and no proof covers it. With ``cascade`` both ends send parities in turn.

The frames follow from the length of the block and one number, the expected error rate, which the transmitter names.
There is no short last frame that would waste its syndrome: long frames are followed by short ones, and a rest for which
a syndrome would be as long as the rest itself is disclosed in full. All of it counts.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shosoin.base import Entropy
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.frames import in_block_order, in_frame_order
from shosoin.link.postprocessing.messages import Decoded, Frames, Message, Opened, Parities
from shosoin.link.postprocessing.parameters import SessionParameters
from shosoin.link.postprocessing.sifting import SiftedBlock
from shosoin.link.reconciliation import FramePlan, correct_many, disclose, plan_block
from shosoin.link.reconciliation.cascade import CascadeEnd
from shosoin.link.reconciliation.catalogue import FAMILIES

__all__ = ["Corrector", "Discloser", "corrector", "discloser", "expected_qber"]

Bytes = npt.NDArray[np.uint8]

_MILLION = 1_000_000
_CASCADE_QBER_MIN = 0.001
_DEVIATIONS = 2.0
_MARGIN = 0.02
"""So much more is disclosed than codes need: a fifth fewer rounds of decoding. In long blocks this costs 0.4 per cent
of the key at an error rate of 1 %, 1.5 per cent at 3 % and 5 per cent at 5 %."""


def expected_qber(errors: int, bits: int) -> float:
    """Return the error rate to plan for after so many errors in so many bits: two standard deviations above it.

    A frame that fails costs all of its bits, a plan that is too careful a few of them.
    """
    rate = (errors + 1) / (bits + 2)
    return min(0.5, rate + _DEVIATIONS * math.sqrt(rate * (1 - rate) / (bits + 2)))


class _Layout:
    """The frames of a block in whole octets: plans, where each begins and ends in the order of frames, and the rest."""

    def __init__(self, octets: int, qber_millionths: int) -> None:
        block_bits = 8 * octets
        limit = max(family.qber_max for family in FAMILIES)
        self.plans: tuple[FramePlan, ...] = plan_block(
            min(qber_millionths / _MILLION, limit), block_bits, margin=_MARGIN
        )
        edges = np.cumsum([0, *(plan.payload_bits // 8 for plan in self.plans)]).tolist()
        self.spans = [slice(start, end) for start, end in pairwise(edges)]
        self.rest = slice(edges[-1], octets)
        self.rest_bits = block_bits - 8 * edges[-1]

    @property
    def message_bits(self) -> tuple[int, ...]:
        """Lengths of what is disclosed of each frame, and last of the rest if there is one."""
        syndromes = [plan.matrix().syndrome_bits for plan in self.plans]
        return (*syndromes, self.rest_bits) if self.rest_bits else tuple(syndromes)


class Discloser(Protocol):
    """The transmitter's side of one block."""

    def opening(self) -> list[Message]:
        """Return what to send first."""
        ...

    def on_decoded(self, decoded: Decoded) -> Opened | None:
        """Take which frames converged; return the others in full."""
        ...

    def on_parities(self, parities: Parities) -> Parities | None:
        """Take the other end's parities; return the next ones, or None when it is over."""
        ...


class Corrector(Protocol):
    """The receiver's side of one block."""

    def on_frames(self, frames: Frames) -> Message:
        """Take what the transmitter disclosed first; return the answer."""
        ...

    def on_opened(self, opened: Opened) -> None:
        """Take frames in full."""
        ...

    def on_parities(self, parities: Parities) -> Parities | None:
        """Take the other end's parities; return the next ones, or None when it is over."""
        ...

    @property
    def corrected(self) -> Bytes | None:
        """The packed block, once it is corrected."""
        ...


def discloser(parameters: SessionParameters, block: SiftedBlock, qber: float, entropy: Entropy) -> Discloser:
    """Return the transmitter's side for a block with an expected error rate."""
    if parameters.codes == "cascade":
        return _CascadeDiscloser(block, qber)
    return _FrameDiscloser(block, qber, entropy)


def corrector(parameters: SessionParameters, block: SiftedBlock) -> Corrector:
    """Return the receiver's side."""
    return _CascadeCorrector(block) if parameters.codes == "cascade" else _FrameCorrector(block)


class _FrameDiscloser:
    def __init__(self, block: SiftedBlock, qber: float, entropy: Entropy) -> None:
        # Both ends lay the frames out by a number that fits the message.
        self._qber_millionths = min(_MILLION // 2, math.ceil(qber * _MILLION))
        self._layout = _Layout(len(block.bits), self._qber_millionths)
        self._octets = in_frame_order(block.bits)
        self._entropy = entropy

    def opening(self) -> list[Message]:
        """Return the syndromes, and the rest in full."""
        layout = self._layout
        sent = [
            disclose(plan, self._octets[span], self._entropy).message
            for plan, span in zip(layout.plans, layout.spans, strict=True)
        ]
        if layout.rest_bits:
            sent.append(self._octets[layout.rest].tobytes())
        return [Frames(self._qber_millionths, tuple(sent), layout.message_bits)]

    def on_decoded(self, decoded: Decoded) -> Opened | None:
        """Return the frames that did not converge."""
        layout = self._layout
        if len(decoded.is_decoded) != len(layout.plans):
            raise PeerBrokeProtocol(f"{len(decoded.is_decoded)} frames decoded of {len(layout.plans)}")
        failed = np.flatnonzero(~decoded.is_decoded).tolist()
        if not failed:
            return None
        frames = tuple(self._octets[layout.spans[number]].tobytes() for number in failed)
        return Opened(frames, tuple(layout.plans[number].payload_bits for number in failed))

    def on_parities(self, parities: Parities) -> Parities | None:
        """Refuse: these codes know no parities."""
        raise PeerBrokeProtocol("parities for a block that is reconciled in frames")


class _FrameCorrector:
    def __init__(self, block: SiftedBlock) -> None:
        self._block = block
        self._layout: _Layout | None = None
        self._octets = in_frame_order(block.bits)
        self._failed: list[int] = []
        self.corrected: Bytes | None = None

    def on_frames(self, frames: Frames) -> Message:
        """Correct what converges."""
        layout = _Layout(len(self._block.bits), frames.qber_millionths)
        if self._layout is not None or frames.message_bits != layout.message_bits:
            raise PeerBrokeProtocol(f"{len(frames.messages)} frames, which the error rate does not ask for")
        self._layout = layout
        if layout.rest_bits:
            self._octets[layout.rest] = np.frombuffer(frames.messages[-1], np.uint8)
        is_decoded = np.zeros(len(layout.plans), np.bool_)
        received = [
            (plan, self._octets[span], message)
            for plan, span, message in zip(
                layout.plans, layout.spans, frames.messages[: len(layout.plans)], strict=True
            )
        ]
        for number, (span, correction) in enumerate(zip(layout.spans, correct_many(received), strict=True)):
            is_decoded[number] = correction.converged
            if correction.converged:
                self._octets[span] = np.frombuffer(correction.bits, np.uint8)
        self._failed = np.flatnonzero(~is_decoded).tolist()
        if not self._failed:
            self._finish()
        return Decoded(is_decoded)

    def on_opened(self, opened: Opened) -> None:
        """Take the frames that did not converge."""
        plans = self._layout.plans if self._layout else ()
        wanted = tuple(plans[number].payload_bits for number in self._failed)
        if self._layout is None or not self._failed or opened.frame_bits != wanted:
            raise PeerBrokeProtocol(f"{len(opened.frame_bits)} frames opened, expected {len(self._failed)}")
        for number, frame in zip(self._failed, opened.frames, strict=True):
            self._octets[self._layout.spans[number]] = np.frombuffer(frame, np.uint8)
        self._finish()

    def _finish(self) -> None:
        self.corrected = in_block_order(self._octets)
        self._failed = []

    def on_parities(self, parities: Parities) -> Parities | None:
        """Refuse: these codes know no parities."""
        raise PeerBrokeProtocol("parities for a block that is reconciled in frames")


class _Cascade:
    """One end of Cascade on a whole block."""

    def __init__(self, block: SiftedBlock, qber: float, *, corrects: bool) -> None:
        bits = np.unpackbits(block.bits, count=block.key_bits, bitorder="little")
        self._end = CascadeEnd(bits, min(max(qber, _CASCADE_QBER_MIN), 0.4), seed=block.number, corrects=corrects)

    def now(self) -> Parities:
        """Return this end's parities of the sets that are next."""
        parities = self._end.parities
        return Parities(len(parities), np.packbits(parities, bitorder="little").tobytes())

    def take(self, parities: Parities) -> bool:
        """Take the other end's; return whether more follow."""
        peer = np.frombuffer(parities.parities, np.uint8)
        if parities.count != len(self._end.parities):
            raise PeerBrokeProtocol(f"{parities.count} parities, expected {len(self._end.parities)}")
        self._end.take(np.unpackbits(peer, count=parities.count, bitorder="little"))
        return not self._end.is_over

    def packed(self) -> Bytes:
        """Return the block as it is now."""
        return np.packbits(self._end.bits, bitorder="little")


class _CascadeDiscloser:
    def __init__(self, block: SiftedBlock, qber: float) -> None:
        self._qber_millionths = min(_MILLION // 2, math.ceil(qber * _MILLION))
        self._cascade = _Cascade(block, self._qber_millionths / _MILLION, corrects=False)

    def opening(self) -> list[Message]:
        """Name the error rate, and send the first parities."""
        return [Frames(self._qber_millionths, (), ()), self._cascade.now()]

    def on_decoded(self, decoded: Decoded) -> Opened | None:
        """Refuse: there are no frames."""
        raise PeerBrokeProtocol("frames of a block that is reconciled by parities")

    def on_parities(self, parities: Parities) -> Parities | None:
        """Go on."""
        return self._cascade.now() if self._cascade.take(parities) else None


class _CascadeCorrector:
    def __init__(self, block: SiftedBlock) -> None:
        self._block = block
        self._cascade: _Cascade | None = None
        self.corrected: Bytes | None = None

    def on_frames(self, frames: Frames) -> Message:
        """Begin with the error rate that the transmitter names."""
        if frames.messages or self._cascade is not None:
            raise PeerBrokeProtocol("frames of a block that is reconciled by parities")
        self._cascade = _Cascade(self._block, frames.qber_millionths / _MILLION, corrects=True)
        return self._cascade.now()

    def on_opened(self, opened: Opened) -> None:
        """Refuse: there are no frames."""
        raise PeerBrokeProtocol("frames of a block that is reconciled by parities")

    def on_parities(self, parities: Parities) -> Parities | None:
        """Go on."""
        if self._cascade is None:
            raise PeerBrokeProtocol("parities before the error rate")
        if self._cascade.take(parities):
            return self._cascade.now()
        self.corrected = self._cascade.packed()
        return None
