"""Attacks that worked on earlier versions; each test states what must hold."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import unicodedata
from functools import partial
from typing import Any

import pytest

from shosoin.base import ObjectId, OwnerId, PeerFault, SaeId, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import DeliveredKey, KeySourceFacts
from shosoin.vault import OwnerRecord
from shosoin.vault.catalog import Conflict
from shosoin.vault.channel import SessionChannel, open_channel
from shosoin.vault.deal_check import DealInconsistent
from shosoin.vault.envelope import MalformedEnvelope, canonical_json, cut, join, parse_json
from shosoin.vault.pads import PadSource
from shosoin.vault.ports import ShareKey, ShareState, SiteTransaction
from shosoin.vault.session import SessionOffer
from shosoin.vault.values import MalformedValue, RegisterValue
from tests.vault.support import (
    OWNER,
    SIGNER,
    SITES,
    DirectLink,
    PiecewiseSource,
    failing,
    fetch,
    kinds_of,
    make_world,
    pattern,
    reached,
    store,
)
from tests.vault.test_parsing import example_value, world_state

REMOTE = SITES[1]


def local_envelope(ops: Any, payload: bytes = b"", **changes: Any) -> bytes:
    header = {"v": 1, "class": "local", "from": OWNER, "to": f"node-{SITES[0]}", "ops": ops, "auth": {}, **changes}
    return b"".join(join(canonical_json(header), [payload], b""))


def results_of(answer: list[Any]) -> list[dict[str, Any]]:
    return parse_json(cut(b"".join(answer)).header)["results"]


# ------------------------------------------------------------------------------------------------------ secrecy


@pytest.mark.parametrize("weaker", ["pqc", "qkd"])
async def test_a_share_of_class_its_is_never_read_under_a_weaker_class(weaker: str) -> None:
    """A certificate forged in 2050 opens nothing: the node must bind a share to the class it came under."""
    world = make_world()
    receipt = await store(world, "secret", b"plaintext" * 10, "its")
    key = world.share_key(receipt.object_id, REMOTE)
    site = world.context.sites[1]
    keys = world.network.kme(SaeId(OWNER))
    forged = open_channel(weaker, site.link, owner=OWNER, node=site.node, home=world.context.home, keys=keys)
    op = {"op": "read", "object": key.object_id, "version": key.version, "epoch": 0, "offset": 0, "size": 64}
    answer = await forged.exchange([op], answer_bytes=64)
    assert "error" in answer.results[0]
    assert len(answer.payload) == 0


async def test_audit_answers_of_class_its_are_not_given_under_a_weaker_class() -> None:
    world = make_world()
    receipt = await store(world, "secret", b"plaintext" * 10, "its")
    key = world.share_key(receipt.object_id, REMOTE)
    site = world.context.sites[1]
    weak = SessionChannel("pqc", site.link, OWNER, site.node, None)
    op = {"op": "digest", "object": key.object_id, "version": key.version, "epoch": 0, "r": "7" * 32}
    assert "error" in (await weak.exchange([op], answer_bytes=16)).results[0]


@pytest.mark.parametrize("class_", ["its", "pqc"])
async def test_the_public_layout_is_no_function_of_the_name(class_: str) -> None:
    """Root and index part lengths are public; they must not tell how long a name is."""
    layouts = []
    for name in ("n", "n" * 1000):
        world = make_world()
        receipt = await store(world, name, b"same content", class_)
        sizes = {row.size_bytes for row in world.stores[REMOTE].shares()}
        layouts.append((sizes, receipt.size_bytes))
    assert layouts[0] == layouts[1]


async def test_the_sum_of_epsilons_counts_every_key() -> None:
    """Two keys of failure probability 1e-10 each are not one."""
    world = make_world(facts=KeySourceFacts("qkd", simulated=False, epsilon=1e-10))
    receipt = await store(world, "object", b"x" * 100, "its")
    keys = sum(1 for _ in world.keys.drawn)
    assert keys > 8
    assert receipt.label.epsilon_total > 4e-10 * 1.5  # today: one epsilon per site, however many keys


# ------------------------------------------------------------------------------------- durability and liveness


async def test_a_half_accepted_and_aborted_put_does_not_block_the_index_for_ever() -> None:
    """One site accepts, the others lose the request; abort then deletes shares that the accepted value counts on."""
    world = make_world()
    await store(world, "first", b"1" * 50, "pqc")
    index = world.vault._names.states["pqc"].register_id

    def lose(link: DirectLink, header: dict[str, Any]) -> None:
        accepts = [op for op in header.get("ops", ()) if op["op"] == "accept" and op["register"] == index]
        if accepts and link.site != SITES[0]:
            raise Unavailable("lost on the way")

    world.on_all(before=lose)
    with pytest.raises(ShosoinError):
        await store(world, "second", b"2" * 50, "pqc")
    world.on_all()
    await store(world, "third", b"3" * 50, "pqc")
    assert (await fetch(world.vault, "third"))[0] == b"3" * 50


async def test_a_half_accepted_and_aborted_version_does_not_block_its_object_for_ever() -> None:
    world = make_world()
    await store(world, "name", b"old" * 20, "pqc")
    for name in SITES[1:5]:
        world.links[name].before = failing("accept")
    with pytest.raises(Unavailable):
        await store(world, "name", b"new" * 20, "pqc")
    world.on_all()
    for _ in range(3):
        try:
            await store(world, "name", b"newer" * 20, "pqc")
            break
        except Conflict:
            continue
    assert (await fetch(world.vault, "name"))[0] == b"newer" * 20


async def test_seal_does_not_overtake_a_write_that_is_still_on_its_way(small_segments: int) -> None:
    """Flushes run side by side: where the first is slow, its site must not be given up for that."""
    world = make_world()
    flushes = [0]

    async def delay(link: DirectLink, header: dict[str, Any]) -> None:
        if link.site == REMOTE and "write" in kinds_of(header) and "seal" not in kinds_of(header):
            flushes[0] += 1
            for _ in range(600 * flushes[0]):
                await asyncio.sleep(0)

    world.on_all(before=delay)
    receipt = await store(world, "large", pattern(6 * small_segments), "pqc")
    assert receipt.missing == []


async def test_with_n_equal_k_a_kme_with_different_ends_is_noticed_before_the_acknowledgement() -> None:
    """Without redundancy the deal check proves nothing; key bits as shares must then be checked otherwise."""
    world = make_world(3, "3-of-3")
    world.network.corrupted.clear()
    await store(world, "warm-up", b"ok", "its")
    drawn = [0]

    def corrupt_shares(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "take" and drawn[0] < 1:
                drawn[0] += 1
                for key_id in op["keys"]:
                    slot = SaeId(OWNER), SaeId(f"node-{link.site}"), key_id
                    waiting = world.network._waiting[slot]
                    world.network._waiting[slot] = bytes(byte ^ 1 for byte in waiting)

    world.links[REMOTE].before = corrupt_shares
    content = pattern(300)
    try:
        await store(world, "object", content, "its")
    except ShosoinError:
        return  # refused: right
    assert (await fetch(world.vault, "object"))[0] == content


async def test_k_minus_1_liars_cannot_frame_the_home_site_at_the_deal_check() -> None:
    """Sites 2 and 3 add one amount to their key-shares. (x+a)(x+b) over the other two remote points is the same
    at both, so {2, 3, 4, 5} lie on one polynomial: of another secret. Home, which is trusted, is thrown out."""
    world = make_world()

    def corrupt(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            for key_id in op.get("keys", ()) if op["op"] == "take" else ():
                slot = SaeId(OWNER), SaeId(f"node-{link.site}"), key_id
                world.network._waiting[slot] = bytes(byte ^ 0x40 for byte in world.network._waiting[slot])

    for name in SITES[1:3]:
        world.links[name].before = corrupt
    content = pattern(400)
    try:
        receipt = await store(world, "object", content, "its")
    except ShosoinError:
        return  # detected: right
    world.on_all()
    assert SITES[0] in receipt.acknowledged
    world.links[SITES[0]].down = True
    assert (await fetch(world.another_vault().vault, "object"))[0] == content


async def test_one_site_away_in_class_its_without_spare_sites_is_no_alarm() -> None:
    """4-of-5 with one site down: either durable at 4 = k + f, or unavailable; nothing was falsified."""
    world = make_world(5, "4-of-5")
    world.links[SITES[4]].down = True
    try:
        receipt = await store(world, "object", b"x" * 64, "its")
        assert receipt.durable_at == 4
    except Unavailable:
        pass


async def test_a_lost_deal_answer_is_no_alarm() -> None:
    world = make_world()
    world.links[SITES[3]].before = failing("digest")
    world.links[SITES[4]].before = failing("digest")
    with pytest.raises(ShosoinError) as caught:
        await store(world, "object", b"x" * 64, "its")
    assert not isinstance(caught.value, DealInconsistent)


async def test_one_site_that_forges_its_deal_answer_does_not_stop_the_put() -> None:
    """f = 1 liar of five: four good sites are enough."""
    world = make_world()
    link = world.links[SITES[2]]

    def armed(_: DirectLink, header: dict[str, Any]) -> None:
        link.spoil = (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])) if "digest" in kinds_of(header) else None

    link.before = armed
    receipt = await store(world, "object", b"x" * 64, "its")
    assert receipt.durable_at == 4
    assert link.site in receipt.missing


async def test_what_the_label_calls_durable_is_pinned_against_orphan_collection() -> None:
    """A site that missed accept and commit keeps its share STAGED, and will collect it within the hour."""
    world = make_world()
    world.links[SITES[4]].before = failing("accept", "commit")
    receipt = await store(world, "object", b"x" * 64, "pqc")
    pinned = [
        name
        for name, site in world.stores.items()
        if any(row.key.object_id == receipt.object_id and row.state is not ShareState.STAGED for row in site.shares())
    ]
    assert receipt.durable_at == len(pinned)


async def test_what_the_receipt_calls_durable_holds_for_the_name_too() -> None:
    """A site dies between the object and the index: two later losses then hide an object called durable at five."""
    world = make_world()
    await store(world, "old", b"x" * 64, "pqc")
    index = world.vault._names.states["pqc"].register_id

    def die(link: DirectLink, header: dict[str, Any]) -> None:
        if any(op.get("object") == index and op["op"] == "write" for op in header.get("ops", ())):
            link.down = True
            raise Unavailable("the site is dead")

    world.links[SITES[4]].before = die
    receipt = await store(world, "object", b"y" * 64, "pqc")
    world.links[SITES[4]].down = False
    for name in SITES[: receipt.durable_at - 3]:
        world.links[name].down = True
    assert (await fetch(world.another_vault().vault, "object"))[0] == b"y" * 64


def dropped(key: ShareKey, tx: SiteTransaction) -> None:
    tx.delete_share(key)


async def test_two_replaced_sites_do_not_make_the_index_read_only() -> None:
    """Two sites come back with empty disks (n-k losses): reading works, and so must the next put."""
    world = make_world()
    await world.vault.put_many({"before": b"x" * 64, "more": b"1", "and more": b"2"}, class_="pqc")
    for name in SITES[3:5]:
        for row in world.stores[name].shares():
            await world.stores[name].transact(partial(dropped, row.key))
    assert (await fetch(world.vault, "before"))[0] == b"x" * 64
    await store(world, "after", b"y" * 64, "pqc")


async def test_a_batch_beyond_the_header_limit_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """A register value takes some 8 KB of a header of at most 4 MiB: about 500 objects. Here the limit is 128 KiB."""
    monkeypatch.setattr("shosoin.vault.envelope.HEADER_BYTES_MAX", 128 << 10)
    world = make_world(3, "2-of-3")
    contents = {f"object-{number}": b"content" for number in range(30)}
    receipts = await world.vault.put_many(contents, class_="pqc")
    assert len(receipts) == 30


# ---------------------------------------------------------------------------------------------- linearizability


async def test_no_read_goes_back_to_an_older_version() -> None:
    """A writer dies when one site has the certificate: whoever saw the new version must not be followed by the old."""
    world = make_world()
    await store(world, "name", b"old" * 20, "pqc")
    object_id = (await world.vault.stat("name")).listing.object_id

    def die(link: DirectLink, header: dict[str, Any]) -> None:
        registers = {op.get("register") for op in header.get("ops", ()) if op["op"] == "commit"}
        if object_id in registers and link.site != SITES[0]:
            raise Unavailable("the writer is dead")

    writer = world.another_vault()
    writer.on_all(before=die)
    with pytest.raises(ShosoinError):
        await store(writer, "name", b"new" * 20, "pqc")
    first, _ = await fetch(world.vault, "name")
    world.links[SITES[0]].down = True
    second, _ = await fetch(world.vault, "name")
    assert (first, second) != (b"new" * 20, b"old" * 20)


async def test_our_own_index_entry_is_not_mistaken_for_somebody_elses() -> None:
    """The answers to our commit are lost, another name is added meanwhile: our object must not be withdrawn."""
    world = make_world()
    await store(world, "name", b"its old" * 9, "pqc")
    other = world.another_vault()
    index = next(iter(world.vault._names.states["qkd"].register_id for _ in (0,)), None)
    raced = [False]

    async def lose_and_race(link: DirectLink, header: dict[str, Any]) -> None:
        ops = [op for op in header.get("ops", ()) if op["op"] == "commit" and op["register"] == index]
        if not ops or (raced[0] and link.site not in waiting):
            return
        waiting.discard(link.site)
        if not raced[0]:
            raced[0] = True
            waiting.update(site for site in SITES[:5] if site != link.site)
        while waiting:  # every site must have acted; a turn of the loop is the only clock here
            await asyncio.sleep(0)
        if not done:
            done.append(1)
            await store(other, "something else", b"z", "qkd")
        raise Unavailable("the answer is lost")

    waiting: set[str] = set()
    done: list[int] = []
    world.on_all(after=lose_and_race)
    with contextlib.suppress(ShosoinError):
        await store(world, "name", b"qkd new" * 9, "qkd")
    world.on_all()
    found, _ = await fetch(other.vault, "name")
    assert found in (b"its old" * 9, b"qkd new" * 9)


async def test_a_conflict_means_that_the_other_version_stands() -> None:
    """Two versions follow one another in the register; only one index commit succeeds. Who was told what?"""
    world = make_world()
    await store(world, "name", b"v1" * 10, "pqc")
    late = world.another_vault()
    object_id = (await world.vault.stat("name")).listing.object_id
    started = asyncio.Event()
    go = asyncio.Event()

    async def hold_index(_: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] in {"prepare", "accept"} and op["register"] != object_id for op in header.get("ops", ())):
            started.set()
            await go.wait()

    # ``late`` puts v3 on top of v2 while the writer of v2 has not named it yet
    world.on_all(before=hold_index)
    first = asyncio.create_task(store(world, "name", b"v2" * 10, "pqc"))
    await reached(started, first)
    at_index = asyncio.Event()
    release = asyncio.Event()

    async def hold_late(_: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] in {"prepare", "accept"} and op["register"] != object_id for op in header.get("ops", ())):
            at_index.set()
            await release.wait()

    late.on_all(before=hold_late)
    second = asyncio.create_task(store(late, "name", b"v3" * 10, "pqc"))
    await reached(at_index, second)
    go.set()
    await asyncio.gather(first, return_exceptions=True)
    release.set()
    outcome = (await asyncio.gather(second, return_exceptions=True))[0]
    world.on_all()
    found, _ = await fetch(world.another_vault().vault, "name")
    assert not isinstance(outcome, Conflict) or found == b"v2" * 10


async def test_a_get_beside_a_put_gives_one_whole_version_and_accuses_nobody() -> None:
    """The reader has read the register; then the next version is committed and the old shares are erased."""
    world = make_world()
    await store(world, "name", b"old" * 20, "pqc")
    writer = world.another_vault()
    done: list[int] = []

    async def overwrite(_: DirectLink, header: dict[str, Any]) -> None:
        if not done and any(op["op"] == "read" and op["offset"] > 0 for op in header.get("ops", ())):
            done.append(1)
            await store(writer, "name", b"new" * 20, "pqc")

    await world.vault.ls()  # the index is in memory; only the object's shares are read below
    world.on_all(before=overwrite)
    found, receipt = await fetch(world.vault, "name")
    assert done
    assert found in (b"old" * 20, b"new" * 20)
    assert receipt.alarms == []


async def test_a_name_whose_removal_was_interrupted_can_be_removed() -> None:
    world = make_world()
    await store(world, "name", b"x", "pqc")
    removing = [0]

    def die(_: DirectLink, header: dict[str, Any]) -> None:
        if "erase" in kinds_of(header):
            removing[0] = 1
        elif removing[0]:
            raise Unavailable("the client is dead")

    world.on_all(before=die)
    with pytest.raises(ShosoinError):
        await world.vault.rm("name")
    world.on_all()
    with contextlib.suppress(ShosoinError):
        await world.vault.rm("name")
    assert [listing.name for listing in await world.vault.ls()] == []


async def test_the_receipt_of_a_removal_names_the_sites_that_really_erased() -> None:
    world = make_world()
    put = await store(world, "name", b"x" * 64, "pqc")
    world.links[REMOTE].before = failing("accept", "commit")
    receipt = await world.vault.rm("name")
    holders = [n for n, s in world.stores.items() if any(r.key.object_id == put.object_id for r in s.shares())]
    assert not set(holders) & set(receipt.erased_at)


async def test_an_error_that_says_nothing_was_committed_is_true() -> None:
    """The object's register took the new version; only the index commit failed."""
    world = make_world()
    await store(world, "name", b"old" * 20, "pqc")
    object_id = (await world.vault.stat("name")).listing.object_id

    def no_index(_: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] in {"prepare", "accept"} and op["register"] != object_id for op in header.get("ops", ())):
            raise Unavailable("lost on the way")

    world.on_all(before=no_index)
    with pytest.raises(ShosoinError) as caught:
        await store(world, "name", b"new" * 20, "pqc")
    world.on_all()
    found, _ = await fetch(world.vault, "name")
    assert found == b"old" * 20 or "nothing was" not in caught.value.hint


