"""Attacks on the registers that came through: each test says what must hold."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters.owner import load_owner_config
from shosoin.base import ObjectId, SiteId, Unavailable, VersionId
from shosoin.vault.acceptor import Certified
from shosoin.vault.attestations import Certificate, SignatureSet
from shosoin.vault.catalog import PROVEN, UNPROVEN, Proposal
from shosoin.vault.index import index_register
from shosoin.vault.ports import RegisterRow
from shosoin.vault.signing import SIGNATURE_BYTES
from shosoin.vault.values import ValueDraft, sign_values
from tests.vault.support import (
    OWNER,
    SIGNER,
    SITES,
    DirectLink,
    Signed,
    World,
    failing,
    fetch,
    make_world,
    reached,
    store,
)
from tests.vault.test_moving import configured
from tests.vault.test_register_liars import (
    Liar,
    alarms,
    down,
    register_of,
    roll_back,
    says_nothing_is_there,
    snapshot_of,
)

A, B, C, D, E, F = SITES[:6]


async def speak(world: World, site: str, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return (await world.context.channels("pqc")[SiteId(site)].exchange(operations)).results


async def promise(world: World, site: str, register: ObjectId, round_number: int) -> None:
    """What a writer leaves that got no further than one site, in a later round of its own."""
    (result,) = await speak(world, site, [{"op": "prepare", "register": register, "ballot": [round_number, "z"]}])
    assert result["granted"] is True


# ------------------------------------------------------------------------------------------------------------ blocking


@pytest.mark.parametrize(("n", "scheme"), [(4, "2-of-4"), (5, "3-of-5"), (7, "3-of-7")])
async def test_one_site_that_promised_more_and_one_that_is_away_do_not_block_a_writer(n: int, scheme: str) -> None:
    world = make_world(n, scheme)
    await store(world, "name", b"old", "pqc")
    away = SITES[n - (n - world.context.register_scheme.write_quorum) : n]
    register = await register_of(world, "name")
    await promise(world, C, register, 40)
    writer = world.another_vault()
    down(writer, *away)
    await store(writer, "name", b"new", "pqc")
    assert (await fetch(world.vault, "name"))[0] == b"new"


# ---------------------------------------------------------------------------------------------------- replacing a site


def without(world: World, *sites: str) -> World:
    """A client in whose configuration these sites are not."""
    client = configured(world)
    client.context.sites = tuple(site for site in client.context.sites if site.name not in sites)
    return client


def cut_commits(world: World, *sites: str) -> None:
    """These sites accept, and never hear that it was certified."""
    for site in sites:
        world.links[site].before = failing("commit")


async def test_a_client_of_the_new_members_finds_what_a_quorum_of_the_old_ones_holds() -> None:
    """No liar: one site of three is dead, another is away for a moment, the new one knows nothing."""
    world = make_world(4, "2-of-3")
    before = without(world, D)
    cut_commits(before, A)
    receipt = await store(before, "name", b"content", "pqc")
    assert len(receipt.acknowledged) == 3
    after = configured(world, C)
    down(after, B, C)
    with contextlib.suppress(Unavailable):
        await store(after, "other", b"another", "pqc")
    down(after, C)
    assert (await fetch(after.vault, "name"))[0] == b"content"
    assert "name" in [entry.name for entry in await after.vault.ls()]


async def test_a_name_is_not_proven_missing_by_new_members_who_never_knew_it() -> None:
    world = make_world(4, "2-of-3")
    before = without(world, D)
    cut_commits(before, A)
    await store(before, "name", b"content", "pqc")
    after = configured(world, C)
    down(after, B, C)
    channels = after.context.channels("pqc")
    reading = await after.context.catalog.read(channels, index_register(OWNER, "pqc"))
    assert reading.value is not None or reading.freshness != PROVEN


async def test_a_site_rolled_back_and_one_replaced_do_not_start_an_index_anew() -> None:
    world = make_world(5, "2-of-4")
    before = without(world, E)
    cut_commits(before, C)
    await store(before, "name", b"content", "pqc")
    after = configured(world, D)
    roll_back(world, A, ({}, {}))
    down(after, B, D)
    with contextlib.suppress(Unavailable):
        await store(after, "other", b"another", "pqc")
    down(after, D)
    assert "name" in [entry.name for entry in await after.vault.ls()]


# ------------------------------------------------------------------------------------------------------ false accusers


async def test_a_site_that_answered_before_it_accepted_is_not_accused() -> None:
    """A reader asks one site before, and another after, a writer came through."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    reader, writer = world.another_vault(), world.another_vault()
    await reader.vault.ls()
    early, written = asyncio.Event(), asyncio.Event()
    answered: set[str] = set()

    def about(header: dict[str, Any]) -> bool:
        return any(op["op"] == "register" and op.get("register") == register for op in header.get("ops", ()))

    async def late(link: DirectLink, header: dict[str, Any]) -> None:
        if about(header):
            await written.wait()

    def note(link: DirectLink, header: dict[str, Any]) -> None:
        if about(header):
            answered.add(link.site)
            if {A, B} <= answered:
                early.set()

    for site in (C, D, E):
        reader.links[site].before = late
    for site in (A, B):
        reader.links[site].after = note
    getting = asyncio.create_task(fetch(reader.vault, "name"))
    await reached(early, getting)
    await store(writer, "name", b"new", "pqc")
    written.set()
    assert (await getting)[0] in (b"old", b"new")
    assert not alarms(world, "register_denied")


