"""ETSI GS QKD 004 on the wire: what is written is read back the same, and nothing else passes."""

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import ShosoinError
from shosoin.keys.wire004 import (
    HEADER_BYTES,
    REQUEST_BYTES_MAX,
    CloseRequest,
    CloseResponse,
    GetKeyRequest,
    GetKeyResponse,
    OpenConnectRequest,
    OpenConnectResponse,
    Qos,
    Service,
    Status,
    WireFault,
    decode_payload,
    encode_frame,
    parse_header,
)

words = st.integers(0, (1 << 32) - 1)
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=256)
streams = st.uuids()
qos = st.builds(Qos, words, words, words, words, words, words, words, printable)
failures = st.integers(2, 99).filter(lambda number: number != Status.METADATA_SIZE_INSUFFICIENT)
messages = st.one_of(
    st.builds(OpenConnectRequest, printable, printable, qos, streams),
    st.builds(OpenConnectResponse, words, qos, streams),
    st.builds(OpenConnectResponse, failures),
    st.builds(GetKeyRequest, streams, words, words),
    st.builds(GetKeyResponse, st.just(0), words, st.binary(max_size=600), st.binary(max_size=99)),
    st.builds(GetKeyResponse, failures),
    st.builds(GetKeyResponse, st.just(8), metadata_size_needed=words),
    st.builds(CloseRequest, streams),
    st.builds(CloseResponse, words),
)


def read(frame):
    service, length = parse_header(frame[:HEADER_BYTES])
    assert length == len(frame) - HEADER_BYTES
    return decode_payload(service, frame[HEADER_BYTES:])


@given(messages)
def test_what_is_written_is_read_back(message):
    assert read(encode_frame(message)) == message


@given(messages, st.data())
def test_a_message_that_was_cut_or_prolonged_is_refused_or_a_failure(message, data):
    frame = encode_frame(message)
    payload = frame[HEADER_BYTES:]
    cut = data.draw(st.integers(0, len(payload) - 1))
    for changed in (payload[:cut], payload + b"\0"):
        try:
            found = decode_payload(message.service, changed)
        except WireFault:
            continue
        # A failure may end after its status, and what it carries besides is not looked at; nothing else is flexible.
        assert isinstance(found, OpenConnectResponse | GetKeyResponse)
        assert found.status != Status.SUCCESS
        assert not getattr(found, "key", b"")


@given(st.sampled_from(list(Service)), st.binary(max_size=700))
def test_any_bytes_are_a_message_or_a_fault(service, raw):
    try:
        message = decode_payload(service, raw)
    except ShosoinError:
        return
    again = encode_frame(message)
    assert decode_payload(service, again[HEADER_BYTES:]) == message


def test_the_layout_is_that_of_etsis_code():
    stream = UUID("00112233-4455-4677-8899-aabbccddeeff")
    asked = OpenConnectRequest("qkd://a@kme", "qkd://b@kme", Qos(32, 5, 4, 3, 2, 1000, 60, "application/json"), stream)
    expected = (
        b"\x01\x00\x01\x02"
        + struct.pack(">I", 24 + 28 + 256 + 16)
        + b"qkd://a@kme\0qkd://b@kme\0"
        + struct.pack(">7I", 32, 5, 4, 3, 2, 1000, 60)
        + b"application/json".ljust(256, b"\0")
        + stream.bytes
    )
    assert encode_frame(asked) == expected
    assert len(expected) - HEADER_BYTES <= REQUEST_BYTES_MAX
    given_ = GetKeyResponse(0, 7, b"k" * 32, b"{}")
    assert encode_frame(given_)[HEADER_BYTES:] == struct.pack(">III", 0, 7, 32) + b"k" * 32 + b"\0\0\0\x02{}"
    assert encode_frame(GetKeyRequest(stream, 7, 9))[HEADER_BYTES:] == stream.bytes + b"\0\0\0\x07\0\0\0\x09"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"\x02\0\x01\x02\0\0\0\0", "version 2"),
        (b"\x01\0\x01\x06\0\0\0\0", "unknown service 6"),
        (b"\x01\0\x01\x04\xff\xff\xff\xff", "at most"),
        (b"\x01\0\x01", "expected 8"),
    ],
)
def test_a_wrong_header_is_refused(header, reason):
    with pytest.raises(WireFault, match=reason):
        parse_header(header)


def test_a_later_minor_version_is_read():
    assert parse_header(b"\x01\x02\x03\x09\0\0\0\x04") == (Service.CLOSE_RESPONSE, 4)


def test_a_success_needs_all_its_members():
    for service in (Service.OPEN_CONNECT_RESPONSE, Service.GET_KEY_RESPONSE):
        with pytest.raises(WireFault):
            decode_payload(service, bytes(4))


def test_garbage_after_the_mimetype_is_ignored_and_unprintable_text_refused():
    raw = struct.pack(">7I", *range(7)) + b"text/x\0garbage\xff".ljust(256, b"\x99")
    assert Qos.decode(raw).metadata_mimetype == "text/x"
    with pytest.raises(WireFault):
        Qos.decode(raw.replace(b"text/x", b"te\x1bt/x"))


def test_key_bytes_are_not_in_the_repr():
    assert "kkkk" not in repr(GetKeyResponse(0, 1, b"k" * 32))


@pytest.mark.parametrize(
    "message", [GetKeyRequest(UUID(int=1), 1 << 32), OpenConnectRequest("a\0b", "c", Qos(32)), CloseResponse(-1)]
)
def test_what_cannot_be_written_is_a_mistake_of_ours(message):
    with pytest.raises(ValueError, match=r"32 bits|printable"):
        encode_frame(message)
