"""Which two listeners would want one address, however it is spelled."""

import pytest

from shosoin.services.listen_places import meet


@pytest.mark.parametrize(
    ("one", "other", "do"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "localhost", True),
        ("LOCALHOST.", "::1", True),
        ("127.1", "127.0.0.1", True),
        ("0x7f000001", "127.0.0.1", True),
        ("0", "127.0.0.1", True),
        ("127.1", "127.2", False),
        ("0.0.0.0", "::1", False),
        ("0.0.0.0", "kme.example", True),
        ("::", "[::1]", True),
        ("", "127.0.0.1", True),
        ("cafe", "cafe", True),
        ("cafe", "127.0.0.1", False),
        ("kme.example", "other.example", False),
    ],
)
def test_two_places(one, other, do):
    assert meet((one, 9000), (other, 9000)) is do
    assert meet((other, 9000), (one, 9000)) is do
    assert not meet((one, 9000), (other, 9001))
    assert not meet((one, 0), (other, 0)), "any port that is free"
