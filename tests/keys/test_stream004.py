"""ETSI GS QKD 004 streams without any transport: positions that wrap, windows, lifetimes, proposals, names."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import SaeId
from shosoin.keys.metadata004 import MetadataTooLong, metadata_of
from shosoin.keys.qos004 import Offer, Pace, negotiate
from shosoin.keys.stream004 import (
    NEXT_INDEX,
    WINDOW_MAX,
    CallRefused,
    Chunk,
    HomeStream,
    Positions,
    index_of,
    position_of,
)
from shosoin.keys.uri004 import sae_of_uri
from shosoin.keys.wire004 import Qos, Status
from shosoin.link.port import LinkFacts

QOS = Qos(32, max_bps=1000, timeout_ms=1000, ttl_s=10)
OFFER = Offer(1, 4096, max_bps=10_000, spare_bps=2_000)
FACTS = LinkFacts("simulated-qkd", True, None, 0.0)


class HandClock:
    """A clock that a test turns."""

    def __init__(self):
        self.time_s = 0.0

    def now_s(self):
        return self.time_s

    def wall_s(self):
        return self.time_s


def stream(window=8, **options):
    made = HomeStream(UUID(int=1), SaeId("near"), SaeId("far"), replace(QOS, **options), window, 0.0)
    made.near_open = made.far_open = True
    return made


def reserved(made, position, now_s=0.0):
    released = []
    made.check_new(position)
    made.add(position, Chunk(f"id-{position}", now_s, bytearray([position % 251] * 32), lambda: released.append(1)))
    return released


def status_of(call):
    with pytest.raises(CallRefused) as caught:
        call()
    return caught.value.status


@given(st.integers(0, 1 << 40), st.integers(-4000, 1000))
def test_an_index_means_the_nearest_position(latest, step):
    position = max(0, latest + step)
    assert position_of(index_of(position), latest, latest + 1) == position


def test_the_index_that_asks_for_the_next_chunk():
    assert position_of(NEXT_INDEX, -1, 0) == 0
    assert position_of(NEXT_INDEX, 5000, 77) == 77
    near_the_end = (1 << 32) - 5
    assert position_of(NEXT_INDEX, near_the_end, near_the_end + 1) == (1 << 32) - 1
    assert position_of(0, (1 << 32) - 1, 1 << 32) == 1 << 32
    assert position_of(NEXT_INDEX, (1 << 32) + 9000, 5) == 5


@given(st.lists(st.integers(0, 300), max_size=200))
def test_positions_are_had_once(asked):
    had, seen = Positions(), set()
    for position in asked:
        assert had.has(position) == (position in seen)
        had.add(position)
        seen.add(position)
    assert had.following == max(seen, default=-1) + 1


def test_positions_far_behind_are_given_up_and_memory_stays_bounded():
    had = Positions()
    for position in range(1, 20_000):
        had.add(position)
    assert had.has(0)
    assert len(had._above) <= 4096
    assert not had.has(20_000)
    assert Positions(10_000).has(5_000)
    assert not Positions(10_000).has(9_999)


def test_each_side_has_a_chunk_once():
    made = stream()
    released = reserved(made, 0)
    assert made.tell(0, 1.0).key_id == "id-0"
    assert made.tell(0, 1.0).key_id == "id-0"  # an answer may get lost; the key stream gives the key once
    assert made.take(0, 1.0) == bytearray(32)
    assert released == [1]
    assert status_of(lambda: made.take(0, 1.0)) == Status.INSUFFICIENT_KEY
    assert status_of(lambda: made.check_new(0)) == Status.INSUFFICIENT_KEY


def test_what_was_told_long_ago_is_forgotten():
    made = stream()
    for position in range(200):
        reserved(made, position)
        made.take(position, 0.0)
        made.tell(position, 0.0)
    assert status_of(lambda: made.tell(0, 0.0)) == Status.INSUFFICIENT_KEY
    assert made.tell(199, 0.0).key_id == "id-199"
    assert len(made._chunks) <= 64


def test_the_window():
    made = stream(window=3)
    for position in (0, 1, 2):
        reserved(made, position)
        made.take(position, 0.0)
    assert status_of(lambda: made.check_new(3)) == Status.INSUFFICIENT_KEY
    made.tell(1, 0.0)
    assert status_of(lambda: made.check_new(6)) == Status.INSUFFICIENT_KEY
    reserved(made, 5)
    assert stream(window=0).window == 1
    assert stream(window=1 << 30).window == WINDOW_MAX


def test_chunks_expire_at_both_ends():
    made = stream(ttl_s=10)
    first, second, third = reserved(made, 0), reserved(made, 1), reserved(made, 2, now_s=5.0)
    made.tell(0, 1.0)
    assert made.expire(10.0) == []
    assert made.expire(10.5) == ["id-1"]  # far's KME never heard of it, and burns it
    assert (first, second, third) == ([1], [1], [])
    for position in (0, 1):
        assert status_of(lambda: made.take(position, 11.0)) == Status.INSUFFICIENT_KEY  # noqa: B023
        assert status_of(lambda: made.tell(position, 11.0)) == Status.INSUFFICIENT_KEY  # noqa: B023
        assert status_of(lambda: made.check_new(position)) == Status.INSUFFICIENT_KEY  # noqa: B023
    assert made.take(2, 11.0) == bytearray([2] * 32)


def test_after_close_what_is_reserved_can_be_had_and_nothing_more():
    made = stream()
    held = reserved(made, 0)
    made.close_near()
    assert held == [1]
    assert status_of(lambda: made.take(0, 0.0)) == Status.INSUFFICIENT_KEY
    assert made.tell(0, 0.0).key_id == "id-0"
    assert status_of(lambda: made.check_new(1)) == Status.PEER_NOT_CONNECTED_GET_KEY
    assert not made.is_over(9.0, alone_s=1.0)
    assert made.close_far() == []
    assert made.is_over(0.0, alone_s=1.0)
    other = stream()
    reserved(other, 0)
    reserved(other, 1)
    other.tell(0, 0.0)
    assert other.close_far() == ["id-1"]
    assert other.take(1, 0.0) == bytearray([1] * 32)
    assert other.end() == []


def test_a_stream_is_over_when_nothing_happens():
    made = stream(ttl_s=10)
    assert not made.is_over(10.0, alone_s=3.0)
    assert made.is_over(10.1, alone_s=3.0)
    made.far_open = False
    assert made.is_over(3.1, alone_s=3.0)
    ended = stream()
    held = reserved(ended, 0)
    assert ended.end() == ["id-0"]
    assert held == [1]


@given(
    st.builds(Qos, *[st.integers(0, (1 << 32) - 1)] * 7, st.sampled_from(["", "application/json", "text/plain"])),
    st.builds(
        Offer,
        st.just(4),
        st.integers(4, 1 << 20),
        st.just(32),
        st.integers(1, 1 << 31),
        st.integers(0, 1 << 31),
        st.none() | st.integers(0, 1 << 31),
        st.integers(0, 5),
    ),
)
def test_a_proposal_can_always_be_had(wanted, offer):
    granted, met = negotiate(wanted, offer)
    assert offer.chunk_bytes_min <= granted.key_chunk_size_bytes <= offer.chunk_bytes_max
    assert granted.min_bps <= granted.max_bps <= offer.max_bps
    assert granted.min_bps <= offer.spare_bps
    assert 0 < granted.timeout_ms <= offer.timeout_ms_max
    assert 0 < granted.ttl_s <= offer.ttl_s_max
    assert negotiate(granted, offer) == (granted, True)
    if not granted.priority and offer.plain_bps is not None:
        assert granted.min_bps <= offer.plain_bps
    asked = [wanted.key_chunk_size_bytes, wanted.max_bps, wanted.min_bps, wanted.timeout_ms, wanted.ttl_s]
    had = [granted.key_chunk_size_bytes, granted.max_bps, granted.min_bps, granted.timeout_ms, granted.ttl_s]
    asked += [wanted.jitter_bps, wanted.priority]
    had += [granted.jitter_bps, granted.priority]
    same = all(one in {0, other} for one, other in zip(asked, had, strict=True))
    assert met == (same and wanted.metadata_mimetype == granted.metadata_mimetype)
    assert granted.priority <= offer.priority_max
    if granted.jitter_bps:
        assert granted.max_bps - granted.min_bps <= granted.jitter_bps
    else:
        assert wanted.jitter_bps == 0 or granted.max_bps == granted.min_bps


@pytest.mark.parametrize(
    ("wanted", "highest", "granted", "met"),
    [(0, 0, 0, True), (0, 3, 3, True), (2, 3, 2, True), (3, 3, 3, True), (9, 3, 3, False), (1, 0, 0, False)],
)
def test_a_priority_is_at_most_that_of_the_terms_and_left_to_us_just_that(wanted, highest, granted, met):
    found = negotiate(replace(QOS, priority=wanted), replace(OFFER, priority_max=highest))
    assert (found[0].priority, found[1]) == (granted, met)


@pytest.mark.parametrize(
    ("most", "least", "jitter", "granted", "met"),
    [
        (5_000, 2_000, 0, 0, True),
        (5_000, 2_000, 3_000, 3_000, True),
        (5_000, 2_000, 9_000, 9_000, True),
        (5_000, 2_000, 100, 3_000, False),
        (2_000, 2_000, 1, 1, True),
        (5_000, 0, 100, 5_000, False),
    ],
)
def test_the_deviation_that_can_be_had_is_what_lies_between_the_two_rates(most, least, jitter, granted, met):
    wanted = replace(QOS, max_bps=most, min_bps=least, jitter_bps=jitter)
    found = negotiate(wanted, OFFER)
    assert (found[0].jitter_bps, found[1]) == (granted, met)


def test_only_streams_with_a_priority_are_promised_the_reserved_share():
    offer = replace(OFFER, spare_bps=2_000, plain_bps=1_500, priority_max=1)
    wanted = replace(QOS, max_bps=5_000, min_bps=2_000)
    assert negotiate(wanted, offer)[0].min_bps == 2_000
    assert negotiate(wanted, replace(offer, priority_max=0))[0].min_bps == 1_500


def test_json_is_taken_however_it_is_written():
    wanted = replace(QOS, metadata_mimetype="Application/JSON; charset=utf-8")
    assert negotiate(wanted, OFFER) == (wanted, True)


def test_pace():
    clock = HandClock()
    pace = Pace(clock, replace(QOS, max_bps=512))
    for _ in range(2):
        assert pace.wait_s() == 0
        pace.spend()
    assert pace.wait_s() == 0.5
    clock.time_s += 0.5
    assert pace.wait_s() == 0
    clock.time_s += 100.0
    for _ in range(2):
        pace.spend()
    assert pace.wait_s() == 0.5
    slow = Pace(clock, replace(QOS, max_bps=1))  # one chunk at once, however slow
    assert slow.wait_s() == 0
    slow.spend()
    assert slow.wait_s() == 256.0


@pytest.mark.parametrize("age_ms", [0, 9, 99_999, (1 << 32) - 1, 1 << 50])
def test_the_needed_size_of_metadata_suffices_later(age_ms):
    wanted = replace(QOS, metadata_mimetype="application/json")
    with pytest.raises(MetadataTooLong) as caught:
        metadata_of(wanted, 1, age_ms, FACTS)
    assert len(metadata_of(wanted, caught.value.needed, (1 << 32) - 1, FACTS)) <= caught.value.needed


@pytest.mark.parametrize(
    ("text", "sae"),
    [
        ("qkd://sae-a1", "sae-a1"),
        ("qkd://sae-a1:25575/app?x#y", "sae-a1"),
        ("client://sae-a1@kme.example:1", "sae-a1"),
        ("sae-a1@kme", "sae-a1"),
        ("sae-a1", "sae-a1"),
        ("urn:shosoin:sae:sae-a1", "sae-a1"),
        ("urn:shosoin:kme:sae-a1", None),
        ("qkd://", None),
        ("", None),
        ("qkd://a b", None),
        ("qkd://user:password@host", None),
        ("qkd://@host", None),
        ("//sae-a1", None),
        ("a" * 65, None),
    ],
)
def test_names_of_applications(text, sae):
    assert sae_of_uri(text) == sae


@given(st.text(max_size=80))
def test_any_text_names_an_application_or_none(text):
    sae = sae_of_uri(text)
    assert sae is None or (sae in text and SaeId(sae) == sae)
