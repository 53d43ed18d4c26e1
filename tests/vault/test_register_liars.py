"""Sites and clients that lie about registers: each attack works on a weakened copy, and fails on ours.

A weakened copy is ours with one check taken out or one number changed. Where an attack is shown on it, the test would
fail if the attack were none.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.vault import acceptor, electorate, proposing, scheme
from shosoin.vault.attestations import SignatureSet
from shosoin.vault.catalog import PROVEN, Conflict
from shosoin.vault.catalog_answers import AnswerReader, Asked
from shosoin.vault.channel import open_channel
from shosoin.vault.electorate import Electorate
from shosoin.vault.ports import RegisterRow
from shosoin.vault.proposal_operations import commit_operation
from shosoin.vault.putting import BytesSource
from shosoin.vault.values import RegisterValue, ValueDraft, read_value, sign_values
from tests.vault.support import (
    OWNER,
    SIGNER,
    SITE_KEYS,
    SITES,
    DirectLink,
    Signed,
    World,
    failing,
    fetch,
    kinds_of,
    make_world,
    reached,
    store,
)

A, B, C, D, E = SITES[:5]
Weaken = Callable[[pytest.MonkeyPatch], None]


async def register_of(world: World, name: str) -> ObjectId:
    return ObjectId((await world.vault.stat(name)).listing.object_id)


def roll_back(world: World, site: str, snapshot: Any) -> None:
    """A site restored from a snapshot: shares stay, registers are as they were."""
    tables = world.stores[site]._tables
    tables.registers, tables.signatures = copy.deepcopy(snapshot)


def snapshot_of(world: World, site: str) -> Any:
    tables = world.stores[site]._tables
    return copy.deepcopy((tables.registers, tables.signatures))


def alarms(world: World, kind: str) -> list[str]:
    return [str(event.fields.get("site")) for event in world.sink.events if event.fields.get("kind") == kind]


def down(world: World, *sites: str) -> None:
    for name, link in world.links.items():
        link.down = name in sites


# ------------------------------------------------------------------------------------------ forgetting and rolling back


def majority_only(patch: pytest.MonkeyPatch) -> None:
    """Quorums as for crashes: two of them may meet in the liar alone."""
    patch.setattr(scheme.Scheme, "register_liars", property(lambda self: 0))
    patch.setattr(electorate, "_MEMBERS_MAX", 32)


async def rolled_back_reader(world: World) -> bytes:
    """Written at three or four sites, one of which is then rolled back; read from it and from those that missed it."""
    await store(world, "name", b"old", "pqc")
    before = snapshot_of(world, C)
    world.links[E].down = True
    if world.context.register_scheme.write_quorum == 3:
        world.links[D].down = True
    await store(world, "name", b"new", "pqc")
    roll_back(world, C, before)
    reader = world.another_vault()
    down(reader, A, B)
    return (await fetch(reader.vault, "name"))[0]


async def test_a_site_that_was_rolled_back_does_not_take_an_acknowledged_version_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world(5, "2-of-5")
    assert world.context.register_scheme.write_quorum == 4
    assert await rolled_back_reader(world) == b"new"
    assert C in alarms(world, "register_denied")
    majority_only(monkeypatch)
    assert await rolled_back_reader(make_world(5, "2-of-5")) == b"old"


async def test_a_site_that_forgot_a_version_is_named_even_if_nobody_is_misled() -> None:
    world = make_world()
    await store(world, "name", b"content", "pqc")
    roll_back(world, B, ({}, {}))
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"content"
    assert set(alarms(world, "register_denied")) == {B}


async def test_an_honest_site_that_was_away_is_not_accused() -> None:
    world = make_world()
    await store(world, "name", b"old", "pqc")
    world.links[D].down = True
    await store(world, "name", b"new", "pqc")
    reader = world.another_vault()
    down(reader)
    assert (await fetch(reader.vault, "name"))[0] == b"new"
    assert not alarms(world, "register_denied")


# ----------------------------------------------------------------------------------------------- overtaken by promises


async def two_writers(world: World) -> tuple[list[bool], RegisterValue]:
    """The first writer's commits wait until a second writer has its promises, whose acceptances wait for the first."""
    await store(world, "name", b"start", "pqc")
    register = await register_of(world, "name")
    first, second = world.another_vault(), world.another_vault()
    await first.vault.ls()
    await second.vault.ls()
    certified, promised, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    seen: set[str] = set()

    def about(header: dict[str, Any], kind: str) -> bool:
        return any(op["op"] == kind and op.get("register") == register for op in header.get("ops", ()))

    async def hold_commits(link: DirectLink, header: dict[str, Any]) -> None:
        if about(header, "commit"):
            certified.set()
            await promised.wait()

    def note_promises(link: DirectLink, header: dict[str, Any]) -> None:
        if about(header, "prepare"):
            seen.add(link.site)
            if len(seen) == len(SITES[:5]):
                promised.set()

    async def hold_accepts(link: DirectLink, header: dict[str, Any]) -> None:
        if about(header, "accept"):
            await ended.wait()

    first.on_all(before=hold_commits)
    second.on_all(before=hold_accepts, after=note_promises)
    one = asyncio.create_task(store(first, "name", b"first", "pqc"))
    await reached(certified, one)
    two = asyncio.create_task(store(second, "name", b"second", "pqc"))
    await asyncio.wait([one])
    ended.set()
    results = await asyncio.gather(one, two, return_exceptions=True)
    reading = await world.context.catalog.read(world.context.channels("pqc"), register)
    assert reading.value is not None
    return [not isinstance(result, BaseException) for result in results], reading.value


