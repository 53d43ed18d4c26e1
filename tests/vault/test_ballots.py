"""Ballots: their order, and the one right after."""

from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import Rejected
from shosoin.vault.ballots import ROUND_MAX, ballot_after, parse_ballot

NAMES = st.text(alphabet=string.ascii_letters + string.digits + "-._", min_size=1, max_size=64)
BALLOTS = st.tuples(st.integers(1, ROUND_MAX), NAMES)


@given(BALLOTS, BALLOTS)
def test_no_ballot_lies_between_one_and_the_one_after_it(ballot: tuple[int, str], other: tuple[int, str]) -> None:
    after = ballot_after(ballot)
    assert (after is None) == (len(ballot[1]) == 64)
    if after is not None:
        assert ballot < after
        assert parse_ballot(list(after)) == after
        assert not ballot < parse_ballot(list(other)) < after


@given(BALLOTS, NAMES)
def test_not_even_one_whose_name_begins_alike(ballot: tuple[int, str], more: str) -> None:
    after, longer = ballot_after(ballot), (ballot[0], (ballot[1] + more)[:64])
    assert after is None or not ballot < longer < after


@pytest.mark.parametrize("name", ["", "a b", "a,", "a+", "a!", "\0", "a\0", "a\n", "ä", "x" * 65, 7, None])
def test_other_names_are_refused(name: Any) -> None:
    with pytest.raises(Rejected):
        parse_ballot([1, name])
