"""Which round to try next where sites are ahead, or behind, or say so.

A ballot that a site has promised binds it, and a site goes no further at once than ``JUMP_MAX`` rounds: a proposer who
reached some sites alone, and a site that lies about how far it is, must not keep others from their quorum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shosoin.base import SiteId
from shosoin.vault.ballots import JUMP_MAX, round_of
from shosoin.vault.proposal_operations import Operation
from shosoin.vault.proposals import Attempt
from shosoin.vault.scheme import Scheme

__all__ = ["STEP_MAX", "higher_round", "ladder", "lagging_sites"]

STEP_MAX = JUMP_MAX
"""Rounds that a claim which may be a lie moves us on by: no less than a hostile proposer gains with one request."""
_RUNGS_MAX = 32
"""Jumps that a site which is far behind is asked for at once."""


def higher_round(
    scheme: Scheme, answers: Mapping[SiteId, list[Operation]], refused: int, *, lagging: bool
) -> int | None:
    """Return the round to try after one that was refused, ``None`` if another would be of no use.

    The f_r highest claims are passed over, they may be lies. If nothing is left, sites that lag are led up first,
    for they may be enough with those that promised. If there are none, or that was done just now (who says that it
    lags may lie as well), the claims may be true, and without those sites there is no quorum: then they are
    followed, no further at a time than honest sites jump.
    """
    claims = []
    for results in answers.values():
        rounds = [round_of(result.get("promised")) for result in results if result.get("granted") is False]
        if rounds and max(rounds) >= refused:
            claims.append(max(rounds))
    claims.sort(reverse=True)
    liars = scheme.register_liars
    if len(claims) > liars:
        return claims[liars] + 1
    if lagging:
        return refused + 1
    if claims and len(answers) >= scheme.write_quorum:
        return min(claims[-1] + 1, refused + STEP_MAX)
    return None


def lagging_sites(answers: Mapping[SiteId, list[Operation]]) -> list[SiteId]:
    """Return the sites for which a ballot lies too far ahead."""
    found = []
    for site, results in answers.items():
        errors = [result.get("error") for result in results]
        if any(isinstance(error, dict) and error.get("code") == "vault.bad_ballot" for error in errors):
            found.append(site)
    return found


def ladder(attempt: Attempt, held: Mapping[str, Any], to_round: int) -> list[Operation]:
    """Return prepares that lead a site from what it holds to within a jump of a round."""
    start = max(round_of(held.get("promised")), round_of(held.get("committed_ballot")))
    rungs = range(start + JUMP_MAX, to_round, JUMP_MAX)[:_RUNGS_MAX]
    name = attempt.ballot[1]
    return [{"op": "prepare", "register": attempt.register_id, "ballot": [rung, name]} for rung in rungs]
