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

Wire names of operations and fields: ``docs/specs/repair.md``.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping

from shosoin.base import ObjectId, Rejected, SaeId, ShosoinError
from shosoin.base.ports import Event
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.ports import ShareRow, SiteTransaction
from shosoin.vault.quotas import OwnerRecord
from shosoin.vault.repair_attempts import Attempt, Attempts, NodeParts
from shosoin.vault.repair_helper import Helping
from shosoin.vault.repair_keys import RepairForged, SessionSecrets, open_secrets
from shosoin.vault.repair_order import MalformedOrder, OrderRefused, OrderStale, RepairOrder, check_counted, read_order
from shosoin.vault.repair_target import Receiving
from shosoin.vault.repair_wire import Json, peer_named, tables_in, texts_in
from shosoin.vault.values import read_value

__all__ = ["RepairNode"]

_PEERS_MAX = 16

Handler = Callable[[OwnerRecord, Json], Awaitable[tuple[Json, bytes]]]


class RepairNode:
    """Runs the repair operations of one site; each returns its result and its payload."""

    def __init__(self, parts: NodeParts) -> None:
        self.parts = parts
        self.attempts = Attempts(parts.clock)
        self.helping = Helping(parts)
        self.receiving = Receiving(parts)
        self.handlers: Mapping[str, Handler] = {
            "repair_stock": self._stock,
            "repair_open": self._open,
            "repair_meet": self._meet,
            "repair_met": self._met,
            "repair_pads": lambda owner, op: self.helping.pads(self._helper(owner, op), op),
            "repair_check": lambda owner, op: self.helping.check(self._helper(owner, op), op),
            "repair_help": lambda owner, op: self.helping.help(self._helper(owner, op), op),
            "repair_take": lambda owner, op: self.receiving.take(owner, self._target(owner, op), op),
            "repair_seal": lambda owner, op: self.receiving.seal(self._target(owner, op), parts.entropy),
            "repair_digest": self._answer,
            "repair_adopt": lambda owner, op: self.receiving.adopt(owner, self._target(owner, op)),
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
            fields = {"site": self.parts.site, "owner": owner.owner, "object": str(op.get("object"))[:32]}
            self.parts.sink.emit(Event("vault.repair_forged", "alarm", fields))
            raise

    @staticmethod
    def _require(class_: str, bound: str) -> None:
        if class_ not in {"local", bound}:
            raise OrderRefused(f"this repair belongs to class {bound}", code="vault.wrong_class")

    def _attempt(self, owner: OwnerRecord, op: Json) -> Attempt:
        return self.attempts.get(owner.owner, str(op.get("attempt")))

    def _helper(self, owner: OwnerRecord, op: Json) -> Attempt:
        attempt = self._attempt(owner, op)
        if attempt.is_target:
            raise OrderRefused("the target does not help itself")
        return attempt

    def _target(self, owner: OwnerRecord, op: Json) -> Attempt:
        attempt = self._attempt(owner, op)
        if not attempt.is_target:
            raise OrderRefused(f"{self.parts.site} is not the target of this attempt")
        return attempt

    async def _stock(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:  # of every owner's
        """Say how much key this node could draw for other nodes, and who else sees it."""
        peers = op.get("peers")
        if not isinstance(peers, list) or len(peers) > _PEERS_MAX:
            raise Rejected(f"expected at most {_PEERS_MAX} peers", code="vault.bad_operation")
        links: Json = {}
        for peer in peers:
            try:
                status = await self.parts.keys.status(SaeId(peer))
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
        me = order.party(self.parts.site)
        if me.node != self.parts.node:
            raise OrderRefused("the order names another node of this site")
        secrets = open_secrets(self.parts.keys, order, me, self.parts.entropy)
        attempt = Attempt(order, me, str(op["class"]), secrets, self.parts.clock.now_s())
        judge = self._judged_by_target if attempt.is_target else self._judged_by_helper

        def begin(tx: SiteTransaction) -> ShareRow | None:
            found = judge(tx, order)
            if not tx.use_attempt(order.key, order.attempt):
                raise OrderRefused("this attempt was begun before", code="vault.repair_used")
            return found

        attempt.row = await self.parts.store.transact(begin)
        if attempt.is_target:
            attempt.row = None
        self.attempts.add(attempt)
        result: Json = {"contribution": self.parts.entropy.random_bytes(ELEMENT_BYTES).hex()}
        if attempt.is_target:
            result["staged"] = self.receiving.staged_prefix(order)
        elif isinstance(secrets, SessionSecrets):
            peers = [*order.slaves_of(self.parts.site), order.target]
            result["offers"] = {peer.site: await secrets.offer(peer) for peer in peers}
        return result, b""

    def _judged_by_helper(self, tx: SiteTransaction, order: RepairOrder) -> ShareRow | None:
        register = tx.register(order.owner, order.object_id)
        if register is None or register.committed_value is None:
            raise OrderStale(f"{self.parts.site} knows no committed value of this register")
        check_counted(order, read_value(register.committed_value))
        row = tx.share(order.key)
        if row is None:
            raise OrderStale(f"{self.parts.site} holds no share of this version", code="vault.no_share")
        terms = order.size_bytes, order.party(self.parts.site).x, len(order.helpers), order.masks
        recorded = row.size_bytes, row.x_index, row.threshold, row.mask_elements
        if recorded != terms or row.class_ not in {"local", order.class_}:
            raise OrderRefused(f"the share at {self.parts.site} is recorded otherwise than the order says")
        return row

    def _judged_by_target(self, tx: SiteTransaction, order: RepairOrder) -> ShareRow | None:
        """Judge as the target: one that was away may know nothing of the value yet; its helpers do."""
        if order.instead_of is not None:
            raise OrderRefused("a site cannot take another's place yet")
        register = tx.register(order.owner, order.object_id)
        text = register.committed_value if register is not None else None
        value = read_value(text) if text is not None else None
        if value is not None and value.counter >= order.counter:
            check_counted(order, value)
        row = tx.share(order.key)
        counts = order.counted or (value is not None and order.key in value.share_keys(order.owner, self.parts.site))
        if row is not None and counts and not order.replaces:
            raise OrderRefused(f"{self.parts.site} holds a share that counts, and nothing is said to be wrong with it")
        return row

    async def _meet(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Answer other nodes' offers (classes ``qkd`` and ``pqc``)."""
        attempt = self._attempt(owner, op)
        offers, secrets = texts_in(op, "offers"), attempt.secrets
        if not isinstance(secrets, SessionSecrets):
            raise OrderRefused("class its agrees on nothing")
        mine = attempt.order.helpers if attempt.is_target else attempt.order.masters_of(self.parts.site)
        peers = {peer.site: peer for peer in mine}
        return {
            "answers": {site: await secrets.accepted(peer_named(peers, site), offers[site]) for site in sorted(offers)}
        }, b""

    async def _met(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Take the answers to our offers."""
        attempt = self._helper(owner, op)
        answers, secrets = texts_in(op, "answers"), attempt.secrets
        if not isinstance(secrets, SessionSecrets):
            raise OrderRefused("class its agrees on nothing")
        peers = {peer.site: peer for peer in (*attempt.order.slaves_of(self.parts.site), attempt.order.target)}
        for site in sorted(answers):
            secrets.agreed(peer_named(peers, site), answers[site])
        return {}, b""

    async def _answer(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Answer the audit challenge of the repair."""
        attempt = self._attempt(owner, op)
        challenge = str(ObjectId(str(op.get("r"))))
        if attempt.row is None:
            raise OrderRefused("nothing is rebuilt yet")
        if attempt.is_target:
            return await self.receiving.answer(attempt, attempt.row, challenge, tables_in(op, "notes"))
        return await self.helping.answer(attempt, attempt.row, challenge)

    async def _abort(self, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Forget an attempt; with ``discard`` also what came of it, which nobody will go on with."""
        attempt = self.attempts.end(owner.owner, str(op.get("attempt")))
        if attempt is not None and attempt.is_target:
            await self.receiving.drop(attempt, discard=op.get("discard") is True)
        return {}, b""
