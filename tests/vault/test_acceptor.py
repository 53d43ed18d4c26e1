"""The site's half of a register: promises, acceptances, commits, and what it refuses."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import ObjectId, Rejected, SiteId, VersionId
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.vault import Scheme, acceptor
from shosoin.vault.envelope import canonical_json, join
from shosoin.vault.layout import BodyLayout
from shosoin.vault.ports import RegisterRow, ShareKey, ShareState, SiteTransaction
from shosoin.vault.values import Body, RegisterValue, ValueDraft, sign_values
from tests.vault.support import OWNER, SIGNER, SITES, make_world

REGISTER = ObjectId("ab" * 16)
SITE = SiteId(SITES[0])
MEMBERS = tuple(SiteId(name) for name in SITES[:3])
LAYOUT = BodyLayout(512, 64, 0, 0, 4096)


def value(version: int, *, good: tuple[SiteId, ...] = MEMBERS, kind: str = "object") -> RegisterValue:
    named = VersionId(f"{version:032x}")
    draft = ValueDraft(
        kind=kind,
        register_id=REGISTER,
        owner=OWNER,
        version=named,
        parent=None,
        scheme=Scheme(2, 3),
        class_="pqc",
        placement=MEMBERS,
        members=MEMBERS,
        quorum=2,
        bodies=(Body(named, LAYOUT, good),) if kind == "object" else (),
        created_wall_s=1.0,
        facts={},
        added=1 if kind == "object" else 0,
    )
    return sign_values([draft], SIGNER)[0]


VALUES = [value(number) for number in range(3)]


def key_of(found: RegisterValue) -> ShareKey:
    return ShareKey(OWNER, REGISTER, found.version, 0)


async def site_with_shares(*found: RegisterValue) -> MemorySiteStore:
    """A site that has sealed the shares which some values count on."""
    world = make_world(3, "2-of-3")
    for each in found:
        where = {"object": REGISTER, "version": each.version, "epoch": 0, "size": 256}
        ops = [{"op": "write", "offset": 0, **where}, {"op": "seal", "x": 1, "k": 2, "masks": 16, **where}]
        header = {"v": 1, "class": "local", "from": OWNER, "to": f"node-{SITE}", "ops": ops, "auth": {}}
        answer = await world.links[SITE].node.exchange(OWNER, b"".join(join(canonical_json(header), [bytes(256)], b"")))
        assert b"error" not in b"".join(answer)
    return world.stores[SITE]


def state_of(store: MemorySiteStore, found: RegisterValue) -> ShareState:
    return next(row.state for row in store.shares() if row.key == key_of(found))


def prepared_at(ballot: acceptor.Ballot, tx: SiteTransaction) -> dict[str, Any]:
    return acceptor.prepare(tx, OWNER, REGISTER, ballot)


def accepted_at(ballot: acceptor.Ballot, tx: SiteTransaction) -> dict[str, Any]:
    return acceptor.accept(tx, SITE, OWNER, REGISTER, ballot, VALUES[0])


async def test_a_promise_binds() -> None:
    store = await site_with_shares(VALUES[0])
    assert (await store.transact(lambda tx: acceptor.prepare(tx, OWNER, REGISTER, (3, "b"))))["granted"]
    for lower in ((3, "b"), (3, "a"), (2, "z")):
        assert not (await store.transact(partial(prepared_at, lower)))["granted"]
    refused = await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (3, "a"), VALUES[0]))
    assert not refused["granted"]
    assert state_of(store, VALUES[0]) is ShareState.STAGED
    for ballot in ((3, "b"), (3, "c")):
        taken = await store.transact(partial(accepted_at, ballot))
        assert taken["granted"]
    assert state_of(store, VALUES[0]) is ShareState.PINNED


async def test_one_ballot_carries_one_value() -> None:
    store = await site_with_shares(*VALUES[:2])
    first = await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (1, "a"), VALUES[0]))
    again = await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (1, "a"), VALUES[0]))
    other = await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (1, "a"), VALUES[1]))
    assert (first["granted"], again["granted"], other["granted"]) == (True, True, False)
    assert state_of(store, VALUES[1]) is ShareState.STAGED


async def test_a_value_that_counts_on_a_missing_share_is_refused_and_nothing_is_written() -> None:
    store = await site_with_shares(VALUES[0])
    with pytest.raises(Rejected):
        await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (1, "a"), VALUES[1]))
    assert await store.transact(lambda tx: tx.register(OWNER, REGISTER)) is None
    without_us = value(7, good=MEMBERS[1:])
    assert (await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (1, "a"), without_us)))[
        "granted"
    ]


async def test_a_commit_needs_its_certificate_and_never_goes_back() -> None:
    store = await site_with_shares(*VALUES)

    async def commit(ballot: acceptor.Ballot, found: RegisterValue, *names: str) -> dict[str, object]:
        return await store.transact(
            lambda tx: acceptor.commit(tx, SITE, OWNER, REGISTER, ballot, found, certificate=list(names))
        )

    for names in ((), (SITES[0],), (SITES[0], SITES[0])):
        with pytest.raises(Rejected):
            await commit((2, "a"), VALUES[1], *names)
    assert (await commit((2, "a"), VALUES[1], *SITES[:2]))["granted"]
    assert (await commit((2, "a"), VALUES[1], *SITES[:2]))["granted"]
    assert (await commit((1, "z"), VALUES[0], *SITES[:2]))["newer"]
    row = await store.transact(lambda tx: tx.register(OWNER, REGISTER))
    assert row is not None
    assert (row.committed_value, row.committed_ballot) == (VALUES[1].text, (2, "a"))
    assert json.loads(row.certificate or "") == sorted(SITES[:2])
    assert state_of(store, VALUES[1]) is ShareState.COMMITTED
    # what was committed at a ballot also promises it
    late = await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, (1, "z"), VALUES[0]))
    assert not late["granted"]


async def test_an_empty_register_answers() -> None:
    store = MemorySiteStore()
    empty = await store.transact(lambda tx: acceptor.read_register(tx, OWNER, REGISTER))
    assert empty["committed"] is None
    assert empty == await store.transact(lambda tx: acceptor.read_register(tx, OWNER, REGISTER))
    assert RegisterRow().promised == (0, "")


steps = st.lists(
    st.tuples(
        st.sampled_from(["prepare", "accept", "commit"]), st.integers(1, 4), st.sampled_from("ab"), st.integers(0, 2)
    ),
    max_size=25,
)


@given(steps)
async def test_in_any_order_promises_and_commits_only_rise(todo: list[tuple[str, int, str, int]]) -> None:
    store = await site_with_shares(*VALUES)
    before = RegisterRow()
    for step, number, name, which in todo:
        ballot = (number, name)

        def run(
            tx: object, step: str = step, ballot: tuple[int, str] = ballot, which: int = which
        ) -> dict[str, object]:
            if step == "prepare":
                return acceptor.prepare(tx, OWNER, REGISTER, ballot)  # type: ignore[arg-type]
            if step == "accept":
                return acceptor.accept(tx, SITE, OWNER, REGISTER, ballot, VALUES[which])  # type: ignore[arg-type]
            return acceptor.commit(tx, SITE, OWNER, REGISTER, ballot, VALUES[which], certificate=list(SITES[:2]))  # type: ignore[arg-type]

        result = await store.transact(run)
        after = await store.transact(lambda tx: tx.register(OWNER, REGISTER)) or RegisterRow()
        assert after.promised >= before.promised
        assert after.accepted_ballot >= before.accepted_ballot
        assert after.committed_ballot >= before.committed_ballot
        assert after.promised >= max(after.accepted_ballot, after.committed_ballot)
        if step == "accept" and result["granted"]:
            assert ballot >= before.promised
            assert state_of(store, VALUES[which]) is not ShareState.STAGED
        if not result["granted"]:
            assert after == before
        before = after
