"""Attacks on shares and keys that no plan of the simulation makes.

Each returns what it broke, or ``None`` if nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from shosoin.base import ObjectId, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.kernels import element_mul
from shosoin.kernels.elements import pack
from shosoin.vault.assurance import Exposed
from shosoin.vault.channel import open_channel
from shosoin.vault.commitments import combined_challenge
from shosoin.vault.ports import ShareKey
from shosoin.vault.verdicts import PolicyRefused
from tests.mutants.attacks_register import seeded
from tests.review.test_vault_attacks_review import TellingKeys
from tests.vault.repair_support import dealt, share
from tests.vault.support import OWNER, SITES, DirectLink, kinds_of, pattern, store
from tests.vault.test_policies_enforced import require

FIVE = SITES[:5]
FIXED = "0000000000000000000000000000012f"


async def chosen_challenge() -> str | None:
    """One site waits until it knows what the others opened, and opens what makes the challenge what it wants."""
    world, wanted, asked = seeded(), "00" * 16, set[str]()
    await world.vault.ls()
    seals = {name: link.node._operations._seals for name, link in world.links.items()}

    def note(_: DirectLink, header: dict[str, Any]) -> None:
        asked.update(op["r"] for op in header.get("ops", ()) if op["op"] == "digest")

    class Rushing:
        def __init__(self, key: ShareKey) -> None:
            self.others = [seals[name]._contributions[OWNER][key].opening for name in FIVE if name != FIVE[1]]

        def open_for(self, *_: Any) -> str:
            return combined_challenge([*self.others, wanted + "00" * 32]) + "00" * 32

    seals[FIVE[1]].committed = Rushing  # type: ignore[assignment]
    world.on_all(before=note)
    await store(world, "object", pattern(3000), "its")
    return f"{FIVE[1]} chose the challenge of the deal check" if wanted in asked else None


async def deal_that_fits_one_challenge() -> str | None:
    """A dealer that knows the challenge gives one site a share that fits there and nowhere else."""
    world = seeded()
    await world.vault.ls()
    r = int.from_bytes(bytes.fromhex(FIXED), "little")

    def alter(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "seal" and str(link.site) == FIVE[4]:
                key = ShareKey(OWNER, ObjectId(op["object"]), VersionId(op["version"]), op["epoch"])
                held = world.stores[FIVE[4]]._tables
                content = held.contents[held.shares[key].locator]
                at = 16 * op["masks"]
                for place, change in ((at, element_mul(r, 9)), (at + 16, 9)):  # r^m * 9r + r^(m+1) * 9 = 0
                    right = int.from_bytes(content[place : place + 16], "little")
                    world.stores[FIVE[4]].falsify(key, place, pack(right ^ change))

    world.links[FIVE[4]].after = alter
    receipt = await store(world, "object", pattern(3000), "its")
    wrong = share(world, FIVE[4], world.share_key(receipt.object_id, FIVE[4]))
    right = dealt(world, FIVE[4], world.share_key(receipt.object_id, FIVE[4]))
    if FIVE[4] in receipt.acknowledged and wrong != right:
        return f"a put is acknowledged at {FIVE[4]}, whose share lies on no polynomial with the others"
    return None


async def wrong_share_at_a_put() -> str | None:
    """One site alters its share when it seals it."""
    world = seeded()
    await world.vault.ls()

    def alter(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "seal":
                key = ShareKey(OWNER, ObjectId(op["object"]), VersionId(op["version"]), op["epoch"])
                world.stores[str(link.site)].falsify(key, 1024, b"lie")

    world.links[FIVE[4]].after = alter
    receipt = await store(world, "object", pattern(3000), "its")
    return f"a put is acknowledged at {FIVE[4]}, which altered its share" if FIVE[4] in receipt.acknowledged else None


async def put_below_its_policy() -> str | None:
    """The policy asks for five sites, and one takes no share."""
    world = seeded()
    require(world, "durable >= 5")
    await world.vault.ls()
    world.links[FIVE[3]].down = True
    with suppress(PolicyRefused):
        await store(world, "name", b"content", "pqc")
    known = [store_._tables.registers for store_ in world.stores.values()]
    value = any(row.committed_value is not None for rows in known for row in rows.values())
    return "a version that its policy refuses was committed" if value else None


async def relay_that_sees_two_links() -> str | None:
    """One relay sees the keys of two sites: with one site more it opens a 3-of-5 object."""
    world = seeded()
    await store(world, "before", b"content", "its")
    world.context.keys = TellingKeys(world.keys, {FIVE[3]: ["relay-1"], FIVE[4]: ["relay-1"]})
    try:
        receipt = await store(world, "name", b"content", "its")
    except Exposed:
        return None
    both = {FIVE[3], FIVE[4]} <= set(map(str, receipt.acknowledged))
    return "one relay and one site hold the keys of three shares" if both else None


async def share_read_under_another_class() -> str | None:
    """Whoever has the owner's certificate and none of its keys asks for a share of class its under class pqc."""
    world = seeded()
    receipt = await store(world, "name", pattern(300), "its")
    key = world.share_key(receipt.object_id, FIVE[1])
    read = {"op": "read", "object": key.object_id, "version": key.version, "epoch": key.epoch, "offset": 0, "size": 256}
    where = next(one for one in world.context.sites if one.name == FIVE[1])
    channel = open_channel("pqc", where.link, owner=OWNER, node=where.node, home=world.context.home, keys=world.keys)
    answer = await channel.exchange([read], answer_bytes=256)
    if bytes(answer.payload) == share(world, FIVE[1], key)[:256]:
        return "a share of class its travels under a key exchange"
    return None


async def commit_that_reaches_one_site() -> str | None:
    """A put is certified, its commit reaches one site alone, and the put fails; a reader then finds the certificate."""
    world = seeded()
    await world.vault.ls()

    def lose_commits(link: DirectLink, header: dict[str, Any]) -> None:
        if "commit" in kinds_of(header) and link.site != FIVE[1]:
            raise Unavailable("lost on the way")

    world.on_all(before=lose_commits)
    with suppress(ShosoinError):
        await store(world, "name", pattern(300), "pqc")
    object_id = next(str(row.key.object_id) for row in world.stores[FIVE[1]].shares())
    world.on_all()
    context = world.another_vault().context
    value = (await context.catalog.read(context.channels("pqc"), ObjectId(object_id))).value
    if value is None:
        return None
    held = [site for site in FIVE if any(str(row.key.object_id) == object_id for row in world.stores[site].shares())]
    return f"a certified version has {len(held)} shares left" if len(held) < value.scheme.k else None


async def two_epochs_of_one_version() -> str | None:
    """A site is given shares of two epochs of a version, and asked for the second."""
    world = seeded()
    channel = world.context.channels("pqc")[SiteId(FIVE[1])]
    contents = [pattern(512, epoch) for epoch in range(2)]
    where: dict[str, Any] = {"object": "ab" * 16, "version": "cd" * 16}
    for epoch, content in enumerate(contents):
        write = {"op": "write", **where, "epoch": epoch, "offset": 0, "size": len(content)}
        seal = {"op": "seal", **where, "epoch": epoch, "size": len(content), "x": 2, "k": 3, "masks": 16}
        await channel.exchange([write, seal], [content])
    read = {"op": "read", **where, "epoch": 1, "offset": 0, "size": 512}
    answer = await channel.exchange([read], answer_bytes=512)
    return "a share of one epoch is given for another" if bytes(answer.payload) != contents[1] else None
