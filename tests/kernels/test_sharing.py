"""Splitting and combining: every path against the definition, and against the reference on large and odd buffers."""

import itertools
import mmap
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.kernels import (
    POINTS,
    combine_into,
    lagrange_weights,
    linear_map_into,
    split_generated_into,
    split_into,
    wipe,
    xor_into,
)
from tests.kernels.support import (
    NATIVE_PATHS,
    at_offset,
    counts,
    each_path,
    elements,
    times,
    to_bytes,
    to_ints,
    using,
)

SEED = bytes(range(100, 132))


def noise(name: str, size: int) -> bytes:
    """Bytes that differ by name and depend on nothing else."""
    return np.random.default_rng(list(name.encode())).bytes(size)


def share_on_paper(values, point):
    """Horner's rule on integers; values are the secret and the coefficients of one element."""
    total = 0
    for value in reversed(values):
        total = times(total, point) ^ value
    return total


@st.composite
def schemes(draw):
    """k, and n points: ours from the start, ours anywhere, or any."""
    n = draw(st.integers(2, 16))
    k = draw(st.integers(2, n))
    if draw(st.booleans()):
        return k, POINTS[:n]
    pool = st.sampled_from(POINTS) if draw(st.booleans()) else elements.filter(bool)
    return k, tuple(draw(st.lists(pool, min_size=n, max_size=n, unique=True)))


