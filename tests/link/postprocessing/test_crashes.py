"""Every point at which an end can die: both ends agree afterwards, and nothing is used or told twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shosoin.link.postprocessing import KeyReady, Receiver
from tests.link.postprocessing.world import SMALL, SeededEntropy, World, made_records

RECORDS = made_records(1_000_000, qber=0.003)
PARAMETERS = replace(SMALL, block_bits=18_432, authentication_stock_bytes=4096)


def world(**changes: Any) -> World:
    """Two blocks, each of which gives a part of its key to both key streams."""
    return World(PARAMETERS, RECORDS, **changes)


@pytest.fixture(scope="module")
def calm() -> World:
    """A run in which nobody dies."""
    return world().run().check()


def test_a_calm_run_takes_one_session_and_every_block_of_it_has_equal_keys(calm):
    assert calm.sessions == 1
    assert len(calm.keys[0]) == 2
    assert all(len(key) > 50 for key in calm.keys[0].values())
    assert all(report["authentication_bits"] for report in calm.reports[0].values())


@pytest.mark.parametrize("end", [0, 1])
def test_whenever_an_end_dies_after_a_commit_both_agree_on_every_key(calm, end):
    survived = set()
    for commit in range(calm.journals[end].commits):
        run = world()
        run.journals[end].crash_at = (commit, True)
        run.run().check()
        assert run.sessions == 2
        survived.add(len(run.keys[0]))
    assert min(survived) < 2 == max(survived)  # a crash costs the blocks in flight, if there are any


@pytest.mark.parametrize("end", [0, 1])
def test_whenever_an_end_dies_before_a_commit_that_decides_both_agree_on_every_key(calm, end):
    for commit, names in enumerate(calm.journals[end].history):
        if any(name.startswith(("key/", "next/block")) for name in names):
            run = world()
            run.journals[end].crash_at = (commit, False)
            run.run().check()
            assert run.sessions == 2


def test_whenever_both_ends_lose_what_was_on_the_wire_they_agree_on_every_key(calm):
    for number in range(len(calm.wire)):
        run = world(kill_after=number)
        run.run().check()
        assert run.sessions == 2


def test_a_crash_after_a_crash_is_no_different(calm):
    for first in range(2, calm.journals[0].commits, 5):
        run = world(kill_after=len(calm.wire) - 3)
        run.journals[0].crash_at = (first, True)
        run.journals[1].crash_at = (first + 1, True)
        run.run().check()


def test_keys_that_an_application_never_took_are_told_again_and_the_same(calm):
    run = world()
    transmitter, receiver = run.ends()
    told: list[KeyReady] = []
    receiver.start()
    todo = list(run.records.detections)
    has_fed = False
    while not told:
        moved = run._pass_on(receiver, transmitter) + run._pass_on(transmitter, receiver)
        if transmitter.is_open and not has_fed:
            transmitter.feed(run.records.sent)
            has_fed = True
        if receiver.wants_detections and todo:
            receiver.feed(todo.pop(0))
        told = [outcome for outcome in receiver.outcomes() if isinstance(outcome, KeyReady)]
        assert moved or todo or told
    grown, usable = receiver._streams.end(receiver.speaks), receiver._limit()
    assert usable < grown  # until the other end is known to have the refill, none of it may be used
    for _ in range(2):
        outcomes = Receiver(PARAMETERS, run.journals[1], SeededEntropy(9)).outcomes()
        again = [outcome for outcome in outcomes if isinstance(outcome, KeyReady)]
        assert len(again) == len(outcomes)
        assert [(one.block, one.report) for one in again] == [(one.block, one.report) for one in told]
        assert all(one.key == other.key for one, other in zip(again, told, strict=True))
    assert Receiver(PARAMETERS, run.journals[1], SeededEntropy(9))._limit() == usable
    run.sessions = 1
    run.run().check()
    assert told[0].block in run.keys[0]
    settled = Receiver(PARAMETERS, run.journals[1], SeededEntropy(9))
    assert settled._limit() == settled._streams.end(settled.speaks) >= grown
