"""Whether a rebuilt share may count: an audit against sites that did not decide what it is.

Every answer is the digest of a whole share at one random point (see ``audit``). The target's share is made of what the
helpers gave, so a helper that lies in the same way twice agrees with it: the polynomial is therefore taken from the
other sites' answers alone, and the target must lie on it. At least k+f of them must agree, and more than k: then k of
these are honest, whatever f liars say. Where too few answer, or they contradict each other, the owner reads and checks
with its keys (``keyed_states``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shosoin.base import SiteId
from shosoin.kernels import ELEMENT_BYTES, element_mul, lagrange_weights
from shosoin.vault.amd import amd_decode
from shosoin.vault.commitments import combined_challenge
from shosoin.vault.consistency import agreeing_sites
from shosoin.vault.context import VaultContext
from shosoin.vault.digests import DigestWanted, ask_digests
from shosoin.vault.fetching import Range
from shosoin.vault.ports import ShareKey
from shosoin.vault.reading import ObjectReader
from shosoin.vault.repair_run import AttemptRun, SiteFailed
from shosoin.vault.values import Body, RegisterValue

__all__ = ["Finding", "Verdict", "audit_rebuilt", "keyed_states"]


class Verdict(StrEnum):
    """What the audit says of a rebuilt share."""

    GOOD = "good"
    WRONG = "wrong"
    UNKNOWN = "unknown"
    """Too few independent answers, or they contradict each other."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict, and the sites whose own shares do not fit."""

    verdict: Verdict
    suspects: tuple[SiteId, ...] = ()


async def audit_rebuilt(context: VaultContext, value: RegisterValue, body: Body, run: AttemptRun) -> Finding:
    """Audit a share that was rebuilt and is not recorded yet."""
    order = run.order
    points = dict(zip(value.placement, value.scheme.points(), strict=True))
    own = context.entropy.random_bytes(ELEMENT_BYTES).hex()
    try:
        challenge = combined_challenge([own, *run.contributions])
        digests = await run.digests(challenge)
    except (SiteFailed, ValueError):
        return Finding(Verdict.UNKNOWN)
    asked = [site for site in body.good if site in run.channels]  # others left the configuration
    others = {site: points[site] for site in asked if site not in digests and site != order.target.site}
    (answers,) = await ask_digests(
        run.channels, [DigestWanted(order.key, order.size_bytes, others, challenge)], context.runtime
    )
    rebuilt = digests.pop(order.target.site)
    known = answers.values | {site: (points[site], digest) for site, digest in digests.items()}
    k = value.scheme.k
    if len(known) <= k:
        return Finding(Verdict.UNKNOWN)
    agreeing = agreeing_sites(known, k, wrong_max=(len(known) - k) // 2, trusted=context.home)
    if agreeing is None or len(agreeing) < value.scheme.durable_min:
        return Finding(
            Verdict.UNKNOWN
        )  # with f liars among fewer than k+f, less than k honest sites set the polynomial
    suspects = tuple(site for site in known if site not in agreeing)
    base = [known[site] for site in sorted(agreeing)[:k]]
    weights = lagrange_weights([point for point, _ in base], points[order.target.site])
    expected = 0
    for weight, (_, digest) in zip(weights, base, strict=True):
        expected ^= element_mul(weight, digest)
    return Finding(Verdict.GOOD if expected == rebuilt else Verdict.WRONG, suspects)


async def keyed_states(context: VaultContext, value: RegisterValue, body: Body) -> dict[SiteId, str]:
    """Read every share of a body and check it with the owner's keys; return the state of each site.

    Raises:
        Unavailable, NotRecoverable: too few good shares can be read to tell.
    """
    fetcher = context.fetcher(value.class_, value.placement, value.scheme)
    if value.kind == "object":
        reader = ObjectReader(value, context.owner, fetcher, context.signer.public_key, context.runtime)
        return await reader.verify(value.placement, None)
    key = ShareKey(context.owner, value.register_id, body.version, body.epoch)
    layout = body.layout
    whole = Range(key, body, layout.root_offset, layout.root, lambda coded: amd_decode(coded) is not None, "index")
    answers = await fetcher.fetch_all_shares([whole])
    wrong = await fetcher.disagreeing(0, whole, answers)
    states = {site: _STATES.get(error.code, "unreachable") for site, error in answers.errors.items()}
    states |= dict.fromkeys(answers.shares, "ok")
    return states | dict.fromkeys(wrong, "wrong")


_STATES = {"vault.share_damaged": "damaged", "vault.no_share": "missing", "vault.seal_broken": "wrong"}
