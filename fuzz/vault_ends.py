"""Harnesses of both ends of the vault's protocol, whole: a node that anybody writes to, an owner whose site lies.

The world is one process on stores and keys in memory (``tests.vault.support``). An input of ``node_operations`` is JSON
with the operations of one envelope and their payload; an input of ``lying_site`` says what the client does and how the
results of one site are changed before that site seals them, as a node that lies would.
"""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.vault import support

from fuzz.harness import Finding, Harness
from fuzz.mutation import changed_tree
from fuzz.samples import SeededEntropy
from shosoin.vault.envelope import canonical_json, cut, join, parse_json
from shosoin.vault.putting import BytesSource
from shosoin.vault.session import SessionOffer

__all__ = ["HARNESSES"]

CONTENT = b"a secret of the owner that no error may quote, whatever a site says."
QUOTA_BYTES = 1 << 20
OPERATIONS_BYTES_MAX = 60_000
HOME, OTHER = support.SITES[0], support.SITES[1]
NODE = f"node-{HOME}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A world with one object, and how its stores looked then."""

    world: support.World
    tables: dict[str, Any]
    object_id: str
    version: str


async def _prepare(sites: int, scheme: str, class_: str) -> Stored:
    world = support.make_world(sites, scheme, entropy=SeededEntropy(), quota_bytes=QUOTA_BYTES)
    receipt = await support.store(world, "name", CONTENT, class_)
    tables = {site: _copied(world.stores[site]._tables) for site in world.stores}
    return Stored(world, tables, receipt.object_id, receipt.version)


def _copied(tables: Any) -> Any:
    return type(tables)(**{name: copy.copy(getattr(tables, name)) for name in tables.__slots__})


@lru_cache(maxsize=8)
def prepared(sites: int, scheme: str, class_: str) -> Stored:
    """Return a world; every caller resets it with ``reset``."""
    return asyncio.run(_prepare(sites, scheme, class_))


def reset(stored: Stored) -> support.World:
    """Bring the stores back to how they were, and forget what nodes and links remember."""
    world = stored.world
    for site, tables in stored.tables.items():
        store = world.stores[site]
        store.crash()
        store._tables = _copied(tables)
        node = world.links[site].node
        node._operations = type(node._operations)(
            node._site,
            node._sae,
            store,
            node._keys,
            entropy=node._entropy,
            clock=world.context.clock,
            runtime=world.context.runtime,
            sink=world.sink,
            signer=support.SITE_SIGNERS[node._site],
            site_keys=support.SITE_KEYS,
        )
    for link in world.links.values():
        link.seen.clear()
        link.answered.clear()
        link.offers.clear()
    world.sink.events.clear()
    return world.another_vault(entropy=SeededEntropy())


# ---------------------------------------------------------------------------------------------------- the node's end


def envelope_of(raw: bytes) -> bytes:
    """Return the envelope that an input of ``node_operations`` describes."""
    told = parse_json(raw)
    payload = bytes.fromhex(told["payload"]) if isinstance(told.get("payload"), str) else b""
    header: dict[str, Any] = {
        "v": 1,
        "class": "local",
        "from": support.OWNER,
        "to": NODE,
        "ops": told.get("ops"),
        "auth": {},
    }
    return b"".join(join(canonical_json(header), [payload], b""))


def node_operations(raw: bytes) -> None:
    """Every operation answers for itself, an answer is an envelope, and a refused envelope has no results."""
    try:
        body = envelope_of(raw)
    except ValueError:
        return  # a payload that is not hexadecimal
    world = reset(prepared(3, "2-of-3", "pqc"))
    answer = asyncio.run(_exchange(world, HOME, body))
    results = parse_json(cut(answer).header)["results"]
    if len(results) != len(parse_json(cut(body).header)["ops"]):
        raise Finding("not one result for each operation")
    for result in results:
        told = result.get("error")
        if told is not None and told["kind"] not in {"rejected", "denied", "unavailable", "peer_fault", "alarm"}:
            raise Finding(f"an error of kind {told['kind']}")
    _check_others_untouched(world)


def _check_others_untouched(world: support.World) -> None:
    stored = prepared(3, "2-of-3", "pqc")
    for site in world.stores:
        if site != HOME and world.stores[site]._tables.shares != stored.tables[site].shares:
            raise Finding(f"{site} was changed by what {HOME} got")


async def _exchange(world: support.World, site: str, body: bytes) -> bytes:
    return b"".join(await world.links[site].node.exchange(support.OWNER, body))


def node_envelope(raw: bytes) -> None:
    """Whole envelopes of class ``local`` at the home node, and of the other classes at another."""
    world = reset(prepared(3, "2-of-3", "pqc"))
    asyncio.run(_exchange(world, HOME, raw))


def node_session(raw: bytes) -> None:
    """Session offers."""
    world = reset(prepared(3, "2-of-3", "pqc"))
    answer = asyncio.run(world.links[HOME].node.session(support.OWNER, raw))
    if len(parse_json(answer)["session"]) != 32:
        raise Finding("a session without a name")


