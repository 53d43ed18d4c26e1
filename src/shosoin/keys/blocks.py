"""Blocks of a stream as one end keeps them, their journal records, and the contents that one-time MACs cover."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shosoin.keys.errors import StreamRefused
from shosoin.keys.messages import BlockState, BlockView

__all__ = [
    "BLOCK_NAME",
    "MAC_CONFIRMED",
    "MAC_READY",
    "MAC_STORED",
    "Block",
    "dump_record",
    "load_record",
    "mac_header",
]

MAC_STORED, MAC_READY, MAC_CONFIRMED = 1, 2, 3
BLOCK_NAME = re.compile(r"(?:in|out)-[0-9]{12}(?:-[0-9a-f]{16})?")
"""Every name of stored bytes: direction, index, and era if it has one."""


@dataclass(slots=True)
class Block:
    """A block at one end."""

    direction: str
    """``out`` where this end sends, ``in`` where it receives."""
    index: int
    start: int
    """Stream offset of its first granule."""
    granules: int
    state: BlockState
    keep: bool = False
    """Whether the reserve joins the pool; fixed before anything about the block is signed."""
    reserve: bytes = field(default=b"", repr=False)
    """First bytes of the block until they join the verification pool."""
    era: str = ""
    """Of the pair secret that it came under: blocks of two secrets have no name in common, whatever lies on a disk."""
    born_s: float = 0.0
    """When it came from the link, by this end's wall clock; 0 if that was not written down."""
    entries: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Verification entries set aside for this block: for stored, ready and confirmed in ascending order."""

    @property
    def end(self) -> int:
        """Stream offset after its last granule."""
        return self.start + self.granules

    @property
    def name(self) -> str:
        """Name of the stored bytes."""
        return f"{self.direction}-{self.index:012d}" + (f"-{self.era}" if self.era else "")

    @property
    def record_name(self) -> str:
        """Name of the journal record."""
        return f"block/{self.name}"

    def entry(self, position: int) -> bytes:
        """Return the key of the first, second or third message about this block."""
        return self.entries[sorted(self.entries)[position]]

    def view(self) -> BlockView:
        """Return what the handshake says about it."""
        waiting = self.state in {BlockState.PENDING, BlockState.OFFERED}
        entries = tuple(sorted(self.entries)) if waiting else ()
        return BlockView(self.index, self.start, self.granules, self.state, entries)

    def dump(self) -> bytes:
        """Return the journal record."""
        return dump_record(
            {
                "direction": self.direction,
                "index": self.index,
                "start": self.start,
                "granules": self.granules,
                "state": self.state.value,
                "keep": self.keep,
                "era": self.era,
                "born_s": self.born_s,
                "reserve": self.reserve.hex(),
                "entries": {str(number): key.hex() for number, key in self.entries.items()},
            }
        )

    @classmethod
    def load(cls, raw: bytes) -> Block:
        """Read a journal record."""
        record = load_record(raw)
        return cls(
            direction=record["direction"],
            index=record["index"],
            start=record["start"],
            granules=record["granules"],
            state=BlockState(record["state"]),
            keep=record["keep"],
            era=record.get("era", ""),
            born_s=record.get("born_s", 0.0),
            reserve=bytes.fromhex(record["reserve"]),
            entries={int(number): bytes.fromhex(key) for number, key in record["entries"].items()},
        )


def mac_header(kind: int, block: Block) -> bytes:
    """Return the fixed-length header that every one-time MAC about a block starts with."""
    fields = (b"shosoin-block-v1", kind, block.index, block.start, block.granules, block.keep and kind == MAC_READY)
    return struct.pack(">16sBQQI?10x", *fields)


def dump_record(record: Mapping[str, Any]) -> bytes:
    """Return a journal record as JSON."""
    return json.dumps(record, separators=(",", ":")).encode()


def load_record(raw: bytes) -> dict[str, Any]:
    """Read a journal record.

    Raises:
        StreamRefused: if it is not one (the store authenticates records, so this is a foreign or newer format).
    """
    try:
        record = json.loads(raw)
    except ValueError as err:
        raise StreamRefused("a journal record does not parse") from err
    if not isinstance(record, dict):
        raise StreamRefused("a journal record is not an object")
    return record
