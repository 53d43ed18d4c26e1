"""A share node's answers to audit challenges: many shares at once, each challenge written down before it is answered.

The digest of a share is sum_j r^j y_j over all of it, audit masks first. A site answers at most T different r for a
share and epoch, because T answers are what its masks hide; a repeated r is answered again. All challenges of a request
are written down in one commit. Small shares are read and digested together in one thread, large ones in chunks.

What it answers is linear in the share: it tells nothing only while masks are left (see ``layout.mask_elements``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Runtime
from shosoin.kernels import Digest, digest
from shosoin.vault.concurrency import gather_few
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import Buffer, ShareKey, ShareRow, SiteStore, SiteTransaction
from shosoin.vault.vanished import after_second_look

__all__ = ["AuditsUsed", "DigestAsked", "Digests", "answered_challenges"]

_CHUNK_BYTES = 4 << 20
_SMALL_BYTES = 64 << 10
"""Shares that stores read without a seek of their own; more of them than a chunk holds are never in memory."""
_ADMITTED_TOGETHER = 512
"""A step on the records should be short."""
_LARGE_TOGETHER = 4
"""Each holds a chunk in memory."""


class AuditsUsed(Rejected):
    """All audit answers of this share and epoch are given."""

    code = "vault.audits_used"


@dataclass(frozen=True, slots=True)
class DigestAsked:
    """One challenge for one share."""

    key: ShareKey
    challenge: str
    """r as 32 hexadecimal digits."""
    permit: Callable[[str], None]
    """Raises when shares of the class that it is given are not for whoever asks."""

    @property
    def point(self) -> bytes:
        """R as 16 bytes."""
        return ObjectId(self.challenge).raw


class Digests:
    """Digests of one site's shares."""

    def __init__(self, site: SiteId, store: SiteStore, runtime: Runtime) -> None:
        self._site = site
        self._store = store
        self._runtime = runtime

    async def answer(self, asked: Sequence[DigestAsked]) -> list[bytes | ShosoinError]:
        """Return the digest of each share, or why there is none."""
        rows: list[ShareRow | ShosoinError] = []
        for at in range(0, len(asked), _ADMITTED_TOGETHER):
            some = asked[at : at + _ADMITTED_TOGETHER]
            rows += await self._store.transact(partial(self._admit_all, some))
        answers: list[bytes | ShosoinError] = [row if isinstance(row, ShosoinError) else b"" for row in rows]
        held = [(index, row) for index, row in enumerate(rows) if not isinstance(row, ShosoinError)]
        for batch in _batches([pair for pair in held if pair[1].size_bytes <= _SMALL_BYTES]):
            points = [asked[index].point for index, _ in batch]
            for (index, _), answer in zip(batch, await self._small([row for _, row in batch], points), strict=True):
                answers[index] = answer
        large = [pair for pair in held if pair[1].size_bytes > _SMALL_BYTES]
        works = [self._large(row, asked[index].point) for index, row in large]
        for (index, _), answer in zip(
            large, await gather_few(self._runtime, works, at_once=_LARGE_TOGETHER), strict=True
        ):
            answers[index] = answer
        gone = await after_second_look(self._store, self._site, [(row, answers[index]) for index, row in held])
        for place, error in gone.items():
            answers[held[place][0]] = error
        return answers

    async def challenged(self, row: ShareRow, challenge: str) -> bytes:
        """Write a challenge for one share down, within the limit, and return the digest.

        Raises:
            AuditsUsed: the limit is reached.
            Rejected, Unavailable: there is no such share any more, or it has no masks.
        """
        (answer,) = await self.answer([DigestAsked(row.key, challenge, lambda _: None)])
        if isinstance(answer, ShosoinError):
            raise answer
        return answer

    async def digest_of(self, row: ShareRow, challenge: str) -> bytes:
        """Return a digest that nothing is written down for: of bytes that are no share yet."""
        answer = await self._large(row, ObjectId(challenge).raw)
        if isinstance(answer, ShosoinError):
            raise answer
        return answer

    def _admit_all(self, asked: Sequence[DigestAsked], tx: SiteTransaction) -> list[ShareRow | ShosoinError]:
        """Admit several in one step; one that is refused wrote nothing, so nothing has to be undone for it."""
        rows: list[ShareRow | ShosoinError] = []
        for one in asked:
            try:
                rows.append(self._admit(one, tx))
            except ShosoinError as error:
                rows.append(error)
        return rows

    def _admit(self, asked: DigestAsked, tx: SiteTransaction) -> ShareRow:
        """Write a challenge down if it may be answered, and return the share's record."""
        row = tx.share(asked.key)
        if row is None:
            raise Unavailable(f"{self._site} holds no share of version {asked.key.version}", code="vault.no_share")
        asked.permit(row.class_)
        if row.mask_elements < ANSWERS_PER_EPOCH:
            raise Rejected("this share has too few masks to answer an audit", code="vault.no_masks")
        known = tx.challenges(row.key)
        if asked.challenge in known:
            return row
        if len(known) >= ANSWERS_PER_EPOCH:
            raise AuditsUsed("all audit answers of this epoch are used")
        tx.add_challenge(row.key, asked.challenge)
        return row

    async def _small(self, rows: Sequence[ShareRow], points: Sequence[bytes]) -> list[bytes | ShosoinError]:
        found = await self._store.read_each([(row, 0, row.size_bytes) for row in rows])
        return await self._runtime.in_thread(_digested, found, points)

    async def _large(self, row: ShareRow, point: bytes) -> bytes | ShosoinError:
        total = Digest(point)
        try:
            for offset in range(0, row.size_bytes, _CHUNK_BYTES):
                chunk = await self._store.read(row, offset, min(_CHUNK_BYTES, row.size_bytes - offset))
                await self._runtime.in_thread(total.update, chunk)
        except ShosoinError as error:
            return error
        return total.finish()


def answered_challenges(tx: SiteTransaction, key: ShareKey, permit: Callable[[str], None]) -> dict[str, str]:
    """Return the challenges answered for a share: public, because whoever asked chose them."""
    row = tx.share(key)
    if row is not None:
        permit(row.class_)
    return {"answered": " ".join(tx.challenges(key))}


def _digested(found: Sequence[Buffer | ShosoinError], points: Sequence[bytes]) -> list[bytes | ShosoinError]:
    return [
        share if isinstance(share, ShosoinError) else digest(point, share)
        for share, point in zip(found, points, strict=True)
    ]


def _batches(pairs: Sequence[tuple[int, ShareRow]]) -> list[list[tuple[int, ShareRow]]]:
    """Group shares so that a group fits into a chunk."""
    batches: list[list[tuple[int, ShareRow]]] = []
    left_bytes = 0
    for index, row in pairs:
        if row.size_bytes > left_bytes or not batches:
            batches.append([])
            left_bytes = _CHUNK_BYTES
        batches[-1].append((index, row))
        left_bytes -= row.size_bytes
    return batches
