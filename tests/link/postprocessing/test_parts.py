"""Sifting, frames, verification and Cascade by themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.base.messages import text
from shosoin.link.postprocessing import VoidReason
from shosoin.link.postprocessing.frames import in_block_order, in_frame_order
from shosoin.link.postprocessing.reconciling import expected_qber
from shosoin.link.postprocessing.sifting import Accumulator, Kept
from shosoin.link.postprocessing.verification import (
    collision_probability,
    excess_bits,
    hash_bits,
    hash_block,
    hashes_agree,
)
from shosoin.link.reconciliation.cascade import CascadeEnd

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_blocks_are_the_same_however_detections_come_in_batches(seed, sizes, size):
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    codes = rng.integers(0, 4, count, dtype=np.uint8)
    where = rng.integers(0, 3, count)  # key basis, test basis, bases differ
    borders = np.arange(0, count, size)
    edges = np.unique([*np.cumsum([0, *sizes]), *borders])  # no batch spans two blocks

    def kept(start: int, end: int) -> Kept:
        here, part = where[start:end], codes[start:end]
        return Kept(part[here == 0], part[here == 1] | 8, end - start)

    def blocks(bounds) -> list:
        accumulator = Accumulator(size, 2, 5, 0)
        found = []
        for number, (start, end) in enumerate(bounds):
            found.append(accumulator.add(number, kept(start, end), int(end)))
        return [block for block in (*found, accumulator.finish(len(found))) if block is not None]

    once, often = blocks(pairwise([*borders.tolist(), count])), blocks(pairwise(edges.tolist()))
    assert [block.number for block in once] == [*range(5, 5 + len(once))]
    assert [block.detections for block in once] == np.diff([*borders, count]).tolist()
    for block, start in zip(once, borders, strict=True):
        key = codes[start : start + size][where[start : start + size] == 0] & 1
        assert block.bits.tolist() == np.packbits(key, bitorder="little").tolist()
    for one, other in zip(once, often, strict=True):
        assert one.bits.tolist() == other.bits.tolist()
        for name in ("key_detections", "test_detections", "test_errors"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
        assert one.key_detections.sum() == one.key_bits
        assert (one.test_errors <= one.test_detections).all()


@given(SEEDS, st.integers(1, 4000))
@settings(max_examples=40, deadline=None)
def test_frames_put_together_are_the_block(seed, octets):
    block = np.random.default_rng(seed).integers(0, 256, octets, dtype=np.uint8)
    frames = in_frame_order(block)
    assert sorted(frames) == sorted(block)
    assert in_block_order(frames).tolist() == block.tolist()


@pytest.mark.parametrize("octets", [10_000, 9_973, 125_000])
def test_errors_that_drift_along_a_block_are_spread_over_all_frames(octets):
    drifting = np.linspace(0, 200, octets).astype(np.uint8)
    frames = np.array_split(in_frame_order(drifting), 10)
    assert max(abs(frame.mean() - drifting.mean()) for frame in frames) < 2


@given(st.integers(0, 10**6), st.integers(1, 10**7))
@settings(max_examples=60, deadline=None)
def test_the_planned_error_rate_is_above_the_observed_one_and_close_for_many_bits(errors, bits):
    errors = min(errors, bits // 2)
    planned = expected_qber(errors, bits)
    assert min(0.5, errors / bits) <= planned <= 0.5
    assert planned <= errors / bits + 3 / np.sqrt(bits)


@given(SEEDS, st.integers(1, 400), st.integers(0, 3199))
@settings(max_examples=60, deadline=None)
def test_one_wrong_bit_shows_in_the_hash(seed, octets, at):
    rng = np.random.default_rng(seed)
    block = rng.integers(0, 256, octets, dtype=np.uint8)
    other = block.copy()
    other[at // 8 % octets] ^= 1 << at % 8
    function = rng.bytes(32)
    assert hashes_agree(hash_block(block, function, 60), hash_block(block.copy(), function, 60))
    assert not hashes_agree(hash_block(block, function, 60), hash_block(other, function, 60))


@given(st.integers(8, 1 << 27), st.floats(1e-20, 1e-2))
@settings(max_examples=200, deadline=None)
def test_a_hash_keeps_blocks_apart_and_is_paid_for(bits, eps_cor):
    length = hash_bits(bits, eps_cor)
    assert collision_probability(bits, length) <= eps_cor
    assert length <= np.log2(2 / eps_cor) + excess_bits(bits, eps_cor)
    assert excess_bits(bits, eps_cor) <= 1


def test_short_hashes_collide_as_often_as_they_may():
    rng = np.random.default_rng(1)
    one, other = rng.bytes(64), rng.bytes(64)
    first, second = (np.frombuffer(raw, np.uint8) for raw in (one, other))
    tries = 4000
    equal = 0
    for _ in range(tries):
        function = rng.bytes(32)
        equal += hash_block(first, function, 3) == hash_block(second, function, 3)
    assert abs(equal / tries - 1 / 8) < 4 * np.sqrt(7 / 64 / tries)


def run_cascade(bits: np.ndarray, wrong: np.ndarray, qber: float, seed: int = 3) -> tuple[CascadeEnd, int]:
    ends = CascadeEnd(bits, qber, seed=seed, corrects=False), CascadeEnd(bits ^ wrong, qber, seed=seed, corrects=True)
    told = 0
    while not ends[0].is_over:
        there, back = ends[0].parities, ends[1].parities
        told += len(there) + len(back)
        ends[0].take(back)
        ends[1].take(there)
    assert ends[1].is_over
    assert ends[0].bits.tolist() == bits.tolist()
    return ends[1], told


def test_cascade_leaves_equal_bits():
    """But for one block in some thousand, which the hash finds: so these blocks are always the same."""
    rng = np.random.default_rng(11)
    for _ in range(40):
        count, qber = int(rng.integers(1, 3000)), float(rng.uniform(0.0, 0.15))
        bits = rng.integers(0, 2, count, dtype=np.uint8)
        wrong = (rng.random(count) < qber).astype(np.uint8)
        end, _ = run_cascade(bits, wrong, max(qber, 0.005))
        assert end.bits.tolist() == bits.tolist()
        assert end.flipped == wrong.sum()


def test_cascade_costs_about_what_is_published_for_its_parities_one_way_and_twice_that_in_all():
    rng = np.random.default_rng(5)
    count, qber = 50_000, 0.03
    wrong = (rng.random(count) < qber).astype(np.uint8)
    actual = wrong.mean()
    _, told = run_cascade(rng.integers(0, 2, count, dtype=np.uint8), wrong, qber)
    efficiency = told / 2 / count / -(actual * np.log2(actual) + (1 - actual) * np.log2(1 - actual))
    assert 1.03 < efficiency < 1.2


def test_cascade_refuses_another_number_of_parities():
    end = CascadeEnd(np.zeros(100, np.uint8), 0.05, seed=1, corrects=True)
    with pytest.raises(ValueError, match="parities"):
        end.take(np.zeros(1000, np.uint8))
    with pytest.raises(ValueError, match="error rate"):
        CascadeEnd(np.zeros(100, np.uint8), 0.5, seed=1, corrects=True)


def test_every_reason_for_a_block_without_a_key_has_words_in_both_languages():
    for reason in VoidReason:
        english, japanese = (text(f"postprocess.{reason.code}", language=language) for language in ("en", "ja"))
        assert english != japanese
        assert ("alarm" in english) == reason.is_alarm
