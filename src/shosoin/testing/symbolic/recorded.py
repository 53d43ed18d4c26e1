"""What a recorded run is made of: messages, keys known by their content, bodies as they were shared.

Every 16 bytes of key or mask are an unknown, known by their content and not by the key_ID they came under, so that what
is used twice is one unknown in two places. Forms are held against bytes: with the recorded keys for the unknowns, each
form must give exactly what was sent.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.kernels import ELEMENT_BYTES
from shosoin.kernels.fields import Values
from shosoin.testing.symbolic.forms import Form
from shosoin.testing.symbolic.transcript import Link, Transcript, at_link

__all__ = ["Body", "Deal", "Message", "Parts", "RecordedKeys", "Span", "Unexplained", "blocks_of", "elements_of"]

Body = tuple[str, str, int]
"""Object, version and epoch."""
Span = tuple[Hashable, int, int]
"""Name, first index and number of some unknowns."""


class Unexplained(ValueError):
    """The run did something that its reading as linear forms does not explain."""


@dataclass(slots=True)
class Message:
    """A request to a site, by its place among the sites, and the answer if the site gave one."""

    site: int
    request: bytes
    answer: bytes | None = None


@dataclass(slots=True)
class Parts:
    """A message taken apart."""

    message: Message
    header: dict[str, Any]
    payload: bytes
    results: list[dict[str, Any]]
    answer: bytes
    pads: tuple[Sequence[Form], Sequence[Form]] | None


@dataclass(slots=True)
class Deal:
    """One body as it was shared: where its chunks start, who took key bits, what everybody was sent."""

    name: int
    k: int = 0
    masks: int = 0
    sites: dict[int, int] = field(default_factory=dict)
    """Index of the evaluation point by site, as the seals say."""
    chunks: dict[int, int] = field(default_factory=dict)
    taken: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    clear: dict[int, dict[int, bytes]] = field(default_factory=dict)
    shares: dict[int, Values] = field(default_factory=dict)

    def got(self, offset: int, site: int, clear: bytes) -> None:
        """Note what a site was sent; one that falls out before its seal stands where its place among the sites says."""
        self.clear.setdefault(offset, {})[site] = clear
        self.sites.setdefault(site, site + 1)


class RecordedKeys:
    """Every key drawn, as unknowns of a transcript.

    Args:
        run: where the unknowns are made, and where whoever stands on a link learns its keys.
        contents: content of every key drawn, by key_ID.
        links: whose key it is, by key_ID, where that is known; it is then held against whose it is used as.
    """

    def __init__(self, run: Transcript, contents: Mapping[str, bytes], links: Mapping[str, Link] | None = None) -> None:
        self.run = run
        self.assignment: dict[Hashable, int] = {}
        """Values of the unknowns."""
        self._contents = contents
        self._links = links or {}
        self._blocks: dict[bytes, Form] = {}

    def content(self, key_ids: Sequence[str]) -> bytes:
        """Return the bits of keys, one after the other.

        Raises:
            Unexplained: nobody drew one of them.
        """
        try:
            return b"".join(self._contents[key_id] for key_id in key_ids)
        except KeyError:
            raise Unexplained("a message names a key that nobody drew") from None

    def drawn(self, link: Link, key_ids: Sequence[str], names: Sequence[Span]) -> list[Form]:
        """Return the unknowns of the first elements of some keys, as many as are named; new ones get the names.

        Raises:
            Unexplained: the keys are too short, or another link's.
        """
        titles = [(name, start + at) for name, start, count in names for at in range(count)]
        content = self.content(key_ids)
        if len(content) < ELEMENT_BYTES * len(titles):
            raise Unexplained(f"keys of {len(content)} bytes, expected {ELEMENT_BYTES * len(titles)}")
        if any(set(self._links.get(key_id, link)) != set(link) for key_id in key_ids):
            raise Unexplained(f"a key of another link than {link}")
        blocks = blocks_of(content[: ELEMENT_BYTES * len(titles)])
        forms = [self.block(block, title) for block, title in zip(blocks, titles, strict=True)]
        self.run.reveal(at_link(link, "0"), forms)
        return forms

    def block(self, block: bytes, title: tuple[Hashable, int]) -> Form:
        """Return the unknown of 16 bytes of key: equal bytes are one unknown, whatever key_ID they came under."""
        if block not in self._blocks:
            while title in self.assignment:  # the same step once more, under other keys
                title = ("again", title[0]), title[1]
            self._blocks[block] = self.run.symbols.unknown(title)
            self.assignment[title] = int.from_bytes(block, "little")
        return self._blocks[block]

    def hold(self, forms: Iterable[Form], content: bytes, what: str) -> None:
        """Hold forms against the bytes that were sent.

        Raises:
            Unexplained: they give other bytes.
        """
        if [self.run.symbols.at(form, self.assignment) for form in forms] != elements_of(content):
            raise Unexplained(f"{what} carried bytes that the forms do not give")


def blocks_of(content: bytes) -> list[bytes]:
    """Return bytes cut into elements.

    Raises:
        Unexplained: they are not whole elements.
    """
    if len(content) % ELEMENT_BYTES:
        raise Unexplained(f"{len(content)} bytes are not whole elements")
    return [content[at : at + ELEMENT_BYTES] for at in range(0, len(content), ELEMENT_BYTES)]


def elements_of(content: bytes) -> list[int]:
    """Return bytes as elements."""
    return [int.from_bytes(block, "little") for block in blocks_of(content)]
