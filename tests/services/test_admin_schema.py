"""What schemathesis makes of the admin interface's OpenAPI document, against a real KME."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shosoin.adapters.admin_log import read_entries, verify_log
from shosoin.services import admin_api
from shosoin.services.admin_answers import ANSWERS
from shosoin.services.admin_calls import CALLS
from shosoin.services.admin_openapi import openapi_document, openapi_text
from tests.support.admin import Administration
from tests.support.kme import KmePair
from tests.support.schema_admin import AdminJudge, running_in_thread, schema_of_calls

SCHEMA = schema_of_calls()
EXAMPLES = 20
"""Of each operation and mode, besides the boundary values that the tool makes by itself."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "kme-admin-openapi.json"


@pytest.fixture(scope="module")
def admin(tmp_path_factory):
    pair = KmePair(tmp_path_factory.mktemp("schema"), stock_bits=1 << 20)
    admin = Administration(pair, calls_per_s=1e6)
    with running_in_thread(pair) as processes:
        yield admin
        assert processes["kme-a"].defect is None
    verify_log(admin.folder)


@pytest.fixture(scope="module")
def judge(admin):
    judge = AdminJudge(admin, "both")
    yield judge
    _check_counted(judge.counted)
    entries = list(read_entries(admin.folder))
    assert all(entry.get("code") != "admin.defect" for entry in entries)


def _check_counted(counted: Counter) -> None:
    """A search in which nothing was done, or nothing refused, would have found nothing."""
    for label in {label for label, _ in counted}:
        assert counted[label, 200], (label, counted)
        if label.startswith("POST"):
            assert counted[label, 400], (label, counted)


@pytest.mark.processes
@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_answers_are_the_described_ones(case, judge):
    judge.check(case)


@pytest.mark.processes
@SCHEMA.include(method="POST").parametrize()
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
def test_whoever_may_only_look_is_refused_as_described(case, admin):
    """Unless the method is wrong too, or there is no such path."""
    assert AdminJudge(admin, "vic").check(case) in {403, 404, 405}


# The document and the code.


def test_the_file_is_the_document_that_a_kme_serves():
    assert DOCUMENT.read_text(encoding="utf-8") == openapi_text()


def test_every_call_has_an_answer_and_every_status_of_the_code_is_described():
    assert set(ANSWERS) == {call.name for call in CALLS}
    coded = {str(status) for _, status in admin_api._STATUS} | {"200", "500"}
    for operations in openapi_document()["paths"].values():
        for operation in operations.values():
            wanted = coded if operation.get("parameters") else coded - {"404"}
            assert set(operation["responses"]) == wanted