async def test_a_commit_that_comes_after_a_newer_promise_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else both writers are told that they replaced the same version, and one of them is lost without a word."""
    acknowledged, last = await two_writers(make_world())
    assert sum(acknowledged) == 1 or last.counter == 3
    # a site that takes such a commit would still refuse what its own register contradicts, so that goes as well
    monkeypatch.setattr(acceptor, "_check_justified", lambda *_: None)
    acknowledged, last = await two_writers(make_world())
    assert sum(acknowledged) == 1 or last.counter == 3
    real = acceptor.commit

    def commit(tx: Any, site: Any, owner: Any, register_id: Any, certified: Any) -> Any:
        row = tx.register(owner, register_id) or RegisterRow()
        tx.put_register(owner, register_id, replace(row, promised=min(row.promised, certified.ballot)))
        return real(tx, site, owner, register_id, certified)

    monkeypatch.setattr(acceptor, "commit", commit)
    acknowledged, last = await two_writers(make_world())
    assert sum(acknowledged) == 2
    assert last.counter == 2


# ------------------------------------------------------------------------------------------------- clients that lie


async def ask(world: World, site: str, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Speak to a node as a client of the owner that keeps to no rules."""
    where = next(one for one in world.context.sites if one.name == site)
    home = world.context.home
    channel = open_channel("pqc", where.link, owner=OWNER, node=where.node, home=home, keys=world.keys)
    return (await channel.exchange(operations)).results


async def stale_proposal(world: World) -> bytes:
    """A client proposes again what was there before, without promises, at every site."""
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    old = world.stores[B]._tables.registers[OWNER, register].committed_value
    world.on_all(before=failing("erase"))
    await store(world, "name", b"new", "pqc")
    for site in SITES[:5]:
        with contextlib.suppress(ShosoinError):
            await ask(world, site, [{"op": "accept", "register": register, "ballot": [9, "z"], "value": old}])
    rows = [world.stores[site]._tables.registers[OWNER, register] for site in SITES[:5]]
    return b"old" if sum(row.accepted_value == old for row in rows) >= 4 else b"new"


async def test_a_client_cannot_have_an_old_version_accepted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await stale_proposal(make_world()) == b"new"
    monkeypatch.setattr(acceptor, "_check_justified", lambda *_: None)
    assert await stale_proposal(make_world()) == b"old"


async def test_promises_of_another_ballot_register_or_site_justify_nothing() -> None:
    world = make_world()
    await store(world, "name", b"content", "pqc")
    register = await register_of(world, "name")
    captured: list[dict[str, Any]] = []

    def note(link: DirectLink, header: dict[str, Any]) -> None:
        if "accept" in kinds_of(header) and any("promises" in op for op in header["ops"]):
            captured.append(header)

    writer = world.another_vault()
    writer.links[B].before = note
    await store(writer, "name", b"next", "pqc")
    header = next(each for each in captured if any(op.get("register") == register for op in each["ops"]))
    sets = [op for op in header["ops"] if op["op"] == "signatures"]
    accept = next(op for op in header["ops"] if op.get("register") == register)

    def given_to(site: str) -> list[Any]:
        return [[site, *one[1:]] for one in accept["promises"]["given"]]

    forged = [
        {**accept, "ballot": [accept["ballot"][0] + 1, accept["ballot"][1]]},
        {**accept, "ballot": [accept["ballot"][0] + 1, "z"], "promises": {**accept["promises"], "given": []}},
        {**accept, "ballot": [99, "z"], "promises": {**accept["promises"], "given": given_to(B)[:1]}},
        {**accept, "ballot": [99, "z"], "promises": {"set": "0" * 64, "given": accept["promises"]["given"]}},
    ]
    for operation in forged:
        results = await ask(world, C, [*sets, operation])
        assert results[-1]["error"]["kind"] in {"rejected", "alarm"}, operation


