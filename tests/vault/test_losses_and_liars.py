"""Sites away and sites that lie: the right bytes or none, and the liar by name."""

from __future__ import annotations

from itertools import combinations

import pytest

from shosoin.base import ShosoinError, SiteId, Unavailable
from shosoin.kernels import element_inv, element_mul, lagrange_weights, polynomial_mac
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.layout import BodyLayout
from tests.vault.repair_support import share
from tests.vault.support import SITES, World, fetch, make_world, pattern, store

S = 2048
CLASSES = ("its", "qkd", "pqc")


async def layout_of(world: World, name: str) -> BodyLayout:
    entries = await world.vault._names.load()
    _reading, value = await world.vault._lookup.find(name)
    assert entries[name].object_id == value.register_id
    return value.bodies[0].layout


def lie(world: World, object_id: str, site: str, offset: int, size: int = 16) -> None:
    """A site that changes its share and keeps its own books in order."""
    world.stores[site].falsify(world.share_key(object_id, site), offset, b"\xa5" * size)


@pytest.mark.parametrize("class_", CLASSES)
async def test_any_n_minus_k_sites_may_be_away(class_: str, small_segments: int) -> None:
    world = make_world()
    content = pattern(3 * S + 3)
    await store(world, "object", content, class_)
    await store(world, "small", b"s", class_)
    for away in list(combinations(SITES[:5], 2))[:: 1 if class_ == "its" else 4]:
        reader = world.another_vault()
        for name in away:
            reader.links[name].down = True
        assert (await fetch(reader.vault, "object"))[0] == content
        assert (await reader.vault.get_many(["small"])) == {"small": b"s"}
        if SITES[0] not in away:
            states = (await reader.vault.verify("object")).per_site
            assert {site for site, state in states.items() if state == "unreachable"} == set(away)


async def test_one_site_too_many_away_is_unavailable_and_nothing_is_written() -> None:
    world = make_world()
    await store(world, "object", pattern(500), "pqc")
    for name in SITES[2:5]:
        world.links[name].down = True
    with pytest.raises(Unavailable):
        await fetch(world.vault, "object")
    with pytest.raises(Unavailable):
        await store(world, "object", b"other", "pqc")
    for name in SITES[2:5]:
        world.links[name].down = False
    assert (await fetch(world.vault, "object"))[0] == pattern(500)


PLACES = ["root", "page", "segment", "last segment", "index"]


