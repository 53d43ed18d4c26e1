"""Threshold schemes and the numbers that follow from them.

``shamir(k, n)``: any k of n shares give the object, any k-1 give nothing at all. From k and n follow f, the number of
lying sites that the object survives, and the quorums of its catalog register, of whose members f_r may lie.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shosoin.base import Rejected
from shosoin.kernels import POINTS

__all__ = ["BadScheme", "Scheme"]

_TEXT = re.compile(r"\s*(\d{1,3})\s*(?:-of-|/|,)\s*(\d{1,3})\s*", re.IGNORECASE)


class BadScheme(Rejected):
    """A threshold scheme that cannot be."""

    code = "vault.bad_scheme"
    hint = "choose 2 <= k <= n <= 16, with n no larger than the number of sites, for example 3-of-5"


@dataclass(frozen=True, slots=True)
class Scheme:
    """``shamir(k, n)`` with 2 <= k <= n <= 16.

    Raises:
        BadScheme: outside that range. k = 1 is refused because one site alone would hold the plaintext.
    """

    k: int
    n: int

    def __post_init__(self) -> None:
        if self.k == 1:
            raise BadScheme(f"k = 1 would give every site the plaintext, got {self.k}-of-{self.n}")
        if not 2 <= self.k <= self.n <= len(POINTS):
            raise BadScheme(f"got {self.k}-of-{self.n}, expected 2 <= k <= n <= {len(POINTS)}")

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Read ``3-of-5``."""
        match = _TEXT.fullmatch(text)
        if not match:
            raise BadScheme(f"got {text[:40]!r}, expected K-of-N")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.k}-of-{self.n}"

    @property
    def liars_survived(self) -> int:
        """f = floor((n-k)/2)."""
        return (self.n - self.k) // 2

    @property
    def durable_min(self) -> int:
        """Fewest sites that must hold a share durably before a put is acknowledged: k + f."""
        return self.k + self.liars_survived

    @property
    def register_liars(self) -> int:
        """f_r = min(f, floor((n-1)/3))."""
        return min(self.liars_survived, (self.n - 1) // 3)

    @property
    def write_quorum(self) -> int:
        """q = floor((n+f_r)/2) + 1."""
        return (self.n + self.register_liars) // 2 + 1

    @property
    def read_quorum(self) -> int:
        """n + f_r + 1 - q answers meet every certificate in an honest site."""
        return self.n + self.register_liars + 1 - self.write_quorum

    def points(self) -> tuple[int, ...]:
        """Return the evaluation points of the n sites, in placement order."""
        return POINTS[: self.n]
