"""The vault over five real sites, beside the limit of the same machine and beside Tahoe-LAFS, in one run.

Questions: what do secret sharing, sealing, checks and a durable register cost on top of five uploads over mutual TLS?
How does that compare with the closest free system? How much does a round trip add, and where do keys set the pace?

* ``put``, ``get``: one large object, class qkd, shamir(3, 5), five node processes on loopback. Beside it five parallel
  uploads of the same bytes over mutual TLS to five processes that write and flush them, and Tahoe-LAFS 3-of-5.
* ``small``: 1,000 objects of 4 KiB, batched and one by one.
* ``delay``: the same with 10 and 50 ms added round trip to the four remote sites (a proxy on loopback).
* ``its``: a 64 KiB object under one-time pads, while the key stock lasts (processor-limited) and what the simulated
  links can sustain (key-limited).

Each client is a process of its own. A figure is reported only after the bytes that came back were compared. Ratios are
what counts: the machine is shared. ``SHOSOIN_BENCH_MIB`` sets the size of the large object (1024),
``SHOSOIN_BENCH_ROUNDS`` how often it is put and fetched in turn with the sinks (3),
``SHOSOIN_BENCH_TAHOE`` a ``tahoe`` program, or ``off``; ``SHOSOIN_BENCH_CASES`` which cases run (all).
"""

from __future__ import annotations

import asyncio
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _common import machine, median_of
from _vault_processes import cpu_s, end, free_ports, peak_mib, python, start, wait_for_port
from _vault_report import emit
from _vault_sink import make_certificates
from _vault_tahoe import PROGRAM, NotInstalled, TahoeGrid
from shosoin.link.rates.decoy import METRO, secret_key_rate_bps
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import load_scenario

MIB = int(os.environ.get("SHOSOIN_BENCH_MIB", "1024"))
CASES = os.environ.get("SHOSOIN_BENCH_CASES", "large small delay its tahoe").split()
ROUNDS = int(os.environ.get("SHOSOIN_BENCH_ROUNDS", "3"))
SETTLE_S = 10.0
BUDGET_S = 580.0
"""Whole bench; what no longer fits is named, not dropped in silence."""
SMALL_BYTES = 4096
SMALL_COUNT = 1000
EACH_COUNT = 30
DELAYS_MS = (10, 50)
DELAY_MIB = 64
TAHOE_MIB = 128
ITS_BYTES = 64 << 10
ITS_COUNT = 8
PUT_TARGET_OF_SINK = 0.6
GET_TARGET_OF_TAHOE = 3.0
SMALL_PUT_TARGET_PER_S = 300
SMALL_GET_TARGET_PER_S = 1000
PEAK_TARGET_MIB = 300
_MB = 1e6

Figures = dict[str, Any]


class Failed(Exception):
    """A client failed, or ran out of time."""


class Bench:
    """Files, processes and time of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started_s = time.monotonic()
        self.rates: dict[str, float] = {}
        """What was measured, for ratios."""
        self.small = [f"small/{number:04}" for number in range(SMALL_COUNT)]

    @property
    def left_s(self) -> float:
        """What is left of the time."""
        return BUDGET_S - (time.monotonic() - self.started_s)

    def run(self, job: dict[str, Any], pids: list[int]) -> Figures:
        """Run one client and return its figures, with the processor seconds of the processes beside it."""
        if self.left_s < 5:
            raise Failed("the time of this benchmark is over")
        before_s = {pid: cpu_s(pid) for pid in pids}
        try:
            done = subprocess.run(
                python("_vault_client.py", json.dumps(job)), capture_output=True, timeout=self.left_s, check=False
            )
        except subprocess.TimeoutExpired as err:
            raise Failed("the time of this benchmark is over") from err
        if done.returncode:
            raise Failed(done.stderr.decode(errors="replace").strip().splitlines()[-1][:300])
        figures: Figures = json.loads(done.stdout)
        return figures | {"beside_cpu_s": sum(cpu_s(pid) - before_s[pid] for pid in pids)}

    def file(self, mib: int) -> Path:
        """Return a file of random bytes."""
        path = self.root / f"object-{mib}"
        if not path.exists():
            with path.open("wb") as file:
                for _ in range(mib):
                    file.write(os.urandom(1 << 20))
        return path


def _skip(case: str, why: str) -> None:
    """Say what was not measured."""
    emit("vault", case, None, "", not_measured=why)


def _large(figures: Figures, mib: int) -> Figures:
    """Return what is reported of a large object."""
    gigabytes = mib * (1 << 20) / 1e9
    return {
        "mib": mib,
        "client_cpu_s_per_gb": round(figures["cpu_s"] / gigabytes, 2),
        "nodes_cpu_s_per_gb": round(figures["beside_cpu_s"] / gigabytes, 2),
        "client_peak_mib": round(figures["peak_mib"]),
    }


def _rate(figures: Figures, mib: int) -> float:
    wall_s: float = figures["wall_s"]
    return mib * (1 << 20) / _MB / wall_s


# ---------------------------------------------------------------------------------------------------------- the limit


class Sinks:
    """Five processes that take an upload, write it and flush it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.home = bench.root / "sinks"
        self.home.mkdir()
        make_certificates(self.home)
        self.ports = free_ports(5)
        self.processes = [
            start(python("_vault_sink.py", str(port), self.home, self.home / f"{port}.bin"), self.home / "log")
            for port in self.ports
        ]
        for process, port in zip(self.processes, self.ports, strict=True):
            wait_for_port(process, port, 20)

    def upload(self, mib: int) -> Figures:
        """Upload the whole object to each at once: as much traffic as five shares."""
        file = self.bench.file(mib)
        job = {"work": "sink-put", "home": str(self.home), "file": str(file), "ports": self.ports}
        figures = self.bench.run(job, [process.pid for process in self.processes])
        taken = [self.home / f"{port}.bin" for port in self.ports]
        if not all(filecmp.cmp(file, copy, shallow=False) for copy in taken):
            raise Failed("a sink holds other bytes")
        for copy in taken:
            copy.unlink()
        return figures

    def end(self) -> None:
        """End the processes."""
        end(self.processes)
        shutil.rmtree(self.home)


