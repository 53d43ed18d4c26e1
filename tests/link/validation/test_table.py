"""The table itself: every row is judged, sourced, explained, and as the documentation says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from shosoin.base import Rejected
from shosoin.link.validation import Verdict, findings, names, rows

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "link-validation.md"
LINE = re.compile(r"^\| `([\w.-]+)` \|.*\| ([a-z ]+) \|$")


@pytest.fixture(scope="module")
def judged():
    return list(findings())


def test_there_are_at_least_forty_rows_and_each_says_where_it_is_printed():
    assert len(rows()) >= 40
    assert all(row.source and row.claim and row.unit is not None for row in rows())


def test_no_row_fails_without_a_reason(judged):
    assert [finding.row.id for finding in judged if finding.is_unexplained] == []


def test_no_row_explains_a_deviation_that_is_not_there(judged):
    assert [finding.row.id for finding in judged if finding.is_outdated] == []


def test_the_table_says_no_as_well(judged):
    count = Counter(finding.verdict for finding in judged)
    assert all(count[verdict] for verdict in Verdict)


def test_every_verdict_is_the_one_that_the_documentation_shows(judged):
    shown = {match[1]: match[2] for line in PAGE.read_text().splitlines() if (match := LINE.match(line))}
    assert shown == {finding.row.id: str(finding.verdict) for finding in judged}


def test_rows_are_chosen_by_subject_and_by_id():
    chosen = [finding.row.id for finding in findings(["bounds", "decoy.gys-cutoff"])]
    assert chosen[0] == "decoy.gys-cutoff"
    assert {name.partition(".")[0] for name in chosen} == {"bounds", "decoy"}
    assert set(chosen) <= set(names())


def test_a_row_that_is_not_there_is_refused_with_a_suggestion():
    with pytest.raises(Rejected) as caught:
        next(findings(["decoy.gys-cutof"]))
    assert caught.value.hint == "did you mean 'decoy.gys-cutoff'?"