def session_answer(raw: bytes) -> None:
    """What a node answers to an offer: an answer to another offer is never confirmed."""
    _OFFER.finish(raw)
    raise Finding("a session key that nobody agreed on")


_OFFER = SessionOffer("pqc", support.OWNER, NODE, [], b"")


# --------------------------------------------------------------------------------------------------- the owner's end


async def _get(vault: Any) -> None:
    content, _ = await support.fetch(vault, "name")
    if content != CONTENT:
        raise Finding("wrong bytes were served")


async def _put(vault: Any) -> None:
    await vault.put(BytesSource(b"other"), "name", class_="its")


ACTIONS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "get": _get,
    "audit": lambda vault: vault.audit(),
    "put": _put,
    "ls": lambda vault: vault.ls(),
    "stat": lambda vault: vault.stat("name"),
    "rm": lambda vault: vault.rm("name"),
    "verify": lambda vault: vault.verify("name"),
    "unnamed": lambda vault: vault.rm_unnamed(older_than_s=0.0),
}


def lying_site(raw: bytes) -> None:
    """Some of five sites answer with changed results, under their own seals: right bytes or a kind, whatever they say.

    The input is JSON: what the client does, which operations are lied about by how many sites, and either the result to
    give or a seed from which the true one is changed.
    """
    told = parse_json(raw)
    action = ACTIONS.get(str(told.get("do")))
    if action is None:
        return
    world = reset(prepared(5, "3-of-5", "its"))
    liars = told.get("liars", 1)
    for site in support.SITES[1 : 1 + liars] if type(liars) is int and 0 < liars < 5 else [OTHER]:
        _make_lie(world.links[site].node._operations, told)
    asyncio.run(_whole(action(world.vault)))


def _make_lie(operations: Any, told: dict[str, Any]) -> None:
    """Let a node change its results before it seals them, until it is reset."""
    true_run = operations.run

    async def run(owner: Any, class_: str, ops: Any, payload: Any, answer_bytes: int) -> Any:
        header, out = await true_run(owner, class_, ops, payload, answer_bytes)
        changed = [_lie(told, str(op.get("op")), result) for op, result in zip(ops, header["results"], strict=True)]
        rest = {name: _lie(told, name, header[name]) for name in header if name != "results"}
        return {"results": _cut(told, changed), **rest}, _lied_payload(told, out)

    operations.run = run


def owner_answers(raw: bytes) -> None:
    """The home node answers with any header at all; the input is the number of an action, then the header."""
    if not raw:
        return
    world = reset(prepared(3, "2-of-3", "pqc"))

    def spoil(answer: bytes) -> bytes:
        return b"".join(join(raw[1:], [cut(answer).sealed], b""))

    world.links[HOME].spoil = spoil
    action = list(ACTIONS.values())[raw[0] % len(ACTIONS)]
    asyncio.run(_whole(action(world.vault)))


def _answers() -> list[bytes]:
    """Headers of true answers of the home node."""
    headers = []
    for number, action in enumerate(ACTIONS.values()):
        world = reset(prepared(3, "2-of-3", "pqc"))
        asyncio.run(_whole(action(world.vault)))
        headers += [bytes([number]) + bytes(cut(answer).header) for answer in world.links[HOME].answered]
    return headers


