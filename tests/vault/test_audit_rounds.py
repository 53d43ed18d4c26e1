"""Rounds of audits: challenges that last, sites that refuse or stay silent, stopping and going on, no end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shosoin.base import Rejected, SaeId, SiteId, Unavailable
from shosoin.kernels import element_mul, point_of
from shosoin.vault import audit_round
from shosoin.vault.audit import ShareFound
from shosoin.vault.audit_ledger import SLOT_S, MemoryLedger
from shosoin.vault.audit_round import AuditOptions, AuditRound
from shosoin.vault.audit_watch import audit_every
from shosoin.vault.envelope import canonical_json, cut, join, parse_json
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from tests.vault.support import OWNER, SITES, DirectLink, World, fetch, kinds_of, make_world, pattern, store

ALL_OK = dict.fromkeys(SITES[:5], "ok")
FRESH = AuditOptions(fresh=True)


class Wall:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.now = 0.0

    def now_s(self) -> float:
        return self.now

    def wall_s(self) -> float:
        return self.wall


class Kept:
    """Evidence in memory."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def append(self, entries: Any) -> None:
        self.entries += [dict(entry) for entry in entries]


async def stored(class_: str = "qkd", count: int = 2, **options: Any) -> tuple[World, Wall]:
    """A world with objects, a clock to set, and its evidence."""
    world = make_world(**options)
    clock = Wall()
    world.context.clock = clock
    world.context.evidence = Kept()
    for number in range(count):
        await store(world, f"name-{number}", pattern(3000, number), class_)
    return world, clock


def count_ops(world: World, *kinds: str) -> list[dict[str, Any]]:
    """Operations of some kinds that reach the nodes from now on."""
    seen: list[dict[str, Any]] = []

    def listen(_: DirectLink, header: dict[str, Any]) -> None:
        seen.extend(op for op in header.get("ops", ()) if op["op"] in kinds)

    world.on_all(before=listen)
    return seen


def challenges(seen: list[dict[str, Any]]) -> set[str]:
    return {op["r"] for op in seen}


async def falsify(world: World, name: str, *sites: str) -> None:
    object_id = (await world.vault.stat(name)).listing.object_id
    for at, site in enumerate(sites):
        world.stores[site].falsify(world.share_key(object_id, site), 2048, bytes([at + 1]) * 16)


async def test_within_a_slot_the_same_challenge_is_asked_again_and_the_next_slot_spends_a_new_one() -> None:
    world, clock = await stored()
    seen = count_ops(world, "digest")
    first = await world.vault.audit_round(index=False)
    clock.wall += SLOT_S - 1
    again = await world.vault.audit_round(index=False)
    assert (first.new, first.repeated, again.new, again.repeated) == (2, 0, 0, 2)
    assert len(challenges(seen)) == 2  # one for each object, whatever site
    clock.wall += 2
    later = await world.vault.audit_round(index=False)
    assert (later.new, later.repeated) == (2, 0)
    assert len(challenges(seen)) == 4


async def test_answers_of_an_epoch_last_for_over_a_year_of_audits_every_six_hours() -> None:
    world, clock = await stored("qkd", 1)
    for _ in range(ANSWERS_PER_EPOCH):
        for _ in range(3):
            round_ = await world.vault.audit_round(index=False)
            assert (round_.bad, round_.short) == (False, False)
            clock.wall += SLOT_S / 3
    assert round_.spent == 1
    assert clock.wall - 1_800_000_000.0 > 365 * 86_400


@pytest.mark.parametrize("wrong_s", [-400 * 86_400.0, 400 * 86_400.0])
async def test_a_clock_that_was_wrong_once_does_not_stop_new_challenges(wrong_s: float) -> None:
    world, clock = await stored("qkd", 1)
    clock.wall += wrong_s
    await world.vault.audit_round()
    clock.wall -= wrong_s
    assert (await world.vault.audit_round(index=False)).new == 1


async def test_a_repeated_challenge_finds_a_share_that_changed_since() -> None:
    world, _ = await stored()
    await world.vault.audit_round()
    await falsify(world, "name-1", SITES[3])
    round_ = await world.vault.audit_round()
    assert [(each.label, each.states) for each in round_.findings] == [("name-1", ALL_OK | {SITES[3]: "wrong"})]


