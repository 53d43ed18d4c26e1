"""Arithmetic on single elements, against multiplication on paper."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.kernels import (
    POINTS,
    element_inv,
    element_mul,
    element_pow,
    lagrange_weights,
    point_of,
    reference,
)
from shosoin.kernels import (
    elements as module,
)
from shosoin.kernels.fields import GF2_128
from tests.kernels.support import each_path, elements, times, using


@each_path
@given(a=elements, b=elements)
def test_a_product_is_the_product_on_paper(path, a, b):
    with using(path):
        assert element_mul(a, b) == times(a, b)


@each_path
def test_every_bit_of_a_factor_counts(path):
    a = 0xF0E1_D2C3_B4A5_9687_7869_5A4B_3C2D_1E0F
    with using(path):
        for bit in range(128):
            assert element_mul(a, 1 << bit) == element_mul(1 << bit, a) == times(a, 1 << bit)


@each_path
@settings(max_examples=25)
@given(a=elements, e=st.integers(0, 40))
def test_a_power_is_a_repeated_product(path, a, e):
    expected = 1
    for _ in range(e):
        expected = times(expected, a)
    with using(path):
        assert element_pow(a, e) == expected


@each_path
def test_powers_of_zero_and_exponents_beyond_the_group(path):
    with using(path):
        assert element_pow(0, 0) == 1
        assert element_pow(0, 2**128 - 1) == element_pow(0, 2**200) == 0
        assert element_pow(3, 2**128 - 1) == 1
        assert element_pow(3, 2**128 + 5) == element_pow(3, 6)
        with pytest.raises(ValueError, match="exponent -1"):
            element_pow(3, -1)


@each_path
@settings(max_examples=15)
@given(a=elements.filter(bool))
def test_an_inverse_undoes_its_element(path, a):
    with using(path):
        assert times(a, element_inv(a)) == 1


@each_path
def test_zero_has_no_inverse(path):
    with using(path), pytest.raises(ZeroDivisionError):
        element_inv(0)


@each_path
@pytest.mark.parametrize("outside", [-1, 2**128])
def test_what_is_no_element_is_refused(path, outside):
    with using(path):
        with pytest.raises(ValueError, match="below 2\\^128"):
            element_mul(outside, 1)
        with pytest.raises(ValueError, match="below 2\\^128"):
            element_pow(outside, 1)


def test_the_points_are_the_first_polynomials():
    x = 0b10
    assert POINTS[:7] == (1, x, x ^ 1, times(x, x), times(x, x) ^ 1, times(x, x) ^ x, times(x, x) ^ x ^ 1)
    assert len(set(POINTS)) == 16
    assert [point_of(place) for place in range(1, 17)] == list(POINTS)
    for place in (0, -1, 17):
        with pytest.raises(ValueError, match="place"):
            point_of(place)


@each_path
@settings(max_examples=10)
@given(data=st.data(), points=st.lists(elements, min_size=1, max_size=5, unique=True), at=elements)
def test_weights_interpolate_every_polynomial_of_low_degree(path, data, points, at):
    polynomial = data.draw(st.lists(elements, min_size=len(points), max_size=len(points)))

    def value(x):
        total = 0
        for coefficient in reversed(polynomial):
            total = times(total, x) ^ coefficient
        return total

    module._weights.cache_clear()
    with using(path):
        weights = lagrange_weights(points, at)
    total = 0
    for weight, point in zip(weights, points, strict=True):
        total ^= times(weight, value(point))
    assert total == value(at)


@each_path
def test_equal_points_are_refused(path):
    with using(path), pytest.raises(ValueError, match="distinct"):
        lagrange_weights([1, 2, 1])


def test_the_reference_inverts_by_powers():
    assert GF2_128.inverse(3) == reference.power(GF2_128, 3, 2**128 - 2)
    with pytest.raises(ZeroDivisionError):
        GF2_128.inverse(0)
