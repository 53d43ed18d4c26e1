"""Requests that schemathesis makes from our OpenAPI document, sent to a real KME over mutual TLS, and judged.

Judged is what any document promises (status codes, headers and bodies are the described ones, good requests are served
or refused with 401 or 503, bad ones refused) and what ours promises beyond: an answer without a key has cost none. For
that the pair's link is so bad that nothing is added to the stock while the test counts.
"""

from __future__ import annotations

import base64
import copy
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import requests
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as promised

from tests.support.kme import KmePair

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "etsi-014-openapi.json"
NOT_FOUND = "one or more keys specified are not found on KME"
REQUEST_MAX_BITS = (64 << 20) * 8
RIGHT_BUT_NOT_NOW = {"keys.stream_dry", "keys.quota_exceeded"}
LEFT_OUT = [
    not_a_server_error,  # 503 is an answer of the standard; which ones are right is checked beside
    promised.unsupported_method,  # wants 405, which the standard does not have; ours is 400
    promised.allow_header_conformance,  # belongs to 405
    promised.missing_required_header,  # none is required
]
SLOW_LINK: dict[str, Any] = {"stock_bits": 1 << 22, "attenuation_db": 90.0}
"""Options of a pair whose stock does not grow: the decoy-state model gives no key at 90 dB."""


def document() -> dict[str, Any]:
    return json.loads(DOCUMENT.read_text(encoding="utf-8"))


def schema_for(saes: list[str]) -> Any:
    """Return the document as a schema whose requests are for SAEs that there are."""
    narrowed = copy.deepcopy(document())
    for name in ("slave_SAE_ID", "master_SAE_ID"):
        narrowed["components"]["parameters"][name]["schema"] = {"type": "string", "enum": saes}
    return schemathesis.openapi.from_dict(narrowed)


class Judge:
    """Sends cases as one SAE and looks after the stock."""

    def __init__(self, pair: KmePair, sae: str = "sae-a1", kme: str = "kme-a") -> None:
        self.base = f"https://127.0.0.1:{pair.sae_port[kme]}"
        self.session = requests.Session()
        self.session.trust_env = False  # else a bundle of authorities that the environment names wins
        files = pair.saes[sae]
        self.session.cert = (str(files.certificate), str(files.key))
        self.session.verify = str(pair.sae_plane.certificate)
        self.counted: Counter[tuple[str, int]] = Counter()
        """Answers by operation and status."""

    def wait_stock(self, keys: int) -> None:
        deadline = time.monotonic() + 60
        while self.stock() < keys:
            assert time.monotonic() < deadline, "the stock never filled"
            time.sleep(0.02)

    def stock(self) -> int:
        status = self.session.get(f"{self.base}/api/v1/keys/sae-b1/status").json()
        return int(status["stored_key_count"])

    def check(self, case: Any) -> None:
        """Send a case; judge the answer."""
        before = self.stock()
        response = case.call(self.base, self.session, cert=self.session.cert, verify=self.session.verify)
        told, status = response.json(), response.status_code
        self.counted[case.operation.label, status] += 1
        case.validate_response(response, excluded_checks=_left_out(case))
        assert status in {200, 400, 401, 503}
        if status == 503:
            assert told["details"][0]["shosoin_code"] in RIGHT_BUT_NOT_NOW, told
        if _is_good(case) and "dec_keys" in case.operation.path:
            assert status == 503 or told["message"] == NOT_FOUND  # nobody drew a key of that ID
        served = told.get("keys", []) if status == 200 else []
        if served and _of(case, "additional_slave_SAE_IDs"):
            return  # copies for others are padded, which costs more than the keys
        spent = before - self.stock()
        assert spent <= sum(_granules(key) for key in served), f"{spent} keys gone, answer {status}"


def _left_out(case: Any) -> list[Any]:
    """Return which checks do not fit a case: a good request may be refused for what no schema can say."""
    number, size, optional = _of(case, "number", 1), _of(case, "size", 256), _of(case, "extension_optional")
    refusable = (
        "dec_keys" in case.operation.path  # of key_IDs that are made up
        or any(isinstance(each, float) for each in (number, size))  # 2.0 is whole for a schema, not for us
        or (isinstance(number, int) and isinstance(size, int) and number * size > REQUEST_MAX_BITS)
        or any(_of(case, name) for name in ("extension_mandatory", "additional_slave_SAE_IDs"))  # unknown names
        or (isinstance(optional, list) and len(optional) > 1)  # which may name one thing in two ways
    )
    return [*LEFT_OUT, promised.positive_data_acceptance] if refusable else LEFT_OUT


def _of(case: Any, name: str, otherwise: Any = None) -> Any:
    """Return what a request says about something, in its body or else in its query."""
    body = case.body if isinstance(case.body, dict) else {}
    return {**(case.query or {}), **body}.get(name, otherwise)


def _granules(key: dict[str, Any]) -> int:
    return -(-len(base64.b64decode(key["key"])) // 32)


def _is_good(case: Any) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive
