"""Attacks on what makes small puts and gets fast: index parts written ahead, looks without a thread, memories."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.adapters.share_store_errors import RecordsDamaged, StorageFailed
from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.vault.acceptor import Certified, Justification
from shosoin.vault.attestations import BadCertificate
from shosoin.vault.ballots import Ballot, ballot_after, parse_ballot
from shosoin.vault.catalog import Conflict
from shosoin.vault.electorate import Electorate
from shosoin.vault.envelope import SharedJson, canonical_json, request_header
from shosoin.vault.index import Entry, IndexState, Part, index_register
from shosoin.vault.ports import RegisterRow, ShareRow, ShareState, SiteTransaction
from shosoin.vault.putting import Putter
from shosoin.vault.values import Body, RegisterValue
from tests.adapters.store_support import content, key, open_store, put
from tests.vault.support import OWNER, SITES, DirectLink, World, fetch, make_world, store
from tests.vault.test_acceptor import (
    ELECTORATE,
    FIRST,
    LAYOUT,
    MEMBERS,
    OTHER,
    QUORUM,
    REGISTER,
    SECOND,
    SIGNED,
    accept,
    commit,
    prepare,
    row_of,
    site_with_shares,
    state_of,
    value,
)
from tests.vault.test_register_liars import down, roll_back, snapshot_of

A, B, C, D, E = SITES[:5]
INDEX = index_register(OWNER, "pqc")
KIB = 1 << 10


def staged(world: World, register: ObjectId = INDEX) -> list[str]:
    """Sites that hold a share of a register which nothing counts on."""
    return [
        name
        for name, each in world.stores.items()
        for row in each.shares()
        if row.key.object_id == register and row.state is ShareState.STAGED
    ]


def names_index(header: dict[str, Any], *kinds: str) -> bool:
    return any(op["op"] in kinds and op.get("object", op.get("register")) == INDEX for op in header.get("ops", ()))


def names_object(header: dict[str, Any], *kinds: str) -> bool:
    return any(op["op"] in kinds and op.get("register", INDEX) != INDEX for op in header.get("ops", ()))


# -------------------------------------------------------------------------------------------- parts that come to naught


class Gate:
    """Holds every write of the index back, and tells when the objects are decided."""

    def __init__(self, world: World) -> None:
        self.opened, self.decided = asyncio.Event(), asyncio.Event()
        self._commits = 0
        self._all = len(world.links)
        world.on_all(before=self._before, after=self._after)

    async def _before(self, _: DirectLink, header: dict[str, Any]) -> None:
        if names_index(header, "write", "seal"):
            await self.opened.wait()

    def _after(self, _: DirectLink, header: dict[str, Any]) -> None:
        self._commits += names_object(header, "commit")
        if self._commits == self._all:
            self.decided.set()


async def quiet(world: World) -> None:
    """Let everything end that was begun."""
    for _ in range(200):
        await asyncio.sleep(0)
    assert not world.context.runtime._running  # type: ignore[attr-defined]


async def test_a_put_that_is_cancelled_while_it_waits_for_the_index_leaves_nothing_behind() -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    gate = Gate(world)
    putting = asyncio.create_task(store(world, "second", b"content", "pqc"))
    await gate.decided.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    putting.cancel()
    for _ in range(50):
        await asyncio.sleep(0)
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await quiet(world)
    assert not staged(world)


async def test_a_put_that_is_cancelled_while_its_object_is_decided_leaves_no_part_behind() -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    stopped = asyncio.Event()

    async def stop_accepts(_: DirectLink, header: dict[str, Any]) -> None:
        if names_object(header, "accept"):
            stopped.set()
            await asyncio.Event().wait()

    world.on_all(before=stop_accepts)
    putting = asyncio.create_task(store(world, "second", b"content", "pqc"))
    await stopped.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert staged(world), "the index is written while the object is decided"
    world.on_all()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    await quiet(world)
    assert not staged(world)


async def test_a_put_that_ends_between_its_objects_and_their_names_leaves_no_part_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")

    async def cut_off(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Putter, "_without_unpinned", cut_off)
    with pytest.raises(asyncio.CancelledError):
        await store(world, "second", b"content", "pqc")
    await quiet(world)
    assert not staged(world)


async def test_nothing_stays_of_parts_whose_object_loses_against_another_writer() -> None:
    world = make_world()
    await store(world, "name", b"old", "pqc")
    other = world.another_vault()
    done = asyncio.Event()

    async def other_first(_: DirectLink, header: dict[str, Any]) -> None:
        if names_object(header, "prepare", "accept") and not done.is_set():
            done.set()
            await store(other, "name", b"other", "pqc")

    world.on_all(before=other_first)
    with pytest.raises(Conflict):
        await store(world, "name", b"mine", "pqc")
    world.on_all()
    await quiet(world)
    assert not staged(world)
    assert (await fetch(world.vault, "name"))[0] == b"other"


async def test_nothing_is_nothing() -> None:
    world = make_world()
    assert await world.vault.put_many({}, class_="pqc") == []
    await store(world, "first", b"content", "pqc")
    assert await world.vault.put_many({}, class_="pqc") == []


async def test_puts_of_one_vault_at_the_same_time_name_all_their_objects_and_leave_no_part_behind() -> None:
    world = make_world()
    await asyncio.gather(*(store(world, f"name-{number}", b"%d" % number, "pqc") for number in range(5)))
    await quiet(world)
    reader = world.another_vault()
    assert {entry.name for entry in await reader.vault.ls()} == {f"name-{number}" for number in range(5)}
    for number in range(5):
        assert (await fetch(reader.vault, f"name-{number}"))[0] == b"%d" % number
    entries = world.vault._names.states["pqc"].entries().values()
    assert len({entry.sequence for entry in entries}) == len(entries), "every commit has a number of its own"


async def test_numbers_written_ahead_do_not_fall_behind_another_class() -> None:
    """While a part for class pqc is written ahead, the same vault names something in class its."""
    world = make_world()
    await store(world, "its-first", b"content")
    await store(world, "pqc-first", b"content", "pqc")
    done = asyncio.Event()

    async def other_class(_: DirectLink, header: dict[str, Any]) -> None:
        if names_object(header, "commit") and not done.is_set():
            done.set()
            await store(world, "its-second", b"content")

    world.on_all(before=other_class)
    await store(world, "name", b"content", "pqc")
    world.on_all()
    states = world.vault._names.states
    named = states["pqc"].entries()["name"]
    assert named.sequence > states["its"].entries()["its-second"].sequence
    assert named.born == named.sequence
    await quiet(world)
    assert not staged(world)


# ------------------------------------------------------------------------------------------ going on after one's own


def counting(world: World) -> list[str]:
    """Kinds of operations on the index register, as they come to the first site."""
    seen: list[str] = []

    def note(_: DirectLink, header: dict[str, Any]) -> None:
        seen.extend(op["op"] for op in header.get("ops", ()) if op.get("register") == INDEX)

    world.links[A].before = note
    return seen


async def test_a_writer_goes_on_without_promises_and_asks_for_them_once_somebody_came_in_between() -> None:
    world = make_world()
    other = world.another_vault()
    await store(world, "first", b"content", "pqc")
    seen = counting(world)
    await store(world, "second", b"content", "pqc")
    assert "prepare" not in seen
    await store(other, "third", b"content", "pqc")
    await store(world, "fourth", b"content", "pqc")
    assert "prepare" in seen
    names = {entry.name for entry in await world.another_vault().vault.ls()}
    assert names == {"first", "second", "third", "fourth"}


@pytest.mark.parametrize("lost", [(B,), (C, D), (A, B, C, D, E)])
async def test_a_site_that_missed_the_value_before_is_shown_it(lost: tuple[str, ...]) -> None:
    """Commits of the first put are lost at some sites, or only their answers at all of them."""
    world = make_world()
    await store(world, "zero", b"content", "pqc")

    def lose(link: DirectLink, header: dict[str, Any]) -> None:
        if link.site in lost and names_index(header, "commit"):
            raise Unavailable("lost on the way")

    if len(lost) < len(world.links):
        for name in lost[:1]:
            world.links[name].before = lose
    else:
        world.links[A].after = lose
    await store(world, "first", b"content", "pqc")
    world.on_all()
    await store(world, "second", b"content", "pqc")
    names = {entry.name for entry in await world.another_vault().vault.ls()}
    assert names == {"zero", "first", "second"}


async def test_a_writer_whose_going_on_reached_few_sites_does_not_block_anybody() -> None:
    world = make_world()
    other = world.another_vault()
    await store(world, "first", b"content", "pqc")

    def lose_most(link: DirectLink, header: dict[str, Any]) -> None:
        if link.site not in {A, B} and names_index(header, "accept", "prepare"):
            raise Unavailable("lost on the way")

    world.on_all(before=lose_most)
    with pytest.raises(ShosoinError):
        await store(world, "second", b"content", "pqc")
    world.on_all()
    await store(other, "third", b"content", "pqc")
    await store(world, "fourth", b"content", "pqc")
    names = {entry.name for entry in await world.another_vault().vault.ls()}
    assert {"first", "third", "fourth"} <= names


async def test_a_writer_goes_on_for_longer_than_a_name_may_be() -> None:
    world = make_world(3, "2-of-3")
    seen = counting(world)
    for number in range(60):
        await store(world, "name", b"%d" % number, "pqc")
    assert 1 <= seen.count("prepare") <= 4
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"59"


# --------------------------------------------------------------------------------------------------- looks and reads


@pytest.mark.parametrize("looked", [False, True])
async def test_a_closed_store_says_that_it_is_closed(tmp_path: Path, looked: bool) -> None:
    small = open_store(tmp_path / "store")
    row = await put(small, key(), content(100))
    if looked:
        await small.look_each([lambda tx: tx.share(key())])
        await small.read(row, 0, 10)
    await small.close()
    with pytest.raises(Unavailable) as refused:
        await small.look_each([lambda tx: tx.share(key())])
    assert refused.value.code == "vault.store_closed"
    with pytest.raises(Unavailable) as refused:
        await small.read(row, 0, 10)
    assert refused.value.code == "vault.store_closed"


async def test_records_that_cannot_be_opened_for_reading_are_a_failed_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = open_store(tmp_path / "store")

    def fails(*_: object, **__: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("shosoin.adapters.share_store_reading.connect", fails)
    with pytest.raises(StorageFailed):
        await small.look_each([lambda tx: tx.share(key())])
    await small.close()


async def test_many_small_ranges_of_long_rows_do_not_hold_the_loop_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is read and summed whole for each range of it, however short that is."""
    small = open_store(tmp_path / "store")
    row = await put(small, key(), content(60 * KIB))
    here: list[int] = []
    reader = small._reader
    read = reader._read_row

    def noting(content_id: int) -> bytes:
        found = read(content_id)
        if threading.current_thread() is threading.main_thread():
            here.append(len(found))
        return found

    monkeypatch.setattr(reader, "_read_row", noting)
    await small.read_each([(row, at, 1) for at in range(500)])
    await small.close()
    assert sum(here) <= 64 * KIB


