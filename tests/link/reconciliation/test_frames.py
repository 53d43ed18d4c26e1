"""Frames from Alice to Bob: what is corrected, what is not, and what was told."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.base import PeerFault
from shosoin.link.reconciliation import FramePlan, correct, disclose, plan_frame

rngs = st.integers(0, 2**32).map(np.random.default_rng)


class CountedEntropy:
    """Reproducible bits, and how many were asked for."""

    source = "test"
    physical = False

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.bytes_given = 0

    def random_bytes(self, size_bytes: int) -> bytes:
        self.bytes_given += size_bytes
        return self._rng.bytes(size_bytes)


def flipped(plan: FramePlan, payload: bytes, qber: float, rng: np.random.Generator) -> bytes:
    errors = np.packbits(rng.random(plan.payload_bits) < qber, bitorder="little")
    return (np.frombuffer(payload, np.uint8) ^ errors).tobytes()


def payload_for(plan: FramePlan, rng: np.random.Generator) -> bytes:
    bits = rng.integers(0, 2, plan.payload_bits, dtype=np.uint8)
    return np.packbits(bits, bitorder="little").tobytes()


@settings(deadline=None, max_examples=30)
@given(qber=st.floats(0.005, 0.11), payload=st.none() | st.integers(20_000, 60_000), rng=rngs)
def test_bob_has_alices_bits_when_the_noise_is_well_below_the_plan(qber, payload, rng):
    plan = plan_frame(qber, frame_bits=65536, payload_bits=payload)
    alice = payload_for(plan, rng)
    disclosure = disclose(plan, alice, CountedEntropy())
    correction = correct(plan, flipped(plan, alice, 0.75 * qber, rng), disclosure.message)
    assert correction.converged
    assert correction.bits == alice


@pytest.mark.parametrize("qber", [0.005, 0.045, 0.11])
def test_a_long_frame_is_corrected_at_the_noise_it_is_planned_for(qber):
    rng = np.random.default_rng(11)
    plan = plan_frame(qber)
    alice = payload_for(plan, rng)
    message = disclose(plan, alice, CountedEntropy()).message
    correction = correct(plan, flipped(plan, alice, qber, rng), message, qber)
    assert correction.converged
    assert correction.bits == alice
    assert 1 < correction.iterations < 100


@settings(deadline=None, max_examples=25)
@given(
    rng=rngs, noise=st.floats(0.0, 0.09), spoilt=st.lists(st.integers(0, 19455), max_size=3), bound=st.integers(1, 30)
)
def test_success_is_never_reported_with_another_syndrome_than_alices(rng, noise, spoilt, bound):
    plan = plan_frame(0.045, frame_bits=65536)
    alice = payload_for(plan, rng)
    message = bytearray(disclose(plan, alice, CountedEntropy()).message)
    for bit in spoilt:
        message[bit // 8] ^= 1 << bit % 8
    correction = correct(plan, flipped(plan, alice, noise, rng), bytes(message), iterations_max=bound)
    matches = disclose(plan, correction.bits, CountedEntropy()).message == bytes(message)
    assert correction.converged == matches
    assert correction.iterations <= bound


def test_far_too_much_noise_does_not_converge():
    rng = np.random.default_rng(5)
    plan = plan_frame(0.03, frame_bits=65536)
    alice = payload_for(plan, rng)
    message = disclose(plan, alice, CountedEntropy()).message
    assert not correct(plan, flipped(plan, alice, 0.06, rng), message).converged


@given(qber=st.floats(0.005, 0.11), frame_bits=st.sampled_from([65536, 819200]))
def test_the_leak_is_every_bit_of_the_transcript(qber, frame_bits):
    plan = plan_frame(qber, frame_bits=frame_bits)
    entropy = CountedEntropy()
    disclosure = disclose(plan, bytes(plan.payload_bits // 8), entropy)
    assert disclosure.leak_bits == plan.leak_bits == 8 * len(disclosure.message)
    assert entropy.bytes_given == 0


def punctured_plan() -> FramePlan:
    full = plan_frame(0.045, frame_bits=65536)
    return FramePlan(full.code, full.payload_bits - 6 * 512, full.shortened_bits, 6 * 512, 0.03)


def test_punctured_bits_mask_as_many_bits_of_the_syndrome():
    plan = punctured_plan()
    rng = np.random.default_rng(2)
    alice = payload_for(plan, rng)
    entropy = CountedEntropy(1)
    disclosure = disclose(plan, alice, entropy)
    assert entropy.bytes_given * 8 == plan.punctured_bits
    assert disclosure.leak_bits == 8 * len(disclosure.message) - plan.punctured_bits
    # Every check with a punctured bit changes at random with that bit, and no other check changes.
    masked = {row for row, column, _ in plan.matrix().edges if column in plan.punctured_columns()}
    again = disclose(plan, alice, CountedEntropy(2)).message
    rows = np.frombuffer(bytes(a ^ b for a, b in zip(disclosure.message, again, strict=True)), np.uint8).reshape(-1, 64)
    assert {row for row in range(len(rows)) if rows[row].any()} == masked
    correction = correct(plan, flipped(plan, alice, 0.03, rng), disclosure.message)
    assert correction.converged
    assert correction.bits == alice


def test_bits_after_the_payload_are_ignored_and_come_back_as_zeros():
    plan = plan_frame(0.02, payload_bits=30_001)
    rng = np.random.default_rng(8)
    alice = payload_for(plan, rng)
    dirty = alice[:-1] + bytes([alice[-1] | 0xFE])
    message = disclose(plan, dirty, CountedEntropy()).message
    assert message == disclose(plan, alice, CountedEntropy()).message
    correction = correct(plan, bytes([dirty[0] ^ 1]) + dirty[1:], message)
    assert correction.bits == alice


@pytest.mark.parametrize("size", [0, 1, 2433, 2431])
def test_a_message_of_another_size_is_the_peers_fault(size):
    plan = plan_frame(0.045, frame_bits=65536)
    with pytest.raises(PeerFault) as refused:
        correct(plan, bytes(plan.payload_bits // 8), bytes(size))
    assert refused.value.code == "link.bad_syndrome"


@pytest.mark.parametrize("size", [0, 1])
def test_a_payload_of_another_size_is_a_mistake(size):
    plan = plan_frame(0.045, frame_bits=65536)
    with pytest.raises(ValueError, match="payload"):
        disclose(plan, bytes(size), CountedEntropy())
    with pytest.raises(ValueError, match="payload"):
        correct(plan, bytes(size), bytes(plan.leak_bits // 8))
