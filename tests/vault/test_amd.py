"""The AMD code word: whoever shifts a record by amounts that do not depend on x is caught."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.kernels import Digest, element_inv, element_mul, element_pow
from shosoin.vault import amd
from shosoin.vault.amd import OVERHEAD_BYTES, amd_decode, amd_encode
from tests.vault.support import SeededEntropy


def element(value: int) -> bytes:
    return value.to_bytes(16, "little")


def number(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def shifted(coded: bytes, delta: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(coded, delta, strict=True))


@given(st.binary(max_size=80), st.integers(0, 1000))
def test_what_is_encoded_is_decoded(raw: bytes, seed: int) -> None:
    record = raw + bytes(-len(raw) % 16)
    coded = amd_encode(record, SeededEntropy(seed))
    assert len(coded) == len(record) + OVERHEAD_BYTES
    assert amd_decode(coded) == record
    assert amd_decode(memoryview(coded)) == record


def test_the_tag_is_the_published_polynomial() -> None:
    """f(x) = x^e + sum_i d_i x^i with the first odd e >= L+2, computed term by term."""
    for elements in range(6):
        record = SeededEntropy(elements).random_bytes(16 * elements)
        coded = amd_encode(record, SeededEntropy(99))
        x = number(coded[-32:-16])
        top = elements + 2 + (elements + 1) % 2
        assert top % 2 == 1
        total = element_pow(x, top)
        for index in range(elements):
            total ^= element_mul(number(record[16 * index : 16 * index + 16]), element_pow(x, index + 1))
        assert total == number(coded[-16:])


@pytest.mark.parametrize("elements", [0, 1, 2, 3])
def test_every_small_shift_is_detected(elements: int) -> None:
    """All shifts by 0 or 1 of every element of record, x and tag, under several x."""
    for seed in range(4):
        coded = amd_encode(SeededEntropy(seed + 10).random_bytes(16 * elements), SeededEntropy(seed))
        for mask in range(1, 1 << (elements + 2)):
            delta = b"".join(element(mask >> place & 1) for place in range(elements + 2))
            assert amd_decode(shifted(coded, delta)) is None


@given(st.integers(0, 5), st.integers(0, 1 << 30), st.data())
def test_random_shifts_are_detected(elements: int, seed: int, data: st.DataObject) -> None:
    coded = amd_encode(SeededEntropy(seed).random_bytes(16 * elements), SeededEntropy(seed + 1))
    delta = data.draw(st.binary(min_size=len(coded), max_size=len(coded)).filter(any))
    assert amd_decode(shifted(coded, delta)) is None


@given(st.binary(max_size=100))
def test_bytes_of_a_wrong_length_are_refused(raw: bytes) -> None:
    if len(raw) % 16 or len(raw) < OVERHEAD_BYTES:
        assert amd_decode(raw) is None


def test_a_record_that_is_not_made_of_elements_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        amd_encode(b"x", SeededEntropy(0))


def _tag_with_even_exponent(record: bytes | memoryview, x: bytes) -> bytes:
    """The mutant: the first *even* exponent above the record."""
    elements = len(record) // 16
    exponent = elements + 2 if elements % 2 == 0 else elements + 3
    digest = Digest(x, start_exponent=1)
    digest.update(record)
    return element(number(digest.finish()) ^ element_pow(number(x), exponent))


def _forgery(elements: int, exponent: int) -> bytes:
    """Shift x by 1 and the record so that f(x+1) - f(x) is a constant known without x.

    (x+1)^e + x^e must be cancelled by the record's terms; its degree is e-1 when e is odd (out of reach: e-1 > L), and
    e - lowbit(e) <= L when e is even.
    """
    coefficients = [0] * (exponent + 1)
    for power in range(exponent):
        coefficients[power] = int((exponent & power) == power)  # binomial coefficients modulo 2
    reachable = max((power for power in range(1, exponent) if coefficients[power]), default=0)
    assert reachable <= elements, "the liar would need a coefficient that the record does not have"
    # record terms d_i become d_i' with sum d_i' (x+1)^i = sum d_i x^i + (x+1)^e + x^e + constant
    shift = [0] * (elements + 1)
    wanted = coefficients[: elements + 1]
    for power in range(elements, 0, -1):
        shift[power] = wanted[power]
        for lower in range(power + 1):
            if (power & lower) == lower and shift[power]:
                wanted[lower] ^= 1
    return b"".join(element(shift[power]) for power in range(1, elements + 1)) + element(1) + element(wanted[0])


def test_an_even_top_exponent_is_forgeable_and_ours_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over GF(2^128), (x+1)^4 = x^4 + 1: with record zero the liar needs no knowledge at all."""
    for seed in range(20):
        record = bytes(32)
        delta = _forgery(2, 4)
        ours = amd_encode(record, SeededEntropy(seed))
        assert amd_decode(shifted(ours, delta)) is None
        with monkeypatch.context() as patch:
            patch.setattr(amd, "_tag", _tag_with_even_exponent)
            mutant = amd_encode(record, SeededEntropy(seed))
            assert amd_decode(mutant) == record
            assert amd_decode(shifted(mutant, delta)) is not None


def test_a_liar_who_knows_the_record_does_not_gain_by_it() -> None:
    """Knowing d, choose the shift that would cancel if x were one guess: right for that x alone."""
    chance = random.Random(3)
    for _ in range(30):
        record = chance.randbytes(48)
        guess = chance.getrandbits(128)
        coded = amd_encode(record, SeededEntropy(chance.getrandbits(40)))
        new = chance.randbytes(48)
        tag_delta = 0
        for index in range(3):
            change = number(record[16 * index :][:16]) ^ number(new[16 * index :][:16])
            tag_delta ^= element_mul(change, element_pow(guess, index + 1))
        delta = shifted(record, new) + bytes(16) + element(tag_delta)
        assert amd_decode(shifted(coded, delta)) is None


def test_the_guess_would_be_right_if_x_were_known() -> None:
    """The counterpart: the same liar with the true x succeeds, so the test above can fail."""
    record, new = bytes(16), element(5)
    coded = amd_encode(record, SeededEntropy(1))
    x = number(coded[-32:-16])
    delta = element(5) + bytes(16) + element(element_mul(5, x))
    assert amd_decode(shifted(coded, delta)) == new
    assert element_mul(x, element_inv(x)) == 1