# ---------------------------------------------------------------------------------------------------------- the vault


class Sites:
    """The five sites of the shipped scenario, running."""

    def __init__(self, bench: Bench, testbed: Testbed) -> None:
        self.bench = bench
        self.testbed = testbed
        self.owner = testbed.layout.owner_config(None)
        pids = testbed.pids()
        self.nodes = {process.site: pid for process, pid in pids.items() if process.role is ProcessRole.NODE}
        self.ports = {process.site: process.port for process in pids if process.role is ProcessRole.NODE}

    def run(self, work: str, *, owner: Path | None = None, class_: str = "qkd", **job: Any) -> Figures:
        """Run one client against the sites."""
        return self.bench.run(
            {"work": f"vault-{work}", "owner": str(owner or self.owner), "class": class_, **job},
            list(self.nodes.values()),
        )

    @property
    def peak_mib(self) -> float:
        """The largest node so far."""
        return float(round(max(peak_mib(pid) for pid in self.nodes.values())))


def large(sites: Sites, mib: int) -> None:
    """One large object, in turn with the sinks: on a shared machine only neighbours in time can be compared."""
    bench, file, back = sites.bench, sites.bench.file(mib), sites.bench.root / "back"
    found: dict[str, list[Figures]] = {"sink": [], "put": [], "get": []}
    peaks: dict[str, float] = {}
    uploads = Sinks(bench)
    try:
        for turn in range(ROUNDS):
            found["sink"].append(uploads.upload(mib))
            found["put"].append(sites.run("put", file=str(file), name=f"large-{turn}"))
            peaks.setdefault("put", sites.peak_mib)
            found["get"].append(sites.run("get", file=str(back), name=f"large-{turn}"))
            if not filecmp.cmp(file, back, shallow=False):
                raise Failed("what came back is not the file")
            back.unlink()  # the object stays: nodes overwrite what they erase, beside whatever is measured next
    finally:
        back.unlink(missing_ok=True)
        uploads.end()
    peaks["get"] = sites.peak_mib
    rates = {what: median_of([_rate(figures, mib) for figures in several]) for what, several in found.items()}
    bench.rates |= {what: rate.value for what, rate in rates.items()}
    titles = {"sink": "put five TLS sinks", "put": "put class qkd 3-of-5", "get": "get class qkd 3-of-5"}
    for what, rate in rates.items():
        ratios = [p["wall_s"] and s["wall_s"] / p["wall_s"] for s, p in zip(found["sink"], found[what], strict=True)]
        compared = what == "put"
        emit(
            "vault",
            titles[what],
            round(rate.value, 1),
            "MB/s",
            low=round(rate.low, 1),
            high=round(rate.high, 1),
            ratio=round(median_of(ratios).value, 3) if compared else None,
            ratio_to="five TLS sinks, turn by turn" if compared else None,
            target_ratio=PUT_TARGET_OF_SINK if compared else None,
            nodes_peak_mib=peaks.get(what),
            target_peak_mib=PEAK_TARGET_MIB if what in peaks else None,
            **_large(_middle(found[what]), mib),
        )


def _middle(several: list[Figures]) -> Figures:
    """Return the medians of figures."""
    return {name: median_of([each[name] for each in several]).value for name in ("cpu_s", "beside_cpu_s", "peak_mib")}


