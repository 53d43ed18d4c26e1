"""The stores of a KME's pairs, for commands that work while the KME stands still.

One place decides where the stores are; another kind of store joins here.
"""

from __future__ import annotations

from shosoin.adapters.stream_reencryption import FileStores
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.keys.reencryption import ReencryptableStores
from shosoin.services.kme_config import KmeConfig

__all__ = ["discard_store", "has_state", "open_store", "stored_peers", "stores_of"]


def stores_of(config: KmeConfig) -> ReencryptableStores:
    """Return all stores of a KME."""
    return FileStores(config.kme.directory)


def stored_peers(config: KmeConfig) -> list[str]:
    """Return the peers of which something is stored, whether or not the configuration still has a link to them."""
    return sorted(stores_of(config).peers())


def has_state(config: KmeConfig) -> bool:
    """Whether anything is stored."""
    return bool(stored_peers(config))


def open_store(config: KmeConfig, peer: str, key: bytes) -> FileStreamStore:
    """Open the store of one pair.

    Raises:
        StreamRefused: it is damaged, or in use.
    """
    return FileStreamStore(config.kme.directory / "links" / peer, key)


def discard_store(config: KmeConfig, peer: str) -> None:
    """Overwrite and remove all that is stored of a pair, readable or not."""
    FileStores(config.kme.directory).discard(peer)
