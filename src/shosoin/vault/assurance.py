"""Computing the assurance label from what was recorded while an object was written.

Facts are recorded by the put itself: per site how the share travelled and where the keys came from, and where every
kind of random number came from. The collusion number is found by enumerating the declared trust domains.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from shosoin.base import Alarm, AssuranceLabel, Entropy, PeerFault, SiteId
from shosoin.base.ports import KeySourceFacts, KeyStatus
from shosoin.vault.channel import Channel
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue

__all__ = ["SiteDomains", "check_exposure", "collusion", "label_of", "record_facts", "relays_of", "relays_then"]

_MECHANISM_LOCAL = "local"
RELAYS_EXTENSION = "shosoin_relays"
"""Member of ``status_extension``: the sites and other nodes through which the keys of this pair pass."""


@dataclass(frozen=True, slots=True)
class SiteDomains:
    """Who controls a site, as declared: its operator and, if given, the vendor of its devices."""

    operator: str
    vendor: str = ""

    def names(self) -> tuple[str, ...]:
        """Return every trust domain that controls the site."""
        return (self.operator, f"vendor {self.vendor}") if self.vendor else (self.operator,)


class Exposed(Alarm):
    """An allowed coalition would hold the object."""

    code = "vault.exposed"


def collusion(holders: Mapping[SiteId, Sequence[str]], k: int) -> tuple[int, tuple[str, ...]]:
    """Return the smallest number of trust domains that together hold k shares, and one such set.

    ``holders`` maps each site with a share to the domains that control it; exact, by enumeration (n <= 16).
    """
    domains = sorted({name for names in holders.values() for name in names})
    for size in range(1, len(domains) + 1):
        for group in combinations(domains, size):
            if sum(not set(group).isdisjoint(names) for names in holders.values()) >= k:
                return size, group
    return len(domains) + 1, ()


def check_exposure(key_holders: Mapping[SiteId, Iterable[SiteId]], scheme: Scheme, home: SiteId) -> None:
    """Refuse transfers by which k-1 sites would learn k shares.

    ``key_holders`` maps each site that gets a share to all sites (end points and relays) that know its transfer key.
    The home site is trusted until its keys are erased and is no member of a coalition.

    Raises:
        Exposed: naming one coalition.
    """
    known_by = {site: set(holders) | {site} for site, holders in key_holders.items()}
    everyone = sorted(set().union(*known_by.values()) - {home}) if known_by else []
    for coalition in combinations(everyone, min(scheme.k - 1, len(everyone))):
        learned = [site for site, holders in known_by.items() if not holders.isdisjoint(coalition)]
        if len(learned) >= scheme.k:
            raise Exposed(f"{', '.join(coalition)} together would know the shares of {', '.join(learned)}")


def relays_of(status: KeyStatus) -> tuple[SiteId, ...]:
    """Return the relays that see the keys of a pair of KMEs, as the home KME says in its status; none on a direct link.

    Raises:
        PeerFault: it says something that cannot be read. To take that for "none" would be to guess.
    """
    named = status.extension.get(RELAYS_EXTENSION, [])
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise PeerFault("the KME's status names relays in a way that cannot be read", code="vault.bad_relays")
    return tuple(SiteId(name) for name in named)


def relays_then(value: RegisterValue) -> dict[SiteId, tuple[SiteId, ...]]:
    """Return the relays that saw the keys under which a value's shares travelled to their sites."""
    transfers = value.facts.get("transfers", {})
    return {SiteId(site): tuple(map(SiteId, fact.get("relays", ()))) for site, fact in transfers.items()}


KeyFacts = Mapping[SiteId, "Counter[KeySourceFacts]"]
"""Per site the origins of the keys drawn, with how many keys of each."""


def _drawn_since(now: Counter[KeySourceFacts], before: Counter[KeySourceFacts]) -> Counter[KeySourceFacts]:
    """Return what was drawn since; a session key agreed on earlier still counts as one key of its origin."""
    drawn = now - before
    return drawn or Counter(dict.fromkeys(now, 1))


def _fact_json(facts: Counter[KeySourceFacts]) -> list[dict[str, Any]]:
    return [
        {"kind": fact.kind, "simulated": fact.simulated, "epsilon": fact.epsilon, "keys": facts[fact]}
        for fact in sorted(facts, key=lambda fact: (fact.kind, fact.epsilon or 0.0))
    ]