def small(sites: Sites) -> None:
    """Many small objects, batched, then one by one."""
    bench, names = sites.bench, sites.bench.small
    some = [f"each/{number:03}" for number in range(EACH_COUNT)]
    for how, chosen, put_target, get_target in (
        ("batched", names, SMALL_PUT_TARGET_PER_S, SMALL_GET_TARGET_PER_S),
        ("one by one", some, None, None),
    ):
        suffix = "many" if how == "batched" else "each"
        for what, target in (("put", put_target), ("get", get_target)):
            figures = sites.run(f"{what}-{suffix}", names=chosen, size=SMALL_BYTES)
            rate = bench.rates[f"{what} small {how}"] = len(chosen) / figures["wall_s"]
            emit(
                "vault",
                f"{what} 4 KiB {how}",
                round(rate, 1),
                "objects/s",
                objects=len(chosen),
                target=target,
                client_cpu_ms_per_object=round(figures["cpu_s"] / len(chosen) * 1e3, 2),
                nodes_cpu_ms_per_object=round(figures["beside_cpu_s"] / len(chosen) * 1e3, 2),
                client_peak_mib=round(figures["peak_mib"]),
                nodes_peak_mib=sites.peak_mib,
            )


@contextmanager
def _delayed(sites: Sites, round_trip_ms: int) -> Iterator[Path]:
    """Yield an owner's configuration that reaches the remote sites through a delaying proxy."""
    home = sites.testbed.layout.scenario.owner(None).site
    remote = {site: port for site, port in sites.ports.items() if site != home}
    fronts = dict(zip(remote, free_ports(len(remote)), strict=True))
    text = sites.owner.read_text(encoding="utf-8")
    for site, port in remote.items():
        text, count = re.subn(rf":{port}\b", f":{fronts[site]}", text)
        if count != 1:
            raise Failed(f"the owner's configuration names port {port} {count} times")
    config = sites.owner.with_name(f"owner-{round_trip_ms}-ms.toml")
    config.write_text(text, encoding="utf-8")
    pairs = [f"{fronts[site]}:{port}" for site, port in remote.items()]
    log = sites.bench.root / "delay.log"
    proxy = start(python("_vault_delay.py", str(round_trip_ms / 2), *pairs), log)
    try:
        for port in fronts.values():
            wait_for_port(proxy, port, 20)
        yield config
    finally:
        end([proxy])


def delay(sites: Sites, round_trip_ms: int) -> None:
    """Repeat the large and the small case over a longer wire."""
    bench, names = sites.bench, sites.bench.small
    tag = f"{round_trip_ms} ms round trip"
    fresh = [f"{name}-{round_trip_ms}" for name in names]
    file, back = bench.file(DELAY_MIB), bench.root / "back"
    with _delayed(sites, round_trip_ms) as owner:
        for what in ("put", "get"):
            figures = sites.run(what, owner=owner, file=str(file if what == "put" else back), name=tag)
            if what == "get" and not filecmp.cmp(file, back, shallow=False):
                raise Failed("what came back is not the file")
            emit("vault", f"{what} {DELAY_MIB} MiB, {tag}", round(_rate(figures, DELAY_MIB), 1), "MB/s")
        back.unlink()
        for what in ("put", "get"):
            figures = sites.run(f"{what}-many", owner=owner, names=fresh, size=SMALL_BYTES)
            rate = len(fresh) / figures["wall_s"]
            known = bench.rates.get(f"{what} small batched")
            emit(
                "vault",
                f"{what} 4 KiB batched, {tag}",
                round(rate, 1),
                "objects/s",
                ratio=round(rate / known, 3) if known else None,
                ratio_to="no added delay" if known else None,
            )


def its(sites: Sites) -> None:
    """One-time pads: what the processor allows while the stock lasts, and what the links allow for ever."""
    scenario = sites.testbed.layout.scenario
    home = scenario.owner(None).site
    for what in ("put", "get"):
        names = [f"its/{number}" for number in range(ITS_COUNT)]
        figures = sites.run(f"{what}-each", class_="its", names=names, size=ITS_BYTES)
        rate = ITS_COUNT / figures["wall_s"]
        bits = {site: used / ITS_COUNT for site, used in figures["key_bits_used"].items() if used}
        sustained = {
            link.other(home): _key_rate_bps(link.attenuation_db) * link.speedup / bits[link.other(home)]
            for link in scenario.links_of(home)
            if link.other(home) in bits
        }
        slowest = min(sustained, key=sustained.__getitem__)
        speedup = next(link.speedup for link in scenario.links_of(home) if link.other(home) == slowest)
        emit(
            "vault",
            f"{what} 64 KiB class its, from stock",
            round(rate, 2),
            "objects/s",
            objects=ITS_COUNT,
            key_bits_per_object=round(max(bits.values())),
        )
        emit(
            "vault",
            f"{what} 64 KiB class its, sustained by the links",
            round(sustained[slowest], 3),
            "objects/s",
            ratio=round(sustained[slowest] / rate, 4),
            ratio_to="from stock",
            slowest_link=f"{home}-{slowest}",
            simulated_speedup=speedup,
            at_honest_speed=round(sustained[slowest] / speedup, 4),
        )


