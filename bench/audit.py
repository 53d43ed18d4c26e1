"""Auditing: digests against the memory of one core, and ten thousand small objects over five real sites.

Questions: how near does the digest of a share come to copying it? How long does an owner wait until all sites have
proved that they hold ten thousand objects: after the put (which remembers where shares are), again with the same and
with new challenges, and when that memory is lost and all registers are looked up? What does
the deal check add to a put of a class that can do without?

Digests run in one thread, in turn with a copy of the same buffer, by the thread's own clock. The sites are five node
processes on loopback; ``fsync`` is real. Processor seconds of owner and nodes are told beside the wall clock, because
the machine is shared. ``SHOSOIN_BENCH_OBJECTS`` sets how many objects (10000), ``SHOSOIN_BENCH_CASES`` which cases run.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import Report, interleave, median_of
from _vault_processes import cpu_s, python
from shosoin.kernels import active_path, digest, new_buffer
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import load_scenario

COUNT = int(os.environ.get("SHOSOIN_BENCH_OBJECTS", "10000"))
CASES = os.environ.get("SHOSOIN_BENCH_CASES", "digest objects deal").split()
ROUNDS = 7
SIZES = {"memory": 256 << 20, "L2 cache": 256 << 10, "a share of a 4 KiB object": 10_752}
DIGEST_TARGET_GB_PER_S = 2.0
AUDIT_TARGET_S = 10.0
OBJECT_BYTES = 4096
DEAL_COUNT, DEAL_ROUNDS = 300, 5
SETTLE_S = 10.0
CLIENT_S_MAX = 300.0
_GB = 1e9


def digests(report: Report) -> bool:
    """Digest beside memcpy, one thread; return whether the target is reached from memory."""
    reached = True
    for where, size in SIZES.items():
        share, copy = memoryview(new_buffer(size)), memoryview(new_buffer(size))
        share[:] = os.urandom(1 << 20) * (size >> 20) if size >= 1 << 20 else os.urandom(size)
        point = os.urandom(16)

        def copied(share: memoryview = share, copy: memoryview = copy) -> None:
            copy[:] = share

        def digested(share: memoryview = share, point: bytes = point) -> bytes:
            return digest(point, share)

        found = interleave({"memcpy": copied, "digest": digested}, rounds=ROUNDS, clock=time.thread_time)
        rates = {what: seconds.per(size / _GB) for what, seconds in found.items()}
        wanted = where == "memory"
        report.emit(f"memcpy, {where}", "libc", rates["memcpy"], "GB/s")
        report.emit(
            f"digest, {where}",
            active_path(),
            rates["digest"],
            "GB/s",
            ratio=rates["digest"].value / DIGEST_TARGET_GB_PER_S
            if wanted
            else found["memcpy"].value / found["digest"].value,
            ratio_to=f"{DIGEST_TARGET_GB_PER_S:g} GB/s" if wanted else "memcpy",
            wanted=1.0 if wanted else None,
        )
        reached &= not wanted or rates["digest"].value >= DIGEST_TARGET_GB_PER_S
    return reached


class Sites:
    """Five sites, and clients of their own processes."""

    def __init__(self, testbed: Testbed) -> None:
        self._owner = testbed.layout.owner_config(None)
        self._nodes = [pid for process, pid in testbed.pids().items() if process.role is ProcessRole.NODE]

    def run(self, work: str, **job: Any) -> dict[str, Any]:
        """Run one client to its end and return its figures."""
        before_s = sum(map(cpu_s, self._nodes))
        told = json.dumps({"work": work, "owner": str(self._owner), "class": "qkd", "size": OBJECT_BYTES, **job})
        done = subprocess.run(
            python("_audit_client.py", told), capture_output=True, timeout=CLIENT_S_MAX, check=False, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr.strip().splitlines()[-1][:300])
        figures: dict[str, Any] = json.loads(done.stdout)
        return figures | {"nodes_cpu_s": sum(map(cpu_s, self._nodes)) - before_s}


def objects(report: Report, sites: Sites) -> bool:
    """Put, audit twice, verify; return whether audits are fast enough."""
    job: dict[str, Any] = {"prefix": "small", "count": COUNT}
    reached = True
    for title, work, more, target_s in (
        ("put", "put", {}, None),
        ("first audit", "audit", {"expect_new": True}, AUDIT_TARGET_S),
        ("audit again, same challenges", "audit", {"expect_new": False}, AUDIT_TARGET_S),
        ("audit again, new challenges", "audit", {"expect_new": True, "fresh": True}, AUDIT_TARGET_S),
        ("audit, memory lost", "audit", {"expect_new": True, "forget": True}, None),
        ("verify (all shares read)", "verify", {}, None),
    ):
        figures = sites.run(work, **job, **more)
        wall_s = figures["wall_s"]
        report.emit(
            f"{title} of {COUNT} objects of {OBJECT_BYTES} B",
            "five sites",
            median_of([wall_s]),
            "s",
            ratio=None if target_s is None else target_s / wall_s,
            ratio_to=None if target_s is None else f"{target_s:g} s",
            wanted=None if target_s is None else 1.0,
        )
        rate = median_of([COUNT / wall_s])
        report.emit(f"{title}: rate", "five sites", rate, "objects/s")
        if "share_bytes" in figures:
            report.emit(f"{title}: shares", "five sites", median_of([figures["share_bytes"] / wall_s / 1e6]), "MB/s")
        load = os.getloadavg()[0]
        report.note(
            f"{title}: owner {figures['cpu_s']:.2f} s and nodes {figures['nodes_cpu_s']:.2f} s of processor time;"
            f" load average {load:.1f}"
        )
        reached &= target_s is None or wall_s <= target_s
    return reached


def deal(report: Report, sites: Sites) -> None:
    """Put batches of small objects with and without the deal check, in turn."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(DEAL_ROUNDS):
        for checked, samples in seconds.items():
            job = {"prefix": f"deal-{turn}-{checked}", "count": DEAL_COUNT, "deal_check": checked}
            figures = sites.run("put", **job)
            samples.append(figures["cpu_s"] + figures["nodes_cpu_s"])
    plain, extra = median_of(seconds[False]), median_of(seconds[True])
    title = f"processor time of a put of {DEAL_COUNT} objects of class qkd"
    report.emit(title, "five sites", plain, "s")
    report.emit(f"{title}, deal checked", "five sites", extra, "s", ratio=extra.value / plain.value, ratio_to="without")


async def _up(directory: str) -> Testbed:
    return await Testbed.up(load_scenario("five-sites"), Path(directory) / "bed")


def main() -> int:
    """Run the chosen cases; return 1 if a target is missed."""
    report = Report("audit")
    reached = digests(report) if "digest" in CASES else True
    if {"objects", "deal"} & set(CASES):
        with tempfile.TemporaryDirectory(prefix="bench-audit-") as directory:
            testbed = asyncio.run(_up(directory))
            try:
                time.sleep(SETTLE_S)  # the links fill their stock at first, which takes most of a core
                sites = Sites(testbed)
                if "objects" in CASES:
                    reached &= objects(report, sites)
                if "deal" in CASES:
                    deal(report, sites)
            finally:
                testbed.down()
    report.close()
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
