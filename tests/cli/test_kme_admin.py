"""``shosoin kme reload``, ``admin`` and ``audit-log`` with a KME that is a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest
from tests.support.admin import Administration
from tests.support.kme import KmePair, ServerProcess, until

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def bed(tmp_path_factory):
    """A running KME, its pair, and its administration."""
    pair = KmePair(tmp_path_factory.mktemp("bed"), extra={"end": "[identity]\npoll_interval_s = 3600"})
    admin = Administration(pair)
    with asyncio.Runner() as runner:
        server = ServerProcess(pair.config("kme-a"))
        runner.run(server.start())
        try:
            yield pair, admin, runner, server
        finally:
            runner.run(server.kill())


@pytest.fixture
def as_(shosoin, bed):
    """Run an admin command as somebody."""
    _, admin, _, _ = bed

    def call(who, *arguments):
        files = admin.people[who]
        place = ["--url", f"https://127.0.0.1:{admin.port}", "--kme", "kme-a", "--ca", admin.plane.certificate]
        mine = ["--certificate", files.certificate, "--key", files.key]
        return shosoin("kme", "admin", *mine, *place, *arguments)

    return call


def test_reload_says_what_the_kme_loaded(shosoin, bed):
    pair, _, _, _ = bed
    before = shosoin("kme", "reload", "--config", pair.config("kme-a"), "--json").json
    pair.sae_plane.issue("kme", "kme-a")
    answer = shosoin("kme", "reload", "--config", pair.config("kme-a"), "--json")
    assert answer.code == 0
    assert answer.json["reloads"] == before["reloads"] + 1
    assert answer.json["endpoints"]["sae_api"]["serial"] != before["endpoints"]["sae_api"]["serial"]
    lines = shosoin("kme", "reload", "--config", pair.config("kme-a")).out.splitlines()
    assert [line.split()[0] for line in lines] == ["ENDPOINT", "sae_api", "peer_api", "admin"]


def test_reload_fails_if_the_kme_keeps_the_old_files(shosoin, bed):
    pair, _, _, _ = bed
    key = pair.sae_plane.directory / "kme-kme-a.key"
    good = key.read_bytes()
    key.write_bytes(pair.sae_plane.issue("kme", "kme-z").key.read_bytes())
    try:
        answer = shosoin("kme", "reload", "--config", pair.config("kme-a"))
        assert answer.code == 2
        assert "sae_api goes on with the old files" in answer.out
    finally:
        key.write_bytes(good)
    assert shosoin("kme", "reload", "--config", pair.config("kme-a")).code == 0


def test_reload_signals_nobody_but_the_kme(shosoin, tmp_path):
    pair = KmePair(tmp_path)
    config, state = pair.config("kme-a"), pair.directory("kme-a")
    assert shosoin("kme", "reload", "--config", config).code == 4
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        try:
            state.mkdir()
            (state / "ready").write_text(json.dumps({"pid": stranger.pid}))
            wrong: list = [{"pid": stranger.pid, "mark": "some-boot/7", "reloads": 0}, {"pid": 0}, [], {"pid": True}]
            for content in wrong:
                (state / "identity.json").write_text(json.dumps(content))
                answer = shosoin("kme", "reload", "--config", config, "--timeout", "1")
                assert (answer.code, "no KME runs" in answer.err) == (4, True)
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_hangup_ends_no_kme(bed):
    pair, _, runner, server = bed
    told = pair.directory("kme-a") / "identity.json"

    def state():
        return json.loads(told.read_text())

    before = state()
    os.kill(server.process.pid, signal.SIGHUP)
    runner.run(until(lambda: state()["reloads"] > before["reloads"]))
    assert (state()["pid"], server.process.returncode) == (server.process.pid, None)


def test_every_call_as_a_command(as_):
    assert as_("vic", "status", "--json").json["kme"] == "kme-a"
    assert "kme: kme-a" in as_("vic", "status").out
    assert as_("vic", "links", "--json").json["links"].keys() == {"kme-b"}
    assert as_("vic", "links").out.startswith("kme-b  ")
    assert as_("vic", "pairs", "--json").json["pairs"]["kme-b"]["paused"] is False
    assert as_("vic", "saes", "--json").json["saes"]["sae-a1"]["here"] is True
    assert as_("vic", "interfaces", "--json").json["workers"] is None
    assert as_("vic", "interfaces").out.startswith("etsi014  connections=")
    assert as_("vic", "certificates", "--json").json["endpoints"]["admin"]["identity"] == "kme:kme-a"
    assert as_("olga", "reload").out.startswith("ENDPOINT")
    assert as_("olga", "pause", "kme-b").out == "pair with kme-b: nothing is handed out until it is resumed\n"
    assert as_("olga", "resume", "kme-b", "--json").json == {"peer": "kme-b", "paused": False}
    assert as_("sec", "burn", "kme-b", "--dry-run", "--json").json["dry_run"] is True
    assert as_("sec", "burn", "kme-b").code == 2, "nobody can be asked"
    assert "destroyed at this end" in as_("sec", "burn", "kme-b", "--yes", "--reason", "test").out
    assert (
        as_("sec", "revoke", "sae-a2", "--reason", "test").out
        == "sae-a2 is refused from now on; connections ended: 0\n"
    )


def test_refusals_have_the_exit_code_of_their_kind(as_, bed, shosoin):
    _, admin, _, _ = bed
    answer = as_("vic", "pause", "kme-b")
    assert (answer.code, answer.errors) == (3, ["shosoin: error: admin:vic is no operator"])
    assert answer.hints
    answer = as_("olga", "pause", "kme-c")
    assert (answer.code, answer.hints) == (2, ["shosoin: hint: did you mean kme-b?"])
    assert as_("olga", "pause", "../..").code == 2
    files = admin.people["vic"]
    mine = ["--certificate", files.certificate, "--key", files.key]
    ca = admin.plane.certificate
    assert shosoin("kme", "admin", *mine, "status").code == 2
    assert shosoin("kme", "admin", *mine, "--url", "http://127.0.0.1", "--kme", "a", "--ca", ca, "status").code == 2
    place = ["--url", f"https://127.0.0.1:{admin.port}", "--ca", ca]
    assert shosoin("kme", "admin", *mine, *place, "--kme", "kme-b", "status").code == 5  # another than was meant
    nowhere = ["--url", "https://127.0.0.1:1", "--kme", "kme-a", "--ca", ca]
    assert shosoin("kme", "admin", *mine, *nowhere, "status").code == 4
    assert shosoin("kme", "admin", *mine, "--config", bed[0].config("kme-b"), "status").code == 2  # it has no [admin]
    assert shosoin("kme", "admin", *mine, "--config", bed[0].config("kme-a"), "status", "--json").json["kme"] == "kme-a"


def test_certificates_of_other_planes_are_refused(bed, shosoin):
    pair, admin, _, _ = bed
    files = pair.saes["sae-a1"]
    place = ["--url", f"https://127.0.0.1:{admin.port}", "--kme", "kme-a", "--ca", admin.plane.certificate]
    mine = ["--certificate", files.certificate, "--key", files.key]
    assert shosoin("kme", "admin", *mine, *place, "status").code == 3


def test_the_audit_log_is_shown_and_checked(bed, shosoin, as_):
    pair, admin, _, _ = bed
    assert as_("vic", "status").code == 0
    config = pair.config("kme-a")
    entries = shosoin("kme", "audit-log", "--config", config, "--json").json["entries"]
    assert (entries[-1]["who"], entries[-1]["call"]) == ("admin:vic", "status")
    assert "admin:vic  status" in shosoin("kme", "audit-log", "--config", config).out.splitlines()[-1]
    report = shosoin("kme", "audit-log", "--config", config, "--verify", "--json").json
    assert (report["whole"], report["first"], report["last"]) == (True, 1, len(entries))
    assert shosoin("kme", "audit-log", "--config", config, "--head", report["head"]).code == 0
    assert shosoin("kme", "audit-log", "--config", config, "--head", "0" * 63 + "1").code == 6
    (path,) = admin.folder.glob("*.jsonl")
    good = path.read_bytes()
    try:
        path.write_bytes(good.replace(b"admin:vic", b"admin:eve", 1))
        answer = shosoin("kme", "audit-log", "--config", config, "--verify")
        assert (answer.code, len(answer.errors)) == (6, 1)
    finally:
        path.write_bytes(good)
    assert shosoin("kme", "audit-log", "--config", config, "--verify").code == 0
