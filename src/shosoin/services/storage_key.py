"""The storage key of a KME, from wherever its configuration says: what a start and every command on its state need.

Nothing is opened before the key is certain: a wrong passphrase, PIN or file is an error of its own, not a damaged
journal.
"""

from __future__ import annotations

import contextlib
import os

from shosoin.adapters.pkcs11_token import TokenKey
from shosoin.adapters.private_files import create_private, settle
from shosoin.adapters.storage_envelope import EnvelopeFile
from shosoin.adapters.storage_keys import KEY_BYTES
from shosoin.adapters.stream_store import read_or_make_storage_key
from shosoin.base import Rejected, Unavailable
from shosoin.services.kme_config import KmeConfig
from shosoin.services.kme_stores import has_state
from shosoin.services.storage_key_config import FileSection, PlainKeyFile, StorageKeyChoice, TokenSection, source_of

__all__ = ["envelope_of", "existing_storage_key", "make_key_file", "make_token_key", "storage_key"]


def storage_key(config: KmeConfig) -> bytes:
    """Return the storage key, made with its envelope when the KME starts for the first time.

    Raises:
        Rejected: what the configuration names does not lead to the key of this state.
        Denied: a secret is readable by others, or a token does not accept its PIN.
        Unavailable: a token is gone, or a rotation was interrupted.
    """
    choice, envelope = config.storage_key, envelope_of(config)
    if isinstance(choice, PlainKeyFile):
        # Only where it has to be made: a KME starts while its database is away.
        if not choice.path.exists() and not envelope.exists() and not has_state(config):
            read_or_make_storage_key(choice.path)
    elif not envelope.exists():
        _make(config, choice)
    return existing_storage_key(config)


def existing_storage_key(config: KmeConfig) -> bytes:
    """Return the storage key of a KME that has run before; the same failures."""
    envelope, choice = envelope_of(config), config.storage_key
    if isinstance(choice, PlainKeyFile):
        if envelope.exists():
            raise Rejected(
                f"the storage key is in {envelope.path}, the configuration names a plain storage_key_file",
                code="store.other_source",
                hint="write the table [kme.storage_key] that the key was rotated to",
            )
        if not choice.path.exists():
            raise Rejected(
                f"there is state in {config.kme.directory} and no storage key {choice.path}",
                code="store.key_missing",
                hint="put it back; without it what is stored cannot be read",
            )
        return read_or_make_storage_key(choice.path)
    opened = envelope.open(source_of(choice, config.kme.id))
    if not opened.is_settled:
        raise Unavailable(
            f"a rotation of the storage key in {config.kme.directory} was interrupted",
            code="store.rotation_unfinished",
            hint="finish it: shosoin kme rotate-storage-key --config FILE",
        )
    with contextlib.suppress(FileNotFoundError):  # another process of this KME may be at it too
        settle(envelope.path)
    return opened.keys[0]


def envelope_of(config: KmeConfig) -> EnvelopeFile:
    """Return the envelope file, which may not be there."""
    return EnvelopeFile(config.kme.directory, config.kme.id)


def make_key_file(choice: StorageKeyChoice) -> None:
    """Make the key file that is to seal an envelope, if there is none."""
    if isinstance(choice, FileSection) and not choice.key_file.exists():
        try:
            create_private(choice.key_file, os.urandom(KEY_BYTES))
        except FileExistsError:
            return  # another process of this KME was quicker


def make_token_key(config: KmeConfig) -> None:
    """Make the AES key on the token that the configuration names.

    Raises:
        Rejected: the configuration names no token, or the token has such a key.
    """
    choice = config.storage_key
    source = source_of(choice, config.kme.id) if isinstance(choice, TokenSection) else None
    if not isinstance(source, TokenKey):
        raise Rejected('the configuration has no [kme.storage_key] with source = "pkcs11"', code="store.no_token")
    source.make_key()


def _make(config: KmeConfig, choice: StorageKeyChoice) -> None:
    if has_state(config):
        raise Rejected(
            f"there is state in {config.kme.directory} and no envelope of its key",
            code="store.key_missing",
            hint="put storage-key.json back; or, if the state is under a plain storage_key_file, keep that in the "
            "configuration and move with: shosoin kme rotate-storage-key --new-config FILE",
        )
    make_key_file(choice)
    envelope_of(config).create(source_of(choice, config.kme.id))
