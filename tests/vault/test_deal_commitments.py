"""The deal check: nobody chooses the challenge, refusals name their cause, and the masks hide what they must."""

from __future__ import annotations

import random
from typing import Any

import pytest

from shosoin.adapters.entropy import SystemEntropy
from shosoin.base import ObjectId, Rejected, SiteId, Unavailable, VersionId
from shosoin.kernels import Digest, element_inv, element_mul, element_pow, lagrange_weights, point_of, split_into
from shosoin.vault.commitments import Contribution, combined_challenge, is_commitment, opens
from shosoin.vault.deal_check import DealInconsistent
from shosoin.vault.layout import ANSWERS_PER_EPOCH, mask_elements
from shosoin.vault.ports import ShareKey
from shosoin.vault.scheme import Scheme
from tests.vault.support import OWNER, SITES, DirectLink, World, kinds_of, make_world, pattern, store

KEY = ShareKey(OWNER, ObjectId("1" * 32), VersionId("2" * 32), 0)
SITE = SiteId(SITES[1])


def test_a_commitment_opens_to_what_was_committed_alone_and_at_its_place_alone() -> None:
    mine, other = Contribution.fresh(SystemEntropy()), Contribution.fresh(SystemEntropy())
    told = mine.commitment(KEY, SITE)
    assert is_commitment(told)
    assert opens(mine.opening, told, KEY, SITE)
    assert not opens(other.opening, told, KEY, SITE)
    assert not opens(mine.opening, told, KEY, SiteId(SITES[2]))
    assert not opens(mine.opening, told, ShareKey(OWNER, KEY.object_id, KEY.version, 1), SITE)
    for junk in (None, "", "zz", mine.opening[:-1], mine.opening.upper(), 7):
        assert not opens(junk, told, KEY, SITE)
    assert mine.opening[:32] not in told


def test_a_contribution_is_opened_for_one_set_of_commitments() -> None:
    mine = Contribution.fresh(SystemEntropy())
    told = mine.commitment(KEY, SITE)
    first = {SITES[0]: "a" * 96, SITES[1]: told}
    assert mine.open_for(first, KEY, SITE) == mine.opening == mine.open_for(dict(first), KEY, SITE)
    for other in (
        {**first, SITES[0]: "b" * 96},
        {SITES[1]: told},
        {SITES[0]: "a" * 96},
        {},
        None,
        [told],
        {SITES[1]: told, "\ud800": "a" * 96},
        {SITES[1]: told, "x": {}},
    ):
        with pytest.raises(Rejected):
            mine.open_for(other, KEY, SITE)


def listen(world: World) -> list[tuple[str, str]]:
    """Record which site was asked for what, in order."""
    seen: list[tuple[str, str]] = []
    world.on_all(before=lambda link, header: seen.extend((kind, str(link.site)) for kind in kinds_of(header)))
    return seen


async def test_no_site_opens_before_all_have_committed() -> None:
    world = make_world()
    await world.vault.ls()
    seen = listen(world)
    await store(world, "object", pattern(3000), "its")
    kinds = [kind for kind, _ in seen]
    first_open = kinds.index("open")
    sealed = {site for kind, site in seen[:first_open] if kind == "seal"}
    assert sealed == set(SITES[:5])
    assert kinds[: kinds.index("digest")].count("open") == 5


async def test_a_site_that_waits_for_the_others_cannot_choose_the_challenge() -> None:
    """It knows all other contributions before it opens its own, and opens what makes r the value it wants."""
    world, wanted = make_world(), "00" * 16
    seals = {name: link.node._operations._seals for name, link in world.links.items()}
    challenges: list[str] = []
    world.on_all(
        before=lambda _, header: challenges.extend(op["r"] for op in header.get("ops", ()) if op["op"] == "digest")
    )

    class Rushing:
        def __init__(self, key: ShareKey) -> None:
            self.others = [seals[name]._contributions[OWNER][key].opening for name in SITES[:5] if name != SITES[1]]

        def open_for(self, *_: Any) -> str:
            opening = combined_challenge([*self.others, wanted + "00" * 32]) + "00" * 32
            assert combined_challenge([*self.others, opening]) == wanted  # without commitments it would win
            return opening

    seals[SITES[1]].committed = Rushing  # type: ignore[assignment]
    receipt = await store(world, "object", pattern(3000), "its")
    assert challenges
    assert wanted not in challenges
    assert {(alarm.fields["site"], alarm.fields["kind"]) for alarm in receipt.alarms} == {
        (SITES[1], "contribution_changed")
    }
    assert SITES[1] not in receipt.acknowledged


