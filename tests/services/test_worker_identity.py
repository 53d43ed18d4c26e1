"""What a worker shows and whom it trusts: what the owner of the streams approved, whatever lies on the disk."""

from __future__ import annotations

import asyncio
import json

import psutil
import pytest

from shosoin.services.kme_reload import reload_kme
from tests.services.test_kme_identity import (
    QUICK,
    is_refused,
    is_refused_at_all,
    own,
    put,
    serial_of,
    served_serial,
)
from tests.services.test_kme_workers import workers_of
from tests.support.kme import KmePair, ServerProcess, until

pytestmark = pytest.mark.processes


async def with_other_workers(server):
    """Kill all workers of a KME and wait for those that follow."""
    before = {each.pid for each in workers_of(server)}
    for pid in before:
        psutil.Process(pid).kill()
    await until(lambda: len({each.pid for each in workers_of(server)} - before) == 2)


async def serials(pair, count):
    """The serial numbers that connections get, once connections are accepted."""
    seen = set()
    while count:
        try:
            seen.add(await served_serial(pair, "kme-a"))
            count -= 1
        except (ConnectionError, OSError):
            await asyncio.sleep(0.05)
    return seen


def told(pair):
    """Why the owner does not use what is on the disk for SAEs."""
    return (
        json.loads((pair.directory("kme-a") / "identity.json").read_text())["endpoints"]["sae_api"]["refused_files"]
        or ""
    )


async def test_a_worker_that_is_started_later_serves_what_the_owner_approved(tmp_path):
    pair = KmePair(tmp_path, extra={"end": QUICK}, workers=2)
    place, ca = own(pair, "kme-a", "sae"), pair.sae_plane.certificate
    first = serial_of(place)
    stranger = pair.kme_plane.issue("sae", "sae-a1", stem="stranger")
    server = ServerProcess(pair.config("kme-a"))
    await server.start()
    try:
        good = ca.read_bytes()
        ca.write_bytes(good + pair.kme_plane.certificate.read_bytes())
        put(pair.sae_plane.issue("kme", "kme-a", stem="late", days=(-3, -2)), place)
        await until(lambda: "expired" in told(pair))
        await with_other_workers(server)
        assert await serials(pair, 12) == {first}
        put(pair.sae_plane.issue("kme", "kme-a", stem="fine"), place)  # and still an authority of another plane
        await until(lambda: "would trust the same authority" in told(pair))
        await with_other_workers(server)
        assert await serials(pair, 12) == {first}
        ca.write_bytes(good)
        for _ in range(6):
            assert await is_refused(pair, "kme-a", stranger, ca)
        assert not await is_refused_at_all(pair)
        await asyncio.to_thread(reload_kme, pair.config("kme-a"), 30.0)
        assert await serials(pair, 1) != {first}
        place.certificate.unlink()  # nor does a worker need the files
        place.key.unlink()
        new = await serials(pair, 6)
        await with_other_workers(server)
        assert await serials(pair, 12) == new
    finally:
        await server.stop()
