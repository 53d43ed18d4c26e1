"""Reading the fields of repair operations, and the texts that one-time tags between nodes cover.

Every tag covers the whole order, the range or the challenge, and who speaks to whom, so that nothing that one node said
serves another purpose, range, direction or attempt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.repair_attempts import Attempt, Chunk
from shosoin.vault.repair_keys import RepairForged
from shosoin.vault.repair_order import OrderRefused, Party

__all__ = [
    "UNKNOWN",
    "Json",
    "challenge_note",
    "given_share",
    "json_bytes",
    "key_ids_in",
    "number_in",
    "peer_named",
    "read_challenges",
    "shown_order",
    "tables_in",
    "texts_in",
]

_PEERS_MAX = 16
_KEY_ID_CHARACTERS_MAX = 64
_LISTED_MAX = 4 * ANSWERS_PER_EPOCH
UNKNOWN = "unknown-"
"""How challenges begin that nobody remembers and that count all the same."""

Json = dict[str, Any]


def shown_order(attempt: Attempt, chunk: Chunk, sender: Party, receiver: Party) -> tuple[bytes, bytes]:
    """Return what one helper of a pair shows the other: the whole order, the range, and the direction."""
    return attempt.text, f"pad {chunk.where} {sender.site}>{receiver.site}".encode()


def given_share(attempt: Attempt, chunk: Chunk, site: str) -> tuple[bytes, bytes]:
    """Return what goes under a helper's tag before what it gives the target."""
    return attempt.text, f"share {chunk.where} {site}".encode()


def challenge_note(attempt: Attempt, challenge: str, site: str) -> tuple[bytes, bytes]:
    """Return what a helper's note to the target says: that it has recorded an audit challenge."""
    return attempt.text, f"note {challenge} {site}".encode()


def read_challenges(raw: bytes) -> list[str]:
    """Read a helper's list of challenges; its tag has been checked, but a helper may lie."""
    try:
        found = json.loads(raw)["challenges"]
        return [str(ObjectId(str(each))) for each in found if not str(each).startswith(UNKNOWN)][:_LISTED_MAX]
    except (ValueError, KeyError, TypeError, ShosoinError):
        raise RepairForged("a helper's list of challenges cannot be read") from None


def json_bytes(value: Any) -> int:
    """Return about how many bytes a result takes as JSON, without making it; its long texts are ASCII."""
    if isinstance(value, str):
        return len(value) + 3
    if isinstance(value, dict):
        return 2 + sum(len(name) + 4 + json_bytes(inner) for name, inner in value.items())
    if isinstance(value, list):
        return 2 + sum(map(json_bytes, value))
    return 24


def peer_named(peers: Mapping[SiteId, Party], site: str) -> Party:
    """Return the party of a site that an operation names."""
    found = peers.get(SiteId(site))
    if found is None:
        raise OrderRefused(f"{site[:64]} has no part in this step of the order")
    return found


def number_in(op: Json, name: str, high: int, low: int = 0) -> int:
    """Return a whole number of an operation."""
    value = op.get(name)
    if type(value) is not int or not low <= value <= high:
        raise Rejected(f"{name} must be a whole number from {low} to {high}", code="vault.bad_operation")
    return value


def texts_in(op: Json, name: str) -> dict[str, str]:
    """Return texts by site."""
    raw = op.get(name, {})
    if not isinstance(raw, dict) or len(raw) > _PEERS_MAX or not all(isinstance(value, str) for value in raw.values()):
        raise Rejected(f"{name} must be texts by site", code="vault.bad_operation")
    return raw


def tables_in(op: Json, name: str) -> dict[str, Json]:
    """Return tables by site."""
    raw = op.get(name, {})
    if not isinstance(raw, dict) or len(raw) > _PEERS_MAX or not all(isinstance(value, dict) for value in raw.values()):
        raise Rejected(f"{name} must be tables by site", code="vault.bad_operation")
    return raw


def key_ids_in(told: Json) -> list[str]:
    """Return the key_IDs of a message between nodes."""
    ids = told.get("keys")
    if not isinstance(ids, list) or not all(
        isinstance(key_id, str) and len(key_id) <= _KEY_ID_CHARACTERS_MAX for key_id in ids
    ):
        raise RepairForged("a message between two nodes names no key_IDs that can be read")
    return ids
