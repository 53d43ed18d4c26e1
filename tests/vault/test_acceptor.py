"""The site's half of a register: promises, acceptances, commits, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import ObjectId, Rejected, SiteId, VersionId
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.vault import Scheme, acceptor, attestations
from shosoin.vault.acceptor import Certified, Justification
from shosoin.vault.attestations import BadCertificate
from shosoin.vault.ballots import Ballot
from shosoin.vault.electorate import Electorate
from shosoin.vault.envelope import canonical_json, join
from shosoin.vault.layout import BodyLayout
from shosoin.vault.ports import RegisterRow, ShareKey, ShareState
from shosoin.vault.values import Body, RegisterValue, ValueDraft, sign_values
from tests.vault.support import OWNER, SIGNER, SITES, Signed, make_world

REGISTER = ObjectId("ab" * 16)
SITE = SiteId(SITES[0])
MEMBERS = tuple(SiteId(name) for name in SITES[:4])
ELECTORATE = Electorate(MEMBERS, 3, 1)
LAYOUT = BodyLayout(512, 64, 0, 0, 4096)
SIGNED = Signed(REGISTER)
QUORUM = SITES[:3]


def value(
    version: int,
    parent: RegisterValue | None = None,
    *,
    good: tuple[SiteId, ...] = MEMBERS,
    kind: str = "object",
    electorate: Electorate = ELECTORATE,
) -> RegisterValue:
    named = VersionId(f"{version:032x}")
    draft = ValueDraft(
        kind=kind,
        register_id=REGISTER,
        owner=OWNER,
        version=named,
        parent=parent,
        scheme=Scheme(2, 4),
        class_="pqc",
        placement=MEMBERS,
        electorate=electorate,
        bodies=(Body(named, LAYOUT, good),) if kind == "object" else (),
        created_wall_s=1.0,
        facts={},
        added=1 if kind == "object" else 0,
    )
    return sign_values([draft], SIGNER)[0]


FIRST, OTHER = value(1), value(2)
SECOND = value(3, FIRST)
VALUES = [FIRST, OTHER, SECOND]


def key_of(found: RegisterValue) -> ShareKey:
    return ShareKey(OWNER, REGISTER, found.version, 0)


async def site_with_shares(*found: RegisterValue) -> MemorySiteStore:
    """A site that has sealed the shares which some values count on."""
    world = make_world(4, "2-of-4")
    for each in found:
        where = {"object": REGISTER, "version": each.version, "epoch": 0, "size": 256}
        ops = [{"op": "write", "offset": 0, **where}, {"op": "seal", "x": 1, "k": 2, "masks": 16, **where}]
        header = {"v": 1, "class": "local", "from": OWNER, "to": f"node-{SITE}", "ops": ops, "auth": {}}
        answer = await world.links[SITE].node.exchange(OWNER, b"".join(join(canonical_json(header), [bytes(256)], b"")))
        assert b"error" not in b"".join(answer)
    return world.stores[SITE]


def state_of(store: MemorySiteStore, found: RegisterValue) -> ShareState:
    return next(row.state for row in store.shares() if row.key == key_of(found))


async def prepare(store: MemorySiteStore, ballot: Ballot) -> dict[str, Any]:
    return (await store.transact(lambda tx: acceptor.prepare(tx, OWNER, REGISTER, ballot)))[0]


async def accept(
    store: MemorySiteStore, ballot: Ballot, found: RegisterValue, given: Justification | None = None
) -> dict[str, Any]:
    return (
        await store.transact(lambda tx: acceptor.accept(tx, SITE, OWNER, REGISTER, ballot, found, justification=given))
    )[0]


async def commit(store: MemorySiteStore, certified: Certified) -> dict[str, Any]:
    return await store.transact(lambda tx: acceptor.commit(tx, SITE, OWNER, REGISTER, certified))


async def row_of(store: MemorySiteStore) -> RegisterRow:
    return await store.transact(lambda tx: tx.register(OWNER, REGISTER)) or RegisterRow()


async def test_a_promise_binds() -> None:
    store = await site_with_shares(FIRST)
    assert (await prepare(store, (3, "b")))["granted"]
    for lower in ((3, "b"), (3, "a"), (2, "z")):
        assert not (await prepare(store, lower))["granted"]
    assert not (await accept(store, (3, "a"), FIRST, SIGNED.justified((3, "a"), QUORUM)))["granted"]
    assert not (await commit(store, SIGNED.certified((3, "a"), FIRST, QUORUM)))["granted"]
    assert state_of(store, FIRST) is ShareState.STAGED
    for ballot in ((3, "b"), (3, "c")):
        assert (await accept(store, ballot, FIRST, SIGNED.justified(ballot, QUORUM)))["granted"]
    assert state_of(store, FIRST) is ShareState.PINNED


async def test_one_ballot_carries_one_value() -> None:
    store = await site_with_shares(FIRST, OTHER)
    granted = [(await accept(store, (1, "a"), found))["granted"] for found in (FIRST, FIRST, OTHER)]
    assert granted == [True, True, False]
    assert state_of(store, OTHER) is ShareState.STAGED


async def test_round_one_is_for_an_untouched_register() -> None:
    store = await site_with_shares(FIRST, OTHER)
    assert (await accept(store, (1, "a"), FIRST))["granted"]
    with pytest.raises(Rejected, match="promises are needed"):
        await accept(store, (1, "b"), OTHER)
    with pytest.raises(Rejected, match="promises are needed"):
        await accept(store, (2, "b"), OTHER)
    untouched = await site_with_shares(SECOND)
    with pytest.raises(Rejected, match="promises are needed"):
        await accept(untouched, (1, "a"), SECOND)  # it replaces something


async def test_a_proposal_needs_a_quorum_of_promises() -> None:
    store = await site_with_shares(FIRST)
    for sites in ((), QUORUM[:2], [QUORUM[0]] * 3, [*QUORUM[:2], SITES[5]]):
        with pytest.raises(Rejected, match="no quorum"):
            await accept(store, (2, "a"), FIRST, SIGNED.justified((2, "a"), sites))
    assert await row_of(store) == RegisterRow()
    assert (await accept(store, (2, "a"), FIRST, SIGNED.justified((2, "a"), QUORUM)))["granted"]


async def test_a_proposal_follows_the_newest_certified_value_of_its_promises() -> None:
    store = await site_with_shares(*VALUES)
    top = SIGNED.certified((1, "a"), FIRST, QUORUM)
    given = SIGNED.justified((2, "b"), QUORUM, top)
    with pytest.raises(Rejected, match="not the current one"):
        await accept(store, (2, "b"), OTHER, given)
    with pytest.raises(Rejected, match="is not shown"):
        await accept(store, (2, "b"), SECOND, Justification(given.promises, None))
    weak = SIGNED.certified((1, "a"), FIRST, QUORUM[:2])
    with pytest.raises(BadCertificate):
        await accept(store, (2, "b"), SECOND, SIGNED.justified((2, "b"), QUORUM, weak))
    with pytest.raises(Rejected, match="not the current one"):
        await accept(store, (2, "b"), SECOND, SIGNED.justified((2, "b"), QUORUM))  # the promises know of no parent
    assert (await accept(store, (2, "b"), SECOND, given))["granted"]
    assert (await accept(store, (2, "c"), FIRST, SIGNED.justified((2, "c"), QUORUM, top)))["granted"]


async def test_a_site_that_holds_the_value_need_not_be_shown_it() -> None:
    store = await site_with_shares(FIRST, SECOND)
    top = SIGNED.certified((1, "a"), FIRST, QUORUM)
    assert (await commit(store, top))["granted"]
    given = SIGNED.justified((2, "b"), QUORUM, top)
    assert (await accept(store, (2, "b"), SECOND, Justification(given.promises, None)))["granted"]


async def test_who_brought_the_newest_value_about_goes_on_without_promises() -> None:
    top = SIGNED.certified((4, "a"), FIRST, QUORUM)
    after = (4, "a-")
    holding, lacking = await site_with_shares(FIRST, SECOND), await site_with_shares(FIRST, SECOND)
    assert (await commit(holding, top))["granted"]
    assert (await accept(holding, after, SECOND))["granted"]
    with pytest.raises(Rejected, match="promises are needed"):
        await accept(lacking, after, SECOND)
    assert (await accept(lacking, after, SECOND, Justification((), top)))["granted"]
    for store in (holding, lacking):
        row = await row_of(store)
        assert (row.promised, row.accepted_ballot, row.accepted_value) == (after, after, SECOND.text)
        assert state_of(store, SECOND) is ShareState.PINNED


@pytest.mark.parametrize("ballot", [(4, "a."), (4, "a--"), (4, "b"), (5, "a"), (5, "a-"), (4, "a")])
async def test_only_the_ballot_right_after_needs_no_promises(ballot: Ballot) -> None:
    top = SIGNED.certified((4, "a"), FIRST, QUORUM)
    store = await site_with_shares(FIRST, SECOND)
    assert (await commit(store, top))["granted"]
    for shown in (None, Justification((), top)):
        with pytest.raises(Rejected) as refused:
            await accept(store, ballot, SECOND, shown)
        assert refused.value.code == "vault.not_justified"


async def test_what_goes_on_follows_the_value_before_and_its_certificate_holds() -> None:
    store = await site_with_shares(FIRST, OTHER, SECOND)
    top = SIGNED.certified((4, "a"), FIRST, QUORUM)
    with pytest.raises(Rejected, match="no quorum"):
        await accept(store, (4, "a-"), OTHER, Justification((), top))
    with pytest.raises(BadCertificate):
        await accept(store, (4, "a-"), SECOND, Justification((), SIGNED.certified((4, "a"), FIRST, QUORUM[:2])))
    assert (await prepare(store, (4, "a.")))["granted"]  # somebody else came in between
    assert not (await accept(store, (4, "a-"), SECOND, Justification((), top)))["granted"]


async def test_nobody_goes_on_without_promises_while_members_change() -> None:
    replaced = Electorate((*MEMBERS[:3], SiteId(SITES[4])), 3, 1)
    moved = value(6, FIRST, electorate=replaced)
    after = value(7, moved, electorate=replaced)
    store = await site_with_shares(FIRST, moved, after)
    with pytest.raises(Rejected, match="no quorum"):
        await accept(store, (4, "a-"), moved, Justification((), SIGNED.certified((4, "a"), FIRST, QUORUM)))
    held = SIGNED.certified((4, "b"), moved, SITES[:3])
    with pytest.raises(Rejected, match="no quorum"):
        await accept(store, (4, "b-"), after, Justification((), held))


async def test_nothing_follows_a_tombstone() -> None:
    gone = value(4, FIRST, kind="tombstone")
    after = value(5, gone)
    store = await site_with_shares(after)
    given = SIGNED.justified((3, "b"), QUORUM, SIGNED.certified((2, "a"), gone, QUORUM))
    with pytest.raises(Rejected, match="not the current one"):
        await accept(store, (3, "b"), after, given)


async def test_the_site_part_changes_one_step_at_a_time() -> None:
    store = await site_with_shares(FIRST)
    better = FIRST.with_bodies(FIRST.bodies)
    best = better.with_bodies(FIRST.bodies)
    given = SIGNED.justified((2, "b"), QUORUM, SIGNED.certified((1, "a"), FIRST, QUORUM))
    with pytest.raises(Rejected, match="not the current one"):
        await accept(store, (2, "b"), best, given)
    assert (await accept(store, (2, "b"), better, given))["granted"]
    assert (better.revision, better.version, better.owner_part) == (1, FIRST.version, FIRST.owner_part)
    # whoever built on the first revision has to look again
    given = SIGNED.justified((3, "c"), QUORUM, SIGNED.certified((2, "b"), better, QUORUM))
    with pytest.raises(Rejected, match="not the current one"):
        await accept(store, (3, "c"), SECOND, given)


async def test_old_and_new_members_decide_together_about_a_change_of_members() -> None:
    replaced = Electorate((*MEMBERS[:3], SiteId(SITES[4])), 3, 1)
    moved = value(6, FIRST, electorate=replaced)
    assert moved.former == ELECTORATE
    top = SIGNED.certified((1, "a"), FIRST, QUORUM)
    enough = SITES[:3]
    only_old, only_new = [SITES[1], SITES[2], SITES[3]], [SITES[1], SITES[2], SITES[4]]
    store = await site_with_shares(moved)
    for few in (only_old, only_new):
        with pytest.raises(Rejected, match="no quorum"):
            await accept(store, (2, "b"), moved, SIGNED.justified((2, "b"), few, top))
        with pytest.raises(BadCertificate):
            await commit(store, SIGNED.certified((2, "b"), moved, few))
    assert (await accept(store, (2, "b"), moved, SIGNED.justified((2, "b"), enough, top)))["granted"]
    assert (await commit(store, SIGNED.certified((2, "b"), moved, enough)))["granted"]
    # from now on the new members decide alone
    after = value(7, moved, electorate=replaced)
    assert after.former is None
    stale = value(8, moved)  # a client that still knows the old members only
    assert stale.former == replaced
    given = SIGNED.justified((3, "c"), only_old, SIGNED.certified((2, "b"), moved, enough))
    with pytest.raises(Rejected, match="no quorum"):
        await accept(await site_with_shares(stale), (3, "c"), stale, given)


async def test_a_value_that_counts_on_a_missing_share_is_refused_and_nothing_is_written() -> None:
    store = await site_with_shares(FIRST)
    with pytest.raises(Rejected, match="no sealed share"):
        await accept(store, (1, "a"), OTHER)
    assert await row_of(store) == RegisterRow()
    assert (await accept(store, (1, "a"), value(7, good=MEMBERS[1:])))["granted"]


async def test_a_commit_needs_its_certificate_and_never_goes_back() -> None:
    store = await site_with_shares(*VALUES)
    for sites in ((), QUORUM[:1], [QUORUM[0]] * 3, [*QUORUM[:2], SITES[6]]):
        with pytest.raises(BadCertificate):
            await commit(store, SIGNED.certified((2, "a"), OTHER, sites))
    held = SIGNED.certified((2, "a"), OTHER, QUORUM)
    assert (await commit(store, held))["granted"]
    assert (await commit(store, held))["granted"]
    assert not (await commit(store, SIGNED.certified((1, "z"), FIRST, QUORUM)))["granted"]
    row = await row_of(store)
    assert (row.committed_value, row.committed_ballot) == (OTHER.text, (2, "a"))
    assert row.certificate == held.certificate.text
    assert await store.transact(lambda tx: tx.signatures(row.signature_set or "")) == held.signatures.text
    assert state_of(store, OTHER) is ShareState.COMMITTED
    # what was committed at a ballot also promises it
    assert not (await accept(store, (1, "z"), FIRST, SIGNED.justified((1, "z"), QUORUM)))["granted"]


async def test_a_forged_signature_counts_for_nothing() -> None:
    honest = SIGNED.certified((2, "a"), FIRST, QUORUM)
    elsewhere = Signed(ObjectId("cd" * 16)).certified((2, "a"), FIRST, QUORUM)
    statement = attestations.acceptance(OWNER, REGISTER, (2, "a"), FIRST.digest)
    keys = make_world().links[SITE].node._operations._registers._keys
    sets = {honest.signatures.name: honest.signatures, elsewhere.signatures.name: elsewhere.signatures}
    assert honest.certificate.signers(sets, statement, keys) == tuple(sorted(QUORUM))
    assert elsewhere.certificate.signers(sets, statement, keys) == ()
    assert honest.certificate.signers({}, statement, keys) == ()
    assert honest.certificate.signers(sets, statement, {}) == ()


async def test_an_empty_register_answers() -> None:
    store = MemorySiteStore()
    empty = await store.transact(lambda tx: acceptor.read_register(tx, OWNER, REGISTER))
    assert empty["committed"] is None
    assert empty == await store.transact(lambda tx: acceptor.read_register(tx, OWNER, REGISTER))
    assert RegisterRow().promised == (0, "")


steps = st.lists(
    st.tuples(
        st.sampled_from(["prepare", "accept", "commit"]), st.integers(1, 4), st.sampled_from("ab"), st.integers(0, 1)
    ),
    max_size=25,
)


@given(steps)
async def test_in_any_order_promises_and_commits_only_rise(todo: list[tuple[str, int, str, int]]) -> None:
    store = await site_with_shares(*VALUES)
    before = RegisterRow()
    for step, number, name, which in todo:
        ballot = (number, name)
        if step == "prepare":
            result = await prepare(store, ballot)
        elif step == "accept":
            result = await accept(store, ballot, VALUES[which], SIGNED.justified(ballot, QUORUM))
        else:
            result = await commit(store, SIGNED.certified(ballot, VALUES[which], QUORUM))
        after = await row_of(store)
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
