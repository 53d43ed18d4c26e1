"""The target's part in a repair: add up what the helpers gave, stage it, answer its audit, record it.

What is rebuilt lies beside what the site holds until the owner says that its audit passed; then it takes that place in
one step. Nothing of an attempt is recorded before, so a restart leaves the old state.

Audit masks stand in the share and are rebuilt with it, so answers of the old and the new copy count together: the
target's list of challenges goes on where it has it; a site that never counted starts with its helpers' lists; one that
lost its records answers nothing new in this epoch. The audit of the repair itself costs the target no answer, because
every helper has shown that it recorded the same challenge first.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from shosoin.base import Entropy
from shosoin.kernels import ELEMENT_BYTES, linear_map_into, new_buffer
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import ShareKey, ShareRow, ShareState, SiteTransaction
from shosoin.vault.quotas import OwnerRecord
from shosoin.vault.repair_attempts import Attempt, Chunk, NodeParts, merged_ranges
from shosoin.vault.repair_helper import range_in
from shosoin.vault.repair_keys import TAG_KEY_BYTES, RepairForged, check_tag
from shosoin.vault.repair_order import OrderRefused, OrderStale, Party, RepairOrder
from shosoin.vault.repair_wire import (
    UNKNOWN,
    Json,
    challenge_note,
    given_share,
    key_ids_in,
    read_challenges,
    tables_in,
)
from shosoin.vault.values import read_value

__all__ = ["Receiving"]

_CHALLENGES_TEXT_MAX = 16 << 10


class Receiving:
    """Steps of a target."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts
        self.staged: dict[ShareKey, list[tuple[int, int]]] = {}
        """Ranges of unfinished repairs, by share."""

    def staged_prefix(self, order: RepairOrder) -> int:
        """Return how many bytes from the start on are staged."""
        if not self._parts.quotas.holds(order.key):
            self.staged.pop(order.key, None)
        ranges = self.staged.get(order.key, [])
        return ranges[0][1] if ranges and ranges[0][0] == 0 else 0

    async def take(self, owner: OwnerRecord, attempt: Attempt, op: Json) -> tuple[Json, bytes]:
        """Add up what every helper gave for a range, and stage it."""
        order = attempt.order
        offset, size = range_in(attempt, op)
        parts = tables_in(op, "parts")
        if set(parts) != {helper.site for helper in order.helpers}:
            raise OrderRefused("not exactly the helpers of the order gave something")
        chunk = attempt.begin(offset, size)
        del attempt.chunks[offset]  # nothing of it waits here: the range is used, whatever comes of it
        inputs: list[Any] = []
        for helper in order.helpers:
            inputs += await self._opened(attempt, chunk, helper, parts[helper.site])
        share = new_buffer(size)
        await self._parts.runtime.in_thread(linear_map_into, [[1] * len(inputs)], inputs, [share])
        await self._parts.quotas.admit(owner, order.key, attempt.class_, offset + size)
        await self._parts.store.write(order.key, offset, share)
        self.staged[order.key] = merged_ranges([*self.staged.get(order.key, []), (offset, offset + size)])
        attempt.complete = attempt.complete or offset + size == order.size_bytes
        return {}, b""

    async def _opened(self, attempt: Attempt, chunk: Chunk, helper: Party, part: Json) -> tuple[bytes, memoryview]:
        """Return what a helper sealed and the pad that opens it, after checking its tag."""
        secret = memoryview(
            await attempt.secrets.take(helper, f"share {chunk.where}", key_ids_in(part), TAG_KEY_BYTES + chunk.size)
        )
        try:
            sealed = base64.b64decode(str(part.get("data")), validate=True)
        except ValueError:
            raise RepairForged("a message between two nodes failed its authentication") from None
        listed = str(part.get("challenges")).encode()
        if len(sealed) != chunk.size or len(listed) > _CHALLENGES_TEXT_MAX:
            raise RepairForged("a message between two nodes failed its authentication")
        check_tag(secret[:TAG_KEY_BYTES], part.get("tag"), *given_share(attempt, chunk, helper.site), listed, sealed)
        attempt.challenges.update(read_challenges(listed))
        return sealed, secret[TAG_KEY_BYTES:]

    async def seal(self, attempt: Attempt, entropy: Entropy) -> tuple[Json, bytes]:
        """Make what was rebuilt durable beside what there is; its audit answers count from here on."""
        order = attempt.order
        if attempt.row is None:
            if not attempt.complete:
                raise OrderRefused("the last range of the share did not come in this attempt")
            self.staged.pop(order.key, None)
            locator = await self._parts.store.finish(order.key, order.size_bytes)
            attempt.row = ShareRow(
                order.key,
                order.size_bytes,
                ShareState.STAGED,
                self._parts.clock.wall_s(),
                order.target.x,
                len(order.helpers),
                order.masks,
                locator,
                attempt.class_,
            )
            await self._parts.store.transact(lambda tx: _inherit(tx, attempt))
        return {"contribution": entropy.random_bytes(ELEMENT_BYTES).hex()}, b""

    async def answer(
        self, attempt: Attempt, row: ShareRow, challenge: str, notes: Mapping[str, Json]
    ) -> tuple[Json, bytes]:
        """Answer for a share that is not recorded yet, if every helper has recorded the same challenge."""
        for helper in attempt.order.helpers:
            note = notes.get(helper.site)
            if note is None:
                raise OrderRefused(f"{helper.site} has not answered this challenge")
            secret = await attempt.secrets.take(helper, f"note {challenge}", key_ids_in(note), TAG_KEY_BYTES)
            check_tag(secret, note.get("tag"), *challenge_note(attempt, challenge, helper.site))
        await self._parts.store.transact(lambda tx: tx.add_challenge(row.key, challenge))
        answer = await self._parts.digest(row, challenge)
        return {"size": len(answer)}, answer

    async def adopt(self, owner: OwnerRecord, attempt: Attempt) -> tuple[Json, bytes]:
        """Record what was rebuilt, in place of what there was, in one step.

        It is staged, like any share that the register does not count on yet; where it does, the share is committed, and
        where this site accepted a value that does, it stays pinned.
        """
        if attempt.row is None:
            raise OrderRefused("nothing is rebuilt yet")
        row, order = attempt.row, attempt.order
        row = row.with_state(await self._parts.store.transact(lambda tx: _state_of(tx, order)))
        (refusal,) = await self._parts.quotas.enter_all(owner, [row])
        if refusal is not None:
            raise refusal
        attempt.row, attempt.adopted = row, True
        return {"state": row.state.value}, b""

    async def drop(self, attempt: Attempt, *, discard: bool) -> None:
        """Drop what came of an attempt: what was not recorded, and, with ``discard``, also what was."""
        if attempt.adopted and discard:
            await self._parts.store.transact(lambda tx: _drop_adopted(tx, attempt))
        elif not attempt.adopted and (attempt.row is not None or discard):
            self.staged.pop(attempt.order.key, None)
            await self._parts.quotas.drop(attempt.order.key)


def _state_of(tx: SiteTransaction, order: RepairOrder) -> ShareState:
    """Return the state of a share by what the register here counts on.

    Raises:
        OrderStale: a newer value does not count on it any more; nobody would ever erase it.
    """
    register = tx.register(order.owner, order.object_id)
    if register is None:
        return ShareState.STAGED
    value = read_value(register.committed_value) if register.committed_value is not None else None
    counted = {(body.version, body.epoch) for body in value.bodies} if value is not None else set()
    if value is not None and value.counter > order.counter and (order.version, order.epoch) not in counted:
        raise OrderStale("the object got a new version, or was removed, while its share was rebuilt")
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
            tx.add_challenge(order.key, f"{UNKNOWN}{number}")