@each_path
@settings(max_examples=40)
@given(scheme=schemes(), count=st.integers(0, 40), name=st.text(max_size=3))
def test_shares_are_values_of_the_polynomial(path, scheme, count, name):
    k, points = scheme
    columns = [noise(f"{name}{j}", 16 * count) for j in range(k)]
    shares = [bytearray(16 * count) for _ in points]
    with using(path):
        split_into(columns[0], columns[1:], points, shares)
    chosen = range(0, count, max(1, count // 3))  # the oracle is slow
    for e, (share, point) in itertools.product(chosen, zip(shares, points, strict=True)):
        values = [int.from_bytes(column[16 * e : 16 * e + 16], "little") for column in columns]
        assert int.from_bytes(share[16 * e : 16 * e + 16], "little") == share_on_paper(values, point)


@pytest.mark.parametrize("path", NATIVE_PATHS)
@settings(max_examples=60)
@given(scheme=schemes(), count=counts, offset=st.integers(0, 63), first=st.sampled_from([0, 1, 255, 2**32 - 3, 2**55]))
def test_native_shares_equal_the_reference(path, scheme, count, offset, first):
    k, points = scheme
    columns = [at_offset(noise(f"{j}", 16 * count), (offset + 7 * j) % 64) for j in range(k)]
    results = []
    for each in (path, "reference"):
        given_shares = [at_offset(bytes(16 * count), offset) for _ in points]
        generated = [at_offset(bytes(16 * count), (offset + 16 * i) % 64) for i in range(len(points))]
        with using(each):
            split_into(columns[0], columns[1:], points, given_shares)
            split_generated_into(columns[0], SEED, points, k, generated, first)
        results.append([bytes(share) for share in (*given_shares, *generated)])
    assert results[0] == results[1]


@pytest.mark.parametrize("path", NATIVE_PATHS)
@pytest.mark.parametrize(("k", "points"), [(2, POINTS[:5]), (3, POINTS[:5]), (3, POINTS[3:8]), (4, POINTS[:6])])
@pytest.mark.parametrize("offset", [0, 48, 5])
def test_large_outputs_past_the_caches_equal_the_reference(path, k, points, offset):
    size = 2 * 2**20 + 16 * 7
    columns = [at_offset(noise(f"{j}", size), (offset + 16 * j) % 64) for j in range(k)]
    results = []
    for each in (path, "reference"):
        shares = [at_offset(bytes(size), offset) for _ in points]
        with using(each):
            split_generated_into(columns[0], SEED, points, k, shares, 1)
        given_shares = [at_offset(bytes(size), offset) for _ in points]
        with using(each):
            split_into(columns[0], columns[1:], points, given_shares)
        results.append([*shares, *given_shares])
    for share, expected in zip(*results, strict=True):
        assert np.array_equal(np.asarray(share), np.asarray(expected))


@pytest.mark.parametrize("path", NATIVE_PATHS)
@pytest.mark.parametrize("offset", [0, 16, 3])
def test_large_sums_past_the_caches_equal_the_reference(path, offset):
    size = 8 * 2**20 + 16 * 5
    inputs = [at_offset(noise(f"{i}", size), offset) for i in range(2)]
    results = []
    for each in (path, "reference"):
        mapped, added = at_offset(bytes(size), offset), at_offset(bytes(size), offset)
        with using(each):
            combine_into([7, 5], inputs, mapped)
            xor_into(inputs[0], inputs[1], added)
        results.append((mapped, added))
    for got, expected in zip(*results, strict=True):
        assert np.array_equal(np.asarray(got), np.asarray(expected))


@each_path
@settings(max_examples=25)
@given(data=st.data(), count=st.integers(0, 20), n_in=st.integers(1, 6), n_out=st.integers(0, 4))
def test_a_linear_map_is_the_sum_of_products(path, data, count, n_in, n_out):
    rows = data.draw(st.lists(st.lists(elements, min_size=n_in, max_size=n_in), min_size=n_out, max_size=n_out))
    inputs = [noise(f"{i}", 16 * count) for i in range(n_in)]
    outputs = [bytearray(16 * count) for _ in range(n_out)]
    with using(path):
        linear_map_into(rows, inputs, outputs)
    for row, output in zip(rows, outputs, strict=True):
        expected = [0] * count
        for weight, data_in in zip(row, inputs, strict=True):
            expected = [total ^ times(weight, value) for total, value in zip(expected, to_ints(data_in), strict=True)]
        assert output == to_bytes(expected)


@pytest.mark.parametrize("path", NATIVE_PATHS)
@settings(max_examples=40)
@given(
    count=st.one_of(counts, st.sampled_from([511, 512, 513, 1100])),
    rows=st.lists(st.lists(elements, min_size=5, max_size=5), min_size=1, max_size=3),
    offset=st.integers(0, 63),
)
def test_native_maps_equal_the_reference(path, count, rows, offset):
    inputs = [at_offset(noise(f"{i}", 16 * count), (offset + 16 * i) % 64) for i in range(5)]
    results = []
    for each in (path, "reference"):
        outputs = [at_offset(bytes(16 * count), offset) for _ in rows]
        with using(each):
            linear_map_into(rows, inputs, outputs)
        results.append([bytes(output) for output in outputs])
    assert results[0] == results[1]


@each_path
def test_as_many_buffers_as_allowed(path):
    inputs = [noise(f"{i}", 160) for i in range(64)]
    outputs = [bytearray(160) for _ in range(64)]
    with using(path):
        linear_map_into([[int(i == m) for i in range(64)] for m in range(64)], inputs, outputs)
        assert outputs == inputs
        with pytest.raises(ValueError, match="65 inputs"):
            combine_into([1] * 65, [*inputs, bytes(160)], bytearray(160))


@each_path
@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (5, 9)])
def test_any_k_shares_give_the_secret_and_any_other_share(path, k, n):
    secret = noise("secret", 16 * 37)
    shares = [bytearray(len(secret)) for _ in range(n)]
    with using(path):
        split_generated_into(secret, SEED, POINTS[:n], k, shares)
        for chosen in itertools.islice(itertools.combinations(range(n), k), 0, None, 1 if n < 9 else 25):
            out = bytearray(len(secret))
            combine_into(lagrange_weights([POINTS[i] for i in chosen]), [shares[i] for i in chosen], out)
            assert out == secret
            combine_into(lagrange_weights([POINTS[i] for i in chosen], POINTS[0]), [shares[i] for i in chosen], out)
            assert out == shares[0]


