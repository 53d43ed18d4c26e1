"""Policies against a whole vault: refused before a key is drawn, or undone without a trace; every get holds to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import SaeId, SiteId, Unavailable
from shosoin.base.ports import KeySourceFacts, KeyStatus
from shosoin.vault import Vault
from shosoin.vault.client import NotFound
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.policies import Policies
from shosoin.vault.putting import PolicyUnmet
from shosoin.vault.verdicts import PolicyRefused
from tests.vault.support import (
    SITES,
    DirectLink,
    ListSink,
    SeededEntropy,
    World,
    WrappedKeys,
    failing,
    fetch,
    make_world,
    pattern,
    store,
)

REAL = KeySourceFacts("qkd", simulated=False, epsilon=1e-12)
REMOTE = SITES[1:5]


class Declared(WrappedKeys):
    """A KME that says in its status what a test wants."""

    def __init__(self, inner: WrappedKeys, **said: Any) -> None:
        super().__init__(inner)
        self.said: dict[str, dict[str, Any]] = {
            site: {"shosoin_relays": [], **{f"shosoin_{name}": value for name, value in said.items()}}
            for site in REMOTE
        }

    async def status(self, slave: SaeId) -> KeyStatus:
        status = await super().status(slave)
        return replace(status, extension=self.said[slave.removeprefix("node-")])


def require(world: World, *clauses: str, prefix: str = "") -> None:
    world.context.policies = Policies.of([(prefix, list(clauses))])


def operations(world: World) -> int:
    return sum(len(link.seen) + len(link.offers) for link in world.links.values())


def nothing_left(world: World) -> None:
    """No site keeps a share or a register of an object, and no name exists."""
    for store_ in world.stores.values():
        assert store_.staged == 0
        assert list(store_.shares()) == []


@pytest.mark.parametrize(
    ("clause", "class_", "scheme", "found"),
    [
        ("class = its", "qkd", None, "qkd"),
        ("class in its, qkd", "pqc", None, "pqc"),
        ("scheme = 4-of-5", "its", (3, 5), "3-of-5"),
        ("home = hongo", "its", None, "koganei"),
        ("collusion >= 4", "its", None, "3: operator-hakusan, operator-hongo, operator-"),
        ("collusion >= 3", "its", (2, 5), "2: "),
        ("durable >= 5", "its", (2, 3), "3 of 3 sites"),
        ("everlasting", "qkd", None, "rest on computation"),
        ("everlasting", "its", None, "seeded test generator"),
        ("epsilon <= 1e-9", "pqc", None, "not declared"),
        ("deal checked", "pqc", None, "that it was not"),
        ("deal checked", "its", (5, 5), "that it was not"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
async def test_what_a_plan_shows_is_refused_before_anything_leaves(
    clause: str, class_: str, scheme: Any, found: str, many: bool
) -> None:
    world = make_world(entropy=SeededEntropy(1), facts=REAL)
    require(world, clause)
    putting = (
        world.vault.put_many({"a": b"x", "name": b"y"}, class_=class_, scheme=scheme)
        if many
        else store(world, "name", b"x", class_, scheme=scheme)
    )
    with pytest.raises(PolicyRefused) as refused:
        await putting
    assert clause in refused.value.message
    assert found in refused.value.message
    assert refused.value.hint.startswith("nothing was sent and no key was drawn; ")
    assert refused.value.code == "vault.policy_refused"
    assert world.keys.drawn == []
    assert operations(world) == 0


async def test_every_failing_clause_is_named() -> None:
    world = make_world()
    require(world, "class = its", "scheme = 4-of-5 and home = hongo")
    with pytest.raises(PolicyRefused) as refused:
        await store(world, "name", b"x", "qkd")
    for clause in ("class = its", "scheme = 4-of-5", "home = hongo"):
        assert f"`{clause}`" in refused.value.message


async def test_a_relays_declared_operator_lowers_the_number_of_a_plan() -> None:
    world = make_world()
    keys = world.context.keys = Declared(world.keys)
    keys.said[SITES[4]] = {"shosoin_relays": ["relay-1"]}
    require(world, "collusion >= 3")
    await store(world, "free", b"x", "its")  # a relay of its own: still three
    world.context.relay_domains = {SiteId("relay-1"): SiteDomains(f"operator-{SITES[1]}")}
    with pytest.raises(PolicyRefused, match=f"2: .*operator-{SITES[1]}"):
        await store(world, "name", b"x", "its")
    assert "name" not in [listing.name for listing in await world.vault.ls()]


async def test_a_kme_that_leaves_relays_out_cannot_take_back_what_the_owner_declares() -> None:
    known = SiteDomains(f"operator-{SITES[4]}", relays=(SiteId("relay-1"),))
    world = make_world(domains={SITES[4]: known})
    world.context.keys = Declared(world.keys)  # says: no relays
    world.context.relay_domains = {SiteId("relay-1"): SiteDomains(f"operator-{SITES[1]}")}
    require(world, "collusion >= 3")
    with pytest.raises(PolicyRefused):
        await store(world, "name", b"x", "its")
    world.context.policies = Policies()
    assert (await store(world, "name", b"x", "its")).label.collusion_number == 2


async def test_a_route_that_nobody_declares_does_not_count_as_direct() -> None:
    world = make_world()
    keys = world.context.keys = Declared(world.keys)
    keys.said[SITES[4]] = {}
    require(world, "collusion >= 2")
    with pytest.raises(PolicyRefused, match=f"nobody declared who sees the keys for {SITES[4]}"):
        await store(world, "name", b"x", "its")
    assert keys.drawn == []
    await store(world, "name", b"x", "qkd")  # whose shares no key alone opens
    site = next(site for site in world.context.sites if site.name == SITES[4])
    direct = replace(site, domains=SiteDomains(site.domains.operator, relays=()))
    world.context.sites = tuple(direct if each is site else each for each in world.context.sites)
    assert (await store(world, "its", b"x", "its")).label.collusion_complete


@pytest.mark.parametrize("clause", ["simulated = no", "everlasting"])
async def test_links_that_say_that_they_are_simulated_are_refused_before_a_key_is_drawn(clause: str) -> None:
    world = make_world(entropy=SeededEntropy(1, physical=True))
    world.context.keys = Declared(world.keys, simulated=True)
    require(world, clause)
    with pytest.raises(PolicyRefused, match="simulated"):
        await store(world, "name", b"x", "its")
    assert operations(world) == 0


async def test_an_epsilon_that_the_links_declare_is_refused_before_a_key_is_drawn() -> None:
    world = make_world(facts=REAL)
    keys = world.context.keys = Declared(world.keys, epsilon=1e-3)
    require(world, "epsilon <= 1e-9")
    with pytest.raises(PolicyRefused, match=r"3\.0e-03"):
        await store(world, "name", b"x", "its")
    assert keys.drawn == []
    for site in REMOTE:
        keys.said[site]["shosoin_epsilon"] = float("nan")  # tells nothing; the keys themselves are fine
    await store(world, "name", b"x", "its")


@pytest.mark.parametrize(
    ("clause", "facts", "found"),
    [
        ("epsilon <= 1e-9", KeySourceFacts("qkd", simulated=False, epsilon=1e-6), "e-0"),
        ("epsilon <= 1e-9", KeySourceFacts("qkd", simulated=False, epsilon=None), "not declared"),
        ("epsilon <= 1e-9", KeySourceFacts("qkd", simulated=False, epsilon=float("nan")), "not declared"),
        ("simulated = no", KeySourceFacts("simulated-qkd", simulated=True, epsilon=0.0), "simulated links"),
        ("everlasting", KeySourceFacts("undeclared", simulated=False, epsilon=None), "did not say"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
async def test_what_only_the_facts_show_leaves_nothing_behind(
    clause: str, facts: KeySourceFacts, found: str, many: bool
) -> None:
    world = make_world(entropy=SeededEntropy(1, physical=True), facts=facts)
    require(world, clause)
    putting = world.vault.put_many({"a": b"x", "b": pattern(9000)}) if many else store(world, "name", pattern(3 << 20))
    with pytest.raises(PolicyRefused) as refused:
        await putting
    assert clause in refused.value.message
    assert found in refused.value.message
    assert refused.value.hint.startswith("nothing was committed; ")
    nothing_left(world)
    assert await world.vault.ls() == []
    world.context.policies = Policies()
    await store(world, "name", b"afterwards")
    assert (await fetch(world.vault, "name"))[0] == b"afterwards"


async def test_a_refused_version_leaves_the_one_before_it() -> None:
    world = make_world(entropy=SeededEntropy(1, physical=True))
    await store(world, "name", b"first")
    require(world, "simulated = no")
    with pytest.raises(PolicyRefused):
        await store(world, "name", b"second")
    world.context.policies = Policies()
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"first"
    for held in world.stores.values():
        assert held.staged == 0


async def test_a_site_that_is_down_fails_durable_before_the_commit() -> None:
    world = make_world()
    world.links[SITES[4]].down = True
    require(world, "durable = n")
    with pytest.raises(PolicyRefused, match="4 of 5 sites") as refused:
        await store(world, "name", b"x", "pqc")
    assert "start the missing sites" in refused.value.hint
    nothing_left(world)
    require(world, "durable >= 4")
    assert (await store(world, "name", b"x", "pqc")).durable_at == 4


async def test_a_site_that_does_not_pin_makes_a_new_object_vanish_again() -> None:
    """It took its share and is gone when the register is written: known only when the others have committed."""
    world = make_world()
    await store(world, "other", b"x", "pqc")
    require(world, "durable = n", prefix="bound/")
    world.links[SITES[4]].before = failing("accept")
    with pytest.raises(PolicyRefused, match="4 of 5 sites") as refused:
        await world.vault.put_many({"bound/name": b"y", "free": b"z"}, class_="pqc")
    assert refused.value.hint.startswith("it gets no name and is taken back; ")
    world.on_all()
    reader = world.another_vault().vault
    assert [listing.name for listing in await reader.ls()] == ["free", "other"]
    assert await reader.rm_unnamed(older_than_s=0) == []
    kept = {listing.object_id for listing in await reader.ls()}
    for held in world.stores.values():
        objects = {row.key.object_id for row in held.shares()}
        assert len(objects - kept) <= 1  # the index


async def test_a_version_that_too_few_sites_pin_stands_and_is_said_so() -> None:
    world = make_world()
    require(world, "durable = n")
    await store(world, "name", b"first", "pqc")
    world.links[SITES[4]].before = failing("accept")
    with pytest.raises(PolicyUnmet, match="4 of 5 sites") as unmet:
        await store(world, "name", b"second", "pqc")
    assert unmet.value.hint.startswith("the new version stands all the same; ")
    world.on_all()
    with pytest.raises(PolicyRefused):
        await fetch(world.vault, "name")
    assert (await fetch(world.vault, "name", despite_policy=True))[0] == b"second"
    assert (await store(world, "name", b"third", "pqc")).durable_at == 5
    assert (await fetch(world.vault, "name"))[0] == b"third"


def stricter(world: World, *clauses: str) -> Vault:
    require(world, *clauses)
    return world.vault


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_get_refuses_what_no_longer_meets_the_policy(class_: str) -> None:
    world = make_world()
    await store(world, "name", b"content", class_)
    vault = stricter(world, "collusion >= 4")
    world.keys.drawn.clear()
    sink = ListSink()
    with pytest.raises(PolicyRefused, match="collusion >= 4") as refused:
        await vault.get("name", sink)
    assert "--despite-policy" in refused.value.hint
    assert bytes(sink.content) == b""
    with pytest.raises(PolicyRefused):
        await vault.get_many(["name"])
    content, receipt = await fetch(vault, "name", despite_policy=True)
    assert content == b"content"
    assert [(each.name, each.severity, each.fields["clause"]) for each in receipt.warnings] == [
        ("vault.despite_policy", "warning", "collusion >= 4")
    ]
    assert receipt.alarms == []
    assert [event for event in world.sink.events if event.name == "vault.despite_policy"]
    assert await vault.get_many(["name"], despite_policy=True) == {"name": b"content"}


async def test_a_refused_get_draws_no_key_for_content() -> None:
    world = make_world()
    await store(world, "name", pattern(100_000), "its")
    vault = stricter(world, "age <= 1s", "home = hongo")
    world.keys.drawn.clear()
    with pytest.raises(PolicyRefused):
        await vault.get("name", ListSink())
    assert sum(len(content) for _, content in world.keys.drawn) < 2000  # authentication of the register's reading


async def test_everything_but_get_works_all_the_same() -> None:
    world = make_world()
    await store(world, "name", b"content", "its")
    vault = stricter(world, "collusion >= 4")
    assert [listing.name for listing in await vault.ls()] == ["name"]
    stat = await vault.stat("name")
    assert [(str(each.clause), each.met) for each in stat.policy] == [("collusion >= 4", False)]
    assert (await vault.verify("name")).ok
    assert set((await vault.audit(["name"]))["name"].values()) == {"ok"}
    (found,) = await vault.labels()
    assert found.label is not None
    assert [each.met for each in found.policy] == [False]
    assert (await vault.rm("name")).pending_at == []


async def test_a_policy_that_was_weakened_still_binds_what_was_stored_under_it() -> None:
    world = make_world()
    require(world, "collusion >= 3", "durable >= 4")
    await store(world, "name", b"content", "its")
    stat = await world.vault.stat("name")
    assert stat.label.policy == ("collusion >= 3", "durable >= 4")
    merged = SiteDomains("conglomerate")
    world.context.sites = tuple(replace(site, domains=merged) for site in world.context.sites)
    for policies in (Policies(), Policies.of([("", ["collusion >= 1"])])):
        world.context.policies = policies
        with pytest.raises(PolicyRefused, match=r"collusion >= 3.*1: conglomerate"):
            await fetch(world.vault, "name")
    sources = {str(each.clause): each.source for each in (await world.vault.stat("name")).policy}
    assert sources == {"collusion >= 1": "", "collusion >= 3": "at put", "durable >= 4": "at put"}


@pytest.mark.parametrize("recorded", [7, ["colusion >= 3"], [3], "collusion >= 3", {"a": 1}, [""], None, [["x"]]])
async def test_a_recorded_policy_that_cannot_be_read_is_not_met(recorded: Any, monkeypatch: Any) -> None:
    world = make_world()
    monkeypatch.setattr("shosoin.vault.putting.clauses_at_put", lambda *_: recorded)
    await store(world, "name", b"content", "pqc")
    with pytest.raises(PolicyRefused, match="recorded at put"):
        await fetch(world.vault, "name")
    assert not all(each.met for each in (await world.vault.stat("name")).policy)
    assert (await fetch(world.vault, "name", despite_policy=True))[0] == b"content"


@pytest.mark.parametrize("facts", [{}, {"transfers": 3}, {"transfers": {}, "domains": [], "random": None}])
async def test_an_object_with_missing_facts_has_the_worst_label_and_meets_no_policy(
    facts: dict[str, Any], monkeypatch: Any
) -> None:
    world = make_world()
    monkeypatch.setattr("shosoin.vault.putting.record_facts", lambda **_: facts)
    await store(world, "name", b"content", "pqc")
    label = (await world.vault.stat("name")).label
    assert (label.everlasting, label.collusion_complete, label.deal_checked) == (False, False, None)
    assert (await fetch(world.vault, "name"))[0] == b"content"
    for clause in ("collusion >= 1", "home = koganei", "simulated = no", "deal checked", "everlasting"):
        require(world, clause)
        with pytest.raises(PolicyRefused):
            await fetch(world.vault, "name")


async def test_a_read_over_a_new_relay_is_refused_if_it_would_break_the_policy() -> None:
    world = make_world()
    keys = world.context.keys = Declared(world.keys)
    world.context.relay_domains = {SiteId("relay-1"): SiteDomains(f"operator-{SITES[1]}")}
    require(world, "collusion >= 3")
    await store(world, "name", b"content", "its")
    keys.said[SITES[4]] = {"shosoin_relays": ["relay-1"]}
    keys.drawn.clear()
    for read in (fetch(world.vault, "name"), world.vault.get_many(["name"])):
        with pytest.raises(PolicyRefused, match="2: "):
            await read
    assert all(len(content) <= 64 for _, content in keys.drawn)  # authentication of what registers say, no pad
    assert (await world.vault.stat("name")).label.collusion_number == 3  # it never happened
    keys.said[SITES[4]] = {"shosoin_relays": []}
    assert (await fetch(world.vault, "name"))[0] == b"content"


async def test_relays_of_reads_are_remembered() -> None:
    """The route went back to a direct link; who saw the share then has it still."""
    world = make_world()
    keys = world.context.keys = Declared(world.keys)
    world.context.relay_domains = {SiteId("relay-1"): SiteDomains(f"operator-{SITES[1]}")}
    await store(world, "name", b"content", "its")
    assert (await world.vault.stat("name")).label.collusion_number == 3
    keys.said[SITES[4]] = {"shosoin_relays": ["relay-1"]}
    await fetch(world.vault, "name")
    keys.said[SITES[4]] = {"shosoin_relays": []}
    label = (await world.vault.stat("name")).label
    assert (label.collusion_number, dict(label.routes)[SITES[4]]) == (2, ("relay-1",))
    require(world, "collusion >= 3")
    with pytest.raises(PolicyRefused):
        await fetch(world.vault, "name")
    assert (await store(world, "name", b"content", "its")).label.collusion_number == 3  # new shares, fresh keys


async def test_verify_reads_shares_and_is_remembered_too() -> None:
    world = make_world()
    keys = world.context.keys = Declared(world.keys)
    await store(world, "name", b"content", "its")
    keys.said[SITES[4]] = {"shosoin_relays": ["relay-1"]}
    assert (await world.vault.verify("name")).ok
    assert dict((await world.vault.stat("name")).label.routes)[SITES[4]] == ("relay-1",)


async def test_freshness_can_be_required() -> None:
    world = make_world(scheme="2-of-5")
    require(world, "freshness = proven")
    await store(world, "name", b"content", "pqc")
    for name in SITES[3:5]:
        world.links[name].down = True
    assert (await fetch(world.vault, "name"))[1].freshness == "proven"
    world.links[SITES[2]].down = True  # two answer: enough for the content, too few to rule out a newer version
    with pytest.raises(PolicyRefused, match="unproven"):
        await fetch(world.vault, "name")
    assert (await fetch(world.vault, "name", despite_policy=True))[1].freshness == "unproven"


async def test_what_will_be_is_foreseen_without_a_key() -> None:
    world = make_world(entropy=SeededEntropy(1, physical=True))
    require(world, "collusion >= 3", "durable = n", "everlasting", "class = its")
    foreseen = await world.vault.foresee("name", class_="its")
    assert {str(each.clause): each.met for each in foreseen.policy} == {
        "class = its": True,
        "collusion >= 3": True,
        "durable = n": None,
        "everlasting": None,
    }
    assert world.keys.drawn == []
    assert operations(world) == 0
    worse = await world.vault.foresee("name", class_="pqc")
    assert {str(each.clause) for each in worse.policy if each.met is False} == {"class = its", "everlasting"}


@pytest.mark.parametrize(
    ("clauses", "why"),
    [
        (["class = its", "class = pqc"], "no class"),
        (["scheme = 3-of-5", "scheme = 4-of-5"], "no scheme"),
        (["scheme = 8-of-9"], "no scheme"),
        (["home = hongo"], "no home"),
        (["durable >= 6"], "durable can be 5"),
        (["scheme = 2-of-3", "durable >= 4"], "durable can be 3"),
        (["collusion >= 6"], "collusion can be 5"),
        (["class = qkd", "everlasting"], "`everlasting` needs class its"),
        (["class = pqc", "epsilon <= 1e-9"], "class pqc has none"),
    ],
)
async def test_a_policy_that_nothing_can_meet_is_told(clauses: list[str], why: str) -> None:
    world = make_world()
    require(world, *clauses)
    (said,) = world.vault.policy("name").never_met
    assert why in said
    with pytest.raises(PolicyRefused):
        await store(world, "name", b"x", "its")
    require(world, "collusion >= 3", "durable = n", "class = its, else qkd", "everlasting")
    assert world.vault.policy("name").never_met == ()


async def test_labels_come_in_batches_and_tell_what_cannot_be_had() -> None:
    world = make_world()
    await world.vault.put_many({f"name-{number:03}": b"x" for number in range(70)}, class_="pqc")
    await store(world, "other", b"x", "qkd")
    found = await world.vault.labels("name-")
    assert [each.listing.name for each in found] == [f"name-{number:03}" for number in range(70)]
    assert all(each.label is not None and each.label.durable_at == 5 for each in found)
    (one,) = await world.vault.labels(names=["other"])
    assert one.label is not None
    assert one.label.class_ == "qkd"
    object_id = one.listing.object_id

    def lose(link: DirectLink, header: dict[str, Any]) -> None:
        if any(op.get("register") == object_id for op in header.get("ops", ())):
            raise Unavailable(f"{link.site}: lost on the way")

    world.on_all(before=lose)
    troubled = (await world.vault.labels(names=["other"]))[0]
    assert (troubled.label, "lost on the way" in troubled.trouble) == (None, True)
    with pytest.raises(NotFound):
        await world.vault.labels(names=["nowhere"])
