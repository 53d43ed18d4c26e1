"""Reading objects back: manifest first, then segments, every byte checked before it is handed on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from shosoin.base import Alarm, OwnerId, Rejected, SiteId
from shosoin.base.ports import Runtime, Task
from shosoin.vault.fetching import Fetcher, Range
from shosoin.vault.layout import PAGE_ENTRIES, SEGMENT_BYTES
from shosoin.vault.manifest import Manifest, SegmentEntry, decode_page, decode_root
from shosoin.vault.ports import ShareKey
from shosoin.vault.values import Body, RegisterValue

__all__ = ["ObjectReader"]

SMALL_BYTES = 2 << 20
"""Objects whose data and manifest fit are read in one exchange per site."""
_TOGETHER = 4
"""Segments fetched in one exchange per site."""
_AHEAD = 2
"""Exchanges under way beside the one whose segments are being used."""


class PageInvalid(Alarm):
    """A manifest page that the shares do not yield."""

    code = "vault.page_invalid"


@dataclass(slots=True)
class ObjectReader:
    """Reads one version of one object."""

    value: RegisterValue
    owner: OwnerId
    fetcher: Fetcher
    public_key: bytes
    runtime: Runtime
    _manifest: Manifest | None = None
    _whole: memoryview | None = None

    @property
    def body(self) -> Body:
        """The object's body."""
        return self.value.bodies[0]

    @property
    def key(self) -> ShareKey:
        """The key of its shares."""
        return ShareKey(self.owner, self.value.register_id, self.body.version, self.body.epoch)

    def root_of(self, coded: memoryview) -> Manifest | None:
        """Decode a root, or ``None``."""
        return decode_root(coded, self.value.register_id, self.body.version, self.public_key)

    async def manifest(self) -> Manifest:
        """Return the manifest root; small objects are fetched whole on the way."""
        if self._manifest is None:
            if self._is_small():
                wanted = self.whole_range()
                self.take_whole((await self.fetcher.fetch([wanted]))[0])
            else:
                root = (await self.fetcher.fetch([self._root_range()]))[0]
                self._manifest = self.root_of(root)
        if self._manifest is None:
            raise PageInvalid("the manifest root could not be read")
        return self._manifest

    def bytes_from_each_site(self, start: int, length: int | None) -> int:
        """Return an upper bound for what a site sends while a range of the plaintext is read."""
        layout = self.body.layout
        if self._is_small():
            return layout.total - layout.masks
        stop = layout.data if length is None else min(start + length, layout.data)
        first, last = start // SEGMENT_BYTES, -(-stop // SEGMENT_BYTES)
        if last <= first:
            return layout.root
        pages = (last - 1) // PAGE_ENTRIES - first // PAGE_ENTRIES + 1 if layout.pages else 0
        return layout.root + pages * layout.page_bytes + (last - first) * SEGMENT_BYTES

    def _is_small(self) -> bool:
        layout = self.body.layout
        return layout.total - layout.masks <= SMALL_BYTES and not layout.pages

    def whole_range(self) -> Range:
        """Return data and root as one range, checked together."""
        layout = self.body.layout
        return Range(
            self.key, self.body, layout.data_offset, layout.total - layout.masks, self._whole_holds, "whole object"
        )

    def take_whole(self, clear: memoryview) -> None:
        """Keep what ``whole_range`` fetched."""
        self._whole = clear
        self._manifest = self.root_of(clear[self.body.layout.data :])

    def _whole_holds(self, clear: memoryview) -> bool:
        layout = self.body.layout
        manifest = self.root_of(clear[layout.data :])
        if manifest is None or len(manifest.inline) != layout.segments:
            return False
        return all(
            entry.holds(clear[index * SEGMENT_BYTES : min((index + 1) * SEGMENT_BYTES, layout.data)])
            for index, entry in enumerate(manifest.inline)
        )

    def _root_range(self) -> Range:
        layout = self.body.layout
        return Range(
            self.key,
            self.body,
            layout.root_offset,
            layout.root,
            lambda coded: self.root_of(coded) is not None,
            "manifest root",
        )

    def page_range(self, manifest: Manifest, index: int) -> Range:
        """Return the range of a manifest page."""
        offset, size = self.body.layout.page(index)
        return Range(
            self.key,
            self.body,
            offset,
            size,
            lambda coded: self._page(manifest, index, coded) is not None,
            f"manifest page {index}",
        )

    def _page(self, manifest: Manifest, index: int, coded: memoryview) -> tuple[SegmentEntry, ...] | None:
        return decode_page(coded, self.value.register_id, self.body.version, index, manifest.page_hashes[index])

    async def entries(self, manifest: Manifest, page: int) -> Sequence[SegmentEntry]:
        """Return the segment entries of a page (page 0 of a small object is inline)."""
        if manifest.inline:
            return manifest.inline
        if page >= len(manifest.page_hashes):
            raise PageInvalid(f"the manifest names {len(manifest.page_hashes)} pages, not {page + 1}")
        coded = (await self.fetcher.fetch([self.page_range(manifest, page)]))[0]
        entries = self._page(manifest, page, coded)
        if entries is None:
            raise PageInvalid(f"manifest page {page} could not be read")
        return entries

    def segment_range(self, index: int, entry: SegmentEntry) -> Range:
        """Return the range of a segment."""
        offset, size = self.body.layout.segment(index)
        return Range(self.key, self.body, offset, size, entry.holds, f"segment {index}")

    async def segments(self, start: int, stop: int) -> AsyncIterator[memoryview]:
        """Yield segments ``start`` to ``stop``-1 in order, a few ahead of the consumer."""
        manifest = await self.manifest()
        if self._whole is not None:
            for index in range(start, stop):
                yield self._whole[index * SEGMENT_BYTES : min((index + 1) * SEGMENT_BYTES, self.body.layout.data)]
            return
        running: list[Task[list[memoryview]]] = []
        batch: list[Range] = []
        page = -1
        entries: Sequence[SegmentEntry] = ()
        try:
            for index in range(start, stop):
                if index // PAGE_ENTRIES != page:
                    page = index // PAGE_ENTRIES
                    entries = await self.entries(manifest, page)
                entry = entries[index - page * PAGE_ENTRIES]
                batch.append(self.segment_range(index, entry))
                if len(batch) == _TOGETHER or index == stop - 1:
                    running.append(self.runtime.start(self.fetcher.fetch(batch)))
                    batch = []
                if len(running) > _AHEAD:
                    for segment in await self._first(running):
                        yield segment
            while running:
                for segment in await self._first(running):
                    yield segment
        finally:
            for task in running:
                task.cancel()

    async def _first(self, running: list[Task[list[memoryview]]]) -> list[memoryview]:
        await self.runtime.wait([running[0]], timeout_s=None, first=False)
        return running.pop(0).result()

    async def read(self, start: int, length: int | None) -> AsyncIterator[memoryview]:
        """Yield the bytes of a range of the plaintext.

        Raises:
            Rejected: the range starts beyond the end.
        """
        manifest = await self.manifest()
        if start > manifest.size_bytes or start < 0 or (length is not None and length < 0):
            raise Rejected(
                f"a range from byte {start} of an object of {manifest.size_bytes} bytes", code="vault.bad_range"
            )
        stop = manifest.size_bytes if length is None else min(start + length, manifest.size_bytes)
        if stop <= start:
            return
        first, last = start // SEGMENT_BYTES, -(-stop // SEGMENT_BYTES)
        position = first * SEGMENT_BYTES
        async for segment in self.segments(first, last):
            yield segment[max(start - position, 0) : stop - position]
            position += SEGMENT_BYTES

    async def verify(self, placement: Sequence[SiteId], progress: Callable[[int], None] | None) -> dict[SiteId, str]:
        """Read every share of every part and return each site's state."""
        states: dict[SiteId, str] = dict.fromkeys(placement, "ok")
        manifest = await self.manifest()
        async for wanted in self._parts(manifest):
            answers = await self.fetcher.fetch_all_shares([wanted])
            for site, error in answers.errors.items():
                _worsen(states, site, _STATES.get(error.code, "unreachable"))
            for site in await self.fetcher.disagreeing(0, wanted, answers):
                _worsen(states, site, "wrong")
            if progress is not None:
                progress(wanted.offset + wanted.size)
        return states

    async def _parts(self, manifest: Manifest) -> AsyncIterator[Range]:
        yield self._root_range()
        for page in range(max(len(manifest.page_hashes), 1)):
            if manifest.page_hashes:
                yield self.page_range(manifest, page)
            for offset, entry in enumerate(await self.entries(manifest, page)):
                yield self.segment_range(page * PAGE_ENTRIES + offset, entry)


_STATES = {"vault.share_damaged": "damaged", "vault.no_share": "missing", "vault.seal_broken": "wrong"}
_ORDER = ("ok", "unreachable", "missing", "damaged", "wrong")


def _worsen(states: dict[SiteId, str], site: SiteId, state: str) -> None:
    if _ORDER.index(state) > _ORDER.index(states[site]):
        states[site] = state
