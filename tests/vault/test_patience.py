"""A site that hangs costs one deadline, not one per exchange."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from shosoin.base import SiteId, Unavailable
from shosoin.vault.patience import PatientLink
from shosoin.vault.ports import Buffer, NodeSlow


class Clock:
    now = 0.0

    def now_s(self) -> float:
        return self.now

    def wall_s(self) -> float:
        return self.now


class Link:
    site = SiteId("koganei")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.takes_s = 0.0
        self.refuses = False
        self.given: list[float] = []

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        self.given.append(timeout_s)
        self.clock.now += min(self.takes_s, timeout_s)
        if self.takes_s > timeout_s:
            raise NodeSlow("too slow")
        if self.refuses:
            raise Unavailable("busy")
        await asyncio.sleep(0)
        return b"answer"


async def ask(link: PatientLink, timeout_s: float = 15.0) -> bytes:
    return await link.exchange("/", [], response_bytes_max=10, timeout_s=timeout_s)


async def test_after_a_deadline_that_passed_the_next_ones_are_short() -> None:
    clock = Clock()
    inner = Link(clock)
    link = PatientLink(inner, clock)
    assert await ask(link) == b"answer"
    inner.takes_s = 1e9
    for _ in range(20):
        with pytest.raises(NodeSlow):
            await ask(link)
    assert inner.given[:6] == [15.0, 15.0, 2.0, 1.0, 0.5, 0.25]
    assert clock.now < 15.0 + 2 + 1 + 0.5 + 17 * 0.25
    inner.takes_s = 0.1
    await ask(link)
    await ask(link)
    assert inner.given[-2:] == [0.25, 15.0]


async def test_an_error_is_an_answer() -> None:
    clock = Clock()
    inner = Link(clock)
    link = PatientLink(inner, clock)
    inner.takes_s = 1e9
    with pytest.raises(NodeSlow):
        await ask(link)
    inner.takes_s, inner.refuses = 0.0, True
    with pytest.raises(Unavailable):
        await ask(link)
    with pytest.raises(Unavailable):
        await ask(link)
    assert inner.given == [15.0, 2.0, 15.0]


async def test_a_straggler_that_was_cut_short_counts_as_late() -> None:
    clock = Clock()
    inner = Link(clock)
    link = PatientLink(inner, clock)
    task = asyncio.create_task(ask(link))
    await asyncio.sleep(0)
    clock.now += 3.0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ask(link)
    assert inner.given == [15.0, 2.0]


async def test_a_slow_site_that_answers_is_never_given_less_than_it_takes() -> None:
    clock = Clock()
    inner = Link(clock)
    link = PatientLink(inner, clock)
    inner.takes_s = 3.0
    await ask(link)
    inner.takes_s = 40.0
    with pytest.raises(NodeSlow):
        await ask(link)
    inner.takes_s = 3.0
    for _ in range(10):
        await ask(link)


async def test_a_site_that_was_late_before_it_ever_answered_gets_a_whole_deadline_again_in_time() -> None:
    clock = Clock()
    inner = Link(clock)
    link = PatientLink(inner, clock)
    inner.takes_s = 40.0
    with pytest.raises(NodeSlow):
        await ask(link)
    inner.takes_s = 3.0
    answered = 0
    for _ in range(50):
        clock.now += 5.0
        try:
            await ask(link)
        except NodeSlow:
            continue
        answered += 1
    assert answered >= 35
    assert clock.now < 500
