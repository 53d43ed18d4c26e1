"""The verification pool: one-time keys with which the two ends compare a block.

An entry is 32 bytes that only the two KMEs of a pair hold. It authenticates one message content, once. The first
entries come from the pair secret, installed out of band; every verified block pays in its first 128 bytes (four
entries) and costs three. The *sender* of a stream alone decides which entries a block uses, so the ends never race.

Newest entries go first: those of the pair secret stay in reserve, so that a pair that lost its state can start again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

__all__ = [
    "CONTRIBUTED_PER_BLOCK",
    "ENTRIES_PER_BLOCK",
    "ENTRY_BYTES",
    "POOL_ENTRIES_MAX",
    "RESERVE_BYTES",
    "VerificationPool",
    "contributed_by",
]

ENTRY_BYTES = 32
ENTRIES_PER_BLOCK = 3
CONTRIBUTED_PER_BLOCK = 4
RESERVE_BYTES = CONTRIBUTED_PER_BLOCK * ENTRY_BYTES
POOL_ENTRIES_MAX = 64
"""The sender stops paying in above this; the receiver may hold as many again for blocks under way."""


def contributed_by(index: int) -> range:
    """Return the numbers of the entries that a block pays in."""
    return range(index * CONTRIBUTED_PER_BLOCK, (index + 1) * CONTRIBUTED_PER_BLOCK)


class VerificationPool:
    """Unused one-time verification keys by number; those of the pair secret have negative numbers."""

    __slots__ = ("_entries", "_entries_max")

    def __init__(self, entries: dict[int, bytes], *, entries_max: int = 2 * POOL_ENTRIES_MAX) -> None:
        self._entries = dict(entries)
        self._entries_max = entries_max

    @classmethod
    def from_secret(cls, secret: bytes) -> VerificationPool:
        """Cut a pair secret into the first entries."""
        count = len(secret) // ENTRY_BYTES
        return cls({i - count: secret[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES] for i in range(count)})

    def take_newest(self) -> dict[int, bytes]:
        """Remove and return the entries for one block, in ascending order of number."""
        numbers = sorted(self._entries)[-ENTRIES_PER_BLOCK:]
        return self.take(numbers)

    def take(self, numbers: Collection[int]) -> dict[int, bytes]:
        """Remove and return the named entries."""
        return {number: self._entries.pop(number) for number in numbers}

    def put(self, entries: dict[int, bytes]) -> None:
        """Add entries, new or handed back; beyond the bound the oldest paid-in ones go."""
        self._entries.update(entries)
        surplus = len(self._entries) - self._entries_max
        for number in sorted(number for number in self._entries if number >= 0)[: max(0, surplus)]:
            del self._entries[number]

    def put_reserve(self, index: int, reserve: bytes) -> None:
        """Pay in the reserved first bytes of a verified block."""
        cut = (reserve[i * ENTRY_BYTES : (i + 1) * ENTRY_BYTES] for i in range(CONTRIBUTED_PER_BLOCK))
        self.put(dict(zip(contributed_by(index), cut, strict=True)))

    def retain(self, numbers: Collection[int]) -> None:
        """Forget all entries but these."""
        self._entries = {number: key for number, key in self._entries.items() if number in numbers}

    def has(self, numbers: Collection[int]) -> bool:
        """Whether all these entries are here."""
        return all(number in self._entries for number in numbers)

    def items(self) -> dict[int, bytes]:
        """Return all entries, for the journal."""
        return dict(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._entries))

    def __repr__(self) -> str:
        return f"VerificationPool({len(self._entries)} entries, redacted)"
