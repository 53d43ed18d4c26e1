"""Having the register count on a rebuilt share: the only step of a repair that changes the register."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shosoin.base import SiteId, Unavailable
from shosoin.vault.catalog import Conflict, Outcome, Proposal
from shosoin.vault.context import VaultContext
from shosoin.vault.values import Body, RegisterValue

__all__ = ["Unpinned", "count_on", "good_with"]

_PROPOSALS_MAX = 5


class Unpinned(Unavailable):
    """The share is rebuilt, and its site has not accepted the value that counts on it."""

    code = "vault.repair_unpinned"
    hint = "repair again; nothing has to be rebuilt"


def good_with(value: RegisterValue, body: Body, site: SiteId) -> tuple[SiteId, ...]:
    """Return the good sites of a body and one more, in the order of the placement."""
    return tuple(each for each in value.placement if each in body.good or each == site)


async def count_on(
    context: VaultContext, value: RegisterValue, body: Body, target: SiteId, facts: Mapping[str, Any] | None
) -> Outcome:
    """Propose the register's value with the target among the good sites of a body; return what came of it.

    ``facts`` say how its share travelled; ``None`` if it has been there before. A target that promised another
    proposer more is asked again, for only what it accepted is pinned.

    Raises:
        Conflict: the register does not count on that body any more.
        Unavailable: too few sites take part, or the target does not.
    """
    channels = context.channels(value.class_)
    for _ in range(_PROPOSALS_MAX):
        current = (await context.catalog.read(channels, value.register_id)).value
        same = [each for each in current.bodies if each.version == body.version] if current is not None else []
        if current is None or not same:
            raise Conflict("the object got a new version, or was removed, while its share was rebuilt")
        if target not in current.placement:
            raise Conflict(f"the object moved away from {target} while its share was rebuilt")
        bodies = tuple(
            each.with_good(good_with(current, each, target), target, facts) if each.version == body.version else each
            for each in current.bodies
        )
        proposal = Proposal(value.register_id, current.with_bodies(bodies), fresh=False)
        (outcome,) = await context.catalog.propose(channels, [proposal])
        if outcome.error is None and target in outcome.durable_at:
            return outcome
        if outcome.error is not None and not isinstance(outcome.error, Conflict):
            raise outcome.error
    raise Unpinned(f"{target} holds the share, and did not take part in the change of the register")