async def test_a_liar_cannot_make_readers_roll_honest_sites_back() -> None:
    """One site answers a reader with the first version, truly signed, under a huge ballot and a made-up certificate.
    The reader writes it back to honest sites, whose next erase deletes the shares of the newest version."""
    world = make_world()
    await store(world, "name", b"old" * 20, "pqc")
    object_id = (await world.vault.stat("name")).listing.object_id
    old = world.stores[SITES[0]]._tables.registers[OWNER, ObjectId(object_id)].committed_value
    await store(world, "name", b"new" * 20, "pqc")

    def change(result: dict[str, Any]) -> None:
        if object_id in (result.get("committed") or ""):
            result.update(committed=old, committed_ballot=[1 << 39, "z"], certificate=json.dumps(SITES[:4]))

    world.links[SITES[0]].spoil = alter_results(change)
    with contextlib.suppress(ShosoinError):
        await fetch(world.vault, "name")
    honest = [world.stores[name]._tables.registers[OWNER, ObjectId(object_id)] for name in SITES[1:5]]
    assert all(row.committed_value != old for row in honest)
    assert all(row.promised[0] < 1 << 20 for row in honest)


# ----------------------------------------------------------------------------------------- one liar stops everybody


def alter_results(change: Any) -> Any:
    """Change the results of unsealed answers (the home site lies)."""

    def spoil(raw: bytes) -> bytes:
        parts = cut(raw)
        header = parse_json(parts.header)
        for result in header.get("results", ()):
            change(result)
        return b"".join(join(canonical_json(header), [bytes(parts.sealed)], b""))

    return spoil


