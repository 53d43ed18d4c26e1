"""Sending a message that exists in parts over HTTP, without joining the parts first.

Small parts are joined (a TLS record each would cost more than the copy), large ones go to the socket as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import Payload

if TYPE_CHECKING:
    from shosoin.vault.ports import Buffer  # a KME sends parts as well, and starts sooner without the vault

__all__ = ["PartsPayload", "gathered"]

_JOIN_BELOW_BYTES = 16 << 10
_PIECE_BYTES = 256 << 10


def gathered(parts: Sequence[Buffer]) -> Iterator[Buffer]:
    """Yield the same bytes: neighbours that are small joined, long ones cut so that the loop breathes in between."""
    small = bytearray()
    for part in parts:
        view = memoryview(part).cast("B")
        if len(view) < _JOIN_BELOW_BYTES:
            small += view
            if len(small) >= _JOIN_BELOW_BYTES:
                yield small
                small = bytearray()
            continue
        if small:
            yield small
            small = bytearray()
        for start in range(0, len(view), _PIECE_BYTES):
            yield view[start : start + _PIECE_BYTES]
    if small:
        yield small


class PartsPayload(Payload):
    """A body of known length in parts."""

    _autoclose = True

    def __init__(self, parts: Sequence[Buffer]) -> None:
        super().__init__(parts, content_type="application/octet-stream")
        self._parts = parts
        self._size = sum(memoryview(part).nbytes for part in parts)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text (only aiohttp's own diagnostics ask for it)."""
        return b"".join(self._parts).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the body."""
        for piece in gathered(self._parts):
            await writer.write(piece)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Send the body, whose length is ``content_length`` anyway."""
        await self.write(writer)
