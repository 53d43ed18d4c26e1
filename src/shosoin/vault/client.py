"""The vault as an owner uses it: put, get, ls, stat, rm, verify, audit.

``Vault`` decides the order of things and nothing else: shares are durable before the register counts on them, the
register is committed before the index names the object, and old versions are erased after both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from shosoin.base import AssuranceLabel, ObjectId, Rejected, SiteId, Unavailable, VersionId
from shosoin.base.ports import KeyStatus
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.assurance import label_of
from shosoin.vault.audit import audit_values
from shosoin.vault.catalog import UNPROVEN, Reading
from shosoin.vault.concurrency import gather_few
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.deal_check import sites_needed
from shosoin.vault.exposure import checked_statuses, link_statuses
from shosoin.vault.fetching import Fetcher, NotRecoverable
from shosoin.vault.index import Entry
from shosoin.vault.layout import PAGE_ENTRIES, SEGMENT_BYTES, mask_elements
from shosoin.vault.manifest import page_size, root_size
from shosoin.vault.moving import Moved, move_objects
from shosoin.vault.names import Names, index_sites_needed
from shosoin.vault.naming import BadName, checked_name, padme_bytes
from shosoin.vault.ports import Buffer
from shosoin.vault.putting import BytesSource, Putter, erase_everywhere, remove_objects
from shosoin.vault.reading import ObjectReader
from shosoin.vault.receipts import GetReceipt, KeyPlan, Listing, PutReceipt, RemoveReceipt, Stat, VerifyReport
from shosoin.vault.scheme import Scheme
from shosoin.vault.session import QKD_KEY_BYTES
from shosoin.vault.unnamed import remove_unnamed
from shosoin.vault.values import RegisterValue
from shosoin.vault.writing import ByteSource

__all__ = ["ByteSink", "Vault"]

_OVERHEAD_BYTES = 16384
"""Index part, root, one-time MAC keys of the exchanges of a put: an upper bound for a small index."""
_MAC_BYTES_PER_SEGMENT = 160
_READ_OVERHEAD_BYTES = 1024
"""One-time MAC keys of the exchanges of a get."""
_READ_TOGETHER_BYTES = 2 << 20
_READ_TOGETHER = 64
_BATCHES = 2
"""Batches that are read side by side, so that owner and sites work at the same time."""
_AUDITED_TOGETHER = 256
_READ_ATTEMPTS = 4


class ByteSink(Protocol):
    """Where plaintext goes."""

    async def write(self, data: Buffer) -> None:
        """Take the next bytes."""
        ...


class ReplacedMeanwhile(Unavailable):
    """The object got a new version while it was read."""

    code = "vault.replaced_meanwhile"
    hint = "read it again from the start"


class NotFound(Rejected):
    """No object of that name."""

    code = "vault.not_found"
    hint = "`shosoin ls` shows the names that exist"


class Vault:
    """One owner's objects over that owner's sites."""

    def __init__(self, context: VaultContext) -> None:
        self._context = context
        self._names = Names(context)

    async def plan(self, size_bytes: int, *, scheme: Scheme | None = None, class_: str = "its") -> KeyPlan:
        """Return the key bits that a put of so many bytes takes per remote site, the stock, and the wait.

        The figure is an upper bound; one reading of the object later takes about as much again at k-1 sites.
        """
        context = self._context
        scheme = scheme or context.default_scheme
        if class_ == "pqc":
            return KeyPlan(class_, {}, {}, 0.0)
        if class_ == "its":
            statuses = await checked_statuses(context, context.placement(scheme), scheme)
        else:
            statuses = await link_statuses(context)
        return self._plan_of(statuses, size_bytes, scheme, class_)

    def _plan_of(self, statuses: Mapping[SiteId, KeyStatus], size_bytes: int, scheme: Scheme, class_: str) -> KeyPlan:
        context = self._context
        need = self._key_need_bits(size_bytes, scheme) if class_ == "its" else 8 * QKD_KEY_BYTES
        placement = context.placement(scheme)
        remote = [site for site in placement if site != context.home]
        statuses = {site: statuses[site] for site in remote if site in statuses}
        waits: list[float | None] = [0.0 if len(statuses) == len(remote) else None]
        waits += [_wait_s(status, need) for status in statuses.values()]
        return KeyPlan(
            class_,
            dict.fromkeys(remote, need),
            {site: statuses[site].stored_bits if site in statuses else 0 for site in remote},
            None if None in waits else max(wait for wait in waits if wait is not None),
        )

    @staticmethod
    def _key_need_bits(size_bytes: int, scheme: Scheme) -> int:
        """Return the key bits that a put in class ``its`` takes on each link."""
        data = padme_bytes(size_bytes)
        segments = -(-data // SEGMENT_BYTES)
        pages = -(-segments // PAGE_ENTRIES) if page_size(segments) else 0
        body = data + mask_elements(scheme) * ELEMENT_BYTES + pages * page_size(segments) + root_size(segments, pages)
        return 8 * (body + _OVERHEAD_BYTES + segments * _MAC_BYTES_PER_SEGMENT)

    async def put(
        self,
        source: ByteSource,
        name: str,
        *,
        scheme: Scheme | tuple[int, int] | None = None,
        class_: str = "its",
        content_type: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> PutReceipt:
        """Store an object under a name; an object of that name gets a new version.

        Raises:
            BadName, BadScheme: before anything is read or drawn.
            Unavailable: too few sites or too little key (``retry_after_s`` where known); nothing was committed.
            Conflict: another writer was faster; that writer's version stands, whole.
            SourceChanged: the file grew or shrank while it was read.
        """
        name = checked_name(name)
        chosen = self._scheme(scheme)
        self._context.channels(class_)
        if class_ == "its":
            await self._check_stock([source.size_hint or 0], chosen)
        used_before = self._context.bits_used()
        await self._names.load()
        putter = Putter(self._context, self._names, chosen, class_)
        return (await putter.put({name: source}, content_type, progress, used_before=used_before))[0]

    async def put_many(
        self,
        contents: Mapping[str, bytes],
        *,
        scheme: Scheme | tuple[int, int] | None = None,
        class_: str = "its",
    ) -> list[PutReceipt]:
        """Store many small objects with shared exchanges and one index commit."""
        chosen = self._scheme(scheme)
        sources = {checked_name(name): BytesSource(content) for name, content in contents.items()}
        if len(sources) < len(contents):
            raise BadName("two of the names are one name in normal form C")
        if class_ == "its":
            await self._check_stock(list(map(len, contents.values())), chosen)
        used_before = self._context.bits_used()
        await self._names.load()
        return await Putter(self._context, self._names, chosen, class_).put(sources, used_before=used_before)

    async def get(
        self,
        name: str,
        sink: ByteSink,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> GetReceipt:
        """Write an object, or a range of it, to a sink; every byte is checked before it is written.

        A site that lies is named in ``alarms``; the right bytes are served all the same while k good shares answer.

        Raises:
            NotFound: no object of that name.
            Unavailable: fewer than k sites answer, or too little key is in stock (then no key was used).
            NotRecoverable: more sites lie than the scheme survives; nothing wrong was written.
        """
        started_s = self._context.clock.now_s()
        used_before = self._context.bits_used()
        name = checked_name(name)
        for _ in range(_READ_ATTEMPTS):
            reading, value = await self._object(name)
            reader = self._reader(value)
            if value.class_ == "its":
                reader.fetcher.last = await self._without_stock(value, reader.bytes_from_each_site(start, length))
            written = 0
            try:
                async for piece in reader.read(start, length):
                    await sink.write(piece)
                    written += len(piece)
                    if progress is not None:
                        progress(written)
            except (Unavailable, NotRecoverable) as error:
                replaced = await self._replaced(value)
                reader.fetcher.publish(replaced=replaced)
                if not replaced:
                    raise
                if written:
                    raise ReplacedMeanwhile(f"{name!r} got a new version after {written} bytes were read") from error
                continue
            missing = any(alarm.fields["kind"] == "share_missing" for alarm in reader.fetcher.alarms)
            alarms = reader.fetcher.publish(replaced=missing and await self._replaced(value))
            return GetReceipt(
                name=name,
                size_bytes=written,
                seconds=self._context.clock.now_s() - started_s,
                key_bits_used={
                    site: bits - used_before.get(site, 0) for site, bits in self._context.bits_used().items()
                },
                sites_used=sorted(reader.fetcher.sites_used),
                alarms=[*self._names.alarms, *alarms],
                label=self._label(name, value, reading),
                freshness=reading.freshness,
            )
        raise ReplacedMeanwhile(f"{name!r} is replaced faster than it can be read")

    async def _replaced(self, value: RegisterValue) -> bool:
        """Whether the object has another version than ``value`` by now."""
        reading = await self._context.catalog.read(self._context.channels(value.class_), value.register_id)
        return reading.value is None or reading.value.version != value.version

    async def get_many(self, names: list[str]) -> dict[str, bytes]:
        """Return many small objects with shared exchanges.

        Raises:
            NotFound: one of the names does not exist.
        """
        entries = await self._names.load()
        asked = {name: checked_name(name) for name in names}
        for name in asked.values():
            if name not in entries:
                raise NotFound(f"there is no object named {name!r}")
        by_class: dict[str, list[Entry]] = {}
        for name in set(asked.values()):
            by_class.setdefault(entries[name].class_, []).append(entries[name])
        works = [
            self._get_batch(class_, wanted[at : at + _READ_TOGETHER])
            for class_, wanted in by_class.items()
            for at in range(0, len(wanted), _READ_TOGETHER)
        ]
        found: dict[str, bytes] = {}
        for batch in await gather_few(self._context.runtime, works, at_once=_BATCHES):
            found |= batch
        return {name: found[normal] for name, normal in asked.items()}

    async def _get_batch(self, class_: str, entries: list[Entry]) -> dict[str, bytes]:
        for _ in range(_READ_ATTEMPTS):
            channels = self._context.channels(class_)
            readings = await self._context.catalog.read_many(channels, *_ids_and_versions(entries))
            pairs = [
                (entry, self._reader(self._live(entry.name, reading)))
                for entry, reading in zip(entries, readings, strict=True)
            ]
            readers = [reader for _, reader in pairs]
            try:
                found = await self._read_pairs(class_, pairs)
            except (Unavailable, NotRecoverable):
                if not await self._publish(readers, ended=False):
                    raise
                continue
            await self._publish(readers, ended=True)
            return found
        raise ReplacedMeanwhile("the objects are replaced faster than they can be read")

    async def _publish(self, readers: Sequence[ObjectReader], *, ended: bool) -> bool:
        """Report what reads found; shares are missed at nobody if one of the objects was replaced meanwhile.

        Returns whether one was, which a read that ``ended`` well asks only if shares were missing.
        """
        alarms = [alarm for reader in readers for alarm in reader.fetcher.alarms]
        replaced = False
        if not ended or any(alarm.fields["kind"] == "share_missing" for alarm in alarms):
            for reader in readers:
                replaced = replaced or await self._replaced(reader.value)
        for reader in readers:
            reader.fetcher.publish(replaced=replaced)
        return replaced

    async def _read_pairs(self, class_: str, pairs: Sequence[tuple[Entry, ObjectReader]]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        groups: dict[tuple[Scheme, tuple[SiteId, ...]], list[tuple[Entry, ObjectReader]]] = {}
        for entry, reader in pairs:
            value = reader.value
            groups.setdefault((value.scheme, value.placement), []).append((entry, reader))
        for group in groups.values():
            if class_ == "its":
                wanted = sum(reader.bytes_from_each_site(0, None) for _, reader in group)
                last = await self._without_stock(group[0][1].value, wanted)
                for _, reader in group:
                    reader.fetcher.last = last
            small = [pair for pair in group if pair[1].body.layout.total <= _READ_TOGETHER_BYTES // _READ_TOGETHER]
            if small:
                clears = await small[0][1].fetcher.fetch([reader.whole_range() for _, reader in small])
                for (_, reader), clear in zip(small, clears, strict=True):
                    reader.take_whole(clear)
            for entry, reader in group:
                found[entry.name] = b"".join([bytes(piece) async for piece in reader.read(0, None)])
        return found

    async def ls(self, prefix: str = "") -> list[Listing]:
        """Return the names that exist, in order."""
        entries = await self._names.load()
        return [_listing(entries[name]) for name in sorted(entries) if name.startswith(prefix)]

    async def stat(self, name: str) -> Stat:
        """Return what is known of an object without reading it."""
        name = checked_name(name)
        reading, value = await self._object(name)
        entry = self._names.entries()[name]
        return Stat(
            _listing(entry), self._label(name, value, reading), list(value.placement), value.bodies[0].layout.total
        )

    async def rm(self, name: str) -> RemoveReceipt:
        """Remove an object: tombstone its register, erase its shares, take its name out of the index.

        An interrupted removal is finished by the next one.
        """
        name = checked_name(name)
        entries = await self._names.load()
        if name not in entries:
            raise NotFound(f"there is no object named {name!r}")
        entry = entries[name]
        if entry.class_ == "its":
            await checked_statuses(self._context, self._context.members, self._context.register_scheme)
        channels = self._context.channels(entry.class_)
        reading = await self._context.catalog.read(channels, ObjectId(entry.object_id))
        if reading.value is None or reading.value.tombstone:
            ops = [{"op": "erase", "object": entry.object_id}]
            erased = (await erase_everywhere(self._context, channels, ops))[entry.object_id]
        else:
            outcome, erased = (await remove_objects(self._context, entry.class_, [reading.value]))[0]
            if outcome.error is not None:
                raise outcome.error
        deleted = replace(entry, deleted=True, size_bytes=0)
        await self._names.commit(entry.class_, [deleted], {name: entry.object_id})
        pending = [site for site in self._context.members if site not in erased]
        return RemoveReceipt(name, entry.object_id, erased, pending)

    async def rm_unnamed(self, *, older_than_s: float = 86_400.0) -> list[str]:
        """Remove objects that never got their name, because their writer died; return their object IDs.

        Safe beside writers that are only slow (see ``vault.unnamed``).
        """
        removed = await remove_unnamed(self._context, self._names, older_than_s)
        return [str(value.register_id) for value in removed]

    async def move_retired(self, *, progress: Callable[[int], None] | None = None) -> list[Moved]:
        """Move everything off the sites that the configuration calls retired (see ``vault.moving``)."""
        return await move_objects(self._context, self._names, progress)

    async def verify(self, name: str, *, progress: Callable[[int], None] | None = None) -> VerifyReport:
        """Read and check every share of an object at every site."""
        name = checked_name(name)
        _, value = await self._object(name)
        reader = self._reader(value)
        if value.class_ == "its":
            await checked_statuses(self._context, value.placement, value.scheme, value)
        try:
            states = await reader.verify(value.placement, progress)
        except (Unavailable, NotRecoverable):
            if not await self._publish([reader], ended=False):
                raise
            raise ReplacedMeanwhile(f"{name!r} got a new version while it was verified") from None
        if await self._publish([reader], ended=True):
            raise ReplacedMeanwhile(f"{name!r} got a new version while it was verified")
        return VerifyReport(name, states, [*self._names.alarms, *reader.fetcher.alarms])

    async def audit(
        self, names: Sequence[str] | None = None, *, progress: Callable[[int], None] | None = None
    ) -> dict[str, dict[SiteId, str]]:
        """Have the sites prove, without reading a share, that they still hold good ones; of all objects unless named.

        Returns per name the state of each site (see ``vault.audit``). Bad sites raise events; they are named by answers
        that contradict each other, so a name is a reason to ``verify``.

        Raises:
            NotFound: one of the names does not exist.
        """
        entries = await self._names.load()
        wanted = sorted(entries) if names is None else [checked_name(name) for name in dict.fromkeys(names)]
        missing = next((name for name in wanted if name not in entries), None)
        if missing is not None:
            raise NotFound(f"there is no object named {missing!r}")
        done = 0
        found: dict[str, dict[SiteId, str]] = {}
        for class_ in CLASSES:
            chosen = [entries[name] for name in wanted if entries[name].class_ == class_]
            for at in range(0, len(chosen), _AUDITED_TOGETHER):
                some = chosen[at : at + _AUDITED_TOGETHER]
                channels = self._context.channels(class_)
                readings = await self._context.catalog.read_many(channels, *_ids_and_versions(some))
                live = {
                    entry.name: self._live(entry.name, reading)
                    for entry, reading in zip(some, readings, strict=True)
                    if names is not None or _is_live(reading)  # a removal stopped between register and index
                }
                states = await audit_values(self._context, list(live.values()))
                found |= dict(zip(live, states, strict=True))
                done += len(some)
                if progress is not None:
                    progress(done)
        return {name: found[name] for name in wanted if name in found}

    def _scheme(self, scheme: Scheme | tuple[int, int] | None) -> Scheme:
        chosen = scheme if isinstance(scheme, Scheme) else Scheme(*scheme) if scheme else self._context.default_scheme
        self._context.placement(chosen)
        return chosen

    async def _check_stock(self, sizes_bytes: Sequence[int], scheme: Scheme) -> None:
        """Refuse before any key is drawn when too many links lack stock, or when keys pass through too few hands.

        The plan of the sum, and what each further object takes beside its bytes.
        """
        context = self._context
        statuses = await checked_statuses(context, context.placement(scheme), scheme)
        self._check_name_stock(statuses)
        plan = self._plan_of(statuses, sum(sizes_bytes), scheme, "its")
        more_bits = sum(self._key_need_bits(size, scheme) for size in sizes_bytes) - self._key_need_bits(
            sum(sizes_bytes), scheme
        )
        plan = replace(plan, needed_bits={site: need + max(more_bits, 0) for site, need in plan.needed_bits.items()})
        dry = [site for site, need in plan.needed_bits.items() if plan.stock_bits.get(site, 0) < need]
        if scheme.n - len(dry) < sites_needed("its", scheme):
            need = max(plan.needed_bits.values())
            raise Unavailable(
                f"class its needs {need} key bits per link; {', '.join(dry)} have "
                f"{', '.join(str(plan.stock_bits.get(site, 0)) for site in dry)}",
                code="vault.too_little_key",
                hint="wait for the links, or put with --class qkd (which rests on computation); no key was used",
                retry_after_s=plan.wait_s,
            )

    def _check_name_stock(self, statuses: Mapping[SiteId, KeyStatus]) -> None:
        """Refuse when too many links lack the key for the name, which all sites keep: content without it is lost."""
        context, need = self._context, 8 * _OVERHEAD_BYTES
        waits_s = {
            site: _wait_s(statuses[site], need) if site in statuses else None
            for site in context.members
            if site != context.home
        }
        dry = [site for site, wait_s in waits_s.items() if wait_s != 0.0]
        if len(context.members) - len(dry) < index_sites_needed("its", context.register_scheme):
            known_s = [wait_s for wait_s in waits_s.values() if wait_s is not None]
            raise Unavailable(
                f"a name in class its needs {need} key bits per link; {', '.join(dry)} have less",
                code="vault.too_little_key",
                hint="wait for the links, or put with --class qkd (which rests on computation); no key was used",
                retry_after_s=max(known_s) if len(known_s) == len(waits_s) else None,
            )

    async def _without_stock(self, value: RegisterValue, size_bytes: int) -> frozenset[SiteId]:
        """Return the sites with too little key to send so many bytes of their share under one-time pads.

        Raises:
            Unavailable: too few others are left; no key was used.
            Exposed: an allowed coalition of sites and relays would learn k shares.
        """
        need_bits = 8 * (size_bytes + _READ_OVERHEAD_BYTES + size_bytes // SEGMENT_BYTES * _MAC_BYTES_PER_SEGMENT)
        statuses = await checked_statuses(self._context, value.placement, value.scheme, value)
        waits_s: dict[SiteId, float | None] = {}
        for site in value.placement:
            if site == self._context.home:
                continue
            wait_s = _wait_s(statuses[site], need_bits) if site in statuses else None
            if wait_s != 0:
                waits_s[site] = wait_s
        missing = value.scheme.k - (len(value.placement) - len(waits_s))
        if missing > 0:
            known_s = sorted(wait_s for wait_s in waits_s.values() if wait_s is not None)
            raise Unavailable(
                f"reading this takes {need_bits} key bits per link; {', '.join(waits_s)} have less",
                code="vault.too_little_key",
                hint="wait for the links, or read a range; no key was used for the content",
                retry_after_s=known_s[missing - 1] if len(known_s) >= missing else None,
            )
        return frozenset(waits_s)

    async def _object(self, name: str) -> tuple[Reading, RegisterValue]:
        """Look a name up, in as much of the index as can be read."""
        entries = await self._names.load(whole=False)
        try:
            if name not in entries:
                raise NotFound(f"there is no object named {name!r}")
            channels = self._context.channels(entries[name].class_)
            (object_id,), vouched = _ids_and_versions([entries[name]])
            reading = await self._context.catalog.read(channels, object_id, vouched.get(object_id))
            value = self._live(name, reading)
        except NotFound:
            if self._names.unreadable is not None:
                raise self._names.unreadable from None
            raise
        if self._names.unreadable is not None:
            reading = replace(reading, freshness=UNPROVEN)  # what cannot be read may say something newer of this name
        return reading, value

    @staticmethod
    def _live(name: str, reading: Reading) -> RegisterValue:
        if reading.value is None or not _is_live(reading):
            raise NotFound(f"the object named {name!r} was removed")
        return reading.value

    def _reader(self, value: RegisterValue) -> ObjectReader:
        context = self._context
        fetcher: Fetcher = context.fetcher(value.class_, value.placement, value.scheme)
        return ObjectReader(value, context.owner, fetcher, context.signer.public_key, context.runtime)

    def _label(self, name: str, value: RegisterValue, reading: Reading) -> AssuranceLabel:
        """Return the label of an object, which is as durable as its name at most."""
        label = label_of(
            value,
            pinned=reading.certificate,
            now_wall_s=self._context.clock.wall_s(),
            freshness=reading.freshness,
        )
        return replace(label, durable_at=min(label.durable_at, self._names.durable_at(name)))


def _ids_and_versions(entries: Sequence[Entry]) -> tuple[list[ObjectId], dict[ObjectId, VersionId]]:
    """Return the registers of entries, and the versions that the index vouches for: it names what was acknowledged."""
    ids = [ObjectId(entry.object_id) for entry in entries]
    versions = {ObjectId(entry.object_id): VersionId(entry.version) for entry in entries if entry.version}
    return ids, versions


def _is_live(reading: Reading) -> bool:
    return reading.value is not None and not reading.value.tombstone


def _wait_s(status: KeyStatus, need_bits: int) -> float | None:
    """Return how long it takes until a link has so many bits; ``None`` when unknown, or when it never will."""
    if status.stored_bits >= need_bits:
        return 0.0
    if status.max_key_count * status.key_size_bits < need_bits:
        return None
    rate_bps = status.extension.get("shosoin_secret_key_rate_bps")
    if not isinstance(rate_bps, int | float) or rate_bps <= 0:
        return None
    return (need_bits - status.stored_bits) / rate_bps


def _listing(entry: Entry) -> Listing:
    return Listing(
        name=entry.name,
        size_bytes=entry.size_bytes,
        class_=entry.class_,
        scheme=Scheme(entry.k, entry.n),
        object_id=entry.object_id,
        version=entry.version,
        created_wall_s=entry.created_wall_s,
        content_type=entry.content_type,
    )