async def test_a_commit_with_made_up_acceptances_is_refused() -> None:
    world = make_world()
    await store(world, "name", b"content", "pqc")
    register = await register_of(world, "name")
    row = world.stores[B]._tables.registers[OWNER, register]
    signatures = SignatureSet.parse(world.stores[B]._tables.signatures[str(row.signature_set)])
    moved = SignatureSet.of({SiteId(site): signatures.signatures[SiteId(A)] for site in SITES[:5]})
    certificate = json.loads(str(row.certificate))
    for brought, shown, ballot in (
        (moved, {**certificate, "set": moved.name}, [1, "z"]),
        (signatures, certificate, [row.committed_ballot[0] + 1, "z"]),
        (signatures, {**certificate, "paths": []}, [7, "z"]),
    ):
        operation = {"op": "commit", "register": register, "ballot": ballot, "value": row.committed_value}
        results = await ask(
            world,
            C,
            [{"op": "signatures", "text": brought.text}, {**operation, "certificate": json.dumps(shown), "digest": ""}],
        )
        assert "error" in results[-1]
    assert world.stores[C]._tables.registers[OWNER, register].committed_ballot == row.committed_ballot


async def test_who_has_the_owners_key_and_one_site_decides_about_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value names who decides about it; the site named here lies, and signs whatever the thief of the key wants."""
    world = make_world()
    await store(world, "name", b"content", "pqc")
    register = await register_of(world, "name")
    held = world.stores[C]._tables.registers[OWNER, register]
    current = read_value(str(held.committed_value))
    draft = ValueDraft(
        kind="tombstone",
        register_id=register,
        owner=OWNER,
        version=VersionId("7" * 32),
        parent=None,
        scheme=current.scheme,
        class_="pqc",
        placement=current.placement,
        electorate=Electorate((SiteId(B),), 1, 0),
        bodies=(),
        added=0,
        created_wall_s=0.0,
        facts={},
    )
    forged = Signed(register).certified((9, "z"), sign_values([draft], SIGNER)[0], [B])
    forged.check()  # as the value itself has it, this is a quorum
    answer = {
        "committed": forged.value.text,
        "committed_ballot": [9, "z"],
        "certificate": forged.certificate.text,
        "accepted_ballot": [9, "z"],
    }
    asked = Asked({SiteId(B): [answer]}, {}, {}, {SiteId(B): {forged.signatures.name: forged.signatures}})
    for liars, believed in ((1, {}), (0, {SiteId(B): forged})):
        reader = AnswerReader(OWNER, SIGNER.public_key, SITE_KEYS, liars)
        assert reader.held([register], asked)[0].held == believed
    ops = [{"op": "signatures", "text": forged.signatures.text}, commit_operation(register, forged)]
    assert (await ask(world, C, ops))[-1]["error"]["code"] == "vault.bad_certificate"
    assert world.stores[C]._tables.registers[OWNER, register] == held
    monkeypatch.setattr(acceptor, "_check_vouched", lambda *_: None)
    assert (await ask(world, C, ops))[-1] == {"granted": True}


# --------------------------------------------------------------------------------------------------- sites that lie


class Liar:
    """Changes what a site says about registers, behind its seal."""

    def __init__(self, world: World, site: str, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        operations: Any = world.links[site].node._operations
        real = operations.run

        async def run(owner: Any, class_: str, ops: Any, *rest: Any) -> Any:
            header, out = await real(owner, class_, ops, *rest)
            for op, result in zip(ops, header["results"], strict=True):
                change(op, result)
            return header, out

        operations.run = run


def says_granted(op: dict[str, Any], result: dict[str, Any]) -> None:
    if op["op"] in {"accept", "commit", "prepare"}:
        result.clear()
        result.update(granted=True, promised=[1, "z"], accepted_ballot=[0, ""], committed_ballot=[0, ""])


def says_nothing_is_there(op: dict[str, Any], result: dict[str, Any]) -> None:
    if op["op"] in {"register", "prepare"}:
        result.update(committed=None, committed_ballot=[0, ""], certificate=None, set=None)


def says_others_are_good(op: dict[str, Any], result: dict[str, Any]) -> None:
    if result.get("committed"):
        outer = json.loads(result["committed"])
        for body in outer["site"]["bodies"]:
            body["good"] = body["good"][:1]
        result["committed"] = json.dumps(outer, sort_keys=True, separators=(",", ":"))
        result["committed_ballot"] = [1 << 39, "z"]


def refuses_with_huge_ballots(op: dict[str, Any], result: dict[str, Any]) -> None:
    if op["op"] in {"accept", "commit", "prepare"}:
        result.clear()
        result.update(granted=False, promised=[(1 << 40) - 1, "z"])


LIES = [says_granted, says_nothing_is_there, says_others_are_good, refuses_with_huge_ballots]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("class_", ["its", "pqc"])
async def test_one_liar_of_five_changes_nothing(lie: Any, class_: str) -> None:
    world = make_world()
    await store(world, "before", b"before", class_)
    Liar(world, D, lie)
    receipt = await store(world, "name", b"first", class_)
    await store(world, "name", b"second", class_)
    await world.vault.rm("before")
    reader = world.another_vault()
    found, got = await fetch(reader.vault, "name")
    assert found == b"second"
    assert got.freshness == PROVEN
    assert [entry.name for entry in await reader.vault.ls()] == ["name"]
    assert len(set(receipt.acknowledged) - {SiteId(D)}) >= world.context.register_scheme.write_quorum - 1


@pytest.mark.parametrize("lie", LIES)
async def test_what_was_acknowledged_with_a_liar_is_read_without_it(lie: Any) -> None:
    """The liar's word was part of every quorum: one site was away. Then the liar and one truthful site are gone."""
    world = make_world()
    Liar(world, D, lie)
    world.links[E].down = True
    with contextlib.suppress(Unavailable):
        await store(world, "name", b"content", "pqc")
        world.links[E].down = False
        reader = world.another_vault()
        down(reader, D, A)
        assert (await fetch(reader.vault, "name"))[0] == b"content"


