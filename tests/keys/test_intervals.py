"""Interval sets against Python's own sets."""

from hypothesis import given
from hypothesis import strategies as st

from shosoin.keys.intervals import IntervalSet

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 12)), max_size=40)


def built(steps):
    ours, plain = IntervalSet(), set()
    for adds, start, length in steps:
        if adds:
            ours.add(start, start + length)
            plain |= set(range(start, start + length))
        else:
            ours.remove(start, start + length)
            plain -= set(range(start, start + length))
    return ours, plain


@given(STEPS)
def test_same_members_in_as_few_intervals_as_possible(steps):
    ours, plain = built(steps)
    assert {x for start, end in ours for x in range(start, end)} == plain
    assert ours.size() == len(plain)
    assert ours.end == max(plain, default=-1) + 1
    bounds = [bound for interval in ours for bound in interval]
    assert bounds == sorted(set(bounds))


@given(STEPS, st.integers(0, 45), st.integers(1, 12))
def test_same_answers(steps, start, length):
    ours, plain = built(steps)
    asked = set(range(start, start + length))
    assert ours.overlaps(start, start + length) == bool(asked & plain)
    assert ours.covers(start, start + length) == (asked <= plain)
    fits = [x for x in range(start, 60) if set(range(x, x + length)) <= plain]
    assert ours.first_fit(start, length) == (fits[0] if fits else None)
    if start in plain:
        low, high = ours.around(start)
        assert low <= start < high
        assert set(range(low, high)) <= plain
