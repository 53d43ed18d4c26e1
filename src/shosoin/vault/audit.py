"""Audit without reading: what the sites' answers say about their shares.

Every site answers a random challenge r with the digest of its whole share, and the answers must lie on a polynomial of
degree below k. Nothing of the content moves, and the audit masks at the start of each share keep the answers from
telling anything about it, for at most T different challenges per epoch (``audit_ledger`` makes them last).

k answers prove nothing, k+1 detect a wrong one, k+2e name e wrong ones without any key. The home site is trusted.
Beyond floor((answers-k)/2) liars an honest site can be framed: a name is a reason to ``verify``, which reads under
keys, and nothing is repaired before. Error at most (U+L)/2^128 per object.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from shosoin.base import SiteId
from shosoin.base.ports import Event
from shosoin.vault.audit_bodies import AuditBody
from shosoin.vault.consistency import agreeing_sites
from shosoin.vault.digests import DigestAnswers

__all__ = ["ANSWERS_SPENT", "BAD", "SHORT", "Audited", "ShareFound", "events_of", "judge", "worst"]


class ShareFound(StrEnum):
    """What an audit can find of a site's share."""

    OK = "ok"
    UNCHECKED = "unchecked"
    """It answered, but too few did to tell; or its disk is full, so it wrote nothing down; or keys to ask it lack; or
    its share is a repaired one that has no answers left."""
    UNREACHABLE = "unreachable"
    """No answer at all."""
    REFUSED = "refused"
    """It answers, and does not answer this, although it has answers left."""
    MISSING = "missing"
    """It holds no share, by its own word or by that of the register."""
    DAMAGED = "damaged"
    """Its own checksum says so."""
    DOUBTFUL = "doubtful"
    """The answers contradict each other and do not tell whose are wrong."""
    WRONG = "wrong"
    """Its answer is not on the polynomial of the others, or was forged on the way."""


Audited = dict[SiteId, ShareFound]
BAD = (ShareFound.WRONG, ShareFound.DAMAGED, ShareFound.DOUBTFUL, ShareFound.REFUSED)
SHORT = (ShareFound.MISSING, ShareFound.UNREACHABLE, ShareFound.UNCHECKED)
ANSWERS_SPENT = "vault.audits_used"
"""What a site says that has given all answers of a share and epoch."""
_ORDER = list(ShareFound)
_OF_KEYS = ("keys.", "kme_client.", "vault.relays_unknown", "vault.short_pad")
"""How codes begin that tell of keys, not of the site."""
_OF_CODE = {
    "vault.share_damaged": ShareFound.DAMAGED,
    "vault.no_share": ShareFound.MISSING,
    "vault.disk_full": ShareFound.UNCHECKED,
}


def judge(body: AuditBody, answer: DigestAnswers, home: SiteId) -> Audited:
    """Return the state of every site of the placement."""
    states = dict.fromkeys(body.placement, ShareFound.MISSING)
    for site, code in answer.codes.items():
        reached = site in answer.reached
        spent = code == ANSWERS_SPENT and site in body.rebuilt
        found = ShareFound.UNCHECKED if spent else _OF_CODE.get(code, ShareFound.REFUSED)
        states[site] = found if reached else _unreached(code)
    states |= dict.fromkeys(answer.forged, ShareFound.WRONG)
    k, values = body.scheme.k, answer.values
    if len(values) <= k:
        return states | dict.fromkeys(values, ShareFound.UNCHECKED)
    agreeing = agreeing_sites(values, k, wrong_max=(len(values) - k) // 2, trusted=home)
    if agreeing is None or (len(agreeing) < len(values) and len(agreeing) < body.scheme.durable_min):
        # of fewer than k+f that agree f may be liars, who fit their answers to k-1 honest ones and frame the others
        return states | dict.fromkeys(values, ShareFound.DOUBTFUL)
    return states | {site: ShareFound.OK if site in agreeing else ShareFound.WRONG for site in values}


def _unreached(code: str) -> ShareFound:
    return ShareFound.UNCHECKED if code.startswith(_OF_KEYS) else ShareFound.UNREACHABLE


def events_of(body: AuditBody, states: Audited) -> list[Event]:
    """Return an alarm for each share that is not what it should be; one that was never there is none."""
    return [
        Event(
            "vault.audit_failed",
            "alarm",
            {"site": str(site), "kind": f"audit_{state}", "object": str(body.key.object_id)},
        )
        for site, state in states.items()
        if state in BAD or (state is ShareFound.MISSING and site in body.good)
    ]


def worst(found: Iterable[Audited]) -> Audited:
    """Return for each site the worst of its states."""
    total: Audited = {}
    for states in found:
        for site, state in states.items():
            if site not in total or _ORDER.index(state) > _ORDER.index(total[site]):
                total[site] = state
    return total
