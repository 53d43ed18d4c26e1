"""The assurance label: what really protects an object, in a form both people and programs read.

A label is computed from facts that were recorded while the object was written (see ``shosoin.vault.assurance``), never
from configuration alone. ``class_`` names the mechanism; ``everlasting`` is true only if no step rested on computation
and every random bit was physical, and ``reasons`` says in plain words why it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shosoin.base.summary import summary_of

__all__ = ["AssuranceLabel"]


@dataclass(frozen=True, slots=True)
class AssuranceLabel:
    """What protects one version of one object."""

    class_: str
    """Transfer class used: ``its``, ``qkd`` or ``pqc``."""
    everlasting: bool
    reasons: tuple[str, ...]
    """Sentences: why ``everlasting`` is false; empty when it is true."""
    collusion_number: int
    collusion_set: tuple[str, ...]
    """One smallest set of trust domains that could open the object together."""
    trusted_home: str
    """The owner's home site, which saw the plaintext and is trusted until its keys are erased."""
    randomness: tuple[str, ...]
    """Source of every kind of random number used (coefficients, masks, MAC keys, ...)."""
    transfers: tuple[tuple[str, str], ...]
    """Per site: how its share travelled and under what keys."""
    epsilon_total: float | None
    """Sum of the failure probabilities of the key links; ``None`` when a link declared none."""
    durable_at: int
    sites: int
    scheme: tuple[int, int]
    """Threshold k and number of shares n."""
    epoch: int
    age_s: float
    simulated: bool
    freshness: str = "proven"
    collusion_parties: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    """The parties of ``collusion_set``: kind (``operator``, ``vendor``, ``relay``), name, and the sites they open."""
    collusion_complete: bool = True
    """Whether all that could lower the number is known: who controls each site, who saw each key."""
    routes: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    """Per site: relays that saw keys of its share; ``None`` when a route is not known."""
    deal_checked: bool | None = None
    """Whether the sites' shares were checked to fit together; ``None`` when that is not recorded."""
    audited_at_wall_s: float | None = None
    """When the sites last proved that they hold their shares; ``None`` when nobody here knows."""
    unknown: tuple[str, ...] = ()
    """Sentences: what is not known, and how it was counted."""
    unreadable: tuple[str, ...] = ()
    """Parts of the recorded facts that are missing or cannot be read."""
    policy: tuple[str, ...] | None = ()
    """Clauses under which the object was stored; ``None`` when they cannot be read."""

    @property
    def summary(self) -> tuple[str, ...]:
        """Two to four sentences for whoever answers for the records, in English."""
        return summary_of(self._facts(), language="en")

    def to_json(self) -> dict[str, Any]:
        """Return the label as outside programs read it."""
        return {"summary": list(self.summary), **self._facts()}

    def _facts(self) -> dict[str, Any]:
        return {
            "class": self.class_,
            "everlasting": self.everlasting,
            "reasons": list(self.reasons),
            "collusion_number": self.collusion_number,
            "collusion_set": list(self.collusion_set),
            "trusted_home": self.trusted_home,
            "randomness": list(self.randomness),
            "transfers": dict(self.transfers),
            "epsilon_total": self.epsilon_total,
            "durable_at": self.durable_at,
            "sites": self.sites,
            "scheme": {"k": self.scheme[0], "n": self.scheme[1]},
            "epoch": self.epoch,
            "age_s": round(self.age_s, 3),
            "simulated": self.simulated,
            "freshness": self.freshness,
            "collusion_parties": [
                {"kind": kind, "name": name, "opens": list(sites)} for kind, name, sites in self.collusion_parties
            ],
            "collusion_complete": self.collusion_complete,
            "routes": {site: None if relays is None else list(relays) for site, relays in self.routes},
            "deal_checked": self.deal_checked,
            "audited_at": self.audited_at_wall_s,
            "unknown": list(self.unknown),
            "unreadable": list(self.unreadable),
            "policy": None if self.policy is None else list(self.policy),
        }
