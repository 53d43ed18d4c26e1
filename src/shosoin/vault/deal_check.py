"""The deal check of a put: the sites must hold shares of one polynomial.

When it seals its share every site commits to a random element; when all have committed they open, and r is the XOR, so
no single party chose it, a site that learns the others' elements first included (see ``commitments``). Each site then
answers d_i(r) = sum_j r^j y_i[j] over its whole share, audit masks first, and the answers must lie on a polynomial of
degree below k. The masks keep the answers from telling anything about the data. Error at most 2^e (U+L)/2^128 with e
sites that withhold their element.

Mandatory in class ``its``, where a site's share may be key bits that no message ever carried. In the other classes a
share travels under an authenticated seal; there the check is for whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shosoin.base import Alarm, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.vault.commitments import combined_challenge, opens
from shosoin.vault.concurrency import failure, settle
from shosoin.vault.consistency import agreeing_sites
from shosoin.vault.context import VaultContext
from shosoin.vault.digests import DigestAnswers, DigestWanted, ask_digests
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.staging import Stager

__all__ = ["Checked", "DealInconsistent", "checked_deals", "checked_sites", "sites_needed"]

_TOGETHER = 256
"""Bodies that are checked in one exchange per site."""
_CAUSES = {
    "keys_differ": "its share is key bits, so its KME delivered other keys than ours, or the site altered them",
    "share_altered": "its share came under an authenticated pad, so the site altered it",
}


class DealInconsistent(Alarm):
    """The sites' shares do not fit together; nothing was committed."""

    code = "vault.deal_inconsistent"
    hint = "put again; if it recurs, a KME delivers different keys at its two ends or a site alters shares"


@dataclass(slots=True)
class Checked:
    """What a deal check found of one body."""

    key: ShareKey
    good: tuple[SiteId, ...]
    """Sites that hold a good share, in placement order."""
    alarms: list[Event] = field(default_factory=list)
    challenge: str | None = None
    """R, if the check ran."""


def sites_needed(class_: str, scheme: Scheme) -> int:
    """Return how many sites must take a share: k+f, and in class ``its`` more than k, or the check tells nothing."""
    return max(scheme.durable_min, min(scheme.k + 1, scheme.n) if class_ == "its" else 0)


def _agreeing(answers: DigestAnswers, scheme: Scheme, home: SiteId, causes: Mapping[SiteId, str]) -> frozenset[SiteId]:
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
        raise DealInconsistent(
            f"the shares at {len(values)} sites do not lie on one polynomial: {_reason(values, home, causes)}"
        )
    return agreeing


