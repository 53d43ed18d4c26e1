"""Rotation of a KME's storage key, while the KME stands still.

Two things can change, together or alone: what *seals* the storage key (another passphrase, file or token key: only the
envelope is written anew), and the *storage key* itself (everything stored is re-encrypted). The envelope records every
step before it is taken, so whoever was interrupted calls the same command again:

1. The envelope is sealed by the new source. It holds the storage key, beside it the next one if everything is to be
   re-encrypted, and the names of files whose keys are no longer needed.
2. Store by store, everything is brought under the next key.
3. The envelope holds the next key alone; the old envelope is overwritten.
4. The files that are no longer needed are overwritten and removed, and their names leave the envelope.

Between the first step and the last no KME starts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from shosoin.adapters.private_files import destroy, require_writable, settle
from shosoin.adapters.state_lock import StateLock
from shosoin.adapters.storage_envelope import Envelope, new_storage_key
from shosoin.adapters.storage_keys import BadStorageKey
from shosoin.adapters.stream_store import read_or_make_storage_key
from shosoin.base import Rejected
from shosoin.keys.reencryption import StoreSize
from shosoin.services.kme_config import KmeConfig
from shosoin.services.kme_stores import stores_of
from shosoin.services.storage_key import envelope_of, make_key_file
from shosoin.services.storage_key_config import (
    FileSection,
    PlainKeyFile,
    StorageKeyChoice,
    secret_files,
    source_of,
)

__all__ = ["Rotated", "Rotation"]

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a rotation did, or would do."""

    kme: str
    source_before: str
    source: str
    reencrypts: bool
    resumes: bool
    """Whether an interrupted rotation is finished by this one."""
    stores: dict[str, StoreSize]
    """By name: those of pairs have the names of their peers."""
    retires: tuple[str, ...]
    """Files that are overwritten and removed."""

    @property
    def block_bytes(self) -> int:
        """How much there is to re-encrypt."""
        return sum(size.block_bytes for size in self.stores.values()) if self.reencrypts else 0


class Rotation:
    """One rotation, as a context manager that holds the KME's state alone.

    Args:
        config: the KME as it is configured.
        new: what seals the storage key from now on; ``None`` for the same as before.
        reencrypt: whether the storage key itself changes.

    Raises (on entering):
        Unavailable: the KME runs.
        Rejected: there is nothing to do, or the key cannot be had.
        StreamRefused: something stored does not open; nothing has been changed then.
    """

    def __init__(self, config: KmeConfig, new: StorageKeyChoice | None, *, reencrypt: bool) -> None:
        self._config, self._new, self._reencrypt = config, new or config.storage_key, reencrypt
        self._stores = stores_of(config)

    def __enter__(self) -> Rotation:
        self._lock = StateLock(self._config.kme.directory, exclusive=True)
        try:
            self._look()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _look(self) -> None:
        """Find out what is there and what will be done, and change nothing."""
        if isinstance(self._new, PlainKeyFile):
            raise Rejected(
                "a plain storage_key_file cannot be rotated to, or in place",
                code="store.plain_key",
                hint='name a configuration with [kme.storage_key], for example source = "file": --new-config FILE',
            )
        found, before = self._found()
        if found.is_settled and self._new == self._config.storage_key and not self._reencrypt:
            raise Rejected(
                "nothing to do",
                code="cli.usage",
                hint="give --reencrypt for a new storage key, or one of the --new options for what seals it",
            )
        retire = {*found.retire, *self._retired(before)}
        self._check_needed(retire)
        stores = {name: each.check(name, found.keys) for each in self._stores for name in each.names()}
        keys = found.keys if len(found.keys) > 1 or not self._reencrypt else (*found.keys, new_storage_key())
        self._target = Envelope(keys, tuple(sorted(retire)))
        for path in (envelope_of(self._config).path, *map(Path, self._target.retire)):
            require_writable(path, "key file")
        self.plan = Rotated(
            kme=self._config.kme.id,
            source_before=before.source,
            source=self._new.source,
            reencrypts=len(keys) > 1,
            resumes=not found.is_settled,
            stores=stores,
            retires=self._target.retire,
        )
        if self.plan.reencrypts:
            for each in self._stores:
                each.check_room(stores[name] for name in each.names())

    def _check_needed(self, retire: Collection[str]) -> None:
        """Make sure that no file is to be overwritten that the new source needs.

        Raises:
            Rejected: one is.
        """
        for name in retire:
            if any(_is_same(Path(name), path) for path in secret_files(self._new)):
                raise Rejected(
                    f"{name} holds the old key and is named for the new one too",
                    code="store.same_file",
                    hint="name another file: the old key is overwritten",
                )

    def _found(self) -> tuple[Envelope, StorageKeyChoice]:
        """Return what is there and what seals it: the new source already, if an earlier rotation got that far."""
        now = self._config.storage_key
        envelope = envelope_of(self._config)
        if not envelope.exists():
            if not isinstance(now, PlainKeyFile):
                raise Rejected(
                    f"there is no {envelope.path}: nothing to rotate", code="store.key_missing",
                    hint="a KME makes its storage key when it first starts",
                )  # fmt: skip
            if not now.path.exists():
                raise Rejected(f"there is no storage key {now.path}", code="store.key_missing")
            return Envelope((read_or_make_storage_key(now.path),)), now
        source = envelope.source()
        choices = [
            choice for choice in dict.fromkeys((self._new, now)) if choice.source == source and _is_there(choice)
        ]
        for choice in choices[:-1]:
            try:
                return self._open(choice), choice
            except BadStorageKey:
                continue
        choice = choices[-1] if choices else self._new
        return self._open(choice), choice

    def _open(self, choice: StorageKeyChoice) -> Envelope:
        return envelope_of(self._config).open(source_of(choice, self._config.kme.id))

    def _retired(self, before: StorageKeyChoice) -> list[str]:
        """Return the file whose key nothing needs once the new source seals the storage key."""
        kept = self._new.key_file if isinstance(self._new, FileSection) else None
        match before:
            case PlainKeyFile(path=path):
                return [str(path)]
            case FileSection(key_file=path) if path != kept:
                return [str(path)]
        return []

    def run(self, told: Told) -> Rotated:
        """Carry it out.

        Args:
            told: told the bytes of blocks done so far.
        """
        envelope, source = envelope_of(self._config), source_of(self._new, self._config.kme.id)
        settle(envelope.path)
        make_key_file(self._new)
        envelope.replace(self._target, source)
        if len(self._target.keys) > 1:
            self._reencrypt_all(told)
        settled = replace(self._target, keys=self._target.keys[-1:])
        if settled != self._target:
            envelope.replace(settled, source)
        if settled.retire:
            for name in settled.retire:
                destroy(Path(name))
            envelope.replace(replace(settled, retire=()), source)
        return self.plan

    def _reencrypt_all(self, told: Told) -> None:
        old_key, new_key = self._target.keys
        done_bytes = 0
        for stores, name in [(each, name) for each in self._stores for name in each.names()]:
            stores.reencrypt(name, old_key, new_key, partial(_tell_above, told, done_bytes))
            done_bytes += self.plan.stores[name].block_bytes
            told(done_bytes)


def _tell_above(told: Told, before_bytes: int, done_bytes: int) -> None:
    told(before_bytes + done_bytes)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are those of one file, by a link of either kind too."""
    if one.resolve() == other.resolve():
        return True
    return one.exists() and other.exists() and one.samefile(other)


def _is_there(choice: StorageKeyChoice) -> bool:
    """Whether a choice can have sealed anything yet: the key file of a new source is made later."""
    return not isinstance(choice, FileSection) or choice.key_file.exists()
