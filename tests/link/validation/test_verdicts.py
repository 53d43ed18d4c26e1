"""How a verdict follows from a row, for all numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import Unavailable
from shosoin.link.validation import AtLeast, AtMost, Factor, Row, Verdict, Within, Witness, judged

NUMBERS = st.floats(-1e12, 1e12)
POSITIVE = st.floats(1e-12, 1e12)

ROW = Row(
    id="subject.name",
    claim="a claim",
    source="a paper, table 1",
    witness=Witness.THEORY,
    unit="km",
    published=142.0,
    criterion=Within(absolute=0.2),
    compute=lambda: 142.1,
)


def with_values(published, ours, criterion, reason=""):
    return judged(replace(ROW, published=published, compute=lambda: ours, criterion=criterion, reason=reason))


@given(NUMBERS, POSITIVE, st.floats(0.0, 0.999))
def test_a_number_within_its_tolerance_is_reproduced(published, tolerance, share):
    for ours in (published + share * tolerance, published - share * tolerance):
        if abs(ours - published) <= tolerance:  # rounding may carry it over where the tolerance is tiny
            assert with_values(published, ours, Within(absolute=tolerance)).verdict is Verdict.REPRODUCED


@given(NUMBERS, POSITIVE, st.floats(1.001, 1e3))
def test_a_number_beyond_its_tolerance_is_not_reproduced(published, tolerance, share):
    for ours in (published + share * tolerance, published - share * tolerance):
        if abs(ours - published) > tolerance:
            finding = with_values(published, ours, Within(absolute=tolerance))
            assert finding.verdict is Verdict.NOT_REPRODUCED
            assert finding.is_unexplained


@given(NUMBERS, NUMBERS)
def test_an_inequality_is_compatible_or_fails_and_never_reproduces_a_number(published, ours):
    least, most = with_values(published, ours, AtLeast()), with_values(published, ours, AtMost())
    assert (least.verdict is Verdict.COMPATIBLE) == (ours >= published)
    assert (most.verdict is Verdict.COMPATIBLE) == (ours <= published)
    assert Verdict.REPRODUCED not in {least.verdict, most.verdict}


@given(POSITIVE, POSITIVE, st.floats(1.0, 100.0))
def test_a_factor_holds_either_way_round(one, other, factor):
    there, back = with_values(one, other, Factor(factor)), with_values(other, one, Factor(factor))
    assert there.verdict is back.verdict
    assert (there.verdict is Verdict.COMPATIBLE) == (max(one / other, other / one) <= factor)


@given(st.one_of(st.just(0.0), NUMBERS.filter(lambda value: value < 0)))
def test_no_factor_makes_nothing_out_of_something(ours):
    assert with_values(1.0, ours, Factor(1e9)).verdict is Verdict.NOT_REPRODUCED


@pytest.mark.parametrize("ours", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("criterion", [Within(absolute=1e300), AtLeast(), AtMost(), Factor(1e300)])
def test_what_is_no_number_confirms_nothing(ours, criterion):
    assert with_values(1.0, ours, criterion).verdict is Verdict.NOT_REPRODUCED


def test_a_reason_explains_a_failure_and_does_not_turn_it_into_a_success():
    finding = with_values(142.0, 150.0, Within(absolute=0.2), reason="another detector")
    assert (finding.verdict, finding.why, finding.is_unexplained) == (
        Verdict.NOT_REPRODUCED,
        "another detector",
        False,
    )


def test_a_reason_for_a_deviation_that_is_gone_is_noticed():
    finding = with_values(142.0, 142.0, Within(absolute=0.2), reason="another detector")
    assert finding.verdict is Verdict.REPRODUCED
    assert finding.is_outdated
    assert not finding.why


def test_what_cannot_be_computed_says_what_is_missing():
    gap = replace(ROW, compute=None, missing="no background is printed")
    assert (judged(gap).verdict, judged(gap).why, judged(gap).ours) == (
        Verdict.NOT_DERIVABLE,
        "no background is printed",
        None,
    )


def test_a_program_that_is_not_installed_makes_a_row_underivable():
    def absent():
        raise Unavailable("no such package", code="link.no_peer")

    for row in (replace(ROW, published=absent), replace(ROW, compute=absent)):
        assert (judged(row).verdict, judged(row).why) == (Verdict.NOT_DERIVABLE, "no such package")


def test_a_program_is_asked_for_its_value():
    assert judged(replace(ROW, published=lambda: 142.2)).published == 142.2


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "nodot"},
        {"id": ".name"},
        {"claim": ""},
        {"source": ""},
        {"compute": None},
        {"missing": "something"},
        {"published": None},
        {"compute": None, "missing": "all", "reason": "a reason"},
    ],
)
def test_an_incomplete_row_cannot_be_made(changes):
    with pytest.raises(ValueError, match=r"row|id"):
        replace(ROW, **changes)


def test_a_row_has_no_place_for_a_verdict():
    assert not {"verdict", "passed", "ok"} & set(Row.__dataclass_fields__)