async def _whole(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(120.0):
        return await work


def _lie(told: dict[str, Any], kind: str, result: Any) -> Any:
    """Return what the site says instead of a result."""
    if str(told.get("about")) not in {kind, "all"}:
        return result
    if "say" in told:
        return told["say"]
    changed = changed_tree(json.loads(canonical_json(result)), random.Random(str(told.get("seed"))))
    return changed if _can_be_sent(changed) else {"error": "junk"}


def _can_be_sent(result: Any) -> bool:
    """Whether the node's own encoder writes it; what it does not write is for ``owner_answers``."""
    try:
        canonical_json(result)
    except (ValueError, RecursionError):
        return False
    return True


def _cut(told: dict[str, Any], results: list[Any]) -> list[Any]:
    """Return as many results as the site wants to give."""
    count = told.get("count")
    return results[:count] if type(count) is int and 0 <= count < len(results) else results


def _lied_payload(told: dict[str, Any], out: Sequence[Any]) -> list[Any]:
    """Return other bytes of the same or another length."""
    whole = b"".join(bytes(part) for part in out)
    flip = told.get("flip")
    if whole and type(flip) is int:
        place = flip % len(whole)
        whole = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    keep = told.get("keep")
    return [whole[:keep] if type(keep) is int and keep >= 0 else whole]


def _lies() -> list[bytes]:
    kinds = ("register", "prepare", "accept", "commit", "read", "signatures", "sets", "write", "seal", "digest", "all")
    lies: list[dict[str, Any]] = [{"do": do, "about": about, "seed": 1} for do in ACTIONS for about in kinds[:7]]
    lies += [{"do": "get", "about": "read", "flip": 0}, {"do": "verify", "about": "read", "flip": 700, "keep": 9}]
    lies += [
        {"do": "put", "about": about, "say": {"error": {"kind": "alarm", "code": "x.y", "message": "m"}}}
        for about in kinds
    ]
    lies += [
        {"do": "put", "about": "seal", "say": {"contribution": "0" * 32}},
        {"do": "get", "about": "all", "count": 0},
    ]
    lies += [
        {"do": do, "about": "all", "liars": 4, "say": {"error": {"kind": "denied", "code": "x", "message": "no"}}}
        for do in ACTIONS
    ]
    lies += [{"do": do, "about": "all", "liars": 2, "seed": 3, "flip": 1} for do in ACTIONS]
    return [canonical_json(lie) for lie in lies]


# ------------------------------------------------------------------------------------------------------------- seeds


def _operations() -> list[bytes]:
    """Operations that a put, a get and a removal send to the home node, and those that they do not send."""
    stored = prepared(3, "2-of-3", "pqc")
    share = {"object": stored.object_id, "version": stored.version, "epoch": 0}
    fresh = {"object": "12" * 16, "version": "34" * 16, "epoch": 0}
    register = {"register": stored.object_id}
    (row,) = [row for (_, name), row in stored.tables[HOME].registers.items() if name == stored.object_id]
    value, ballot = {"value": row.committed_value}, {"ballot": [2, "me"]}
    signatures = stored.tables[HOME].signatures[str(row.signature_set)]
    held = {**value, "ballot": list(row.committed_ballot), "certificate": row.certificate}
    promises = {"promises": {"set": row.signature_set, "given": []}, "top": held}
    lists: list[tuple[list[dict[str, Any]], bytes]] = [
        (
            [
                {"op": "write", **fresh, "offset": 0, "size": 32},
                {"op": "seal", **fresh, "size": 32, "x": 1, "k": 2, "masks": 1},
            ],
            bytes(32),
        ),
        ([{"op": "abort", **fresh}, {"op": "abort", **share}], b""),
        ([{"op": "digest", **share, "r": "5" * 32}], b""),
        ([{"op": "read", **share, "offset": 0, "size": 64}], b""),
        ([{"op": "register", **register}], b""),
        ([{"op": "prepare", **register, **ballot}], b""),
        ([{"op": "accept", **register, **ballot, **value}], b""),
        ([{"op": "signatures", "text": signatures}, {"op": "commit", **register, **held, "digest": ""}], b""),
        ([{"op": "signatures", "text": signatures}, {"op": "accept", **register, **ballot, **value, **promises}], b""),
        ([{"op": "erase", "object": stored.object_id}], b""),
        ([{"op": "inventory", "after": "", "limit": 10}], b""),
        ([{"op": "take", **fresh, "offset": 0, "size": 16, "keys": ["x"]}], b""),
    ]
    seeds = [canonical_json({"ops": ops, "payload": payload.hex()}) for ops, payload in lists]
    for action in (_replace, _get, ACTIONS["rm"]):
        world = reset(stored)
        asyncio.run(_whole(action(world.vault)))
        for raw in world.links[HOME].seen:
            parts = cut(raw)
            told = {"ops": parse_json(parts.header)["ops"], "payload": bytes(parts.sealed).hex()}
            seeds.append(canonical_json(told))
    return [seed for seed in seeds if len(seed) <= OPERATIONS_BYTES_MAX]


async def _replace(vault: Any) -> None:
    await vault.put(BytesSource(b"another content"), "name", class_="pqc")


def _envelopes() -> list[bytes]:
    """Envelopes as an owner sends them, of every class."""
    seeds = [envelope_of(raw) for raw in _operations()]
    for class_ in ("its", "qkd", "pqc"):
        stored = asyncio.run(_prepare(3, "2-of-3", class_))
        seeds += [raw for link in stored.world.links.values() for raw in link.seen if len(raw) < 16_000][:2]
    return seeds


def _offers() -> list[bytes]:
    keys = [[], ["01234567-89ab-8def-8123-456789abcdef"]]
    return [SessionOffer("qkd" if ids else "pqc", support.OWNER, NODE, ids, b"").body for ids in keys]


def _session_answers() -> list[bytes]:
    world = prepared(3, "2-of-3", "pqc").world
    offer = SessionOffer("pqc", support.OWNER, NODE, [], b"")
    return [asyncio.run(world.links[HOME].node.session(support.OWNER, offer.body))]


SECRETS = (CONTENT[:24], support.SIGNER._private.private_bytes_raw()[:16])

HARNESSES = (
    Harness("node_operations", node_operations, _operations, SECRETS, size_max=OPERATIONS_BYTES_MAX),
    Harness("node_envelope", node_envelope, _envelopes, SECRETS, size_max=OPERATIONS_BYTES_MAX),
    Harness("node_session", node_session, _offers, SECRETS),
    Harness("session_answer", session_answer, _session_answers, SECRETS),
    Harness("owner_answers", owner_answers, _answers, SECRETS, size_max=32768),
    Harness("lying_site", lying_site, _lies, SECRETS, size_max=4096),
)
