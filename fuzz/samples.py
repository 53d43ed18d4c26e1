"""Valid things to start from, made with our own encoders and a seeded generator."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from shosoin.base import ObjectId, OwnerId, SiteId, VersionId
from shosoin.vault.electorate import Electorate
from shosoin.vault.index import Entry, condemned_name
from shosoin.vault.layout import BodyLayout
from shosoin.vault.manifest import Manifest, SegmentEntry, encode_pages, encode_roots
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import OwnerSigner
from shosoin.vault.values import Body, RegisterValue, ValueDraft, sign_values

__all__ = [
    "ENTROPY",
    "OBJECT",
    "OWNER",
    "SIGNER",
    "SITES",
    "VERSION",
    "SeededEntropy",
    "example_entries",
    "example_manifest",
    "example_pages",
    "example_roots",
    "example_values",
]

OWNER = OwnerId("owner-1")
OBJECT = ObjectId("ab" * 16)
VERSION = VersionId("cd" * 16)
SITES = tuple(SiteId(name) for name in ("koganei", "otemachi", "hakusan"))
SIGNER = OwnerSigner(bytes(range(32)))


class SeededEntropy:
    """An ``Entropy`` that replays; it protects nothing."""

    source = "seeded generator for fuzzing"
    physical = False

    def __init__(self) -> None:
        self._random = random.Random(1)

    def random_bytes(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        return self._random.randbytes(size_bytes)


ENTROPY = SeededEntropy()


@lru_cache(maxsize=1)
def example_values() -> tuple[RegisterValue, ...]:
    """Values of an object, an index and a tombstone, signed together."""
    body = Body(VERSION, BodyLayout(512, 64, 0, 0, 4096), SITES)
    drafts = [_draft("object", (body,), 1), _draft("index", (body, body), 1), _draft("tombstone", (), 0)]
    return tuple(sign_values(drafts, SIGNER))


def _draft(kind: str, bodies: tuple[Body, ...], added: int) -> ValueDraft:
    return ValueDraft(
        kind=kind,
        register_id=OBJECT,
        owner=OWNER,
        version=VERSION,
        parent=None,
        scheme=Scheme(2, 3),
        class_="pqc",
        placement=SITES,
        electorate=Electorate(SITES, 2, 0),
        bodies=bodies,
        added=added,
        created_wall_s=1.5,
        facts={"home": SITES[0], "transfers": {}},
    )


def example_manifest(segments: int) -> Manifest:
    """A manifest of a small object."""
    inline = tuple(SegmentEntry(bytes([index]) * 32, bytes(16)) for index in range(segments))
    return Manifest(OBJECT, VERSION, OWNER, "dir/name", segments << 20, "text/plain", 1.5, segments, inline)


def example_roots() -> list[bytes]:
    """Roots of an empty, a small and a paged object."""
    paged = Manifest(OBJECT, VERSION, OWNER, "big", 9 << 20, "", 2.0, 9, (), (bytes(32),))
    return encode_roots([example_manifest(0), example_manifest(1), paged], SIGNER, ENTROPY)


def example_pages() -> list[bytes]:
    """The page of an object of nine segments."""
    return encode_pages(OBJECT, VERSION, [SegmentEntry(bytes(32), bytes(16))] * 9, ENTROPY)


def example_entries(count: int) -> Sequence[Entry]:
    """Entries of an index, the third removed, the fourth condemned without ever having had a name or a version."""
    entries = [
        Entry(f"name-{index}", OBJECT, index + 1, "its", 5, "", 2, 3, VERSION, 1, 1.5, index == 2)
        for index in range(count)
    ]
    condemned = Entry(condemned_name(OBJECT), OBJECT, 4, "its", 0, "", 2, 3, "", 0, 1.5, deleted=True)
    return [*entries[:3], condemned] if count > 3 else entries