@pytest.mark.parametrize("contribution", ["zz", "", "-1", "f" * 40, "1" * 5000])
async def test_a_junk_contribution_of_one_site_is_no_defect(contribution: str) -> None:
    world = make_world()

    def change(result: dict[str, Any]) -> None:
        if "contribution" in result:
            result["contribution"] = contribution

    world.links[SITES[0]].spoil = alter_results(change)
    try:
        receipt = await store(world, "object", b"x" * 64, "its")
        assert receipt.durable_at >= 4
    except ShosoinError:
        pytest.fail("one liar of five stopped the put")


async def test_a_register_value_with_an_infinite_epoch_does_not_stop_readers() -> None:
    world = make_world()
    await store(world, "object", b"x" * 64, "pqc")

    def change(result: dict[str, Any]) -> None:
        if result.get("committed"):
            result["committed"] = result["committed"].replace('"epoch":0', '"epoch":Infinity')

    world.links[SITES[0]].spoil = alter_results(change)
    assert (await fetch(world.vault, "object"))[0] == b"x" * 64


@pytest.mark.parametrize(
    "junk",
    [
        {"accepted": "junk", "accepted_ballot": [5, "x"]},
        {"accepted": "{}", "accepted_ballot": []},
        {"granted": False, "promised": []},
        {"granted": False, "promised": [1 << 40, "x"]},
        {"granted": False, "promised": [1 << 80, "x"]},
    ],
)
async def test_a_junk_promise_of_one_site_does_not_stop_writers(junk: dict[str, Any]) -> None:
    world = make_world()
    for _ in range(8):  # by now round 2 has been promised away, and a writer must look at refusals
        await store(world, "object", b"x" * 64, "pqc")

    def change(result: dict[str, Any]) -> None:
        if "promised" in result:
            result.update(junk)

    world.links[SITES[0]].spoil = alter_results(change)
    try:
        await store(world, "object", b"y" * 64, "pqc")
    except ShosoinError as error:
        pytest.fail(f"one liar of five stopped the put: {error}")


