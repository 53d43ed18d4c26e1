"""REVIEW: attacks on the vault that worked once; each test states what must hold."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import Denied, ObjectId, SaeId, SiteId, Unavailable, VersionId
from shosoin.base.ports import KeyStatus
from shosoin.vault.assurance import Exposed
from shosoin.vault.channel import open_channel
from shosoin.vault.index import index_register
from shosoin.vault.ports import ShareKey, ShareState
from shosoin.vault.putting import remove_objects
from shosoin.vault.staging import _Item
from tests.vault.support import (
    OWNER,
    SITES,
    DirectLink,
    SeededEntropy,
    WrappedKeys,
    fetch,
    make_world,
    pattern,
    reached,
    store,
)

FIVE = SITES[:5]


class TellingKeys(WrappedKeys):
    """A KME that names relays, and that has no status to give for some sites."""

    def __init__(self, inner: WrappedKeys, relays: dict[str, list[str]], silent: tuple[str, ...] = ()) -> None:
        super().__init__(inner)
        self.relays = {f"node-{site}": names for site, names in relays.items()}
        self.silent = {f"node-{site}" for site in silent}

    async def status(self, slave: SaeId) -> KeyStatus:
        if slave in self.silent:
            raise Unavailable("no status now")
        return replace(await super().status(slave), extension={"shosoin_relays": self.relays.get(slave, [])})


def touches(header: dict[str, Any], where: str, *kinds: str) -> bool:
    """Whether a request has one of the operations on an object or a register."""
    return any(where in {op.get("object"), op.get("register")} and op["op"] in kinds for op in header.get("ops", ()))


def away(world: Any, *names: str) -> None:
    """Exactly these sites are down."""
    for name, link in world.links.items():
        link.down = name in names


# ---------------------------------------------------------------------------------------- who sees which keys


async def test_a_link_whose_relays_are_unknown_carries_no_share() -> None:
    """One relay sees the keys of two links and the KME has no status for one of them just now: still two links."""
    world = make_world()
    keys = world.context.keys = TellingKeys(world.keys, {})
    await store(world, "before", b"content", "its")
    keys.relays = {f"node-{SITES[3]}": ["relay-1"], f"node-{SITES[4]}": ["relay-1"]}
    with pytest.raises(Exposed):
        await store(world, "name", b"content", "its")
    keys.silent = {f"node-{SITES[3]}"}
    moved: list[str] = []

    def watch(link: DirectLink, header: dict[str, Any]) -> None:
        moved.extend(op["op"] for op in header.get("ops", ()) if op["op"] in {"read", "write", "take"})

    world.links[SITES[3]].before = watch
    receipt = await store(world, "name", b"content", "its")
    assert SITES[3] not in receipt.acknowledged
    assert (await fetch(world.vault, "name"))[0] == b"content"
    assert not moved
    keys.silent = set()
    keys.relays = {}
    assert (await store(world, "name", b"content", "its")).durable_at == 5


@pytest.mark.parametrize("work", ["ls", "stat", "verify", "rm", "get"])
async def test_nothing_of_class_its_is_read_or_written_under_keys_that_too_few_hands_hold(work: str) -> None:
    """Names and contents move in other operations than put and get too."""
    world = make_world()
    await store(world, "name", b"content", "its")
    other = world.another_vault()
    other.context.keys = TellingKeys(world.keys, {SITES[i]: ["relay-1", "relay-2"] for i in (1, 2, 3, 4)})
    moved: list[str] = []

    def watch(link: DirectLink, header: dict[str, Any]) -> None:
        moved.extend(op["op"] for op in header.get("ops", ()) if op["op"] in {"read", "write", "take"})

    other.on_all(before=watch)
    calls: dict[str, Any] = {
        "ls": other.vault.ls,
        "stat": lambda: other.vault.stat("name"),
        "verify": lambda: other.vault.verify("name"),
        "rm": lambda: other.vault.rm("name"),
        "get": lambda: fetch(other.vault, "name"),
    }
    with pytest.raises(Exposed):
        await calls[work]()
    assert not moved


async def test_who_saw_the_keys_of_the_put_counts_when_the_same_shares_are_read() -> None:
    """One relay sees one link while the object is put and another while it is read: two of its shares, not one."""
    world = make_world()
    keys = world.context.keys = TellingKeys(world.keys, {SITES[3]: ["relay-1"]})
    await store(world, "name", b"content", "its")
    assert (await fetch(world.vault, "name"))[0] == b"content"
    keys.relays = {f"node-{SITES[1]}": ["relay-1"]}
    with pytest.raises(Exposed):
        await fetch(world.vault, "name")
    with pytest.raises(Exposed):
        await world.vault.get_many(["name"])
    other = world.another_vault()
    other.context.keys = keys
    with pytest.raises(Exposed):
        await other.vault.ls()  # the name was shared over the same links
    keys.relays = {}
    assert (await fetch(world.vault, "name"))[0] == b"content"


async def test_verify_checks_who_sees_the_keys_although_the_index_is_known() -> None:
    world = make_world()
    await store(world, "name", b"content", "its")
    world.context.keys = TellingKeys(world.keys, {SITES[i]: ["relay-1", "relay-2"] for i in (1, 2, 3, 4)})
    with pytest.raises(Exposed):
        await world.vault.verify("name")
    with pytest.raises(Exposed):
        await world.vault.rm("name")


# --------------------------------------------------------------------------------------------- durable names


async def test_a_site_that_fails_the_deal_check_of_the_index_takes_nothing_from_older_names() -> None:
    world = make_world()
    await store(world, "first", b"first", "its")
    index = index_register(OWNER, "its")

    def lose(link: DirectLink, header: dict[str, Any]) -> None:
        if touches(header, index, "digest"):
            raise Unavailable("gone")

    world.links[FIVE[3]].before = lose
    receipt = await store(world, "second", b"second", "its")
    assert receipt.durable_at == 4
    world.on_all()
    assert world.vault._names.durable_at("first") == 5
    away(world, FIVE[1], FIVE[2])
    assert (await fetch(world.another_vault().vault, "first"))[0] == b"first"


@pytest.mark.parametrize("class_", ["its", "qkd"])
async def test_a_site_that_leaves_before_it_accepts_takes_nothing_from_older_names(class_: str) -> None:
    """It only staged its share of the new part, and collects it as an orphan later."""
    world = make_world()
    await store(world, "first", b"first", class_)
    index = index_register(OWNER, class_)
    gone = [False]

    def leave(link: DirectLink, header: dict[str, Any]) -> None:
        gone[0] = gone[0] or touches(header, index, "prepare", "accept")
        if gone[0]:
            raise Unavailable("gone")

    world.links[FIVE[3]].before = leave
    assert (await store(world, "second", b"second", class_)).durable_at == 4
    for row in world.stores[FIVE[3]].shares(ShareState.STAGED):  # what its upkeep does after an hour
        await world.stores[FIVE[3]].transact(lambda tx, key=row.key: tx.delete_share(key))
    world.on_all()
    away(world, FIVE[1], FIVE[2])
    assert (await fetch(world.another_vault().vault, "first"))[0] == b"first"


async def test_stat_does_not_count_a_site_that_only_staged_the_name() -> None:
    world = make_world()
    index = index_register(OWNER, "qkd")
    world.links[FIVE[3]].before = lambda link, header: _lose(touches(header, index, "accept", "commit"))
    receipt = await store(world, "name", b"content", "qkd")
    assert receipt.durable_at == 4
    world.on_all()
    assert (await world.another_vault().vault.stat("name")).label.durable_at == 4
    assert (await world.vault.stat("name")).label.durable_at == 4
    await store(world, "next", b"content", "qkd")  # heals it
    assert (await world.another_vault().vault.stat("name")).label.durable_at == 5


def _lose(lost: bool) -> None:
    if lost:
        raise Unavailable("lost on the way")


async def test_a_name_that_somebody_else_finished_is_acknowledged_as_what_it_is() -> None:
    """Our index value was chosen at four sites, we do not know it, another writer finishes it and goes on."""
    world = make_world()
    await store(world, "first", b"first", "qkd")
    index = index_register(OWNER, "qkd")
    other = world.another_vault()

    def deaf(link: DirectLink, header: dict[str, Any]) -> None:
        _lose(link.site == FIVE[4] and touches(header, index, "write", "seal", "accept", "commit", "inventory"))

    cut = [True]

    async def hold(link: DirectLink, header: dict[str, Any]) -> None:
        deaf(link, header)
        if cut[0] and touches(header, index, "commit"):
            if link.site == FIVE[0]:
                return
            if link.site == FIVE[1]:
                await store(other, "third", b"third", "qkd")
                cut[0] = False
            raise Unavailable("lost on the way")

    world.on_all(before=hold)
    other.on_all(before=deaf)
    receipt = await store(world, "second", b"second", "qkd")
    assert not cut[0]
    assert receipt.durable_at == receipt.label.durable_at == 4


async def test_nothing_is_named_while_part_of_the_index_cannot_be_read() -> None:
    """A reader beside a put finds an index that is partly unreadable; the put must not number its entry from that."""
    world = make_world()
    await world.vault.put_many({f"name-{number}": b"x" for number in range(10)}, class_="qkd")
    await store(world, "name", b"old", "qkd")
    await world.vault.rm("name")
    other = world.another_vault()
    held, go_on = asyncio.Event(), asyncio.Event()

    async def pause(link: DirectLink, header: dict[str, Any]) -> None:
        ops = header.get("ops", ())
        if any(op["op"] == "commit" and op["register"] != index_register(OWNER, "qkd") for op in ops):
            held.set()
            await go_on.wait()

    world.on_all(after=pause)
    putting = asyncio.create_task(store(world, "name", b"ours", "qkd"))
    await reached(held, putting)
    for number in range(2):
        await store(other, f"later-{number}", b"x", "qkd")
    world.on_all(before=lambda link, header: _lose(any(op["op"] == "read" for op in header.get("ops", ()))))
    with pytest.raises(Unavailable):
        await world.vault.stat("later-0")
    world.on_all()
    go_on.set()
    try:
        await putting
    except Unavailable:
        return
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"ours"


# -------------------------------------------------------------------------------- one bad thing stops everything


async def test_an_interrupted_removal_does_not_stop_the_audit_of_everything_else() -> None:
    world = make_world()
    await store(world, "gone", b"content", "qkd")
    await store(world, "kept", b"content", "qkd")
    _, value = await world.vault._lookup.find("gone")
    await remove_objects(world.context, "qkd", [value])  # and dies before the index
    found = await world.vault.audit()
    assert set(found["kept"].values()) == {"ok"}


@pytest.mark.parametrize("junk", [[["no ID", "x", 0, 1, "staged"]], 5, [[1]], [[["a"]]]])
async def test_a_site_that_lists_junk_does_not_stop_the_removal_of_unnamed_objects(junk: Any) -> None:
    world = make_world()
    await store(world, "kept", b"content", "pqc")
    node = world.links[SITES[2]].node
    real = node._operations.run

    async def lie(owner: Any, class_: str, operations: Any, *rest: Any) -> Any:
        header, out = await real(owner, class_, operations, *rest)
        results = [
            {"shares": junk} if op["op"] == "inventory" else result
            for op, result in zip(operations, header["results"], strict=True)
        ]
        return {**header, "results": results}, out

    node._operations.run = lie  # type: ignore[method-assign]
    assert await world.vault.rm_unnamed(older_than_s=0.0) == []


async def test_a_name_removed_while_its_object_is_read_is_no_crash() -> None:
    world = make_world()
    await store(world, "name", b"content", "pqc")

    class Removing:
        async def write(self, data: Any) -> None:
            await world.vault.rm("name")

    receipt = await world.vault.get("name", Removing())
    assert receipt.size_bytes == 7


async def test_a_reader_beside_a_writer_accuses_nobody() -> None:
    """The reader has the index register, then the writer folds the parts that it names."""
    world = make_world()
    await store(world, "first", b"first", "pqc")
    reader = world.another_vault()
    index = index_register(OWNER, "pqc")
    done = [False]

    async def fold(link: DirectLink, header: dict[str, Any]) -> None:
        if touches(header, index, "read") and not done[0]:
            done[0] = True
            await store(world, "second", b"second", "pqc")

    reader.on_all(before=fold)
    assert [listing.name for listing in await reader.vault.ls()] == ["first", "second"]
    assert not world.sink.events


async def test_a_liar_is_named_when_many_objects_are_read_together() -> None:
    world = make_world()
    receipt = await store(world, "name", b"content", "pqc")
    key = world.share_key(receipt.object_id, SITES[1])
    row = next(row for row in world.stores[SITES[1]].shares() if row.key == key)
    world.stores[SITES[1]].falsify(key, 0, bytes(row.size_bytes))
    assert await world.vault.get_many(["name"]) == {"name": b"content"}
    assert [event.fields["site"] for event in world.sink.events if event.name == "vault.bad_share"] == [SITES[1]]


# --------------------------------------------------------------------------------------------- keys and quotas


@pytest.mark.parametrize("scheme", [(3, 4), (2, 3)])
async def test_no_key_is_drawn_for_a_put_that_cannot_be_checked(scheme: tuple[int, int]) -> None:
    """Class its needs more than k sites; one dry link of n = k+1 is one too many."""
    k, n = scheme
    world = make_world(n, f"{k}-of-{n}")
    world.network.stock_bits[SaeId(OWNER), SaeId(f"node-{SITES[1]}")] = 0
    with pytest.raises(Unavailable) as caught:
        await _put_known(world, scheme)
    assert caught.value.code == "vault.too_little_key"
    assert not world.keys.drawn


async def test_no_key_is_drawn_for_a_put_whose_name_cannot_be_stored() -> None:
    """Three sites take the shares, all five keep the names: dry links to the two others leave too few for the index."""
    world = make_world()
    for site in SITES[3:5]:
        world.network.stock_bits[SaeId(OWNER), SaeId(f"node-{site}")] = 0
    with pytest.raises(Unavailable) as caught:
        await _put_known(world, (2, 3))
    assert caught.value.code == "vault.too_little_key"
    assert not world.keys.drawn


async def _put_known(world: Any, scheme: tuple[int, int]) -> None:
    real = world.keys.status

    async def status(slave: SaeId) -> KeyStatus:
        found = await real(slave)
        left = world.network.stock_bits.get((SaeId(OWNER), slave))
        return found if left is None else replace(found, stored_key_count=left // found.key_size_bits)

    world.keys.status = status
    await store(world, "name", pattern(5000), "its", scheme=scheme)


async def test_an_owner_with_all_its_staging_areas_does_not_make_the_node_look_through_them_each_time() -> None:
    world = make_world(2, "2-of-2")
    site = world.context.sites[1]
    channel = open_channel("pqc", site.link, owner=OWNER, node=site.node, home=SiteId(SITES[0]), keys=world.keys)
    sizes: list[int] = []
    quotas = world.links[SITES[1]].node._operations._quotas
    op = {"op": "write", "version": "0" * 32, "epoch": 0, "offset": 0, "size": 1}
    await channel.exchange([{**op, "object": f"{i:032x}"} for i in range(4096)], [bytes(4096)])

    class Counting(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            sizes.append(len(self))
            return super().items()

    quotas._areas = Counting(quotas._areas)
    answer = await channel.exchange([{**op, "object": f"{i:032x}"} for i in range(5000, 5100)], [bytes(100)])
    assert all(result["error"]["code"] == "vault.too_many_stages" for result in answer.results)
    assert len(sizes) <= 2


async def test_a_node_does_not_build_an_answer_that_is_longer_than_any_may_be() -> None:
    """4,096 reads of a register of 64 KiB are a short request and 256 MiB of answer."""
    world = make_world()
    await store(world, "name", b"content", "pqc")
    object_id = (await world.vault.stat("name")).listing.object_id
    node = world.links[SITES[0]].node
    state = {"committed": "x" * (64 << 10), "granted": True}
    node._operations._steps["register"] = lambda owner, call: lambda tx: dict(state)
    ops = [{"op": "register", "register": object_id}] * 4096
    header, _ = await node._operations.run(node._owners[OWNER], "local", ops, memoryview(b""), 0)
    results = header["results"]
    assert sum(len(str(result)) for result in results) <= 8 << 20
    assert results[-1]["error"]["code"] == "vault.answer_too_long"


# ------------------------------------------------------------------------------------------- two writers at once


@pytest.mark.parametrize("seed", range(6))
async def test_two_writers_of_one_name_in_two_classes_do_not_remove_both_contents(seed: int) -> None:
    """One replaces the object by one of another class, the other gives it a new version; both are acknowledged."""
    world = make_world(entropy=SeededEntropy(seed))
    await store(world, "name", b"old", "qkd")
    other = world.another_vault()
    at_index, go_on = asyncio.Event(), asyncio.Event()

    async def wait(link: DirectLink, header: dict[str, Any]) -> None:
        if touches(header, index_register(OWNER, "pqc"), "prepare"):
            at_index.set()
            await go_on.wait()

    other.on_all(before=wait)
    putting = asyncio.create_task(store(other, "name", b"other class", "pqc"))
    await reached(at_index, putting)
    await store(world, "name", b"new version", "qkd")
    go_on.set()
    await putting
    assert (await fetch(world.another_vault().vault, "name"))[0] in (b"other class", b"new version")


async def test_a_batch_that_meets_a_conflict_does_not_remove_what_it_named_already() -> None:
    """Our index value reached one site and was carried on by somebody else, who then took a name for another object."""
    world = make_world()
    await store(world, "b", b"old", "qkd")
    await store(world, "first", b"first", "pqc")
    index = index_register(OWNER, "pqc")
    other = world.another_vault()
    cut = [True]

    async def hold(link: DirectLink, header: dict[str, Any]) -> None:
        if cut[0] and touches(header, index, "commit"):
            if link.site == FIVE[0]:
                return
            if link.site == FIVE[1]:
                await store(other, "third", b"third", "pqc")
                await other.vault.rm("a")
                await store(other, "a", b"theirs", "pqc")
                cut[0] = False
            raise Unavailable("lost on the way")

    world.on_all(before=hold)
    await world.vault.put_many({"a": b"ours", "b": b"new"}, class_="pqc")  # it was there, and then replaced
    assert not cut[0]
    reader = world.another_vault().vault
    assert (await fetch(reader, "a"))[0] == b"theirs"
    assert (await fetch(reader, "b"))[0] in (b"old", b"new")


async def test_an_audit_of_many_objects_is_not_held_in_a_sites_memory_at_once() -> None:
    world = make_world()
    await world.vault.put_many({f"name-{number}": pattern(100, number) for number in range(40)}, class_="pqc")
    site = world.stores[SITES[1]]
    real, running, most = site.read, [0], [0]

    async def read(*arguments: Any) -> bytes:
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0)
        try:
            return await real(*arguments)
        finally:
            running[0] -= 1

    site.read = read  # type: ignore[method-assign]
    found = await world.vault.audit()
    assert {state for states in found.values() for state in states.values()} == {"ok"}
    assert most[0] <= 8


async def test_two_writes_that_begin_one_staging_area_are_counted_as_one() -> None:
    """The second comes while the first waits for what an older client left to be thrown away."""
    world = make_world(2, "2-of-2")
    node = world.links[SITES[0]].node
    quotas, owner = node._operations._quotas, node._owners[OWNER]
    key = ShareKey(OWNER, ObjectId("1" * 32), VersionId("2" * 32), 0)
    old = ShareKey(OWNER, ObjectId("3" * 32), VersionId("2" * 32), 0)
    await quotas.admit(owner, old, "pqc", 10)
    quotas._areas[old].touched_s -= 10_000.0
    quotas._swept_s.clear()
    real = quotas._store.discard

    async def slow(key: ShareKey) -> None:
        await asyncio.sleep(0)
        await real(key)

    quotas._store.discard = slow  # type: ignore[method-assign]
    outcomes = await asyncio.gather(
        quotas.admit(owner, key, "its", 100), quotas.admit(owner, key, "pqc", 200), return_exceptions=True
    )
    assert sum(isinstance(outcome, Denied) for outcome in outcomes) == 1
    await quotas.drop(key)
    assert quotas._count[OWNER] == 0
    assert quotas._staged[OWNER] == 0


async def test_shares_are_not_printed() -> None:
    assert "secret" not in repr(_Item({"op": "write"}, b"secret"))


@pytest.mark.parametrize("work", ["get_many", "verify"])
async def test_a_new_version_while_an_object_is_read_is_no_fault_of_a_site(work: str) -> None:
    world = make_world()
    await store(world, "name", b"old", "pqc")
    reader = world.another_vault()
    done = [False]

    async def replace_it(link: DirectLink, header: dict[str, Any]) -> None:
        ops = header.get("ops", ())
        if not done[0] and any(op["op"] == "read" and op["object"] != index_register(OWNER, "pqc") for op in ops):
            done[0] = True
            await store(world, "name", b"new", "pqc")

    reader.on_all(before=replace_it)
    if work == "get_many":
        assert await reader.vault.get_many(["name"]) == {"name": b"new"}
    else:
        with pytest.raises(Unavailable) as caught:
            await reader.vault.verify("name")
        assert caught.value.code == "vault.replaced_meanwhile"
    assert done[0]
    assert not world.sink.events