@each_path
@pytest.mark.parametrize(("k", "n"), [(2, 2), (3, 5), (4, 4), (3, 6)])
def test_coefficients_are_the_key_stream_of_openssl(path, k, n):
    first, count = 1000, 50
    secret = noise("secret", 16 * count)
    counter = (first * (k - 1)).to_bytes(16, "big")
    stream = Cipher(algorithms.AES256(SEED), modes.CTR(counter)).encryptor().update(bytes(16 * count * (k - 1)))
    blocks = [stream[at : at + 16] for at in range(0, len(stream), 16)]
    coefficients = [b"".join(blocks[j :: k - 1]) for j in range(k - 1)]
    generated, given_shares = ([bytearray(len(secret)) for _ in range(n)] for _ in range(2))
    with using(path):
        split_generated_into(secret, SEED, POINTS[:n], k, generated, first_block=first)
        split_into(secret, coefficients, POINTS[:n], given_shares)
    assert generated == given_shares


@each_path
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 90), max_size=4), k=st.integers(2, 4))
def test_a_secret_in_pieces_gives_the_shares_of_the_whole(path, cuts, k):
    secret = noise("pieces", 16 * 90)
    edges = sorted({0, 90, *cuts})
    whole, pieces = ([bytearray(len(secret)) for _ in range(5)] for _ in range(2))
    with using(path):
        split_generated_into(secret, SEED, POINTS[:5], k, whole)
        for start, end in itertools.pairwise(edges):
            part = slice(16 * start, 16 * end)
            outputs = [memoryview(piece)[part] for piece in pieces]
            split_generated_into(secret[part], SEED, POINTS[:5], k, outputs, first_block=start)
    assert pieces == whole


@each_path
def test_seeds_and_counters_give_different_coefficients(path):
    secret = bytes(16 * 64)
    seen = set()
    with using(path):
        for seed, first in ((SEED, 0), (SEED[::-1], 0), (SEED, 64), (SEED, 2**40)):
            shares = [bytearray(len(secret)) for _ in range(2)]
            split_generated_into(secret, seed, POINTS[:2], 2, shares, first)
            seen.update(to_ints(shares[0]))
    assert len(seen) == 4 * 64


