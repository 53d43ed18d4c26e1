"""Sifting, frames, verification and Cascade by themselves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.link.postprocessing.frames import cut, frame_count, join, own_bits
from shosoin.link.postprocessing.reconciling import plan_block
from shosoin.link.postprocessing.sifting import Accumulator
from shosoin.link.postprocessing.verification import (
    collision_probability,
    excess_bits,
    hash_bits,
    hash_block,
    hashes_agree,
)
from shosoin.link.reconciliation.cascade import CascadeEnd

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.lists(st.integers(0, 90), min_size=1, max_size=12), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_blocks_are_the_same_however_detections_come_in_batches(seed, sizes, octets):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 32, sum(sizes), dtype=np.uint8)
    codes &= np.where(codes & 8, 0b11011, 0b00011).astype(np.uint8)  # two intensities; a peer's bit in tests only
    edges = np.cumsum([0, *sizes])

    def blocks(bounds) -> list:
        accumulator = Accumulator(8 * octets, 2, 5, 0)
        found = []
        for number, (start, end) in enumerate(bounds):
            found += accumulator.add(number, codes[start:end], int(end))
        last = accumulator.finish()
        return [*found, last] if last else found

    once, often = blocks([(0, len(codes))]), blocks(pairwise(edges.tolist()))
    assert [block.number for block in once] == [*range(5, 5 + len(once))]
    key = codes[(codes & 8) == 0] & 1
    whole = 8 * (len(key) // 8)
    assert np.concatenate([np.zeros(0, np.uint8), *(block.bits for block in once)]).tolist() == (
        np.packbits(key[:whole], bitorder="little").tolist()
    )
    for one, other in zip(once, often, strict=True):
        assert one.bits.tolist() == other.bits.tolist()
        for name in ("key_detections", "test_detections", "test_errors"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
        assert one.key_detections.sum() == one.key_bits
        assert (one.test_errors <= one.test_detections).all()


@given(SEEDS, st.integers(1, 400), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_frames_put_together_are_the_block_and_drift_is_spread_over_all(seed, octets, octets_max):
    block = np.random.default_rng(seed).integers(0, 256, octets, dtype=np.uint8)
    count = frame_count(8 * octets, 8 * octets_max)
    frames = cut(block, count)
    assert join(frames, octets).tolist() == block.tolist()
    assert frames.shape[1] <= octets_max
    sizes = [own_bits(frame, count, octets) for frame in range(count)]
    assert sum(sizes) == 8 * octets
    assert max(sizes) - min(sizes) <= 8


@given(st.integers(10_000, 20_000_000), st.floats(0.0, 0.11))
@settings(max_examples=60, deadline=None)
def test_a_plan_holds_the_whole_block(bits, qber):
    plan, count = plan_block(bits // 8 * 8, qber)
    assert 0 <= plan.payload_bits * count - bits // 8 * 8 < 8 * count
    assert plan.leak_bits == plan.matrix().syndrome_bits  # nothing is punctured, so a syndrome is all leak


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


@given(SEEDS, st.integers(1, 3000), st.floats(0.0, 0.15))
@settings(max_examples=30, deadline=None)
def test_cascade_leaves_equal_bits(seed, count, qber):
    rng = np.random.default_rng(seed)
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