@pytest.mark.parametrize("peer", [bytes(32), b"\1" + bytes(31)])
def test_a_low_order_public_key_is_refused_as_a_peer_fault(peer: bytes) -> None:
    offer = SessionOffer("pqc", OWNER, "node", [], b"")
    answer = {
        "session": "0" * 32,
        "mlkem": base64.b64encode(bytes(1088)).decode(),
        "x25519": base64.b64encode(peer).decode(),
        "confirm": base64.b64encode(bytes(48)).decode(),
    }
    with pytest.raises(ShosoinError):
        offer.finish(canonical_json(answer))


# ------------------------------------------------------------------------------------------------ parsing at a node


@pytest.mark.parametrize(
    "changes",
    [
        {"auth": []},
        {"auth": "x"},
        {"auth": None},
        {"class": []},
        {"class": {}},
        {"ops": [{"op": "prepare", "register": "0" * 32, "ballot": [1, "\ud800"]}]},
        {"ops": [{"op": "inventory", "after": "\ud800", "limit": 1}]},
    ],
)
async def test_junk_in_an_envelope_is_refused_by_kind(changes: dict[str, Any]) -> None:
    world = make_world()
    header = {
        "v": 1,
        "class": "local",
        "from": OWNER,
        "to": f"node-{SITES[0]}",
        "ops": [{"op": "register", "register": "0" * 32}],
        "auth": {},
        **changes,
    }
    raw = json.dumps(header).encode()
    before = world_state(world, SITES[0])
    with pytest.raises(MalformedEnvelope):
        await world.links[SITES[0]].node.exchange(OWNER, len(raw).to_bytes(4, "little") + raw)
    assert world_state(world, SITES[0]) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"class": []},
        {"mlkem": base64.b64encode(b"\xff" * 1184).decode()},
        {"x25519": base64.b64encode(bytes(32)).decode()},
    ],
)
async def test_junk_in_a_session_offer_is_refused_by_kind(changes: dict[str, Any]) -> None:
    world = make_world()
    offer = {**json.loads(SessionOffer("pqc", OWNER, f"node-{REMOTE}", [], b"").body), **changes}
    with pytest.raises(ShosoinError):
        await world.links[REMOTE].node.session(OWNER, canonical_json(offer))


