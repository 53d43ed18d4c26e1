"""Key delivery of one KME over mutual TLS, beside a bare aiohttp handler in the same run.

Question: what do one-time accounting, key_IDs and ETSI GS QKD 014 cost on top of HTTPS? Two KME processes with a full
stock serve ``enc_keys`` and ``dec_keys``; a third process serves a constant answer of the same length with aiohttp and
the same TLS settings. A client in a process of its own keeps a fixed number of connections busy, one request after the
other on each; its cost is in all figures alike. Ratios are what counts: the machine is shared.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from shosoin.adapters.certificates import Authority, Role
from shosoin.adapters.tls import client_context, server_context

CONNECTIONS = int(os.environ.get("BENCH_CONNECTIONS", "16"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
REQUESTS = int(os.environ.get("BENCH_REQUESTS", "12000"))
MANY = 128
TARGET_RATIO = 0.4
TARGET_KEYS_PER_S = 200_000
_KEY_ID = re.compile(rb'"key_ID":"([0-9a-f-]{36})"')


# ------------------------------------------------------------------------------------------------------------- client


async def _connection(job: dict[str, Any], requests: list[bytes], times: list[float], answers: list[bytes]) -> None:
    context = client_context(Path(job["certificate"]), Path(job["key"]), Path(job["ca"]))
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", job["port"], ssl=context, server_hostname=job["server_name"], limit=1 << 20
    )
    while requests:
        request = requests.pop()
        start = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]  # aiohttp always sends it
        body = await reader.readexactly(length)
        times.append(time.perf_counter() - start)
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"client: {body!r}")
        answers.append(body)
    writer.close()


def _requests(job: dict[str, Any]) -> list[bytes]:
    head = f"POST {job['path']} HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\n"
    if job["ids"] is None:
        bodies = [json.dumps({"number": job["number"], "size": 256}).encode()] * job["requests"]
    else:
        ids = json.loads(Path(job["ids"]).read_text())
        cut = [ids[i : i + job["number"]] for i in range(0, len(ids), job["number"])]
        bodies = [json.dumps({"key_IDs": [{"key_ID": key_id} for key_id in some]}).encode() for some in cut]
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


async def _client(job: dict[str, Any]) -> None:
    requests, times, answers = _requests(job), [], []  # type: ignore[var-annotated]
    count = len(requests)
    start = time.perf_counter()
    await asyncio.gather(*(_connection(job, requests, times, answers) for _ in range(CONNECTIONS)))
    wall = time.perf_counter() - start
    if job["save"]:
        ids = [key_id.decode() for answer in answers for key_id in _KEY_ID.findall(answer)]
        Path(job["save"]).write_text(json.dumps(ids))
    times.sort()
    result = {"rate": count / wall, "p50_ms": times[count // 2] * 1e3, "p99_ms": times[count * 99 // 100] * 1e3}
    print(json.dumps(result))


# ------------------------------------------------------------------------------------------------------------ servers


def _bare(port: int, home: Path, number: int) -> None:
    """Serve a constant answer as long as a key container of ``number`` keys."""
    key = {"key_ID": "00000000-0000-8000-8000-000000000000", "key": base64.b64encode(bytes(32)).decode()}
    source = {"kind": "simulated-qkd", "simulated": True, "epsilon": None, "link": {"secret_key_rate_bps": 495979.76}}
    container = {"keys": [key] * number, "key_container_extension": {"shosoin_source": source}}
    body = json.dumps(container, separators=(",", ":")).encode()

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/keys/{sae}/enc_keys", handle)
    context = server_context(home / "kme-a.crt", home / "kme-a.key", home / "ca.crt")
    web.run_app(app, host="127.0.0.1", port=port, ssl_context=context, access_log=None, print=None)


def _kme(config: Path) -> None:
    from shosoin.services.kme import run  # noqa: PLC0415  # the other roles of this file do not need it

    run(config)


def _config(home: Path, own: str, ports: dict[str, int]) -> Path:
    peer = "kme-b" if own == "kme-a" else "kme-a"
    path = home / f"{own}.toml"
    tls = f'certificate = "{own}.crt"\nkey = "{own}.key"'
    path.write_text(
        f"""
