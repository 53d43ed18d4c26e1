"""Privacy amplification: the family by counting, the lemma by measuring, and what it refuses."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base.errors import Rejected
from shosoin.kernels import toeplitz_into
from shosoin.link.amplification import amplify, seed_bits


def hashed(key, key_bits, seed, output_bits):
    """Integers in, integer out."""
    needed = seed_bits(key_bits, output_bits)
    material = amplify(
        bytearray(key.to_bytes((key_bits + 7) // 8, "little")),
        key_bits,
        seed.to_bytes((needed + 7) // 8, "little"),
        output_bits,
    )
    return int.from_bytes(material.take(), "little")


@given(st.integers(1, 3000), st.data())
def test_both_ends_get_the_same_key_and_keep_none_of_the_old(key_bits, data):
    output_bits = data.draw(st.integers(1, key_bits))
    rng = np.random.default_rng(key_bits)
    ends = [bytearray(rng.bytes((key_bits + 7) // 8))]
    ends.append(bytearray(ends[0]))
    seed = rng.bytes((seed_bits(key_bits, output_bits) + 7) // 8)
    expected = bytearray((output_bits + 7) // 8)
    toeplitz_into(bytes(ends[0]), key_bits, seed, expected, output_bits)
    made = [amplify(end, key_bits, seed, output_bits) for end in ends]
    assert made[0] == made[1]
    assert made[0].take() == expected
    assert not any(ends[0] + ends[1])


def test_two_keys_collide_for_one_seed_in_two_to_the_m():
    """Universal-2, counted: a difference of keys vanishes under exactly 2^-m of all seeds."""
    n, m = 5, 3
    seeds = 1 << seed_bits(n, m)
    for difference in range(1, 1 << n):
        assert sum(hashed(difference, n, seed, m) == 0 for seed in range(seeds)) == seeds >> m


@pytest.mark.parametrize("number", range(3))
def test_the_distance_from_uniform_stays_below_the_lemma(number):
    """A key known to be one of 16 among 64, averaged over all seeds: at most 2^(-(H - m)/2 - 1)."""
    n, m, entropy = 6, 2, 4
    source = np.random.default_rng(number).choice(1 << n, 1 << entropy, replace=False)
    distances = []
    for seed in range(1 << seed_bits(n, m)):
        counts = np.bincount([hashed(int(key), n, seed, m) for key in source], minlength=1 << m)
        distances.append(np.abs(counts / source.size - 2.0**-m).sum() / 2)
    assert 0 < np.mean(distances) <= 2 ** (-(entropy - m) / 2 - 1)


def test_a_longer_seed_gives_the_same_as_its_beginning():
    key, seed = b"reconciled key", bytes(range(40))
    made = [amplify(bytearray(key), 112, part, 56) for part in (seed, seed[: (seed_bits(112, 56) + 7) // 8])]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("key_bits", "seed", "output_bits", "code"),
    [
        (16, bytes(4), 17, "link.amplification_expands"),
        (16, bytes(4), 0, "link.nothing_to_amplify"),
        (16, bytes(4), -1, "link.nothing_to_amplify"),
        (16, bytes(2), 8, "link.seed_too_short"),
    ],
)
def test_what_no_bound_allows_is_refused_and_leaves_the_key(key_bits, seed, output_bits, code):
    key = bytearray(b"ke")
    with pytest.raises(Rejected) as caught:
        amplify(key, key_bits, seed, output_bits)
    assert caught.value.code == code
    assert key == b"ke"
    assert "ke" not in str(caught.value).split()


def test_a_key_that_cannot_be_wiped_or_has_another_size_is_a_mistake():
    keys: list[bytes | bytearray] = [b"ke", bytearray(b"key"), bytearray(b"k")]
    for key in keys:
        with pytest.raises(ValueError, match=r"wiped|expected 2"):
            amplify(key, 16, bytes(4), 8)


def test_every_seed_bit_and_every_key_bit_counts():
    n, m = 9, 4
    for bit in range(n):
        assert any(hashed(1 << bit, n, 1 << s, m) for s in range(seed_bits(n, m)))
    for s, other in itertools.combinations(range(seed_bits(n, m)), 2):
        assert any(hashed(1 << bit, n, 1 << s, m) != hashed(1 << bit, n, 1 << other, m) for bit in range(n))
