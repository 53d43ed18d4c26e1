"""Turning a stream of plaintext into a shared body: masks, padded segments with one-time MACs, pages, root."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from shosoin.base import Entropy, ObjectId, OwnerId, Rejected, VersionId
from shosoin.base.ports import Runtime
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.layout import BODY_BYTES_MAX, INLINE_ENTRIES, SEGMENT_BYTES, BodyLayout, mask_elements
from shosoin.vault.manifest import Manifest, SegmentEntry, encode_pages, encode_roots, page_hash, page_size
from shosoin.vault.naming import padme_bytes
from shosoin.vault.ports import Buffer, ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import OwnerSigner
from shosoin.vault.staging import CHUNK_BYTES, Stager

__all__ = ["BodyWriter", "ByteSource", "Draft", "Written", "draft_object", "finish_objects", "write_record"]


class ByteSource(Protocol):
    """Where plaintext comes from."""

    async def read(self, size_bytes: int) -> bytes:
        """Return up to ``size_bytes`` bytes; fewer only at the end, empty after it."""
        ...

    @property
    def size_hint(self) -> int | None:
        """Expected total length, if known."""
        ...


class SourceChanged(Rejected):
    """The file grew or shrank while it was read."""

    code = "vault.source_changed"
    hint = "nothing was stored; try again when nobody writes to the file"


@dataclass(frozen=True, slots=True)
class Written:
    """A body that has been handed to the stager, and its root."""

    layout: BodyLayout
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Draft:
    """A body that lacks its root, because the root is signed together with others."""

    writer: BodyWriter
    manifest: Manifest
    masks: int
    data_bytes: int

    @property
    def waiting_bytes(self) -> int:
        """Bytes that are kept in memory until the root is there."""
        return self.writer.waiting_bytes


class BodyWriter:
    """Feeds a body to the stager in chunks of the size it likes, joining smaller pieces."""

    def __init__(self, stager: Stager, key: ShareKey) -> None:
        self._stager = stager
        self._key = key
        self._pieces: list[Buffer] = []
        self.waiting_bytes = 0
        """Bytes that have not been handed to the stager yet."""
        self.offset = 0

    async def add(self, piece: Buffer) -> None:
        """Append a piece (a multiple of 16 bytes), which must not change any more."""
        if self.waiting_bytes + len(piece) > self._stager.chunk_bytes:
            await self._emit()
        self._pieces.append(piece)
        self.waiting_bytes += len(piece)

    async def finish(self, mask_count: int) -> None:
        """Send the rest and ask the sites to seal."""
        await self._emit()
        await self._stager.seal(self._key, self.offset, mask_count)

    async def _emit(self) -> None:
        if self._pieces:
            pieces, self._pieces, self.waiting_bytes = self._pieces, [], 0
            chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            await self._stager.write(self._key, self.offset, chunk)
            self.offset += len(chunk)


async def _read_full(source: ByteSource, size_bytes: int) -> bytes:
    """Read until ``size_bytes`` are there or the source ends."""
    piece = await source.read(size_bytes)
    if len(piece) == size_bytes or not piece:
        return piece
    pieces = [piece]
    total = len(piece)
    while total < size_bytes and (piece := await source.read(size_bytes - total)):
        pieces.append(piece)
        total += len(piece)
    return b"".join(pieces)


async def draft_object(
    stager: Stager,
    key: ShareKey,
    source: ByteSource,
    *,
    name: str,
    content_type: str,
    created_wall_s: float,
    scheme: Scheme,
    entropy: Entropy,
    runtime: Runtime,
    progress: Callable[[int], None] | None = None,
) -> Draft:
    """Share an object's body up to its root.

    Raises:
        SourceChanged: the source gave more or fewer bytes than it announced.
        Unavailable: too few sites remain, or the key streams are dry.
    """
    writer = BodyWriter(stager, key)
    masks = mask_elements(scheme)
    await writer.add(entropy.random_bytes(masks * ELEMENT_BYTES))
    entries: list[SegmentEntry] = []
    true_size = 0
    ended = False
    while not ended and (segment := await _read_full(source, SEGMENT_BYTES)):
        true_size += len(segment)
        ended = len(segment) < SEGMENT_BYTES  # what a source gives after its end (a terminal can) is not ours
        _check_growth(source, true_size)
        if ended:
            padded = padme_bytes(true_size)
            start = len(entries) * SEGMENT_BYTES
            segment += bytes(min(SEGMENT_BYTES, padded - start) - len(segment))
        await _add_segment(writer, segment, entries, entropy, runtime)
        if progress is not None:
            progress(true_size)
    if source.size_hint is not None and true_size != source.size_hint:
        raise SourceChanged(f"the source gave {true_size} bytes, expected {source.size_hint}")
    data = padme_bytes(true_size)
    while (start := len(entries) * SEGMENT_BYTES) < data:
        await _add_segment(writer, bytes(min(SEGMENT_BYTES, data - start)), entries, entropy, runtime)
    pages = encode_pages(key.object_id, key.version, entries, entropy)
    for page in pages:
        await writer.add(page)
    manifest = Manifest(
        object_id=key.object_id,
        version=key.version,
        owner=key.owner,
        name=name,
        size_bytes=true_size,
        content_type=content_type,
        created_wall_s=created_wall_s,
        segments=len(entries),
        inline=tuple(entries) if len(entries) <= INLINE_ENTRIES else (),
        page_hashes=tuple(page_hash(page) for page in pages),
    )
    return Draft(writer, manifest, masks, data)


async def finish_objects(drafts: Sequence[Draft], signer: OwnerSigner, entropy: Entropy) -> list[Written]:
    """Sign the manifests together, add the roots, ask the sites to seal; the stager still has to be drained."""
    written = []
    for draft, root in zip(drafts, encode_roots([each.manifest for each in drafts], signer, entropy), strict=True):
        await draft.writer.add(root)
        await draft.writer.finish(draft.masks)
        segments, pages = draft.manifest.segments, len(draft.manifest.page_hashes)
        layout = BodyLayout(draft.masks * ELEMENT_BYTES, draft.data_bytes, page_size(segments), pages, len(root))
        written.append(Written(layout, draft.manifest))
    return written


def _check_growth(source: ByteSource, true_size: int) -> None:
    if source.size_hint is not None and true_size > source.size_hint:
        raise SourceChanged(f"the source grew beyond the {source.size_hint} bytes it had")
    if true_size > BODY_BYTES_MAX // 2:
        raise Rejected(f"objects of more than {BODY_BYTES_MAX // 2} bytes are not taken", code="vault.too_large")


async def _add_segment(
    writer: BodyWriter, segment: Buffer, entries: list[SegmentEntry], entropy: Entropy, runtime: Runtime
) -> None:
    entries.append(await runtime.in_thread(SegmentEntry.of, segment, entropy))
    await writer.add(segment)


async def write_record(stager: Stager, key: ShareKey, record: bytes, *, scheme: Scheme, entropy: Entropy) -> BodyLayout:
    """Share a body that is nothing but masks and one AMD-coded record (index parts)."""
    writer = BodyWriter(stager, key)
    masks = mask_elements(scheme)
    await writer.add(entropy.random_bytes(masks * ELEMENT_BYTES))
    for at in range(0, len(record), CHUNK_BYTES // 2):
        await writer.add(record[at : at + CHUNK_BYTES // 2])
    await writer.finish(masks)
    return BodyLayout(masks * ELEMENT_BYTES, 0, 0, 0, len(record))


def new_key(owner: OwnerId, object_id: ObjectId | None, entropy: Entropy) -> ShareKey:
    """Return the key of a new version, of a new object unless one is given."""
    return ShareKey(
        owner,
        object_id or ObjectId.from_bytes(entropy.random_bytes(16)),
        VersionId.from_bytes(entropy.random_bytes(16)),
        0,
    )