async def test_what_was_acknowledged_is_seen_and_what_is_not_durable_is_not(tmp_path: Path) -> None:
    small = open_store(tmp_path / "store")
    begun, go_on = threading.Event(), threading.Event()
    made = await put(small, key(), content(100))

    def slowly(tx: Any) -> None:
        tx.put_share(made.with_state(ShareState.PINNED))
        begun.set()
        assert go_on.wait(30)

    look: Callable[[Any], Any] = lambda tx: tx.share(key()).state  # noqa: E731
    writing = asyncio.create_task(small.transact(slowly))
    await asyncio.to_thread(begun.wait, 30)
    assert await small.look_each([look]) == [ShareState.COMMITTED]
    go_on.set()
    await writing
    assert await small.look_each([look]) == [ShareState.PINNED]
    await small.close()


# ---------------------------------------------------------------------------------------- what an acceptor lets through

B1 = (4, "abc")
AFTER = (4, "abc-")
THIRD, RIVAL = value(5, SECOND), value(6, FIRST)
SHOWN = SIGNED.certified(B1, FIRST, QUORUM)


def going_on(top: Certified = SHOWN) -> Justification:
    return Justification([], top)


async def test_what_follows_right_after_a_certified_value_needs_no_promises() -> None:
    for held in (True, False):
        small = await site_with_shares(FIRST, SECOND)
        if held:
            await commit(small, SHOWN)
        assert (await accept(small, AFTER, SECOND, None if held else going_on()))["granted"]
        assert (await row_of(small)).promised == AFTER
        assert not (await prepare(small, (4, "abc")))["granted"]
        assert not (await prepare(small, AFTER))["granted"]
        assert (await prepare(small, (4, "abc--")))["granted"]


