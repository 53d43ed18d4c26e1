"""Defects that a hostile review found and that are still open, in one list.

Each of these tests states what must hold and fails today; strict, so that mending one fails the run until its line is
taken out here.
"""

from __future__ import annotations

import pytest

OPEN = {
    "test_e01_one_caller_cannot_take_all_memory_for_request_bodies": "bodies are bounded each, not per caller",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Expect exactly the open ones to fail."""
    for item in items:
        reason = OPEN.get(getattr(item, "originalname", item.name))
        if reason is not None and "tests/review" in item.path.as_posix():
            item.add_marker(pytest.mark.xfail(strict=True, reason=f"open: {reason}"))
