"""The stores of a KME's pairs, for commands that work while the KME stands still.

One place decides where the stores are; another kind of store joins here.
"""

from __future__ import annotations

from contextlib import closing
from typing import Protocol

from shosoin.adapters.copy_reencryption import CopyStores
from shosoin.adapters.copy_store import COPIES_NAME, DAMAGED_SUFFIX, CopyStore
from shosoin.adapters.discard_marks import marked_peers
from shosoin.adapters.postgres_reencryption import PostgresCopies, PostgresStores
from shosoin.adapters.private_files import destroy
from shosoin.adapters.stream_reencryption import FileStores
from shosoin.base import KmeId
from shosoin.keys.errors import StoreUnavailable, StreamRefused
from shosoin.keys.reencryption import ReencryptableStores
from shosoin.keys.store import StreamStore
from shosoin.services.kme_config import KmeConfig
from shosoin.services.store_config import database_of
from shosoin.services.store_config import open_store as open_store_of_pair

__all__ = ["burn_copies", "discard_copies", "discard_store", "has_state", "open_store", "stored_peers", "stores_of"]


class _PairStores(ReencryptableStores, Protocol):
    """The stores of all pairs, wherever they are."""

    def discard(self, peer: str) -> None:
        """Overwrite or remove all that is stored of a pair."""
        ...


def stores_of(config: KmeConfig) -> list[ReencryptableStores]:
    """Return everything of a KME that is under its storage key."""
    if config.store.kind == "files":
        return [_pair_stores(config), CopyStores(config.kme.directory)]
    return [_pair_stores(config), _copies_in_database(config)]


def _copies_in_database(config: KmeConfig) -> PostgresCopies:
    return PostgresCopies(database_of(config.store), config.kme.id)


def _pair_stores(config: KmeConfig) -> _PairStores:
    if config.store.kind == "files":
        return FileStores(config.kme.directory)
    return PostgresStores(database_of(config.store), config.kme.id)


def stored_peers(config: KmeConfig) -> list[str]:
    """Return the peers of which something is stored, whether or not the configuration still has a link to them."""
    return sorted({*_pair_stores(config).names(), *marked_peers(config.kme.directory)})


def burn_copies(config: KmeConfig, peer: str, key: bytes) -> None:
    """Remove the multicast copies that came from a peer's masters or were sent to its slaves.

    Raises:
        StreamRefused: they cannot be read.
    """
    if config.store.kind != "files":
        stores = _copies_in_database(config)
        if stores.names():
            with closing(stores.opened(key)) as held:
                held.burn(KmeId(peer))
    path = config.kme.directory / COPIES_NAME
    destroy(path.with_name(path.name + DAMAGED_SUFFIX))
    if path.exists():
        with closing(CopyStore(path, key)) as copies:
            copies.burn(KmeId(peer))


def has_state(config: KmeConfig) -> bool:
    """Whether anything is stored."""
    return any(stores.names() for stores in stores_of(config))


def open_store(config: KmeConfig, peer: str, key: bytes, *, half_gone: bool = False) -> StreamStore:
    """Open the store of one pair, if need be to finish throwing its old content away.

    Raises:
        StreamRefused: it is damaged, or in use.
    """
    return open_store_of_pair(config.store, config.kme.directory, config.kme.id, peer, key, half_gone=half_gone)


def discard_store(config: KmeConfig, peer: str, key: bytes) -> None:
    """Overwrite and remove all that is stored of a pair, readable or not.

    Multicast copies that cannot be read go too, those of all peers: they could not be told apart.
    """
    _pair_stores(config).discard(peer)
    try:
        burn_copies(config, peer, key)
    except StoreUnavailable:  # out of reach is not damaged
        raise
    except StreamRefused:
        discard_copies(config)


def discard_copies(config: KmeConfig) -> None:
    """Overwrite and remove the multicast copies of all pairs, readable or not."""
    if config.store.kind != "files":
        with closing(_copies_in_database(config).opened(bytes(32))) as held:
            held.discard()
    for path in config.kme.directory.glob(f"{COPIES_NAME}*"):
        destroy(path)
