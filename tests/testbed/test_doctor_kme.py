"""``shosoin doctor --config``: what it says of a KME that stands, runs, refuses files, or has workers that hang."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from shosoin.testbed.doctor_kme import examine_kme
from tests.services.test_kme_identity import QUICK, own, put
from tests.services.test_kme_workers import workers_of
from tests.support.key_sources import RIGS
from tests.support.kme import KmePair, ServerProcess, until

pytestmark = pytest.mark.processes


async def examined(pair):
    """The findings by topic."""
    return {each.topic: each for each in await asyncio.to_thread(examine_kme, pair.config("kme-a"))}


async def all_well(pair):
    """The finding about workers, once all are well."""
    async with asyncio.timeout(60):
        while not (found := (await examined(pair))["kme_workers"]).good:
            await asyncio.sleep(0.1)
    return found


async def test_a_kme_that_stands_has_its_files_looked_at(tmp_path):
    (tmp_path / "rig").mkdir()
    pair = KmePair(tmp_path, source=RIGS["push"](tmp_path / "rig").link)
    found = await examined(pair)
    assert list(found) == ["kme_files", "kme"]
    assert (found["kme_files"].means, found["kme"].means) == ("kme_files_soon", "kme_stands")  # they last a day
    assert set(found["kme_files"].details["valid_until"]) == {"sae_api", "peer_api", "link.push:kme-b"}
    secret = pair.root / "kme-a" / "pair.secret"
    secret.chmod(0o644)
    found = await examined(pair)
    assert found["kme_files"].means == "kme_files_wrong"
    assert f"[[link]] of kme-b: pair_secret_file {secret}" in found["kme_files"].found
    assert not pair.directory("kme-a").exists()


async def test_of_a_single_process_it_says_what_runs_and_what_the_port_shows(tmp_path):
    pair = KmePair(tmp_path, extra={"end": QUICK})
    server = ServerProcess(pair.config("kme-a"))
    await server.start()
    try:
        found = await examined(pair)
        assert server.process is not None
        assert found["kme"].details["pid"] == server.process.pid
        means = {topic: each.means for topic, each in found.items() if topic != "kme_files"}
        good = {"kme_in_use": "kme_in_use_ok", "kme_port": "kme_port_ok", "kme_workers": "kme_alone"}
        assert means == {"kme": "kme_runs", **good}
        put(pair.sae_plane.issue("kme", "kme-a", stem="late", days=(-3, -2)), own(pair, "kme-a", "sae"))
        written = pair.directory("kme-a") / "identity.json"
        # Between the two files of a pair it may see one of each.
        await until(lambda: "expired" in str(json.loads(written.read_text())["endpoints"]["sae_api"]["refused_files"]))
        found = await examined(pair)
        assert "sae_api: the certificate expired" in found["kme_in_use"].found
        assert found["kme_port"].good
    finally:
        await server.stop()


async def test_workers_that_hang_or_are_gone_are_counted(tmp_path):
    pair = KmePair(tmp_path, workers=2)
    server = ServerProcess(pair.config("kme-a"))
    written = pair.directory("kme-a") / "workers.json"

    def told():
        return json.loads(written.read_text())

    await server.start()
    try:
        pids = {each["pid"] for each in (await all_well(pair)).details["workers"]}
        assert pids == {each.pid for each in workers_of(server)}
        assert (await examined(pair))["kme_port"].good
        stopped = min(pids)
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: {"pid": stopped, "answers": False} in [_short(each) for each in told()["workers"]])
        os.kill(stopped, signal.SIGCONT)
        await all_well(pair)
        os.kill(stopped, signal.SIGKILL)
        await until(lambda: told()["restarts"] == 1)
        assert stopped not in {each["pid"] for each in (await all_well(pair)).details["workers"]}
    finally:
        await server.stop()
    assert not written.exists()


def _short(worker):
    return {name: worker[name] for name in ("pid", "answers")}
