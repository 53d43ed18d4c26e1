"""Long products over GF(2): against the matrix, against each other, against the algebra and against another program."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shosoin.kernels import binary_product_into, paths, toeplitz_into
from shosoin.kernels.reference_toeplitz import ReferenceToeplitz, product_bits
from shosoin.kernels.toeplitz import PRODUCT_BITS_MAX
from tests.kernels.support import NATIVE_PATHS, PATHS, each_path, using

each_native_path = pytest.mark.parametrize("path", NATIVE_PATHS)
few_bits = st.one_of(st.integers(1, 9), st.sampled_from([63, 64, 65, 127, 128, 129]), st.integers(1, 400))
SMALLEST_PIECE_BITS = 32 << 8


def noise(bits, number=1):
    """Bytes for that many bits; the bits beyond them are noise too."""
    return np.random.default_rng(number).bytes((bits + 7) // 8)


def bits_of(data, count):
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little")


def toeplitz(key, key_bits, seed, output_bits):
    output = bytearray(b"\xff" * ((output_bits + 7) // 8))
    toeplitz_into(key, key_bits, seed, output, output_bits)
    return bytes(output)


def product(a, b):
    output = bytearray(b"\xff" * (len(a) + len(b)))
    binary_product_into(a, b, output)
    return bytes(output)


def product_on_paper(a, b):
    total, shifted = 0, int.from_bytes(b, "little")
    for i in range(8 * len(a)):
        if a[i // 8] >> (i % 8) & 1:
            total ^= shifted << i
    return total.to_bytes(len(a) + len(b), "little")


def matrix(seed, key_bits, output_bits):
    diagonals = bits_of(seed, key_bits + output_bits - 1)
    rows, columns = np.ogrid[:output_bits, :key_bits]
    return diagonals[rows - columns + key_bits - 1]


@each_path
@settings(max_examples=40, deadline=None)
@given(few_bits, few_bits, st.integers(0, 1 << 30))
@example(1, 1, 0)
@example(1, 77, 1)
@example(77, 1, 2)
@example(200, 200, 3)
def test_it_is_the_matrix_times_the_key(path, key_bits, output_bits, number):
    key, seed = noise(key_bits, number), noise(key_bits + output_bits - 1, number + 1)
    with using(path):
        got = toeplitz(key, key_bits, seed, output_bits)
    expected = matrix(seed, key_bits, output_bits).astype(int) @ bits_of(key, key_bits) % 2
    assert np.array_equal(bits_of(got, output_bits), expected)
    assert not any(bits_of(got, 8 * len(got))[output_bits:])  # whatever was in the output before


@each_path
def test_the_vector_of_the_specification(path):
    """docs/specs/kernels.md; computed by the definition."""
    with using(path):
        assert toeplitz(bytes(range(16)), 128, bytes(range(16, 40)), 64).hex() == "806020000061a001"


@each_path
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=70), st.binary(max_size=70))
def test_a_product_is_the_one_on_paper(path, a, b):
    with using(path):
        assert product(a, b) == product_on_paper(a, b)


# One piece, one piece and a bit, several vectors of pieces, keys much longer than the output and the other way round.
AROUND_PIECES = [
    (pieces * SMALLEST_PIECE_BITS + a, more * SMALLEST_PIECE_BITS + b)
    for (pieces, more), a, b in itertools.product([(1, 1), (7, 2), (8, 8), (9, 1), (1, 17)], [-1, 0, 1], [0, 1])
]


@each_native_path
@pytest.mark.parametrize(("key_bits", "output_bits"), AROUND_PIECES)
def test_native_paths_equal_the_reference_around_every_piece(path, key_bits, output_bits):
    key, seed = noise(key_bits), noise(key_bits + output_bits - 1, 2)
    got, expected = bytearray(noise(output_bits, 3)), bytearray((output_bits + 7) // 8)
    from shosoin.kernels import _native

    _native.Toeplitz(path).toeplitz_into(key, key_bits, seed, got, output_bits, log_points=8)
    ReferenceToeplitz().toeplitz_into(key, key_bits, seed, expected, output_bits)
    assert got == expected


@pytest.fixture(scope="module")
def long_case():
    """A key of five pieces and a bit of transforms of 2^13 points, and what the reference makes of it."""
    key_bits, output_bits = 5 * (32 << 13) + 1, 3 * (32 << 13) - 7
    key, seed = noise(key_bits), noise(key_bits + output_bits - 1, 2)
    expected = bytearray((output_bits + 7) // 8)
    ReferenceToeplitz().toeplitz_into(key, key_bits, seed, expected, output_bits)
    return key, key_bits, seed, output_bits, bytes(expected)


@each_native_path
@pytest.mark.parametrize("log_points", range(8, 17))
def test_every_size_of_transform_gives_the_same_bits(path, log_points, long_case):
    key, key_bits, seed, output_bits, expected = long_case
    if path == "portable" and log_points == 8:
        key_bits, output_bits = key_bits // 8, output_bits // 8  # its many small pieces take long
        key, seed = noise(key_bits), noise(key_bits + output_bits - 1, 2)
        expected = bytearray((output_bits + 7) // 8)
        ReferenceToeplitz().toeplitz_into(key, key_bits, seed, expected, output_bits)
    from shosoin.kernels import _native

    got = bytearray(len(expected))
    _native.Toeplitz(path).toeplitz_into(key, key_bits, seed, got, output_bits, log_points=log_points)
    assert got == expected


@each_native_path
@settings(max_examples=8, deadline=None)
@given(st.integers(1, 120_000), st.integers(1, 120_000), st.integers(0, 1 << 30))
def test_native_paths_equal_the_reference_at_any_size(path, key_bits, output_bits, number):
    key, seed = noise(key_bits, number), noise(key_bits + output_bits - 1, number + 1)
    a, b = noise(key_bits, number + 2), noise(output_bits, number + 3)
    with using("reference"):
        expected = toeplitz(key, key_bits, seed, output_bits), product(a, b)
    with using(path):
        assert (toeplitz(key, key_bits, seed, output_bits), product(a, b)) == expected


@each_path
def test_it_is_linear_in_the_key_and_in_the_seed(path):
    key_bits, output_bits = 30_011, 20_021

    def add(a, b):
        return (np.frombuffer(a, np.uint8) ^ np.frombuffer(b, np.uint8)).tobytes()

    keys = noise(key_bits), noise(key_bits, 2)
    seeds = noise(key_bits + output_bits - 1, 3), noise(key_bits + output_bits - 1, 4)
    with using(path):
        made = {(k, s): toeplitz(keys[k], key_bits, seeds[s], output_bits) for k in (0, 1) for s in (0, 1)}
        assert toeplitz(add(*keys), key_bits, seeds[0], output_bits) == add(made[0, 0], made[1, 0])
        assert toeplitz(keys[0], key_bits, add(*seeds), output_bits) == add(made[0, 0], made[0, 1])


def remainder(polynomial, modulus):
    """Of an integer's bits modulo a polynomial of degree 64, by halves: nothing of ours, and quick for long ones."""
    power, x_to_power = 256, divide_plainly(1 << 256, modulus)
    powers = []  # x^256, x^512, ... modulo the modulus
    while power < polynomial.bit_length():
        powers.append((power, x_to_power))
        power, x_to_power = 2 * power, divide_plainly(product_of_words(x_to_power, x_to_power), modulus)
    for power, x_to_power in reversed(powers):
        for _ in range(2):  # the product with 64 bits sticks out once more
            high, polynomial = polynomial >> power, polynomial & (1 << power) - 1
            for i in range(64):
                if x_to_power >> i & 1:
                    polynomial ^= high << i
    return divide_plainly(polynomial, modulus)