async def test_challenges_are_no_function_of_what_sites_know() -> None:
    """Two owners of one history ask different things: a site cannot compute the next challenge and drop its share."""
    asked = []
    for _ in range(2):
        world, _ = await stored("qkd", 1, seed=3)
        seen = count_ops(world, "digest")
        await world.vault.audit_round(index=False)
        asked.append(challenges(seen))
    assert asked[0] != asked[1]


async def test_an_audit_after_a_put_needs_no_registers_and_moved_shares_are_looked_up() -> None:
    world, clock = await stored()  # the put has told where the shares are
    seen = count_ops(world, "register")
    await world.vault.audit_round(index=False)
    names = {op["register"] for op in seen}
    ids = {(await world.vault.stat(f"name-{number}")).listing.object_id for number in range(2)}
    assert not names & ids
    seen.clear()
    await falsify(world, "name-0", SITES[2])
    await world.vault.audit_round(index=False)
    assert {op["register"] for op in seen} & ids == {(await world.vault.stat("name-0")).listing.object_id}
    clock.wall += SLOT_S
    seen.clear()
    await world.vault.audit_round(index=False)
    assert {op["register"] for op in seen} >= ids


async def test_an_object_with_a_new_version_is_audited_in_that_version() -> None:
    world, _ = await stored("qkd", 1)
    await world.vault.audit_round()
    await store(world, "name-0", b"second", "qkd")
    round_ = await world.vault.audit_round(index=False)
    assert (round_.new, round_.bad, round_.short) == (1, False, False)


async def test_the_index_of_every_class_is_audited() -> None:
    world = make_world()
    for class_ in ("its", "qkd", "pqc"):
        await store(world, class_, b"content", class_)
    round_ = await world.vault.audit_round()
    assert round_.index == {f"index {class_}": ALL_OK for class_ in ("its", "qkd", "pqc")}
    index_id = world.vault._names.states["pqc"].register_id
    key = world.share_key(index_id, SITES[2])
    world.stores[SITES[2]].falsify(key, 1000, b"\x11" * 16)
    round_ = await world.vault.audit_round()
    assert round_.index["index pqc"] == ALL_OK | {SITES[2]: "wrong"}
    assert [each.label for each in round_.findings] == ["index pqc"]


