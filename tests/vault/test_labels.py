"""Assurance labels: what they claim follows from what happened, and never more."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import PeerFault, SaeId, SiteId
from shosoin.base.ports import UNDECLARED, KeySourceFacts, KeyStatus
from shosoin.vault import Scheme
from shosoin.vault.assurance import Exposed, SiteDomains, check_exposure, collusion
from tests.vault.support import SITES, PiecewiseSource, SeededEntropy, WrappedKeys, fetch, make_world, store

REAL = KeySourceFacts("qkd", simulated=False, epsilon=1e-12)
SIMULATED = KeySourceFacts("simulated-qkd", simulated=True, epsilon=1e-12)


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
@pytest.mark.parametrize("facts", [REAL, SIMULATED, UNDECLARED])
@pytest.mark.parametrize("physical", [True, False])
async def test_everlasting_only_if_everything_is_physical(class_: str, facts: KeySourceFacts, physical: bool) -> None:
    world = make_world(entropy=SeededEntropy(1, physical=physical), facts=facts)
    label = (await store(world, "object", b"x" * 40, class_)).label
    assert label.class_ == class_
    assert label.everlasting == (class_ == "its" and facts is REAL and physical)
    assert label.everlasting == (not label.reasons)
    assert label.simulated == (facts is SIMULATED and class_ != "pqc")
    text = " ".join(label.reasons)
    assert ("rest on computation" in text) == (class_ != "its")
    assert ("simulated links" in text) == (facts is SIMULATED and class_ != "pqc")
    assert ("did not say" in text) == (facts is UNDECLARED and class_ != "pqc")
    assert ("seeded test generator" in text) == (not physical)
    for site in SITES[1:5]:
        assert (site in text) == (class_ != "its" or facts is not REAL)
    assert (await world.vault.stat("object")).label.everlasting == label.everlasting


async def test_the_label_says_what_was_done() -> None:
    world = make_world(facts=REAL)
    receipt = await store(world, "object", b"x" * 40, "its")
    label = receipt.label
    how = dict(label.transfers)
    assert how[SITES[0]] == "local"
    assert how[SITES[1]] == how[SITES[2]] == "key-stream bits as the share (qkd)"
    assert how[SITES[3]] == how[SITES[4]] == "one-time pad (qkd)"
    assert (label.scheme, label.sites, label.durable_at, label.epoch) == ((3, 5), 5, 5, 0)
    assert label.trusted_home == SITES[0]
    assert label.age_s >= 0
    assert label.epsilon_total is not None
    assert any(line.startswith("coefficients: key-stream") for line in label.randomness)
    assert label.to_json()["transfers"] == how


async def test_one_link_that_declares_no_epsilon_makes_the_sum_unknown() -> None:
    world = make_world(facts=KeySourceFacts("qkd", simulated=False, epsilon=None))
    assert (await store(world, "object", b"x", "its")).label.epsilon_total is None


class OneSimulated(WrappedKeys):
    """All links are physical but one."""

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> Any:
        self._facts = SIMULATED if slave == f"node-{SITES[4]}" else REAL
        return await super().enc_keys(slave, number=number, size_bits=size_bits)


async def test_one_simulated_key_is_enough() -> None:
    world = make_world(entropy=SeededEntropy(1, physical=True))
    world.context.keys = OneSimulated(world.keys._inner)
    label = (await store(world, "object", b"x" * 40, "its")).label
    assert label.simulated
    assert not label.everlasting
    assert [reason for reason in label.reasons if SITES[4] in reason]
    assert not any(SITES[1] in reason for reason in label.reasons)


async def test_one_operator_at_two_sites_lowers_the_collusion_number() -> None:
    shared = {SITES[1]: SiteDomains("carrier"), SITES[2]: SiteDomains("carrier")}
    for domains, number in ((None, 3), (shared, 2)):
        world = make_world(domains=domains)
        label = (await store(world, "object", b"x", "pqc")).label
        assert label.collusion_number == number == len(label.collusion_set)
        assert ("carrier" in label.collusion_set) == (domains is not None)


async def test_one_vendor_everywhere_opens_the_object_alone() -> None:
    domains = {name: SiteDomains(f"operator-{name}", "maker") for name in SITES[:5]}
    world = make_world(domains=domains)
    label = (await store(world, "object", b"x", "pqc")).label
    assert (label.collusion_number, label.collusion_set) == (1, ("vendor maker",))


names = st.sampled_from(["a", "b", "c", "d", "e"])


@given(st.lists(st.lists(names, min_size=1, max_size=3), min_size=2, max_size=6), st.integers(2, 6))
def test_the_collusion_number_is_what_brute_force_finds(domains: list[list[str]], k: int) -> None:
    holders = {SiteId(f"site-{number}"): tuple(found) for number, found in enumerate(domains)}
    everyone = sorted({name for found in domains for name in found})
    best = len(everyone) + 1
    for mask in range(1, 1 << len(everyone)):
        group = {name for place, name in enumerate(everyone) if mask >> place & 1}
        if sum(bool(group & set(found)) for found in domains) >= k:
            best = min(best, len(group))
    number, found_group = collusion(holders, k)
    assert number == best
    if found_group:
        assert sum(bool(set(found_group) & set(found)) for found in domains) >= k
        for smaller in combinations(found_group, number - 1):
            assert sum(bool(set(smaller) & set(found)) for found in domains) < k


def test_transfers_that_expose_k_shares_to_k_minus_1_sites_are_refused() -> None:
    sites = [SiteId(name) for name in SITES[:5]]
    home = sites[0]
    direct = {site: (home, site) for site in sites}
    check_exposure(direct, Scheme(3, 5), home)
    # a relay at the second site carries the keys of three others
    relayed = {site: (home, site, sites[1]) for site in sites}
    with pytest.raises(Exposed, match=SITES[1]):
        check_exposure(relayed, Scheme(3, 5), home)
    for k in (2, 3, 4):
        check_exposure(direct, Scheme(k, 5), home)
        with pytest.raises(Exposed):  # k-1 sites, the relay among them, know k shares
            check_exposure({**direct, sites[2]: (home, sites[2], sites[1])}, Scheme(k, 5), home)


async def test_only_sites_that_hold_the_object_count() -> None:
    world = make_world()
    world.links[SITES[4]].down = True
    label = (await store(world, "object", b"x", "pqc")).label
    assert label.durable_at == 4
    assert SITES[4] not in dict(label.transfers)
    assert f"operator-{SITES[4]}" not in label.collusion_set


class RelayedKeys(WrappedKeys):
    """A KME whose keys for some sites pass through others, and that says so."""

    def __init__(self, inner: WrappedKeys, relays: dict[str, Any]) -> None:
        super().__init__(inner)
        self._relays = {f"node-{site}": names for site, names in relays.items()}

    async def status(self, slave: SaeId) -> KeyStatus:
        status = await super().status(slave)
        return replace(status, extension={"shosoin_relays": self._relays.get(slave, [])})


@pytest.mark.parametrize("outside", [False, True])
async def test_put_and_get_refuse_when_too_few_hands_hold_too_many_keys(outside: bool) -> None:
    """Two relays that see the keys of one further site each, are k shares for k-1 = 2 hands."""
    first, second = ("relay-1", "relay-2") if outside else (SITES[1], SITES[2])
    world = make_world()
    await store(world, "name", b"content", "its")
    world.keys.drawn.clear()
    exposed = {SITES[3]: [first], SITES[4]: [second, first]}
    if outside:
        exposed[SITES[1]] = [second]
    for vault in (world.vault, world.another_vault().vault):
        vault._context.keys = RelayedKeys(world.keys, exposed)
    for work in (
        store(world, "other", b"content", "its"),
        world.vault.put(PiecewiseSource(b"content"), "other", class_="its"),
        world.vault.put_many({"other": b"content"}, class_="its"),
    ):
        with pytest.raises(Exposed):
            await work
    assert not world.keys.drawn
    for read in (fetch(world.vault, "name"), world.vault.get_many(["name"])):
        with pytest.raises(Exposed):
            await read
    await store(world, "other", b"content", "qkd")  # which rests on computation, and says so


async def test_one_relay_beside_direct_links_is_no_reason_to_refuse() -> None:
    world = make_world()
    world.context.keys = RelayedKeys(world.keys, {SITES[1]: ["relay-1"]})
    await store(world, "name", b"content", "its")
    assert (await fetch(world.vault, "name"))[0] == b"content"


@pytest.mark.parametrize("named", ["relay-1", [1], {"relay-1": 1}, None, ["not a name"]])
async def test_relays_that_cannot_be_read_are_not_taken_for_none(named: Any) -> None:
    world = make_world()
    world.context.keys = RelayedKeys(world.keys, {SITES[1]: named})
    with pytest.raises(PeerFault):
        await store(world, "name", b"content", "its")
