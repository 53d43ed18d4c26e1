"""Replacing sites under attack: sites that come back, lie, or promised too much; owners who stop half way."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import ObjectId, SaeId, SiteId, Unavailable
from shosoin.base.ports import DeliveredKey, KeySourceFacts
from shosoin.cli.move import _Report
from shosoin.vault import Vault, leaving, moving
from shosoin.vault.assurance import Exposed, SiteDomains
from shosoin.vault.catalog import PROVEN
from shosoin.vault.catalog_answers import SignersUnknown
from tests.vault.repair_support import FIVE, lose, rows
from tests.vault.support import OWNER, SITES, DirectLink, World, WrappedKeys, failing, fetch, make_world, store

OLD, NEW, LAST = SITES[2], SITES[5], SITES[4]
CONTENT = b"content" * 9


def configured(world: World, *retired: str, without: tuple[str, ...] = ()) -> World:
    """A client with these sites retired, and those left out of its configuration."""
    client = world.another_vault()
    client.context.sites = tuple(
        replace(site, retired=site.name in retired) for site in client.context.sites if site.name not in without
    )
    return replace(client, vault=Vault(client.context))


async def filled(class_: str = "pqc", *names: str) -> World:
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    for name in names or ("a",):
        await store(before, name, CONTENT, class_)
    return world


async def object_id(client: World, name: str = "a") -> str:
    await client.vault.ls()
    return client.vault._names.entries()[name].object_id


async def moved_and_repaired(client: World) -> None:
    assert [one.error for one in await client.vault.move_retired()] == [None]
    assert all(each.done for each in await client.vault.repair(None))


async def test_a_site_that_comes_back_never_gets_a_second_share_of_the_same_object() -> None:
    """It may have kept the first one: then k-1 sites would hold k shares."""
    world = await filled()
    after = configured(world, OLD)
    await moved_and_repaired(after)
    back = configured(world, LAST)  # the old site is wanted again, in the place of another
    for one in await back.vault.move_retired():
        assert one.error is not None
    stat = await back.vault.stat("a")
    assert stat.placement.count(SiteId(OLD)) == 0
    assert (await fetch(back.vault, "a"))[0] == CONTENT


async def test_a_site_that_comes_back_gets_the_place_that_it_had() -> None:
    world = make_world(7, "2-of-5")
    await store(configured(world, NEW, SITES[6]), "a", CONTENT, "pqc")
    await moved_and_repaired(configured(world, OLD, SITES[6]))
    back = configured(world, SITES[1], NEW)  # two places are free, the second before the third
    assert [one.error for one in await back.vault.move_retired()] == [None]
    assert (await back.vault.stat("a")).placement.index(SiteId(OLD)) == 2
    assert (await fetch(back.vault, "a"))[0] == CONTENT


async def test_a_site_that_left_and_sees_the_keys_of_another_counts_with_the_share_that_it_had() -> None:
    """With one more site it would know three shares: its old one, the one whose keys it sees, and the other's."""
    world = await filled("its")
    await moved_and_repaired(configured(world, OLD))
    alone = configured(world, without=(OLD,))
    (await fetch(alone.vault, "a"))
    seen = SiteDomains("operator", relays=(SiteId(OLD),))
    alone.context.sites = tuple(
        replace(site, domains=seen) if site.name == LAST else site for site in alone.context.sites
    )
    alone.on_all(before=failing("read"))
    with pytest.raises(Exposed):
        await fetch(alone.vault, "a")


async def test_an_object_that_lost_shares_elsewhere_stays_until_it_is_repaired() -> None:
    """The old site's share is one of the last three: leaving it would lose the object."""
    world = await filled()
    after = configured(world, OLD)
    for site in (FIVE[3], FIVE[4]):
        for row in rows(world, site, await object_id(after)):
            lose(world, site, row.key)
    (moved,) = await after.vault.move_retired()
    assert (await fetch(after.vault, "a"))[0] == CONTENT
    assert isinstance(moved.error, Unavailable)
    assert all(each.done for each in await after.vault.repair(None))
    await moved_and_repaired(after)
    assert (await fetch(after.vault, "a"))[0] == CONTENT


