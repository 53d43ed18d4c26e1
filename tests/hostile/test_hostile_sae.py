"""An SAE (and somebody without a certificate) attacks a real KME with everything while other SAEs use it.

The attacker is a process with the certificate of ``sae-b2``. ``sae-a1`` and ``sae-b1`` draw and fetch keys through the
attacked KME all the while. Afterwards it is the same process, has told of no defect, took no more memory than it may,
and its stock is what it was but for the keys that the honest ones drew: the link is so bad that nothing is added.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from shosoin.services.kme_config import LimitSection
from shosoin.services.tls_listener import HANDSHAKES_MAX
from tests.support.kme import KmePair, ServerProcess, until_stock

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

ATTACKER = Path(__file__).parent / "sae_attacker.py"
STOCK_KEYS = 1 << 16
LIMITS = {"request_timeout_s": 2, "idle_timeout_s": 4, "max_answers_bytes": 64 << 20, "max_request_bytes": 16 << 20}
MEMORY_MAX_BYTES = 400 << 20
"""Of the KME: some 90 MiB to begin with, the bounds on bodies, answers and waiting local keys, and the allocator's."""


CROWD_MEMORY_MAX_BYTES = 500 << 20
"""Each TLS connection, open, in its handshake, or dead and not yet collected, has a buffer of 256 KiB."""
ATTACKS = [
    *("bodies", "key_ids", "targets", "methods", "compressed", "long_bodies", "replays", "pipelined", "smuggled"),
    *("half_closed", "leaves_early", "strangers", "renegotiates", "loris"),
    "guesses",  # last: afterwards this SAE fetches nothing for a while
]


@dataclass
class Honest:
    """Two SAEs that share keys both ways, over connections of their own each time."""

    pair: KmePair
    served: int = 0
    drawn_at_b: int = 0
    files_of_kme: int = 0
    """The most that the attacked KME had open while they worked."""
    seen: set[bytes] = field(default_factory=set)

    async def work(self) -> None:
        """Draw and fetch once each way; everything must succeed."""
        a: Any
        b: Any
        async with self.pair.client("sae-a1") as a, self.pair.client("sae-b1") as b:
            await self._share(a, "sae-a1", b, "sae-b1", 2)
            await self._share(b, "sae-b1", a, "sae-a1", 2)
            self.drawn_at_b += 2
        self.served += 1

    async def _share(self, master: Any, master_id: str, slave: Any, slave_id: str, number: int) -> None:
        keys = await master.enc_keys(slave_id, number=number, size_bits=256)
        fetched = await slave.dec_keys(master_id, [key.key_id for key in keys])
        bits = [key.material.take() for key in keys]
        assert bits == [key.material.take() for key in fetched]
        assert not self.seen & {bytes(each) for each in bits}
        self.seen |= {bytes(each) for each in bits}


