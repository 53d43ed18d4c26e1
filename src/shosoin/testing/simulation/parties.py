"""The two owners whom the sites know: the one whose clients are honest, and another who attacks."""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.base import OwnerId
from shosoin.testing.simulation.attacks import MALLORY_NAME
from shosoin.testing.simulation.plan import Plan
from shosoin.testing.simulation.seeds import hash_of
from shosoin.vault.signing import OwnerSigner

__all__ = ["MALLORY", "OWNER", "Party", "party_of"]

OWNER = OwnerId("owner")
MALLORY = OwnerId(MALLORY_NAME)
_SIGNERS = {OWNER: OwnerSigner(bytes(range(32))), MALLORY: OwnerSigner(bytes(range(32, 64)))}


@dataclass(frozen=True, slots=True)
class Party:
    """An owner with home and signing key."""

    owner: OwnerId
    home: str
    signer: OwnerSigner


def party_of(plan: Plan, owner: OwnerId) -> Party:
    """Return an owner of a plan; the attacker may live at the same site as the other."""
    number = hash_of(f"{plan.seed} home of mallory") % len(plan.sites)
    return Party(owner, plan.sites[0 if owner == OWNER else number], _SIGNERS[owner])
