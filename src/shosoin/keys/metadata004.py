"""The metadata of an ETSI GS QKD 004 chunk: how old, over how many nodes, and whether it is simulated.

>>> facts = LinkFacts("simulated-qkd", True, None, 0.0)
>>> wanted = Qos(32, metadata_mimetype="application/json")
>>> metadata_of(wanted, 100, 7, facts)
b'{"age":7,"hops":0,"shosoin_kind":"simulated-qkd","shosoin_simulated":true}'
>>> metadata_of(wanted, 8, 7, facts)
Traceback (most recent call last):
...
shosoin.keys.metadata004.MetadataTooLong: 83 bytes of metadata, room for 8
"""

from __future__ import annotations

import json

from shosoin.keys.stream004 import CallRefused
from shosoin.keys.wire004 import Qos, Status
from shosoin.link.port import LinkFacts

__all__ = ["MetadataTooLong", "metadata_of"]

_AGE_MS_MAX = (1 << 32) - 1


class MetadataTooLong(CallRefused):
    """The caller has too little room; ``needed`` bytes will do, also if it asks later."""

    def __init__(self, needed: int, room: int) -> None:
        super().__init__(Status.METADATA_SIZE_INSUFFICIENT, f"{needed} bytes of metadata, room for {room}")
        self.needed = needed


def metadata_of(qos: Qos, room: int, age_ms: int, facts: LinkFacts) -> bytes:
    """Return the metadata for a chunk, nothing if the stream or the call wants none.

    Raises:
        MetadataTooLong: it does not fit; nothing was consumed.
    """
    if not qos.metadata_mimetype or not room:
        return b""
    age_ms = min(age_ms, _AGE_MS_MAX)
    content = {"age": age_ms, "hops": 0, "shosoin_kind": facts.kind, "shosoin_simulated": facts.simulated}
    text = json.dumps(content, separators=(",", ":")).encode()
    if len(text) > room:
        raise MetadataTooLong(len(text) + len(str(_AGE_MS_MAX)) - len(str(age_ms)), room)
    return text
