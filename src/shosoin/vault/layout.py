"""Where everything lies inside an object's body.

The body is one vector of field elements: audit masks, data, manifest pages, manifest root. It is shared element by
element, so a share has the same layout and every range of the body can be fetched on its own::

    | masks: U elements | segment 0 .. S-1 (1 MiB, last short) | page 0 .. P-1 | root |

The root comes last because it holds what is known only when a stream has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shosoin.base import PeerFault
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.scheme import Scheme

__all__ = ["ANSWERS_PER_EPOCH", "PAGE_ENTRIES", "SEGMENT_BYTES", "BodyLayout", "mask_elements"]

SEGMENT_BYTES = 1 << 20
PAGE_ENTRIES = 1024
"""Segments that one manifest page describes."""
INLINE_ENTRIES = 8
"""Up to so many segments are described in the root itself."""
ENTRY_BYTES = 48
PAGE_HEADER_BYTES = 64
BODY_BYTES_MAX = 1 << 46
ANSWERS_PER_EPOCH = 16
"""T: audit challenges that a site answers per object and epoch."""


def mask_elements(scheme: Scheme) -> int:
    """U = (n-k+1) * T extra sharings of random elements, which hide the data in audit answers."""
    return (scheme.n - scheme.k + 1) * ANSWERS_PER_EPOCH


@dataclass(frozen=True, slots=True)
class BodyLayout:
    """Sizes in bytes (multiples of 16) of the parts of a body."""

    masks: int
    data: int
    page_bytes: int
    pages: int
    root: int

    def __post_init__(self) -> None:
        sizes = (self.masks, self.data, self.page_bytes, self.root)
        if any(size < 0 or size % ELEMENT_BYTES for size in sizes) or self.pages < 0 or self.total > BODY_BYTES_MAX:
            raise PeerFault(f"a body layout that cannot be: {sizes}", code="vault.bad_layout")

    @property
    def total(self) -> int:
        """Bytes of the body, and of every share."""
        return self.masks + self.data + self.pages * self.page_bytes + self.root

    @property
    def data_offset(self) -> int:
        """Where segment 0 starts."""
        return self.masks

    @property
    def segments(self) -> int:
        """Number of segments."""
        return -(-self.data // SEGMENT_BYTES)

    @property
    def root_offset(self) -> int:
        """Where the root starts."""
        return self.total - self.root

    def segment(self, index: int) -> tuple[int, int]:
        """Return offset and length of a segment in the body."""
        start = index * SEGMENT_BYTES
        return self.data_offset + start, min(SEGMENT_BYTES, self.data - start)

    def page(self, index: int) -> tuple[int, int]:
        """Return offset and length of a manifest page in the body."""
        return self.data_offset + self.data + index * self.page_bytes, self.page_bytes

    def to_json(self) -> dict[str, int]:
        """Return the public form."""
        return {
            "masks": self.masks,
            "data": self.data,
            "page_bytes": self.page_bytes,
            "pages": self.pages,
            "root": self.root,
        }

    @classmethod
    def from_json(cls, value: Any) -> BodyLayout:
        """Read the public form.

        Raises:
            PeerFault: when it is not one.
        """
        names = ("masks", "data", "page_bytes", "pages", "root")
        if not isinstance(value, dict) or any(type(value.get(name)) is not int for name in names):
            raise PeerFault("a body layout that cannot be read", code="vault.bad_layout")
        return cls(*(value[name] for name in names))
