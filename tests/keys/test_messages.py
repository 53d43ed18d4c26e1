"""The pair protocol's messages: round trip, and nothing else parses."""

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.keys.errors import PairProtocolError
from shosoin.keys.messages import (
    HELLO_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    OTHER_VERSION,
    Announce,
    BlockState,
    BlockView,
    Hello,
    Ready,
    ReceiverView,
    SenderView,
    decode_message,
    encode_message,
)

NUMBERS = st.integers(0, (1 << 63) - 1)
BLOCKS = st.builds(
    BlockView, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(BlockState), st.lists(st.integers(-20, 99)).map(tuple)
)
VIEW = (NUMBERS, NUMBERS, NUMBERS, st.lists(BLOCKS, max_size=3).map(tuple), st.lists(NUMBERS, max_size=3).map(tuple))
TEXTS = st.text(st.characters(codec="ascii"), max_size=32)
HELLOS = st.builds(
    Hello, TEXTS, NUMBERS, TEXTS, st.booleans(), TEXTS, TEXTS, NUMBERS, TEXTS, TEXTS,
    st.builds(SenderView, *VIEW), st.builds(ReceiverView, *VIEW), burns=NUMBERS, seen_burns=NUMBERS,
)  # fmt: skip
HELLO = Hello("a", 1, "", True, "", "", 0, "", "", SenderView(0, 0, 0, (), ()), ReceiverView(0, 0, 0, (), ()))
EXAMPLE = Announce("s", 1, 2, 3, 4, (5, 6, 7))


@given(HELLOS)
def test_a_hello_survives(hello):
    assert decode_message(encode_message(hello)) == hello


@pytest.mark.parametrize("message", [EXAMPLE, Ready("s", 1, True, "ab")])
def test_others_survive(message):
    assert decode_message(encode_message(message)) == message


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_noise_is_refused(raw):
    with pytest.raises(PairProtocolError):
        decode_message(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"type": "nothing"},
        {"index": -(1 << 63)},
        {"index": "2"},
        {"index": True},
        {"index": 2.0},
        {"entries": [1, "2", 3]},
        {"entries": 5},
        {"session": "x" * 129},
        {"session": "\ud800"},
        {"more": 1},
        {"start": None},
    ],
)
def test_a_message_with_one_thing_wrong_is_refused(change):
    changed = {**json.loads(encode_message(EXAMPLE)), **change}
    with pytest.raises(PairProtocolError):
        decode_message(json.dumps(changed).encode())


@pytest.mark.parametrize(("version", "said"), [(None, "version 1"), (3, "version 3"), ("2", "version ?"), (True, "?")])
def test_a_hello_of_another_version_says_so(version, said):
    hello = {**json.loads(encode_message(HELLO)), "version": version}
    if version is None:
        del hello["version"]
    with pytest.raises(PairProtocolError, match=re.escape(said)) as caught:
        decode_message(json.dumps(hello).encode())
    assert caught.value.code == OTHER_VERSION


def test_what_a_peer_may_have_parsed_is_bounded_by_its_kind():
    """A hello names all blocks of a full stock; nothing else is long, and no list longer than it can be."""
    blocks = tuple(BlockView(10**12 - n, 10**17, 10**6, BlockState.CONFIRMED) for n in range(1 << 16))
    full = replace(HELLO, outgoing=SenderView(1, 1, 1, blocks, tuple(range(128))))
    full = replace(full, incoming=ReceiverView(1, 1, 1, blocks, tuple(range(128))))
    raw = encode_message(full)
    assert len(raw) <= HELLO_BYTES_MAX
    assert decode_message(raw) == full
    one = b'[0,0,0,"ready",[]],'
    many = encode_message(HELLO).replace(b'"blocks":[]', b'"blocks":[' + one * (1 << 16) + one[:-1] + b"]", 1)
    long = json.dumps({**json.loads(encode_message(EXAMPLE)), "entries": [1] * 300}).encode()
    spaced = encode_message(EXAMPLE) + b" " * MESSAGE_BYTES_MAX
    for refused in (many, long, spaced):
        assert len(refused) <= HELLO_BYTES_MAX
        with pytest.raises(PairProtocolError):
            decode_message(refused)


@pytest.mark.parametrize("raw", [b"[" * 100_000, b" " * (9 << 20), b"null", b'"x"', b'{"type":["hello"]}'])
def test_hostile_frames_are_refused(raw):
    with pytest.raises(PairProtocolError):
        decode_message(raw)