@pytest.mark.parametrize(
    ("ballot", "found", "given"),
    [
        ((4, "abc."), SECOND, going_on()),  # others lie in between
        ((4, "abd"), SECOND, going_on()),
        ((5, "abc-"), SECOND, going_on()),
        ((4, "abc--"), SECOND, going_on()),
        (AFTER, THIRD, going_on()),  # follows what nobody showed
        (AFTER, OTHER, going_on()),  # follows nothing
        (AFTER, FIRST, going_on()),  # the value itself
        (AFTER, SECOND, going_on(SIGNED.certified(B1, OTHER, QUORUM))),
        (AFTER, SECOND, going_on(SIGNED.certified(B1, FIRST, QUORUM[:2]))),  # no quorum
        (AFTER, SECOND, Justification([], None)),
        (AFTER, SECOND, None),
    ],
)
async def test_what_does_not_is_refused_and_changes_nothing(
    ballot: Ballot, found: RegisterValue, given: Justification | None
) -> None:
    small = await site_with_shares(FIRST, SECOND, THIRD, OTHER)
    with pytest.raises(Rejected) as refused:
        await accept(small, ballot, found, given)
    assert refused.value.code in {"vault.not_justified", "vault.bad_certificate"}
    assert await row_of(small) == RegisterRow()
    assert state_of(small, found) is ShareState.STAGED


