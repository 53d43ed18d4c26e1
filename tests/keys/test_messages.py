"""The pair protocol's messages: round trip, and nothing else parses."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.keys.errors import PairProtocolError
from shosoin.keys.messages import (
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


@pytest.mark.parametrize("raw", [b"[" * 100_000, b" " * (5 << 20), b"null", b'"x"', b'{"type":["hello"]}'])
def test_hostile_frames_are_refused(raw):
    with pytest.raises(PairProtocolError):
        decode_message(raw)
