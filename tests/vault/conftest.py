"""Fixtures of the vault's tests."""

from __future__ import annotations

import pytest

SMALL_SEGMENT_BYTES = 2048
SMALL_PAGE_ENTRIES = 4


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Shrink segments, pages and chunks so that small objects cross their boundaries."""
    base = "shosoin.vault."
    for module in ("layout", "writing", "reading", "key_needs"):
        monkeypatch.setattr(f"{base}{module}.SEGMENT_BYTES", SMALL_SEGMENT_BYTES)
    for module in ("layout", "manifest", "reading", "key_needs"):
        monkeypatch.setattr(f"{base}{module}.PAGE_ENTRIES", SMALL_PAGE_ENTRIES)
    for module in ("layout", "manifest", "writing"):
        monkeypatch.setattr(f"{base}{module}.INLINE_ENTRIES", 2)
    for module in ("staging", "writing"):
        monkeypatch.setattr(f"{base}{module}.CHUNK_BYTES", 4096)
    monkeypatch.setattr(f"{base}staging._LARGE_CHUNK_BYTES", 8192)
    monkeypatch.setattr(f"{base}staging._EXCHANGE_BYTES", 6144)
    monkeypatch.setattr(f"{base}reading.SMALL_BYTES", 6000)
    return SMALL_SEGMENT_BYTES
