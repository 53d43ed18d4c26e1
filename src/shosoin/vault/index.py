"""The owner's index: names to objects, kept as shared records under one register per transfer class.

No function of a name leaves the owner: a register's ID depends on owner and class alone, and names are inside shared
records of fixed size. The index of a class is a list of parts, newest last; a commit adds a part with all its entries
and folds older parts of no greater size into it, so that each entry is rewritten a few times only. Entries carry a
sequence number; of the entries for one name in an index the one with the highest counts. Where several indexes know a
name, the object that was born last counts: the one that got the name under the highest sequence number. Later versions
of an object, and its removal, keep its birth, so nothing that happens to an object brings it back before one that took
its name.

Decoded parts may be kept by the caller in ``memo`` (at the owner's side), because a part never changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from operator import attrgetter

from shosoin.base import Alarm, ObjectId, OwnerId, Rejected, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.amd import amd_decode
from shosoin.vault.envelope import canonical_json
from shosoin.vault.fetching import Fetcher, NotRecoverable, Range
from shosoin.vault.naming import NAME_BYTES_MAX
from shosoin.vault.ports import Buffer, ShareKey
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import Body, RegisterValue

__all__ = [
    "Entry",
    "IndexState",
    "Part",
    "condemned_name",
    "decode_part",
    "encode_part",
    "index_register",
    "load_index",
    "missing_bodies",
]

PART_ENTRIES_MAX = 1024
_FIELDS_BYTES = 352
_ENTRY_BYTES = 16 + NAME_BYTES_MAX + _FIELDS_BYTES
_FETCH_BYTES_MAX = 2 << 20


class IndexInvalid(Alarm):
    """An index part that decodes but cannot be read."""

    code = "vault.index_invalid"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name."""

    name: str
    object_id: str
    sequence: int
    class_: str
    size_bytes: int
    content_type: str
    k: int
    n: int
    version: str
    counter: int
    """Counter of that version in the object's register: of two entries for one object the higher one is newer."""
    created_wall_s: float
    deleted: bool = False
    born: int = 0
    """The sequence number under which the object got this name."""

    @property
    def rank(self) -> tuple[int, str]:
        """What decides between objects that have one name in several indexes: the highest has it."""
        return self.born, self.object_id


_REST = attrgetter(*(each.name for each in fields(Entry) if each.name != "name"))
_REST_TYPES = {(str, int, str, int, str, int, int, str, int, seconds, bool, int) for seconds in (int, float)}
"""What a value of each field is once it has been read from JSON."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an index; ``entries`` is ``None`` while fewer than k sites give their share of it."""

    body: Body
    entries: list[Entry] | None
    holders: tuple[SiteId, ...]
    """Sites that hold and pin a share. Others of ``body.good`` only staged theirs, and may collect it as an orphan."""

    def counted(self) -> Body:
        """Return the body as later values count on it."""
        return replace(self.body, good=self.holders)


@dataclass(frozen=True, slots=True)
class _Said:
    """The newest entry of every name in all parts, and at how many sites it is durable."""

    entries: Mapping[str, Entry]
    holders: Mapping[str, int]

    @classmethod
    def of(cls, parts: Sequence[Part]) -> _Said:
        entries: dict[str, Entry] = {}
        holders: dict[str, int] = {}
        for part in parts:
            for entry in part.entries or ():
                known = entries.get(entry.name)
                if known is None or entry.sequence >= known.sequence:
                    before = holders[entry.name] if entry == known else 0
                    entries[entry.name], holders[entry.name] = entry, max(before, len(part.holders))
        return cls(entries, holders)


