"""The share node's part in a repair: helping to rebuild another site's share, or having one's own rebuilt.

Helper i gives the target lambda_i * y_i plus one pad for each other helper, all of it under a pad shared with the
target: pads of pairs cancel in the sum, which is the target's share and nothing else. The owner relays every message
between nodes and can open none of them. Whoever coordinates may lie, so

* an order is the owner's, agrees with the committed register, and is recorded before anything of it happens; the same
  attempt is never begun twice, and no range of an attempt is used twice;
* the two helpers of a pair show each other the whole order under one-time MACs before either uses their pad: two
  helpers that were told different targets would give away a second combination, and k-1 sites could open the object;
* the target takes combinations from the helpers that its order names, under keys shared with them, and only while it
  lacks a good share; what it rebuilt replaces what it had in one step, after the audit.

Audit masks stand in the share and are rebuilt with it, so answers of the old and the new copy count together: the
target's list of challenges goes on where it has it; a site that never counted starts with its helpers' lists; one that
lost its records answers nothing new in this epoch. The audit of the repair itself costs the target no answer, because
every helper has shown that it recorded the same challenge first.

Wire names of operations and fields: ``docs/specs/repair.md``.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from shosoin.base import Entropy, ObjectId, Rejected, SaeId, ShosoinError, SiteId
from shosoin.base.ports import Clock, Event, EventSink, KeySource, Runtime
from shosoin.kernels import ELEMENT_BYTES, linear_map_into, new_buffer
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import ANSWERS_PER_EPOCH, BODY_BYTES_MAX
from shosoin.vault.pads import Pad
from shosoin.vault.ports import ShareRow, ShareState, SiteStore, SiteTransaction
from shosoin.vault.quotas import OwnerRecord, StagingQuotas
from shosoin.vault.repair_attempts import CHUNK_BYTES_MAX, Attempt, Attempts, Chunk
from shosoin.vault.repair_keys import (
    TAG_KEY_BYTES,
    RepairForged,
    SessionSecrets,
    check_tag,
    open_secrets,
    tag_of,
)
from shosoin.vault.repair_order import (
    MalformedOrder,
    OrderRefused,
    OrderStale,
    Party,
    RepairOrder,
    check_counted,
    read_order,
)
from shosoin.vault.values import read_value

__all__ = ["RepairNode"]

_CHALLENGES_TEXT_MAX = 16 << 10
_PEERS_MAX = 16

Json = dict[str, Any]
Digester = Callable[[ShareRow, str], Awaitable[bytes]]
Handler = Callable[[OwnerRecord, Json], Awaitable[tuple[Json, bytes]]]


class RepairNode:
    """Runs the repair operations of one site; each returns its result and its payload."""

    def __init__(
        self,
        site: SiteId,
        node: SaeId,
        store: SiteStore,
        keys: KeySource,
        *,
        entropy: Entropy,
        clock: Clock,
        runtime: Runtime,
        sink: EventSink,
        quotas: StagingQuotas,
        challenged: Digester,
        digest: Digester,
    ) -> None:
        self._site = site
        self._node = node
        self._store = store
        self._keys = keys
        self._entropy = entropy
        self._clock = clock
        self._runtime = runtime
        self._sink = sink
        self._quotas = quotas
        self._challenged = challenged
        """Answers an audit challenge of a recorded share, within its T answers."""
        self._digest = digest
        self._attempts = Attempts(clock)
        self._staged: dict[Any, list[tuple[int, int]]] = {}
        """Ranges of unfinished repairs at the target, by share."""
        self.handlers: Mapping[str, Handler] = {
            "repair_stock": self._stock,
            "repair_open": self._open,
            "repair_meet": self._meet,
            "repair_met": self._met,
            "repair_pads": self._pads,
            "repair_check": self._check,
            "repair_help": self._help,
            "repair_take": self._take,
            "repair_seal": self._seal,
            "repair_digest": self._answer,
            "repair_adopt": self._adopt,
            "repair_abort": self._abort,
        }

    async def run(self, owner: OwnerRecord, class_: str, op: Json) -> tuple[Json, bytes]:
        """Run one operation.

        Raises:
            ShosoinError: it failed or was refused. A forged message between nodes is also told to the sink.
        """
        handler = self.handlers[str(op.get("op"))]
        if "attempt" in op and op["op"] != "repair_open":
            self._require(class_, self._attempt(owner, op).order.class_)
        if op["op"] == "repair_open":
            op = {**op, "class": class_}
        try:
            return await handler(owner, op)
        except RepairForged:
            fields = {"site": self._site, "owner": owner.owner, "object": str(op.get("object"))[:32]}
            self._sink.emit(Event("vault.repair_forged", "alarm", fields))
            raise

    @staticmethod
    def _require(class_: str, bound: str) -> None:
        if class_ not in {"local", bound}:
            raise OrderRefused(f"this repair belongs to class {bound}", code="vault.wrong_class")

    def _attempt(self, owner: OwnerRecord, op: Json) -> Attempt:
        return self._attempts.get(owner.owner, str(op.get("attempt")))

    def _helping(self, owner: OwnerRecord, op: Json) -> Attempt:
        attempt = self._attempt(owner, op)
        if attempt.is_target:
            raise OrderRefused("the target does not help itself")
        return attempt

    def _receiving(self, owner: OwnerRecord, op: Json) -> Attempt:
        attempt = self._attempt(owner, op)
        if not attempt.is_target:
            raise OrderRefused(f"{self._site} is not the target of this attempt")
        return attempt

    async def _stock(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:  # of every owner's
        """Say how much key this node could draw for other nodes, and who else sees it."""
        peers = op.get("peers")
        if not isinstance(peers, list) or len(peers) > _PEERS_MAX:
            raise Rejected(f"expected at most {_PEERS_MAX} peers", code="vault.bad_operation")
        links: Json = {}
        for peer in peers:
            try:
                status = await self._keys.status(SaeId(peer))
            except ShosoinError as error:
                links[str(peer)] = {"error": error.message[:200]}
                continue
            links[str(peer)] = {
                "stored_bits": status.stored_bits,
                "capacity_bits": status.max_key_count * status.key_size_bits,
                "max_key_size_bits": status.max_key_size_bits,
                "extension": {
                    name: status.extension[name]
                    for name in ("shosoin_secret_key_rate_bps", "shosoin_relays")
                    if name in status.extension
                },
            }
        return {"links": links}, b""

    async def _open(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Judge an order, record its attempt, and take part from then on."""
        try:
            proof = base64.b64decode(str(op.get("proof")), validate=True)
        except ValueError:
            raise MalformedOrder("a proof that cannot be read") from None
        order = read_order(op.get("order"), proof, owner.owner, owner.signing_public_key)
        self._require(str(op["class"]), order.class_)
        me = order.party(self._site)
        if me.node != self._node:
            raise OrderRefused("the order names another node of this site")
        secrets = open_secrets(self._keys, order, me, self._entropy)
        attempt = Attempt(order, me, str(op["class"]), secrets, self._clock.now_s())
        judge = self._judged_by_target if attempt.is_target else self._judged_by_helper

        def begin(tx: SiteTransaction) -> tuple[ShareRow | None, list[str]]:
            found = judge(tx, order)
            if not tx.use_attempt(order.key, order.attempt):
                raise OrderRefused("this attempt was begun before", code="vault.repair_used")
            return found

        attempt.row, _ = await self._store.transact(begin)
        if attempt.is_target:
            attempt.row = None
        self._attempts.add(attempt)
        result: Json = {"contribution": self._entropy.random_bytes(ELEMENT_BYTES).hex()}
        if attempt.is_target:
            result["staged"] = self._staged_prefix(order)
        elif isinstance(secrets, SessionSecrets):
            peers = [*order.slaves_of(self._site), order.target]
            result["offers"] = {peer.site: await secrets.offer(peer) for peer in peers}
        return result, b""

    def _judged_by_helper(self, tx: SiteTransaction, order: RepairOrder) -> tuple[ShareRow | None, list[str]]:
        register = tx.register(order.owner, order.object_id)
        if register is None or register.committed_value is None:
            raise OrderStale(f"{self._site} knows no committed value of this register")
        check_counted(order, read_value(register.committed_value))
        row = tx.share(order.key)
        if row is None:
            raise OrderStale(f"{self._site} holds no share of this version", code="vault.no_share")
        terms = order.size_bytes, order.party(self._site).x, len(order.helpers), order.masks
        recorded = row.size_bytes, row.x_index, row.threshold, row.mask_elements
        if recorded != terms or row.class_ not in {"local", order.class_}:
            raise OrderRefused(f"the share at {self._site} is recorded otherwise than the order says")
        return row, []

    def _judged_by_target(self, tx: SiteTransaction, order: RepairOrder) -> tuple[ShareRow | None, list[str]]:
        """Judge as the target: one that was away may know nothing of the value yet; its helpers do."""
        if order.instead_of is not None:
            raise OrderRefused("a site cannot take another's place yet")
        register = tx.register(order.owner, order.object_id)
        text = register.committed_value if register is not None else None
        value = read_value(text) if text is not None else None
        if value is not None and value.counter >= order.counter:
            check_counted(order, value)
        row = tx.share(order.key)
        counts = order.counted or (value is not None and order.key in value.share_keys(order.owner, self._site))
        if row is not None and counts and not order.replaces:
            raise OrderRefused(f"{self._site} holds a share that counts, and nothing is said to be wrong with it")
        return row, []

    def _staged_prefix(self, order: RepairOrder) -> int:
        ranges = self._staged.get(order.key, [])
        return ranges[0][1] if ranges and ranges[0][0] == 0 else 0

    async def _meet(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Answer other nodes' offers (classes ``qkd`` and ``pqc``)."""
        attempt = self._attempt(owner, op)
        offers, secrets = _texts(op, "offers"), attempt.secrets
        if not isinstance(secrets, SessionSecrets):
            raise OrderRefused("class its agrees on nothing")
        mine = attempt.order.helpers if attempt.is_target else attempt.order.masters_of(self._site)
        peers = {peer.site: peer for peer in mine}
        return {
            "answers": {site: await secrets.accepted(_peer(peers, site), offers[site]) for site in sorted(offers)}
        }, b""

    async def _met(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Take the answers to our offers."""
        attempt = self._helping(owner, op)
        answers, secrets = _texts(op, "answers"), attempt.secrets
        if not isinstance(secrets, SessionSecrets):
            raise OrderRefused("class its agrees on nothing")
        peers = {peer.site: peer for peer in (*attempt.order.slaves_of(self._site), attempt.order.target)}
        for site in sorted(answers):
            secrets.agreed(_peer(peers, site), answers[site])
        return {}, b""

    def _range(self, attempt: Attempt, op: Json) -> tuple[int, int]:
        offset, size = _number(op, "offset", BODY_BYTES_MAX), _number(op, "size", CHUNK_BYTES_MAX, ELEMENT_BYTES)
        attempt.range_of(offset, size)
        return offset, size

    async def _pads(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Draw the pads of a range that this helper shares with those behind it, and show them its order."""
        attempt = self._helping(owner, op)
        chunk = attempt.begin(*self._range(attempt, op))
        pairs: Json = {}
        for peer in attempt.order.slaves_of(self._site):
            pad = await attempt.secrets.give(peer, f"pad {chunk.where}", 2 * TAG_KEY_BYTES + chunk.size)
            chunk.drawn[peer.site] = pad
            tag = tag_of(pad.content[:TAG_KEY_BYTES], *self._shown(attempt, chunk, attempt.me, peer))
            pairs[peer.site] = {"keys": pad.key_ids, "tag": tag}
        return {"pairs": pairs}, b""

    def _shown(self, attempt: Attempt, chunk: Chunk, sender: Party, receiver: Party) -> tuple[bytes, bytes]:
        """Return what one helper of a pair shows the other: the whole order, the range, and the direction."""
        return attempt.text, f"pad {chunk.where} {sender.site}>{receiver.site}".encode()

    async def _check(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Fetch the pads that helpers before this one drew; keep those that came with the same order."""
        attempt = self._helping(owner, op)
        offset, size = self._range(attempt, op)
        chunk = attempt.chunk(offset, size)
        peers = {peer.site: peer for peer in attempt.order.masters_of(self._site)}
        pairs: Json = {}
        for site, told in sorted(_tables(op, "pairs").items()):
            peer = _peer(peers, site)
            if site in chunk.pads:
                raise OrderRefused("a pad that was fetched already", code="vault.repair_used")
            secret = memoryview(
                await attempt.secrets.take(peer, f"pad {chunk.where}", _key_ids(told), 2 * TAG_KEY_BYTES + size)
            )
            check_tag(secret[:TAG_KEY_BYTES], told.get("tag"), *self._shown(attempt, chunk, peer, attempt.me))
            chunk.pads[site] = secret[2 * TAG_KEY_BYTES :]
            back = secret[TAG_KEY_BYTES : 2 * TAG_KEY_BYTES]
            pairs[site] = tag_of(back, *self._shown(attempt, chunk, attempt.me, peer))
        return {"pairs": pairs}, b""

    async def _help(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Give the target this helper's combination, once every other helper has shown the same order."""
        attempt = self._helping(owner, op)
        offset, size = self._range(attempt, op)
        chunk = attempt.chunks.pop(offset, None)
        if chunk is None or chunk.size != size:
            raise OrderRefused("no pads are ready for this range")
        tags = _texts(op, "pairs")
        for peer in attempt.order.slaves_of(self._site):
            self._confirm(attempt, chunk, peer, tags.get(peer.site))
        order, row = attempt.order, attempt.row
        if row is None or set(chunk.pads) != {helper.site for helper in order.helpers} - {self._site}:
            raise OrderRefused("another helper has not shown its order")
        share = await self._store.read(row, offset, size)
        link = await attempt.secrets.give(order.target, f"share {chunk.where}", TAG_KEY_BYTES + size)
        sealed = new_buffer(size)
        inputs = [share, *chunk.pads.values(), memoryview(link.content)[TAG_KEY_BYTES:]]
        weights = [order.weight_of(self._site), *[1] * len(chunk.pads), 1]
        await self._runtime.in_thread(linear_map_into, [weights], inputs, [sealed])
        challenges = await self._answered(attempt) if offset + size == order.size_bytes else []
        return self._sealed(attempt, chunk, link, sealed, challenges), b""

    def _confirm(self, attempt: Attempt, chunk: Chunk, peer: Party, tag: str | None) -> None:
        pad = chunk.drawn.pop(peer.site, None)
        if pad is None:
            raise OrderRefused("no pad was drawn for this range")
        content = memoryview(pad.content)
        back = content[TAG_KEY_BYTES : 2 * TAG_KEY_BYTES]
        check_tag(back, tag, *self._shown(attempt, chunk, peer, attempt.me))
        chunk.pads[peer.site] = content[2 * TAG_KEY_BYTES :]

    async def _answered(self, attempt: Attempt) -> list[str]:
        key = attempt.order.key
        return list(await self._store.transact(lambda tx: list(tx.challenges(key))))

    def _sealed(self, attempt: Attempt, chunk: Chunk, link: Pad, sealed: memoryview, challenges: list[str]) -> Json:
        listed = canonical_json({"challenges": challenges})
        tag = tag_of(memoryview(link.content)[:TAG_KEY_BYTES], attempt.text, _given(chunk, self._site), listed, sealed)
        return {
            "keys": link.key_ids,
            "tag": tag,
            "data": base64.b64encode(sealed).decode(),
            "challenges": listed.decode(),
            "origins": _origins(attempt),
        }

    async def _take(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Add up what every helper gave for a range, and stage it."""
        attempt = self._receiving(owner, op)
        order = attempt.order
        offset, size = self._range(attempt, op)
        parts = _tables(op, "parts")
        if set(parts) != {helper.site for helper in order.helpers}:
            raise OrderRefused("not exactly the helpers of the order gave something")
        chunk = attempt.begin(offset, size)
        del attempt.chunks[offset]  # nothing of it waits here: the range is used, whatever comes of it
        inputs: list[Any] = []
        for helper in order.helpers:
            inputs += await self._opened(attempt, chunk, helper, parts[helper.site])
        share = new_buffer(size)
        await self._runtime.in_thread(linear_map_into, [[1] * len(inputs)], inputs, [share])
        await self._quotas.admit(owner, order.key, attempt.class_, offset + size)
        await self._store.write(order.key, offset, share)
        self._note_staged(order, offset, size)
        attempt.complete = attempt.complete or offset + size == order.size_bytes
        return {}, b""

    async def _opened(self, attempt: Attempt, chunk: Chunk, helper: Party, part: Json) -> tuple[bytes, memoryview]:
        """Return what a helper sealed and the pad that opens it, after checking its tag."""
        secret = memoryview(
            await attempt.secrets.take(helper, f"share {chunk.where}", _key_ids(part), TAG_KEY_BYTES + chunk.size)
        )
        try:
            sealed = base64.b64decode(str(part.get("data")), validate=True)
        except ValueError:
            raise RepairForged("a message between two nodes failed its authentication") from None
        listed = str(part.get("challenges")).encode()
        if len(sealed) != chunk.size or len(listed) > _CHALLENGES_TEXT_MAX:
            raise RepairForged("a message between two nodes failed its authentication")
        check_tag(secret[:TAG_KEY_BYTES], part.get("tag"), attempt.text, _given(chunk, helper.site), listed, sealed)
        attempt.challenges.update(_listed(listed))
        return sealed, secret[TAG_KEY_BYTES:]

    def _note_staged(self, order: RepairOrder, offset: int, size: int) -> None:
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self._staged.get(order.key, []), (offset, offset + size)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((low, high))
        self._staged[order.key] = merged

    async def _seal(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Make what was rebuilt durable beside what there is; its audit answers count from here on."""
        attempt = self._receiving(owner, op)
        order = attempt.order
        if attempt.row is None:
            if not attempt.complete:
                raise OrderRefused("the last range of the share did not come in this attempt")
            self._staged.pop(order.key, None)
            locator = await self._store.finish(order.key, order.size_bytes)
            attempt.row = ShareRow(
                order.key,
                order.size_bytes,
                ShareState.STAGED,
                self._clock.wall_s(),
                order.target.x,
                len(order.helpers),
                order.masks,
                locator,
                attempt.class_,
            )
            await self._store.transact(lambda tx: _inherit(tx, attempt))
        return {"contribution": self._entropy.random_bytes(ELEMENT_BYTES).hex()}, b""

    async def _answer(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Answer the audit challenge of the repair."""
        attempt = self._attempt(owner, op)
        challenge = str(ObjectId(str(op.get("r"))))
        if attempt.row is None:
            raise OrderRefused("nothing is rebuilt yet")
        if attempt.is_target:
            return await self._answer_rebuilt(attempt, attempt.row, challenge, _tables(op, "notes"))
        answer = await self._challenged(attempt.row, challenge)
        target = attempt.order.target
        note = await attempt.secrets.give(target, f"note {challenge}", TAG_KEY_BYTES)
        tag = tag_of(note.content, attempt.text, _noted(challenge, self._site))
        return {"size": len(answer), "keys": note.key_ids, "tag": tag}, answer

    async def _answer_rebuilt(
        self, attempt: Attempt, row: ShareRow, challenge: str, notes: Mapping[str, Json]
    ) -> tuple[Json, bytes]:
        """Answer for a share that is not recorded yet, if every helper has recorded the same challenge."""
        for helper in attempt.order.helpers:
            note = notes.get(helper.site)
            if note is None:
                raise OrderRefused(f"{helper.site} has not answered this challenge")
            secret = await attempt.secrets.take(helper, f"note {challenge}", _key_ids(note), TAG_KEY_BYTES)
            check_tag(secret, note.get("tag"), attempt.text, _noted(challenge, helper.site))
        await self._store.transact(lambda tx: tx.add_challenge(row.key, challenge))
        answer = await self._digest(row, challenge)
        return {"size": len(answer)}, answer

    async def _adopt(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Record what was rebuilt, in place of what there was, in one step.

        It is staged, like any share that the register does not count on yet; where it does, the share is committed, and
        where this site accepted a value that does, it stays pinned.
        """
        attempt = self._receiving(owner, op)
        if attempt.row is None:
            raise OrderRefused("nothing is rebuilt yet")
        row, order = attempt.row, attempt.order
        row = row.with_state(await self._store.transact(lambda tx: _state_of(tx, order)))
        (refusal,) = await self._quotas.enter_all(owner, [row])
        if refusal is not None:
            raise refusal
        attempt.row, attempt.adopted = row, True
        return {"state": row.state.value}, b""

    async def _abort(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Forget an attempt; with ``discard`` also what came of it, which nobody will go on with."""
        attempt = self._attempts.end(owner.owner, str(op.get("attempt")))
        if attempt is None or not attempt.is_target:
            return {}, b""
        if attempt.adopted and op.get("discard") is True:
            await self._store.transact(lambda tx: _drop_adopted(tx, attempt))
        elif not attempt.adopted and (attempt.row is not None or op.get("discard") is True):
            self._staged.pop(attempt.order.key, None)
            await self._quotas.drop(attempt.order.key)
        return {}, b""


def _state_of(tx: SiteTransaction, order: RepairOrder) -> ShareState:
    """Return the state of a share by what the register here counts on."""
    register = tx.register(order.owner, order.object_id)
    if register is None:
        return ShareState.STAGED
    for text, state in (
        (register.committed_value, ShareState.COMMITTED),
        (register.accepted_value, ShareState.PINNED),
    ):
        if text is not None and order.key in read_value(text).share_keys(order.owner, order.target.site):
            return state
    return ShareState.STAGED


def _drop_adopted(tx: SiteTransaction, attempt: Attempt) -> None:
    """Delete what an attempt recorded and the owner found wrong, unless it is another attempt's by now."""
    row = tx.share(attempt.order.key)
    if row is not None and attempt.row is not None and row.locator == attempt.row.locator:
        tx.delete_share(row.key)


def _inherit(tx: SiteTransaction, attempt: Attempt) -> None:
    """Make the rebuilt share's answers count together with those of the copy that was lost.

    What an honest helper has answered tells nothing new when it is answered again at another point, so a site that
    never counted may start with the union of its helpers' lists. A site that counted, and has neither a record of its
    share nor of any answer, has lost its records: it may have answered as often as any, and answers nothing new.
    """
    order = attempt.order
    remembers = tx.share(order.key) is not None or bool(tx.challenges(order.key))
    for challenge in sorted(attempt.challenges):
        tx.add_challenge(order.key, challenge)
    if order.counted and not remembers:
        for number in range(ANSWERS_PER_EPOCH):
            tx.add_challenge(order.key, f"unknown-{number}")


def _given(chunk: Chunk, site: str) -> bytes:
    return f"share {chunk.where} {site}".encode()


def _noted(challenge: str, site: str) -> bytes:
    return f"note {challenge} {site}".encode()


def _listed(raw: bytes) -> list[str]:
    """Read a helper's list of challenges; its tag has been checked, but a helper may lie."""
    try:
        found = json.loads(raw)["challenges"]
        return [str(ObjectId(str(each))) for each in found if not str(each).startswith("unknown-")][:_LISTED_MAX]
    except (ValueError, KeyError, TypeError, ShosoinError):
        raise RepairForged("a helper's list of challenges cannot be read") from None


_LISTED_MAX = 4 * ANSWERS_PER_EPOCH


def _origins(attempt: Attempt) -> list[Json]:
    """Return where the keys drawn so far came from, for the label."""
    found: Counter[tuple[str, bool, float | None]] = Counter()
    for fact, count in attempt.secrets.facts.items():
        found[fact.kind, fact.simulated, fact.epsilon] += count
    return [
        {"kind": kind, "simulated": simulated, "epsilon": epsilon, "keys": count}
        for (kind, simulated, epsilon), count in sorted(found.items(), key=str)
    ]


def _peer(peers: Mapping[SiteId, Party], site: str) -> Party:
    found = peers.get(SiteId(site))
    if found is None:
        raise OrderRefused(f"{site[:64]} has no part in this step of the order")
    return found


def _number(op: Json, name: str, high: int, low: int = 0) -> int:
    value = op.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Rejected(f"{name} must be a whole number from {low} to {high}", code="vault.bad_operation")
    return value


def _texts(op: Json, name: str) -> dict[str, str]:
    raw = op.get(name, {})
    if not isinstance(raw, dict) or len(raw) > _PEERS_MAX or not all(isinstance(value, str) for value in raw.values()):
        raise Rejected(f"{name} must be texts by site", code="vault.bad_operation")
    return raw


def _tables(op: Json, name: str) -> dict[str, Json]:
    raw = op.get(name, {})
    if not isinstance(raw, dict) or len(raw) > _PEERS_MAX or not all(isinstance(value, dict) for value in raw.values()):
        raise Rejected(f"{name} must be tables by site", code="vault.bad_operation")
    return raw


def _key_ids(told: Json) -> list[str]:
    ids = told.get("keys")
    if not isinstance(ids, list) or not all(isinstance(key_id, str) and len(key_id) <= 64 for key_id in ids):
        raise Rejected("key_IDs that cannot be read", code="vault.bad_operation")
    return ids
