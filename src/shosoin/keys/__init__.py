"""Key streams between KMEs, key_IDs that need no message between them, and one-time use over crashes and restores.

>>> from shosoin.keys import KeyAddress, KeyIdCodec
>>> ids = KeyIdCodec(bytes(64))
>>> key_id = ids.encode(KeyAddress(offset=5, length_bytes=32), "sae-a", "sae-b")
>>> ids.decode(key_id, "sae-a", "sae-b", near=0)
KeyAddress(offset=5, length_bytes=32)
>>> ids.decode(key_id, "sae-a", "sae-c", near=0) is None
True
"""

from shosoin.keys.errors import (
    KeyDamaged,
    KeyNotFound,
    KeyOfAnotherSae,
    KeysError,
    KeyStreamDry,
    LeaseNeeded,
    StreamNotReady,
    StreamRefused,
)
from shosoin.keys.key_id import KeyAddress, KeyIdCodec
from shosoin.keys.kme import Delivery, Key, Kme, KmeStatus
from shosoin.keys.pair import PairEnd, PairLimits
from shosoin.keys.policy import KmeLimits
from shosoin.keys.store import Batch, StreamStore

__all__ = [
    "Batch",
    "Delivery",
    "Key",
    "KeyAddress",
    "KeyDamaged",
    "KeyIdCodec",
    "KeyNotFound",
    "KeyOfAnotherSae",
    "KeyStreamDry",
    "KeysError",
    "Kme",
    "KmeLimits",
    "KmeStatus",
    "LeaseNeeded",
    "PairEnd",
    "PairLimits",
    "StreamNotReady",
    "StreamRefused",
    "StreamStore",
]
