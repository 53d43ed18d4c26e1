"""Reading key requests: what is remembered of short bodies changes no answer."""

import json

import pytest

from shosoin.base import Rejected
from shosoin.services.wire014 import KeyRequest, parse_key_request


@pytest.mark.parametrize("padding", [0, 1000])  # a long one is read anew each time
def test_a_body_means_the_same_every_time(padding):
    for number in (1, 2, 1, 3, 2):
        body = json.dumps({"number": number, "size": 256, "vendor": "x" * padding}).encode()
        assert parse_key_request(body, {}) == KeyRequest(number, 256)


def test_a_wrong_body_is_refused_every_time():
    for _ in range(3):
        with pytest.raises(Rejected, match="number shall be an integer"):
            parse_key_request(b'{"number":"1"}', {})


def test_who_sends_no_body_asks_in_the_query():
    assert parse_key_request(b"", {"number": "7", "size": "64"}) == KeyRequest(7, 64)
    assert parse_key_request(b'{"number":2}', {"number": "7"}) == KeyRequest(2, None)