async def test_an_object_whose_shares_were_found_wrong_stays_until_it_is_repaired() -> None:
    world = await filled()
    after = configured(world, OLD)
    for site in (FIVE[3], FIVE[4]):
        for row in rows(world, site, await object_id(after)):
            content = world.stores[site]._tables.contents[row.locator]
            world.stores[site]._tables.contents[row.locator] = type(content)(bytes(len(content)))
    report = await after.vault.verify("a")
    assert [report.per_site[SiteId(site)] for site in FIVE[3:]] == ["wrong", "wrong"]
    (moved,) = await after.vault.move_retired()
    assert (await fetch(after.vault, "a"))[0] == CONTENT
    assert isinstance(moved.error, Unavailable)


async def test_an_old_site_that_promised_too_much_can_still_be_switched_off() -> None:
    """A client died after its first question: the old site may take no commit that is older than its promise."""
    world = await filled()
    after = configured(world, OLD)
    register = await object_id(after)
    after.links[OLD].down = True
    assert [one.error for one in await after.vault.move_retired()] == [None]
    after.links[OLD].down = False
    prepare = {"op": "prepare", "register": register, "ballot": [40, "zz"]}
    await after.context.channels("pqc")[SiteId(OLD)].exchange([prepare])
    assert all(each.done for each in await after.vault.repair(None))
    await after.vault.move_retired()
    (old,) = (await after.vault.ties()).sites
    assert old.may_go, old


async def test_a_client_that_died_after_it_asked_two_sites_stops_no_move() -> None:
    """Four others promise, the old site among them: that is no quorum, and the next round has one."""
    world = await filled()
    after = configured(world, OLD)
    prepare = {"op": "prepare", "register": await object_id(after), "ballot": [2, "zz"]}
    for site in FIVE[:2]:
        await after.context.channels("pqc")[SiteId(site)].exchange([prepare])
    assert [one.error for one in await after.vault.move_retired()] == [None]


async def test_an_old_site_that_lists_for_ever_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaving, "_PAGES_MAX", 64)
    world = await filled()
    after = configured(world, OLD)
    channel = after.context.channels("pqc")[SiteId(OLD)]
    honest, asked = channel.exchange, [0]

    async def endless(operations: Any, *more: Any, **options: Any) -> Any:
        answer = await honest(operations, *more, **options)
        if operations[0]["op"] == "inventory":
            asked[0] += 1
            assert asked[0] < 1000, "it is asked for ever"
            start = int(operations[0]["after"] or "0", 16)
            answer.results[0]["shares"] = [[f"{start + step:032x}", "0" * 32, 0, 64, "committed"] for step in (1, 2)]
        return answer

    channel.exchange = endless  # type: ignore[method-assign]
    assert [one.error for one in await after.vault.move_retired()] == [None]
    (old,) = (await after.vault.ties()).sites
    assert (old.may_go, old.listed) == (False, 128)


async def test_what_an_old_site_lists_cannot_hide_what_was_moved() -> None:
    world = await filled()
    after = configured(world, OLD)
    channel = after.context.channels("pqc")[SiteId(OLD)]
    honest = channel.exchange

    async def junk(operations: Any, *more: Any, **options: Any) -> Any:
        answer = await honest(operations, *more, **options)
        if operations[0]["op"] == "inventory":
            answer.results[0]["shares"] = [[None], [7], [["x"]], ["not an id"]]
        return answer

    channel.exchange = junk  # type: ignore[method-assign]
    assert [one.error for one in await after.vault.move_retired()] == [None]
    (old,) = (await after.vault.ties()).sites
    assert old.listed is None


