"""A helper's part in a repair: pads with the other helpers, then a combination for the target.

A helper gives ``lambda * y`` plus one pad for each other helper, under a pad shared with the target. It gives it once
for a range, and only after every other helper has shown the same order under a one-time MAC: helpers that were told
different targets would give away a second combination, and k-1 sites could open the object.
"""

from __future__ import annotations

import base64
from collections import Counter

from shosoin.kernels import ELEMENT_BYTES, linear_map_into, new_buffer
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import BODY_BYTES_MAX
from shosoin.vault.pads import Pad
from shosoin.vault.ports import ShareRow
from shosoin.vault.repair_attempts import CHUNK_BYTES_MAX, Attempt, Chunk, NodeParts
from shosoin.vault.repair_keys import TAG_KEY_BYTES, check_tag, tag_of
from shosoin.vault.repair_order import OrderRefused, Party
from shosoin.vault.repair_wire import (
    Json,
    challenge_note,
    given_share,
    key_ids_in,
    number_in,
    peer_named,
    shown_order,
    tables_in,
    texts_in,
)

__all__ = ["Helping", "range_in"]


def range_in(attempt: Attempt, op: Json) -> tuple[int, int]:
    """Return offset and size that an operation names.

    Raises:
        Rejected: they do not lie in the share, or the range is too long.
    """
    offset, size = number_in(op, "offset", BODY_BYTES_MAX), number_in(op, "size", CHUNK_BYTES_MAX, ELEMENT_BYTES)
    attempt.range_of(offset, size)
    return offset, size


class Helping:
    """Steps of a helper."""

    def __init__(self, parts: NodeParts) -> None:
        self._parts = parts

    async def pads(self, attempt: Attempt, op: Json) -> tuple[Json, bytes]:
        """Draw the pads of a range that this helper shares with those behind it, and show them its order."""
        chunk = attempt.begin(*range_in(attempt, op))
        pairs: Json = {}
        for peer in attempt.order.slaves_of(self._parts.site):
            pad = await attempt.secrets.give(peer, f"pad {chunk.where}", 2 * TAG_KEY_BYTES + chunk.size)
            chunk.drawn[peer.site] = pad
            tag = tag_of(pad.content[:TAG_KEY_BYTES], *shown_order(attempt, chunk, attempt.me, peer))
            pairs[peer.site] = {"keys": pad.key_ids, "tag": tag}
        return {"pairs": pairs}, b""

    async def check(self, attempt: Attempt, op: Json) -> tuple[Json, bytes]:
        """Fetch the pads that helpers before this one drew; keep those that came with the same order."""
        offset, size = range_in(attempt, op)
        chunk = attempt.chunk(offset, size)
        peers = {peer.site: peer for peer in attempt.order.masters_of(self._parts.site)}
        pairs: Json = {}
        for site, told in sorted(tables_in(op, "pairs").items()):
            peer = peer_named(peers, site)
            if site in chunk.pads:
                raise OrderRefused("a pad that was fetched already", code="vault.repair_used")
            secret = memoryview(
                await attempt.secrets.take(peer, f"pad {chunk.where}", key_ids_in(told), 2 * TAG_KEY_BYTES + size)
            )
            check_tag(secret[:TAG_KEY_BYTES], told.get("tag"), *shown_order(attempt, chunk, peer, attempt.me))
            chunk.pads[site] = secret[2 * TAG_KEY_BYTES :]
            back = secret[TAG_KEY_BYTES : 2 * TAG_KEY_BYTES]
            pairs[site] = tag_of(back, *shown_order(attempt, chunk, attempt.me, peer))
        return {"pairs": pairs}, b""

    async def help(self, attempt: Attempt, op: Json) -> tuple[Json, bytes]:
        """Give the target this helper's combination, once every other helper has shown the same order."""
        offset, size = range_in(attempt, op)
        chunk = attempt.chunks.pop(offset, None)
        if chunk is None or chunk.size != size:
            raise OrderRefused("no pads are ready for this range")
        tags = texts_in(op, "pairs")
        for peer in attempt.order.slaves_of(self._parts.site):
            self._confirm(attempt, chunk, peer, tags.get(peer.site))
        order, row = attempt.order, attempt.row
        if row is None or set(chunk.pads) != {helper.site for helper in order.helpers} - {self._parts.site}:
            raise OrderRefused("another helper has not shown its order")
        share = await self._parts.store.read(row, offset, size)
        link = await attempt.secrets.give(order.target, f"share {chunk.where}", TAG_KEY_BYTES + size)
        sealed = new_buffer(size)
        inputs = [share, *chunk.pads.values(), memoryview(link.content)[TAG_KEY_BYTES:]]
        weights = [order.weight_of(self._parts.site), *[1] * len(chunk.pads), 1]
        await self._parts.runtime.in_thread(linear_map_into, [weights], inputs, [sealed])
        challenges = await self._answered(attempt) if offset + size == order.size_bytes else []
        return self._sealed(attempt, chunk, link, sealed, challenges), b""

    def _confirm(self, attempt: Attempt, chunk: Chunk, peer: Party, tag: str | None) -> None:
        pad = chunk.drawn.pop(peer.site, None)
        if pad is None:
            raise OrderRefused("no pad was drawn for this range")
        content = memoryview(pad.content)
        back = content[TAG_KEY_BYTES : 2 * TAG_KEY_BYTES]
        check_tag(back, tag, *shown_order(attempt, chunk, peer, attempt.me))
        chunk.pads[peer.site] = content[2 * TAG_KEY_BYTES :]

    async def _answered(self, attempt: Attempt) -> list[str]:
        key = attempt.order.key
        return list(await self._parts.store.transact(lambda tx: list(tx.challenges(key))))

    def _sealed(self, attempt: Attempt, chunk: Chunk, link: Pad, sealed: memoryview, challenges: list[str]) -> Json:
        listed = canonical_json({"challenges": challenges})
        tag = tag_of(
            memoryview(link.content)[:TAG_KEY_BYTES], *given_share(attempt, chunk, self._parts.site), listed, sealed
        )
        return {
            "keys": link.key_ids,
            "tag": tag,
            "data": base64.b64encode(sealed).decode(),
            "challenges": listed.decode(),
            "origins": _origins(attempt),
        }

    async def answer(self, attempt: Attempt, row: ShareRow, challenge: str) -> tuple[Json, bytes]:
        """Record and answer the audit challenge of the repair, with a note to the target that this was done."""
        answer = await self._parts.challenged(row, challenge)
        note = await attempt.secrets.give(attempt.order.target, f"note {challenge}", TAG_KEY_BYTES)
        tag = tag_of(note.content, *challenge_note(attempt, challenge, self._parts.site))
        return {"size": len(answer), "keys": note.key_ids, "tag": tag}, answer


def _origins(attempt: Attempt) -> list[Json]:
    """Return where the keys drawn so far came from, for the label."""
    found: Counter[tuple[str, bool, float | None]] = Counter()
    for fact, count in attempt.secrets.facts.items():
        found[fact.kind, fact.simulated, fact.epsilon] += count
    return [
        {"kind": kind, "simulated": simulated, "epsilon": epsilon, "keys": count}
        for (kind, simulated, epsilon), count in sorted(found.items(), key=str)
    ]
