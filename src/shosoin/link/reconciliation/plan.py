"""Which code a frame uses, and what it discloses: decided from public numbers alone, alike at both ends."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

from shosoin.base import Rejected
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation.catalogue import FAMILIES, Family, Member
from shosoin.link.reconciliation.code import LdpcCode, code_named

__all__ = ["FramePlan", "plan_block", "plan_frame"]

_USED_MIN = 0.8
"""Share of a frame that a plan uses at least, unless the payload is shorter: codes lie closer than that."""


_CODES = frozenset(member.code for family in FAMILIES for member in family.members)


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
        if str(self.code) not in _CODES:
            raise Rejected(f"no code is named {str(self.code)[:20]!r}", code="link.bad_plan")
        try:
            for name in ("payload_bits", "shortened_bits", "punctured_bits"):
                object.__setattr__(self, name, operator.index(getattr(self, name)))
            object.__setattr__(self, "qber", float(self.qber))
        except (TypeError, ValueError, OverflowError):
            raise Rejected("a plan has whole numbers of bits, and a QBER", code="link.bad_plan") from None
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
        if not self.punctured_bits:
            return ()
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
        frame_bits: about how long a frame should be; by default the longest, which leaks least, or, for a given
            payload, the one that leaks least of it.
        payload_bits: exactly how much payload the frame has, for the short last frame of a block; by default all
            that fits.
        margin: how much more to leak than the measured thresholds ask for, 0.02 for two per cent.

    Raises:
        Rejected: ``link.qber_above_limit``; ``link.bad_plan`` for a payload that fits no frame;
            ``link.block_too_short`` for one so short that disclosing it whole leaks no more.
        ValueError: a negative margin, or a QBER that is none.
    """
    if not 0 <= qber <= 0.5 or not margin >= 0:
        raise ValueError(f"expected a QBER of 0 to 0.5 and no negative margin, got {qber} and {margin}")
    families = [_nearest(frame_bits)] if frame_bits is not None or payload_bits is None else list(FAMILIES)
    limit = max(family.qber_max for family in families)
    if qber > limit:
        raise _above_limit(f"QBER is {qber:.4f}, the codes correct up to {limit:.4f}")
    if payload_bits is None:
        return _full_frame(families[0], qber, margin)
    fitting = [family for family in families if 0 < payload_bits <= family.frame_bits]
    if not fitting:
        raise Rejected(f"got {payload_bits} payload bits, which fit no frame", code="link.bad_plan")
    return _short_frame(fitting, qber, margin, payload_bits)


def plan_block(qber: float, block_bits: int, *, margin: float = 0.0) -> tuple[FramePlan, ...]:
    """Return plans for the frames of a block, one after the other: long ones, then short ones, then a rest.

    The payloads add up to ``block_bits``, or to less if the rest is too short to be worth correcting; what is left
    over is for the caller to give up.

    Raises:
        Rejected: as :func:`plan_frame`.
        ValueError: likewise, or ``block_bits`` is negative.
    """
    if block_bits < 0:
        raise ValueError(f"a block has no {block_bits} bits")
    plans: list[FramePlan] = []
    left = block_bits
    for family in sorted(FAMILIES, key=lambda family: -family.frame_bits):
        full = plan_frame(qber, frame_bits=family.frame_bits, margin=margin)
        plans += [full] * (left // full.payload_bits)
        left %= full.payload_bits
    try:
        rest = [plan_frame(qber, payload_bits=left, margin=margin)] if left else []
    except Rejected as refusal:
        if refusal.code != "link.block_too_short":
            raise
        rest = []
    return (*plans, *rest)


def _nearest(frame_bits: int | None) -> Family:
    if frame_bits is None:
        return max(FAMILIES, key=lambda family: family.frame_bits)
    return min(FAMILIES, key=lambda family: abs(math.log(family.frame_bits / max(1, frame_bits))))


def _above_limit(message: str) -> Rejected:
    return Rejected(
        message,
        code="link.qber_above_limit",
        hint="no secret key comes from such a link; look for misalignment, stray light or an eavesdropper",
    )


def _full_frame(family: Family, qber: float, margin: float) -> FramePlan:
    """Return the plan with the longest payload: as many checks as possible, no more leak than asked for."""
    planned = max(qber, family.qber_min)
    share = family.leak_share(planned) * (1 + margin)
    member = max(
        (member for member in family.members if member.rows <= share * family.columns),
        key=lambda member: member.rows,
        default=family.members[0],
    )
    used = min(family.columns, math.floor(member.rows / share))
    if used < _USED_MIN * family.columns:
        raise _above_limit(f"no code leaks enough at QBER {qber:.4f} with a margin of {margin}")
    return _plan(family, member, used * family.lifting, planned)


def _short_frame(families: list[Family], qber: float, margin: float, payload_bits: int) -> FramePlan:
    """Return the plan with the least leak for this payload."""
    plans = []
    for family in families:
        planned = max(qber, family.qber_min)
        blocks = -(-payload_bits // family.lifting)
        # Fewer bits scatter more, and a code of which little is left is not what it was designed for: measured.
        scatter = 1 + 0.6 * (max(1.0, math.sqrt(_USED_MIN * family.columns / blocks)) - 1)
        rows = family.leak_share(planned) * (1 + margin) * scatter * blocks
        fitting = [member for member in family.members if member.rows >= rows]
        if fitting:
            plans.append(_plan(family, fitting[0], payload_bits, planned))
    if not plans:
        raise _above_limit(f"no code leaks enough at QBER {qber:.4f} with a margin of {margin}")
    plan = min(plans, key=lambda plan: plan.leak_bits)
    if plan.leak_bits >= payload_bits:
        raise Rejected(
            f"{payload_bits} payload bits would take a syndrome of {plan.leak_bits}",
            code="link.block_too_short",
            hint="cut the block into short frames, or gather a longer one; this one tells less if disclosed whole",
        )
    return plan


def _plan(family: Family, member: Member, payload_bits: int, qber: float) -> FramePlan:
    blocks = -(-payload_bits // family.lifting)
    return FramePlan(member.code, payload_bits, (family.columns - blocks) * family.lifting, 0, qber)
