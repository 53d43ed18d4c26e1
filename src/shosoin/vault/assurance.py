"""Computing the assurance label from what was recorded while an object was written, and read.

Facts are recorded by the put itself: per site how the share travelled, where the keys came from and who saw them, and
where every kind of random number came from. The label is made of them (``facts`` reads them, ``coalitions`` counts the
parties) and of what the owner declares today. Nothing unknown is taken for the better answer: it is a reason not to be
everlasting, or a gap that is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from shosoin.base import Alarm, AssuranceLabel, Entropy, SiteId
from shosoin.base.ports import KeySourceFacts
from shosoin.vault.channel import Channel
from shosoin.vault.coalitions import SiteDomains, collusion, relay_party, smallest_coalition
from shosoin.vault.facts import ObjectFacts, Transfer, probability
from shosoin.vault.routes import ReadRoutes
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue

__all__ = ["KeyFacts", "SiteDomains", "check_exposure", "collusion", "label_of", "record_facts"]

_LOCAL = "local"
_REBUILT = "rebuilt by "
KEY_SHARE = "key-stream bits as the share"
ONE_TIME_PAD = "one-time pad"
COEFFICIENTS = "coefficients"
OTHER_SECRETS = "audit masks, MAC keys and AMD points"
DEAL_CHALLENGE = "deal check challenge"
"""Public when it is used: it keeps nothing secret, so it is no reason not to be everlasting."""
_NO_READS = ReadRoutes({}, frozenset())


class Exposed(Alarm):
    """An allowed coalition would hold the object."""

    code = "vault.exposed"


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


KeyFacts = Mapping[SiteId, "Counter[KeySourceFacts]"]
"""Per site the origins of the keys drawn, with how many keys of each."""


def _drawn_since(now: Counter[KeySourceFacts], before: Counter[KeySourceFacts]) -> Counter[KeySourceFacts]:
    """Return what was drawn since; a session key agreed on earlier still counts as one key of its origin."""
    drawn = now - before
    return drawn or Counter(dict.fromkeys(now, 1))


def _fact_json(facts: Counter[KeySourceFacts]) -> list[dict[str, Any]]:
    return [
        {
            "kind": fact.kind,
            "simulated": fact.simulated,
            "epsilon": probability(fact.epsilon),
            "keys": facts[fact],
        }
        for fact in sorted(facts, key=lambda fact: (fact.kind, probability(fact.epsilon) or 0.0))
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
    relay_domains: Mapping[SiteId, SiteDomains] | None = None,
    placement: Sequence[SiteId] = (),
) -> dict[str, Any]:
    """Return the facts of a put, as they go into the register value.

    ``placement`` names all sites that were to get a share: one that dropped out may have its share all the same.
    ``relays`` are those that saw the keys of a site, none of a direct link; a site whose route nobody declared is left
    out. They count whenever the shares move again (``routes.relays_then``).
    """
    transfers = {
        site: {
            "how": KEY_SHARE if site in key_shares else channels[site].mechanism,
            "keys": _fact_json(_drawn_since(channels[site].facts, before.get(site, Counter()))),
            **({"relays": list(relays[site])} if class_ == "its" and site in relays else {}),
        }
        for site in good
    }
    declared = {**(relay_domains or {}), **domains}
    everywhere = [*good, *(site for site in placement if site not in good)]
    drawn = {site: _drawn_since(channels[site].facts, before.get(site, Counter())) for site in everywhere[len(good) :]}
    lost = {site: _fact_json(facts) for site, facts in drawn.items() if facts}
    seen = {relay for site in everywhere for relay in relays.get(site, ()) if class_ == "its"} - set(everywhere)
    coefficients = "key-stream bits" if class_ == "its" else f"AES-256 in counter mode, seeded by {entropy.source}"
    random: dict[str, Any] = {
        COEFFICIENTS: {"source": coefficients, "physical": class_ == "its"},
        OTHER_SECRETS: {"source": entropy.source, "physical": entropy.physical},
    }
    if deal_checked:
        random[DEAL_CHALLENGE] = {"source": "a contribution of every site", "physical": False}
    return {
        "home": home,
        "transfers": transfers,
        "dropped": {
            site: list(relays[site]) if class_ == "its" and site in relays else None for site in everywhere[len(good) :]
        },
        **({"dropped_keys": lost} if lost else {}),
        "random": random,
        "domains": {site: list(domains[site].names()) for site in everywhere},
        "relay_domains": {relay: list(declared[relay].names()) for relay in sorted(seen) if relay in declared},
        "deal_checked": deal_checked,
    }


def label_of(
    value: RegisterValue,
    *,
    pinned: Iterable[SiteId],
    now_wall_s: float,
    freshness: str,
    reads: ReadRoutes = _NO_READS,
    declared: Mapping[SiteId, SiteDomains] | None = None,
    audited_at_wall_s: float | None = None,
) -> AssuranceLabel:
    """Compute the label of an object version.

    ``pinned`` are the sites whose accepts make its certificate, ``reads`` what is known of the routes of its reads, and
    ``declared`` who controls sites and relays today, which counts beside who did at the put.
    """
    return _Labelled(value, reads, declared or {}).label(list(pinned), now_wall_s, freshness, audited_at_wall_s)


class _Labelled:
    """One value with everything that its label is made of."""

    def __init__(self, value: RegisterValue, reads: ReadRoutes, declared: Mapping[SiteId, SiteDomains]) -> None:
        self.value = value
        self.facts = ObjectFacts.read(value.facts).rebuilt(dict(value.bodies[0].repaired))
        self.good = value.bodies[0].good
        former = tuple(SiteId(site) for site in self.facts.former if site not in value.placement)
        self.holders = (*value.placement, *former)
        """Who may have a share: sites that dropped out of the put, or that the object left, may have kept theirs."""
        self.transfers = {site: self.facts.transfers.get(site) for site in self.good}
        dropped = {site: Transfer(ONE_TIME_PAD, keys, None) for site, keys in self.facts.dropped_keys.items()}
        travelled: dict[str, Transfer | None] = {**dropped, **self.facts.transfers}
        travelled |= {str(site): fact for site, fact in self.transfers.items()}
        travelled |= dict.fromkeys(self.facts.untold)  # that a share was rebuilt since does not say how it left before
        others = sorted(set(travelled).difference(self.good))
        self.travelled = {site: travelled[site] for site in (*self.good, *others)}
        """How every share left for its site, also those that were lost on the way or since, or whose site left."""
        self.reads = reads
        self.declared = {str(name): domains.names() for name, domains in declared.items()}
        self.relays = {site: self._relays(site) for site in self.holders}
        self.routes = {site: self._route(site) for site in self.holders}
        self.domains = {site: self._domains(site) for site in self.holders}

    def label(
        self, pinned: list[SiteId], now_wall_s: float, freshness: str, audited_at_wall_s: float | None
    ) -> AssuranceLabel:
        """Return the label."""
        value, facts, body = self.value, self.facts, self.value.bodies[0]
        found = smallest_coalition({site: self._openers(site) for site in self.holders}, value.scheme.k)
        reasons = self._reasons()
        return AssuranceLabel(
            class_=value.class_,
            everlasting=not reasons,
            reasons=tuple(reasons),
            collusion_number=found.number,
            collusion_set=found.names,
            trusted_home=facts.home or "unknown",
            randomness=tuple(f"{what}: {fact.source}" for what, fact in facts.random.items()),
            transfers=tuple((site, _how(fact)) for site, fact in self.transfers.items() if fact is not None),
            epsilon_total=self._epsilon(),
            durable_at=len(value.durable_sites(pinned)),
            sites=value.scheme.n,
            scheme=(value.scheme.k, value.scheme.n),
            epoch=body.epoch,
            age_s=max(now_wall_s - value.created_wall_s, 0.0),
            simulated=any(key.simulated for fact in self.travelled.values() if fact for key in fact.keys),
            freshness=freshness,
            collusion_parties=tuple((party.kind, party.name, party.sites) for party in found.parties),
            collusion_complete=not (self._unknown_routes() or self._unknown_domains() or "former" in facts.unreadable),
            routes=tuple(self.routes.items()),
            deal_checked=None if facts.deal_checked is None else facts.deal_checked and len(self.good) > value.scheme.k,
            audited_at_wall_s=audited_at_wall_s,
            unknown=tuple(self._unknown()),
            unreadable=facts.unreadable,
            policy=facts.policy,
        )

    def _is_home(self, site: str) -> bool:
        return site == self.facts.home

    def _keys_matter(self, site: SiteId) -> bool:
        """Whether who sees a site's keys has its share: in class ``its`` a share is as safe as its pad."""
        return self.value.class_ == "its" and not self._is_home(site)

    def _route(self, site: SiteId) -> tuple[str, ...] | None:
        """Return the relays that ever saw keys of a site's share, as far as known; ``None`` if a route is unknown."""
        if not self._keys_matter(site):
            return ()
        if self._relays_then(site) is None or site in self.reads.undeclared:
            return None
        return self.relays[site]

    def _relays_then(self, site: SiteId) -> tuple[str, ...] | None:
        """Return the relays on the route of the put, ``None`` if it is unknown."""
        fact = self.facts.transfers.get(site)
        return fact.relays if fact is not None else self.facts.dropped.get(site)

    def _relays(self, site: SiteId) -> tuple[str, ...]:
        then = self._relays_then(site) or ()
        seen = dict.fromkeys((*then, *self.reads.relays.get(site, ()))) if self._keys_matter(site) else ()
        return tuple(relay for relay in seen if relay != self.facts.home)

    def _domains(self, name: str) -> tuple[str, ...]:
        """Return who controls a site or relay: as recorded then and as declared now."""
        then = (*self.facts.domains.get(name, ()), *self.facts.former.get(name, ()))
        return (*then, *self.declared.get(name, ()))

    def _openers(self, site: SiteId) -> tuple[str, ...]:
        """Return the trust domains that have a site's share."""
        by_relay = [name for relay in self.relays[site] for name in self._domains(relay) or (relay_party(relay),)]
        # A site of nobody stays anybody's, whatever its relays: an empty answer says so.
        return (*self.domains[site], *by_relay) if self.domains[site] else ()

    def _unknown_routes(self) -> list[SiteId]:
        return [site for site in self.holders if self.routes[site] is None]

    def _unknown_domains(self) -> list[SiteId]:
        """Return the sites of which nothing was recorded; what is declared today may be otherwise then."""
        return [site for site in self.holders if not self.facts.domains.get(site) and not self.facts.former.get(site)]

    def _unknown(self) -> list[str]:
        """Return, in sentences, what is not known and how it was counted."""
        relays = dict.fromkeys(relay for site in self.holders for relay in self.relays[site])
        nobodys = [relay for relay in relays if not self._domains(relay)]
        unvended = [
            site for site in self.holders if not any(name.startswith("vendor ") for name in self._domains(site))
        ]
        found: list[tuple[Sequence[str], str]] = [
            (self._unknown_domains(), "Who operated {} at the time is not recorded; fewer parties may suffice."),
            (self._unknown_routes(), "Nobody declared who sees the keys for {}; fewer parties may suffice."),
            (nobodys, "Who operates the relays {} is not declared; each counts as a party of its own."),
            (unvended, "The makers of the devices at {} are not declared; each counts as another one."),
            (self.facts.unreadable, "What was recorded of {} is missing or cannot be read."),
        ]
        said = [sentence.format(_list(names)) for names, sentence in found if names]
        if self.value.class_ == "its":
            said.append("Only reads from this computer are counted; who saw the keys of others is not known here.")
        return said

    def _reasons(self) -> list[str]:
        """Return, in sentences, why the object is not everlasting."""
        facts = {site: fact for site, fact in self.travelled.items() if fact is not None}
        remote = [site for site in self.travelled if not self._is_home(site)]
        keyless = self.value.class_ == "pqc"
        found: list[tuple[Sequence[str], str]] = [
            (
                [site for site, fact in facts.items() if any(key.simulated for key in fact.keys)],
                "The keys for {} came from simulated links, which protect nothing.",
            ),
            (
                [site for site, fact in facts.items() if any(key.kind == "undeclared" for key in fact.keys)],
                "The KME did not say where the keys for {} came from.",
            ),
            (
                remote if self.value.class_ != "its" else [],
                "The shares for {} travelled under AES-256-GCM and ML-KEM-768, which rest on computation.",
            ),
            (
                [site for site in self.travelled if not self._is_told(site)],
                "It is not recorded how the shares for {} travelled.",
            ),
            (
                [site for site in remote if not keyless and site in facts and not facts[site].keys],
                "No keys are recorded for {}.",
            ),
        ]
        return [sentence.format(_list(sites)) for sites, sentence in found if sites] + self._random_reasons()

    def _is_told(self, site: str) -> bool:
        """Whether it is recorded how a share travelled, and that is something its class does."""
        fact = self.travelled[site]
        if fact is None:
            return False
        if fact.how.startswith(_REBUILT):
            under = fact.how.rpartition(" under ")[2]
            return under == ONE_TIME_PAD if self.value.class_ == "its" else bool(under)
        if self._is_home(site):
            return fact.how == _LOCAL
        return fact.how in {KEY_SHARE, ONE_TIME_PAD} if self.value.class_ == "its" else fact.how != _LOCAL

    def _random_reasons(self) -> list[str]:
        said = [
            f"The {what} came from {fact.source}, not from a physical source."
            for what, fact in self.facts.random.items()
            if not fact.physical and what != DEAL_CHALLENGE
        ]
        if "random" in self.facts.unreadable or not {COEFFICIENTS, OTHER_SECRETS} <= set(self.facts.random):
            said.append("It is not recorded where all random numbers came from.")
        return said

    def _epsilon(self) -> float | None:
        """Sum the failure probabilities over all keys used: an upper bound.

        A key of several blocks comes with their sum, and keys of one block count each.
        """
        if any(fact is None or not (fact.keys or self._is_home(site)) for site, fact in self.travelled.items()):
            return None
        keys = [key for fact in self.travelled.values() if fact is not None for key in fact.keys]
        if not keys or any(key.epsilon is None for key in keys):
            return None
        return sum(key.epsilon * key.keys for key in keys if key.epsilon is not None)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _how(fact: Transfer) -> str:
    kinds = sorted({key.kind for key in fact.keys})
    return f"{fact.how} ({', '.join(kinds)})" if kinds else fact.how
