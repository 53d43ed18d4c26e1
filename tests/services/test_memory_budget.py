"""A budget of memory: however many callers help each other, something is left for the next."""

from __future__ import annotations

import pytest

from shosoin.base import Unavailable
from shosoin.services.memory_budget import MemoryBudget

MIB = 1 << 20


def test_one_caller_has_half_and_gets_it_back() -> None:
    budget = MemoryBudget(256 * MIB, code="test.busy")
    with budget.claim() as claim:
        claim.take("a", 128 * MIB)
        with pytest.raises(Unavailable):
            budget.reserve("a", 1)
    budget.reserve("a", 128 * MIB)
    assert budget.held_bytes == 128 * MIB


@pytest.mark.parametrize("helpers", [1, 2, 3, 6])
def test_helpers_leave_something(helpers: int) -> None:
    budget = MemoryBudget(256 * MIB, code="test.busy")
    for number in range(helpers):
        size, taken = 128 * MIB, 0
        while size >= 4096:
            try:
                budget.reserve(f"helper-{number}", size)
                taken += size
            except Unavailable:
                size //= 2
        assert taken
    budget.reserve("honest", (256 * MIB >> (helpers + 1)) - 4096 * helpers)


def test_a_claim_holds_one_thing_at_a_time() -> None:
    budget = MemoryBudget(100, code="test.busy")
    with budget.claim() as claim:
        claim.take("a", 40)
        claim.take("a", 50)
        assert budget.held_bytes == 50
        with pytest.raises(Unavailable):
            claim.take("a", 51)
        assert budget.held_bytes == 0


def test_a_claim_on_nothing_leaves_no_name_behind() -> None:
    budget = MemoryBudget(100, code="test.busy")
    with budget.claim() as claim:
        claim.take("a", 0)
    assert not budget._held_by