# ------------------------------------------------------------------------------------------------ repairs and writers


async def test_a_change_of_the_site_part_that_was_overtaken_is_not_called_done() -> None:
    """Else a repair says that the register counts on its share, and it does not."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    channels = world.context.channels("pqc")
    old = (await world.context.catalog.read(channels, register)).value
    assert old is not None
    await store(world, "name", b"new", "pqc")
    changed = old.with_bodies(old.bodies)
    (outcome,) = await world.context.catalog.propose(channels, [Proposal(register, changed, fresh=False)])
    assert not outcome.done
    assert outcome.error is not None


async def test_a_value_whose_site_part_was_changed_meanwhile_came_to_be() -> None:
    """The writer lost its answers; a repair changed the site part of what it wrote before it asked again."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    channels = world.context.channels("pqc")
    first = (await world.context.catalog.read(channels, register)).value
    assert first is not None
    (again,) = await world.context.catalog.propose(
        channels, [Proposal(register, first.with_bodies(first.bodies), fresh=False)]
    )
    assert again.done
    (outcome,) = await world.context.catalog.propose(channels, [Proposal(register, first, fresh=False)])
    assert outcome.done
    assert outcome.error is None


# ----------------------------------------------------------------------------------------------- too few, not missing


async def test_what_too_few_sites_do_not_know_is_unavailable_rather_than_missing() -> None:
    world = make_world(5, "2-of-5")
    writer = world.another_vault()
    writer.links[E].down = True
    await store(writer, "name", b"content", "pqc")
    Liar(world, D, says_nothing_is_there)
    reader = world.another_vault()
    down(reader, A, B, C)
    with pytest.raises(Unavailable):
        await fetch(reader.vault, "name")
    with pytest.raises(Unavailable):
        await reader.vault.ls()


# -------------------------------------------------------------------------------------------------------- long answers


async def test_signatures_that_nobody_made_are_not_passed_on() -> None:
    """A liar blows its sets up; readers give them to truthful sites, whose answers are then too long to be sent."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    row = world.stores[A]._tables.registers[OWNER, register]
    text = str(row.committed_value)
    held = SignatureSet.parse(world.stores[A]._tables.signatures[str(row.signature_set)])
    junk = {SiteId(f"nobody-{number}"): bytes(SIGNATURE_BYTES) for number in range(58)}
    padded = SignatureSet.of({**held.signatures, **junk})
    certificate = replace(Certificate.parse(row.certificate), set_name=padded.name).text
    for site in SITES[1:5]:
        del world.stores[site]._tables.registers[OWNER, register]
    world.stores[A]._tables.registers[OWNER, register] = replace(
        row, certificate=certificate, signature_set=padded.name
    )
    world.stores[A]._tables.signatures[padded.name] = padded.text
    reader = world.another_vault()
    reading = await reader.context.catalog.read(reader.context.channels("pqc"), register)
    assert reading.value is not None
    assert reading.value.text == text
    for site in SITES[1:5]:
        kept = world.stores[site]._tables.registers[OWNER, register]
        assert kept.committed_value == text
        assert len(world.stores[site]._tables.signatures[str(kept.signature_set)]) < 2 * len(held.text)


async def test_many_registers_with_signatures_of_their_own_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen sites are allowed; a set of theirs takes 70 KB, and a batch of reads asks for 64 of them."""
    from tests.vault import support

    names = (*SITES, *(f"site-{number}" for number in range(len(SITES), 16)))
    signers = {SiteId(name): support.SiteSigner(name.encode().ljust(32)) for name in names}
    keys = {name: signer.public_key for name, signer in signers.items()}
    for field, value in (("SITES", names), ("SITE_SIGNERS", signers), ("SITE_KEYS", keys)):
        monkeypatch.setattr(support, field, value)
    world = make_world(16, "5-of-16")
    members = world.context.members
    ids = [ObjectId(f"{number:032x}") for number in range(1, 65)]
    drafts = [
        ValueDraft(
            kind="object",
            register_id=register,
            owner=OWNER,
            version=VersionId(register),
            parent=None,
            scheme=world.context.register_scheme,
            class_="pqc",
            placement=members,
            electorate=world.context.electorate,
            bodies=(),
            added=0,
            created_wall_s=1.0,
            facts={"domains": {site: [f"operator-{site}"] for site in members}},
        )
        for register in ids
    ]
    for value in sign_values(drafts, SIGNER):
        certified: Certified = Signed(value.register_id).certified((1, "a"), value, members)
        row = RegisterRow(
            promised=(1, "a"),
            accepted_ballot=(1, "a"),
            committed_ballot=(1, "a"),
            committed_value=value.text,
            certificate=certified.certificate.text,
            signature_set=certified.signatures.name,
        )
        for site in members:
            tables = world.stores[site]._tables
            tables.registers[OWNER, value.register_id] = row
            tables.signatures[certified.signatures.name] = certified.signatures.text
    readings = await world.context.catalog.read_many(world.context.channels("pqc"), ids)
    assert [reading.freshness for reading in readings] == [PROVEN] * len(ids)
    assert all(reading.value is not None for reading in readings)