def record_facts(
    *,
    class_: str,
    home: SiteId,
    good: Sequence[SiteId],
    channels: Mapping[SiteId, Channel],
    before: KeyFacts,
    key_shares: set[SiteId],
    entropy: Entropy,
    domains: Mapping[SiteId, SiteDomains],
    deal_checked: bool,
    relays: Mapping[SiteId, Sequence[SiteId]],
) -> dict[str, Any]:
    """Return the facts of a put, as they go into the register value.

    ``relays`` are those that saw the keys of a site; they count whenever the shares move again (``relays_then``).
    """
    transfers = {
        site: {
            "how": "key-stream bits as the share" if site in key_shares else channels[site].mechanism,
            "keys": _fact_json(_drawn_since(channels[site].facts, before.get(site, Counter()))),
            **({"relays": list(relays[site])} if class_ == "its" and relays.get(site) else {}),
        }
        for site in good
    }
    coefficients = "key-stream bits" if class_ == "its" else f"AES-256 in counter mode, seeded by {entropy.source}"
    return {
        "home": home,
        "transfers": transfers,
        "random": {
            "coefficients": {"source": coefficients, "physical": class_ == "its"},
            "audit masks, MAC keys and AMD points": {"source": entropy.source, "physical": entropy.physical},
        },
        "domains": {site: list(declared.names()) for site, declared in domains.items()},
        "deal_checked": deal_checked,
    }


def _transfers(value: RegisterValue) -> dict[str, Any]:
    """Return how the share of every good site travelled: by the put, or rebuilt since."""
    body = value.bodies[0]
    rebuilt = {str(site): json.loads(facts) for site, facts in body.repaired if site in body.good}
    return {**value.facts["transfers"], **rebuilt}


def _reasons(value: RegisterValue, transfers: Mapping[str, Any]) -> list[str]:
    reasons = []
    simulated = [site for site, fact in transfers.items() if any(key["simulated"] for key in fact["keys"])]
    if simulated:
        reasons.append(f"The keys for {', '.join(simulated)} came from simulated links, which protect nothing.")
    undeclared = [site for site, fact in transfers.items() if any(key["kind"] == "undeclared" for key in fact["keys"])]
    if undeclared:
        reasons.append(f"The KME did not say where the keys for {', '.join(undeclared)} came from.")
    if value.class_ != "its":
        moved = [site for site, fact in transfers.items() if fact["how"] != _MECHANISM_LOCAL]
        reasons.append(
            f"The shares for {', '.join(moved)} travelled under AES-256-GCM and ML-KEM-768, which rest on computation."
        )
    reasons += [
        f"The {what} came from {fact['source']}, not from a physical source."
        for what, fact in value.facts["random"].items()
        if not fact["physical"]
    ]
    return reasons


def _epsilon(facts: Iterable[Mapping[str, Any]]) -> float | None:
    """Sum the failure probabilities over all keys used (keys of one block count each: an upper bound)."""
    keys = [key for fact in facts for key in fact["keys"]]
    if not keys or any(key["epsilon"] is None for key in keys):
        return None
    return float(sum(key["epsilon"] * key["keys"] for key in keys))


def label_of(value: RegisterValue, *, pinned: Iterable[SiteId], now_wall_s: float, freshness: str) -> AssuranceLabel:
    """Compute the label of an object version; ``pinned`` are the sites whose accepts make its certificate."""
    body = value.bodies[0]
    transfers = _transfers(value)
    number, group = collusion({site: value.facts["domains"][site] for site in body.good}, value.scheme.k)
    reasons = _reasons(value, transfers)
    return AssuranceLabel(
        class_=value.class_,
        everlasting=not reasons,
        reasons=tuple(reasons),
        collusion_number=number,
        collusion_set=group,
        trusted_home=str(value.facts["home"]),
        randomness=tuple(f"{what}: {fact['source']}" for what, fact in value.facts["random"].items()),
        transfers=tuple((site, _how(fact)) for site, fact in transfers.items()),
        epsilon_total=_epsilon(transfers.values()),
        durable_at=len(value.durable_sites(pinned)),
        sites=value.scheme.n,
        scheme=(value.scheme.k, value.scheme.n),
        epoch=body.epoch,
        age_s=max(now_wall_s - value.created_wall_s, 0.0),
        simulated=any(key["simulated"] for fact in transfers.values() for key in fact["keys"]),
        freshness=freshness,
    )


def _how(fact: Mapping[str, Any]) -> str:
    kinds = sorted({str(key["kind"]) for key in fact["keys"]})
    return f"{fact['how']} ({', '.join(kinds)})" if kinds else str(fact["how"])