@pytest.mark.parametrize("field", ["epoch", "quorum", "created"])
def test_numbers_out_of_bounds_in_a_register_value_are_malformed(field: str) -> None:
    outer = json.loads(example_value().text)
    part = json.loads(outer["owner"])
    if field == "epoch":
        outer["site"]["bodies"][0]["epoch"] = float("inf")
    elif field == "quorum":
        part["electorate"][field] = float("inf")
    else:
        part[field] = float("inf")
    outer["owner"] = json.dumps(part)
    with pytest.raises(MalformedValue):
        RegisterValue.parse(json.dumps(outer))


async def test_a_refused_message_does_not_move_the_window_of_a_session() -> None:
    """The number counts only once the seal held; else one forged header ends the session for its owner."""
    world = make_world()
    await store(world, "object", b"x" * 64, "pqc")
    link = world.links[REMOTE]
    genuine = next(raw for raw in reversed(link.seen) if parse_json(cut(raw).header)["class"] == "pqc")
    header = parse_json(cut(genuine).header)
    header["auth"]["number"] = (1 << 62) - 1
    with pytest.raises(ShosoinError):
        await link.node.exchange(OWNER, b"".join(join(canonical_json(header), [], bytes(16))))
    before = len(link.answered)
    await fetch(world.vault, "object")
    assert len(link.answered) > before  # the owner's own messages are still taken


