"""The codes of the package, by frame size, with the least leak at which each was measured to work.

The numbers are from ``scripts/calibrate_ldpc_plans.py``: the f at which frames with 3.3 standard deviations too many
errors still decode within 60 iterations, of a code used whole or of the one below it used to 87 per cent, whichever is
larger. Between two codes the leak that an entropy needs is interpolated, so a plan leaks more when the QBER is higher.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shosoin.link.information import binary_entropy

__all__ = ["FAMILIES", "Family", "Member"]


@dataclass(frozen=True, slots=True)
class Member:
    """One code of a family."""

    code: str
    rows: int
    f_ec: float
    """Leak over the least possible one, at which frame errors stay below one in a thousand."""


@dataclass(frozen=True, slots=True)
class Family:
    """Codes of one frame size, from little leak to much."""

    columns: int
    lifting: int
    qber_min: float
    qber_max: float
    members: tuple[Member, ...]

    @property
    def frame_bits(self) -> int:
        """Bits of a frame without shortening."""
        return self.columns * self.lifting

    def leak_share(self, qber: float) -> float:
        """Return how much a frame must disclose at this QBER, as a share of its payload."""
        shares = [member.rows / self.columns for member in self.members]
        entropies = [share / member.f_ec for share, member in zip(shares, self.members, strict=True)]
        entropy = float(binary_entropy(qber))
        if entropy <= entropies[0]:
            return entropy * self.members[0].f_ec
        if entropy >= entropies[-1]:
            return entropy * self.members[-1].f_ec
        return float(np.interp(entropy, entropies, shares))


_LONG = (
    (20, 1.25),
    (23, 1.22),
    (26, 1.19),
    (30, 1.175),
    (34, 1.155),
    (39, 1.145),
    (45, 1.13),
    (52, 1.115),
    (60, 1.1),
    (69, 1.1),
    (79, 1.1),
    (91, 1.085),
    (104, 1.09),
    (120, 1.09),
    (138, 1.1),
    (158, 1.09),
    (182, 1.1),
    (209, 1.1),
    (240, 1.105),
)
_SHORT = (
    (8, 1.595),
    (9, 1.595),
    (10, 1.485),
    (12, 1.415),
    (14, 1.385),
    (16, 1.285),
    (19, 1.25),
    (22, 1.205),
    (25, 1.185),
    (29, 1.16),
    (33, 1.155),
    (38, 1.15),
    (44, 1.13),
    (50, 1.135),
    (58, 1.14),
    (66, 1.135),
    (76, 1.13),
)

FAMILIES = (
    Family(400, 2048, 0.005, 0.11, tuple(Member(f"long-{rows:03d}", rows, f_ec) for rows, f_ec in _LONG)),
    Family(128, 512, 0.005, 0.11, tuple(Member(f"short-{rows:03d}", rows, f_ec) for rows, f_ec in _SHORT)),
)
