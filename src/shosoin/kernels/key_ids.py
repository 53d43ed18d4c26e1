"""key_IDs of one key stream, made and read many at a time; ``reference_key_ids`` tells what they are."""

from __future__ import annotations

from shosoin.kernels.backend import KeyIds
from shosoin.kernels.paths import active
from shosoin.kernels.reference_key_ids import KEY_ID_SECRET_BYTES

__all__ = ["KEY_ID_SECRET_BYTES", "KeyIds", "key_ids"]


def key_ids(secret: bytes) -> KeyIds:
    """Return what makes and reads the IDs of one stream, on the kernels in use.

    Args:
        secret: 64 bytes that both KMEs of the pair hold, used for this stream only.
    """
    return active().key_ids(secret)
