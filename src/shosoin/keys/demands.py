"""What a caller may demand of keys beyond number and size: the ``shosoin_`` extensions of a key request.

Names and values are specified in ``docs/specs/etsi-014.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from shosoin.keys.errors import DemandUnmet
from shosoin.link.port import LinkFacts

__all__ = ["NO_DEMANDS", "Assurance", "Demands", "assurance_of"]


class Assurance(IntEnum):
    """What the bits of a key rest on, from least to most."""

    SIMULATED = 0
    """A simulated link: whoever runs it could know the bits."""
    UNDECLARED = 1
    """The source does not say."""
    COMPUTATIONAL = 2
    """A generator of the operating system, or a key exchange."""
    QKD = 3
    """A QKD link that declares no composable bound (asymptotic rates, or nothing said)."""
    QKD_FINITE = 4
    """A QKD link that declares the failure probability of its security proof."""

    @property
    def word(self) -> str:
        """How it is spelled on the wire."""
        return self.name.lower().replace("_", "-")


_KINDS = {"qkd": Assurance.QKD, "local-generator": Assurance.COMPUTATIONAL, "multicast": Assurance.COMPUTATIONAL}


def assurance_of(facts: LinkFacts) -> Assurance:
    """Return what the bits of a link rest on, by what it declares."""
    if facts.simulated:
        return Assurance.SIMULATED
    level = _KINDS.get(facts.kind, Assurance.UNDECLARED)
    return Assurance.QKD_FINITE if level is Assurance.QKD and facts.epsilon is not None else level


@dataclass(frozen=True, slots=True)
class Demands:
    """Demands of one request; ``None`` demands nothing."""

    max_age_s: float | None = None
    """Age of the oldest bits, from when they came from the link."""
    route_type: str | None = None
    """``direct``: no relay saw the bits; ``indirect``: relays did."""
    min_assurance: Assurance | None = None
    leave_bits: int = 0
    """What has to be left of the stock for others, besides the reserved share; no caller's to say."""

    def check(self, facts: LinkFacts) -> None:
        """Check what is known of a link before anything is drawn.

        Raises:
            DemandUnmet: keys of this link can never meet the demands.
        """
        # All links of a KME are links of its own: there is no relay yet.
        if self.route_type not in {None, "direct"}:
            raise DemandUnmet
        if self.min_assurance is not None and assurance_of(facts) < self.min_assurance:
            raise DemandUnmet

    def and_also(self, other: Demands) -> Demands:
        """Return what meets both, where both demand something this one's route."""
        ages = [age for age in (self.max_age_s, other.max_age_s) if age is not None]
        levels = [level for level in (self.min_assurance, other.min_assurance) if level is not None]
        return Demands(
            max_age_s=min(ages, default=None),
            route_type=self.route_type or other.route_type,
            min_assurance=max(levels, default=None),
            leave_bits=max(self.leave_bits, other.leave_bits),
        )


NO_DEMANDS = Demands()
