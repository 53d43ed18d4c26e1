"""The example client, which shares no code with the server: two of them, as programs, get the same key."""

import asyncio
import sys
import uuid
from pathlib import Path

import pytest

from tests.support.kme import SAES, KmePair, until

pytestmark = pytest.mark.processes
EXAMPLE = Path(__file__).parents[2] / "examples" / "etsi004_client.py"


async def client(pair, own, peer, *more):
    files, kme = pair.saes[own], SAES[own]
    words = {
        "kme": f"127.0.0.1:{pair.etsi004_port[kme]}",
        "kme-name": kme,
        "certificate": files.certificate,
        "key": files.key,
        "ca": pair.sae_plane.certificate,
        "own": own,
        "peer": peer,
        "out": pair.root / own,
    }
    arguments = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    return await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), *arguments, *more, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("ksid", [None, str(uuid.UUID(int=9))])
async def test_two_programs_get_the_same_key(tmp_path, ksid):
    pair = KmePair(tmp_path, stock_bits=1 << 19, etsi004={})
    async with pair.running() as kmes, asyncio.timeout(120):
        await until(lambda: kmes["kme-a"].kme.status("sae-a1", "sae-b1").stored_key_count > 600)
        await until(lambda: kmes["kme-b"].kme.status("sae-b1", "sae-a1").stored_key_count > 8)
        first = await client(pair, "sae-a1", "sae-b1", *(["--stream", ksid] if ksid else []))
        name = ksid or (await first.stdout.readline()).decode().strip()
        second = await client(pair, "sae-b1", "sae-a1", "--stream", name)
        for process in (first, second):
            _, complaint = await process.communicate()
            assert (process.returncode, complaint) == (0, b"")
    content = (tmp_path / "sae-a1").read_bytes()
    assert content == (tmp_path / "sae-b1").read_bytes()
    assert len(content) == 16 * 1024
    assert (tmp_path / "sae-a1").stat().st_mode & 0o777 == 0o600


async def test_a_refusal_is_told(tmp_path):
    pair = KmePair(tmp_path, etsi004={})
    async with pair.running("kme-a"):
        process = await client(pair, "sae-a1", "nobody")
        _, complaint = await process.communicate()
    assert process.returncode == 1
    assert complaint.decode().strip() == "error: OPEN_CONNECT failed with status 4"
    assert not (tmp_path / "sae-a1").exists()
