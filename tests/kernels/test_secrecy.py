"""What k - 1 shares tell: nothing, by counting, by statistics, and by linear algebra over unknowns."""

import itertools
from collections import Counter

import numpy as np
import pytest

from shosoin.kernels import POINTS, split_generated_into
from shosoin.kernels.reference import (
    GF2_128,
    SmallField,
    coefficients_from_seed,
    evaluate,
    lagrange_weights,
    linear_map,
    power,
    split,
    split_generated,
)
from tests.kernels.support import each_path, using

GF4 = SmallField(2, 0b111)
GF16 = SmallField(4, 0b10011)


def values(*numbers):
    return np.array(numbers, np.uint8)


def test_in_a_field_of_four_each_share_of_two_is_as_likely_for_every_secret():
    seen = {}
    for secret in range(4):
        shares = [split(GF4, values(secret), [values(a)], (1, 2, 3)) for a in range(4)]
        seen[secret] = [Counter(int(share[i][0]) for share in shares) for i in range(3)]
    assert all(seen[secret] == [Counter(range(4))] * 3 for secret in range(4))


def test_in_a_field_of_sixteen_two_shares_of_three_are_as_likely_for_every_secret():
    coefficients = np.array(list(itertools.product(range(16), repeat=2)), np.uint8).T
    for secret in (0, 7, 15):
        shares = split(GF16, np.full(256, secret, np.uint8), list(coefficients), (1, 2, 3, 4, 5))
        for i, j in itertools.combinations(range(5), 2):
            assert len(set(zip(shares[i].tolist(), shares[j].tolist(), strict=True))) == 256


def never_seen(share):
    """The attack: if no coefficient is ever 0, no share ever equals its secret; the value never seen is the secret."""
    return sorted(set(range(4)) - set(share.tolist()))


def test_generated_coefficients_exclude_no_value():
    for secret in range(4):
        many = np.full(4096, secret, np.uint8)
        for seed in (bytes(32), bytes(range(32))):
            for share in split_generated(GF4, many, seed, (1, 2, 3), 2):
                assert never_seen(share) == []
            assert set(coefficients_from_seed(GF4, seed, 3, 4096)[1].tolist()) == set(range(4))


def test_the_attack_works_where_zero_is_excluded():
    for secret in range(4):
        biased = coefficients_from_seed(GF4, bytes(32), 2, 4096)[0]
        biased[biased == 0] = 1
        assert never_seen(split(GF4, np.full(4096, secret, np.uint8), [biased], (1,))[0]) == [secret]


def chi_square(cells, size):
    observed = np.bincount(cells, minlength=size)
    expected = len(cells) / size
    return float(((observed - expected) ** 2 / expected).sum())


@each_path
@pytest.mark.parametrize("chosen", [(0, 1), (2, 4), (3, 4)])
def test_two_shares_of_three_are_jointly_uniform_over_a_fixed_secret(path, chosen):
    secret = b"always the same!" * 4096
    shares = [bytearray(len(secret)) for _ in range(5)]
    cells = []
    with using(path):
        for seed in range(4):
            split_generated_into(secret, bytes([seed]) * 32, POINTS[:5], 3, shares)
            first, second = (np.frombuffer(shares[i], np.uint8) for i in chosen)
            cells += [(first[at::16] & 15).astype(int) * 16 + (second[at::16] >> 4) for at in (0, 7, 15)]
    # 255 degrees of freedom: mean 255, deviation 22.6. The seeds are fixed, so this holds always or never.
    statistic = chi_square(np.concatenate(cells), 256)
    assert 255 - 5 * 22.6 < statistic < 255 + 5 * 22.6


def test_the_statistic_sees_one_value_too_few():
    cells = np.random.default_rng(1).integers(0, 255, 4 * 3 * 4096)
    assert chi_square(cells, 256) > 255 + 5 * 22.6


class Forms:
    """A field whose values are linear forms in unknowns over GF(16); shape (count, unknowns)."""

    multiply = staticmethod(GF16.multiply)
    inverse = staticmethod(GF16.inverse)
    zeros_like = staticmethod(GF16.zeros_like)
    add = staticmethod(GF16.add)
    scale = scale_by_secret = staticmethod(GF16.scale)
    from_blocks = staticmethod(GF16.from_blocks)


def rank(rows):
    rows = [list(map(int, row)) for row in rows]
    found = 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        scale = GF16.inverse(rows[found][column])
        rows[found] = [GF16.multiply(scale, entry) for entry in rows[found]]
        for i, row in enumerate(rows):
            if i != found and row[column]:
                factor = row[column]
                rows[i] = [entry ^ GF16.multiply(factor, top) for entry, top in zip(row, rows[found], strict=True)]
        found += 1
    return found


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (4, 7)])
def test_by_ranks_k_minus_1_shares_tell_nothing_and_k_everything(k, n):
    unknowns = np.eye(k, dtype=np.uint8)[:, None, :]  # the secret, then the coefficients
    shares = split(Forms(), unknowns[0], list(unknowns[1:]), range(1, n + 1))
    secret = unknowns[0].tolist()
    for size, leaks in ((k - 1, 0), (k, 1)):
        for coalition in itertools.combinations(shares, size):
            view = [share[0].tolist() for share in coalition]
            assert rank(view) + rank(secret) - rank(view + secret) == leaks


def test_the_reference_is_generic():
    points = (1, 2, 4, 9)
    secret = values(3, 0, 15, 8, 1)
    shares = split(GF16, secret, [values(1, 2, 3, 4, 5), values(9, 9, 0, 0, 7)], points)
    weights = lagrange_weights(GF16, points[1:])
    assert linear_map(GF16, [weights], shares[1:])[0].tolist() == secret.tolist()
    rising = 0
    for j, value in enumerate(secret.tolist()):
        rising ^= GF16.multiply(power(GF16, 6, j), value)
    assert evaluate(GF16, 6, secret, ascending=True).tolist() == [rising]
    assert evaluate(GF16, 6, secret[::-1]).tolist() == [rising]


def test_small_fields_are_fields():
    for field in (GF4, GF16):
        for a in range(1, field.size):
            assert field.multiply(a, field.inverse(a)) == 1
            assert sorted(field.multiply(a, b) for b in range(field.size)) == list(range(field.size))
        with pytest.raises(ZeroDivisionError):
            field.inverse(0)


def test_both_ways_to_scale_agree():
    rows = GF2_128.from_bytes(np.frombuffer(np.random.default_rng(3).bytes(16 * 9), np.uint8))
    for constant in (0, 1, 2, 0x87, 2**127, 2**128 - 1, 2**64 + 5):
        assert np.array_equal(GF2_128.scale(constant, rows), GF2_128.scale_by_secret(constant, rows))