async def test_fewer_sites_than_before_can_still_be_written_to() -> None:
    """A site is retired before there is another: what fits the sites that are left goes on."""
    world = make_world(5, "3-of-5")
    await store(world, "a", CONTENT, "pqc")
    after = configured(world, OLD)
    await store(after, "b", CONTENT, "pqc", scheme=(3, 4))
    assert (await fetch(after.vault, "a"))[0] == CONTENT
    assert (await fetch(after.vault, "b"))[0] == CONTENT
    (stays,) = [one for one in await after.vault.move_retired() if one.name == "a"]
    assert isinstance(stays.error, Unavailable)


async def test_a_put_goes_on_while_one_of_the_new_members_is_away() -> None:
    world = await filled()
    after = configured(world, OLD)
    after.links[NEW].down = True
    await store(after, "b", CONTENT, "pqc")
    after.links[OLD].down = True
    assert (await fetch(after.vault, "a"))[0] == CONTENT
    assert (await fetch(after.vault, "b"))[1].label.durable_at == 4


async def test_an_interrupted_removal_does_not_outlive_the_old_site() -> None:
    world = await filled("pqc", "a", "b")
    before = configured(world, NEW)
    before.links[LAST].down = True  # so the old site's signature is needed
    commits = [0]

    def stop(link: DirectLink, header: dict[str, Any]) -> None:
        kinds = {op["op"] for op in header.get("ops", ())}
        if "write" in kinds:
            commits[0] += 1
            raise Unavailable("the owner's computer dies")

    before.on_all(before=stop)
    with contextlib.suppress(Unavailable):
        await before.vault.rm("a")
    assert commits[0]
    after = configured(world, OLD)
    await after.vault.move_retired()
    await after.vault.repair(None)
    await after.vault.move_retired()
    (old,) = (await after.vault.ties()).sites
    assert old.may_go, old
    alone = configured(world, without=(OLD,))
    assert set((await alone.vault.audit())["b"].values()) == {"ok"}
    assert (await alone.vault.move_retired()) is not None
    with contextlib.suppress(Exception):
        await alone.vault.rm("a")
    assert [entry.name for entry in await alone.vault.ls()] == ["b"]


async def test_an_index_of_class_its_moves_only_if_no_coalition_sees_it() -> None:
    """Names are shared over all members; links whose keys pass through others must not carry them blindly."""
    world = await filled("its")
    before = configured(world, NEW)
    await before.vault.rm("a")  # no object is left, the index is
    after = configured(world, OLD)
    await after.vault.ls()
    seen = SiteDomains("operator", relays=(SiteId(FIVE[1]),))
    after.context.sites = tuple(
        replace(site, domains=seen) if site.name in {LAST, NEW} else site for site in after.context.sites
    )
    after.on_all(before=failing("write", "take"))
    with pytest.raises(Exposed):
        await after.vault.move_retired()


async def test_a_name_that_is_removed_during_a_move_stops_nothing() -> None:
    world = await filled("pqc", "a", "b")
    after, other = configured(world, OLD), configured(world, OLD)
    commit = after.vault._names.commit
    done = []

    async def racing(*arguments: Any) -> Any:
        if not done:
            done.append(True)
            await other.vault.rm("a")
        return await commit(*arguments)

    class Racing:
        def __init__(self, names: Any) -> None:
            self._names = names

        def __getattr__(self, name: str) -> Any:
            return racing if name == "commit" else getattr(self._names, name)

    await moving.move_objects(after.context, Racing(after.vault._names))  # type: ignore[arg-type]
    assert done
    assert [entry.name for entry in await after.vault.ls()] == ["b"]
    assert all(not each.to_move for each in (await after.vault.ties()).objects)


async def test_the_order_of_sites_in_another_configuration_moves_nothing() -> None:
    world = await filled()
    after = configured(world, OLD)
    await moved_and_repaired(after)
    other = configured(world, OLD)
    first, *rest = other.context.sites
    other.context.sites = (first, *reversed(rest))
    assert not any(each.to_move for each in (await other.vault.ties()).objects)


