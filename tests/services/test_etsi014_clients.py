"""Clients that we did not write, against our KME."""

import asyncio
import base64
import json
import sys
from pathlib import Path

import pytest
from etsi_qkd_014_client import QKD014Client

from tests.support.kme import KmePair, until_stock

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18)


def foreign(pair, sae, kme):
    files = pair.saes[sae]
    authority = str(pair.sae_plane.certificate)
    return QKD014Client(f"127.0.0.1:{pair.sae_port[kme]}", str(files.certificate), str(files.key), authority)


async def test_etsi_qkd_014_client(pair):
    """PyPI ``etsi-qkd-014-client`` (LIP6): status, both ways of getting keys, and an error it can parse."""
    async with pair.running(), pair.client("sae-a1") as ours:
        await until_stock(ours, "sae-b1", 64)
        a, b = foreign(pair, "sae-a1", "kme-a"), foreign(pair, "sae-b1", "kme-b")
        code, status = await asyncio.to_thread(a.get_status, "sae-b1")
        assert (code, status.target_kme_id) == (200, "kme-b")
        code, simple = await asyncio.to_thread(a.get_key, "sae-b1")
        assert (code, len(base64.b64decode(simple.keys[0].key))) == (200, 32)
        code, drawn = await asyncio.to_thread(a.get_key, "sae-b1", 4, 512)
        assert code == 200
        ids = [key.key_id for key in drawn.keys]
        code, fetched = await asyncio.to_thread(b.get_key_with_key_IDs, "sae-a1", ids)
        assert code == 200
        assert [(key.key_id, key.key) for key in fetched.keys] == [(key.key_id, key.key) for key in drawn.keys]
        code, error = await asyncio.to_thread(b.get_key_with_key_IDs, "sae-a1", ids)
        assert (code, error.message) == (400, "one or more keys specified are not found on KME")
        stranger = foreign(pair, "sae-b1", "kme-a")
        code, error = await asyncio.to_thread(stranger.get_status, "sae-a1")
        assert code == 401


async def test_qkdsec_doctor(pair):
    """PyPI ``qkdsec``: its conformance probes, one SAE being both ends.

    With two SAEs its round-trip probe asks ``dec_keys`` as the master, which the standard forbids; with one it passes.
    """
    files = pair.saes["sae-a1"]
    async with pair.running("kme-a"):
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "qkdsec"),
            "doctor",
            f"https://127.0.0.1:{pair.sae_port['kme-a']}",
            *("--slave-sae-id", "sae-a1", "--cert", str(files.certificate), "--key", str(files.key)),
            *("--ca-cert", str(pair.sae_plane.certificate), "--format", "json"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 120)
    report = json.loads(output)
    outcomes = [probe.get("status", probe.get("outcome")) for probe in report.get("probes", report.get("results", []))]
    assert process.returncode == 0, report
    assert outcomes
    assert not [outcome for outcome in outcomes if str(outcome).lower() in {"fail", "failed", "error"}], report
