"""Attacks on names, registers and reads after the last changes to them: each test says what must hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest

from shosoin.base import SiteId, Unavailable
from shosoin.vault.catalog import Conflict
from shosoin.vault.catalog_answers import SignersTooFew
from shosoin.vault.envelope import canonical_json
from shosoin.vault.fetching import Fetcher, _Answers
from shosoin.vault.index import index_register
from shosoin.vault.names import Names
from shosoin.vault.scheme import Scheme
from tests.review.test_register_attacks3 import promise
from tests.vault.support import (
    OWNER,
    SITES,
    DirectLink,
    Recorder,
    TurnRuntime,
    fetch,
    kinds_of,
    make_world,
    reached,
    store,
)
from tests.vault.test_label_facts import LAST, changed, label, stored_value
from tests.vault.test_moving import configured
from tests.vault.test_register_liars import Liar, register_of

SEVEN = SITES[:7]
SITE_NAMES = tuple(f"site-{place:02}" for place in range(16))
KEY = {"kind": "qkd", "simulated": False, "epsilon": 1e-12, "keys": 1}


def asks_for(header: dict[str, Any], class_: str) -> bool:
    """Whether a request reads the register of an index."""
    register = index_register(OWNER, class_)
    return any(op["op"] == "register" and op.get("register") == register for op in header.get("ops", ()))


# --------------------------------------------------------------------------------------------------------------- names


async def test_a_name_is_not_numbered_by_an_index_of_another_class_that_may_be_old() -> None:
    """Two sites that missed a removal are all that answer while the indexes are read; then the others are back."""
    world = make_world(7, "2-of-7")
    await store(world, "other", b"other", "pqc")
    world.links[SEVEN[5]].down = world.links[SEVEN[6]].down = True
    for number in range(3):
        await store(world, f"more {number}", b"more", "pqc")
    await store(world, "name", b"first", "pqc")
    await world.vault.rm("name")
    client, back = world.another_vault(), asyncio.Event()
    client.links[SEVEN[5]].down = client.links[SEVEN[6]].down = False

    def away_at_first(link: DirectLink, header: dict[str, Any]) -> None:
        if not kinds_of(header) <= {"register", "session"}:
            back.set()
        if not back.is_set() and link.site in SEVEN[:5] and asks_for(header, "pqc"):
            raise Unavailable(f"{link.site}: lost on the way")

    client.on_all(before=away_at_first)
    await store(client, "name", b"second", "qkd")
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"second"


async def test_names_that_an_operation_read_late_do_not_replace_what_another_one_read_since() -> None:
    """One client lists while it puts: the list read an index before a name came and went, and ends after that."""
    world = make_world()
    await store(world, "other", b"other", "pqc")
    client, writer = world.another_vault(), world.another_vault()
    await client.vault.ls()
    read, late, listed, sealing = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()
    seen: set[str] = set()

    async def hold_the_list(link: DirectLink, header: dict[str, Any]) -> None:
        if asks_for(header, "qkd") and not read.is_set():
            await late.wait()

    def note(link: DirectLink, header: dict[str, Any]) -> None:
        if asks_for(header, "pqc"):
            seen.add(link.site)
            if len(seen) >= 3:  # who read it before asks no more
                read.set()

    client.on_all(before=hold_the_list, after=note)
    listing = asyncio.create_task(client.vault.ls())
    await reached(read, listing)
    for number in range(3):
        await store(writer, f"more {number}", b"more", "pqc")
    await store(writer, "name", b"first", "pqc")
    await writer.vault.rm("name")

    async def end_the_list(link: DirectLink, header: dict[str, Any]) -> None:
        if not kinds_of(header) <= {"register", "session", "read"}:
            sealing.set()
            await listed.wait()

    client.on_all(before=end_the_list)
    putting = asyncio.create_task(store(client, "name", b"second", "qkd"))
    await reached(sealing, putting)
    late.set()
    await listing
    listed.set()
    await putting
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"second"


async def test_an_object_that_was_removed_does_not_get_its_name_back_from_a_try_that_comes_late() -> None:
    world = make_world()
    await store(world, "name", b"content", "pqc")
    late = Names(world.another_vault().context)
    entry = (await late.load())["name"]
    await world.vault.rm("name")
    await late.load()
    with pytest.raises(Conflict):
        await late.commit("pqc", [entry], {"name": None})
    assert not await world.vault.ls()


# ----------------------------------------------------------------------------------------------------------- registers


def says_it_lags(op: dict[str, Any], result: dict[str, Any]) -> None:
    if op["op"] == "prepare":
        result.clear()
        result["error"] = {"code": "vault.bad_ballot", "message": "too far ahead"}
    if op["op"] == "register":
        result["promised"] = [0, ""]


@pytest.mark.parametrize("ahead", [40, 60_000, 100_000])
@pytest.mark.parametrize("place", [1, 4])
async def test_a_liar_that_claims_to_lag_keeps_no_writer_from_a_site_that_is_ahead(ahead: int, place: int) -> None:
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    for rounds in range(40_000, ahead, 40_000):
        await promise(world, SITES[2], register, rounds)
    await promise(world, SITES[2], register, ahead)
    Liar(world, SITES[place], says_it_lags)
    await store(world, "name", b"new", "pqc")
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"new"


async def test_names_that_two_sites_of_three_keep_are_not_called_missing_by_an_owner_who_has_seven() -> None:
    """Two of seven may lie, so the certificate proves nothing any more; but the other five prove no less."""
    world = make_world(7, "2-of-3")
    before = configured(world)
    before.context.sites = before.context.sites[:3]
    before.links[SITES[2]].down = True
    await store(before, "name", b"content", "pqc")
    after = world.another_vault()
    for work in (fetch(after.vault, "name"), store(after, "name", b"new", "pqc"), after.vault.ls()):
        with pytest.raises(SignersTooFew):
            await work
    before.links[SITES[2]].down = False
    five = configured(world)
    five.context.sites = five.context.sites[:5]
    await five.vault.move_retired()
    assert (await fetch(after.vault, "name"))[0] == b"content"


# --------------------------------------------------------------------------------------------------------------- reads


async def test_a_read_that_can_name_nobody_ends_with_the_first_answers_that_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten of sixteen sites answer, one wrongly; else every segment would try all the subsets of eight."""
    k, answered = 8, SITE_NAMES[:10]
    shares = {SiteId(name): [memoryview(bytearray([place]) * 16)] for place, name in enumerate(answered)}
    tried: list[Any] = []

    async def combined(self: Fetcher, chosen: Any, size: int, at: int = 0) -> memoryview:
        tried.append(tuple(chosen))
        return memoryview(bytes(size))

    monkeypatch.setattr(Fetcher, "_interpolate", combined)
    placement = tuple(SiteId(name) for name in SITE_NAMES)
    fetcher = Fetcher({}, placement, Scheme(k, 16), placement[0], TurnRuntime(), Recorder())
    item: Any = SimpleNamespace(size=16, check=lambda clear: answered[0] not in tried[-1], label="segment", key=None)
    found, named = await fetcher._recover(0, item, _Answers(shares))
    assert (bytes(found), named, fetcher.alarms) == (bytes(16), False, [])
    passing = next(subset for subset in combinations(map(SiteId, answered), k) if answered[0] not in subset)
    assert set(tried[tried.index(passing) :]) == {passing}


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("wrong", ["junk", ["junk"], {LAST: "junk"}, {LAST: [{"kind": "qkd"}]}, {LAST: None}])
async def test_keys_of_a_site_that_dropped_out_and_cannot_be_read_make_no_label_better(wrong: Any) -> None:
    value = await stored_value()
    body = value.bodies[0]
    value = replace(value, bodies=(replace(body, good=tuple(site for site in body.good if site != LAST)),))
    value = changed(changed(value, "transfers", LAST), "dropped", to={LAST: []})
    assert label(value).everlasting
    found = label(changed(value, "dropped_keys", to=wrong))
    assert not found.everlasting
    assert found.epsilon_total is None
    assert "dropped_keys" in found.unreadable


async def test_a_way_that_cannot_be_read_counts_also_when_its_site_left_or_its_share_was_rebuilt() -> None:
    value = changed(await stored_value(), "transfers", LAST, to="junk")
    body = value.bodies[0]
    how = canonical_json({"how": "one-time pad", "keys": [KEY]}).decode()
    rebuilt = replace(value, bodies=(replace(body, repaired=((LAST, how),)),))
    left = replace(value, bodies=(replace(body, good=tuple(site for site in body.good if site != LAST)),))
    for each in (value, rebuilt, left):
        assert not label(each).everlasting
        assert label(each).epsilon_total is None
