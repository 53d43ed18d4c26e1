"""Operations that a share node runs for an owner: shares in, shares out, digests, registers.

Wire names of operations and their fields are listed in ``docs/specs/vault-protocol.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shosoin.base import Entropy, ObjectId, Rejected, SaeId, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.base.errors import Alarm, Denied, PeerFault
from shosoin.base.ports import Clock, KeySource, Runtime
from shosoin.kernels import ELEMENT_BYTES, Digest
from shosoin.vault import acceptor
from shosoin.vault.concurrency import gather
from shosoin.vault.envelope import MalformedEnvelope
from shosoin.vault.layout import ANSWERS_PER_EPOCH, BODY_BYTES_MAX
from shosoin.vault.pads import fetch_pad
from shosoin.vault.ports import Buffer, ShareKey, ShareRow, ShareState, SiteStore, SiteTransaction
from shosoin.vault.quotas import OwnerRecord, StagingQuotas
from shosoin.vault.values import RegisterValue

__all__ = ["KINDS", "OwnerRecord", "SiteOperations"]

KINDS: dict[str, type[ShosoinError]] = {
    "rejected": Rejected,
    "denied": Denied,
    "unavailable": Unavailable,
    "peer_fault": PeerFault,
    "alarm": Alarm,
}
_OPERATIONS_MAX = 4096
_READ_BYTES_MAX = 8 << 20
_DIGEST_CHUNK_BYTES = 4 << 20


def kind_of(error: ShosoinError) -> str:
    """Return the wire name of an error's kind."""
    return next((name for name, kind in KINDS.items() if isinstance(error, kind)), "defect")


def _share_key(owner: OwnerRecord, op: dict[str, Any]) -> ShareKey:
    epoch = op.get("epoch", 0)
    if type(epoch) is not int or not 0 <= epoch < 1 << 31:
        raise Rejected("an epoch that cannot be read", code="vault.bad_operation")
    return ShareKey(owner.owner, ObjectId(str(op.get("object"))), VersionId(str(op.get("version"))), epoch)


def _number(op: dict[str, Any], name: str, high: int, low: int = 0) -> int:
    value = op.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Rejected(f"{name} must be a whole number from {low} to {high}", code="vault.bad_operation")
    return value


@dataclass(slots=True)
class _Call:
    """One operation with its slice of the payload, and what came of it."""

    op: dict[str, Any]
    data: memoryview
    result: dict[str, Any]
    class_: str
    out: bytes = b""

    def require(self, bound: str) -> None:
        """Refuse what came under another class: a forged certificate must not reach what class its protects."""
        if self.class_ not in {"local", bound}:
            raise Denied(
                f"this belongs to class {bound}, the request came under {self.class_}", code="vault.wrong_class"
            )