# --------------------------------------------------------------------------------------- exhaustion by an owner


async def test_staging_counts_towards_the_quota_before_it_is_sealed() -> None:
    world = make_world(quota_bytes=4096)
    node = world.links[SITES[0]].node
    refused = False
    for number in range(4):
        op = {"op": "write", "object": f"{number:032x}", "version": "0" * 32, "epoch": 0, "offset": 0, "size": 2048}
        result = results_of(await node.exchange(OWNER, local_envelope([op], bytes(2048))))[0]
        refused = refused or "error" in result
    assert refused


async def test_two_seals_at_once_do_not_exceed_the_quota_together() -> None:
    world = make_world(quota_bytes=3000)
    node = world.links[SITES[0]].node
    where = [{"object": f"{number:032x}", "version": "0" * 32, "epoch": 0} for number in range(2)]
    writes = [{"op": "write", "offset": 0, "size": 2048, **place} for place in where]
    await node.exchange(OWNER, local_envelope(writes, bytes(4096)))
    inner = world.stores[SITES[0]].finish

    async def slow(*arguments: Any) -> str:
        await asyncio.sleep(0)  # a real disk gives way to others here
        return await inner(*arguments)

    world.stores[SITES[0]].finish = slow  # type: ignore[method-assign,assignment]
    seals = [{"op": "seal", "size": 2048, "x": 1, "k": 2, "masks": 16, **place} for place in where]
    await node.exchange(OWNER, local_envelope(seals))
    assert sum(row.size_bytes for row in world.stores[SITES[0]].shares()) <= 3000