async def test_two_moves_at_once_end_and_lose_nothing() -> None:
    world = await filled("pqc", "a", "b", "c")
    one, two = configured(world, OLD), configured(world, OLD)
    await asyncio.gather(one.vault.move_retired(), two.vault.move_retired(), return_exceptions=True)
    third = configured(world, OLD)
    assert [each.error for each in await third.vault.move_retired()] == [None] * 3
    for name in "abc":
        assert (await fetch(third.vault, name))[0] == CONTENT
        assert (await third.vault.stat(name)).label.freshness == PROVEN


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_a_read_that_meets_a_move_goes_on(class_: str) -> None:
    world = await filled(class_)
    reader, mover = configured(world, OLD), configured(world, OLD)
    once: list[bool] = []

    async def then(link: DirectLink, header: dict[str, Any]) -> None:
        if not once and any(op["op"] == "read" for op in header.get("ops", ())):
            once.append(True)
            await mover.vault.move_retired()

    await reader.vault.ls()
    reader.on_all(before=then)
    content, receipt = await fetch(reader.vault, "a")
    assert (content, receipt.alarms) == (CONTENT, [])
    assert once or class_ == "its"


async def test_a_removal_tells_of_shares_at_sites_that_it_cannot_ask() -> None:
    """The share at a site that left the configuration without a move is still there."""
    world = await filled()
    alone = configured(world, without=(OLD,))
    receipt = await alone.vault.rm("a")
    assert SiteId(OLD) in receipt.pending_at
    assert [row for row in rows(world, OLD) if row.key.object_id == receipt.object_id]


async def test_a_share_rebuilt_at_a_site_that_is_replaced_meanwhile_counts_for_nothing() -> None:
    world = await filled()
    register = await object_id(world)
    for row in rows(world, OLD, register):
        lose(world, OLD, row.key)
    repairing, moving_on = configured(world, NEW), configured(world, OLD)
    moved: list[Any] = []

    async def move_first(link: DirectLink, header: dict[str, Any]) -> None:
        if not moved and any(op["op"] == "repair_adopt" for op in header.get("ops", ())):
            moved.append(True)
            moved.extend(await moving_on.vault.move_retired())

    repairing.on_all(after=move_first)
    (done,) = await repairing.vault.repair(["a"])
    assert moved[1].error is None
    assert "moved away" in done.problem
    repairing.on_all()
    assert not rows(world, OLD, register)
    value = (await moving_on.context.catalog.read(moving_on.context.channels("pqc"), ObjectId(register))).value
    assert value is not None
    assert (value.revision, SiteId(OLD) in value.bodies[0].good) == (0, False)
    assert (await fetch(moving_on.vault, "a"))[0] == CONTENT


async def test_who_does_not_know_a_new_site_is_told_to_add_it() -> None:
    world = await filled()
    after = configured(world, OLD)
    after.links[LAST].down = True
    assert [one.error for one in await after.vault.move_retired()] == [None]
    old = configured(world, without=(NEW,))
    with pytest.raises(SignersUnknown, match=NEW) as told:
        await old.vault.ls()
    assert "add sites that are new" in str(told.value.hint)


REAL = KeySourceFacts("qkd", simulated=False, epsilon=1e-12)
SIMULATED = KeySourceFacts("simulated-qkd", simulated=True, epsilon=1e-6)


class OneSimulated(WrappedKeys):
    """A home KME whose keys with one site are simulated."""

    def __init__(self, world: World, site: str) -> None:
        super().__init__(world.network.kme(SaeId(OWNER)))
        self._site = SaeId(f"node-{site}")

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        facts = SIMULATED if slave == self._site else REAL
        given = await self._inner.enc_keys(slave, number=number, size_bits=size_bits)
        return [DeliveredKey(key.key_id, key.material, facts) for key in given]


