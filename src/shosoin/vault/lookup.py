"""Objects by name: which register a name stands for today, and whether that changed while its shares were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shosoin.base import AssuranceLabel, ObjectId, Rejected, Unavailable, VersionId
from shosoin.vault.audit_ledger import BodyName
from shosoin.vault.catalog import UNPROVEN, Reading
from shosoin.vault.context import VaultContext
from shosoin.vault.found_bad import note_accused
from shosoin.vault.guard import label_of_reading
from shosoin.vault.index import Entry
from shosoin.vault.names import Names
from shosoin.vault.naming import checked_name
from shosoin.vault.reading import ObjectReader
from shosoin.vault.values import RegisterValue

__all__ = [
    "READ_ATTEMPTS",
    "Lookup",
    "NotFound",
    "ReplacedMeanwhile",
    "body_of",
    "chosen_entries",
    "ids_and_versions",
    "live_value",
]

READ_ATTEMPTS = 4


class ReplacedMeanwhile(Unavailable):
    """The object got a new version while it was read."""

    code = "vault.replaced_meanwhile"
    hint = "read it again from the start"


class NotFound(Rejected):
    """No object of that name."""

    code = "vault.not_found"
    hint = "`shosoin ls` shows the names that exist"


class Lookup:
    """Finds objects of one owner, and makes their readers."""

    def __init__(self, context: VaultContext, names: Names) -> None:
        self._context = context
        self._names = names

    async def find(self, name: str) -> tuple[Reading, RegisterValue]:
        """Look a name up, in as much of the index as can be read.

        An object that was removed although the index names it lost its name to another one meanwhile, or its removal is
        not finished: the index is read once more to tell.
        """
        looked_up: str | None = None
        for _ in range(READ_ATTEMPTS):
            entries = await self._names.load(whole=False)
            entry = entries.get(name)
            if entry is None or entry.object_id == looked_up:
                break
            (object_id,), vouched = ids_and_versions([entry])
            channels = self._context.channels(entry.class_)
            reading = await self._context.catalog.read(channels, object_id, vouched.get(object_id))
            value = reading.value
            if value is not None and not value.tombstone:
                if self._names.doubt is not None:
                    reading = replace(reading, freshness=UNPROVEN)  # what was not read may say something newer
                return reading, value
            looked_up = entry.object_id
        if self._names.doubt is not None:
            raise self._names.doubt
        if looked_up is not None and entry is not None:
            raise NotFound(f"the object named {name!r} was removed")
        raise NotFound(f"there is no object named {name!r}")

    def reader(self, value: RegisterValue) -> ObjectReader:
        """Return a reader of an object's newest body."""
        context = self._context
        fetcher = context.fetcher(value.class_, value.placement, value.scheme)
        return ObjectReader(value, context.owner, fetcher, context.signer.public_key, context.runtime)

    def label(self, name: str, value: RegisterValue, reading: Reading) -> AssuranceLabel:
        """Return the label of an object, which is as durable as its name at most."""
        return label_of_reading(self._context, value, reading, self._names.durable_at(name))

    async def was_replaced(self, value: RegisterValue) -> bool:
        """Whether the object has another version than ``value`` by now."""
        reading = await self._context.catalog.read(self._context.channels(value.class_), value.register_id)
        return reading.value is None or reading.value.version != value.version

    async def publish(self, readers: Sequence[ObjectReader], *, ended: bool) -> bool:
        """Report what reads found; shares are missed at nobody if one of the objects was replaced meanwhile.

        Returns whether one was, which a read that ``ended`` well asks only if shares were missing.
        """
        alarms = [alarm for reader in readers for alarm in reader.fetcher.alarms]
        replaced = False
        if not ended or any(alarm.fields["kind"] == "share_missing" for alarm in alarms):
            for reader in readers:
                replaced = replaced or await self.was_replaced(reader.value)
        for reader in readers:
            found = reader.fetcher.publish(replaced=replaced)
            note_accused(self._context, *body_of(reader), found)
        return replaced


def chosen_entries(entries: Mapping[str, Entry], names: Sequence[str] | None, prefix: str = "") -> list[Entry]:
    """Return the entries of names, or of all that begin with a prefix, in order.

    Raises:
        NotFound: one of the names does not exist.
    """
    if names is None:
        return [entries[name] for name in sorted(entries) if name.startswith(prefix)]
    wanted = [checked_name(name) for name in dict.fromkeys(names)]
    missing = next((name for name in wanted if name not in entries), None)
    if missing is not None:
        raise NotFound(f"there is no object named {missing!r}")
    return [entries[name] for name in wanted]


def live_value(name: str, reading: Reading) -> RegisterValue:
    """Return the value of a register.

    Raises:
        NotFound: the object was removed.
    """
    if reading.value is None or reading.value.tombstone:
        raise NotFound(f"the object named {name!r} was removed")
    return reading.value


def ids_and_versions(entries: Sequence[Entry]) -> tuple[list[ObjectId], dict[ObjectId, VersionId]]:
    """Return the registers of entries, and the versions that the index vouches for: it names what was acknowledged."""
    ids = [ObjectId(entry.object_id) for entry in entries]
    versions = {ObjectId(entry.object_id): VersionId(entry.version) for entry in entries if entry.version}
    return ids, versions


def body_of(reader: ObjectReader) -> tuple[BodyName, int]:
    """Return the name of the body that a reader reads, and its epoch."""
    return (reader.key.object_id, reader.key.version), reader.key.epoch
