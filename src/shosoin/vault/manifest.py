"""The manifest: what only the owner may know of an object, shared like the object itself.

Two levels, so that reading a range stays small. The **root** holds name, true length, content type and either the
segment entries themselves (small objects) or a hash of every **page**; a page holds the entries of 1,024 segments. An
entry is a one-time polynomial MAC key with its tag over the *plaintext* segment, which stays valid when shares are
refreshed. Root and pages each end with an AMD code word and are decoded from as many answers as it takes; the root
also carries the proof of the owner's signature. The hashes are safe because the root is never whole at any site.

Error of a segment MAC: at most 65,536 / 2^128 per segment.
"""

from __future__ import annotations

import base64
import hmac
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha384
from typing import Any

from shosoin.base import Alarm, Entropy, ObjectId, OwnerId, PeerFault, Rejected, VersionId
from shosoin.kernels import polynomial_mac
from shosoin.vault.amd import OVERHEAD_BYTES, amd_decode, amd_encode
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import ENTRY_BYTES, INLINE_ENTRIES, PAGE_ENTRIES, PAGE_HEADER_BYTES
from shosoin.vault.ports import Buffer
from shosoin.vault.signing import OwnerSigner, check_proof

__all__ = [
    "Manifest",
    "SegmentEntry",
    "decode_page",
    "decode_root",
    "encode_pages",
    "encode_roots",
    "page_size",
    "root_size",
]

_CONTEXT = b"shosoin manifest v1"
_PAGE_MAGIC = b"SHOSOIN-PAGE-1\0\0"
_HEAD_BYTES = 6
_PAGE_HASH_BYTES = 32
_ROOT_FIXED_BYTES = 5888
"""Room for the proof, every field and the longest name: a root must not tell how long a name is."""


class ManifestInvalid(Alarm):
    """A manifest that decodes but contradicts itself, its register or its owner's signature."""

    code = "vault.manifest_invalid"


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """One-time MAC key and tag of one plaintext segment."""

    mac_key: bytes
    tag: bytes

    @classmethod
    def of(cls, segment: Buffer, entropy: Entropy) -> SegmentEntry:
        """Authenticate a segment under a fresh key."""
        key = entropy.random_bytes(32)
        return cls(key, polynomial_mac(key, segment))

    def holds(self, segment: Buffer) -> bool:
        """Whether the segment is the one that was authenticated."""
        return hmac.compare_digest(polynomial_mac(self.mac_key, segment), self.tag)

    def __repr__(self) -> str:
        return "SegmentEntry(redacted)"

    @property
    def raw(self) -> bytes:
        """The 48 bytes."""
        return self.mac_key + self.tag


def _entries(raw: Buffer) -> tuple[SegmentEntry, ...]:
    view = bytes(raw)
    if len(view) % ENTRY_BYTES:
        raise ValueError("an entry that is cut short")
    return tuple(
        SegmentEntry(view[at : at + 32], view[at + 32 : at + ENTRY_BYTES]) for at in range(0, len(view), ENTRY_BYTES)
    )


@dataclass(frozen=True, slots=True)
class Manifest:
    """The root of a manifest."""

    object_id: ObjectId
    version: VersionId
    owner: OwnerId
    name: str
    size_bytes: int
    content_type: str
    created_wall_s: float
    segments: int
    inline: tuple[SegmentEntry, ...]
    """Entries of small objects; empty when there are pages."""
    page_hashes: tuple[bytes, ...] = ()

    def _json(self) -> dict[str, Any]:
        return {
            "v": 1,
            "object": self.object_id,
            "version": self.version,
            "owner": self.owner,
            "name": base64.b64encode(self.name.encode()).decode(),
            "size": self.size_bytes,
            "type": self.content_type,
            "created": self.created_wall_s,
            "segments": self.segments,
            "inline": b"".join(entry.raw for entry in self.inline).hex(),
            "pages": [digest.hex() for digest in self.page_hashes],
        }


def _padded(record: bytes, step: int) -> bytes:
    return record + bytes(-len(record) % step)


def encode_roots(manifests: Sequence[Manifest], signer: OwnerSigner, entropy: Entropy) -> list[bytes]:
    """Sign manifests together and return their roots as they are shared: proof, JSON, padding, AMD code word."""
    texts = [canonical_json(manifest._json()) for manifest in manifests]  # noqa: SLF001  # the codec of this very class
    return [
        _encode_root(manifest, text, proof, entropy)
        for manifest, text, proof in zip(manifests, texts, signer.proofs(texts, _CONTEXT), strict=True)
    ]


