"""Audit without reading: whether the sites still hold shares of one polynomial.

The owner sends a random challenge r for each object; every site answers with the digest of its whole share, and the
answers must lie on a polynomial of degree below k. Nothing of the content moves, and the audit masks at the start of
each share keep the answers from telling anything about it: U masks for at most T = 16 different challenges per epoch.
After that an object is ``unchecked``; ``verify`` reads everything and has no such limit.

k answers prove nothing, k+1 detect a wrong one, k+2e name e wrong ones without any key. The home site is trusted; a
name is a reason to verify, not yet a proof. Error at most (U+L)/2^128 per object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shosoin.base import SiteId
from shosoin.base.ports import Event
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.consistency import agreeing_sites
from shosoin.vault.context import VaultContext
from shosoin.vault.digests import DigestAnswers, DigestWanted, ask_digests
from shosoin.vault.ports import ShareKey
from shosoin.vault.values import Body, RegisterValue

__all__ = ["Audited", "audit_values"]

_TOGETHER = 128
_TOGETHER_BYTES = 1 << 30
_STATES = {
    "vault.share_damaged": "damaged",
    "vault.no_share": "missing",
    "vault.audits_used": "unchecked",
    "vault.no_masks": "unchecked",
}


Audited = dict[SiteId, str]
"""Per site ``ok``, ``wrong``, ``missing``, ``damaged``, ``unreachable``, ``unchecked``, or ``doubtful``: the answers
contradict each other and do not tell whose are wrong."""
_ORDER = ("ok", "unchecked", "unreachable", "missing", "damaged", "doubtful", "wrong")


def _key(context: VaultContext, value: RegisterValue, body: Body) -> ShareKey:
    return ShareKey(context.owner, value.register_id, body.version, body.epoch)


async def audit_values(
    context: VaultContext, values: Sequence[RegisterValue], progress: Callable[[int], None] | None = None
) -> list[Audited]:
    """Audit the bodies of register values of one class; one result for each value, its worst body counting."""
    bodies = [(index, value, body) for index, value in enumerate(values) for body in value.bodies]
    found: list[list[Audited]] = [[] for _ in values]
    at = 0
    while at < len(bodies):
        stop, left_bytes = at, _TOGETHER_BYTES
        while stop < min(at + _TOGETHER, len(bodies)) and (stop == at or bodies[stop][2].layout.total <= left_bytes):
            left_bytes -= bodies[stop][2].layout.total
            stop += 1
        batch = bodies[at:stop]
        for (index, _, _), audited in zip(batch, await _audit(context, [each[1:] for each in batch]), strict=True):
            found[index].append(audited)
        at = stop
        if progress is not None:
            progress(at)
    return [_worst(each) for each in found]


async def _audit(context: VaultContext, batch: Sequence[tuple[RegisterValue, Body]]) -> list[Audited]:
    wanted = [_wanted(context, value, body) for value, body in batch]
    answers = await ask_digests(context.channels(batch[0][0].class_), wanted, context.runtime)
    return [_judge(context, value, answer) for (value, _), answer in zip(batch, answers, strict=True)]


def _wanted(context: VaultContext, value: RegisterValue, body: Body) -> DigestWanted:
    points = dict(zip(value.placement, value.scheme.points(), strict=True))
    asked = {site: points[site] for site in value.placement if site in body.good}
    challenge = context.entropy.random_bytes(ELEMENT_BYTES).hex()
    return DigestWanted(_key(context, value, body), body.layout.total, asked, challenge)


def _judge(context: VaultContext, value: RegisterValue, answer: DigestAnswers) -> Audited:
    """Return the state of every site, and raise an alarm for each that is not what it should be."""
    states: Audited = dict.fromkeys(value.placement, "missing")
    states |= {site: _STATES.get(code, "unreachable") for site, code in answer.codes.items()}
    states |= dict.fromkeys(answer.forged, "wrong")
    k, values = value.scheme.k, answer.values
    agreeing: frozenset[SiteId] | None = None
    if len(values) > k:
        agreeing = agreeing_sites(values, k, wrong_max=(len(values) - k) // 2, trusted=context.home)
    for site in values:
        if len(values) <= k:
            states[site] = "unchecked"
        elif agreeing is None:
            states[site] = "doubtful"
        else:
            states[site] = "ok" if site in agreeing else "wrong"
    for site, state in states.items():
        if state in {"wrong", "damaged", "doubtful"}:
            fields = {"site": str(site), "kind": f"audit_{state}", "object": str(value.register_id)}
            context.sink.emit(Event("vault.audit_failed", "alarm", fields))
    return states


def _worst(found: Sequence[Audited]) -> Audited:
    worst: Audited = {}
    for states in found:
        for site, state in states.items():
            if site not in worst or _ORDER.index(state) > _ORDER.index(worst[site]):
                worst[site] = state
    return worst
