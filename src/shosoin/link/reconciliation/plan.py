"""Which code a frame uses, and what it discloses: decided from public numbers alone, alike at both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from shosoin.base import Rejected
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation.catalogue import FAMILIES, Family, Member
from shosoin.link.reconciliation.code import LdpcCode, code_named

__all__ = ["FramePlan", "plan_frame"]


@dataclass(frozen=True, slots=True)
class FramePlan:
    """How one frame is reconciled. Equal plans at both ends are a condition; ``to_json`` is what they compare.

    Raises:
        Rejected: the numbers fit no frame of the code (``link.bad_plan``).
    """

    code: str
    payload_bits: int
    """Bits of sifted key in the frame; the rest of the last block is zeros that both ends add."""
    shortened_bits: int
    """Bits, the last of the frame, that are zero by agreement."""
    punctured_bits: int
    """Bits that only Alice knows: fresh, uniform, never disclosed."""
    qber: float
    """The QBER that the plan is made for, 0 to 1/2."""

    def __post_init__(self) -> None:
        code = self.matrix()
        lifting = code.lifting
        if self.shortened_bits % lifting or self.punctured_bits % lifting or not 0 < self.qber <= 0.5:
            raise self._misfit()
        room = code.bits - self.shortened_bits - self.punctured_bits
        if min(self.shortened_bits, self.punctured_bits) < 0 or not room - lifting < self.payload_bits <= room:
            raise self._misfit()
        if self.punctured_bits and self.punctured_bits // lifting != len(self.punctured_columns()):
            raise self._misfit()

    def _misfit(self) -> Rejected:
        return Rejected(f"{self.payload_bits} payload bits do not fit a frame of {self.code}", code="link.bad_plan")

    def matrix(self) -> LdpcCode:
        """Return the code."""
        return code_named(self.code)

    @property
    def used_columns(self) -> int:
        """Base columns that are not shortened."""
        code = self.matrix()
        return code.columns - self.shortened_bits // code.lifting

    def punctured_columns(self) -> tuple[int, ...]:
        """Return the base columns whose bits are punctured."""
        code = self.matrix()
        allowed = [column for column in code.untainted_columns() if column < self.used_columns]
        return tuple(sorted(allowed[: self.punctured_bits // code.lifting]))

    @property
    def leak_bits(self) -> int:
        """Bits that the disclosure tells about the payload at most: those of the syndrome less the punctured ones."""
        return self.matrix().syndrome_bits - self.punctured_bits

    @property
    def efficiency(self) -> float:
        """f: the leak over the least possible one at the QBER of the plan."""
        return self.leak_bits / (self.payload_bits * float(binary_entropy(self.qber)))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers that define the plan, and what follows from them for a reader."""
        return {
            "code": self.code,
            "payload_bits": self.payload_bits,
            "shortened_bits": self.shortened_bits,
            "punctured_bits": self.punctured_bits,
            "qber": self.qber,
            "leak_bits": self.leak_bits,
            "f_ec": round(self.efficiency, 6),
        }


def plan_frame(
    qber: float, *, frame_bits: int | None = None, payload_bits: int | None = None, margin: float = 0.0
) -> FramePlan:
    """Return the plan with the least leak that is expected to fail in fewer than one frame in a thousand.

    Args:
        qber: error rate expected in the frame, 0 to 0.11; a rate below 0.005 is treated as 0.005.
        frame_bits: about how long a frame should be; by default the longest, which leaks least.
        payload_bits: exactly how much payload the frame has, for the short last frame of a block; by default all
            that fits. At most what fits.
        margin: how much more to leak than the measured thresholds ask for, 0.02 for two per cent.

    Raises:
        Rejected: ``link.qber_above_limit``; ``link.bad_plan`` for a payload that does not fit.
        ValueError: a negative margin, or a QBER that is none.
    """
    if not 0 <= qber <= 0.5 or margin < 0:
        raise ValueError(f"expected a QBER of 0 to 0.5 and no negative margin, got {qber} and {margin}")
    family = _family(frame_bits)
    planned = max(qber, family.qber_min)
    if planned > family.qber_max:
        raise Rejected(
            f"QBER is {qber:.4f}, the codes correct up to {family.qber_max:.4f}",
            code="link.qber_above_limit",
            hint="no secret key comes from such a link; look for misalignment, stray light or an eavesdropper",
        )
    member, used = _choose(family, planned, margin)
    return _fitted(family, member, used, planned, payload_bits)


def _family(frame_bits: int | None) -> Family:
    if frame_bits is None:
        return max(FAMILIES, key=lambda family: family.frame_bits)
    return min(FAMILIES, key=lambda family: abs(math.log(family.frame_bits / max(1, frame_bits))))


def _choose(family: Family, qber: float, margin: float) -> tuple[Member, int]:
    """Return the code, and how many of its columns are used: of those that leak little enough the longest payload."""
    entropy = float(binary_entropy(qber))
    fitting = [
        (member, math.floor(member.rows / (entropy * member.efficiency(qber) * (1 + margin))))
        for member in family.members
    ]
    member, used = max([item for item in fitting if item[1] <= family.columns] or fitting[:1], key=lambda item: item[1])
    if used < family.columns // 2:
        raise Rejected(
            f"no code leaks enough at QBER {qber:.4f} with a margin of {margin}", code="link.qber_above_limit"
        )
    return member, min(used, family.columns)


def _fitted(family: Family, member: Member, used: int, qber: float, payload_bits: int | None) -> FramePlan:
    room = used * family.lifting
    payload = room if payload_bits is None else payload_bits
    if not 0 < payload <= room:
        raise Rejected(f"got {payload_bits} payload bits, the frame has room for {room}", code="link.bad_plan")
    blocks = -(-payload // family.lifting)
    return FramePlan(member.code, payload, (family.columns - blocks) * family.lifting, 0, qber)
