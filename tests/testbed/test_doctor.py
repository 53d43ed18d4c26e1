"""The doctor looks rather than believes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from shosoin.base.messages import CATALOGUES, text
from shosoin.testbed import doctor


def test_every_finding_has_a_name_and_a_meaning(tmp_path):
    findings = doctor.examine(tmp_path)
    assert len({finding.topic for finding in findings}) == len(findings) == 10
    for finding in findings:
        assert finding.found
        assert text(f"doctor.{finding.topic}")
        assert text(f"doctor.{finding.means}")
    assert list(tmp_path.iterdir()) == []


def test_every_meaning_is_one_for_the_label(tmp_path):
    topics = {finding.topic for finding in doctor.examine(tmp_path)}
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
