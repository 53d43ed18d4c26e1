"""Kernels on arrays of the array API standard: as the reference, bit for bit, with functions of the standard alone.

No GPU is needed to show it: ``array_api_strict`` refuses whatever the standard does not have, and what CuPy and PyTorch
add of their own is used nowhere.
"""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.adapters.entropy import SystemEntropy
from shosoin.kernels.array_ldpc import ArrayLdpc
from shosoin.kernels.array_toeplitz import ArrayToeplitz
from shosoin.kernels.arrays import Arrays, arrays_on, use_arrays
from shosoin.kernels.reference_ldpc import ReferenceLdpcKernels
from shosoin.kernels.reference_toeplitz import ReferenceToeplitz
from shosoin.kernels.toeplitz import toeplitz_into
from shosoin.link.reconciliation import correct_many, disclose, plan_frame
from tests.kernels.test_ldpc import problems, small_code

STRICT = Arrays(array_api_strict, array_api_strict.asarray, np.asarray)
each_namespace = pytest.mark.parametrize("arrays", [STRICT, arrays_on("numpy")], ids=["strict", "numpy"])


@settings(max_examples=8)
@given(problems())
def test_one_frame_is_decoded_as_the_reference_does(problem):
    rows, lifting, edges, magnitudes, syndrome, iterations = problem
    assert ArrayLdpc(STRICT).decode_many(rows, lifting, edges, magnitudes, [syndrome], iterations) == [
        ReferenceLdpcKernels().decode(*problem)
    ]


@each_namespace
def test_frames_side_by_side_come_out_as_alone_those_that_fail_included(arrays):
    code, rng = small_code(), np.random.default_rng(5)
    columns = code.bits // code.lifting
    edges = np.array(code.edges, dtype="<u2").tobytes()
    rows = code.syndrome_bits // code.lifting
    magnitudes = np.full(columns, 24, "<i2").tobytes()
    reference = ReferenceLdpcKernels()
    errors = [rng.random(code.bits) < share for share in (0.0, 0.02, 0.045, 0.3)]
    syndromes = [
        reference.syndrome(rows, code.lifting, edges, np.packbits(e, bitorder="little").tobytes()) for e in errors
    ]
    alone = [reference.decode(rows, code.lifting, edges, magnitudes, syndrome, 12) for syndrome in syndromes]
    assert [converged for _, _, converged in alone][-1] is False
    assert len({iterations for _, iterations, converged in alone if converged}) > 1
    assert ArrayLdpc(arrays).decode_many(rows, code.lifting, edges, magnitudes, syndromes, 12) == alone


def test_no_frame_and_double_edges_are_refused():
    with pytest.raises(ValueError, match="no syndrome"):
        ArrayLdpc(STRICT).decode_many(1, 8, b"", b"", [], 1)
    twice = np.array([(0, 0, 1), (0, 0, 2)], "<u2").tobytes()
    with pytest.raises(ValueError, match="two edges"):
        ArrayLdpc(STRICT).decode_many(1, 8, twice, np.array([5], "<i2").tobytes(), [b"\0"], 1)


@each_namespace
@settings(max_examples=10)
@given(data=st.data())
def test_toeplitz_matrices_and_products_equal_the_reference(arrays, data):
    key_bits, output_bits = data.draw(st.integers(1, 3000)), data.draw(st.integers(1, 3000))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    key, seed = rng.bytes((key_bits + 7) // 8), rng.bytes((key_bits + output_bits + 6) // 8)
    got, expected = bytearray((output_bits + 7) // 8), bytearray((output_bits + 7) // 8)
    ArrayToeplitz(arrays).toeplitz_into(key, key_bits, seed, got, output_bits)
    ReferenceToeplitz().toeplitz_into(key, key_bits, seed, expected, output_bits)
    assert got == expected
    got, expected = bytearray(len(key) + len(seed)), bytearray(len(key) + len(seed))
    ArrayToeplitz(arrays).product_into(key, seed, got)
    ReferenceToeplitz().product_into(key, seed, expected)
    assert got == expected


@pytest.fixture
def on_strict_arrays():
    use_arrays(STRICT)
    yield
    use_arrays(None)


def frames(count: int) -> list:
    rng = np.random.default_rng(3)
    made = []
    for number in range(count):
        plan = plan_frame(0.03, payload_bits=16_384 if number % 2 else 20_000)
        sent = rng.bytes(plan.payload_bits // 8)
        noise = np.packbits(rng.random(plan.payload_bits) < 0.03, bitorder="little").tobytes()
        seen = bytes(a ^ b for a, b in zip(sent, noise, strict=True))
        made.append((plan, sent, seen, disclose(plan, sent, SystemEntropy()).message))
    return made


def test_a_link_that_was_told_so_corrects_and_amplifies_on_arrays_with_the_same_result(on_strict_arrays):
    made = frames(3)
    received = [(plan, seen, message) for plan, _, seen, message in made]
    there = correct_many(received, iterations_max=30)
    key, seed, outputs = made[0][1], bytes(range(200)) * 13, (bytearray(12), bytearray(12))
    toeplitz_into(key[:2500], 20_000, seed[:2512], outputs[0], 96)
    use_arrays(None)
    toeplitz_into(key[:2500], 20_000, seed[:2512], outputs[1], 96)
    assert outputs[0] == outputs[1] != bytes(12)
    assert there == correct_many(received, iterations_max=30)
    assert [correction.bits for correction in there] == [sent for _, sent, _, _ in made]


def test_a_library_that_is_unknown_or_missing_is_named():
    with pytest.raises(ValueError, match="numpy, cupy or torch"):
        arrays_on("jax")
    with pytest.raises(ImportError, match="cupy"):
        arrays_on("cupy")
