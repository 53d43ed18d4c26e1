"""Key delivery of one KME over mutual TLS, beside a bare handler of the same web server in the same run.

Questions: what do one-time accounting, key_IDs and ETSI GS QKD 014 cost on top of HTTPS? How many keys a second at 128
for each request? How late are answers at half of the rate that was found (open loop)? Does memory stay flat over
millions of keys? Two KME processes with durable streams on disk serve ``enc_keys`` and ``dec_keys``; the client is one
more process, and its cost is in all figures alike. Ratios are what counts, because the machine is shared; the ratio of
the servers' own processor time (all threads) beside the ratio of rates says how much of it was the neighbours.

``BENCH_REQUESTS`` (12000), ``BENCH_ROUNDS`` (3) and ``BENCH_CONNECTIONS`` (16) size the runs; ``BENCH_MEMORY_KEYS``
(500000; 10000000 for the claim; 0 leaves it out) how many keys cross while memory is watched; ``BENCH_CASES`` chooses
among ``rate half memory other``. ``BENCH_OTHER_URL`` puts another KME beside ours: the address of its key call, like
``https://127.0.0.1:8010/api/v1/keys/SAE/enc_keys``, with ``BENCH_OTHER_CERT``, ``BENCH_OTHER_KEY``, ``BENCH_OTHER_CA``
(PEM files) and ``BENCH_OTHER_NAME`` (in its certificate) where it speaks TLS.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from _keys_servers import KMES, Servers, foreign_client, running

CASES = os.environ.get("BENCH_CASES", "rate half memory other").split()
CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "16"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "12000"))
MEMORY_KEYS = int(os.environ.get("BENCH_MEMORY_KEYS", "500000"))
MANY = 128
OPEN_CONNECTIONS = 64
MEMORY_STEPS = 10
MEMORY_STOCK_BITS = 1 << 27
MEMORY_SPEEDUP = 300.0
TARGET_RATIO = 0.4
TARGET_KEYS_PER_S = 200_000
TARGET_P99_MS = 10.0

Figures = dict[str, float]


def emit(case: str, **values: Any) -> None:
    """Report one result: JSON for programs, a line for people."""
    print(json.dumps({"bench": "keys", "case": case, **values}), flush=True)
    told = "  ".join(f"{name} {value}" for name, value in values.items() if value is not None)
    print(f"{case:18} {told}", file=sys.stderr)


def _medians(rounds: list[Figures]) -> Figures:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _round(servers: Servers, number: int, requests: int, rate: float = 0.0) -> dict[str, Figures]:
    """Measure enc_keys and dec_keys once, one after the other; the bare handler before them, unless a rate is given."""
    options: dict[str, Any] = {"connections": OPEN_CONNECTIONS if rate else CONNECTIONS, "rate": rate}
    found: dict[str, Figures] = {}
    if not rate:
        found["bare"] = servers.client(
            f"bare-{number}", "sae-a", "sae-b/enc_keys", number, requests=requests, **options
        )
    found["enc_keys"] = servers.client(
        "kme-a", "sae-a", "sae-b/enc_keys", number, requests=requests, save="ids.json", **options
    )
    found["dec_keys"] = servers.client("kme-b", "sae-b", "sae-a/dec_keys", number, ids="ids.json", **options)
    return found


def rate(servers: Servers, number: int, requests: int) -> dict[str, Figures]:
    """Measure in turn with the bare handler; return the medians."""
    rounds = [_round(servers, number, requests) for _ in range(ROUNDS)]
    medians = {name: _medians([each[name] for each in rounds]) for name in rounds[0]}
    for name, figures in medians.items():
        ratios = [each[name]["rate"] / each["bare"]["rate"] for each in rounds]
        ours = name != "bare"
        emit(
            name,
            keys_per_request=number,
            requests_per_s=round(figures["rate"]),
            keys_per_s=round(figures["rate"] * number),
            p50_ms=round(figures["p50_ms"], 3),
            p99_ms=round(figures["p99_ms"], 3),
            ratio_to_bare=round(statistics.median(ratios), 3),
            ratios=[round(min(ratios), 3), round(max(ratios), 3)],
            server_us=round(figures["server_us"]),
            ratio_of_processor_time=round(medians["bare"]["server_us"] / figures["server_us"], 3),
            target_ratio=TARGET_RATIO if ours and number == 1 else None,
            target_keys_per_s=TARGET_KEYS_PER_S if ours and number == MANY else None,
            connections=CONNECTIONS,
            rounds=ROUNDS,
        )
    return medians


def half_load(servers: Servers, closed: dict[str, Figures]) -> None:
    """Send single-key requests at half of the slower call's rate, whatever the KME does; tell how long they waited."""
    at = min(closed["enc_keys"]["rate"], closed["dec_keys"]["rate"]) / 2
    rounds = [_round(servers, 1, REQUESTS // 2, at) for _ in range(ROUNDS)]
    for name in rounds[0]:
        figures = _medians([each[name] for each in rounds])
        emit(
            f"half load {name}",
            offered_per_s=round(at),
            answered_per_s=round(figures["rate"]),
            p50_ms=round(figures["p50_ms"], 3),
            p99_ms=round(figures["p99_ms"], 3),
            target_p99_ms=TARGET_P99_MS,
            connections=OPEN_CONNECTIONS,
            rounds=ROUNDS,
        )


def memory(servers: Servers) -> None:
    """Let many keys cross, as fast as the link makes them, and read the KMEs' resident size on the way."""
    watched = {kme: psutil.Process(servers.processes[kme].pid) for kme in KMES}
    sizes: dict[str, list[float]] = {kme: [] for kme in KMES}
    requests = max(1, MEMORY_KEYS // MEMORY_STEPS // MANY)
    for step in range(MEMORY_STEPS + 1):
        if step:
            options: dict[str, Any] = {"connections": CONNECTIONS, "waits": True}
            servers.client("kme-a", "sae-a", "sae-b/enc_keys", MANY, requests=requests, save="ids.json", **options)
            servers.client("kme-b", "sae-b", "sae-a/dec_keys", MANY, ids="ids.json", **options)
        for kme, process in watched.items():
            sizes[kme].append(round(process.memory_info().rss / 2**20, 1))
    for kme, mib in sizes.items():
        emit(
            f"memory {kme}",
            keys=requests * MANY * MEMORY_STEPS,
            resident_mib=mib,
            growth_after_a_fifth_mib=round(mib[-1] - mib[MEMORY_STEPS // 5], 1),
        )


def other(ours: Figures) -> None:
    """Ask another KME for single keys, likewise."""
    url = urlsplit(os.environ["BENCH_OTHER_URL"])
    files = {
        name: os.environ.get(f"BENCH_OTHER_{short}", "")
        for name, short in (("certificate", "CERT"), ("key", "KEY"), ("ca", "CA"))
    }
    figures = foreign_client(
        port=url.port or 443,
        server_name=os.environ.get("BENCH_OTHER_NAME", url.hostname) if files["ca"] else None,
        path=url.path,
        number=1,
        requests=max(1, REQUESTS // 10),
        connections=CONNECTIONS,
        **files,
    )
    emit(
        "other KME enc_keys",
        keys_per_request=1,
        requests_per_s=round(figures["rate"]),
        p50_ms=round(figures["p50_ms"], 3),
        p99_ms=round(figures["p99_ms"], 3),
        ours_to_it=round(ours["rate"] / figures["rate"], 1),
    )


def main() -> None:
    """Run everything."""
    keys = ROUNDS * (REQUESTS + REQUESTS // 10 * MANY + REQUESTS // 2)
    with tempfile.TemporaryDirectory(prefix="bench-keys-") as directory:
        if {"rate", "half", "other"} & set(CASES):
            servers = Servers(Path(directory) / "rate", keys * 256, bare=(1, MANY))
            with running(servers):
                servers.wait_stock()
                closed = rate(servers, 1, REQUESTS)
                if "half" in CASES:
                    half_load(servers, closed)
                if "rate" in CASES:
                    rate(servers, MANY, REQUESTS // 10)
                if "other" in CASES and "BENCH_OTHER_URL" in os.environ:
                    other(closed["enc_keys"])
        if "memory" in CASES and MEMORY_KEYS:
            servers = Servers(Path(directory) / "memory", MEMORY_STOCK_BITS, speedup=MEMORY_SPEEDUP)
            with running(servers):
                servers.wait_stock()
                memory(servers)


if __name__ == "__main__":
    main()
