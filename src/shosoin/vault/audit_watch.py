"""Audits without end: a round every so often, until the caller is cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shosoin.base import Rejected, Unavailable
from shosoin.base.ports import Runtime
from shosoin.vault.audit_round import AuditRound

__all__ = ["audit_every"]


async def audit_every(
    one_round: Callable[[], Awaitable[AuditRound]],
    tell: Callable[[AuditRound | Unavailable], None],
    *,
    every_s: float,
    runtime: Runtime,
) -> None:
    """Run a round at once and then one every ``every_s`` seconds; rounds that would overlap are left out.

    ``tell`` hears what each round found, or why it could not be done; the next one comes all the same. Nothing of a
    round is kept. Ends only by an error of another kind, or when it is cancelled.

    Raises:
        Rejected: the time between rounds is not above 0.
    """
    if not every_s > 0:
        raise Rejected("the time between rounds must be above 0", code="vault.bad_period")
    next_s = runtime.now_s()
    while True:
        try:
            tell(await one_round())
        except Unavailable as error:
            tell(error)
        missed = max(0.0, runtime.now_s() - next_s) // every_s
        next_s += (missed + 1) * every_s
        await runtime.sleep(next_s - runtime.now_s())
