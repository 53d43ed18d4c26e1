"""What keys between sites are used for, as the owner's client that relays between them sees it.

Sites send each other nothing: every message between two of them passes through a client, in a request to the one that
it is for. So the requests show every key_ID of a link between sites, and what was tagged or sealed under it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from shosoin.vault.envelope import canonical_json

__all__ = ["repair_uses", "terms_taken"]

_TOLD_IN = {"repair_check": "pairs", "repair_take": "parts", "repair_digest": "notes"}


def repair_uses(operations: Sequence[Mapping[str, Any]], honest: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the keys that honest sites drew for others, each with what it is used for."""
    for op in operations:
        kind = str(op.get("op"))
        told = op.get(_TOLD_IN[kind], {}) if kind in _TOLD_IN else {}
        for site, message in sorted(told.items()):
            if site in honest and isinstance(message, dict):
                use = _digest([kind, op.get("attempt"), op.get("offset"), message.get("tag"), message.get("data")])
                yield from ((key, use) for key in message.get("keys", ()))
        for site, offer in sorted(op.get("offers", {}).items()) if kind == "repair_meet" else ():
            if site in honest:
                yield from ((key, _digest(offer)) for key in json.loads(offer).get("keys", ()))


def terms_taken(operations: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """Return the attempts and ranges for which terms of all helpers are brought to a target."""
    return {(str(op["attempt"]), int(op["offset"])) for op in operations if op.get("op") == "repair_take"}


def _digest(use: Any) -> bytes:
    return hashlib.sha256(canonical_json({"use": use})).digest()
