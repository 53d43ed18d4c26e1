"""The doctor looks rather than believes."""

from __future__ import annotations

import os
import ssl
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from shosoin.adapters import openssl_binding, pq_tls
from shosoin.adapters.certificates import CertificateAlgorithm
from shosoin.base.messages import CATALOGUES, text
from shosoin.testbed import doctor, doctor_tls


def test_every_finding_has_a_name_and_a_meaning(tmp_path):
    findings = doctor.examine(tmp_path)
    assert len({finding.topic for finding in findings}) == len(findings) == 12
    for finding in findings:
        assert finding.found
        assert text(f"doctor.{finding.topic}")
        assert text(f"doctor.{finding.means}")
    assert list(tmp_path.iterdir()) == []


def test_every_meaning_is_one_for_the_label(tmp_path):
    topics = {finding.topic for finding in doctor.examine(tmp_path)}
    topics |= {"kme", "kme_files", "kme_in_use", "kme_port", "kme_workers"}  # with a KME's configuration
    for language, word in (("en", "label"), ("ja", "ラベル")):
        said = {name: line for name, line in CATALOGUES[language].items() if name.startswith("doctor.")}
        meanings = {name for name in said if name.split(".")[1] not in topics and "found_" not in name}
        assert len(meanings) >= 18
        assert [name for name in sorted(meanings) if word not in said[name]] == []


@pytest.mark.parametrize(
    ("group", "found", "means", "good"),
    [
        (None, "unknown to this Python (ssl has no call for it)", "group_unknown", False),
        ("X25519MLKEM768", "X25519MLKEM768", "group_hybrid", True),
        ("x25519", "x25519", "group_classical", False),
    ],
)
def test_the_key_exchange_group_is_told_where_it_can_be_seen(monkeypatch, group, found, means, good):
    end = SimpleNamespace() if group is None else SimpleNamespace(group=lambda: group)
    monkeypatch.setattr(doctor, "_shake_hands", lambda: end)
    finding = doctor.key_exchange()
    assert (finding.found, finding.means, finding.good) == (found, means, good)
    assert finding.details == {"group": group}


def test_the_handshake_is_a_real_one():
    finding = doctor.handshake()
    assert finding.good
    assert finding.details["version"] == "TLSv1.3"
    assert finding.details["cipher"].startswith("TLS_")


@pytest.mark.parametrize(("fsync_s", "means"), [(0.5, "disk_ok"), (0.99, "disk_ok"), (1e-9, "disk_fast")])
def test_a_disk_that_does_not_flush_is_noticed(tmp_path, monkeypatch, fsync_s, means):
    """Nothing flushes in a billionth of a second; the clock is ours, because the machine may be busy."""
    now_s = [0.0]
    monkeypatch.setattr(doctor, "_file_system", lambda directory: "ext4")
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])

    def flush(descriptor: int) -> None:
        now_s[0] += fsync_s

    monkeypatch.setattr(os, "fsync", flush)
    finding = doctor.disk(tmp_path)
    assert (finding.means, finding.good) == (means, means == "disk_ok")
    assert finding.details["fsync_us"] == pytest.approx(fsync_s * 1e6, abs=0.1)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no file system in memory at hand")
def test_a_disk_in_memory_is_noticed():
    finding = doctor.disk(Path("/dev/shm"))
    assert (finding.means, finding.good) == ("disk_memory", False)


def test_randomness_of_the_system_is_not_physical():
    finding = doctor.randomness()
    assert (finding.good, finding.details["physical"]) == (False, False)


def test_links_are_said_to_be_simulated():
    assert not doctor.links().good
    assert "simulated" in doctor.links().found


def refusing(monkeypatch):
    """Make this process one where the extra is not installed."""
    openssl_binding.binding.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "OpenSSL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "OpenSSL", None)


def test_hybrid_tls_and_ml_dsa_certificates_are_tried():
    for finding in (doctor_tls.hybrid(), doctor_tls.ml_dsa()):
        assert finding.good
        assert finding.means == f"{finding.topic}_ok"
        assert finding.details["group"] == "X25519MLKEM768"
        assert finding.details["library"] in finding.found


def test_python_s_own_library_is_asked_and_not_believed():
    finding = doctor_tls.openssl()
    assert finding.details["hybrid_key_exchange"] is (ssl.OPENSSL_VERSION_INFO >= (3, 5))
    assert finding.means == ("openssl_pq" if finding.good else "openssl_classical")


def test_without_the_extra_the_doctor_says_so_and_what_would_help(monkeypatch):
    refusing(monkeypatch)
    try:
        for finding in (doctor_tls.hybrid(), doctor_tls.ml_dsa()):
            assert (finding.good, finding.means) == (False, f"{finding.topic}_missing")
            assert "shosoin[pqtls]" in finding.found
        assert doctor_tls.openssl().means == "openssl_untried"
        assert doctor_tls.openssl().details["hybrid_key_exchange"] is None
    finally:
        monkeypatch.undo()
        openssl_binding.binding.cache_clear()


def test_a_cryptography_without_ml_dsa_is_told_and_not_fatal(monkeypatch):
    def unsupported(self):
        raise UnsupportedAlgorithm("ML-DSA is not supported by this build")

    monkeypatch.setattr(CertificateAlgorithm, "new_key", unsupported)
    finding = doctor_tls.ml_dsa()
    assert (finding.good, finding.means) == (False, "ml_dsa_missing")
    assert "not supported" in finding.found


def accept_any_name(monkeypatch):
    """Take the check of names out of the binding."""
    monkeypatch.setattr(openssl_binding.OpenSslBinding, "expect_host", lambda self, connection, name: None)


def test_a_library_that_accepts_the_wrong_name_is_found_out(monkeypatch):
    """The doctor tries it itself, also where the library passed the adapter's own trial before."""
    assert doctor_tls.ml_dsa().good  # the trial, once a process, is behind us
    accept_any_name(monkeypatch)
    finding = doctor_tls.ml_dsa()
    assert (finding.good, finding.means) == (False, "ml_dsa_missing")
    assert "another name is accepted" in finding.found


def test_a_library_that_fails_the_adapter_s_trial_is_not_called_good(monkeypatch):
    pq_tls._self_test.cache_clear()
    accept_any_name(monkeypatch)
    finding = doctor_tls.ml_dsa()
    assert (finding.good, finding.means) == (False, "ml_dsa_missing")
    assert "accepts a wrong host name" in finding.found
