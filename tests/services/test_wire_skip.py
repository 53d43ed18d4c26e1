"""SKIP on the wire, without a wire: whatever a request is, it is read whole or refused by kind."""

import json
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import Alarm, Denied, KeyMaterial, PeerFault, Rejected, Unavailable
from shosoin.keys.errors import KeyDamaged, KeyNotFound, KeyOfAnotherSae, KeyStreamDry
from shosoin.keys.key_id import KeyAddress, KeyIdCodec
from shosoin.keys.kme import Key
from shosoin.link import LinkFacts
from shosoin.services.wire_skip import (
    CapabilitiesCall,
    EntropyCall,
    FetchKeyCall,
    MethodUnknown,
    NewKeyCall,
    PathUnknown,
    algorithm_of,
    entropy_json,
    error_of,
    key_bytes,
    key_json,
    parse_call,
    status_code,
)

CODEC = KeyIdCodec(bytes(range(64)))
PIECES = [
    "/",
    "key",
    "capabilities",
    "entropy",
    "remoteSystemID",
    "size",
    "minentropy",
    "=",
    "&",
    "%",
    "+",
    "0" * 32,
    "8",
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=12).map("".join)
PATHS = st.one_of(TEXT, st.sampled_from(["/key", "/capabilities", "/entropy", "/key/" + "aB" * 16]))
REMOTES = st.text(min_size=1, max_size=40).filter(lambda text: not any(0xD800 <= ord(c) < 0xE000 for c in text))


def read(method, path, query):
    try:
        return parse_call(method, path, query)
    except Rejected as err:
        return err


@given(method=st.one_of(st.just("GET"), st.text(max_size=8)), path=PATHS, query=TEXT)
def test_any_request_is_read_whole_or_refused_in_few_plain_words(method, path, query):
    call = read(method, path, query)
    if isinstance(call, Rejected):
        assert status_code(call) in {400, 404, 405}
        assert len(call.message) < 100
        assert call.message.isascii()
        assert call.message.isprintable()
        return
    assert method == "GET"
    match call:
        case EntropyCall(size_bytes):
            assert 1 <= size_bytes <= 8192
        case NewKeyCall(remote, size_bits):
            assert remote
            assert 0 <= size_bits < 10**12
        case FetchKeyCall(key_id, remote, _):
            assert remote
            assert key_id.replace("-", "") == path.removeprefix("/key/").lower()
        case CapabilitiesCall():
            assert path == "/capabilities"


@given(
    remote=REMOTES,
    size=st.integers(0, 10**12 - 1),
    extra=st.dictionaries(st.text("abcxyz", min_size=1), REMOTES, max_size=30),
)
def test_what_a_client_encodes_is_what_is_read(remote, size, extra):
    query = urlencode({**extra, "remoteSystemID": remote, "size": size})
    assert parse_call("GET", "/key", query) == NewKeyCall(remote, size)
    assert parse_call("GET", "/key", f"remoteSystemID={quote(remote, safe='')}") == NewKeyCall(remote, 256)


@given(offset=st.integers(0, 1 << 34), length=st.integers(1, 1 << 20))
def test_a_key_id_survives_the_way_to_the_wire_and_back(offset, length):
    ours = CODEC.encode(KeyAddress(offset, length), "a", "b")
    sent = json.loads(key_json(Key(ours, KeyMaterial(b"\xab\x01"))))
    assert sent["key"] == "ab01"
    call = parse_call("GET", f"/key/{sent['keyId'].upper()}", "remoteSystemID=a")
    assert call == FetchKeyCall(ours, "a", None)


@given(wanted=st.integers(1, 1 << 16))
def test_entropy_is_at_least_what_was_asked_and_says_its_own_length(wanted):
    call = parse_call("GET", "/entropy", f"minentropy={wanted}")
    assert isinstance(call, EntropyCall)
    body = json.loads(entropy_json(bytes(call.size_bytes)))
    assert wanted <= body["minentropy"] < wanted + 8
    assert len(body["randomStr"]) * 4 == body["minentropy"]


def test_without_parameters_the_lengths_are_the_drafts():
    assert parse_call("GET", "/entropy", "") == EntropyCall(32)
    assert parse_call("GET", "/key", "remoteSystemID=Bob") == NewKeyCall("Bob", 256)
    assert parse_call("GET", f"/key/{'A' * 32}", "remoteSystemID=Bob") == FetchKeyCall(
        "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "Bob", None
    )


@pytest.mark.parametrize("size_bytes", [1, 32, (1 << 21) - 32])
def test_the_memory_set_aside_for_an_answer_is_enough(size_bytes):
    answer = key_json(Key("0" * 36, KeyMaterial(bytes(size_bytes))))
    assert len(answer) <= key_bytes(size_bytes)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PathUnknown("x"), 404),
        (MethodUnknown("x"), 405),
        (Rejected("x"), 400),
        (KeyNotFound(), 400),
        (KeyOfAnotherSae("x"), 400),
        (Denied("x"), 403),
        (KeyDamaged("x"), 500),
        (KeyStreamDry("x"), 503),
        (Unavailable("x"), 503),
        (PeerFault("x"), 500),
        (Alarm("x"), 500),
    ],
)
def test_every_kind_has_its_status(error, status):
    assert status_code(error) == status


def test_an_error_says_when_to_come_back_and_whose_key_it_is_to_nobody():
    body, headers = error_of(KeyStreamDry("too few bits", retry_after_s=0.2))
    assert (json.loads(body)["code"], headers) == ("keys.stream_dry", {"Retry-After": "1"})
    assert error_of(KeyStreamDry("too few bits"))[1] == {}
    assert error_of(MethodUnknown("x"))[1] == {"Allow": "GET"}
    assert error_of(KeyOfAnotherSae("it is ada's")) == error_of(KeyNotFound())
    assert b"what failed" not in error_of(Alarm("what failed"))[0]


def test_the_algorithm_is_the_one_that_promises_least():
    real, simulated = LinkFacts("qkd", False, 1e-10, 1.0), LinkFacts("simulated-qkd", True, None, 1.0)
    assert algorithm_of([]) == "local-generator"
    assert algorithm_of([real]) == "qkd"
    assert algorithm_of([real, simulated]) == algorithm_of([simulated, real]) == "simulated-qkd"
