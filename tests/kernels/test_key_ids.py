"""key_IDs on every path: the same bytes as the specification, and refusals alike."""

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.kernels import key_ids, paths
from shosoin.kernels.reference_key_ids import ReferenceKeyIds
from tests.kernels.support import each_path, using

SPAN = 1 << 36
contexts = st.one_of(st.binary(max_size=40), st.sampled_from([115, 116, 117, 128, 244, 245, 300]).map(bytes))
addresses = st.tuples(st.integers(0, 1 << 62) | st.integers(0, 1 << 40), st.integers(1, (1 << 21) - 1))
secrets = st.binary(min_size=64, max_size=64)
KNOWN = ["58bd7964-98b4-8876-8250-ada41987b1bc", "3cd8e6a7-4d50-80ce-a078-45ee7ed199ca"]


@each_path
@given(secrets, contexts, st.lists(addresses, max_size=5), st.integers(-SPAN // 2 + 1, SPAN // 2 - 1))
def test_every_path_makes_and_reads_the_ids_of_the_specification(path, secret, context, places, distance):
    ids, specified = paths.load(path).key_ids(secret), ReferenceKeyIds(secret)
    made = ids.encode(context, places)
    assert made == specified.encode(context, places)
    for place, text in zip(places, made, strict=True):
        near = max(0, place[0] + distance)
        assert ids.decode(context, [text, text.upper()], near) == [place, place]
        assert ids.decode(context + b"x", [text], near) == [None]


@each_path
@given(secrets, st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 63) - 1))
def test_what_nobody_made_is_read_alike(path, secret, number, near):
    """Also by chance: of 2**64 tags one is right, and both sides would say so."""
    text = str(uuid.UUID(int=number & ~(0xF << 76 | 3 << 62) | 8 << 76 | 2 << 62))
    assert paths.load(path).key_ids(secret).decode(b"", [text], near) == ReferenceKeyIds(secret).decode(
        b"", [text], near
    )


@each_path
@given(st.lists(st.text(max_size=40) | st.text("0123456789abcdefABCDEFg-\0\udcff", min_size=36, max_size=36)))
def test_text_that_is_no_id_reads_as_none(path, texts):
    assert paths.load(path).key_ids(bytes(64)).decode(b"", texts, 0) == [None] * len(texts)


@each_path
@given(st.integers(0, SPAN), st.integers(0, 127))
def test_a_flipped_bit_is_noticed(path, offset, bit):
    ids = paths.load(path).key_ids(bytes(range(64)))
    (made,) = ids.encode(b"m\0s\0", [(offset, 32)])
    forged = str(uuid.UUID(int=uuid.UUID(made).int ^ 1 << bit))
    assert ids.decode(b"m\0s\0", [forged], offset) == [None]


@each_path
def test_a_known_answer(path):
    """From this layout written down by hand with hashlib, so that two wrong implementations do not agree unnoticed."""
    with using(path):
        ids = key_ids(bytes(range(64)))
    assert ids.encode(b"sae-a\0sae-b\0", [(5, 32), ((7 << 36) + 1, 1000)]) == KNOWN
    assert ids.decode(b"sae-a\0sae-b\0", KNOWN, 0) == [(5, 32), None]


@each_path
def test_what_cannot_be_an_address_or_a_secret_is_refused(path):
    kernels = paths.load(path)
    for length in (0, 1 << 21, 1 << 40):
        with pytest.raises(ValueError, match="length"):
            kernels.key_ids(bytes(64)).encode(b"", [(0, length)])
    for size in (0, 32, 63, 65):
        with pytest.raises(ValueError, match="64 bytes"):
            kernels.key_ids(bytes(size))
    no_text: Any = [3]
    with pytest.raises(TypeError):
        kernels.key_ids(bytes(64)).decode(b"", no_text, 0)