class RealKeys(WrappedKeys):
    """A node's KME whose keys are real."""

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        given = await self._inner.enc_keys(slave, number=number, size_bits=size_bits)
        return [DeliveredKey(key.key_id, key.material, REAL) for key in given]


async def stored_with_one_simulated(site: str, class_: str) -> World:
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    before.context.keys = OneSimulated(world, site)
    await store(before, "a", CONTENT, class_)
    for link in world.links.values():
        repair = link.node._operations._repair
        repair.parts.keys = RealKeys(repair.parts.keys)
    return world


@pytest.mark.parametrize("class_", ["its", "qkd"])
async def test_a_move_makes_no_label_better_than_it_was(class_: str) -> None:
    """The share that travelled to the old site is one of the same object for ever, whoever broke its key."""
    world = await stored_with_one_simulated(OLD, class_)
    before = (await configured(world, NEW).vault.stat("a")).label
    after = configured(world, OLD)
    await moved_and_repaired(after)
    now = (await after.vault.stat("a")).label
    assert (before.simulated, now.simulated) == (True, True)
    assert any(OLD in reason and "simulated" in reason for reason in now.reasons)
    assert before.epsilon_total is not None
    assert now.epsilon_total is not None
    assert now.epsilon_total >= before.epsilon_total


@pytest.mark.parametrize("class_", ["its", "qkd"])
async def test_a_repair_makes_no_label_better_than_it_was(class_: str) -> None:
    world = await stored_with_one_simulated(LAST, class_)
    client = configured(world, NEW)
    before = (await client.vault.stat("a")).label
    for _ in range(2):
        for row in rows(world, LAST, await object_id(client)):
            lose(world, LAST, row.key)
        assert all(each.done for each in await client.vault.repair(None))
        now = (await client.vault.stat("a")).label
        assert (before.simulated, now.simulated) == (True, True)
        assert before.epsilon_total is not None
        assert now.epsilon_total is not None
        assert now.epsilon_total > before.epsilon_total
        before = now


async def test_the_report_says_what_helps_objects_that_stay() -> None:
    """A repair, a site more, or a decision; not "start the sites that are away" whatever it is."""
    world = await filled("pqc", "a", "b")
    after = configured(world, OLD)
    for site in (FIVE[3], FIVE[4]):
        for row in rows(world, site, await object_id(after)):
            lose(world, site, row.key)
    moved = await after.vault.move_retired()
    report = _Report(moved, await after.vault.ties(), dry_run=False)
    assert (report.next(), report.json()["next"]) == ("repair", "repair")
    assert all(each.done for each in await after.vault.repair(None))
    nobody = configured(world, OLD, without=(NEW,))
    stuck = [one for one in await nobody.vault.move_retired() if one.error is not None]
    assert _Report(stuck, await nobody.vault.ties(), dry_run=False).next() == "see"


@pytest.mark.parametrize("class_", ["its", "qkd"])
async def test_a_site_that_drops_out_of_a_put_takes_no_simulated_key_out_of_the_label(class_: str) -> None:
    """Its share was on the wire under that key."""
    world = make_world(6, "3-of-5")
    client = configured(world, NEW)
    client.context.keys = OneSimulated(world, LAST)
    client.links[LAST].before = failing("seal")
    for link in world.links.values():
        repair = link.node._operations._repair
        repair.parts.keys = RealKeys(repair.parts.keys)
    receipt = await store(client, "a", CONTENT, class_)
    assert SiteId(LAST) in receipt.missing
    assert receipt.label.simulated
    assert any(LAST in reason and "simulated" in reason for reason in receipt.label.reasons)
    assert (await client.vault.stat("a")).label.simulated
    client.links[LAST].before = None
    assert all(each.done for each in await client.vault.repair(None))
    label = (await client.vault.stat("a")).label
    assert (label.durable_at, label.simulated) == (5, True)
