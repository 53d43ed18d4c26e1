"""Who together could open an object: the smallest set of trust domains that reaches k shares, found exactly.

A trust domain is a site's operator, the vendor of its devices, or a relay (with an operator and a vendor of its own
where they are declared). A domain *opens* a share if it controls the site that holds it or saw a key under which it
travelled. Shares are bits of a mask, a domain is the mask of the shares that it opens, and a breadth-first search over
the unions of masks ends at the first union of k bits. That is exact: each of the at most 2^n unions is reached by the
fewest domains first. Domains that open no more than another one does are left out of the search, and so are unions
from which the number that a greedy set gives cannot be beaten.

Two names that differ in case, width, spaces or composition only are taken for one party: to merge two parties can only
lower the number, to keep apart what is one would raise it.

Cost: at most 2^n unions times the domains that none contains; n <= 16.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from shosoin.base import SiteId

__all__ = ["Coalition", "Party", "SiteDomains", "collusion", "relay_party", "smallest_coalition"]

_VENDOR, _RELAY = "vendor ", "relay "
UNDECLARED_PARTY = "an undeclared party"
"""Stands for whoever controls a site of which no domain is recorded."""


@dataclass(frozen=True, slots=True)
class SiteDomains:
    """Who controls a site or a relay, as the owner declares it."""

    operator: str
    vendor: str = ""
    """Who made its devices; empty when undeclared, which is then nobody's else."""
    relays: tuple[SiteId, ...] | None = None
    """Relays that the owner knows to see the keys shared with this site, whatever the KME says; ``None``: not told."""

    def names(self) -> tuple[str, ...]:
        """Return every trust domain that controls it."""
        return (self.operator, f"{_VENDOR}{self.vendor}") if self.vendor else (self.operator,)


@dataclass(frozen=True, slots=True)
class Party:
    """One trust domain with the sites whose shares it opens."""

    name: str
    sites: tuple[SiteId, ...]

    @property
    def kind(self) -> str:
        """``operator``, ``vendor``, ``relay`` or ``undeclared``."""
        if self.name == UNDECLARED_PARTY:
            return "undeclared"
        known = {_VENDOR: "vendor", _RELAY: "relay"}
        return next((kind for prefix, kind in known.items() if self.name.startswith(prefix)), "operator")


@dataclass(frozen=True, slots=True)
class Coalition:
    """A smallest set of parties that opens an object."""

    number: int
    parties: tuple[Party, ...]
    """Empty if no set of the parties suffices."""

    @property
    def names(self) -> tuple[str, ...]:
        """The parties' names."""
        return tuple(party.name for party in self.parties)


def relay_party(relay: str) -> str:
    """Return the trust domain of a relay whose operator is not declared: itself."""
    return f"{_RELAY}{relay}"


def smallest_coalition(openers: Mapping[SiteId, Sequence[str]], k: int) -> Coalition:
    """Return the smallest coalition that opens k shares.

    ``openers`` maps each site with a share to the names of the domains that open it. A site without a name is
    anybody's: whoever needs one share less already has it.
    """
    named = tuple((site, tuple(names)) for site, names in openers.items())
    return _found(named, k)


def collusion(holders: Mapping[SiteId, Sequence[str]], k: int) -> tuple[int, tuple[str, ...]]:
    """Return the number and the names of ``smallest_coalition``."""
    found = smallest_coalition(holders, k)
    return found.number, found.names


@lru_cache(maxsize=256)
def _found(openers: tuple[tuple[SiteId, tuple[str, ...]], ...], k: int) -> Coalition:
    sites = [site for site, names in openers if names]
    wanted = k - sum(not names for _, names in openers)
    if wanted <= 0:
        return Coalition(1, (Party(UNDECLARED_PARTY, tuple(site for site, names in openers if not names)),))
    masks = _masks(openers, sites)
    chosen = _search(_undominated(masks), wanted)
    if chosen is None:
        return Coalition(len(masks) + 1, ())
    parties = tuple(
        Party(name, tuple(site for bit, site in enumerate(sites) if masks[name] >> bit & 1)) for name in sorted(chosen)
    )
    return Coalition(len(parties), parties)


def _masks(openers: tuple[tuple[SiteId, tuple[str, ...]], ...], sites: Sequence[SiteId]) -> dict[str, int]:
    """Return for each party, under the first spelling of its name, the mask of the sites that it opens."""
    spelled: dict[str, str] = {}
    masks: dict[str, int] = {}
    place = {site: bit for bit, site in enumerate(sites)}
    for site, names in openers:
        for name in names:
            spelling = spelled.setdefault(_one_spelling(name), name)
            masks[spelling] = masks.get(spelling, 0) | 1 << place[site]
    return masks


def _one_spelling(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def _undominated(masks: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return the parties that no other one contains, the most powerful first."""
    kept: list[tuple[str, int]] = []
    for name, mask in sorted(masks.items(), key=lambda each: (-each[1].bit_count(), each[0])):
        if not any(mask | other == other for _, other in kept):
            kept.append((name, mask))
    return kept


def _search(parties: Sequence[tuple[str, int]], wanted: int) -> tuple[str, ...] | None:
    """Return the names of a smallest set whose masks have ``wanted`` bits together, or ``None``; largest masks first.

    ``bits[m]`` is the most that m parties can add. A greedy set bounds the number from above, and unions that could not
    beat it any more are dropped.
    """
    best = _greedy(parties, wanted)
    if best is None:
        return None
    bits = [0, *accumulate(mask.bit_count() for _, mask in parties)]
    level: dict[int, tuple[str, ...]] = {0: ()}
    seen = {0}
    for left in range(len(best) - 1, 0, -1):  # parties that a better set may still take
        following: dict[int, tuple[str, ...]] = {}
        for union, names in level.items():
            if union.bit_count() + bits[left] < wanted:
                continue
            for name, mask in parties:
                wider = union | mask
                if wider.bit_count() >= wanted:
                    return (*names, name)
                if wider not in seen:
                    seen.add(wider)
                    following[wider] = (*names, name)
        level = following
    return best


def _greedy(parties: Sequence[tuple[str, int]], wanted: int) -> tuple[str, ...] | None:
    """Return a set that always takes the party which adds most, or ``None`` if all together do not reach ``wanted``."""
    union, names = 0, []
    while union.bit_count() < wanted:
        name, mask = max(parties, key=lambda party: (party[1] & ~union).bit_count(), default=("", 0))
        if not mask & ~union:
            return None
        union |= mask
        names.append(name)
    return tuple(names)
