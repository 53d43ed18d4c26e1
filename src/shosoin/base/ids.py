"""Identifiers as types, so that a site cannot be passed where an owner is meant.

Names of sites, KMEs, SAEs and owners are chosen by operators: 1 to 64 characters out of ``A-Z a-z 0-9 . _ -``
(the alphabet that survives URLs, file names and certificates unescaped; ETSI GS QKD 020 also caps SAE IDs at 64).
Objects and versions are 16 random bytes, shown as 32 hexadecimal digits: they say nothing about a name.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Self

from shosoin.base.errors import Rejected

__all__ = ["KmeId", "ObjectId", "OwnerId", "SaeId", "SiteId", "SystemId", "VersionId"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEX_128 = re.compile(r"[0-9a-f]{32}")


class _Name(str):
    """A name checked on construction."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        return cls._checked(text)

    @classmethod
    @lru_cache(maxsize=4096)
    def _checked(cls, text: str) -> Self:
        """Return the name; the same few come again and again."""
        if not _NAME.fullmatch(text):
            raise Rejected(
                f"{cls.__name__} must be 1 to 64 characters out of A-Z a-z 0-9 . _ -, got {text[:80]!r}",
                code="base.bad_identifier",
            )
        return super().__new__(cls, text)


class SiteId(_Name):
    """A site: one trust domain that holds at most one share of an object."""

    __slots__ = ()


class KmeId(_Name):
    """A key management entity (ETSI GS QKD 014)."""

    __slots__ = ()


class SaeId(_Name):
    """A secure application entity (ETSI GS QKD 014): whoever asks a KME for keys."""

    __slots__ = ()


class SystemId(_Name):
    """What a Key Provider of SKIP (draft-cisco-skip-02) calls itself: characters without meaning in a glob."""

    __slots__ = ()


class OwnerId(_Name):
    """An owner of objects; at its home KME the owner is the SAE of the same name."""

    __slots__ = ()


class _Random128(str):
    """Sixteen random bytes as 32 lower-case hexadecimal digits."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _HEX_128.fullmatch(text):
            raise Rejected(
                f"{cls.__name__} must be 32 lower-case hexadecimal digits, got {text[:40]!r}",
                code="base.bad_identifier",
            )
        return super().__new__(cls, text)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Make an identifier of 16 bytes."""
        return cls(raw.hex())

    @property
    def raw(self) -> bytes:
        """The 16 bytes."""
        return bytes.fromhex(self)


class ObjectId(_Random128):
    """An object in the vault."""

    __slots__ = ()


class VersionId(_Random128):
    """One version of an object."""

    __slots__ = ()