async def test_sealing_again_at_the_quota_is_still_idempotent() -> None:
    world = make_world(quota_bytes=3000)
    node = world.links[SITES[0]].node
    where = {"object": "0" * 32, "version": "0" * 32, "epoch": 0}
    await node.exchange(OWNER, local_envelope([{"op": "write", "offset": 0, "size": 2048, **where}], bytes(2048)))
    seal = {"op": "seal", "size": 2048, "x": 1, "k": 2, "masks": 16, **where}
    for _ in range(2):
        assert "error" not in results_of(await node.exchange(OWNER, local_envelope([seal])))[0]


async def test_a_node_reads_no_more_than_the_answer_may_hold() -> None:
    """4,096 operations of 8 MiB each would be 32 GiB in memory before the answer is refused."""
    world = make_world()
    receipt = await store(world, "object", pattern(4096), "pqc")
    key = world.share_key(receipt.object_id, SITES[0])
    reads = [0]
    inner = world.stores[SITES[0]].read

    async def counted(*arguments: Any) -> bytes:
        reads[0] += 1
        return await inner(*arguments)

    world.stores[SITES[0]].read = counted  # type: ignore[method-assign,assignment]
    op = {"op": "read", "object": key.object_id, "version": key.version, "epoch": 0, "offset": 0, "size": 1024}
    with pytest.raises(ShosoinError):
        await world.links[SITES[0]].node.exchange(OWNER, local_envelope([op] * 64, auth={"answer": 1024}))
    assert reads[0] <= 1


