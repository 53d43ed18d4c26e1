"""The deal check of a put: the sites must hold shares of one polynomial.

After sealing, every site has contributed a random element; r is their XOR, so no single party chose it. Each site
answers d_i(r) = sum_j r^j y_i[j] over its whole share, audit masks first, and the answers must lie on a polynomial of
degree below k. The masks keep the answers from telling anything about the data. Error at most (U+L)/2^128.

Mandatory in class ``its``, where a site's share may be key bits that no message ever carried.
"""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import Alarm, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.consistency import agreeing_sites
from shosoin.vault.context import VaultContext
from shosoin.vault.digests import DigestAnswers, DigestWanted, ask_digests
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.staging import Stager

__all__ = ["DealInconsistent", "checked_sites", "combined_challenge", "sites_needed"]


class DealInconsistent(Alarm):
    """The sites' shares do not fit together; nothing was committed."""

    code = "vault.deal_inconsistent"
    hint = "put again; if it recurs, a KME delivers different keys at its two ends or a site alters shares"


def combined_challenge(contributions: list[str]) -> str:
    """XOR the sites' contributions (32 hexadecimal digits each)."""
    total = 0
    for contribution in contributions:
        total ^= int(contribution, 16)
    return total.to_bytes(ELEMENT_BYTES, "big").hex()


def sites_needed(class_: str, scheme: Scheme) -> int:
    """Return how many sites must take a share: k+f, and in class ``its`` more than k, or the check tells nothing."""
    return max(scheme.durable_min, min(scheme.k + 1, scheme.n) if class_ == "its" else 0)


def _agreeing(answers: DigestAnswers, scheme: Scheme, home: SiteId) -> frozenset[SiteId]:
    """Return the sites whose shares fit together.

    Raises:
        Unavailable: too few answers to tell.
        DealInconsistent: enough answers, and they contradict each other.
    """
    values = answers.values
    if len(values) < sites_needed("its", scheme):
        raise Unavailable(
            f"{len(values)} sites answered the deal check, too few to acknowledge",
            code="vault.too_few_sites",
            hint="nothing was committed; start the missing sites and put again",
        )
    if len(values) == scheme.k:
        return frozenset(values)  # n = k: no redundancy to check, and no share was key bits
    agreeing = agreeing_sites(values, scheme.k, wrong_max=(len(values) - scheme.k) // 2, trusted=home)
    if agreeing is None or len(agreeing) < scheme.durable_min:
        raise DealInconsistent(f"the shares at {len(values)} sites do not lie on one polynomial")
    return agreeing


async def checked_sites(
    context: VaultContext,
    stager: Stager,
    key: ShareKey,
    size_bytes: int,
    *,
    class_: str,
    scheme: Scheme,
    placement: Sequence[SiteId],
) -> tuple[tuple[SiteId, ...], list[Event]]:
    """Return the sites that hold a good share of a drained body, and an alarm for each that does not fit.

    The deal check runs in class ``its``, where shares may be key bits that no message carried.

    Raises:
        DealInconsistent: too few sites agree.
    """
    sealed = [site for site in placement if site in stager.alive]
    alarms = [_alarm(site, key, "message_forged") for site in stager.lost if isinstance(stager.lost[site], Alarm)]
    good = sealed
    if class_ == "its":
        points = dict(zip(placement, scheme.points(), strict=True))
        challenge = combined_challenge([stager.contributions[key.version, site] for site in sealed])
        wanted = DigestWanted(key, size_bytes, {site: points[site] for site in sealed}, challenge)
        (answers,) = await ask_digests(context.channels(class_), [wanted], context.runtime)
        agreeing = _agreeing(answers, scheme, context.home)
        good = [site for site in sealed if site in agreeing]
        alarms += [_alarm(site, key, "message_forged") for site in answers.forged]
        alarms += [_alarm(site, key, "deal_wrong") for site in answers.values if site not in agreeing]
    for alarm in alarms:
        context.sink.emit(alarm)
    return tuple(good), alarms


def _alarm(site: SiteId, key: ShareKey, kind: str) -> Event:
    return Event("vault.bad_deal", "alarm", {"site": str(site), "kind": kind, "object": str(key.object_id)})
