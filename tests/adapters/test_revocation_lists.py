"""Which revocation lists are believed."""

import datetime
from typing import Any

import pytest
from cryptography import x509

from shosoin.adapters.revocation_lists import merged, read_lists
from shosoin.adapters.tls_files import issuer_id
from tests.support.pki import TestAuthority

POINT: dict[str, Any] = {
    "relative_name": None,
    "full_name": None,
    "only_contains_user_certs": False,
    "only_contains_ca_certs": False,
    "only_some_reasons": None,
    "indirect_crl": False,
    "only_contains_attribute_certs": False,
}


def now():
    """The time of the test: tests are collected many minutes before the last one runs."""
    return datetime.datetime.now(datetime.UTC)


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


class Plane:
    def __init__(self, path, *, ml_dsa=False):
        self.authority = TestAuthority(path, "plane", ml_dsa=ml_dsa)
        self.known = (certificate(self.authority.certificate),)
        self.id = issuer_id(self.known[0])

    def read(self, path):
        return read_lists(path, self.known, now())


@pytest.fixture
def plane(tmp_path):
    return Plane(tmp_path / "pki")


@pytest.mark.parametrize("ml_dsa", [False, True])
@pytest.mark.parametrize("der", [False, True])
def test_a_signed_list_is_read_in_pem_and_der(tmp_path, der, ml_dsa):
    plane = Plane(tmp_path / "pki", ml_dsa=ml_dsa)
    gone = plane.authority.issue("sae", "sae-1")
    reading = plane.read(plane.authority.revoke(gone, der=der))
    assert reading.faults == []
    assert reading.lists[plane.id].serials == {certificate(gone.certificate).serial_number}
    assert reading.lists[plane.id].is_current(now())


def test_several_lists_in_a_file_and_several_files_in_a_folder(tmp_path, plane):
    other = Plane(tmp_path / "other")
    folder = tmp_path / "lists"
    folder.mkdir()
    first = plane.authority.revoke(path=folder / "one.crl").read_bytes()
    second = other.authority.revoke(path=folder / "two.pem").read_bytes()
    (folder / "note.txt").write_text("no list")
    assert set(read_lists(folder, plane.known + other.known, now()).lists) == {plane.id, other.id}
    both = tmp_path / "both.pem"
    both.write_bytes(first + second)
    assert set(read_lists(both, plane.known + other.known, now()).lists) == {plane.id, other.id}


def test_a_list_under_another_signature_is_not_believed(tmp_path, plane):
    forged = TestAuthority(tmp_path / "forger", "plane").revoke()
    reading = plane.read(forged)
    assert (reading.lists, len(reading.faults)) == ({}, 1)
    assert "no authority that is trusted here signed" in reading.faults[0]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x30\x03\x02\x01\x01", b"-----BEGIN X509 CRL-----\nAAAA\n"])
def test_what_is_no_list_is_a_fault(tmp_path, plane, content):
    path = tmp_path / "list.crl"
    path.write_bytes(content)
    reading = plane.read(path)
    assert (reading.lists, len(reading.faults)) == ({}, 1)


def test_half_a_list_and_a_missing_one_are_faults(tmp_path, plane):
    path = plane.authority.revoke()
    path.write_bytes(path.read_bytes()[:-40])
    assert plane.read(path).lists == {}
    path.unlink()
    assert "cannot read" in plane.read(path).faults[0]


@pytest.mark.parametrize(
    ("value", "critical"),
    [
        (x509.DeltaCRLIndicator(3), True),
        (x509.IssuingDistributionPoint(**{**POINT, "indirect_crl": True}), True),
        (x509.IssuingDistributionPoint(**{**POINT, "only_contains_ca_certs": True}), True),
        (
            x509.IssuingDistributionPoint(**{**POINT, "full_name": [x509.UniformResourceIdentifier("http://a/1.crl")]}),
            True,
        ),
        (
            x509.IssuingDistributionPoint(
                **{**POINT, "only_some_reasons": frozenset([x509.ReasonFlags.key_compromise])}
            ),
            True,
        ),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
    ],
)
def test_a_list_that_says_less_than_everything_is_refused(plane, value, critical):
    reading = plane.read(plane.authority.revoke(extensions=((value, critical),)))
    assert (reading.lists, len(reading.faults)) == ({}, 1)


def test_what_may_be_in_a_whole_list_is_accepted(plane):
    users = x509.IssuingDistributionPoint(**{**POINT, "only_contains_user_certs": True})
    number = x509.CRLNumber(7)
    assert plane.read(plane.authority.revoke(extensions=((users, True), (number, False)))).faults == []


def test_an_outdated_list_still_revokes_and_a_future_one_is_refused(plane):
    gone = plane.authority.issue("sae", "sae-1")
    reading = plane.read(plane.authority.revoke(gone, days=(-2, -1)))
    assert not reading.lists[plane.id].is_current(now())
    assert reading.lists[plane.id].serials
    assert "of the future" in plane.read(plane.authority.revoke(gone, days=(0.5, 1))).faults[0]


def test_an_older_list_never_replaces_a_newer_one(plane):
    gone = plane.authority.issue("sae", "sae-1")
    new = plane.read(plane.authority.revoke(gone, days=(-0.01, 1))).lists
    old = plane.read(plane.authority.revoke(days=(-0.5, 1))).lists
    lists, faults = merged(new, old, [plane.id])
    assert lists[plane.id].serials
    assert "older than the one in use" in faults[0]
    assert merged(old, new, [plane.id])[0][plane.id].serials
    assert merged(new, {}, [plane.id])[0] == new  # unreadable: the last good one stays
    assert merged(new, {}, []) == ({}, [])
