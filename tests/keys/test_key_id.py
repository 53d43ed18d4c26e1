"""key_IDs: what goes in comes out, for the right pair of SAEs only."""

import itertools
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.keys.key_id import LENGTH_BYTES_MAX, KeyAddress, KeyIdCodec, granules_of

SPAN = 1 << 36
IDS = KeyIdCodec(bytes(range(64)))
OTHER_STREAM = KeyIdCodec(bytes(range(1, 65)))
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,10}", fullmatch=True)
LENGTHS = st.integers(1, LENGTH_BYTES_MAX)


@given(st.integers(0, 1 << 45), LENGTHS, NAMES, NAMES, st.integers(-SPAN // 2 + 1, SPAN // 2 - 1))
def test_an_address_survives_also_where_36_bits_wrap(offset, length, master, slave, distance):
    address = KeyAddress(offset, length)
    key_id = IDS.encode(address, master, slave)
    assert uuid.UUID(key_id).version == 8
    assert uuid.UUID(key_id).variant == uuid.RFC_4122
    assert IDS.decode(key_id, master, slave, near=max(0, offset + distance)) == address
    assert IDS.decode(key_id.upper(), master, slave, near=offset) == address


@given(st.integers(0, SPAN), LENGTHS, st.integers(0, 127))
def test_no_flipped_bit_is_accepted(offset, length, bit):
    key_id = IDS.encode(KeyAddress(offset, length), "m", "s")
    forged = str(uuid.UUID(int=uuid.UUID(key_id).int ^ 1 << bit))
    assert IDS.decode(forged, "m", "s", near=offset) is None


@given(st.integers(0, SPAN), LENGTHS)
def test_an_id_opens_for_its_master_slave_and_stream_alone(offset, length):
    key_id = IDS.encode(KeyAddress(offset, length), "ab", "c")
    for master, slave in [("a", "bc"), ("ab", "d"), ("c", "ab"), ("ab", "c0")]:
        assert IDS.decode(key_id, master, slave, near=offset) is None
    assert OTHER_STREAM.decode(key_id, "ab", "c", near=offset) is None


@given(st.text(max_size=60) | st.uuids().map(str))
def test_anything_else_is_no_key_id(text):
    assert IDS.decode(text, "m", "s", near=0) is None


def test_neighbouring_addresses_have_unrelated_ids():
    numbers = [uuid.UUID(IDS.encode(KeyAddress(offset, 32), "m", "s")).int for offset in range(64)]
    distances = [(a ^ b).bit_count() for a, b in itertools.pairwise(numbers)]
    assert len(set(numbers)) == 64
    assert min(distances) > 30


def test_a_key_takes_whole_granules():
    assert [granules_of(length) for length in (1, 32, 33, 64)] == [1, 1, 2, 2]


def test_the_secret_has_one_length():
    with pytest.raises(ValueError, match="64 bytes"):
        KeyIdCodec(bytes(32))