def _key_rate_bps(attenuation_db: float) -> float:
    """Return what one direction of a simulated link generates."""
    return secret_key_rate_bps(METRO, attenuation_db=attenuation_db) / 2


# -------------------------------------------------------------------------------------------------------------- Tahoe


def tahoe(bench: Bench) -> None:
    """Measure the closest free system; its large object is smaller than ours, the rates are per byte."""
    home = bench.root / "tahoe"
    home.mkdir()
    mib = min(MIB, TAHOE_MIB)
    with TahoeGrid(home) as grid:
        file, back = bench.file(mib), home / "back"
        job = {"url": grid.url, "cap": str(home / "cap"), "size": SMALL_BYTES}
        pids = [grid.client_pid, *grid.storage_pids]
        for what, path in (("put", file), ("get", back)):
            client_s = cpu_s(grid.client_pid)
            figures = bench.run(job | {"work": f"tahoe-{what}", "file": str(path)}, pids)
            node_s = cpu_s(grid.client_pid) - client_s
            figures = figures | {"cpu_s": figures["cpu_s"] + node_s, "beside_cpu_s": figures["beside_cpu_s"] - node_s}
            if what == "get" and not filecmp.cmp(file, back, shallow=False):
                raise Failed("what came back from Tahoe-LAFS is not the file")
            rate = _rate(figures, mib)
            ours = bench.rates.get(what)
            emit(
                "vault",
                f"{what} Tahoe-LAFS 3-of-5",
                round(rate, 1),
                "MB/s",
                version=grid.version,
                **_large(figures, mib),
            )
            if ours:
                target = GET_TARGET_OF_TAHOE if what == "get" else None
                emit("vault", f"{what} ours beside Tahoe-LAFS", round(ours, 1), "MB/s",
                     ratio=round(ours / rate, 2), ratio_to="Tahoe-LAFS", target_ratio=target)  # fmt: skip
        names = [f"each/{number:03}" for number in range(EACH_COUNT)]
        for what in ("put", "get"):
            figures = bench.run(job | {"work": f"tahoe-{what}-each", "names": names}, pids)
            rate = EACH_COUNT / figures["wall_s"]
            emit("vault", f"{what} 4 KiB Tahoe-LAFS one by one", round(rate, 1), "objects/s", objects=EACH_COUNT)
            for how in ("batched", "one by one"):
                if (ours := bench.rates.get(f"{what} small {how}")) is not None:
                    emit("vault", f"{what} 4 KiB ours {how} beside Tahoe-LAFS", round(ours, 1), "objects/s",
                         ratio=round(ours / rate, 2), ratio_to="Tahoe-LAFS one by one")  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- run


async def _sites(bench: Bench) -> Testbed:
    return await Testbed.up(load_scenario("five-sites"), bench.root / "bed")


def main() -> int:
    """Run everything; what fails is named and makes the exit code 1."""
    failed = False
    print(json.dumps({"bench": "vault", "case": "machine", **machine()}), flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-vault-") as directory:
        bench = Bench(Path(directory))
        testbed = asyncio.run(_sites(bench))
        try:
            sites = Sites(bench, testbed)
            time.sleep(SETTLE_S)  # the links fill their stock at first, which takes most of a core
            works: list[tuple[str, str, Any]] = [
                ("large", "put and get class qkd", lambda: large(sites, MIB)),
                ("small", "4 KiB objects", lambda: small(sites)),
                ("its", "64 KiB class its", lambda: its(sites)),
            ]
            works += [("delay", f"{ms} ms round trip", lambda ms=ms: delay(sites, ms)) for ms in DELAYS_MS]
            for case, title, work in works:
                if case in CASES:
                    failed |= not _try(title, work)
        finally:
            testbed.down()
            shutil.rmtree(bench.root / "bed", ignore_errors=True)
        if "tahoe" not in CASES or PROGRAM == "off":
            _skip("Tahoe-LAFS", "switched off")
        else:
            failed |= not _try("Tahoe-LAFS", lambda: tahoe(bench))
    return int(failed)


def _try(case: str, work: Any) -> bool:
    """Run one case; a competitor that cannot be had is no failure of ours."""
    try:
        work()
    except NotInstalled as why:
        _skip(case, f"not installed: {why}")
    except Failed as why:
        _skip(case, str(why))
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
