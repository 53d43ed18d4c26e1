"""What hostile clients and conspiring sites do, as data.

There are two hostile clients. *Mallory* is another owner with certificate, keys and signature of her own; whatever she
gets of the first owner is a breach. The *thief* holds the first owner's own keys and runs other code. What a thief does
by decisions that are validly signed and decided is beyond what sites can judge; so the thief does what must be refused,
or what must harm nobody: it changes registers only to values that count on the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.base import SimulationRng

__all__ = [
    "ATTACKS",
    "JOINT_REGISTER_LIES",
    "JOINT_SHARE_LIES",
    "MALLORY_NAME",
    "THIEF_NAME",
    "Attack",
    "draw_attacks",
]

MALLORY_NAME = "mallory"
THIEF_NAME = "thief"
ATTACKS: dict[str, tuple[str, ...]] = {
    MALLORY_NAME: ("theft", "registers", "erasure", "namesakes", "stolen_keys", "replays", "junk"),
    THIEF_NAME: (
        "two_values",
        "unjustified",
        "stale_top",
        "forged_certificate",
        "withheld_commit",
        "own_electorate",
        "huge_ballots",
        "roll_back",
        "curious_auditor",
        "second_deal",
        "bad_deal",
        "two_openings",
        "removal_of_staged",
        "replays",
        "fuzz",
    ),
}
JOINT_SHARE_LIES = ("rush_shift", "rush_frame", "rush_open", "copy_commitment")
JOINT_REGISTER_LIES = ("shared_fork", "accomplice")


@dataclass(frozen=True, slots=True)
class Attack:
    """Something that a hostile client does a number of times, from a time on."""

    client: str
    kind: str
    at_s: float
    times: int


def draw_attacks(rng: SimulationRng, work_s: float) -> tuple[Attack, ...]:
    """Draw what hostile clients do while the others work."""
    found: list[Attack] = []
    for _ in range(rng.integer(3, 7)):
        client = rng.choice((MALLORY_NAME, THIEF_NAME, THIEF_NAME))
        at_s = rng.uniform(0.1, 1.2) * work_s
        found.append(Attack(client, rng.choice(ATTACKS[client]), at_s, rng.integer(1, 4)))
    return tuple(found)
