"""Reconciliation of one block as the session sees it: messages in, messages out, whichever codes are in use.

With ``ldpc`` the transmitter sends the syndromes of all frames at once, and in full what did not converge: a frame is
never thrown away for having many errors, because a key made only of frames that went well is a selection that the
adversary takes part in, and no proof covers it. With ``cascade`` both ends send parities in turn.

The plan of the frames follows from one number, the expected error rate, which the transmitter names. The payload of all
frames together is the block; how many frames, of which code, is what leaks least.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shosoin.base import Entropy
from shosoin.link.information import binary_entropy
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.frames import cut, frame_count, join, own_bits
from shosoin.link.postprocessing.messages import Decoded, Frames, Message, Opened, Parities
from shosoin.link.postprocessing.parameters import SessionParameters
from shosoin.link.postprocessing.sifting import SiftedBlock
from shosoin.link.reconciliation.cascade import CascadeEnd
from shosoin.link.reconciliation.catalogue import FAMILIES
from shosoin.link.reconciliation.frames import correct, disclose
from shosoin.link.reconciliation.plan import FramePlan

__all__ = ["Corrector", "Discloser", "corrector", "discloser", "plan_block"]

Bytes = npt.NDArray[np.uint8]

_MILLION = 1_000_000
_CASCADE_QBER_MIN = 0.001


def plan_block(block_bits: int, qber: float) -> tuple[FramePlan, int]:
    """Return the plan of every frame of a block, and how many there are: what leaks least of all codes.

    Args:
        qber: the expected error rate, which is planned for as if it were never below the code's least.
    """
    best: tuple[int, FramePlan, int] | None = None
    for family in FAMILIES:
        planned = min(max(qber, family.qber_min), family.qber_max)
        entropy = float(binary_entropy(planned))
        for member in family.members:
            used = min(family.columns, math.floor(member.rows / (entropy * member.efficiency(planned))))
            if not used:
                continue
            count = frame_count(block_bits, used * family.lifting)
            leak = count * member.rows * family.lifting
            if best is None or leak < best[0]:
                payload = 8 * -(-(block_bits // 8) // count)
                shortened = (family.columns - -(-payload // family.lifting)) * family.lifting
                best = leak, FramePlan(member.code, payload, shortened, 0, planned), count
    if best is None:
        raise ValueError("there are no codes")
    return best[1], best[2]


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
        # Both ends compute the plan from a number that fits the message.
        self._qber_millionths = min(_MILLION // 2, math.ceil(qber * _MILLION))
        self._plan, self._count = plan_block(block.key_bits, self._qber_millionths / _MILLION)
        self._octets = block.key_bits // 8
        self._frames = cut(block.bits, self._count)
        self._entropy = entropy

    def opening(self) -> list[Message]:
        """Return the syndromes."""
        sent = [disclose(self._plan, frame, self._entropy) for frame in self._frames]
        return [Frames(self._qber_millionths, tuple(one.message for one in sent), self._plan.matrix().syndrome_bits)]

    def on_decoded(self, decoded: Decoded) -> Opened | None:
        """Return the frames that did not converge."""
        if len(decoded.is_decoded) != self._count:
            raise PeerBrokeProtocol(f"{len(decoded.is_decoded)} frames decoded of {self._count}")
        failed = np.flatnonzero(~decoded.is_decoded).tolist()
        bits = tuple(own_bits(frame, self._count, self._octets) for frame in failed)
        frames = tuple(self._frames[frame, : size // 8].tobytes() for frame, size in zip(failed, bits, strict=True))
        return Opened(frames, bits) if failed else None

    def on_parities(self, parities: Parities) -> Parities | None:
        """Refuse: these codes know no parities."""
        raise PeerBrokeProtocol("parities for a block that is reconciled in frames")


class _FrameCorrector:
    def __init__(self, block: SiftedBlock) -> None:
        self._block = block
        self._frames = np.empty((0, 0), np.uint8)
        self._failed: list[int] = []
        self.corrected: Bytes | None = None

    def on_frames(self, frames: Frames) -> Message:
        """Correct what converges."""
        block, qber = self._block, frames.qber_millionths / _MILLION
        plan, count = plan_block(block.key_bits, qber)
        if len(frames.messages) != count or frames.message_bits != plan.matrix().syndrome_bits:
            raise PeerBrokeProtocol(f"{len(frames.messages)} frames, the plan has {count}")
        self._frames = cut(block.bits, count)
        is_decoded = np.zeros(count, np.bool_)
        for number, message in enumerate(frames.messages):
            correction = correct(plan, self._frames[number], message, qber)
            is_decoded[number] = correction.converged
            if correction.converged:
                self._frames[number] = np.frombuffer(correction.bits, np.uint8)
        self._failed = np.flatnonzero(~is_decoded).tolist()
        if not self._failed:
            self._finish()
        return Decoded(is_decoded)

    def on_opened(self, opened: Opened) -> None:
        """Take the frames that did not converge."""
        count, octets = len(self._frames), self._block.key_bits // 8
        wanted = tuple(own_bits(frame, count, octets) for frame in self._failed)
        if not self._failed or opened.frame_bits != wanted:
            raise PeerBrokeProtocol(f"{len(opened.frame_bits)} frames opened, expected {len(self._failed)}")
        for number, frame in zip(self._failed, opened.frames, strict=True):
            self._frames[number, : len(frame)] = np.frombuffer(frame, np.uint8)
        self._finish()

    def _finish(self) -> None:
        self.corrected = join(self._frames, self._block.key_bits // 8)
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
        return [Frames(self._qber_millionths, (), 0), self._cascade.now()]

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