def _reason(values: Iterable[SiteId], home: SiteId, causes: Mapping[SiteId, str]) -> str:
    """Say what may be wrong with each site but the home.

    None is named: among fewer than k+f that agree, f liars may have fitted their answers to some honest ones, so that
    the other honest ones look wrong.
    """
    said = "; ".join(f"{site}: {_CAUSES[causes[site]]}" for site in values if site != home)
    return f"which, the answers do not tell; it is one of these or more ({said})"


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

    Raises: as ``checked_deals``.
    """
    (found,) = await checked_deals(
        context, stager, [(key, size_bytes)], class_=class_, scheme=scheme, placement=placement
    )
    return found.good, found.alarms


async def checked_deals(
    context: VaultContext,
    stager: Stager,
    bodies: Sequence[tuple[ShareKey, int]],
    *,
    class_: str,
    scheme: Scheme,
    placement: Sequence[SiteId],
    always: bool = False,
) -> list[Checked]:
    """Check drained bodies (key and size of each): which sites hold good shares, and an alarm for each that does not.

    The check runs in class ``its``, and if it is wanted ``always``; two exchanges per site for 256 bodies.

    Raises:
        Unavailable: too few sites answered.
        DealInconsistent: too few sites agree; the message names sites and cause.
        Unavailable: the evidence cannot be written.
    """
    sealed = tuple(site for site in placement if site in stager.alive)
    lost = [site for site in stager.lost if isinstance(stager.lost[site], Alarm)]
    found = [Checked(key, sealed, [_alarm(site, key, "message_forged") for site in lost]) for key, _ in bodies]
    if class_ == "its" or always:
        check = _Check(context, stager, class_, scheme, placement)
        for at in range(0, len(bodies), _TOGETHER):
            await check.run(found[at : at + _TOGETHER], [size for _, size in bodies[at : at + _TOGETHER]], sealed)
        await context.runtime.in_thread(context.evidence.append, [_entry(found, class_, scheme, placement)])
    for alarm in (alarm for each in found for alarm in each.alarms):
        context.sink.emit(alarm)
    return found


@dataclass(slots=True)
class _Check:
    """The check of bodies that were dealt together."""

    context: VaultContext
    stager: Stager
    class_: str
    scheme: Scheme
    placement: Sequence[SiteId]

    async def run(self, found: Sequence[Checked], sizes: Sequence[int], sealed: Sequence[SiteId]) -> None:
        """Fill in what the sites' answers say."""
        points = dict(zip(self.placement, self.scheme.points(), strict=True))
        openings = await self._openings(found, sealed)
        wanted = []
        for each, size, opened in zip(found, sizes, openings, strict=True):
            each.challenge = combined_challenge(opened.values())
            wanted.append(DigestWanted(each.key, size, {site: points[site] for site in opened}, each.challenge))
        answers = await ask_digests(self.context.channels(self.class_), wanted, self.context.runtime)
        for each, answer in zip(found, answers, strict=True):
            await self._judge(each, answer)

    async def _judge(self, each: Checked, answer: DigestAnswers) -> None:
        causes = {site: self._cause(site) for site in answer.values}
        try:
            agreeing = _agreeing(answer, self.scheme, self.context.home, causes)
        except DealInconsistent as error:
            refused = {"object": each.key.object_id, "version": each.key.version, "epoch": each.key.epoch}
            entry = {"kind": "deal refused", **refused, "r": each.challenge, "why": error.message}
            self.context.sink.emit(Event("vault.deal_refused", "alarm", {"object": str(each.key.object_id)}))
            await self.context.runtime.in_thread(self.context.evidence.append, [entry])
            raise
        each.good = tuple(site for site in each.good if site in agreeing)
        each.alarms += [_alarm(site, each.key, "message_forged") for site in answer.forged]
        each.alarms += [
            _alarm(site, each.key, "deal_wrong", causes[site]) for site in answer.values if site not in agreeing
        ]

    def _cause(self, site: SiteId) -> str:
        return "keys_differ" if site in self.stager.key_shares else "share_altered"

    async def _openings(self, found: Sequence[Checked], sealed: Sequence[SiteId]) -> list[dict[SiteId, str]]:
        """Have every site open its contribution, now that all have committed; return per body what holds."""
        commitments = [{site: self.stager.commitments[each.key.version, site] for site in sealed} for each in found]
        ops = [
            {"op": "open", **_where(each.key), "commitments": told}
            for each, told in zip(found, commitments, strict=True)
        ]
        channels = self.context.channels(self.class_)
        tasks = await settle(self.context.runtime, (channels[site].exchange(ops) for site in sealed))
        openings: list[dict[SiteId, str]] = [{} for _ in found]
        for site, task in zip(sealed, tasks, strict=True):
            error = failure(task)
            if error is not None and not isinstance(error, ShosoinError):
                raise error
            results = [] if error is not None else task.result().results
            for place, each in enumerate(found):
                told = results[place].get("contribution") if place < len(results) else None
                if opens(told, commitments[place][site], each.key, site):
                    openings[place][site] = str(told)
                elif isinstance(error, Alarm):
                    each.alarms.append(_alarm(site, each.key, "message_forged"))
                elif told is not None:
                    each.alarms.append(_alarm(site, each.key, "contribution_changed"))
        return openings


def _entry(found: Sequence[Checked], class_: str, scheme: Scheme, placement: Sequence[SiteId]) -> dict[str, object]:
    """Return the evidence of checks: per body IDs, epoch, challenge, and the sites that fit."""
    rows = [[each.key.object_id, each.key.version, each.key.epoch, each.challenge, list(each.good)] for each in found]
    return {"kind": "deal", "class": class_, "k": scheme.k, "sites": list(placement), "objects": rows}


def _where(key: ShareKey) -> dict[str, object]:
    return {"object": key.object_id, "version": key.version, "epoch": key.epoch}


def _alarm(site: SiteId, key: ShareKey, kind: str, cause: str | None = None) -> Event:
    fields = {"site": str(site), "kind": kind, "object": str(key.object_id)}
    return Event("vault.bad_deal", "alarm", fields if cause is None else fields | {"cause": cause})
