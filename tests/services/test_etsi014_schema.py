"""What schemathesis makes of our OpenAPI document, against two real KME processes."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from shosoin.base import Rejected, SaeId
from shosoin.keys.policy import KmeLimits
from shosoin.services.etsi014 import _DIRECTIONS, _PREFIX, HttpLimits
from shosoin.services.extensions014 import (
    _AGE_S_MAX,
    _LEVELS,
    _ROUTES,
    EXTENSION_UNSUPPORTED,
    MAX_AGE,
    MIN_ASSURANCE,
    ROUTE_TYPE,
)
from shosoin.services.kme_config import LimitSection
from tests.support.kme import SAES, KmePair, ServerProcess
from tests.support.schema014 import NOT_FOUND, SLOW_LINK, Judge, document, schema_for

SCHEMA = schema_for([*SAES])
EXAMPLES = 60
"""Of each operation and mode, besides the boundary values that the tool makes by itself."""


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    pair = KmePair(tmp_path_factory.mktemp("schema"), **SLOW_LINK)
    servers = [ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")]
    with asyncio.Runner() as runner:
        try:
            for server in servers:
                runner.run(server.start())
            judge = Judge(pair)
            judge.wait_stock(16_000)
            yield judge
            assert all(server.process is not None and server.process.returncode is None for server in servers)
            told = "".join((server.config.parent / "log").read_text() for server in servers)
            assert "defect" not in told
            _check_counted(judge.counted)
        finally:
            for server in servers:
                runner.run(server.stop())


def _check_counted(counted: Counter) -> None:
    """A search that never got a key, or was never refused, would have found nothing."""
    for label in {label for label, _ in counted}:
        assert counted[label, 400] > 10, (label, counted)
        assert "dec_keys" in label or counted[label, 200] > 2, (label, counted)


@pytest.mark.processes
@SCHEMA.parametrize()
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
def test_answers_are_the_described_ones_and_a_refusal_costs_no_key(case, judge):
    judge.check(case)


# The document and the code.


def schema(name):
    return document()["components"]["schemas"][name]


def test_the_documents_limits_are_the_defaults_of_a_kme():
    limits = KmeLimits()
    assert limits == KmeLimits(
        **{field.name: getattr(LimitSection(), field.name) for field in fields(KmeLimits)}  # the configuration's
    )
    assert schema("Number") | {
        "minimum": 1,
        "maximum": limits.max_key_per_request,
        "default": 1,
    } == schema("Number")
    assert schema("Size") | {
        "minimum": limits.min_key_size_bits,
        "maximum": limits.max_key_size_bits,
        "multipleOf": 8,
        "default": limits.key_size_bits,
    } == schema("Size")
    assert f"{limits.max_request_bytes * 8:,} bits" in schema("Size")["description"]
    for items in (schema("KeyIDs")["properties"]["key_IDs"], schema("KeyContainer")["properties"]["keys"]):
        assert (items["minItems"], items["maxItems"]) == (1, limits.max_key_per_request)


def test_the_documents_extensions_are_those_of_the_code():
    known = schema("Extensions")["properties"]
    assert set(known) == {MAX_AGE, ROUTE_TYPE, MIN_ASSURANCE}
    assert known[MAX_AGE]["maximum"] == _AGE_S_MAX
    assert known[ROUTE_TYPE]["enum"] == list(_ROUTES)
    assert known[MIN_ASSURANCE]["enum"] == list(_LEVELS)
    several = schema("KeyRequest")["properties"]["additional_slave_SAE_IDs"]
    assert several["maxItems"] == KmeLimits().max_additional_slaves


def test_the_documents_other_limits_are_those_of_the_configuration():
    told = document()["x-shosoin-limits"]
    assert told == {name: asdict(LimitSection())[name] for name in told}
    assert told["max_body_bytes"] == HttpLimits().body_bytes
    for path in document()["paths"].values():
        if "post" in path:
            assert f"{told['max_body_bytes']:,} bytes" in path["post"]["requestBody"]["description"]


def test_the_document_has_every_call_with_every_method_and_every_status():
    paths = document()["paths"]
    assert {path.removeprefix(_PREFIX).partition("}/")[2] for path in paths} == set(_DIRECTIONS)
    for path, operations in paths.items():
        methods = set(operations) - {"parameters"}
        assert methods == ({"get"} if path.endswith("status") else {"get", "post"})
        for method in methods:
            assert set(operations[method]["responses"]) == {"200", "400", "401", "503"}


def test_the_documents_fixed_messages_are_the_codes():
    told = document()["components"]["responses"]["BadRequest"]["description"]
    for message in (EXTENSION_UNSUPPORTED, NOT_FOUND, "size shall be a multiple of 8"):
        assert f"`{message}`" in told


@pytest.mark.parametrize(
    "text", ["sae-b1", "A", "a" * 64, "a" * 65, "", "-a", ".a", "a/b", "a b", "\u00e9", "a\n", "\u0661"]
)
def test_the_document_and_the_code_agree_on_what_an_sae_id_is(text):
    if re.search(schema("SAE_ID")["pattern"].replace("$", r"\Z"), text):  # of ECMAScript: $ is the end alone
        assert SaeId(text) == text
    else:
        with pytest.raises(Rejected):
            SaeId(text)


def test_the_specification_names_tests_that_there_are():
    tests = Path(__file__).parents[1]
    table = (tests.parent / "docs" / "specs" / "etsi-014.md").read_text(encoding="utf-8")
    file, named = "", 0
    for each in re.findall(r"`([\w/]*\.py)?(?:::)?(test_\w+)?`", table):
        file = each[0] or file
        if each[0] or each[1]:
            assert not each[1] or f"def {each[1]}(" in (tests / file).read_text(encoding="utf-8"), each
            named += 1
    assert named > 30