def _encode_root(manifest: Manifest, text: bytes, proof: bytes, entropy: Entropy) -> bytes:
    record = len(text).to_bytes(4, "little") + len(proof).to_bytes(2, "little") + proof + text
    size = root_size(manifest.segments, len(manifest.page_hashes)) - OVERHEAD_BYTES
    if len(record) > size:
        raise ValueError(f"a manifest root of {len(record)} bytes, room for {size}")
    return amd_encode(record + bytes(size - len(record)), entropy)


def root_size(segments: int, pages: int) -> int:
    """Return the size of a root: a function of the object's length class alone."""
    inline = segments if segments <= INLINE_ENTRIES else 0
    return _ROOT_FIXED_BYTES + 2 * ENTRY_BYTES * inline + 80 * pages


def decode_root(
    coded: bytes | memoryview, object_id: ObjectId, version: VersionId, public_key: bytes
) -> Manifest | None:
    """Return the manifest, or ``None`` if the AMD code word does not hold (some share was wrong).

    Raises:
        ManifestInvalid: the record is authentic as shared, but is of another object or not signed by the owner.
    """
    record = amd_decode(coded)
    if record is None:
        return None
    size, proof_end = (
        int.from_bytes(record[:4], "little"),
        _HEAD_BYTES + int.from_bytes(record[4:_HEAD_BYTES], "little"),
    )
    text = record[proof_end : proof_end + size]
    try:
        check_proof(public_key, record[_HEAD_BYTES:proof_end], text, _CONTEXT)
        raw = json.loads(text)
        manifest = Manifest(
            object_id=ObjectId(raw["object"]),
            version=VersionId(raw["version"]),
            owner=OwnerId(raw["owner"]),
            name=base64.b64decode(raw["name"], validate=True).decode(),
            size_bytes=_whole(raw["size"]),
            content_type=str(raw["type"]),
            created_wall_s=_seconds(raw["created"]),
            segments=_whole(raw["segments"]),
            inline=_entries(bytes.fromhex(raw["inline"])),
            page_hashes=tuple(map(_page_hash, raw["pages"])),
        )
        manifest.content_type.encode()
    except (ValueError, KeyError, TypeError, RecursionError, PeerFault, Rejected):
        raise ManifestInvalid("the manifest cannot be read") from None
    if (manifest.object_id, manifest.version) != (object_id, version):
        raise ManifestInvalid("the manifest belongs to another object or version")
    return manifest


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("no whole number")
    return value


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError("no time")
    return seconds


def _page_hash(digits: str) -> bytes:
    digest = bytes.fromhex(digits)
    if len(digest) != _PAGE_HASH_BYTES:
        raise ValueError("no hash of a page")
    return digest


def page_size(segments: int) -> int:
    """Return the size of one manifest page for an object of so many segments, 0 if it needs none."""
    if segments <= INLINE_ENTRIES:
        return 0
    return PAGE_HEADER_BYTES + min(segments, PAGE_ENTRIES) * ENTRY_BYTES + OVERHEAD_BYTES


def encode_pages(object_id: ObjectId, version: VersionId, entries: list[SegmentEntry], entropy: Entropy) -> list[bytes]:
    """Return the pages as they are shared (none for a small object)."""
    size = page_size(len(entries))
    pages = []
    for index in range(-(-len(entries) // PAGE_ENTRIES) if size else 0):
        part = entries[index * PAGE_ENTRIES : (index + 1) * PAGE_ENTRIES]
        head = _PAGE_MAGIC + object_id.raw + version.raw + index.to_bytes(8, "little") + len(part).to_bytes(8, "little")
        record = head + b"".join(entry.raw for entry in part)
        pages.append(amd_encode(record + bytes(size - OVERHEAD_BYTES - len(record)), entropy))
    return pages


def page_hash(page: Buffer) -> bytes:
    """Return what the root keeps of a page."""
    return sha384(page).digest()[:_PAGE_HASH_BYTES]


def decode_page(
    coded: bytes | memoryview, object_id: ObjectId, version: VersionId, index: int, expected_hash: bytes
) -> tuple[SegmentEntry, ...] | None:
    """Return the entries of a page, or ``None`` if it is not the page that the root names."""
    record = amd_decode(coded)
    if record is None or not hmac.compare_digest(page_hash(coded), expected_hash):
        return None
    head = _PAGE_MAGIC + object_id.raw + version.raw + index.to_bytes(8, "little")
    count = int.from_bytes(record[len(head) : PAGE_HEADER_BYTES], "little")
    end = PAGE_HEADER_BYTES + count * ENTRY_BYTES
    if record[: len(head)] != head or count > PAGE_ENTRIES or end > len(record):
        return None
    return _entries(record[PAGE_HEADER_BYTES:end])
