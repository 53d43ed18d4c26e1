"""The linearizability checker: known histories, and every small one against brute force."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.testing.linearizability import Fate, History, Kind, Operation, find_violations, is_linearizable

W, X, R = Kind.WRITE, Kind.REMOVE, Kind.READ


def op(kind, value, called, returned, fate=Fate.OK, name="a", **more):
    return Operation(name, kind, value, called, returned, fate, **more)


def unknown(kind, value, called):
    return op(kind, value, called, math.inf, Fate.UNKNOWN)


GOOD = {
    "nothing": [],
    "one after the other": [op(W, "x", 1, 2), op(R, "x", 3, 4), op(X, None, 5, 6), op(R, None, 7, 8)],
    "a read during a write sees either": [op(W, "x", 1, 9), op(R, None, 2, 3), op(R, "x", 4, 5)],
    "two writes at once, read both ways": [op(W, "x", 1, 9), op(W, "y", 1, 9), op(R, "y", 2, 3), op(R, "x", 4, 5)],
    "an unknown write may come late": [unknown(W, "x", 1), op(W, "y", 2, 3), op(R, "y", 4, 5), op(R, "x", 6, 7)],
    "an unknown write may never come": [op(W, "y", 2, 3), unknown(W, "x", 4), op(R, "y", 5, 6)],
    "an unknown removal": [op(W, "y", 2, 3), unknown(X, None, 4), op(R, "y", 5, 6), op(R, None, 7, 8)],
    "an unknown write that is over came in time": [
        op(W, "x", 1, 4, Fate.UNKNOWN),
        op(W, "y", 2, 3),
        op(R, "x", 5, 6),
    ],
    "an unknown write that is over never came": [op(W, "x", 1, 4, Fate.UNKNOWN), op(W, "y", 2, 3), op(R, "y", 5, 6)],
    "a fitting read must not end the time of an unknown write": [
        op(W, "x", 0, 0.5),
        op(W, "y", 1, 4, Fate.UNKNOWN),
        op(W, "x", 1, 9),
        op(R, "y", 1, 9),
        op(R, "x", 5, 6),
    ],
    "a failed write does not count": [op(W, "y", 2, 3), op(W, "x", 4, 5, Fate.FAILED), op(R, "y", 6, 7)],
    "an unproven read promises nothing": [op(W, "x", 1, 2), op(R, None, 3, 4, proven=False)],
    "a read that never returned": [op(W, "x", 1, 2), unknown(R, "q", 3)],
    "equal times are at once": [op(W, "x", 1, 2), op(R, None, 2, 3)],
    "names are apart": [op(W, "x", 1, 2), op(R, None, 3, 4, name="b")],
    "the same value twice": [op(W, "x", 1, 2), op(W, "y", 3, 4), op(W, "x", 5, 6), op(R, "x", 7, 8)],
}

BAD = {
    "stale read": ([op(W, "x", 1, 2), op(W, "y", 3, 4), op(R, "x", 5, 6)], "is stale"),
    "lost write": ([op(W, "x", 1, 2), op(R, None, 3, 4)], "is stale"),
    "never written": ([op(W, "x", 1, 2), op(R, "q", 3, 4)], "nobody wrote 'q'"),
    "only a failed write": ([op(W, "x", 1, 2, Fate.FAILED), op(R, "x", 3, 4)], "nobody wrote 'x'"),
    "read too early": ([op(R, "x", 1, 2), op(W, "x", 3, 4)], "before anybody wrote it"),
    "back and forth": (
        [op(W, "x", 1, 9), op(W, "y", 1, 9), op(R, "x", 2, 3), op(R, "y", 4, 5), op(R, "x", 6, 7)],
        "every order",
    ),
    "an unknown write shows, hides and shows": (
        [unknown(W, "x", 1), op(R, "x", 2, 3), op(R, None, 4, 5), op(R, "x", 6, 7)],
        "every order",
    ),
    "an unknown write that is over comes too late": (
        [op(W, "x", 1, 2, Fate.UNKNOWN), op(R, None, 3, 4), op(R, "x", 5, 6)],
        "every order",
    ),
    "an unknown write that is over came between two reads": (
        [op(W, "y", 0, 0.5), op(W, "x", 1, 2, Fate.UNKNOWN), op(R, "y", 3, 4), op(R, "x", 5, 6)],
        "every order",
    ),
    "removed and back": ([op(W, "x", 1, 2), op(X, None, 3, 4), op(R, "x", 5, 6)], "is stale"),
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD)
def test_good_histories_pass(history):
    assert find_violations(history) == []


@pytest.mark.parametrize(("history", "reason"), BAD.values(), ids=BAD)
def test_bad_histories_are_found_with_their_reason(history, reason):
    (violation,) = find_violations(history)
    assert violation.name == "a"
    assert reason in violation.story().splitlines()[-1]


def test_the_initial_value_can_be_given():
    assert is_linearizable([op(R, "x", 1, 2)], initial="x")
    assert not is_linearizable([op(R, None, 1, 2)], initial="x")


def test_a_fragment_leaves_out_what_is_beside_the_point():
    noise = [op(W, f"n{i}", 10 * i, 10 * i + 1) for i in range(1, 8)]
    noise += [op(R, f"n{i}", 10 * i + 2, 10 * i + 3) for i in range(1, 8)]
    bad = [op(W, "x", 100, 101, client="anna"), op(W, "y", 102, 103), op(R, "x", 104, 105, client="bert")]
    (violation,) = find_violations([*noise, *bad])
    assert [each.value for each in violation.operations] == ["x", "y", "x"]
    assert violation.story().splitlines()[1:] == [
        "  from 100 to 101: anna wrote 'x'",
        "  from 102 to 103: wrote 'y'",
        "  from 104 to 105: bert read 'x'",
        "  the last read is stale: 'x' was replaced before the read began",
    ]


def test_each_bad_name_is_reported_once():
    bad = BAD["stale read"][0]
    history = [replace(each, name=name) for name in "abc" for each in bad]
    assert [each.name for each in find_violations([*history, op(W, "x", 1, 2, name="d")])] == ["a", "b", "c"]


def test_hundreds_of_operations_with_many_of_unknown_fate_are_decided():
    history = []
    for i in range(300):
        history.append(unknown(W, f"u{i}", 10 * i))
        history.append(op(W, f"w{i}", 10 * i + 1, 10 * i + 5))
        history.append(op(W, f"v{i}", 10 * i + 2, 10 * i + 6))
        history.append(op(R, f"w{i}" if i % 2 else f"v{i}", 10 * i + 7, 10 * i + 8))
    assert is_linearizable(history)
    assert not is_linearizable([*history, op(R, "u7", 1000, 1001), op(R, "w99", 1002, 1003)])


VALUES = st.sampled_from(["x", "y", "z"])


@st.composite
def operations(draw):
    kind = draw(st.sampled_from(Kind))
    called = draw(st.integers(0, 8))
    fate = draw(st.sampled_from([Fate.OK, Fate.OK, Fate.OK, Fate.UNKNOWN, Fate.FAILED]))
    value = None if kind is X else draw(VALUES if kind is W else st.none() | VALUES)
    never = fate is Fate.UNKNOWN and draw(st.booleans())
    returned = math.inf if never else called + draw(st.integers(1, 6))
    return op(kind, value, called, returned, fate, proven=draw(st.sampled_from([True, True, True, False])))


def brute_force(history) -> bool:
    """Every order of every subset that holds all operations that took place."""
    history = [each for each in history if each.fate is not Fate.FAILED]
    history = [each for each in history if each.kind is not R or (each.fate is Fate.OK and each.proven)]
    sure = [each for each in history if each.fate is Fate.OK]
    perhaps = [each for each in history if each.fate is Fate.UNKNOWN]
    return any(
        fits(order)
        for count in range(len(perhaps) + 1)
        for chosen in itertools.combinations(perhaps, count)
        for order in itertools.permutations([*sure, *chosen])
    )


def fits(order) -> bool:
    if any(later.returned < earlier.called for earlier, later in itertools.combinations(order, 2)):
        return False
    value = None
    for each in order:
        if each.kind is R and each.value != value:
            return False
        value = each.result
    return True


@settings(max_examples=400, deadline=None)
@given(st.lists(operations(), max_size=5))
def test_small_histories_agree_with_brute_force(history):
    assert is_linearizable(history) == brute_force(history)


@settings(max_examples=150, deadline=None)
@given(st.lists(operations(), min_size=2, max_size=6))
def test_a_fragment_is_bad_itself_and_no_read_of_it_can_be_spared(history):
    for violation in find_violations(history):
        assert not brute_force(violation.operations)
        for read in (each for each in violation.operations if each.reads):
            assert brute_force([each for each in violation.operations if each is not read])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(operations(), st.integers(0, 3)), max_size=12))
def test_what_a_register_did_is_always_linearizable(steps):
    """Histories made from a real register: each operation takes effect at a moment inside its times."""
    value, history = None, []
    for moment, (each, slack) in enumerate(steps):
        if each.kind is R:
            made = op(R, value, 10 * moment - 10 * slack, 10 * moment + 7 * slack + 1)
        else:
            late = each.returned if each.returned == math.inf else 10 * moment + 9 * slack + 1
            fate = Fate.UNKNOWN if each.fate is Fate.UNKNOWN else Fate.OK
            made, value = op(each.kind, each.value, 10 * moment - 10 * slack, late, fate), each.result
        history.append(made)
    assert is_linearizable(history)


def test_a_recorder_keeps_what_never_returned_as_unknown():
    history = History()
    history.begin(W, "a", "x", client="anna")
    history.begin(X, "a").failed()
    history.begin(X, "a").found_nothing()
    history.begin(R, "a").ok("x")
    history.begin(R, "a").ok("old", proven=False)
    history.begin(W, "a", "y").over()
    fates = [each.fate for each in history.operations]
    assert fates == [Fate.UNKNOWN, Fate.FAILED, Fate.OK, Fate.OK, Fate.OK, Fate.UNKNOWN]
    assert [each.kind for each in history.operations] == [W, X, R, R, R, W]
    assert history.operations[0].returned == math.inf > history.operations[5].returned
    assert history.operations[2].value is None
    assert is_linearizable(history.operations)
    assert history.operations[3].returned > history.operations[3].called


def test_a_recorder_can_use_the_clock_of_a_simulation():
    times = iter([5.0, 7.5])
    history = History(lambda: next(times))
    history.begin(W, "a", "x").ok()
    (only,) = history.operations
    assert (only.called, only.returned) == (5.0, 7.5)
