"""What the tests of repair share: shares as a dealer would have made them, wires that remember, sites that die."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import KeyMaterial, SaeId, SiteId
from shosoin.base.ports import DeliveredKey, KeySource, KeyStatus
from shosoin.kernels import combine_into, lagrange_weights, point_of
from shosoin.vault.ports import ShareKey, ShareRow, ShareState
from shosoin.vault.repair_order import Party, RepairOrder, sign_orders
from shosoin.vault.values import RegisterValue
from tests.vault.support import OWNER, SIGNER, SITES, DirectLink, World

FIVE = SITES[:5]


def rows(world: World, site: str, object_id: str | None = None) -> list[ShareRow]:
    """Records of shares at a site."""
    return [row for row in world.stores[site].shares() if object_id in {None, row.key.object_id}]


def share(world: World, site: str, key: ShareKey) -> bytes:
    """The bytes of a share, as they lie at a site."""
    tables = world.stores[site]._tables
    return bytes(tables.contents[tables.shares[key].locator])


def holds(world: World, site: str, key: ShareKey) -> bool:
    """Whether a site has a record of a share."""
    return key in world.stores[site]._tables.shares


def dealt(world: World, site: str, key: ShareKey, k: int = 3) -> bytes:
    """The share that the dealer gave, or would have given, a site: interpolated from k others."""
    others = [name for name in world.stores if name != site and holds(world, name, key)][:k]
    place = {name: index for index, name in enumerate(world.stores, start=1)}
    parts = [share(world, name, key) for name in others]
    out = bytearray(len(parts[0]))
    combine_into(lagrange_weights([point_of(place[name]) for name in others], point_of(place[site])), parts, out)
    return bytes(out)


def lose(world: World, site: str, key: ShareKey) -> None:
    """Lose a share and its record."""
    tables = world.stores[site]._tables
    tables.contents.pop(tables.shares.pop(key).locator, None)


def restart(world: World, site: str) -> None:
    """Lose all that a node keeps in memory, repairs included."""
    world.restart(site)
    repair = world.links[site].node._operations._repair
    repair.attempts._running.clear()
    repair.receiving.staged.clear()


def committed(world: World, site: str, object_id: str) -> RegisterValue:
    """The value that a site holds as committed."""
    text = next(
        row.committed_value
        for (_, register), row in world.stores[site]._tables.registers.items()
        if register == object_id
    )
    assert text is not None
    return RegisterValue.parse(text)


@dataclass
class CountedKeys:
    """A node's KME that counts: every key_ID that is drawn, and every one that is asked for."""

    inner: KeySource
    drawn: Counter[str] = field(default_factory=Counter)
    fetched: Counter[str] = field(default_factory=Counter)
    contents: dict[str, bytes] = field(default_factory=dict)
    dry: set[str] = field(default_factory=set)
    """Peers with which no key is left."""
    relayed: dict[str, list[str]] = field(default_factory=dict)
    """Relays through which the keys of a peer pass."""

    async def status(self, slave: SaeId) -> KeyStatus:
        found = await self.inner.status(slave)
        extension = {**found.extension, "shosoin_relays": self.relayed.get(slave, [])}
        stored = 0 if slave in self.dry else found.stored_key_count
        values = {name: getattr(found, name) for name in KeyStatus.__dataclass_fields__}
        return KeyStatus(**{**values, "extension": extension, "stored_key_count": stored})

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        keys = []
        for key in await self.inner.enc_keys(slave, number=number, size_bits=size_bits):
            content = key.material.take()
            self.drawn[key.key_id] += 1
            self.contents[key.key_id] = content
            keys.append(DeliveredKey(key.key_id, KeyMaterial(content), key.facts))
        return keys

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        keys = await self.inner.dec_keys(master, key_ids)
        self.fetched.update(key_ids)
        return keys


def count_keys(world: World) -> dict[str, CountedKeys]:
    """Put counters between every node and its KME."""
    counted = {}
    for name, link in world.links.items():
        repair = link.node._operations._repair
        counted[name] = repair.parts.keys = CountedKeys(repair.parts.keys)
    return counted


def no_key_twice(counted: dict[str, CountedKeys]) -> None:
    """No key was handed out twice at either end."""
    for keys in counted.values():
        assert all(count == 1 for count in keys.drawn.values())
        assert all(count == 1 for count in keys.fetched.values())


def order_for(
    world: World,
    key: ShareKey,
    target: str,
    helpers: Sequence[str],
    *,
    counted: bool = False,
    attempt: str = "ab" * 16,
    change: Callable[[RepairOrder], RepairOrder] = lambda order: order,
) -> RepairOrder:
    """An order as the owner's client would make it, or with a change."""
    value = committed(world, helpers[0], key.object_id)
    body = next(each for each in value.bodies if each.version == key.version)
    place = {name: index for index, name in enumerate(value.placement, start=1)}

    def party(name: str) -> Party:
        return Party(SiteId(name), SaeId(f"node-{name}"), place[SiteId(name)])

    return change(
        RepairOrder(
            owner=OWNER,
            object_id=key.object_id,
            version=key.version,
            epoch=key.epoch,
            class_=value.class_,
            size_bytes=body.layout.total,
            masks=body.layout.masks // 16,
            counter=value.counter,
            target=party(target),
            helpers=tuple(sorted(map(party, helpers), key=lambda each: each.x)),
            attempt=attempt,
            replaces=False,
            counted=counted,
        )
    )


@dataclass
class Hostile:
    """A coordinator that says to every site what it wants, under the owner's channels."""

    world: World
    class_: str = "its"

    async def ask(self, site: str, op: str, *, answer_bytes: int = 0, **fields: Any) -> dict[str, Any]:
        """One operation at one site; the result, with ``error`` if it was refused."""
        channel = self.world.context.channels(self.class_)[SiteId(site)]
        answer = await channel.exchange([{"op": op, **fields}], answer_bytes=answer_bytes)
        return answer.results[0]

    async def open(self, site: str, order: RepairOrder, *, signer: Any = SIGNER) -> dict[str, Any]:
        """Give a site an order."""
        (proof,) = sign_orders([order], signer)
        return await self.raw_open(site, order.text, proof, order.object_id)

    async def raw_open(self, site: str, text: Any, proof: bytes, object_id: str) -> dict[str, Any]:
        """Give a site something that may be an order."""
        return await self.ask(site, "repair_open", object=object_id, order=text, proof=base64.b64encode(proof).decode())


def code(result: dict[str, Any]) -> str:
    """The error code of a result, empty if there is none."""
    return str(result.get("error", {}).get("code", ""))


def repair_ops(header: dict[str, Any]) -> set[str]:
    """The repair operations of a request."""
    return {op["op"] for op in header.get("ops", ()) if str(op["op"]).startswith("repair_")}


def staged_anywhere(world: World) -> list[ShareRow]:
    """Shares that are recorded and that nothing counts on."""
    return [row for store in world.stores.values() for row in store.shares(ShareState.STAGED)]


@dataclass
class Wire:
    """Remembers which repair requests passed, in order."""

    passed: list[tuple[str, str]] = field(default_factory=list)

    def hook(self, link: DirectLink, header: dict[str, Any]) -> None:
        for op in sorted(repair_ops(header)):
            self.passed.append((str(link.site), op))
