"""``shosoin doctor``, for people and for programs."""

from __future__ import annotations

import re

import pytest
from tests.support.kme import KmePair

from shosoin.kernels import active_path


def test_people_read_what_each_finding_means(shosoin, tmp_path):
    answer = shosoin("doctor", "--dir", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert len(lines) == 24
    assert all(re.match(r"(ok|!!)  \S", line) for line in lines[::2])
    assert all(line.startswith("    ") for line in lines[1::2])
    assert "their labels say simulated" in answer.out
    assert all("label" in line for line in lines[1::2])


def test_the_doctor_speaks_japanese(shosoin, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOSOIN_LANG", "ja")
    lines = shosoin("doctor", "--dir", tmp_path).out.splitlines()
    assert all("ラベル" in line for line in lines[1::2])
    assert "鍵リンク: どのテストベッドでも模擬" in lines[-4]


def test_programs_read_the_same(shosoin, tmp_path):
    answer = shosoin("doctor", "--dir", tmp_path, "--json")
    findings = answer.json
    assert findings["kernels"]["path"] == active_path()
    assert findings["randomness"] == {
        "source": "operating system generator",
        "physical": False,
        "good": False,
        "means": findings["randomness"]["means"],
    }
    assert findings["tls"]["version"] == "TLSv1.3"
    assert findings["disk"]["directory"] == str(tmp_path)
    assert findings["links"]["testbed_links"] == "simulated"
    assert all(finding["means"] for finding in findings.values())


@pytest.mark.parametrize("language", ["en", "ja"])
def test_of_a_kme_it_says_what_a_start_would_find(shosoin, tmp_path, monkeypatch, language):
    monkeypatch.setenv("SHOSOIN_LANG", language)
    pair = KmePair(tmp_path)
    answer = shosoin("doctor", "--config", pair.config("kme-a"))
    lines = answer.out.splitlines()
    assert (answer.code, len(lines)) == (0, 4)
    assert all(("label" if language == "en" else "ラベル") in line for line in lines[1::2])
    said = shosoin("doctor", "--config", pair.config("kme-a"), "--json").json
    assert said["kme"] == {"kme": "kme-a", "pid": None, "good": False, "means": said["kme"]["means"]}
    pair.config("kme-a").write_text("[kme]")
    assert shosoin("doctor", "--config", pair.config("kme-a")).code == 2