[kme]
id = "{own}"
site = "{own}"
directory = "{own}"
storage_key_file = "{own}.storage"
[kme.sae_api]
host = "127.0.0.1"
port = {ports[own]}
{tls}
client_ca = "ca.crt"
[kme.peer_api]
host = "127.0.0.1"
port = {ports[own + "-peer"]}
{tls}
ca = "ca.crt"
[identity]
allow_shared_ca = true
[limits]
lease_bytes = 4194304
[[sae]]
id = "sae-a"
kme = "kme-a"
[[sae]]
id = "sae-b"
kme = "kme-b"
[[link]]
peer = "{peer}"
host = "127.0.0.1"
port = {ports[peer + "-peer"]}
attenuation_db = 13.5
stock_bits_at_start = {_stock_bits() if own == "kme-a" else 0}
max_stock_bits = {2 * _stock_bits()}
pair_secret_file = "pair.secret"
"""
    )
    return path


def _stock_bits() -> int:
    keys = ROUNDS * (REQUESTS + REQUESTS // 10 * MANY)
    return keys * 256 + (1 << 26)


def _free_ports(names: list[str]) -> dict[str, int]:
    sockets = {name: socket.socket() for name in names}
    for each in sockets.values():
        each.bind(("127.0.0.1", 0))
    ports = {name: each.getsockname()[1] for name, each in sockets.items()}
    for each in sockets.values():
        each.close()
    return ports


@contextmanager
def _running(*commands: list[str]) -> Iterator[None]:
    processes = [
        subprocess.Popen([sys.executable, __file__, *command], stderr=subprocess.DEVNULL) for command in commands
    ]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


# --------------------------------------------------------------------------------------------------------------- runs


class Bench:
    """Files and ports of one run."""

    def __init__(self, home: Path) -> None:
        self.home = home
        authority = Authority.create("bench")
        authority.issued.write(home / "ca.crt", home / "ca.key")
        for role, name in ((Role.KME, "kme-a"), (Role.KME, "kme-b"), (Role.SAE, "sae-a"), (Role.SAE, "sae-b")):
            leaf = authority.issue(role, name, server=role is Role.KME, client=True)
            leaf.write(home / f"{name}.crt", home / f"{name}.key")
        (home / "pair.secret").write_bytes(secrets.token_bytes(1024))
        self.ports = _free_ports(["kme-a", "kme-b", "kme-a-peer", "kme-b-peer", "bare-1", "bare-128"])

    def client(
        self, server: str, sae: str, path: str, number: int, *, requests: int, ids: str | None = None, save: str = ""
    ) -> dict[str, float]:
        """Run one client process and return its figures."""
        job = {
            "port": self.ports[server],
            "server_name": server if server.startswith("kme") else "kme-a",
            "certificate": str(self.home / f"{sae}.crt"),
            "key": str(self.home / f"{sae}.key"),
            "ca": str(self.home / "ca.crt"),
            "path": f"/api/v1/keys/{path}",
            "number": number,
            "requests": requests,
            "ids": ids and str(self.home / ids),
            "save": save and str(self.home / save),
        }
        command = [sys.executable, __file__, "client", json.dumps(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300)
        result: dict[str, float] = json.loads(done.stdout)
        return result

    def wait_stock(self) -> None:
        """Wait until the stock is there."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                links = json.loads((self.home / "kme-a" / "links.json").read_text())
            except (FileNotFoundError, ValueError):
                continue
            if links["kme-b"].get("outgoing_stock_bits", 0) >= _stock_bits() - (1 << 26):
                return
        raise SystemExit("bench: the stock never filled")

    def round(self, number: int, requests: int) -> dict[str, dict[str, float]]:
        """Measure bare, enc_keys and dec_keys once, one after the other."""
        bare = self.client(f"bare-{number}", "sae-a", "sae-b/enc_keys", number, requests=requests)
        enc = self.client("kme-a", "sae-a", "sae-b/enc_keys", number, requests=requests, save="ids.json")
        dec = self.client("kme-b", "sae-b", "sae-a/dec_keys", number, requests=requests, ids="ids.json")
        return {"bare": bare, "enc_keys": enc, "dec_keys": dec}


def _report(number: int, rounds: list[dict[str, dict[str, float]]]) -> None:
    bare = statistics.median(each["bare"]["rate"] for each in rounds)
    for name in ("bare", "enc_keys", "dec_keys"):
        figures = {field: statistics.median(each[name][field] for each in rounds) for field in rounds[0][name]}
        result = {
            "bench": "keys",
            "case": name,
            "keys_per_request": number,
            "requests_per_s": round(figures["rate"]),
            "keys_per_s": round(figures["rate"] * number),
            "p50_ms": round(figures["p50_ms"], 3),
            "p99_ms": round(figures["p99_ms"], 3),
            "ratio_to_bare": round(figures["rate"] / bare, 3),
            "target_ratio": TARGET_RATIO if number == 1 and name != "bare" else None,
            "target_keys_per_s": TARGET_KEYS_PER_S if number == MANY and name != "bare" else None,
            "connections": CONNECTIONS,
            "rounds": len(rounds),
        }
        print(json.dumps(result), flush=True)
        print(
            f"{name:9} {number:4} keys/request {figures['rate']:9.0f} requests/s"
            f" {figures['rate'] * number:9.0f} keys/s  p50 {figures['p50_ms']:7.2f} ms  p99 {figures['p99_ms']:7.2f} ms"
            f"  {figures['rate'] / bare:5.2f} of bare",
            file=sys.stderr,
        )


def main() -> None:
    """Run everything."""
    with tempfile.TemporaryDirectory(prefix="bench-keys-") as directory:
        home = Path(directory)
        bench = Bench(home)
        kmes = [["kme", str(_config(home, name, bench.ports))] for name in ("kme-a", "kme-b")]
        bares = [["bare", str(bench.ports[f"bare-{n}"]), str(home), str(n)] for n in (1, MANY)]
        with _running(*kmes, *bares):
            bench.wait_stock()
            for number, requests in ((1, REQUESTS), (MANY, REQUESTS // 10)):
                _report(number, [bench.round(number, requests) for _ in range(ROUNDS)])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", job]:
            asyncio.run(_client(json.loads(job)))
        case ["bare", port, home, number]:
            _bare(int(port), Path(home), int(number))
        case ["kme", config]:
            _kme(Path(config))
        case _:
            main()