@contextlib.asynccontextmanager
async def two_kmes(root: Path, **limits: Any) -> AsyncIterator[tuple[KmePair, dict[str, ServerProcess]]]:
    """Run two KMEs with a full stock that does not grow."""
    pair = KmePair(root, stock_bits=STOCK_KEYS * 256, attenuation_db=90.0, limits={**LIMITS, **limits})
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    try:
        for server in servers.values():
            await server.start()
        for sae, other in (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1")):
            async with pair.client(sae) as client:
                await until_stock(client, other, STOCK_KEYS)
        yield pair, servers
    finally:
        for server in servers.values():
            await server.stop()


async def attacked(pair: KmePair, server: ServerProcess, honest: Honest, job: dict[str, Any], log: Path) -> Any:
    """Run the attacker until it is done, working and watching beside it; return what it told and the largest memory."""
    files = pair.saes["sae-b2"]
    job = {
        "port": pair.sae_port["kme-b"],
        "kme": "kme-b",
        "certificate": str(files.certificate),
        "key": str(files.key),
        "ca": str(pair.sae_plane.certificate),
        **job,
    }
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    assert server.process is not None
    memory, largest = psutil.Process(server.process.pid), 0
    with log.open("wb") as said:
        attacker = await asyncio.create_subprocess_exec(
            *(sys.executable, str(ATTACKER), json.dumps(job)),
            stdout=asyncio.subprocess.PIPE,
            stderr=said,
            env=environment,
        )
        try:
            communicating = asyncio.create_task(attacker.communicate())
            while not communicating.done():
                await honest.work()
                largest = max(largest, memory.memory_info().rss)
                honest.files_of_kme = max(honest.files_of_kme, memory.num_fds())
            out, _ = await communicating
        finally:
            with contextlib.suppress(ProcessLookupError):
                attacker.kill()
            await attacker.wait()
    assert attacker.returncode == 0, log.read_text()
    log.with_suffix(".told").write_bytes(out)
    log.with_suffix(".memory").write_text(f"{largest >> 20} MiB, {honest.served} rounds")
    return json.loads(out), largest


async def keys_of_another(pair: KmePair, number: int) -> list[str]:
    """Draw keys from ``sae-a1`` for ``sae-b1`` that nobody has fetched yet."""
    async with pair.client("sae-a1") as client:
        return [str(key.key_id) for key in await client.enc_keys("sae-b1", number=number, size_bits=256)]  # type: ignore[arg-type]


async def test_a_kme_under_attack_serves_the_others_and_loses_no_key(tmp_path: Path) -> None:
    async with two_kmes(tmp_path) as (pair, servers):
        honest, others = Honest(pair), await keys_of_another(pair, 4)
        pid = servers["kme-b"].process.pid  # type: ignore[union-attr]
        job = {"key_ids": others, "attacks": ATTACKS}
        told, largest = await attacked(pair, servers["kme-b"], honest, job, tmp_path / "attacker")
        check_told(told)
        assert honest.served >= 5
        assert largest < MEMORY_MAX_BYTES
        await check_unharmed(pair, servers["kme-b"], pid, honest)
        async with pair.client("sae-b1") as b:
            assert len(await b.dec_keys("sae-a1", others)) == len(others)  # type: ignore[arg-type]


async def test_a_crowd_is_refused_and_the_others_are_served(tmp_path: Path) -> None:
    async with two_kmes(tmp_path, idle_timeout_s=60) as (pair, servers):
        honest = Honest(pair)
        process = servers["kme-b"].process
        assert process is not None
        job = {"attacks": ["silent", "idle"]}
        told, largest = await attacked(pair, servers["kme-b"], honest, job, tmp_path / "attacker")
        assert told["silent"].count("closed") > 1000, "handshakes that do not begin are given up"
        assert "answered" not in told["silent"]
        assert told["idle"].count("open") == LimitSection().max_connections // 2
        assert honest.served >= 5
        assert honest.files_of_kme < LimitSection().max_connections + HANDSHAKES_MAX + 100
        assert largest < CROWD_MEMORY_MAX_BYTES
        await check_unharmed(pair, servers["kme-b"], process.pid, honest)


async def check_unharmed(pair: KmePair, server: ServerProcess, pid: int, honest: Honest) -> None:
    """Check that a KME is the process it was, told of no defect, and lost no key that was not drawn."""
    assert server.process is not None
    assert (server.process.pid, server.process.returncode) == (pid, None)
    log = (server.config.parent / "log").read_text()
    assert "defect" not in log, log[-3000:]
    assert "Traceback" not in log, log[-3000:]
    await honest.work()
    async with pair.client("sae-b1") as b:
        status = await b.status("sae-a1")  # type: ignore[arg-type]
    assert status.stored_key_count == STOCK_KEYS - honest.drawn_at_b


def check_told(told: dict[str, list[str]]) -> None:
    """Check what came of each attack."""
    kinds = {attack: set(outcomes) for attack, outcomes in told.items()}
    for attack in ("bodies", "look-alikes", "others' of another master", "too many", "methods", "compressed"):
        assert kinds[attack] == {"400"}, (attack, told[attack])
    assert kinds["too long"] <= {"400", "closed"}, told["too long"]
    assert told["after 100"] == ["100 400", "100 400"]
    assert kinds["others"] == {"401"}, told["others"]
    assert kinds["targets"] == {"as expected"}, told["targets"]
    assert sorted(told["replays in a row"]) == ["200"] + ["400"] * 19
    assert sorted(told["replays at once"]) == ["200"] + ["400"] * 19
    assert told["pipelined"] == [" ".join(["200", "400"] * 200)]
    assert kinds["smuggled"] <= {"one answer", "400s"}, told["smuggled"]
    assert kinds["half closed"] == {"closed"}
    assert kinds["strangers"] == {"closed"}
    assert told["renegotiates"] == ["refused"]
    assert kinds["slow head"] == {"closed"}
    assert kinds["slow body"] == kinds["slow chunks"] == {"400"}
    assert kinds["slow handshake"] == {"closed"}
    assert kinds["guesses"] == {"400", "503"}, "made-up key_IDs are refused, and then whoever made them up"
    assert told["guesses"].index("503") >= 1000
