"""The deal check of a put: the sites must hold shares of one polynomial.

After sealing, every site has contributed a random element; r is their XOR, so no single party chose it. Each site
answers d_i(r) = sum_j r^j y_i[j] over its whole share, audit masks first, and the answers must lie on a polynomial of
degree below k. The masks keep the answers from telling anything about the data. Error at most (U+L)/2^128.

Mandatory in class ``its``, where a site's share may be key bits that no message ever carried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shosoin.base import Alarm, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Event, Runtime
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import failure, settle
from shosoin.vault.consistency import agreeing_sites
from shosoin.vault.context import VaultContext
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.staging import Stager

__all__ = ["DealInconsistent", "checked_sites", "combined_challenge"]

_TIMEOUT_S = 120.0


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


@dataclass(frozen=True, slots=True)
class DealAnswers:
    """Digests by site as (point, value), and the sites whose answer was forged on the way."""

    values: dict[SiteId, tuple[int, int]]
    forged: list[SiteId]


async def _ask(
    channels: Mapping[SiteId, Channel], points: Mapping[SiteId, int], key: ShareKey, challenge: str, runtime: Runtime
) -> DealAnswers:
    op = {"op": "digest", "object": key.object_id, "version": key.version, "epoch": key.epoch, "r": challenge}
    sites = list(points)
    tasks = await settle(
        runtime, (channels[site].exchange([op], answer_bytes=ELEMENT_BYTES, timeout_s=_TIMEOUT_S) for site in sites)
    )
    answers = DealAnswers({}, [])
    for site, task in zip(sites, tasks, strict=True):
        error = failure(task)
        if error is None and len(task.result().payload) == ELEMENT_BYTES:
            answers.values[site] = points[site], int.from_bytes(task.result().payload, "little")
        elif isinstance(error, Alarm):
            answers.forged.append(site)
        elif isinstance(error, Exception) and not isinstance(error, ShosoinError):
            raise error
    return answers


def _agreeing(answers: DealAnswers, scheme: Scheme, home: SiteId) -> frozenset[SiteId]:
    """Return the sites whose shares fit together.

    Raises:
        Unavailable: too few answers to tell.
        DealInconsistent: enough answers, and they contradict each other.
    """
    values = answers.values
    if len(values) < max(scheme.durable_min, min(scheme.k + 1, scheme.n)):
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
    context: VaultContext, stager: Stager, key: ShareKey, class_: str, scheme: Scheme, placement: Sequence[SiteId]
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
        answers = await _ask(
            context.channels(class_), {site: points[site] for site in sealed}, key, challenge, context.runtime
        )
        agreeing = _agreeing(answers, scheme, context.home)
        good = [site for site in sealed if site in agreeing]
        alarms += [_alarm(site, key, "message_forged") for site in answers.forged]
        alarms += [_alarm(site, key, "deal_wrong") for site in answers.values if site not in agreeing]
    for alarm in alarms:
        context.sink.emit(alarm)
    return tuple(good), alarms


def _alarm(site: SiteId, key: ShareKey, kind: str) -> Event:
    return Event("vault.bad_deal", "alarm", {"site": str(site), "kind": kind, "object": str(key.object_id)})