# ------------------------------------------------------------------------------------------------- members that change


async def test_two_changes_at_once_of_which_one_replaces_the_members() -> None:
    """A client of the old configuration and one of the new write the same object; nothing acknowledged is lost."""
    world = make_world(6, "3-of-5")
    old = world.another_vault()
    old.context.sites = tuple(site for site in old.context.sites if site.name != SITES[5])
    new = world.another_vault()
    new.context.sites = tuple(site for site in new.context.sites if site.name != E)
    await store(old, "name", b"start", "pqc")
    done: list[bytes] = []

    async def write(client: World, text: bytes) -> None:
        for _ in range(6):
            with contextlib.suppress(Conflict, Unavailable):
                await client.vault.put(BytesSource(text), "name", class_="pqc")
                done.append(text)
                return

    works: list[Awaitable[None]] = [write(old, b"by the old members"), write(new, b"by the new members")]
    await asyncio.gather(*works)
    assert done
    everyone = world.another_vault()
    assert (await fetch(everyone.vault, "name"))[0] == done[-1]


async def test_a_value_cannot_be_replaced_by_fewer_than_both_memberships() -> None:
    world = make_world(6, "3-of-5")
    old = world.another_vault()
    old.context.sites = tuple(site for site in old.context.sites if site.name != SITES[5])
    await store(old, "name", b"start", "pqc")
    new = world.another_vault()
    new.context.sites = tuple(site for site in new.context.sites if site.name != E)
    down(new, C, D)
    with pytest.raises((Rejected, Unavailable)):
        await store(new, "name", b"few", "pqc")
    down(new)
    await store(new, "name", b"enough", "pqc")
    assert (await fetch(new.vault, "name"))[0] == b"enough"


def low_rounds(patch: pytest.MonkeyPatch) -> None:
    """A proposer counts its rounds from two, whatever sites say."""
    patch.setattr(proposing.Proposer, "_first_round", lambda _, __, number: 2 + number)


def everything_is_held(patch: pytest.MonkeyPatch) -> None:
    """A proposer takes for granted that a quorum holds what it meets."""
    patch.setattr(proposing, "_is_held", lambda _: True)


async def promises_and_does_not_accept() -> bytes:
    """A liar makes up the quorum of promises; an honest site that is ahead has to take part then."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    await ask(world, D, [{"op": "prepare", "register": register, "ballot": [30, "z"]}])
    writer = world.another_vault()
    writer.links[E].before = failing("accept", "commit")
    await store(writer, "name", b"new", "pqc")
    return (await fetch(world.another_vault().vault, "name"))[0]


async def heard_of_by_a_far_site_alone() -> bytes:
    """A change is certified, and nobody but the site that readers ask last holds it; then another writer comes."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    late = world.another_vault()
    for site in (A, B, C, D):
        late.links[site].before = failing("commit")
    with contextlib.suppress(ShosoinError):
        await store(late, "name", b"late", "pqc")
    writer = world.another_vault()
    with contextlib.suppress(Conflict):  # once is honest: something came in between
        await store(writer, "name", b"new", "pqc")
    await store(writer, "name", b"new", "pqc")
    return (await fetch(world.another_vault().vault, "name"))[0]


@pytest.mark.parametrize(
    ("scene", "mistake"),
    [(promises_and_does_not_accept, low_rounds), (heard_of_by_a_far_site_alone, everything_is_held)],
)
async def test_a_writer_gets_past_what_few_sites_know(
    scene: Callable[[], Awaitable[bytes]], mistake: Callable[[pytest.MonkeyPatch], None]
) -> None:
    assert await scene() == b"new"
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        with pytest.raises(ShosoinError):
            await scene()
