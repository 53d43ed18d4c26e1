"""Another owner who knows every ID of the first one's and asks for all of it.

Sites keep owners apart by who connects. So an honest site gives mallory nothing of the other owner's: no byte of a
share, no digest, no value, no certificate; and nothing she does changes what is the other's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from shosoin.base import ShosoinError, SiteId
from shosoin.kernels import ELEMENT_BYTES
from shosoin.testing.simulation.attacks import MALLORY_NAME
from shosoin.testing.simulation.hostile_clients import Deed, HostileClient, where
from shosoin.testing.simulation.parties import MALLORY, OWNER
from shosoin.testing.simulation.world import World
from shosoin.vault import Vault
from shosoin.vault.channel import EXCHANGE_PATH
from shosoin.vault.context import CLASSES
from shosoin.vault.envelope import MalformedEnvelope, canonical_json, cut, join, parse_json
from shosoin.vault.ports import Buffer, ShareKey
from shosoin.vault.putting import BytesSource

__all__ = ["Mallory"]

_OF_SHARES = {"read", "digest", "open", "seal"}
"""Operations that succeed only where there is such a share."""


class Mallory(HostileClient):
    """The other owner."""

    def __init__(self, world: World) -> None:
        super().__init__(world, MALLORY_NAME, MALLORY, world.plan.attacks)

    async def try_all(
        self, kind: str, site: SiteId, operations: Sequence[dict[str, Any]], payload: bytes = b"", room: int = 0
    ) -> None:
        """Ask one site under a class that comes to hand, and judge what it says."""
        answer = await self.exchange(self.rng.choice(CLASSES), site, operations, payload, room)
        self.happened(kind)
        if self.is_honest(site):
            for op, result in zip(operations, answer.results, strict=False):
                self.judge(site, op, result)
            self.judge_bytes(site, answer.payload)

    def judge(self, site: SiteId, op: dict[str, Any], result: dict[str, Any]) -> None:
        """Judge what an honest site said to an operation."""
        mine = {_named(row.key) for at, row in self.shares(MALLORY) if at == site}
        kind = str(op["op"])
        if kind in _OF_SHARES and "error" not in result and _named_by(op) not in mine:
            self.violate(f"was answered a {kind} of another owner's share by honest {site}")
        if kind == "inventory" and any(tuple(entry[:3]) not in mine for entry in result.get("shares", [])):
            self.violate(f"was told of another owner's share by honest {site}")
        if kind == "erase" and result.get("erased"):
            self.violate(f"erased {result['erased']} shares at honest {site}")
        if kind == "take" and "error" not in result:
            self.violate(f"took another owner's keys at honest {site}")
        if secret := self._register_texts() & set(_texts(result)):
            self.violate(f"was told a register's value by honest {site}: {len(secret)} texts")

    def judge_bytes(self, site: SiteId, payload: Buffer) -> None:
        """Look for any element of any share of the other owner in what came."""
        got = bytes(payload)
        if len(got) < ELEMENT_BYTES:
            return
        theirs = {
            content[at : at + ELEMENT_BYTES]
            for where_, row in self.shares(OWNER)
            for content in [self.world.disks[where_].content(row)]
            for at in range(0, len(content), ELEMENT_BYTES)
        }
        if any(got[at : at + ELEMENT_BYTES] in theirs for at in range(0, len(got), ELEMENT_BYTES)):
            self.violate(f"got bytes of another owner's share from honest {site}")

    def _register_texts(self) -> set[str]:
        """Return every text that tells something of the other owner's registers."""
        rows = [row for disk in self.world.disks.values() for owner, _, row in disk.registers() if owner == OWNER]
        texts = {text for row in rows for text in (row.committed_value, row.accepted_value, row.certificate)}
        return {text for text in texts | {row.signature_set for row in rows} if text}

    def target(self) -> tuple[SiteId, ShareKey] | None:
        """Choose a share of the other owner's and a site."""
        found = self.shares(OWNER)
        if not found:
            return None
        site, row = self.rng.choice(found)
        return SiteId(site), row.key


def _named(key: ShareKey) -> tuple[str, str, int]:
    return key.object_id, key.version, key.epoch


def _named_by(op: dict[str, Any]) -> tuple[Any, Any, Any]:
    return op.get("object"), op.get("version"), op.get("epoch", 0)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


async def _theft(mallory: Mallory) -> None:
    """Read shares, have digests of them computed, list them, and ask for openings and audits."""
    if (chosen := mallory.target()) is None:
        return
    site, key = chosen
    share = where(key)
    r = mallory.rng.pseudo_bytes(ELEMENT_BYTES).hex()
    operations = [
        {"op": "read", **share, "offset": mallory.rng.choice((0, 16, 640)), "size": 64},
        {"op": "digest", **share, "r": r},
        {"op": "audits", **share},
        {"op": "open", **share, "commitments": {str(site): "0" * 96}},
        {"op": "inventory", "after": "", "limit": 1000},
    ]
    await mallory.try_all("theft", site, operations, room=64 + ELEMENT_BYTES)


