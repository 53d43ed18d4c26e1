"""MAC and digest, against Horner's rule on paper."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.kernels import (
    POINTS,
    Digest,
    PolynomialMac,
    element_mul,
    lagrange_weights,
    polynomial_mac,
    split_generated_into,
)
from shosoin.kernels import digest as whole_digest
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
from tests.kernels.test_sharing import noise


def mac_on_paper(r, s, values):
    total = 0
    for value in values:
        total = times(total ^ value, r)
    return (total ^ s).to_bytes(16, "little")


def digest_on_paper(r, start, values):
    power = 1
    for _ in range(start):
        power = times(power, r)
    total = 0
    for value in values:
        total ^= times(power, value)
        power = times(power, r)
    return total.to_bytes(16, "little")


def digest(r, data, start=0):
    computed = Digest(r.to_bytes(16, "little"), start)
    computed.update(data)
    return computed.finish()


@each_path
@settings(max_examples=30)
@given(r=elements, values=st.lists(elements, max_size=70))
def test_a_digest_at_one_go_is_the_digest_in_pieces(path, r, values):
    with using(path):
        assert whole_digest(to_bytes([r]), to_bytes(values)) == digest(r, to_bytes(values))


@each_path
@settings(max_examples=30)
@given(r=elements, s=elements, values=st.lists(elements, max_size=70))
def test_a_tag_is_horners_rule_on_paper(path, r, s, values):
    with using(path):
        assert polynomial_mac(to_bytes([r, s]), to_bytes(values)) == mac_on_paper(r, s, values)


@each_path
@settings(max_examples=30)
@given(r=elements, start=st.integers(0, 9), values=st.lists(elements, max_size=70))
def test_a_digest_is_the_sum_of_powers_on_paper(path, r, start, values):
    with using(path):
        assert digest(r, to_bytes(values), start) == digest_on_paper(r, start, values)


@pytest.mark.parametrize("path", NATIVE_PATHS)
@settings(max_examples=40)
@given(count=st.one_of(counts, st.just(5000)), offset=st.integers(0, 63), r=elements)
def test_native_values_equal_the_reference(path, count, offset, r):
    data = at_offset(noise("values", 16 * count), offset)
    results = []
    for each in (path, "reference"):
        with using(each):
            results.append((polynomial_mac(to_bytes([r, 9]), data), digest(r, data, 2)))
    assert results[0] == results[1]


@each_path
@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 40), max_size=4), r=elements)
def test_pieces_give_what_the_whole_gives(path, cuts, r):
    data = noise("whole", 16 * 40)
    edges = sorted({0, 40, *cuts})
    with using(path):
        mac, pieces = PolynomialMac(to_bytes([r, 5])), Digest(to_bytes([r]), 3)
        for start, end in itertools.pairwise(edges):
            mac.update(data[16 * start : 16 * end])
            pieces.update(data[16 * start : 16 * end])
        assert mac.finish() == polynomial_mac(to_bytes([r, 5]), data)
        assert pieces.finish() == digest(r, data, 3)


@each_path
def test_the_digest_of_a_combination_is_the_combination_of_digests(path):
    secret, r = noise("secret", 16 * 100), 0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321
    shares = [bytearray(len(secret)) for _ in range(5)]
    with using(path):
        split_generated_into(secret, bytes(32), POINTS[:5], 3, shares)
        for chosen in ((0, 1, 2), (1, 3, 4), (0, 2, 4)):
            weights = lagrange_weights([POINTS[i] for i in chosen])
            total = 0
            for weight, i in zip(weights, chosen, strict=True):
                total ^= element_mul(weight, int.from_bytes(digest(r, shares[i]), "little"))
            assert total.to_bytes(16, "little") == digest(r, secret)


@each_path
def test_order_and_every_bit_count(path):
    data, key = bytearray(noise("bits", 16 * 35)), to_bytes([2**127 + 12345, 1])
    with using(path):
        tag, sum_ = polynomial_mac(key, data), digest(2**127 + 12345, data)
        for at in range(0, len(data), 13):
            data[at] ^= 1 << at % 8
            assert polynomial_mac(key, data) != tag
            assert digest(2**127 + 12345, data) != sum_
            data[at] ^= 1 << at % 8
        swapped = to_bytes([*to_ints(data)[:-2], *to_ints(data)[:-3:-1]])
        assert polynomial_mac(key, swapped) != tag
        assert polynomial_mac(key, data) == tag


@each_path
def test_a_one_time_mac_gives_one_tag(path):
    with using(path):
        mac = PolynomialMac(bytes(32))
        mac.update(bytes(16))
        mac.finish()
        with pytest.raises(ValueError, match="one message"):
            mac.finish()
        with pytest.raises(ValueError, match="one message"):
            mac.update(bytes(16))


@each_path
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: polynomial_mac(bytes(31), b""), "31 bytes"),
        (lambda: polynomial_mac(bytes(32), bytes(17)), "multiple of 16"),
        (lambda: polynomial_mac(bytes(32), memoryview(bytes(32))[::2]), "contiguous"),
        (lambda: Digest(bytes(15)), "15 bytes"),
        (lambda: whole_digest(bytes(15), b""), "15 bytes"),
        (lambda: whole_digest(bytes(16), bytes(17)), "multiple of 16"),
        (lambda: Digest(bytes(16), -1), "exponent"),
        (lambda: Digest(bytes(16)).update(bytes(1)), "multiple of 16"),
    ],
)
def test_misuse_is_refused(path, call, match):
    with using(path), pytest.raises(ValueError, match=match):
        call()


@each_path
def test_secrets_do_not_show(path):
    with using(path):
        assert "redacted" in repr(PolynomialMac(bytes(32)))
        assert "redacted" in repr(Digest(bytes(16)))