def lie(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    """Change the results of unsealed answers of the home site."""

    def spoil(raw: bytes) -> bytes:
        parts = cut(raw)
        header = parse_json(parts.header)
        for result in header.get("results", ()):
            change(result)
        return b"".join(join(canonical_json(header), [bytes(parts.sealed)], b""))

    return spoil


def refuse_digests(world: World, site: str) -> None:
    """Make a site claim that its answers are used up, whatever it is asked."""
    operations = world.links[site].node._operations

    async def refused(_: Any, calls: Any) -> None:
        for call in calls:
            call.result = {"error": {"kind": "rejected", "code": "vault.audits_used", "message": "all used"}}

    operations._batches["digest"] = refused


async def test_a_site_that_claims_to_have_no_answers_left_is_refusing_and_an_alarm() -> None:
    world, _ = await stored()
    refuse_digests(world, SITES[3])
    found = await world.vault.audit()
    assert found == dict.fromkeys(("name-0", "name-1"), ALL_OK | {SITES[3]: "refused"})
    kinds = {(event.fields["site"], event.fields["kind"]) for event in world.sink.events if event.severity == "alarm"}
    assert kinds == {(SITES[3], "audit_refused")}
    for rounds in (2, 3):
        round_ = await world.vault.audit_round()
        assert round_.in_a_row[SiteId(SITES[3])] == {"silent": 0, "refused": rounds}
    told = [event.fields for event in world.sink.events if event.name == "vault.audit_unanswered"]
    assert told == [{"site": SITES[3], "kind": "audit_refused", "rounds": "3"}]


async def test_a_site_that_is_silent_three_times_is_an_alarm_and_one_answer_ends_it() -> None:
    world, _ = await stored()
    world.links[SITES[4]].down = True
    for rounds in (1, 2, 3):
        round_ = await world.vault.audit_round(index=False)
        assert round_.in_a_row[SiteId(SITES[4])]["silent"] == rounds
        assert round_.counts[SiteId(SITES[4])] == {"unreachable": 2}
    told = [event.fields for event in world.sink.events if event.name == "vault.audit_unanswered"]
    assert told == [{"site": SITES[4], "kind": "audit_silent", "rounds": "3"}]
    world.links[SITES[4]].down = False
    assert (await world.vault.audit_round()).in_a_row[SiteId(SITES[4])] == {"silent": 0, "refused": 0}


async def test_a_site_that_lost_a_share_it_answered_for_is_an_alarm() -> None:
    world, _ = await stored("qkd", 1)
    key = world.share_key((await world.vault.stat("name-0")).listing.object_id, SITES[2])
    await world.stores[SITES[2]].transact(lambda tx: tx.delete_share(key))
    assert (await world.vault.audit())["name-0"] == ALL_OK | {SITES[2]: "missing"}
    assert [event.fields["kind"] for event in world.sink.events] == ["audit_missing"]


async def spend_all(world: World, name: str) -> None:
    """Spend all answers of an object behind the ledger's back."""
    for _ in range(ANSWERS_PER_EPOCH):
        world.context.ledger = MemoryLedger()
        await world.vault.audit([name], fresh=True)
    world.context.ledger = MemoryLedger()


async def test_an_owner_who_lost_the_ledger_repeats_what_the_sites_remember() -> None:
    world, _ = await stored("qkd", 1)
    await spend_all(world, "name-0")
    seen = count_ops(world, "digest")
    round_ = await world.vault.audit_round(index=False)
    assert (round_.bad, round_.short, round_.spent, round_.new) == (False, False, 1, 0)
    seen.clear()
    await world.vault.audit_round(index=False)
    assert len(challenges(seen)) == 1
    await falsify(world, "name-0", SITES[1])
    assert (await world.vault.audit())["name-0"] == ALL_OK | {SITES[1]: "wrong"}


async def test_one_site_alone_cannot_make_the_owner_believe_that_answers_are_spent() -> None:
    world, _ = await stored("qkd", 1)
    refuse_digests(world, SITES[2])
    seen = count_ops(world, "audits")
    await world.vault.audit()
    assert seen == []


async def test_two_liars_of_five_frame_an_honest_site_in_an_audit_and_the_keyed_check_accuses_them_alone() -> None:
    """Beyond f liars: shifts by a multiple of (x-x_home)(x-x_3) agree with home and site 3 against site 4."""
    world, _ = await stored("qkd", 1)
    object_id = (await world.vault.stat("name-0")).listing.object_id
    home, friend, victim = 0, 3, 4
    for at in (1, 2):
        x = point_of(at + 1)
        factor = element_mul(x ^ point_of(home + 1), x ^ point_of(friend + 1))
        key = world.share_key(object_id, SITES[at])
        row = next(row for row in world.stores[SITES[at]].shares() if row.key == key)
        old = int.from_bytes(await world.stores[SITES[at]].read(row, 2048, 16), "little")
        world.stores[SITES[at]].falsify(key, 2048, (old ^ element_mul(factor, 77)).to_bytes(16, "little"))
    framed = (await world.vault.audit())["name-0"]
    assert framed == ALL_OK | {SITES[victim]: "wrong"}
    proved = (await world.vault.verify("name-0")).per_site
    assert proved == ALL_OK | {SITES[1]: "wrong", SITES[2]: "wrong"}
    many = await world.vault.verify_many()
    assert many.findings[0].states == proved
    assert (await fetch(world.vault, "name-0"))[0] == pattern(3000, 0)


@pytest.mark.any_kernels
async def test_a_stopped_round_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_round, "_TOGETHER", 256)
    world, clock = await stored("pqc", 0)
    contents = {f"name-{number:03}": pattern(20, number) for number in range(600)}
    await world.vault.put_many(contents, class_="pqc")
    stop = asyncio.Event()

    def hold(done: int, _: int) -> None:
        if done > 256:
            stop.set()

    task = asyncio.create_task(world.vault.audit_round(progress=hold))
    await stop.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    clock.wall += 60
    seen = count_ops(world, "digest")
    names: set[str] = set()
    round_ = await world.vault.audit_round(options=AuditOptions(resume=True), on_found=lambda name, _: names.add(name))
    assert names == set(contents)
    assert round_.resumed >= 256
    assert round_.objects == 601
    assert len({op["object"] for op in seen}) <= 601 - 256
    seen.clear()
    assert (await world.vault.audit_round(options=AuditOptions(resume=True))).resumed == 0