def divide_plainly(polynomial, modulus):
    for i in range(polynomial.bit_length() - 1, 63, -1):
        if polynomial >> i & 1:
            polynomial ^= modulus << (i - 64)
    return polynomial


def product_of_words(a, b):
    return int.from_bytes(product_on_paper(a.to_bytes(8, "little"), b.to_bytes(8, "little")), "little")


def test_the_remainder_used_below_is_a_remainder():
    assert remainder(1 << 64, 1 << 64 | 0b11011) == 0b11011
    assert remainder(1 << 65 | 5, 1 << 64 | 0b11011) == 0b110110 ^ 5
    quotient, modulus = noise(3000), (1 << 64 | 12345).to_bytes(9, "little")
    multiple = int.from_bytes(product_on_paper(modulus, quotient), "little")
    assert remainder(multiple ^ 77, 1 << 64 | 12345) == 77


def test_ten_million_bits_obey_the_algebra():
    """The product modulo random polynomials; the Toeplitz product is a slice of it; some bits by their definition."""
    key_bits = 10_000_000 if NATIVE_PATHS else 300_000
    output_bits = key_bits // 2
    seed_bits = key_bits + output_bits - 1
    key, seed = noise(key_bits), noise(seed_bits, 2)
    with using(PATHS[0]):
        whole, part = product(key, seed), toeplitz(key, key_bits, seed, output_bits)
    rng = np.random.default_rng(3)
    for _ in range(3):
        modulus = 1 << 64 | int.from_bytes(rng.bytes(8), "little")
        k, s, w = (remainder(int.from_bytes(x, "little"), modulus) for x in (key, seed, whole))
        assert divide_plainly(product_of_words(k, s), modulus) == w
    got = bits_of(part, output_bits)
    assert np.array_equal(got, bits_of(whole, key_bits - 1 + output_bits)[key_bits - 1 :])
    key_array, seed_array = bits_of(key, key_bits), bits_of(seed, seed_bits)
    for i in (0, 1, output_bits - 1, *rng.integers(0, output_bits, 5)):
        assert got[i] == np.count_nonzero(seed_array[i : i + key_bits][::-1] & key_array) % 2