@pytest.mark.parametrize("class_", ["its", "pqc"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_lying_site_is_named_wherever_it_lies(class_: str, place: str, small_segments: int) -> None:
    for liar in SITES[:1] if class_ == "its" else SITES[1:3]:  # among the first asked, so that the lie is met
        world = make_world()
        content = pattern(3 * S + 3)
        receipt = await store(world, "object", content, class_)
        layout = await layout_of(world, "object")
        offsets = {
            "root": layout.root_offset + 64,
            "page": layout.page(0)[0] + 32,
            "segment": layout.segment(0)[0],
            "last segment": layout.segment(layout.segments - 1)[0] + 16,
        }
        if place == "index":
            key = next(row.key for row in world.stores[liar].shares() if row.key.object_id != receipt.object_id)
            world.stores[liar].falsify(key, world.stores[liar].shares()[0].mask_elements * 16 + 32, b"\xa5" * 16)
        else:
            lie(world, receipt.object_id, liar, offsets[place])
        reader = world.another_vault()
        found, got = await fetch(reader.vault, "object")
        assert found == content
        assert {alarm.fields["site"] for alarm in got.alarms} == {liar}
        assert {alarm.fields["kind"] for alarm in got.alarms} == {"share_wrong"}
        if place != "index":
            states = (await reader.vault.verify("object")).per_site
            assert {site for site, state in states.items() if state == "wrong"} == {liar}


@pytest.mark.parametrize(("n", "k", "liars"), [(4, 2, 1), (5, 3, 1), (7, 3, 2), (8, 3, 2)])
async def test_f_liars_together(n: int, k: int, liars: int, small_segments: int) -> None:
    world = make_world(n, f"{k}-of-{n}")
    content = pattern(3 * S)
    receipt = await store(world, "object", content, "pqc")
    layout = await layout_of(world, "object")
    for name in SITES[:liars]:
        for offset in (layout.root_offset, layout.segment(1)[0]):
            lie(world, receipt.object_id, name, offset)
    found, got = await fetch(world.vault, "object")
    assert found == content
    assert {alarm.fields["site"] for alarm in got.alarms} == set(SITES[:liars])


async def test_liars_whose_errors_cancel_each_other_do_not_frame_the_others() -> None:
    """Home and both liars give the right bytes on a polynomial of their own, on which nobody else lies."""
    world = make_world(7, "3-of-7")
    receipt = await store(world, "a", pattern(700), "pqc")
    trio, offset = SITES[:3], (await layout_of(world, "a")).data_offset
    points = [world.context.default_scheme.points()[place] for place in range(3)]
    _, first, second = lagrange_weights(points, 0)
    error = int.from_bytes(pattern(16), "little")
    errors = {trio[1]: error, trio[2]: element_mul(element_mul(error, first), element_inv(second))}
    for site, wrong in errors.items():
        key = world.share_key(receipt.object_id, site)
        old = int.from_bytes(share(world, site, key)[offset : offset + 16], "little")
        world.stores[site].falsify(key, offset, (old ^ wrong).to_bytes(16, "little"))
    states = (await world.vault.verify("a")).per_site
    assert {str(site) for site, state in states.items() if state == "wrong"} == set(errors)
    assert (await fetch(world.vault, "a"))[0] == pattern(700)
    for site in SITES[5:7]:  # of five answers only three agree: who is wrong cannot be told, what is right can
        world.links[site].down = True
    with pytest.raises(Unavailable):
        await world.vault.verify("a")
    assert (await fetch(world.another_vault().vault, "a"))[0] == pattern(700)


async def test_k_minus_1_liars_never_get_wrong_bytes_served(small_segments: int) -> None:
    """2 liars of 5 with k = 3 is more than f, yet the MAC finds the three good ones."""
    world = make_world()
    content = pattern(3 * S)
    receipt = await store(world, "object", content, "pqc")
    layout = await layout_of(world, "object")
    for name in SITES[:2]:
        for offset in range(layout.masks, layout.total - 16, 512):
            lie(world, receipt.object_id, name, offset)
    found, got = await fetch(world.vault, "object")
    assert found == content
    assert {alarm.fields["site"] for alarm in got.alarms} == set(SITES[:2])


async def test_more_liars_than_can_be_outvoted_end_in_an_alarm(small_segments: int) -> None:
    world = make_world()
    receipt = await store(world, "object", pattern(3 * S), "pqc")
    layout = await layout_of(world, "object")
    for name in SITES[:3]:
        lie(world, receipt.object_id, name, layout.segment(2)[0])
    with pytest.raises(NotRecoverable):
        await fetch(world.vault, "object")
    # what lies before the damage is right, and a range that does not touch it is served
    assert (await fetch(world.vault, "object", length=S))[0] == pattern(3 * S)[:S]


async def test_bit_rot_and_lost_shares_are_told_apart(small_segments: int) -> None:
    world = make_world()
    content = pattern(3 * S)
    receipt = await store(world, "object", content, "pqc")
    world.stores[SITES[0]].rot(world.share_key(receipt.object_id, SITES[0]))
    key = world.share_key(receipt.object_id, SITES[1])
    await world.stores[SITES[1]].transact(lambda tx: tx.delete_share(key))
    found, got = await fetch(world.vault, "object")
    assert found == content
    assert {(alarm.fields["site"], alarm.fields["kind"]) for alarm in got.alarms} == {
        (SITES[0], "share_damaged"),
        (SITES[1], "share_missing"),
    }
    states = (await world.vault.verify("object")).per_site
    assert [states[SiteId(name)] for name in SITES[:5]] == ["damaged", "missing", "ok", "ok", "ok"]


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_a_forger_on_the_wire_is_as_good_as_away(class_: str) -> None:
    world = make_world()
    content = pattern(300)
    await store(world, "object", content, class_)
    world.links[SITES[1]].spoil = lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])
    found, got = await fetch(world.another_vault().vault, "object")
    assert found == content
    world.vault._context.memo.clear()
    found, got = await fetch(world.vault, "object")
    assert found == content
    assert all(alarm.fields["site"] == SITES[1] for alarm in got.alarms)