async def test_an_owner_cannot_push_another_owners_sessions_out() -> None:
    world = make_world()
    await store(world, "object", b"x", "pqc")
    link = world.links[REMOTE]
    node = link.node
    intruder = OwnerId("owner-2")
    node._owners = {**node._owners, intruder: OwnerRecord(intruder, SiteId("elsewhere"), SIGNER.public_key, 1)}
    offer = SessionOffer("pqc", intruder, f"node-{REMOTE}", [], b"")
    mine = {name for name, session in node._sessions.items() if session.owner == OWNER}
    for _ in range(1024):
        await node.session(intruder, offer.body)
    assert mine & set(node._sessions)


# -------------------------------------------------------------------------------------------------- the rest


async def test_a_kme_that_returns_fewer_keys_is_a_peer_fault() -> None:
    world = make_world()

    class Stingy:
        status = world.keys.status

        async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
            return []

    with pytest.raises(PeerFault):
        await PadSource(Stingy(), SaeId("node-x")).draw(64)  # type: ignore[arg-type]


async def test_two_names_that_become_one_are_not_silently_merged() -> None:
    world = make_world(3, "2-of-3")
    composed = "caf\u00e9"
    contents = {composed: b"one", unicodedata.normalize("NFD", composed): b"two"}
    try:
        receipts = await world.vault.put_many(contents, class_="pqc")
    except ShosoinError:
        return
    assert len(receipts) == 2


async def test_get_many_answers_under_the_names_that_were_asked() -> None:
    world = make_world(3, "2-of-3")
    await store(world, "caf\u00e9", b"one", "pqc")
    asked = unicodedata.normalize("NFD", "caf\u00e9")
    assert await world.vault.get_many([asked]) == {asked: b"one"}


async def test_a_source_that_goes_on_after_its_end_is_not_stored_with_a_hole(small_segments: int) -> None:
    """A terminal gives more after an end of file; what follows a padded segment must not be appended."""
    world = make_world(3, "2-of-3")
    first, second = pattern(small_segments - 1), pattern(500, 1)
    source = PiecewiseSource(first, b"", second)
    try:
        await world.vault.put(source, "typed", class_="pqc")
    except ShosoinError:
        return
    assert (await fetch(world.vault, "typed"))[0] in (first, first + second)


async def test_an_alarm_is_reported_once() -> None:
    """A site that once lied about the index stays accused in every later receipt."""
    world = make_world()
    await store(world, "object", b"x" * 64, "pqc")
    for row in world.stores[SITES[0]].shares():
        world.stores[SITES[0]].falsify(row.key, row.size_bytes - 16, b"\xff" * 16)
    reader = world.another_vault()
    with_alarm = (await fetch(reader.vault, "object"))[1]
    assert with_alarm.alarms
    await store(reader, "healthy", b"y" * 64, "pqc")
    assert (await fetch(reader.vault, "healthy"))[1].alarms == []


async def test_key_bits_of_a_put_include_what_the_index_took() -> None:
    world = make_world()
    receipt = await store(world, "object", b"x" * 64, "qkd")
    assert sum(receipt.key_bits_used.values()) == sum(8 * len(bits) for _, bits in world.keys.drawn)
