"""The field of symbols, elimination and the criterion, against counting."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable
from itertools import product

import numpy as np
import pytest

from shosoin.kernels import POINTS, reference
from shosoin.kernels.fields import GF2_128, SmallField
from shosoin.testing.symbolic import Basis, leaked
from shosoin.testing.symbolic.forms import GF2_128_FAST, Form, Symbols, forms_of, windowed_product

GF4 = SmallField(2, 0b111)


def concrete(values):
    return [int.from_bytes(row.tobytes(), "little") for row in values]


def elements(count, seed):
    content = np.frombuffer(random.Random(seed).randbytes(16 * count), np.uint8)
    return GF2_128.from_bytes(content)


def test_products_and_inverses_are_those_of_the_field():
    rng = random.Random(3)
    some = [0, 1, 2, 3, 1 << 127, (1 << 128) - 1, *(rng.getrandbits(128) for _ in range(20))]
    for a in some:
        for b in some:
            assert windowed_product(a, b) == GF2_128_FAST.multiply(a, b) == GF2_128.multiply(a, b)
    assert [GF2_128_FAST.inverse(a) for a in some[1:]] == [GF2_128.inverse(a) for a in some[1:]]
    with pytest.raises(ZeroDivisionError):
        GF2_128_FAST.inverse(0)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_kernels_give_on_symbols_what_they_give_on_bytes(k):
    field = Symbols(GF2_128_FAST)
    parts = [elements(5, seed) for seed in range(k)]
    symbols = [field.unknowns(index, 5) for index in range(k)]
    assignment: dict[Hashable, int] = {
        (index, at): value for index in range(k) for at, value in enumerate(concrete(parts[index]))
    }
    shares = reference.split(GF2_128, parts[0], parts[1:], POINTS[:7])
    forms = reference.split(field, symbols[0], symbols[1:], POINTS[:7])
    for share, form in zip(shares, forms, strict=True):
        assert [field.at(one, assignment) for one in forms_of(form)] == concrete(share)
        for r in (0, 1, 2, 1 << 127):
            for ascending in (True, False):
                expected = reference.evaluate(GF2_128, r, share, ascending=ascending)
                got = reference.evaluate(field, r, form, ascending=ascending)
                assert [field.at(one, assignment) for one in forms_of(got)] == concrete(expected)
    weights = reference.lagrange_weights(field, POINTS[1 : k + 1])
    assert weights == reference.lagrange_weights(GF2_128, POINTS[1 : k + 1])
    (whole,) = reference.linear_map(field, [weights], forms[1 : k + 1])
    assert forms_of(whole) == forms_of(symbols[0])


def test_generated_coefficients_are_unknowns_that_differ():
    field = Symbols(GF2_128_FAST)
    made = reference.coefficients_from_seed(field, bytes(32), 3, 4)
    assert len({form for values in made for form in forms_of(values)}) == 8


def spanned(field, forms, unknowns):
    """Every combination of some forms over GF(4), as rows of factors."""
    rows = set()
    for factors in product(range(4), repeat=len(forms)):
        total = [0] * unknowns
        for factor, form in zip(factors, forms, strict=True):
            for unknown, constant in form.terms.items():
                total[unknown] ^= field.multiply(factor, constant)
        rows.add(tuple(total))
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_rank_and_leak_are_what_counting_says(seed):
    rng = random.Random(seed)
    field = Symbols(GF4)
    field.unknowns("any", 4)
    view = [
        Form({u: c for u in range(4) if (c := rng.randrange(4) * rng.randrange(2))}) for _ in range(rng.randint(1, 4))
    ]
    secret = [Form({0: 1}), Form({1: 1, 0: rng.randrange(1, 4)})][: rng.randint(1, 2)]
    basis = Basis(field)
    basis.add_all(view)
    assert 4**basis.rank == len(spanned(GF4, view, 4))
    common = spanned(GF4, view, 4) & spanned(GF4, secret, 4)
    assert 4 ** leaked(basis, secret) == len(common)


@pytest.mark.parametrize("seed", range(40))
def test_no_leak_means_the_same_distribution_for_every_secret(seed):
    """The criterion itself: unknown 0 is the secret, 1 to 3 are uniform."""
    rng = random.Random(1000 + seed)
    field = Symbols(GF4)
    field.unknowns("any", 4)
    view = [
        Form({u: c for u in range(4) if (c := rng.randrange(4) * rng.randrange(2))}) for _ in range(rng.randint(1, 3))
    ]
    basis = Basis(field)
    basis.add_all(view)
    seen = [
        Counter(
            tuple(
                field.at(form, {("any", 0): secret, **{("any", u + 1): x for u, x in enumerate(drawn)}})
                for form in view
            )
            for drawn in product(range(4), repeat=3)
        )
        for secret in range(4)
    ]
    assert (leaked(basis, [Form({0: 1})]) == 0) == all(one == seen[0] for one in seen)


def test_a_copy_of_a_basis_grows_by_itself():
    field = Symbols(GF4)
    first, second = forms_of(field.unknowns("any", 2))
    basis = Basis(field)
    assert basis.add(first)
    other = basis.copy()
    assert other.add(second)
    assert not other.add(Form({0: 2, 1: 3}))
    assert (basis.rank, other.rank) == (1, 2)