async def test_a_liar_who_knows_the_plaintext_cannot_shift_key_and_data_together() -> None:
    """The small object travels as data and inline MAC in one body: shift data, MAC key and tag to fit each other.

    The liar knows the plaintext and chooses new data; she also shifts tag' = tag + (mac(new) - mac(old)) for a MAC key
    that she *sets* by shifting. Without the AMD code word the root would decode with her entry.
    """
    world = make_world(5, "3-of-5")
    content = b"pay 1000 yen to Alice".ljust(64, b"\0")
    receipt = await store(world, "object", content, "pqc")
    layout = await layout_of(world, "object")
    reader = world.vault._lookup.reader((await world.vault._lookup.find("object"))[1])
    manifest = await reader.manifest()
    entry = manifest.inline[0]
    forged = b"pay 9999 yen to Mallory".ljust(64, b"\0")
    delta_data = bytes(a ^ b for a, b in zip(content, forged, strict=True))
    delta_tag = bytes(a ^ b for a, b in zip(entry.tag, polynomial_mac(entry.mac_key, forged), strict=True))
    liar, points = SITES[0], world.context.register_scheme.points()
    inverse = element_inv(lagrange_weights(list(points[:3]), 0)[0])
    key = world.share_key(receipt.object_id, liar)
    row = world.stores[liar].shares()
    content_now = bytes(world.stores[liar]._tables.contents[next(r.locator for r in row if r.key == key)])

    def shift(offset: int, delta: bytes) -> None:
        scaled = b"".join(
            element_mul(int.from_bytes(delta[at : at + 16], "little"), inverse).to_bytes(16, "little")
            for at in range(0, len(delta), 16)
        )
        old = content_now[offset : offset + len(scaled)]
        world.stores[liar].falsify(key, offset, bytes(a ^ b for a, b in zip(old, scaled, strict=True)))

    shift(layout.data_offset, delta_data)
    hex_at = _place_of(await _root_record(world, "object"), entry.tag.hex().encode())
    aligned = layout.root_offset + hex_at - hex_at % 16
    record = await _root_record(world, "object")
    new_hex = bytes(a ^ b for a, b in zip(entry.tag, delta_tag, strict=True)).hex().encode()
    window = bytearray(record)
    window[hex_at : hex_at + 32] = new_hex
    span = slice(hex_at - hex_at % 16, hex_at - hex_at % 16 + 48)
    shift(aligned, bytes(a ^ b for a, b in zip(record[span], window[span], strict=True)))
    found, got = await fetch(world.another_vault().vault, "object")
    assert found == content
    assert {alarm.fields["site"] for alarm in got.alarms} == {liar}


def _place_of(record: bytes, needle: bytes) -> int:
    place = record.find(needle)
    assert place > 0
    return place


async def _root_record(world: World, name: str) -> bytes:
    reader = world.vault._lookup.reader((await world.vault._lookup.find(name))[1])
    await reader.manifest()
    assert reader._whole is not None
    return bytes(reader._whole[reader.body.layout.data :])


async def test_a_hanging_site_is_hedged() -> None:
    world = make_world()
    content = pattern(200)
    await store(world, "object", content, "pqc")

    async def hang(link: object, header: object) -> None:
        await world.context.runtime.sleep(1000.0)

    world.links[SITES[1]].before = hang
    assert (await fetch(world.vault, "object"))[0] == content


async def test_verify_tells_when_too_much_is_wrong() -> None:
    world = make_world()
    receipt = await store(world, "object", pattern(200), "pqc")
    layout = await layout_of(world, "object")
    for name in SITES[:3]:
        lie(world, receipt.object_id, name, layout.root_offset)
    with pytest.raises(ShosoinError):
        await world.vault.verify("object")


@pytest.mark.parametrize("class_", CLASSES)
async def test_a_site_that_answers_with_another_objects_share_is_named(class_: str) -> None:
    """The bytes are genuine, of the right length and well sealed; they belong to something else."""
    world = make_world()
    await store(world, "object", pattern(900, 1), class_)
    await store(world, "other", pattern(900, 2), class_)
    site = SITES[1]  # asked at once, after the home site
    keys = {
        name: world.share_key((await world.vault.stat(name)).listing.object_id, site) for name in ("object", "other")
    }
    rows = {row.key: row for row in world.stores[site].shares()}
    other = await world.stores[site].read(rows[keys["other"]], 0, rows[keys["other"]].size_bytes)
    assert rows[keys["object"]].size_bytes == len(other)
    world.stores[site].falsify(keys["object"], 0, other)
    content, receipt = await fetch(world.vault, "object")
    assert content == pattern(900, 1)
    assert [(alarm.fields["site"], alarm.fields["kind"]) for alarm in receipt.alarms] == [(site, "share_wrong")]
    states = (await world.vault.verify("object")).per_site
    assert [name for name, state in states.items() if state == "wrong"] == [site]
    assert (await fetch(world.vault, "other"))[0] == pattern(900, 2)