@each_path
@settings(max_examples=40)
@given(size=st.one_of(st.integers(0, 300), st.integers(0, 5000)), offset=st.integers(0, 63))
def test_xor_of_any_length_and_in_place(path, size, offset):
    a, b = noise("a", size), noise("b", size)
    expected = (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(size, "little")
    out, left, right = at_offset(bytes(size), offset), at_offset(a, offset), at_offset(b, 63 - offset)
    with using(path):
        xor_into(a, b, out)
        xor_into(left, b, left)
        xor_into(a, right, right)
    assert bytes(out) == bytes(left) == bytes(right) == expected


@each_path
def test_every_kind_of_buffer(path):
    data = noise("kinds", 4096)
    with mmap.mmap(-1, 4096) as mapped, using(path):
        mapped[:] = data
        frozen = np.frombuffer(data, np.uint64)  # read-only
        for source in (data, bytearray(data), memoryview(data), mapped, frozen, frozen.reshape(16, -1)):
            for target in (bytearray(4096), np.zeros(4096, np.uint8), np.zeros((64, 8), np.uint64)):
                combine_into([1], [source], target)
                assert bytes(target) == data
                split_generated_into(source, np.frombuffer(SEED, np.uint8), (1, 2), 2, [target, bytearray(4096)])
        combine_into([1], [data], (into := mmap.mmap(-1, 4096)))
        assert into[:] == data
        into.close()


@each_path
def test_what_is_no_buffer_is_refused(path):
    with using(path):
        wrong: Any
        for wrong in ("text", 16, None):
            with pytest.raises(TypeError):
                combine_into([1], [wrong], bytearray(16))
            with pytest.raises(TypeError):
                xor_into(bytes(16), bytes(16), wrong)
            with pytest.raises(TypeError):
                wipe(wrong)


def pieces_of(size):
    """Views that overlap in one element."""
    memory = memoryview(bytearray(3 * size))
    return memory[:size], memory[size - 16 : 2 * size - 16]


@each_path
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: combine_into([1], [bytes(15)], bytearray(15)), "multiple of 16"),
        (lambda: combine_into([1], [bytes(32)], bytearray(16)), "equal lengths"),
        (lambda: combine_into([1, 1], [bytes(32), bytes(16)], bytearray(32)), "equal lengths"),
        (lambda: combine_into([1], [bytes(16)], bytes(16)), "writable"),
        (lambda: combine_into([1], [bytes(16)], memoryview(bytearray(32))[::2]), "contiguous"),
        (lambda: combine_into([1], [memoryview(bytes(32))[::2]], bytearray(16)), "contiguous"),
        (lambda: combine_into([1], [], bytearray(16)), "1 weights for 0 inputs"),
        (lambda: linear_map_into([], [], []), "0 inputs"),
        (lambda: linear_map_into([[1]], [bytes(16)], []), "1 rows for 0 outputs"),
        (lambda: combine_into([1, 2], [bytes(16)], bytearray(16)), "2 weights"),
        (lambda: combine_into([2**128], [bytes(16)], bytearray(16)), "below 2"),
        (lambda: combine_into([-1], [bytes(16)], bytearray(16)), "below 2"),
        (lambda: combine_into([1], *([pair[0]], pair[1]) if (pair := pieces_of(64)) else ()), "overlap"),
        (lambda: linear_map_into([[1], [1]], [bytes(64)], pieces_of(64)), "overlap"),
        (lambda: linear_map_into([[1], [1]], [bytes(64)], [same := bytearray(64), same]), "overlap"),
        (lambda: xor_into(bytes(3), bytes(4), bytearray(4)), "equal lengths"),
        (lambda: xor_into(bytes(4), bytes(4), bytearray(5)), "equal lengths"),
        (lambda: xor_into((pair := pieces_of(64))[0], bytes(64), pair[1]), "overlap"),
        (lambda: xor_into(bytes(4), bytes(4), bytes(4)), "writable"),
        (lambda: split_into(bytes(16), [], (1, 2), [bytearray(16)] * 2), "k = 1"),
        (lambda: split_into(bytes(16), [bytes(16)] * 2, (1, 2), [bytearray(16)] * 2), "k = 3 and n = 2"),
        (lambda: split_into(bytes(16), [bytes(16)], (1, 2, 3), [bytearray(16)] * 2), "2 outputs for 3 points"),
        (lambda: split_into(bytes(16), [bytes(16)], (0, 2), [bytearray(16)] * 2), "distinct and not 0"),
        (lambda: split_into(bytes(16), [bytes(16)], (2, 2), [bytearray(16)] * 2), "distinct and not 0"),
        (lambda: split_into(bytes(16), [bytes(16)], (2**128, 2), [bytearray(16)] * 2), "below 2"),
        (lambda: split_into(bytes(16), [bytes(16)], range(1, 18), [bytearray(16)] * 17), "n = 17"),
        (lambda: split_generated_into(bytes(16), SEED[1:], (1, 2), 2, [bytearray(16), bytearray(16)]), "31 bytes"),
        (lambda: split_generated_into(bytes(16), SEED, (1, 2), 1, [bytearray(16), bytearray(16)]), "k = 1"),
        (lambda: split_generated_into(bytes(16), SEED, (1, 2), 2, [bytearray(16), bytearray(16)], -1), "first_block"),
        (lambda: split_generated_into(bytes(16), SEED, (1, 2), 2, [bytearray(16), bytearray(16)], 2**56), "first_bl"),
        (lambda: wipe(bytes(4)), "writable"),
    ],
)
def test_misuse_is_refused(path, call, match):
    with using(path), pytest.raises(ValueError, match=match):
        call()


@each_path
def test_a_refused_call_writes_nothing_and_lets_go_of_its_buffers(path):
    good, bad = bytearray(b"\x55" * 32), bytearray(16)
    with using(path), pytest.raises(ValueError, match="equal lengths"):
        linear_map_into([[1], [1]], [bytes(32)], [good, bad])
    assert good == b"\x55" * 32
    good.extend(b"free")  # a bytearray still held by a view cannot grow


@each_path
@pytest.mark.parametrize("size", [0, 1, 33, 100_000])
def test_wiped_memory_is_zero(path, size):
    buffer = bytearray(b"\xa5" * size)
    with using(path):
        wipe(buffer)
    assert buffer == bytes(size)