class SiteOperations:
    """Runs the operations of one envelope."""

    def __init__(
        self, site: SiteId, store: SiteStore, keys: KeySource, entropy: Entropy, clock: Clock, runtime: Runtime
    ) -> None:
        self._site = site
        self._store = store
        self._keys = keys
        self._entropy = entropy
        self._clock = clock
        self._runtime = runtime
        self._handlers = {
            "write": self._write,
            "take": self._take,
            "seal": self._seal,
            "abort": self._abort,
            "read": self._read,
            "digest": self._digest,
            "register": self._register,
            "prepare": self._prepare,
            "accept": self._accept,
            "commit": self._commit,
            "erase": self._erase,
            "inventory": self._inventory,
        }
        self._quotas = StagingQuotas(site, store, clock)

    async def run(
        self, owner: OwnerRecord, class_: str, operations: Any, payload: memoryview, answer_bytes: int
    ) -> tuple[list[dict[str, Any]], list[Buffer]]:
        """Run all operations; those on one object in order, others side by side.

        Raises:
            MalformedEnvelope: no list of operations, or the payload does not fit them.
            Rejected: the answers would be longer than ``answer_bytes``; nothing was run.
        """
        calls = _split(class_, operations, payload)
        if sum(_answer_bytes(call.op) for call in calls) > answer_bytes:
            raise Rejected("the answer is longer than the request allows", code="vault.answer_too_long")
        groups: dict[str, list[_Call]] = {}
        for call in calls:
            groups.setdefault(str(call.op.get("object", call.op.get("register"))), []).append(call)
        await gather(self._runtime, [self._in_order(owner, group) for group in groups.values()])
        return [call.result for call in calls], [call.out for call in calls if call.out]

    async def _in_order(self, owner: OwnerRecord, calls: list[_Call]) -> None:
        for call in calls:
            await self._one(owner, call)

    async def _one(self, owner: OwnerRecord, call: _Call) -> None:
        try:
            handler = self._handlers.get(str(call.op.get("op")))
            if handler is None:
                raise Rejected("an operation this node does not know", code="vault.bad_operation")
            if call.op["op"] == "take" and call.class_ != "its":
                raise Rejected("keys become shares in class its alone", code="vault.bad_operation")
            call.result = await handler(owner, call)
        except ShosoinError as error:
            call.out = b""
            call.result = {"error": {"kind": kind_of(error), "code": error.code, "message": error.message}}

    async def _write(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        key, offset = _share_key(owner, call.op), _number(call.op, "offset", BODY_BYTES_MAX)
        await self._quotas.admit(owner, key, call.class_, offset + len(call.data))
        await self._store.write(key, offset, call.data)
        return {}

    async def _take(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        """Keep key-stream bits as this site's share (never also a pad)."""
        offset, size = _number(call.op, "offset", BODY_BYTES_MAX), _number(call.op, "size", _READ_BYTES_MAX, 1)
        ids = call.op.get("keys")
        if not isinstance(ids, list) or not ids or not all(isinstance(key_id, str) for key_id in ids):
            raise Rejected("take without key_IDs", code="vault.bad_operation")
        key = _share_key(owner, call.op)
        await self._quotas.admit(owner, key, call.class_, offset + size)
        share = await fetch_pad(self._keys, SaeId(owner.owner), ids, size)
        await self._store.write(key, offset, share)
        return {}

    async def _seal(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        key, op = _share_key(owner, call.op), call.op
        size = _number(op, "size", BODY_BYTES_MAX, ELEMENT_BYTES)
        x_index, threshold = _number(op, "x", 16, 1), _number(op, "k", 16, 2)
        masks = _number(op, "masks", size // ELEMENT_BYTES)

        known = await self._store.transact(lambda tx: tx.share(key))
        if known is not None:
            call.require(known.class_)
        else:
            await self._quotas.admit(owner, key, call.class_, size)
            locator = await self._store.finish(key, size)
            row = ShareRow(
                key, size, ShareState.STAGED, self._clock.wall_s(), x_index, threshold, masks, locator, call.class_
            )
            await self._quotas.enter(owner, row)
        return {"contribution": self._entropy.random_bytes(ELEMENT_BYTES).hex()}

    async def _abort(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        """Forget a share that nothing counts on."""
        key = _share_key(owner, call.op)

        def drop(tx: SiteTransaction) -> None:
            row = tx.share(key)
            if row is not None:
                call.require(row.class_)
            if row is not None and row.state is ShareState.STAGED:
                tx.delete_share(key)

        await self._store.transact(drop)
        await self._quotas.forget(key, call.class_)
        return {}

    async def _row(self, owner: OwnerRecord, call: _Call) -> ShareRow:
        key = _share_key(owner, call.op)
        row = await self._store.transact(lambda tx: tx.share(key))
        if row is None:
            raise Unavailable(f"{self._site} holds no share of version {key.version}", code="vault.no_share")
        call.require(row.class_)
        return row

    async def _read(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        row = await self._row(owner, call)
        offset, size = _number(call.op, "offset", row.size_bytes), _number(call.op, "size", _READ_BYTES_MAX, 1)
        if offset + size > row.size_bytes:
            raise Rejected("a range beyond the end of the share", code="vault.bad_operation")
        call.out = await self._store.read(row, offset, size)
        return {"size": size, "x": row.x_index}

    async def _digest(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        """Answer an audit challenge: sum_j r^j y_j over the whole share, masks first.

        At most T different challenges are answered per share and epoch, each written down before it is answered.
        """
        row = await self._row(owner, call)
        challenge = str(call.op.get("r"))
        point = ObjectId(challenge).raw  # the same 32 hexadecimal digits
        if row.mask_elements < ANSWERS_PER_EPOCH:
            raise Rejected("this share has too few masks to answer an audit", code="vault.no_masks")

        def admit(tx: SiteTransaction) -> None:
            known = tx.challenges(row.key)
            if challenge in known:
                return
            if len(known) >= ANSWERS_PER_EPOCH:
                raise Rejected("all audit answers of this epoch are used", code="vault.audits_used")
            tx.add_challenge(row.key, challenge)

        await self._store.transact(admit)
        digest = Digest(point)
        for offset in range(0, row.size_bytes, _DIGEST_CHUNK_BYTES):
            size = min(_DIGEST_CHUNK_BYTES, row.size_bytes - offset)
            chunk = await self._store.read(row, offset, size)
            await self._runtime.in_thread(digest.update, chunk)
        call.out = digest.finish()
        return {"size": len(call.out)}

    async def _register(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        register_id = ObjectId(str(call.op.get("register")))
        return await self._store.transact(lambda tx: acceptor.read_register(tx, owner.owner, register_id))

    async def _prepare(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        register_id, ballot = ObjectId(str(call.op.get("register"))), acceptor.parse_ballot(call.op.get("ballot"))

        def step(tx: SiteTransaction) -> dict[str, Any]:
            self._check_register(tx, owner, register_id, call)
            return acceptor.prepare(tx, owner.owner, register_id, ballot)

        return await self._store.transact(step)

    @staticmethod
    def _check_register(tx: SiteTransaction, owner: OwnerRecord, register_id: ObjectId, call: _Call) -> None:
        """Refuse to change a register of another class."""
        row = tx.register(owner.owner, register_id)
        for text in (row.committed_value, row.accepted_value) if row else ():
            if text is not None:
                call.require(RegisterValue.parse(text).class_)

    def _value(self, owner: OwnerRecord, call: _Call) -> RegisterValue:
        value = RegisterValue.parse(str(call.op.get("value")))
        if value.owner != owner.owner or value.register_id != call.op.get("register"):
            raise Denied("the value belongs to another owner or register", code="vault.wrong_party")
        value.verify(owner.signing_public_key)
        call.require(value.class_)
        return value

    async def _accept(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        value, ballot = self._value(owner, call), acceptor.parse_ballot(call.op.get("ballot"))

        def step(tx: SiteTransaction) -> dict[str, Any]:
            self._check_register(tx, owner, value.register_id, call)
            return acceptor.accept(tx, self._site, owner.owner, value.register_id, ballot, value)

        return await self._store.transact(step)

    async def _commit(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        value, ballot = self._value(owner, call), acceptor.parse_ballot(call.op.get("ballot"))
        certificate = call.op.get("certificate")
        if not isinstance(certificate, list) or not set(map(str, certificate)) <= set(value.members):
            raise Rejected("a certificate that names other sites", code="vault.bad_certificate")
        sites = [str(site) for site in certificate]

        def step(tx: SiteTransaction) -> dict[str, Any]:
            self._check_register(tx, owner, value.register_id, call)
            return acceptor.commit(tx, self._site, owner.owner, value.register_id, ballot, value, certificate=sites)

        return await self._store.transact(step)

    async def _erase(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        """Erase shares of an object that its committed value no longer counts on."""
        object_id = ObjectId(str(call.op.get("object")))

        def erase(tx: SiteTransaction) -> dict[str, Any]:
            self._check_register(tx, owner, object_id, call)
            held = tx.shares_of(owner.owner, object_id)
            row = tx.register(owner.owner, object_id)
            if row is None or row.committed_value is None:
                return {"erased": 0, "left": len(held)}
            kept = set(RegisterValue.parse(row.committed_value).share_keys(owner.owner, self._site))
            if row.accepted_value is not None and row.accepted_ballot > row.committed_ballot:
                kept.update(RegisterValue.parse(row.accepted_value).share_keys(owner.owner, self._site))
            old = [share.key for share in held if share.key not in kept and share.state is not ShareState.STAGED]
            for key in old:
                tx.delete_share(key)
            return {"erased": len(old), "left": len(held) - len(old)}

        return await self._store.transact(erase)

    async def _inventory(self, owner: OwnerRecord, call: _Call) -> dict[str, Any]:
        """List an owner's shares at this site, page by page."""
        after, limit = str(call.op.get("after", "")), _number(call.op, "limit", 1000, 1)
        rows = await self._store.transact(lambda tx: tx.list_shares(owner.owner, after, limit))
        return {
            "shares": [
                [row.key.object_id, row.key.version, row.key.epoch, row.size_bytes, row.state.value] for row in rows
            ]
        }


def _answer_bytes(op: dict[str, Any]) -> int:
    """Return how much payload an operation answers with."""
    if op.get("op") == "read":
        return _number(op, "size", _READ_BYTES_MAX, 1)
    return ELEMENT_BYTES if op.get("op") == "digest" else 0


def _split(class_: str, operations: Any, payload: memoryview) -> list[_Call]:
    """Give each operation its slice of the payload (``write`` takes ``size`` bytes, others none)."""
    if not isinstance(operations, list) or not 0 < len(operations) <= _OPERATIONS_MAX:
        raise MalformedEnvelope(f"expected 1 to {_OPERATIONS_MAX} operations")
    calls, position = [], 0
    for op in operations:
        if not isinstance(op, dict):
            raise MalformedEnvelope("an operation that is not an object")
        size = _number(op, "size", len(payload) - position) if op.get("op") == "write" else 0
        calls.append(_Call(op, payload[position : position + size], {}, class_))
        position += size
    if position != len(payload):
        raise MalformedEnvelope("the payload is longer than its operations")
    return calls