def test_randextract_makes_the_same_key():
    """Its seed order ``row-first`` is ours: first column's end last, first row's end first."""
    from galois import GF2
    from randextract import ToeplitzHashing

    for key_bits, output_bits in [(20, 8), (20, 20), (100_003, 40_009)]:
        theirs = ToeplitzHashing(input_length=key_bits, output_length=output_bits)
        key, seed = noise(key_bits), noise(theirs.seed_length, 2)
        expected = theirs.extract(
            GF2(bits_of(key, key_bits)), GF2(bits_of(seed, theirs.seed_length)), seed_mode="row-first"
        )
        got = toeplitz(key, key_bits, seed, output_bits)
        assert np.array_equal(bits_of(got, output_bits), np.asarray(expected))


def test_calls_at_once_do_not_meet():
    key_bits, output_bits = 200_003, 100_001
    seed = noise(key_bits + output_bits - 1, 9)
    keys = [noise(key_bits, number) for number in range(6)]
    alone = [toeplitz(key, key_bits, seed, output_bits) for key in keys]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda key: toeplitz(key, key_bits, seed, output_bits), keys)) == alone


@each_path
def test_what_does_not_fit_is_refused(path):
    with using(path):
        cases: list[tuple[Any, int, bytes, Any, int]] = [
            (bytes(2), 17, bytes(3), bytearray(1), 8),  # key too short
            (bytes(3), 16, bytes(3), bytearray(1), 8),  # key too long
            (bytes(2), 16, bytes(2), bytearray(1), 8),  # seed too short
            (bytes(2), 16, bytes(3), bytearray(2), 8),  # output too long
            (b"", 0, b"", bytearray(1), 1),
            (bytes(1), 1, bytes(1), bytearray(), 0),
            (bytes(1), -1, bytes(1), bytearray(1), 1),
            (bytes(2), 16, bytes(3), bytes(1), 8),  # output read-only
            (memoryview(bytes(4))[::2], 16, bytes(3), bytearray(1), 8),
            (bytes(1), PRODUCT_BITS_MAX, bytes(1), bytearray(1), PRODUCT_BITS_MAX),
        ]
        for key, key_bits, seed, output, output_bits in cases:
            with pytest.raises(ValueError, match=r"expected|must|at most"):
                toeplitz_into(key, key_bits, seed, output, output_bits)
        shared = bytearray(8)
        for target in (memoryview(shared)[1:2], memoryview(shared)[4:5]):
            with pytest.raises(ValueError, match="overlap"):
                toeplitz_into(memoryview(shared)[:2], 16, memoryview(shared)[2:5], target, 8)
            with pytest.raises(ValueError, match="overlap"):
                binary_product_into(memoryview(shared)[:1], memoryview(shared)[1:4], memoryview(shared)[2:6])
        with pytest.raises(ValueError, match="expected 3"):
            binary_product_into(bytes(1), bytes(2), bytearray(4))
        with pytest.raises(TypeError):
            binary_product_into("text", bytes(2), bytearray(4))  # type: ignore[arg-type]


NO_MEMORY = """
import resource
from shosoin.kernels import paths, toeplitz_into
bits = 1 << 24
key, seed, output = bytearray(bits // 8), bytearray(bits // 4), bytearray(bits // 8)
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, resource.RLIM_INFINITY))
taken = []
try:
    while True:
        taken.append(bytearray(1 << 20))
except MemoryError:
    pass
del taken[-3:]
try:
    toeplitz_into(key, bits, seed, output, bits)
except MemoryError:
    print("refused")
"""


def test_without_memory_it_says_so():
    options = os.environ.get("ASAN_OPTIONS", "") + ":allocator_may_return_null=1"  # as it is without a sanitizer
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ASAN_OPTIONS": options},
    )
    assert done.stdout == "refused\n", done.stderr


def test_the_reference_multiplies_long_polynomials():
    """Where every coefficient is a sum of a million ones, rounding has the most to lose."""
    ones = np.ones(1_000_000, np.uint8)
    expected = np.minimum(np.arange(1, 2_000_000), np.arange(1_999_999, 0, -1)) % 2
    assert np.array_equal(product_bits(ones, ones), expected)
    assert PATHS[-1] == "reference"
    assert isinstance(paths.family("Toeplitz", ReferenceToeplitz, "reference"), ReferenceToeplitz)