async def test_going_on_does_not_break_a_promise_nor_replace_what_was_accepted() -> None:
    small = await site_with_shares(FIRST, SECOND, RIVAL)
    assert await prepare(small, (4, "abc-.")), "a ballot after the next one"
    assert not (await accept(small, AFTER, SECOND, going_on()))["granted"]
    small = await site_with_shares(FIRST, SECOND, RIVAL)
    assert (await accept(small, AFTER, SECOND, going_on()))["granted"]
    assert not (await accept(small, AFTER, RIVAL, going_on()))["granted"]
    assert not (await accept(small, AFTER, RIVAL, SIGNED.justified(AFTER, QUORUM, SHOWN)))["granted"]


async def test_a_site_does_not_accept_another_value_under_a_ballot_whose_value_it_holds() -> None:
    """It heard of the rival's certificate before anybody asked it to accept anything under that ballot."""
    small = await site_with_shares(FIRST, SECOND, RIVAL)
    await commit(small, SHOWN)
    assert (await commit(small, SIGNED.certified(AFTER, RIVAL, QUORUM)))["granted"]
    assert not (await accept(small, AFTER, SECOND, going_on()))["granted"]
    assert state_of(small, SECOND) is ShareState.STAGED


async def test_nothing_goes_on_after_a_removal_or_where_members_change() -> None:
    tombstone = value(7, FIRST, kind="tombstone")
    others = Electorate((*MEMBERS[1:], SiteId(SITES[4])), 3, 1)
    handed_over = value(9, FIRST, electorate=others)
    since = value(10, handed_over, electorate=others)
    assert handed_over.former == ELECTORATE
    top = SIGNED.certified(B1, tombstone, QUORUM)
    moved = SIGNED.certified(B1, handed_over, SITES[:5])
    for found, justified in (
        (value(8, tombstone), going_on(top)),
        (handed_over, going_on()),
        (since, going_on(moved)),
    ):
        small = await site_with_shares(found)
        with pytest.raises(Rejected) as refused:
            await accept(small, AFTER, found, justified)
        assert refused.value.code == "vault.not_justified"


async def test_a_stolen_key_and_one_lying_site_do_not_go_on_where_a_value_is_held() -> None:
    alone = Electorate((MEMBERS[3],), 1, 0)
    forged = value(11, electorate=alone)
    after_it = value(12, forged, electorate=alone)
    small = await site_with_shares(FIRST, after_it)
    await commit(small, SHOWN)
    before = await row_of(small)
    top = SIGNED.certified((9, "x"), forged, [MEMBERS[3]])
    with pytest.raises(BadCertificate):
        await accept(small, (9, "x-"), after_it, going_on(top))
    assert await row_of(small) == before


@pytest.mark.parametrize("name", ["", " a", "a\n", "a!", "a,", "a+", "ä", "a" * 65, "a\0", "~"])
def test_a_name_with_less_than_the_least_character_is_no_name(name: str) -> None:
    with pytest.raises(Rejected):
        parse_ballot([4, name])


@given(st.text("-.09AZ_az", min_size=1, max_size=5), st.text("-.09AZ_az", min_size=1, max_size=6))
def test_no_ballot_lies_in_between(name: str, other: str) -> None:
    after = ballot_after((4, name))
    assert after is not None
    assert parse_ballot(list(after)) == after
    assert not (4, name) < (4, other) < after


def test_names_have_an_end() -> None:
    assert ballot_after((4, "a" * 63)) == (4, "a" * 63 + "-")
    assert ballot_after((4, "a" * 64)) is None


# ------------------------------------------------------------------------------------------------- memories and caches