@dataclass(slots=True)
class IndexState:
    """The index of one class as last read."""

    class_: str
    register_id: ObjectId
    value: RegisterValue | None
    parts: list[Part]
    freshness: str
    unreadable: ShosoinError | None = None
    """Why something of it is missing here, if anything is."""
    newest: bool = True
    """Whether enough sites answered to rule out a newer index."""
    _said: _Said | None = field(default=None, repr=False, compare=False)
    """What the parts say, once that was worked out; they stay as they are from then on."""

    @property
    def said(self) -> _Said:
        """What the parts say together."""
        if self._said is None:
            self._said = _Said.of(self.parts)
        return self._said

    def entries(self) -> Mapping[str, Entry]:
        """Return the newest entry of every name, deleted ones included."""
        return self.said.entries

    def _all(self) -> Iterator[Entry]:
        return (entry for part in self.parts for entry in part.entries or ())

    def highest_sequence(self) -> int:
        """Return the highest sequence number in use."""
        return max((entry.sequence for entry in self._all()), default=0)

    def lacking(self, members: Iterable[SiteId]) -> set[SiteId]:
        """Return the sites that miss a share of some part."""
        return {site for site in members for part in self.parts if site not in part.holders}

    def durable_at(self, entry: Entry) -> int:
        """Return at how many sites the newest entry of a name is durable."""
        return self.said.holders.get(entry.name, 0)

    def folded(
        self, fresh: Sequence[Entry], reachable: int, *, whole: bool = False
    ) -> tuple[list[Part], list[list[Entry]]]:
        """Return the parts to keep, and the entries of the new parts (at most 1,024 each).

        ``reachable`` is how many sites will hold the new parts. A part that more sites hold is kept, for its names were
        acknowledged as that durable; one that fewer hold is written anew, so that its names become as durable as the
        others once the missing sites are back. ``whole`` writes every part anew, for other sites than before.
        """
        kept: list[Part] = []
        merged = {entry.name: entry for entry in fresh}
        everything, small = self._is_mostly_stale(), True
        if whole:
            reachable = max((len(part.holders) for part in self.parts), default=0)
            everything = True
        for part in reversed(self.parts):
            holders, entries = len(part.holders), part.entries
            small = small and entries is not None and len(entries) <= min(len(merged), PART_ENTRIES_MAX - 1)
            if entries is None or holders > reachable or not (everything or small or holders < reachable):
                kept.insert(0, part)
                continue
            for entry in entries:
                if entry.name not in merged or merged[entry.name].sequence < entry.sequence:
                    merged[entry.name] = entry
        entries = list(merged.values())
        return kept, [entries[at : at + PART_ENTRIES_MAX] for at in range(0, len(entries), PART_ENTRIES_MAX)]

    def _is_mostly_stale(self) -> bool:
        """Whether overwritten entries outnumber the names by more than a few parts."""
        total = sum(1 for _ in self._all())
        return total > 2 * len(self.entries()) + 2 * PART_ENTRIES_MAX


def index_register(owner: OwnerId, class_: str) -> ObjectId:
    """Return the register of an owner's index of a class: a function of public facts alone."""
    return ObjectId.from_bytes(sha256(f"shosoin index v1\0{owner}\0{class_}".encode()).digest()[:16])


def condemned_name(object_id: str) -> str:
    """Return the name, impossible for an object, under which the index says that one without a name is to go."""
    return f"\0{object_id}"


def encode_part(entries: Sequence[Entry]) -> bytes:
    """Return a part as a record (without the AMD code word).

    Every entry takes the same room, whatever its name, so the length tells how many entries there are and no more.
    """
    return len(entries).to_bytes(ELEMENT_BYTES, "little") + b"".join(map(_encode_entry, entries))


def _encode_entry(entry: Entry) -> bytes:
    name = entry.name.encode()
    rest = canonical_json(_REST(entry))
    if len(name) > NAME_BYTES_MAX or len(rest) > _FIELDS_BYTES:
        raise ValueError(f"an index entry with a name of {len(name)} and fields of {len(rest)} bytes")
    lengths = len(name).to_bytes(8, "little") + len(rest).to_bytes(8, "little")
    return b"".join((lengths, name.ljust(NAME_BYTES_MAX, b"\0"), rest.ljust(_FIELDS_BYTES, b"\0")))


def decode_part(record: Buffer) -> list[Entry]:
    """Read a part.

    Raises:
        IndexInvalid: it is not one.
    """
    raw = bytes(record)
    count = int.from_bytes(raw[:ELEMENT_BYTES], "little")
    if len(raw) != ELEMENT_BYTES + count * _ENTRY_BYTES:
        raise IndexInvalid("a part of the index has the wrong length")
    return [_decode_entry(raw[at : at + _ENTRY_BYTES]) for at in range(ELEMENT_BYTES, len(raw), _ENTRY_BYTES)]


