"""The collusion number: exact over sites, relays, operators and vendors, and never higher for what is not known."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import SimulationRng, SiteId
from shosoin.vault.coalitions import UNDECLARED_PARTY, Coalition, smallest_coalition

PARTIES = [f"party-{number}" for number in range(9)]
openers_of = st.lists(st.lists(st.sampled_from(PARTIES), min_size=1, max_size=4), min_size=2, max_size=9)


def holders(opened: list[list[str]]) -> dict[SiteId, tuple[str, ...]]:
    return {SiteId(f"site-{number}"): tuple(names) for number, names in enumerate(opened)}


def opens(group: tuple[str, ...], openers: dict[SiteId, tuple[str, ...]]) -> int:
    return sum(not set(group).isdisjoint(names) for names in openers.values())


def brute_force(openers: dict[SiteId, tuple[str, ...]], k: int) -> int | None:
    everyone = sorted({name for names in openers.values() for name in names})
    for size in range(1, len(everyone) + 1):
        if any(opens(group, openers) >= k for group in combinations(everyone, size)):
            return size
    return None


@given(openers_of, st.integers(2, 9))
def test_the_number_is_that_of_brute_force_and_the_set_opens(opened: list[list[str]], k: int) -> None:
    openers = holders(opened)
    found = smallest_coalition(openers, k)
    best = brute_force(openers, k)
    if best is None:
        assert found.parties == ()
        assert found.number > len({name for names in opened for name in names})
        return
    assert found.number == best == len(found.parties)
    assert opens(found.names, openers) >= k
    for party in found.parties:
        assert party.sites == tuple(site for site, names in openers.items() if party.name in names)


@given(openers_of, st.integers(2, 9), st.data())
def test_who_opens_more_never_raises_the_number(opened: list[list[str]], k: int, data: st.DataObject) -> None:
    """A relay that is seen, a vendor that is declared, an operator that takes a site over: never more parties."""
    before = smallest_coalition(holders(opened), k)
    site = data.draw(st.integers(0, len(opened) - 1))
    more = [[*names, data.draw(st.sampled_from(PARTIES))] if at == site else names for at, names in enumerate(opened)]
    after = smallest_coalition(holders(more), k)
    assert after.number <= before.number or not before.parties


@given(openers_of, st.integers(2, 9), st.data())
def test_a_site_of_nobody_never_raises_the_number(opened: list[list[str]], k: int, data: st.DataObject) -> None:
    before = smallest_coalition(holders(opened), k)
    site = data.draw(st.integers(0, len(opened) - 1))
    unknown = [[] if at == site else names for at, names in enumerate(opened)]
    after = smallest_coalition(holders(unknown), k)
    assert 1 <= after.number <= before.number or not before.parties


def test_enough_sites_of_nobody_are_one_undeclared_party() -> None:
    found = smallest_coalition({SiteId("a"): (), SiteId("b"): (), SiteId("c"): ("operator",)}, 2)
    assert (found.number, found.names) == (1, (UNDECLARED_PARTY,))
    assert found.parties[0].kind == "undeclared"
    assert found.parties[0].sites == ("a", "b")


@pytest.mark.parametrize("spelling", ["carrier", "CARRIER", " Carrier ", "\uff23arrier", "Carrier\u3000"])
def test_one_party_spelt_in_two_ways_is_one_party(spelling: str) -> None:
    openers = {SiteId("a"): ("Carrier",), SiteId("b"): (spelling,), SiteId("c"): ("other",)}
    assert smallest_coalition(openers, 2).number == 1


def test_two_compositions_of_one_letter_are_one_party() -> None:
    openers = {SiteId("a"): ("Soci\u00e9t\u00e9",), SiteId("b"): ("Socie\u0301te\u0301",)}
    assert smallest_coalition(openers, 2).number == 1


def test_kinds_of_parties_are_told_apart() -> None:
    openers = {SiteId("a"): ("operator a",), SiteId("b"): ("vendor maker",), SiteId("c"): ("relay r-1",)}
    assert {party.kind for party in smallest_coalition(openers, 3).parties} == {"operator", "vendor", "relay"}


def _many(seed: int, k: int) -> tuple[Coalition, dict[SiteId, tuple[str, ...]]]:
    """Sixteen sites, forty domains of two sites each."""
    rng = SimulationRng(seed)
    opened: list[list[str]] = [[f"own-{site}"] for site in range(16)]
    for domain in range(40):
        for _ in range(2):
            opened[rng.pseudo_bytes(1)[0] % 16].append(f"domain-{domain:02}")
    openers = holders(opened)
    return smallest_coalition(openers, k), openers


@pytest.mark.parametrize("seed", range(4))
def test_sixteen_sites_and_forty_domains_are_enumerated_exactly(seed: int) -> None:
    """Every domain opens two sites at most, so k = 8 takes four at least; no three do, tried one by one."""
    found, openers = _many(seed, 8)
    assert opens(found.names, openers) >= 8
    assert found.number == brute_force(openers, 8) == 4


def test_all_shares_of_sixteen_sites() -> None:
    found, openers = _many(9, 16)
    assert opens(found.names, openers) == 16
    for left_out in range(found.number):
        fewer = found.names[:left_out] + found.names[left_out + 1 :]
        assert opens(fewer, openers) < 16