async def test_a_reader_that_vouches_for_what_it_proved_hears_of_what_came_since() -> None:
    """One site of those asked first was rolled back, another missed the change, and the rest is away."""
    world = make_world(5, "2-of-5")
    await store(world, "first", b"content", "pqc")
    assert [entry.name for entry in await world.vault.ls()] == ["first"]
    other = world.another_vault()
    before = snapshot_of(world, A)
    other.links[E].down = True
    await store(other, "second", b"content", "pqc")
    roll_back(world, A, before)
    down(world, C, D)
    assert {entry.name for entry in await world.vault.ls()} == {"first", "second"}
    down(world)
    assert {entry.name for entry in await world.vault.ls()} == {"first", "second"}


def entry(name: str, sequence: int, object_number: int) -> Entry:
    return Entry(
        name=name,
        object_id=f"{object_number:032x}",
        sequence=sequence,
        class_="pqc",
        size_bytes=1,
        content_type="",
        k=2,
        n=4,
        version="0" * 32,
        counter=1,
        created_wall_s=1.0,
    )


ENTRIES = st.builds(entry, st.sampled_from("abc"), st.integers(1, 6), st.just(1))


@given(st.lists(st.tuples(st.lists(ENTRIES, max_size=4), st.integers(0, 4)), max_size=5))
def test_the_index_says_of_each_name_what_its_newest_entry_says(found: list[tuple[list[Entry], int]]) -> None:
    body = Body(VersionId("1" * 32), LAYOUT, MEMBERS)
    parts = [Part(body, entries, MEMBERS[:holders]) for entries, holders in found]
    state = IndexState("pqc", REGISTER, None, parts, "proven")
    everything = [each for part in parts for each in part.entries or ()]
    assert set(state.entries()) == {each.name for each in everything}
    for name, newest in state.entries().items():
        assert newest.sequence == max(each.sequence for each in everything if each.name == name)
        assert state.durable_at(newest) == max(len(part.holders) for part in parts if newest in (part.entries or ()))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('aé\u2028"\\'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abz", max_size=2), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text("opz", max_size=3), JSON, max_size=3), max_size=4), st.data())
def test_a_header_is_the_same_whether_its_operations_are_shared_or_not(
    operations: list[dict[str, Any]], data: st.DataObject
) -> None:
    shared = [SharedJson(op) if data.draw(st.booleans()) else op for op in operations]
    for receiver in ("node-a", "node-b"):
        plain = {"v": 1, "class": "pqc", "from": "o", "to": receiver, "ops": operations, "auth": {"é": '"'}}
        assert request_header("pqc", "o", receiver, shared, {"é": '"'}) == canonical_json(plain)


async def test_a_record_that_holds_junk_fails_the_look_that_meets_it_and_no_other(tmp_path: Path) -> None:
    small = open_store(tmp_path / "store")
    sound, junk = key(1), key(2)
    for each in (sound, junk):
        await put(small, each, content(100))
    with sqlite3.connect(tmp_path / "store" / "records.sqlite") as connection:
        connection.execute("UPDATE shares SET state = 'lost' WHERE object_id = ?", (str(junk.object_id),))
    found = await small.look_each([lambda tx: tx.share(junk), lambda tx: tx.share(sound)])
    assert isinstance(found[0], RecordsDamaged)
    assert isinstance(found[1], ShareRow)
    with pytest.raises(StorageFailed):  # a look that writes is a defect, and nothing comes of it
        await small.look_each([lambda tx: tx.delete_share(sound)])
    assert isinstance((await small.look_each([lambda tx: tx.share(sound)]))[0], ShareRow)
    await small.close()


async def test_a_step_sees_its_own_register_and_no_step_that_failed(tmp_path: Path) -> None:
    small = open_store(tmp_path / "store")
    kept, lost = RegisterRow(promised=(3, "a")), RegisterRow(promised=(9, "z"))

    def write(tx: SiteTransaction) -> RegisterRow | None:
        tx.put_register(OWNER, REGISTER, kept)
        return tx.register(OWNER, REGISTER)

    def fail(tx: SiteTransaction) -> None:
        tx.put_register(OWNER, REGISTER, lost)
        assert tx.register(OWNER, REGISTER) == lost
        raise Rejected("no", code="vault.not_justified")

    found = await small.transact_each([write, fail, lambda tx: tx.register(OWNER, REGISTER)])
    assert found[0] == found[2] == kept
    assert isinstance(found[1], Rejected)
    assert await small.look_each([lambda tx: tx.register(OWNER, REGISTER)]) == [kept]
    await small.close()
