"""Running a few of many at once."""

from __future__ import annotations

import pytest

from shosoin.vault.concurrency import gather_few
from tests.vault.support import TurnRuntime


async def test_results_are_in_order_and_only_so_many_run_at_once() -> None:
    runtime = TurnRuntime()
    running, most = 0, 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await runtime.sleep(0.01 * (7 - number % 5))
        running -= 1
        return number

    assert await gather_few(runtime, [work(number) for number in range(11)], at_once=3) == list(range(11))
    assert most == 3
    assert await gather_few(runtime, [], at_once=3) == []


async def test_after_a_failure_nothing_more_begins() -> None:
    runtime = TurnRuntime()
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        await runtime.sleep(0.01)
        if number == 1:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await gather_few(runtime, [work(number) for number in range(20)], at_once=2)
    assert len(begun) <= 4