async def test_a_round_of_another_selection_or_of_yesterday_is_not_gone_on_with() -> None:
    world, clock = await stored()
    world.context.ledger.keep_note("open round", {"selection": "prefix ", "started": clock.wall - 10})
    await world.vault.audit_round(["name-0", "name-1"])
    resume = AuditOptions(resume=True)
    assert (await world.vault.audit_round(prefix="name", options=resume)).resumed == 0
    world.context.ledger.keep_note("open round", {"selection": "prefix ", "started": clock.wall - 10})
    assert (await world.vault.audit_round(options=AuditOptions(resume=True, fresh=True))).resumed == 0
    world.context.ledger.keep_note("open round", {"selection": "prefix ", "started": clock.wall - 2 * 86_400})
    assert (await world.vault.audit_round(options=resume)).resumed == 0
    world.context.ledger.keep_note("open round", {"selection": "prefix ", "started": clock.wall - 10})
    assert (await world.vault.audit_round(options=resume)).resumed == 2


async def test_what_is_gone_is_forgotten_by_a_round_of_everything() -> None:
    world, clock = await stored()
    await world.vault.audit_round()
    await world.vault.rm("name-0")
    clock.wall += 5
    await world.vault.audit_round(prefix="name-1")
    clock.wall += 5
    await world.vault.audit_round()
    assert isinstance(world.context.ledger, MemoryLedger)
    assert len(world.context.ledger._records) == 1 + len(world.vault._names.states["qkd"].parts)


@pytest.mark.any_kernels
async def test_a_rate_makes_a_round_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_round, "_TOGETHER", 256)
    world, clock = await stored("pqc", 0)
    await world.vault.put_many({f"name-{number:03}": pattern(20, number) for number in range(512)}, class_="pqc")
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.now += seconds

    world.context.runtime.sleep = sleep  # type: ignore[method-assign]
    round_ = await world.vault.audit_round(index=False, options=AuditOptions(bytes_per_s_max=1e6))
    assert sum(waited) == pytest.approx(round_.share_bytes / 2 / 1e6, rel=0.01)
    with pytest.raises(Rejected):
        await world.vault.audit_round(options=AuditOptions(bytes_per_s_max=0.0))


async def test_evidence_of_audits_says_what_was_asked_and_found_and_holds_no_name_and_no_digest() -> None:
    world, _ = await stored("its", 1)
    kept = world.context.evidence
    assert isinstance(kept, Kept)
    assert [entry["kind"] for entry in kept.entries] == ["deal", "deal"]  # the object and the index part
    kept.entries.clear()
    seen = count_ops(world, "digest")
    answers: list[bytes] = []
    world.on_all(
        after=lambda link, header: answers.append(link.answered[-1]) if kinds_of(header) == {"digest"} else None
    )
    await falsify(world, "name-0", SITES[3])
    await world.vault.audit(["name-0"])
    assert [entry["final"] for entry in kept.entries] == [False, True]  # asked again after a look at the register
    entry = kept.entries[-1]
    stat = await world.vault.stat("name-0")
    row = entry["objects"][0]
    assert entry["sites"] == list(SITES[:5])
    assert (row[0], row[1], row[2]) == (stat.listing.object_id, stat.listing.version, 0)
    assert row[5] == "kkkwk"
    assert seen == []
    text = repr(kept.entries)
    assert "name-0" not in text
    digests = [bytes(cut(raw).sealed)[:16].hex() for raw in answers]
    assert digests
    assert not any(digest in text for digest in digests)