def _decode_entry(raw: bytes) -> Entry:
    name_bytes, rest_bytes = int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:16], "little")
    start = 16 + NAME_BYTES_MAX
    try:
        if name_bytes > NAME_BYTES_MAX or rest_bytes > _FIELDS_BYTES:
            raise ValueError("longer than its place")
        entry = Entry(raw[16 : 16 + name_bytes].decode(), *json.loads(raw[start : start + rest_bytes].decode()))
        _check_types(entry)
    except (ValueError, TypeError, Rejected, RecursionError):
        raise IndexInvalid("an entry of the index cannot be read") from None
    return entry


def _check_types(entry: Entry) -> None:
    """Refuse an entry whose values would fail later, where nobody expects it."""
    if tuple(map(type, _REST(entry))) not in _REST_TYPES or not math.isfinite(entry.created_wall_s):
        raise TypeError("a value of the wrong type")
    Scheme(entry.k, entry.n)
    ObjectId(entry.object_id)
    if entry.version or not entry.deleted:  # what is condemned never had a version
        VersionId(entry.version)
    entry.content_type.encode()
    entry.class_.encode()


def missing_bodies(value: RegisterValue, memo: Mapping[str, bytes]) -> list[Body]:
    """Return the parts that have to be fetched."""
    return [body for body in value.bodies if memo_key(body.version) not in memo]


async def load_index(
    state: IndexState,
    owner: OwnerId,
    fetcher: Fetcher,
    memo: MutableMapping[str, bytes],
    certificate: Sequence[SiteId],
) -> IndexState:
    """Fetch the parts that are not in ``memo`` and fill them in; what cannot be read is left out and said so.

    ``certificate`` names the sites that accepted the value, and so pinned the parts that it adds.
    """
    if state.value is None:
        return state
    todo = _batches(missing_bodies(state.value, memo))
    while todo:
        batch = todo.pop(0)
        try:
            found = await fetcher.fetch([_range(owner, state.register_id, body) for body in batch])
        except (Unavailable, NotRecoverable) as error:
            if len(batch) > 1:
                todo = [[body] for body in batch] + todo
            else:
                state.unreadable = error
            continue
        for body, coded in zip(batch, found, strict=True):
            record = amd_decode(coded)
            if record is None:
                raise IndexInvalid("a part of the index fails its code word")
            memo[memo_key(body.version)] = record
    pinned = set(certificate)
    for body in state.value.bodies:
        record = memo.get(memo_key(body.version))
        added = body in state.value.added_bodies
        holders = tuple(site for site in body.good if not added or site in pinned)
        state.parts.append(Part(body, None if record is None else decode_part(record), holders))
    return state


def _batches(bodies: Sequence[Body]) -> list[list[Body]]:
    """Group parts that are fetched in one exchange per site."""
    batches: list[list[Body]] = []
    left_bytes = 0
    for body in bodies:
        if body.layout.root > left_bytes:
            batches.append([])
            left_bytes = _FETCH_BYTES_MAX
        batches[-1].append(body)
        left_bytes -= body.layout.root
    return batches


def memo_key(version: VersionId) -> str:
    """Return where a part is kept in the memo."""
    return f"index-part-{version}"


def _range(owner: OwnerId, register_id: ObjectId, body: Body) -> Range:
    key = ShareKey(owner, register_id, body.version, body.epoch)
    return Range(
        key, body, body.layout.root_offset, body.layout.root, lambda coded: amd_decode(coded) is not None, "index"
    )


def newest(states: Mapping[str, IndexState]) -> dict[str, Entry]:
    """Merge the indexes of all classes; deleted names are left out."""
    return {name: entry for name, entry in latest(states).items() if not entry.deleted}


def latest(states: Mapping[str, IndexState]) -> dict[str, Entry]:
    """Merge the indexes of all classes, removals among them."""
    merged: dict[str, Entry] = {}
    for state in states.values():
        for name, entry in state.entries().items():
            known = merged.get(name)
            if known is None or entry.rank > known.rank:
                merged[name] = entry
    return merged