# ------------------------------------------------------------------------------------------------------- dead and gone


async def test_what_a_dead_site_signed_counts_while_it_is_kept_as_retired(tmp_path: Path) -> None:
    """One site was away when the object was written, another died since. Without its key nothing could be checked."""
    fields = "node = 'n'\nurl = 'u'\nserver_name = 's'\ndomain = 'd'\nsigning_public_key = 'k'\n"
    tables = "[owner]\nid = 'owner-1'\nsite = 'a'\ncertificate = 'c'\nkey = 'k'\nsigning_key = 's'\nstate = 't'\n"
    tables += "[kme]\nid = 'k'\nurl = 'u'\nserver_name = 's'\nca = 'c'\n[nodes]\nca = 'c'\n"
    for name, more in (("a", ""), ("b", ""), ("c", ""), ("d", "retired = true\n")):
        tables += f"[[site]]\nname = '{name}'\n{fields}{more}"
    tables += "[defaults]\nscheme = '2-of-3'\nclass = 'its'\n"
    (tmp_path / "owner.toml").write_text(tables)
    assert [site.retired for site in load_owner_config(tmp_path / "owner.toml").sites] == [False] * 3 + [True]
    world = make_world(6, "3-of-5")
    before = without(world, F)
    before.links[E].down = True
    await store(before, "name", b"content", "pqc")
    after = configured(world, D)
    down(after, D)
    assert (await fetch(after.vault, "name"))[0] == b"content"


async def test_a_name_that_an_old_index_does_not_know_is_not_called_missing() -> None:
    """Two sites answer: one was away when the name was made, one was rolled back since."""
    world = make_world(5, "2-of-5")
    await store(world, "first", b"first", "pqc")
    writer = world.another_vault()
    writer.links[E].down = True
    before = snapshot_of(world, D)
    await store(writer, "second", b"second", "pqc")
    roll_back(world, D, before)
    reader = world.another_vault()
    down(reader, A, B, C)
    with pytest.raises(Unavailable):
        await fetch(reader.vault, "second")
    content, receipt = await fetch(reader.vault, "first")
    assert (content, receipt.freshness) == (b"first", UNPROVEN)


async def test_an_index_that_was_proven_once_is_not_proven_for_ever() -> None:
    world = make_world(5, "2-of-5")
    await store(world, "name", b"content", "pqc")
    reader = world.another_vault()
    assert (await fetch(reader.vault, "name"))[1].freshness == PROVEN
    down(reader, A, B, C)
    await reader.vault._names.load(whole=False)
    assert {state.freshness for state in reader.vault._names.states.values() if state.value} == {UNPROVEN}


async def test_a_site_that_was_wiped_takes_what_comes_late_in_the_life_of_a_register() -> None:
    """Every commit of an index takes another round; after 65,536 of them an empty site was too far behind for ever."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    register = index_register(OWNER, "pqc")
    for round_number in range(60_000, 300_001, 60_000):
        for site in SITES[:5]:
            await promise(world, site, register, round_number)
    await store(world, "name", b"new", "pqc")
    roll_back(world, C, ({}, {}))
    await store(world, "other", b"other", "pqc")
    await store(world, "third", b"third", "pqc")
    rows = [world.stores[site]._tables.registers[OWNER, register] for site in SITES[:5]]
    assert len({row.committed_value for row in rows}) == 1
    assert rows[2].accepted_ballot == rows[0].accepted_ballot