async def test_a_site_that_withholds_its_opening_is_left_out() -> None:
    world = make_world()

    def fail(link: DirectLink, header: dict[str, Any]) -> None:
        if "open" in kinds_of(header):
            raise Unavailable("no answer")

    world.links[SITES[3]].before = fail
    receipt = await store(world, "object", pattern(3000), "its")
    assert receipt.acknowledged == [site for site in SITES[:5] if site != SITES[3]]


async def test_another_class_cannot_open_what_class_its_committed_to() -> None:
    world = make_world()
    taken: list[dict[str, Any]] = []
    world.on_all(before=lambda _, header: taken.extend(op for op in header.get("ops", ()) if op["op"] == "open"))
    await store(world, "object", pattern(300), "its")
    (result,) = (await world.context.channels("pqc")[SiteId(SITES[1])].exchange([taken[0]])).results
    assert result["error"]["code"] == "vault.wrong_class"


def alter_at_seal(world: World, *sites: str) -> None:
    """Make sites alter their share of the next object when they have sealed it."""

    def alter(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "seal" and str(link.site) in sites:
                key = ShareKey(OWNER, ObjectId(op["object"]), VersionId(op["version"]), op["epoch"])
                world.stores[str(link.site)].falsify(key, 1024, str(link.site).encode().ljust(16)[:16])

    world.on_all(after=alter)


async def test_a_refused_deal_names_sites_and_causes_and_leaves_nothing_behind() -> None:
    world = make_world()
    await world.vault.ls()
    alter_at_seal(world, SITES[1], SITES[4])
    with pytest.raises(DealInconsistent) as caught:
        await store(world, "object", pattern(3000), "its")
    message = caught.value.message
    assert "its share is key bits" in message.split(SITES[1], 1)[1].split(";", 1)[0]
    assert "came under an authenticated pad" in message.split(SITES[4], 1)[1]
    assert SITES[0] not in message
    assert [event.name for event in world.sink.events] == ["vault.deal_refused"]
    for name, held in world.stores.items():
        assert held.shares() == [], name
        assert held.staged == 0
    world.on_all()
    assert await world.vault.ls() == []
    assert (await store(world, "object", pattern(3000), "its")).durable_at == 5


@pytest.mark.parametrize(("site", "cause"), [(SITES[1], "keys_differ"), (SITES[4], "share_altered")])
async def test_an_alarm_says_why_a_share_can_be_wrong(site: str, cause: str) -> None:
    world = make_world()
    alter_at_seal(world, site)
    receipt = await store(world, "object", pattern(3000), "its")
    causes = {(alarm.fields["site"], alarm.fields["kind"], alarm.fields["cause"]) for alarm in receipt.alarms}
    assert causes == {(site, "deal_wrong", cause)}


@pytest.mark.parametrize("class_", ["qkd", "pqc"])
async def test_the_other_classes_check_their_deals_when_asked_to(class_: str) -> None:
    world = make_world()
    alter_at_seal(world, SITES[2])
    assert (await store(world, "object", pattern(3000), class_)).alarms == []
    receipt = await store(world, "object", pattern(3000), class_, deal_check=True)
    assert {alarm.fields["site"] for alarm in receipt.alarms} == {SITES[2]}
    assert receipt.acknowledged == [site for site in SITES[:5] if site != SITES[2]]
    contents = {f"name-{number}": pattern(100, number) for number in range(20)}
    await world.vault.ls()
    world.on_all()
    for link in world.links.values():
        link.seen.clear()
    await world.vault.put_many(contents, class_=class_, deal_check=True)
    kinds = [kind for raw in world.links[SITES[1]].seen for kind in (b'"op":"open"', b'"op":"digest"') if kind in raw]
    assert kinds == [b'"op":"open"', b'"op":"digest"']  # one exchange each for all of them


# ------------------------------------------------------------------------------ what masks hide, and what one does not

K, N = 3, 5


def deal(body: list[int], rng: random.Random) -> list[list[int]]:
    """Share a body (masks first) and return the shares of all sites."""
    raw = [value.to_bytes(16, "little") for value in body]
    coefficients = [rng.randbytes(16 * len(body)) for _ in range(K - 1)]
    shares = [bytearray(16 * len(body)) for _ in range(N)]
    split_into(b"".join(raw), coefficients, [point_of(at + 1) for at in range(N)], shares)
    return [[int.from_bytes(share[at : at + 16], "little") for at in range(0, len(share), 16)] for share in shares]


def answer(share: list[int], r: int) -> int:
    digest = Digest(r.to_bytes(16, "little"))
    digest.update(b"".join(value.to_bytes(16, "little") for value in share))
    return int.from_bytes(digest.finish(), "little")


def solve(rows: list[list[int]]) -> tuple[list[list[int]], int]:
    """Bring rows (unknowns, then one constant) into echelon form; return them and the rank."""
    rows, rank, width = [list(row) for row in rows], 0, len(rows[0]) - 1
    for column in range(width):
        pivot = next((at for at in range(rank, len(rows)) if rows[at][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        inverse = element_inv(rows[rank][column])
        rows[rank] = [element_mul(inverse, value) for value in rows[rank]]
        for at, row in enumerate(rows):
            if at != rank and row[column]:
                factor = row[column]
                rows[at] = [value ^ element_mul(factor, kept) for value, kept in zip(row, rows[rank], strict=True)]
        rank += 1
    return rows, rank


def equations(liars: tuple[int, ...], asked: list[tuple[int, int]], masks: int) -> list[list[int]]:
    """What the answers (site, r) of honest sites say about body elements, given the liars' own shares.

    An element of an honest site's share is an affine function of the body's element, whose slope is the Lagrange weight
    of 0 among 0 and the liars' points; the unknowns are the body's elements: masks, then one of data.
    """
    rows = []
    for site, r in asked:
        points = [0, *(point_of(liar + 1) for liar in liars)]
        slope = lagrange_weights(points, point_of(site + 1))[0]
        rows.append([element_mul(slope, element_pow(r, at)) for at in range(masks + 1)] + [0])
    return rows


def two_challenges_to_two_sites(masks: int) -> tuple[int, int | None]:
    """The attack: two lying sites and an auditor ask honest site 3 for r1 and honest site 4 for r2."""
    rng = random.Random(masks)
    secret = rng.getrandbits(128)
    body = [*(rng.getrandbits(128) for _ in range(masks)), secret]
    shares, liars = deal(body, rng), (1, 2)
    asked = [(3, rng.getrandbits(128)), (4, rng.getrandbits(128))]
    rows = equations(liars, asked, masks)
    for row, (site, r) in zip(rows, asked, strict=True):
        points = [0, *(point_of(liar + 1) for liar in liars)]
        weights = lagrange_weights(points, point_of(site + 1))
        known = 0
        for weight, liar in zip(weights[1:], liars, strict=True):
            known ^= element_mul(weight, answer(shares[liar], r))
        row[-1] = answer(shares[site], r) ^ known
    solved, _ = solve(rows)
    exact = [row for row in solved if row[masks] and not any(row[:masks])]
    return secret, exact[0][-1] if exact else None


def test_with_one_mask_two_challenges_to_two_sites_give_sixteen_bytes_away() -> None:
    secret, found = two_challenges_to_two_sites(masks=1)
    assert found == secret


def test_with_our_masks_the_same_attack_finds_nothing() -> None:
    _, found = two_challenges_to_two_sites(mask_elements(Scheme(K, N)))
    assert found is None


@pytest.mark.parametrize("masks_less", [0, 1])
def test_all_answers_of_an_epoch_to_all_coalitions_leave_the_data_free_and_one_mask_less_would_not(
    masks_less: int,
) -> None:
    """Every honest site answers T challenges, all different: exactly what U = (n-k+1)*T masks hide.

    The data is free iff the unit vector of its element is no combination of the equations.
    """
    scheme = Scheme(2, 3)
    masks = mask_elements(scheme) - masks_less
    rng = random.Random(5)
    honest, rows = range(scheme.n - scheme.k + 1), []
    for site in honest:
        for _ in range(ANSWERS_PER_EPOCH):
            slope, r = point_of(site + 1), rng.getrandbits(128)
            rows.append([element_mul(slope, element_pow(r, at)) for at in range(masks + 1)] + [0])
    solved, rank = solve(rows)
    tells = [row for row in solved if row[masks] and not any(row[:masks])]
    assert rank == len(rows) == len(honest) * ANSWERS_PER_EPOCH
    assert bool(tells) == bool(masks_less)