async def test_a_round_ends_when_its_evidence_cannot_be_written() -> None:
    world, _ = await stored()

    class Full:
        def append(self, entries: Any) -> None:
            raise Unavailable("no room", code="adapters.evidence_unwritable")

    world.context.evidence = Full()
    with pytest.raises(Unavailable, match="no room"):
        await world.vault.audit_round()
    with pytest.raises(Unavailable, match="no room"):
        await store(world, "its", b"content", "its")
    assert [entry.name for entry in await world.vault.ls()] == ["name-0", "name-1"]
    assert not any(row.class_ == "its" for store_ in world.stores.values() for row in store_.shares())
    assert (await fetch(world.vault, "name-0"))[0] == pattern(3000, 0)


class Times:
    """A runtime whose time only passes in sleep."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def now_s(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if len(self.slept) == 5:
            raise asyncio.CancelledError


async def test_audits_without_end_keep_their_period_skip_what_overlaps_and_survive_outages() -> None:
    times, started = Times(), []
    told: list[AuditRound | Unavailable] = []
    takes = iter([10.0, 10.0, 150.0, 10.0, 10.0])

    async def one_round() -> AuditRound:
        started.append(times.now)
        times.now += next(takes)
        if len(started) == 2:
            raise Unavailable("the sites are away")
        return AuditRound(started_wall_s=0.0)

    with pytest.raises(asyncio.CancelledError):
        await audit_every(one_round, told.append, every_s=60.0, runtime=times)  # type: ignore[arg-type]
    assert started == [100.0, 160.0, 220.0, 400.0, 460.0]
    assert [type(each) for each in told] == [AuditRound, Unavailable, AuditRound, AuditRound, AuditRound]
    with pytest.raises(Rejected):
        await audit_every(one_round, told.append, every_s=0.0, runtime=times)  # type: ignore[arg-type]


async def test_many_objects_are_verified_in_few_exchanges_and_every_state_is_told() -> None:
    world, _ = await stored("pqc", 0)
    contents = {f"name-{number:03}": pattern(20, number) for number in range(120)}
    await world.vault.put_many(contents, class_="pqc")
    await world.vault.put_many({"secret": b"x"}, class_="its")
    await world.vault.ls()
    for link in world.links.values():
        link.seen.clear()
    tally = await world.vault.verify_many(prefix="name")
    assert (tally.objects, tally.bad, tally.short) == (120, False, False)
    assert max(len(link.seen) for link in world.links.values()) <= 8
    await falsify(world, "name-007", SITES[1])
    object_id = (await world.vault.stat("name-008")).listing.object_id
    world.stores[SITES[2]].rot(world.share_key(object_id, SITES[2]))
    object_id = (await world.vault.stat("name-009")).listing.object_id
    key = world.share_key(object_id, SITES[3])
    await world.stores[SITES[3]].transact(lambda tx: tx.delete_share(key))
    world.links[SITES[4]].down = True
    found: dict[str, Any] = {}
    tally = await world.vault.verify_many(on_found=found.__setitem__)
    away = ALL_OK | {SITES[4]: "unreachable"}
    assert found["name-007"] == away | {SITES[1]: "wrong"}
    assert found["name-008"] == away | {SITES[2]: "damaged"}
    assert found["name-009"] == away | {SITES[3]: "missing"}
    assert found["secret"] == away
    assert found["name-010"] == away
    accused = {event.fields["site"] for event in world.sink.events if event.fields.get("kind") == "share_wrong"}
    assert accused == {SITES[1]}


async def test_states_are_words_that_do_not_overlap() -> None:
    assert len({state.value for state in ShareFound}) == len(ShareFound) == 8


async def test_a_site_that_keys_do_not_reach_is_unchecked_and_not_called_unreachable() -> None:
    world, _ = await stored("its", 1)
    world.network.stock_bits[SaeId(OWNER), SaeId(f"node-{SITES[2]}")] = 0
    round_ = await world.vault.audit_round(index=False)
    assert [each.states for each in round_.findings] == [ALL_OK | {SITES[2]: "unchecked"}]
    assert (round_.bad, round_.short) == (False, True)
    assert round_.in_a_row[SiteId(SITES[2])]["silent"] == 1
