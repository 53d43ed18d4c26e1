"""Messages as bytes: what is written is read back, and nothing else is read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.link.postprocessing.errors import MessageMalformed, VoidReason
from shosoin.link.postprocessing.messages import (
    KINDS,
    Amplify,
    Decoded,
    Detected,
    Done,
    End,
    Frames,
    Hello,
    Opened,
    Parities,
    Settled,
    Sifted,
    Verified,
    Verify,
    Void,
    decode_message,
)

BITS = st.integers(0, 70)
PACKED = st.integers(1, 70).flatmap(
    lambda bits: st.integers(0, (1 << bits) - 1).map(lambda value: (bits, value.to_bytes((bits + 7) // 8, "little")))
)


def bits_of(count: int):
    return st.lists(st.booleans(), min_size=count, max_size=count).map(np.array)


@st.composite
def detected(draw):
    steps = draw(st.lists(st.one_of(st.integers(1, 300), st.integers(1, 1 << 34)), min_size=1, max_size=40))
    is_test = draw(bits_of(len(steps)))
    tests = draw(bits_of(int(is_test.sum())))
    return Detected(np.cumsum(np.array(steps, np.int64)) - 1, is_test, np.asarray(tests, np.uint8))


@st.composite
def sifted(draw):
    kept = draw(bits_of(draw(st.integers(1, 40))))
    planes, count = draw(st.sampled_from([1, 2])), int(kept.sum())
    levels = np.array(draw(st.lists(st.integers(0, 2**planes - 1), min_size=count, max_size=count)), np.uint8)
    tests = draw(st.integers(0, count))
    bits = draw(bits_of(tests))
    return Sifted(planes, kept, levels[tests:], levels[:tests], np.asarray(bits, np.uint8))


@st.composite
def frames(draw):
    parts = draw(st.lists(PACKED, max_size=4))
    return Frames(draw(st.integers(0, 500_000)), tuple(raw for _, raw in parts), tuple(bits for bits, _ in parts))


@st.composite
def verified(draw):
    widths = draw(st.lists(st.integers(1, 28), min_size=1, max_size=4))
    return Verified(draw(st.booleans()), tuple(draw(st.integers(0, 2**bits - 1)) for bits in widths), tuple(widths))


NUMBERS = st.integers(0, 1 << 62)
MESSAGES = st.one_of(
    st.builds(
        Hello,
        st.binary(max_size=40),
        st.binary(min_size=16, max_size=16),
        NUMBERS,
        NUMBERS,
        st.sets(NUMBERS, max_size=5).map(sorted).map(tuple),
    ),
    detected(),
    sifted(),
    st.just(End()),
    frames(),
    st.integers(0, 40).flatmap(bits_of).map(lambda flags: Decoded(np.asarray(flags, np.bool_))),
    st.lists(PACKED, max_size=4).map(lambda parts: Opened(tuple(b for _, b in parts), tuple(n for n, _ in parts))),
    PACKED.map(lambda part: Parities(*part)),
    st.builds(lambda function, part: Verify(function, *part), st.binary(min_size=32, max_size=32), PACKED),
    verified(),
    st.builds(
        lambda secret, there, back, part: Amplify(secret, (there, back), *part),
        st.integers(0, 1 << 27),
        st.integers(0, 1 << 24),
        st.integers(0, 1 << 24),
        PACKED,
    ),
    st.just(Done()),
    st.just(Settled()),
    st.sampled_from(VoidReason).map(Void),
)


def fields_of(message) -> list:
    names = getattr(message, "__dataclass_fields__", {})
    values = [getattr(message, name) for name in names]
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in values]


@given(MESSAGES)
@settings(max_examples=200, deadline=None)
def test_a_message_that_is_written_reads_back_the_same(message):
    again = decode_message(message.kind, message.encode())
    assert type(again) is type(message)
    assert fields_of(again) == fields_of(message)
    assert again.encode() == message.encode()
    assert again.key_bits == message.key_bits >= 0


@given(MESSAGES, st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_a_body_that_ends_early_or_late_is_refused(message, count):
    body = message.encode()
    with pytest.raises(MessageMalformed):
        decode_message(message.kind, body + bytes(count))
    if body:
        with pytest.raises(MessageMalformed):
            decode_message(message.kind, body[: max(0, len(body) - count)])


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_as_the_one_message_that_is_so_written_or_refused(kind, body):
    try:
        message = decode_message(kind, body)
    except MessageMalformed:
        return
    assert message.encode() == body or kind == Detected.kind  # steps may be written wider than they need be


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(MessageMalformed):
        decode_message(99, b"")