async def _registers(mallory: Mallory) -> None:
    """Read, promise, accept and commit under the other owner's register IDs, with its own signed values."""
    histories = list(mallory.world.notary.history.items())
    if not histories:
        return
    register, seen = mallory.rng.choice(histories)
    newest = list(seen.values())[-1]
    ballot = [mallory.rng.integer(2, 90), "mallory"]
    operations: list[dict[str, Any]] = [
        {"op": "register", "register": register},
        {"op": "prepare", "register": register, "ballot": ballot},
        {"op": "accept", "register": register, "ballot": ballot, "value": newest.value.text},
        {"op": "signatures", "text": newest.signatures.text},
        newest.operation(),
        {"op": "register", "register": register},
    ]
    await mallory.try_all("registers", mallory.rng.choice(mallory.sites), operations)


async def _erasure(mallory: Mallory) -> None:
    """Erase and abort what is not hers."""
    if (chosen := mallory.target()) is None:
        return
    site, key = chosen
    operations: list[dict[str, Any]] = [{"op": "erase", "object": key.object_id}, {"op": "abort", **where(key)}]
    await mallory.try_all("erasure", site, operations)


async def _namesakes(mallory: Mallory) -> None:
    """Store other bytes under the other owner's IDs: they are hers alone, and the other's stay as they are."""
    if (chosen := mallory.target()) is None:
        return
    site, key = chosen
    size = 640
    share = where(key)
    operations = [
        {"op": "write", **share, "offset": 0, "size": size},
        {"op": "seal", **share, "size": size, "x": 1, "k": 2, "masks": 16},
        {"op": "prepare", "register": key.object_id, "ballot": [3, "mallory"]},
        {"op": "inventory", "after": "", "limit": 1000},
    ]
    class_ = mallory.rng.choice(CLASSES)
    answer = await mallory.exchange(class_, site, operations, mallory.rng.pseudo_bytes(size))
    mallory.happened("namesakes")
    if mallory.is_honest(site):
        for op, result in zip(operations[2:], answer.results[2:], strict=False):
            mallory.judge(site, op, result)
    await Vault(mallory.context).put(BytesSource(b"mine"), "mine", class_="pqc")
    mallory.world.trace.counts["mallory's own puts"] += 1


async def _stolen_keys(mallory: Mallory) -> None:
    """Have keys of the other owner's pairs become a share, and seal messages under them."""
    taken = [
        (each.site, op["keys"], op["size"])
        for each in mallory.requests()
        for op in each.header.get("ops", ())
        if op.get("op") == "take"
    ]
    sealed = [
        (each.site, each.header["auth"]["keys"], 16) for each in mallory.requests() if each.header.get("class") == "its"
    ]
    if not taken + sealed:
        return
    site, keys, size = mallory.rng.choice(taken + sealed)
    op = {"op": "take", "object": "e" * 32, "version": "d" * 32, "epoch": 0, "offset": 0, "size": size, "keys": keys}
    answer = await mallory.exchange("its", site, [op])
    mallory.happened("stolen_keys")
    if mallory.is_honest(site):
        for result in answer.results:
            mallory.judge(site, op, result)


async def _replays(mallory: Mallory) -> None:
    """Send requests of the other owner's again, as they are and under her own name."""
    requests = mallory.requests()
    for request in [mallory.rng.choice(requests) for _ in range(3 if requests else 0)]:
        body = request.raw
        renamed = mallory.rng.integer(0, 1) == 1
        if renamed:
            body = _renamed(request.raw, request.path)
        answer = await mallory.raw(request.site, request.path, body)
        mallory.happened("replays")
        own_home = mallory.party.home == request.site and renamed and request.header.get("class") == "local"
        session = request.path != EXCHANGE_PATH and renamed and not isinstance(answer, ShosoinError)
        if isinstance(answer, ShosoinError) or not mallory.is_honest(request.site) or session:
            continue
        if not own_home:
            mallory.violate(f"was answered a request of another owner's by honest {request.site}")
            continue
        for op, result in zip(request.header["ops"], parse_json(cut(answer).header)["results"], strict=False):
            mallory.judge(request.site, op, result)
        mallory.judge_bytes(request.site, cut(answer).sealed)


def _renamed(raw: bytes, path: str) -> bytes:
    """Return a request with her name in the place of the other's."""
    try:
        if path != EXCHANGE_PATH:
            return canonical_json({**json.loads(raw), "from": MALLORY})
        parts = cut(raw)
        return b"".join(join(canonical_json({**parse_json(parts.header), "from": MALLORY}), [parts.sealed], b""))
    except MalformedEnvelope:
        return raw


async def _junk(hostile: HostileClient) -> None:
    """Send what is no envelope, or half of one, or one with bytes changed."""
    requests, rng = hostile.requests(), hostile.rng
    for _ in range(4):
        site = rng.choice(hostile.sites)
        body = bytearray(rng.pseudo_bytes(rng.integer(0, 300)))
        path = rng.choice((EXCHANGE_PATH, EXCHANGE_PATH, "/v1/session"))
        if requests and rng.integer(0, 2):
            request = rng.choice(requests)
            site, path, body = request.site, request.path, bytearray(request.raw)
            for _ in range(rng.integer(1, 3)):
                body[rng.integer(0, len(body) - 1)] = rng.integer(0, 255)
            if rng.integer(0, 1):
                del body[rng.integer(0, len(body) - 1) :]
        await hostile.raw(site, path, bytes(body))
        hostile.happened("junk")


Mallory.deeds = {
    "theft": _theft,
    "registers": _registers,
    "erasure": _erasure,
    "namesakes": _namesakes,
    "stolen_keys": _stolen_keys,
    "replays": _replays,
    "junk": _junk,
}
_: Deed = _theft
