"""Tags, positions and watermarks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.kernels import element_mul
from shosoin.link.postprocessing.authentication import (
    FORGERY_EPSILON,
    HEADER_BYTES,
    MESSAGE_BYTES_MAX,
    STRIDE_BYTES,
    Direction,
    KeyStreams,
    Opener,
    Sealer,
    parse_header,
    start_records,
)
from shosoin.link.postprocessing.errors import AuthenticationDry, MessageForged, MessageMalformed
from tests.link.postprocessing.world import START_KEY

WAY = Direction.TO_RECEIVER
RECORDS = {name: value for name, value in start_records(START_KEY).items() if value is not None}


def sealed(sealer: Sealer, streams: KeyStreams, body: bytes) -> bytes:
    sealer.prepare(streams.end(WAY))
    return sealer.seal(5, 7, body)


def pair() -> tuple[KeyStreams, Sealer, Opener]:
    streams = KeyStreams(RECORDS)
    return streams, Sealer(streams, WAY), Opener(KeyStreams(RECORDS), WAY, frozenset({8}))


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_messages_in_their_order_are_taken(bodies):
    streams, sealer, opener = pair()
    for number, body in enumerate(bodies):
        if number % 5 == 4:
            sealer.renew()
        raw = sealer.defer(8, 7, body) if number % 3 == 1 else sealed(sealer, streams, body)
        header, taken, _ = opener.open(raw)
        assert (header.number, bytes(taken)) == (7, body)


def test_a_tag_is_the_polynomial_at_the_hash_key_under_the_pad():
    streams, sealer, _ = pair()
    raw = sealed(sealer, streams, b"seventeen octets!")
    text = raw[:HEADER_BYTES] + bytes(32) + b"seventeen octets!" + bytes(15)
    r, pad = (int.from_bytes(START_KEY[at : at + 16], "little") for at in (0, 16))
    value = 0
    for at in range(0, len(text), 16):
        value = element_mul(value ^ int.from_bytes(text[at : at + 16], "little"), r)
    assert raw[-16:] == (value ^ pad).to_bytes(16, "little")


def test_the_chance_of_a_forger_is_that_of_the_longest_text_that_is_taken():
    _, sealer, opener = pair()
    opener.open(sealer.defer(8, 7, bytes(MESSAGE_BYTES_MAX - HEADER_BYTES)))
    with pytest.raises(MessageForged, match="no tag"):
        opener.open(sealer.defer(8, 7, b""))
    longest = HEADER_BYTES + 32 + MESSAGE_BYTES_MAX + MESSAGE_BYTES_MAX
    assert longest // 16 * 2.0**-128 == FORGERY_EPSILON


def test_what_was_deferred_is_found_out_with_the_next_tag():
    streams, sealer, opener = pair()
    first = bytearray(sealer.defer(8, 7, b"parities"))
    second = sealed(sealer, streams, b"and a hash")
    first[-1] ^= 1
    opener.open(bytes(first))
    with pytest.raises(MessageForged):
        opener.open(second)


def test_only_kinds_that_may_be_deferred_come_without_a_tag():
    _, sealer, opener = pair()
    with pytest.raises(MessageForged):
        opener.open(sealer.defer(5, 7, b"not parities"))


def test_a_session_has_its_own_tags():
    streams, sealer, opener = pair()
    sealer.session = b"a" * 32
    with pytest.raises(MessageForged):
        opener.open(sealed(sealer, streams, b"x"))


def test_a_watermark_is_ahead_of_every_position_that_is_used():
    streams, sealer, _ = pair()
    records = dict(RECORDS)
    for number in range(100):
        if number % 10 == 0:
            sealer.renew()
        changes = sealer.prepare(streams.end(WAY))
        for name, value in changes.items():
            if value is None:
                del records[name]
            else:
                records[name] = value
        header = parse_header(sealer.seal(5, 7, b""))
        mark = KeyStreams(records).marks[WAY]
        assert header.pad_position < mark
        assert header.hash_position < mark
        assert mark % STRIDE_BYTES == 0
        assert mark - header.pad_position <= STRIDE_BYTES
        again = Sealer(KeyStreams(records), WAY)
        again.prepare(streams.end(WAY))
        assert parse_header(again.seal(5, 7, b"")).hash_position >= mark


def test_a_receiver_that_restarts_refuses_what_it_took_before_and_takes_what_comes_after():
    streams, sealer, opener = pair()
    records = dict(RECORDS)
    raws = [sealed(sealer, streams, bytes([number])) for number in range(40)]
    for raw in raws:
        _, _, changes = opener.open(raw)
        records.update({name: value for name, value in changes.items() if value is not None})
    restarted = Opener(KeyStreams(records), WAY, frozenset())
    with pytest.raises(MessageForged) as told:
        restarted.open(raws[0])
    assert told.value.code == "link.authentication_reused"
    fresh = Sealer(streams, WAY)  # a new session of the sender begins at its watermark
    restarted = Opener(KeyStreams(records), WAY, frozenset())
    restarted.open(sealed(fresh, streams, b"go on"))


def test_a_stream_that_runs_dry_says_so_and_goes_on_when_it_grows():
    streams = KeyStreams({name: value for name, value in start_records(START_KEY[:512]).items() if value is not None})
    sealer = Sealer(streams, WAY)
    for _ in range(15):
        sealed(sealer, streams, b"")
    with pytest.raises(AuthenticationDry):
        sealed(sealer, streams, b"")
    streams.extend(WAY, bytes(512))
    sealed(sealer, streams, b"")


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_header_that_is_written_the_same_or_refused(raw):
    try:
        header = parse_header(raw)
    except MessageMalformed:
        return
    assert header.pack() == raw[:HEADER_BYTES]


def test_bytes_that_are_no_message_are_refused():
    _, _, opener = pair()
    for raw in (b"", bytes(HEADER_BYTES), b"SL\2" + bytes(61), b"SL\1\n" + b"\xff" * 44):
        with pytest.raises((MessageMalformed, MessageForged)):
            opener.open(raw)
