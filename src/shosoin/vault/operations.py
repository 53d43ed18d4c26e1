"""Operations that a share node runs for an owner: shares in, shares out, digests, registers.

Wire names of operations and their fields are listed in ``docs/specs/vault-protocol.md``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from shosoin.base import Entropy, ObjectId, Rejected, SaeId, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Clock, EventSink, KeySource, Runtime
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.attestations import SiteKeys
from shosoin.vault.calls import (
    READ_BYTES_MAX,
    Call,
    Step,
    bytes_answered,
    number_of,
    raised,
    ranks,
    share_key,
    split_calls,
    told,
    within,
)
from shosoin.vault.concurrency import gather
from shosoin.vault.digest_operations import DigestAsked, Digests, answered_challenges
from shosoin.vault.layout import BODY_BYTES_MAX
from shosoin.vault.pads import fetch_pad
from shosoin.vault.ports import Buffer, ShareKey, ShareRow, ShareState, SiteStore, SiteTransaction
from shosoin.vault.quotas import OwnerRecord, StagingQuotas
from shosoin.vault.register_operations import RegisterCall, RegisterOperations, check_register, signature_sets
from shosoin.vault.repair_attempts import NodeParts
from shosoin.vault.repair_node import RepairNode
from shosoin.vault.repair_wire import json_bytes
from shosoin.vault.seals import Seals
from shosoin.vault.signing import SiteSigner
from shosoin.vault.values import read_value
from shosoin.vault.vanished import after_second_look

__all__ = ["OwnerRecord", "SiteOperations"]

_Run = Callable[[Sequence[Step]], Awaitable[Sequence[dict[str, Any] | ShosoinError]]]
_LOOKS = frozenset({"register"})
"""Steps that only read."""

_SMALL_BYTES = 64 << 10
"""Writes and seals of so few bytes do no file I/O before the commit, so running them side by side gains nothing."""


class SiteOperations:
    """Runs the operations of one envelope."""

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
        signer: SiteSigner,
        site_keys: SiteKeys,
    ) -> None:
        self._site = site
        self._store = store
        self._keys = keys
        self._entropy = entropy
        self._clock = clock
        self._runtime = runtime
        self._registers = RegisterOperations(site, signer, site_keys)
        self._steps: dict[str, Callable[[OwnerRecord, Call], Step]] = {
            **dict.fromkeys(self._registers.steps, self._register_step),
            "erase": self._erase,
            "inventory": self._inventory,
            "audits": self._audits,
        }
        """Operations that are one step on the records each."""
        self._batches: dict[str, Callable[[OwnerRecord, Sequence[Call]], Awaitable[None]]] = {
            "write": self._write_all,
            "seal": self._seal_all,
            "abort": self._abort_all,
            "read": self._read_all,
            "open": self._open_all,
            "digest": self._digest_all,
        }
        """Operations that are cheaper together."""
        self._handlers = {"take": self._take}
        self._digests = Digests(site, store, runtime)
        self._quotas = StagingQuotas(site, store, clock)
        self._seals: Seals[Call] = Seals(runtime, entropy)
        self._repair = RepairNode(
            NodeParts(
                site=site,
                node=node,
                store=store,
                keys=keys,
                entropy=entropy,
                clock=clock,
                runtime=runtime,
                sink=sink,
                quotas=self._quotas,
                challenged=self._digests.challenged,
                digest=self._digests.digest_of,
            )
        )
        self._handlers |= dict.fromkeys(self._repair.handlers, self._repair_one)

    async def run(
        self, owner: OwnerRecord, class_: str, operations: Any, payload: memoryview, answer_bytes: int
    ) -> tuple[dict[str, Any], list[Buffer]]:
        """Run all operations; those on one object in order, those on different objects side by side.

        Returns the header of the answer and its payload.

        Raises:
            MalformedEnvelope: no list of operations, or the payload does not fit them.
            Rejected: the answers would be longer than ``answer_bytes``, or signatures that cannot be read came along;
                nothing was run.
        """
        calls = split_calls(class_, operations, payload)
        sets = signature_sets([call.op for call in calls])
        for call in calls:
            if str(call.op.get("op")) in self._registers.steps:
                call.register = RegisterCall(owner, call.op, sets, call.require, call.room.attach)
        if sum(bytes_answered(call.op) for call in calls) > answer_bytes:
            raise Rejected("the answer is longer than the request allows", code="vault.answer_too_long")
        for rank in ranks(calls):
            await self._side_by_side(owner, rank)
        header = {"results": [call.result for call in calls], **self._signed(calls)}
        return header, [call.out for call in calls if call.out]

    def _signed(self, calls: Sequence[Call]) -> dict[str, Any]:
        """Sign what the operations promised and accepted, which is durable now; return what goes with the answer."""
        stated = [
            (call.result, call.register.statement)
            for call in calls
            if call.register is not None and call.register.statement is not None and call.result.get("granted") is True
        ]
        sets = calls[0].room.sets
        return {
            **({"signatures": self._registers.sign(stated)} if stated else {}),
            **({"sets": list(sets.values())} if sets else {}),
        }

    def _register_step(self, owner: OwnerRecord, call: Call) -> Step:
        if call.register is None:
            raise TypeError("an operation on a register that was not read as one")
        return self._registers.steps[str(call.op.get("op"))](call.register)

    async def _side_by_side(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Run operations on different objects: of each kind all together, kind after kind."""
        kinds: dict[str, list[Call]] = {}
        for call in calls:
            kinds.setdefault(str(call.op.get("op")), []).append(call)
        for kind, same in kinds.items():
            if kind in self._steps:
                run = self._store.look_each if kind in _LOOKS else self._store.transact_each
                await self._transact(owner, same, self._steps[kind], run)
            elif kind in self._batches:
                await self._batches[kind](owner, same)
            else:
                await gather(self._runtime, [self._one(owner, call) for call in same])

    async def _transact(
        self, owner: OwnerRecord, calls: Sequence[Call], make: Callable[[OwnerRecord, Call], Step], run: _Run
    ) -> None:
        """Run operations that are one step on the records each, all together."""
        ready: list[Call] = []
        steps: list[Step] = []
        for call in calls:
            with told(call):
                steps.append(partial(within, call.room, make(owner, call)))
                ready.append(call)
        for call, outcome in zip(ready, await run(steps), strict=True):
            with told(call):
                call.result = raised(outcome)

    async def _one(self, owner: OwnerRecord, call: Call) -> None:
        with told(call):
            if call.op.get("op") == "signatures":
                return  # they were read with the request
            handler = self._handlers.get(str(call.op.get("op")))
            if handler is None:
                raise Rejected("an operation this node does not know", code="vault.bad_operation")
            call.result = await handler(owner, call)

    async def _write_all(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Stage bytes: small ones one after the other, because they only go into memory."""
        large = [call for call in calls if len(call.data) > _SMALL_BYTES]
        for call in calls:
            if len(call.data) <= _SMALL_BYTES:
                await self._write(owner, call)
        await gather(self._runtime, [self._write(owner, call) for call in large])

    async def _write(self, owner: OwnerRecord, call: Call) -> None:
        with told(call):
            key, offset = share_key(owner, call.op), number_of(call.op, "offset", BODY_BYTES_MAX)
            await self._quotas.admit(owner, key, call.class_, offset + len(call.data))
            await self._store.write(key, offset, call.data)
            call.result = {}

    async def _take(self, owner: OwnerRecord, call: Call) -> dict[str, Any]:
        """Keep key-stream bits as this site's share (never also a pad)."""
        if call.class_ != "its":
            raise Rejected("keys become shares in class its alone", code="vault.bad_operation")
        offset, size = number_of(call.op, "offset", BODY_BYTES_MAX), number_of(call.op, "size", READ_BYTES_MAX, 1)
        ids = call.op.get("keys")
        if not isinstance(ids, list) or not ids or not all(isinstance(key_id, str) for key_id in ids):
            raise Rejected("take without key_IDs", code="vault.bad_operation")
        key = share_key(owner, call.op)
        await self._quotas.admit(owner, key, call.class_, offset + size)
        share = await fetch_pad(self._keys, SaeId(owner.owner), ids, size)
        await self._store.write(key, offset, share)
        return {}

    async def _seal_all(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Make shares durable, or join the seals of them that are in progress.

        Whoever repeats a seal may have repeated the writes before it; of a sealed share nothing stays staged.
        """
        joined = await self._seals.run(self._keyed(owner, calls), partial(self._seal_begun, owner))
        for call, key in joined:
            if "error" not in call.result:
                await self._quotas.drop(key)

    async def _seal_begun(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Make shares durable; the records of all of them share a commit."""
        known = await self._rows(owner, calls)
        missing = [call for call, row in known if row is None]
        large = [call for call in missing if _is_large(call.op.get("size"))]
        finished = [await self._finish(owner, call) for call in missing if call not in large]
        finished += await gather(self._runtime, [self._finish(owner, call) for call in large])
        done = [each for each in finished if each is not None]
        entered = await self._quotas.enter_all(owner, [row for _, row in done])
        for (call, _), outcome in zip(done, entered, strict=True):
            with told(call):
                raised(outcome)
        for call, row in known:
            with told(call):
                if row is not None:
                    call.require(row.class_)
                    _check_same(row, call.op)
                    await self._quotas.drop(row.key)
            if "error" not in call.result:
                key = share_key(owner, call.op)
                contribution = self._seals.contribution(key, fresh=row is None)
                call.result = {"commitment": contribution.commitment(key, self._site)}

    async def _finish(self, owner: OwnerRecord, call: Call) -> tuple[Call, ShareRow] | None:
        """Make staged bytes durable; ``None`` and an error in the call's result if that fails."""
        done: ShareRow | None = None
        with told(call):
            key, op = share_key(owner, call.op), call.op
            size, x_index, threshold, masks = _seal_terms(op)
            self._quotas.area(key, call.class_)  # may refuse; the bytes were admitted when they came
            locator = await self._store.finish(key, size)
            now_s = self._clock.wall_s()
            done = ShareRow(key, size, ShareState.STAGED, now_s, x_index, threshold, masks, locator, call.class_)
        return None if done is None else (call, done)

    def _abort_step(self, owner: OwnerRecord, call: Call) -> Step:
        key = share_key(owner, call.op)

        def drop(tx: SiteTransaction) -> dict[str, Any]:
            row = tx.share(key)
            if row is not None:
                call.require(row.class_)
            if row is not None and row.state is ShareState.STAGED:
                tx.delete_share(key)
            return {}

        return drop

    async def _abort_all(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Forget shares that nothing counts on; the record of one that is being sealed would come afterwards: wait."""
        keyed = self._keyed(owner, calls)
        await self._seals.forget([key for _, key in keyed])
        await self._transact(owner, calls, self._abort_step, self._store.transact_each)
        for call in calls:
            if "error" not in call.result:
                with told(call):
                    await self._quotas.forget(share_key(owner, call.op), call.class_)
        # A seal that began in between was admitted before the share was given up; no other can begin now.
        late = [(call, key) for call, key in keyed if "error" not in call.result and self._seals.runs(key)]
        await self._seals.forget([key for _, key in late])
        await self._transact(owner, [call for call, _ in late], self._abort_step, self._store.transact_each)

    async def _rows(self, owner: OwnerRecord, calls: Sequence[Call]) -> list[tuple[Call, ShareRow | None]]:
        """Look records of shares up; calls that cannot be read get their error and are left out."""
        ready = self._keyed(owner, calls)
        found = await self._store.look_each([partial(_share, key) for _, key in ready])
        rows: list[tuple[Call, ShareRow | None]] = []
        for (call, _), outcome in zip(ready, found, strict=True):
            with told(call):
                rows.append((call, raised(outcome)))
        return rows

    @staticmethod
    def _keyed(owner: OwnerRecord, calls: Sequence[Call]) -> list[tuple[Call, ShareKey]]:
        """Return calls with the shares they name; those that cannot be read get their error and are left out."""
        ready: list[tuple[Call, ShareKey]] = []
        for call in calls:
            with told(call):
                ready.append((call, share_key(owner, call.op)))
        return ready

    def _held(self, call: Call, row: ShareRow | None) -> ShareRow:
        if row is None:
            raise Unavailable(f"{self._site} holds no share of version {call.op.get('version')}", code="vault.no_share")
        call.require(row.class_)
        return row

    async def _read_all(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        ready: list[tuple[Call, ShareRow]] = []
        ranges: list[tuple[ShareRow, int, int]] = []
        for call, found in await self._rows(owner, calls):
            with told(call):
                row = self._held(call, found)
                offset, size = (
                    number_of(call.op, "offset", row.size_bytes),
                    number_of(call.op, "size", READ_BYTES_MAX, 1),
                )
                if offset + size > row.size_bytes:
                    raise Rejected("a range beyond the end of the share", code="vault.bad_operation")
                ranges.append((row, offset, size))
                ready.append((call, row))
        outcomes = await self._store.read_each(ranges)
        gone = await after_second_look(
            self._store, self._site, [(row, outcome) for (_, row), outcome in zip(ready, outcomes, strict=True)]
        )
        for index, ((call, row), outcome) in enumerate(zip(ready, outcomes, strict=True)):
            with told(call):
                content = gone.get(index, outcome)
                if isinstance(content, ShosoinError):
                    raise content
                call.out = content
                call.result = {"size": len(call.out), "x": row.x_index}

    async def _open_all(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Open what the seals of shares committed to, each for one set of commitments (see ``commitments``)."""
        for call, row in await self._rows(owner, calls):
            with told(call):
                key = self._held(call, row).key
                opening = self._seals.committed(key).open_for(call.op.get("commitments"), key, self._site)
                call.result = {"contribution": opening}

    async def _digest_all(self, owner: OwnerRecord, calls: Sequence[Call]) -> None:
        """Answer audit challenges (see ``digest_operations``)."""
        ready: list[tuple[Call, DigestAsked]] = []
        for call in calls:
            with told(call):
                challenge = ObjectId(str(call.op.get("r")))  # the same 32 hexadecimal digits
                ready.append((call, DigestAsked(share_key(owner, call.op), challenge, call.require)))
        answers = await self._digests.answer([asked for _, asked in ready])
        for (call, _), answer in zip(ready, answers, strict=True):
            with told(call):
                call.out = raised(answer)
                call.result = {"size": len(call.out)}

    def _audits(self, owner: OwnerRecord, call: Call) -> Step:
        """List the challenges answered for a share."""
        key = share_key(owner, call.op)
        return lambda tx: answered_challenges(tx, key, call.require)

    async def _repair_one(self, owner: OwnerRecord, call: Call) -> dict[str, Any]:
        result, call.out = await self._repair.run(owner, call.class_, call.op)
        call.room.take_bytes(json_bytes(result))
        return result

    def _erase(self, owner: OwnerRecord, call: Call) -> Step:
        """Erase shares of an object that its committed value no longer counts on."""
        object_id = ObjectId(str(call.op.get("object")))

        def erase(tx: SiteTransaction) -> dict[str, Any]:
            check_register(tx, owner.owner, object_id, call.require)
            held = tx.shares_of(owner.owner, object_id)
            row = tx.register(owner.owner, object_id)
            if row is None or row.committed_value is None:
                return {"erased": 0, "left": len(held)}
            kept = set(read_value(row.committed_value).share_keys(owner.owner, self._site))
            if row.accepted_value is not None and row.accepted_ballot > row.committed_ballot:
                kept.update(read_value(row.accepted_value).share_keys(owner.owner, self._site))
            old = [share.key for share in held if share.key not in kept and share.state is not ShareState.STAGED]
            for key in old:
                tx.delete_share(key)
            return {"erased": len(old), "left": len(held) - len(old)}

        return erase

    def _inventory(self, owner: OwnerRecord, call: Call) -> Step:
        """List an owner's shares at this site, page by page."""
        after, limit = str(call.op.get("after", "")), number_of(call.op, "limit", 1000, 1)

        def listed(tx: SiteTransaction) -> dict[str, Any]:
            rows = tx.list_shares(owner.owner, after, limit)
            return {
                "shares": [
                    [row.key.object_id, row.key.version, row.key.epoch, row.size_bytes, row.state.value] for row in rows
                ]
            }

        return listed


def _seal_terms(op: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return size, x, k and the number of mask elements that a seal names."""
    size = number_of(op, "size", BODY_BYTES_MAX, ELEMENT_BYTES)
    return size, number_of(op, "x", 16, 1), number_of(op, "k", 16, 2), number_of(op, "masks", size // ELEMENT_BYTES)


def _check_same(row: ShareRow, op: dict[str, Any]) -> None:
    """Refuse to call a share sealed that was sealed as something else."""
    sealed = row.size_bytes, row.x_index, row.threshold, row.mask_elements
    if _seal_terms(op) != sealed:
        raise Rejected("this share is sealed with another size, x, k or masks", code="vault.sealed_otherwise")


def _is_large(size: Any) -> bool:
    return type(size) is int and size > _SMALL_BYTES


def _share(key: ShareKey, tx: SiteTransaction) -> ShareRow | None:
    return tx.share(key)
