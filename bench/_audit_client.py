"""The owner's side of ``audit.py``, in a process of its own: ``python _audit_client.py JOB`` (JSON)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from shosoin.adapters.owner import load_owner_config, open_vault
from shosoin.vault import Vault
from shosoin.vault.audit_round import AuditOptions

_PUT_TOGETHER = 1000

Job = dict[str, Any]


def content(name: str, size_bytes: int) -> bytes:
    """Return bytes that follow from a name."""
    return hashlib.shake_128(name.encode()).digest(size_bytes)


async def _put(vault: Vault, job: Job) -> Job:
    names = [f"{job['prefix']}/{number:05}" for number in range(job["count"])]
    for at in range(0, len(names), _PUT_TOGETHER):
        some = {name: content(name, job["size"]) for name in names[at : at + _PUT_TOGETHER]}
        await vault.put_many(some, class_=job["class"], deal_check=job.get("deal_check", False))
    return {"objects": len(names)}


async def _audit(vault: Vault, job: Job) -> Job:
    result = await vault.audit_round(
        prefix=job["prefix"], index=False, options=AuditOptions(fresh=job.get("fresh", False))
    )
    if result.found or result.objects != job["count"] or bool(result.new) != job["expect_new"]:
        raise SystemExit(f"client: audited {result.objects}, {result.found} not ok, {result.new} new")
    return {"objects": result.objects, "share_bytes": result.share_bytes}


async def _verify(vault: Vault, job: Job) -> Job:
    tally = await vault.verify_many(prefix=job["prefix"])
    if tally.found or tally.objects != job["count"]:
        raise SystemExit(f"client: verified {tally.objects}, {tally.found} not ok")
    return {"objects": tally.objects}


async def _run(job: Job) -> Job:
    work = {"put": _put, "audit": _audit, "verify": _verify}[job["work"]]
    config = load_owner_config(Path(job["owner"]))
    if job.get("forget"):
        for path in config.state.glob("audits.sqlite*"):
            path.unlink()
    async with open_vault(config) as vault:
        await vault.ls()  # connections and the index are there, as in a service
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        told = await work(vault, job)
        return told | {"wall_s": time.perf_counter() - wall_s, "cpu_s": time.process_time() - cpu_s}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_run(json.loads(sys.argv[1])))))
