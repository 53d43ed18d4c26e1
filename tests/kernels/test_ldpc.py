"""LDPC kernels: every path equals the reference bit for bit, and the reference does what a sparse matrix says."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from shosoin.kernels.ldpc import KNOWN, MESSAGE_MAX, ldpc_kernels
from shosoin.kernels.reference_ldpc import UNITS_PER_NAT, ReferenceLdpcKernels, box_plus
from shosoin.link.reconciliation.code import LdpcCode
from shosoin.link.reconciliation.construct import Recipe, build
from tests.kernels.support import NATIVE_PATHS, each_path

Z = 512
each_native_path = pytest.mark.parametrize("path", NATIVE_PATHS)


@cache
def small_code() -> LdpcCode:
    return build(Recipe("test-small", 8, Z, {2: 6, 3: 14, 7: 4}))


def matrix(code: LdpcCode) -> sparse.csr_array:
    """The parity-check matrix entry by entry, from what a shift means."""
    checks, bits = [], []
    for row, column, shift in code.edges:
        for i in range(code.lifting):
            checks.append(row * code.lifting + i)
            bits.append(column * code.lifting + (i + shift) % code.lifting)
    return sparse.csr_array((np.ones(len(bits), dtype=np.int64), (checks, bits)), (code.syndrome_bits, code.bits))


def packed(bits: np.ndarray) -> bytes:
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def unpacked(data: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


@st.composite
def problems(draw):
    """A code of any shape, light and heavy checks among them, magnitudes of all kinds, a syndrome and a bound."""
    lifting = draw(st.sampled_from([Z, Z, Z, 3 * Z]))
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.05, 0.3, 0.6, 1.0]))
    edges = [
        (row, column, int(rng.choice([0, 1, 63, 64, lifting - 1, int(rng.integers(lifting))])))
        for row in range(rows)
        for column in range(columns)
        if rng.random() < density
    ]
    magnitudes = rng.choice(np.array([0, 1, 13, 25, 25, 25, 42, MESSAGE_MAX, KNOWN]), columns).astype("<i2")
    if draw(st.booleans()):
        errors = rng.random((columns, lifting)) < draw(st.sampled_from([0.01, 0.05, 0.2]))
        errors[magnitudes == KNOWN] = False
        packed_edges = np.array(edges, dtype="<u2").tobytes()
        syndrome = ReferenceLdpcKernels().syndrome(rows, lifting, packed_edges, packed(errors.reshape(-1)))
    else:
        syndrome = rng.bytes(rows * lifting // 8)
    return (
        rows,
        lifting,
        np.array(edges, dtype="<u2").tobytes(),
        magnitudes.tobytes(),
        syndrome,
        draw(st.integers(1, 4)),
    )


@settings(deadline=None, max_examples=40)
@given(problems())
def test_every_path_decodes_like_the_reference(problem):
    expected = ReferenceLdpcKernels().decode(*problem)
    for path in NATIVE_PATHS:
        assert ldpc_kernels(path).decode(*problem) == expected, path


@pytest.mark.parametrize("error_rate", [0.03, 0.05, 0.08])
def test_every_path_takes_the_same_iterations_to_converge_or_to_give_up(error_rate):
    code = small_code()
    rng = np.random.default_rng(round(error_rate * 1000))
    errors = packed(rng.random(code.bits) < error_rate)
    magnitudes = np.full(code.columns, 25, dtype="<i2").tobytes()
    edges = code.packed_edges()
    syndrome = ReferenceLdpcKernels().syndrome(code.rows, Z, edges, errors)
    expected = ReferenceLdpcKernels().decode(code.rows, Z, edges, magnitudes, syndrome, 15)
    assert (expected[0] == errors) == expected[2] == (error_rate < 0.04)
    for path in NATIVE_PATHS:
        assert ldpc_kernels(path).decode(code.rows, Z, edges, magnitudes, syndrome, 15) == expected, path


@each_path
def test_the_syndrome_is_the_product_with_the_sparse_matrix(path):
    code = small_code()
    bits = np.random.default_rng(7).integers(0, 2, code.bits)
    parities = ldpc_kernels(path).syndrome(code.rows, Z, code.packed_edges(), packed(bits))
    assert np.array_equal(unpacked(parities), matrix(code) @ bits % 2)


@each_path
@pytest.mark.parametrize("error_rate", [0.0, 0.02, 0.06])
def test_convergence_means_that_the_syndrome_of_the_result_is_the_one_asked_for(path, error_rate):
    code = small_code()
    h = matrix(code)
    wanted = h @ (np.random.default_rng(3).random(code.bits) < error_rate) % 2
    magnitudes = np.full(code.columns, 30, dtype="<i2").tobytes()
    found, _, converged = ldpc_kernels(path).decode(code.rows, Z, code.packed_edges(), magnitudes, packed(wanted), 12)
    assert converged == np.array_equal(h @ unpacked(found) % 2, wanted)
    assert converged == (error_rate < 0.05)


@each_path
def test_a_syndrome_that_no_pattern_has_does_not_converge(path):
    code = small_code()
    known = np.full(code.columns, KNOWN, dtype="<i2").tobytes()
    _, iterations, converged = ldpc_kernels(path).decode(
        code.rows, Z, code.packed_edges(), known, b"\1" + bytes(code.syndrome_bits // 8 - 1), 3
    )
    assert (iterations, converged) == (3, False)


def test_the_box_plus_is_within_one_unit_of_the_exact_one():
    a, b = np.meshgrid(np.arange(1, 128), np.arange(1, 128))
    exact = 2 * np.arctanh(np.tanh(a / UNITS_PER_NAT / 2) * np.tanh(b / UNITS_PER_NAT / 2)) * UNITS_PER_NAT
    assert np.max(np.abs(box_plus(a, b) - exact)) <= 1


def test_no_bit_is_neutral_for_the_box_plus():
    a = np.arange(128)
    assert np.array_equal(box_plus(a, np.full(128, 255)), a)


@each_native_path
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rows": 0}, "rows"),
        ({"lifting": 100}, "lifting"),
        ({"edges": b"12345"}, "6 bytes"),
        ({"edges": np.array([[0, 9, 0]], "<u2").tobytes()}, "outside"),
        ({"edges": np.array([[0, 0, Z]], "<u2").tobytes()}, "outside"),
        ({"edges": np.array([[1, 0, 0], [0, 0, 0]], "<u2").tobytes()}, "order"),
        ({"edges": np.array([[0, 0, 0], [0, 0, 1]], "<u2").tobytes()}, "two edges"),
        ({"magnitudes": np.array([128, 1], "<i2").tobytes()}, "magnitude"),
        ({"magnitudes": np.array([-1, 1], "<i2").tobytes()}, "magnitude"),
        ({"syndrome": bytes(5)}, "size"),
        ({"iterations_max": 0}, "iterations"),
    ],
)
def test_malformed_problems_are_refused(path, change, why):
    sound: dict[str, Any] = {
        "rows": 2,
        "lifting": Z,
        "edges": np.array([[0, 0, 3], [0, 1, 5], [1, 0, 0]], "<u2").tobytes(),
        "magnitudes": np.array([9, 9], "<i2").tobytes(),
        "syndrome": bytes(2 * Z // 8),
        "iterations_max": 3,
    }
    assert ldpc_kernels(path).decode(**sound)[2]
    with pytest.raises(ValueError, match=why):
        ldpc_kernels(path).decode(**{**sound, **change})
