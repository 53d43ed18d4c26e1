"""Labels of values whose facts are missing, malformed or out of date: said so, and never the better answer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shosoin.base import AssuranceLabel, SiteId
from shosoin.base.ports import KeySourceFacts
from shosoin.vault.assurance import label_of
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.facts import ObjectFacts, probability
from shosoin.vault.routes import MemoryJournal, ReadRoutes, read_routes, record_read
from shosoin.vault.values import RegisterValue
from tests.vault.support import SITES, SeededEntropy, failing, make_world, store

REAL = KeySourceFacts("qkd", simulated=False, epsilon=1e-12)
HOME, FIRST, LAST = (SiteId(SITES[place]) for place in (0, 1, 4))


_STORED: dict[str, RegisterValue] = {}


async def stored_value(class_: str = "its") -> RegisterValue:
    """A value as a put with the best of everything writes it."""
    if class_ not in _STORED:
        _STORED[class_] = await stored_under(class_)
    return _STORED[class_]


async def stored_under(class_: str = "its", **options: Any) -> RegisterValue:
    world = make_world(entropy=SeededEntropy(1, physical=True), facts=REAL, **options)
    receipt = await store(world, "object", b"x" * 40, class_)
    reading = await world.context.catalog.read(world.context.channels(class_), receipt.object_id)
    assert reading.value is not None
    return reading.value


def label(value: RegisterValue, **more: Any) -> AssuranceLabel:
    return label_of(value, pinned=value.placement, now_wall_s=value.created_wall_s, freshness="proven", **more)


def changed(value: RegisterValue, *path: str, to: Any = None) -> RegisterValue:
    """The value with one of its facts replaced, or taken out."""
    facts = copy.deepcopy(dict(value.facts))
    table: Any = facts
    for name in path[:-1]:
        table = table[name]
    if to is None:
        del table[path[-1]]
    else:
        table[path[-1]] = to
    return replace(value, facts=facts)


async def test_the_best_of_everything_is_everlasting_and_complete() -> None:
    found = label(await stored_value())
    assert (found.everlasting, found.collusion_number, found.collusion_complete) == (True, 3, True)
    assert (found.deal_checked, found.unreadable, found.policy) == (True, (), ())
    assert dict(found.routes) == dict.fromkeys(SITES[:5], ())
    assert found.epsilon_total is not None


PARTS = [
    ("home",),
    ("transfers",),
    ("transfers", FIRST),
    ("transfers", FIRST, "how"),
    ("transfers", FIRST, "keys"),
    ("transfers", LAST, "relays"),
    ("random",),
    ("random", "coefficients"),
    ("random", "coefficients", "source"),
    ("random", "coefficients", "physical"),
    ("domains",),
    ("domains", FIRST),
    ("deal_checked",),
]
WRONG: list[Any] = [None, 7, "text", [], [7], {"a": 1}, True, float("nan"), [{}], {"how": 3}, "\ud800"]


def fits(part: tuple[str, ...], value: Any) -> bool:
    """Whether a value is one that the part may have."""
    return value is True if part[-1] == "physical" else isinstance(value, str) and part[-1] == "source"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("wrong", range(len(WRONG)))
async def test_no_part_that_is_missing_or_malformed_makes_a_label_better(part: tuple[str, ...], wrong: int) -> None:
    value = await stored_value()
    best = label(value)
    found = label(changed(value, *part, to=WRONG[wrong]))
    assert found.collusion_number <= best.collusion_number
    assert found.epsilon_total is None or found.epsilon_total >= (best.epsilon_total or 0)
    assert not (found.deal_checked and part == ("deal_checked",) and WRONG[wrong] is not True)
    if part[0] == "domains":
        assert not found.collusion_complete
    if part[0] in {"transfers", "random"} and part[-1] != "relays" and not fits(part, WRONG[wrong]):
        assert not found.everlasting
    if part[-1] == "relays" and WRONG[wrong] != []:
        assert not found.collusion_complete


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([part[0] for part in PARTS] + ["policy", "relay_domains", "x"]), json_values))
def test_any_facts_are_read_without_failing(facts: dict[str, Any]) -> None:
    read = ObjectFacts.read(facts)
    assert read.home is None or isinstance(read.home, str)
    assert all(isinstance(name, str) for names in read.domains.values() for name in names)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.dictionaries(st.sampled_from([part[0] for part in PARTS] + ["policy"]), json_values))
def test_any_facts_make_a_label_that_is_not_everlasting(value_of_all: RegisterValue, facts: dict[str, Any]) -> None:
    found = label(replace(value_of_all, facts=facts))
    assert not found.everlasting
    assert found.reasons
    assert not found.collusion_complete
    assert found.collusion_number == 1
    assert found.to_json()["summary"]


@pytest.fixture
async def value_of_all() -> RegisterValue:
    return await stored_value()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1e-9, 1.5, True, "1e-9", None, [1e-9]])
async def test_an_epsilon_that_cannot_be_makes_the_sum_unknown(wrong: Any) -> None:
    assert probability(wrong) is None
    value = await stored_value()
    keys = [{**key, "epsilon": wrong} for key in value.facts["transfers"][FIRST]["keys"]]
    found = label(changed(value, "transfers", FIRST, "keys", to=keys))
    assert found.epsilon_total is None


@pytest.mark.parametrize("count", [0, -3, 1 << 60, 1.5, True])
async def test_a_number_of_keys_that_cannot_be_makes_the_sum_unknown(count: Any) -> None:
    value = await stored_value()
    keys = [{**key, "keys": count} for key in value.facts["transfers"][FIRST]["keys"]]
    found = label(changed(value, "transfers", FIRST, "keys", to=keys))
    assert (found.epsilon_total, found.everlasting) == (None, False)
    assert "transfers" in found.unreadable


async def test_what_a_kme_declares_of_epsilon_is_recorded_only_if_it_is_a_probability() -> None:
    for wrong in (float("nan"), float("inf"), -1.0, 2.0):
        world = make_world(facts=KeySourceFacts("qkd", simulated=False, epsilon=wrong))
        assert (await store(world, "object", b"x", "its")).label.epsilon_total is None


async def test_a_share_that_travelled_otherwise_than_its_class_does_is_not_everlasting() -> None:
    value = await stored_value()
    for how in ("AES-256-GCM under ML-KEM-768 and X25519", "local", "carrier pigeon"):
        found = label(changed(value, "transfers", FIRST, "how", to=how))
        assert not found.everlasting
        assert any(FIRST in reason for reason in found.reasons)


async def test_relays_open_the_shares_whose_keys_they_saw() -> None:
    value = await stored_value()
    assert label(value).collusion_number == 3
    for site in SITES[3:5]:
        value = changed(value, "transfers", site, "relays", to=["relay-1"])
    found = label(value)
    assert (found.collusion_number, found.collusion_set[-1]) == (2, "relay relay-1")
    assert found.collusion_parties[-1] == ("relay", "relay relay-1", SITES[3:5])
    assert dict(found.routes)[LAST] == ("relay-1",)
    assert "relay-1" in " ".join(found.unknown)


async def test_a_relay_counts_with_its_operator_and_its_maker() -> None:
    value = await stored_under(domains={name: SiteDomains(f"operator-{name}", f"maker-{name}") for name in SITES[:5]})
    for site in SITES[3:5]:
        value = changed(value, "transfers", site, "relays", to=["relay-1"])
    owned = SiteDomains(f"operator-{SITES[2]}")
    found = label(value, declared={SiteId("relay-1"): owned})
    assert (found.collusion_number, found.collusion_set) == (1, (f"operator-{SITES[2]}",))
    made = SiteDomains("carrier", f"maker-{SITES[2]}")
    found = label(value, declared={SiteId("relay-1"): made})
    assert (found.collusion_number, found.collusion_set) == (1, (f"vendor maker-{SITES[2]}",))


async def test_a_site_as_relay_counts_with_the_domains_of_that_site() -> None:
    value = await stored_value()
    for site in SITES[3:5]:
        value = changed(value, "transfers", site, "relays", to=[SITES[2]])
    found = label(value)
    assert (found.collusion_number, found.collusion_set) == (1, (f"operator-{SITES[2]}",))


async def test_who_took_a_site_over_since_counts_beside_who_had_it() -> None:
    value = await stored_value()
    today = {SiteId(site): SiteDomains("conglomerate") for site in SITES[1:4]}
    found = label(value, declared=today)
    assert (found.collusion_number, found.collusion_set) == (1, ("conglomerate",))
    apart = {SiteId(site): SiteDomains(f"successor-{site}") for site in SITES[:5]}
    merged = changed(value, "domains", to={site: ["conglomerate"] for site in SITES[:5]})
    assert label(merged, declared=apart).collusion_number == 1


async def test_vendors_that_three_sites_share_lower_the_number_and_unknown_ones_do_not() -> None:
    shared = {name: SiteDomains(f"operator-{name}", "maker") for name in SITES[1:4]}
    found = label(await stored_under(domains=shared))
    assert (found.collusion_number, found.collusion_set) == (1, ("vendor maker",))
    assert f"makers of the devices at {SITES[0]}, {SITES[4]} are not declared" in " ".join(found.unknown)
    assert label(await stored_value()).collusion_number == 3


async def test_reads_are_counted_with_their_relays() -> None:
    value, journal = await stored_value(), MemoryJournal()
    record_read(journal, value, {FIRST: (), LAST: (SiteId("relay-1"),)})
    record_read(journal, value, {SiteId(SITES[3]): (SiteId("relay-1"),), LAST: (SiteId("relay-1"),)})
    assert len(journal.lines(value.register_id)) == 2
    record_read(journal, value, {LAST: (SiteId("relay-1"),), FIRST: ()})
    assert len(journal.lines(value.register_id)) == 2  # nothing new
    found = label(value, reads=read_routes(journal, value))
    assert (found.collusion_number, dict(found.routes)[LAST]) == (2, ("relay-1",))
    later = replace(value, bodies=(replace(value.bodies[0], epoch=1),))
    assert label(later, reads=read_routes(journal, later)).collusion_number == 3


async def test_a_read_over_a_route_that_nobody_declares_leaves_the_number_open() -> None:
    value, journal = await stored_value(), MemoryJournal()
    record_read(journal, value, {FIRST: None})
    found = label(value, reads=read_routes(journal, value))
    assert not found.collusion_complete
    assert dict(found.routes)[FIRST] is None


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b'{"version":1}', b"\xff", b'{"routes":{}}', b"[" * 5000, b"BAD NAME"]
)
async def test_a_journal_line_that_cannot_be_read_means_that_anybody_saw_something(line: bytes) -> None:
    value, journal = await stored_value(), MemoryJournal()
    body = value.bodies[0]
    bad_name = f'{{"version":"{body.version}","epoch":0,"routes":{{"{FIRST}":["not a name"]}}}}'.encode()
    journal.append(value.register_id, bad_name if line == b"BAD NAME" else line)
    assert read_routes(journal, value).undeclared == set(value.placement)
    assert not label(value, reads=read_routes(journal, value)).collusion_complete


async def test_keys_of_other_classes_open_nothing_alone() -> None:
    value = await stored_value("qkd")
    seen = ReadRoutes({FIRST: (SiteId("relay-1"),), LAST: (SiteId("relay-1"),)}, frozenset({SiteId(SITES[2])}))
    found = label(value, reads=seen)
    assert (found.collusion_number, found.collusion_complete) == (3, True)


async def test_an_audit_is_said_when_one_is_known() -> None:
    value = await stored_value()
    assert label(value).to_json()["audited_at"] is None
    assert label(value, audited_at_wall_s=1e9).to_json()["audited_at"] == 1e9


async def test_a_deal_of_no_more_than_k_sites_was_not_checked() -> None:
    world = make_world(n=3, scheme="3-of-3")
    assert (await store(world, "object", b"x", "its")).label.deal_checked is False
    assert (await store(make_world(), "object", b"x", "its")).label.deal_checked is True
    assert (await store(make_world(), "object", b"x", "pqc")).label.deal_checked is False


@pytest.mark.parametrize("class_", ["its", "pqc"])
async def test_a_site_that_dropped_out_after_it_got_its_share_counts(class_: str) -> None:
    domains = {SITES[3]: SiteDomains("carrier"), LAST: SiteDomains("carrier")}
    world = make_world(domains=domains, facts=REAL)
    world.links[LAST].before = failing("seal")
    found = (await store(world, "object", b"x" * 40, class_)).label
    assert found.durable_at == 4
    assert (found.collusion_number, found.collusion_complete) == (2, True)
    assert "carrier" in found.collusion_set
    assert ("operator", "carrier", (SITES[3], LAST)) in found.collusion_parties


async def test_an_older_object_that_lacks_a_site_does_not_know_who_saw_its_share() -> None:
    world = make_world(facts=REAL)
    world.links[LAST].down = True
    receipt = await store(world, "object", b"x" * 40, "its")
    assert receipt.label.collusion_complete
    reading = await world.context.catalog.read(world.context.channels("its"), receipt.object_id)
    assert reading.value is not None
    assert not label(changed(reading.value, "dropped")).collusion_complete


async def test_a_site_that_the_object_left_counts_for_ever() -> None:
    value = await stored_value()
    assert label(value).collusion_number == 3
    domains = {site: list(names) for site, names in value.facts["domains"].items()}
    domains[SITES[3]] = ["carrier"]
    value = changed(value, "domains", to=domains)
    facts = copy.deepcopy(dict(value.facts))
    left = replace(value, facts=facts | {"former": {"old-site": ["carrier"]}})
    found = label(left)
    assert (found.collusion_number, "carrier" in found.collusion_set) == (2, True)
    assert not found.collusion_complete  # its route is not recorded
    facts["transfers"]["old-site"] = facts["transfers"][FIRST]
    assert label(left).collusion_number == 2


@pytest.mark.parametrize("wrong", [7, [], {"old-site": 3}, {"old-site": [3]}, {"old-site": []}, {"old site": ["x"]}])
async def test_sites_that_the_object_left_are_not_forgotten_when_malformed(wrong: Any) -> None:
    value = await stored_value()
    found = label(replace(value, facts={**value.facts, "former": wrong}))
    assert not found.collusion_complete
