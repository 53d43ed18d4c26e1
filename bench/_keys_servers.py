"""The servers of ``bench/keys.py``: two KME processes with their link, and bare handlers on the same web server.

A bare handler is what a KME cannot be faster than: aiohttp behind the same TLS settings reads a request and gives a
constant answer as long as a key container. Both log nothing for each request.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from _vault_processes import cpu_s, end, free_ports, start
from shosoin.adapters.certificates import Authority, Role
from shosoin.adapters.private_files import create_private
from shosoin.adapters.tls import server_context

__all__ = ["Servers", "running"]

KMES = ("kme-a", "kme-b")
CLIENT_S_MAX = 330.0
STOCK_S_MAX = 300.0
_SPARE_BITS = 1 << 26


class Servers:
    """Files and ports of two KMEs and of bare handlers.

    Args:
        stock_bits: what kme-a has for sae-b before anything is measured.
        speedup: how much faster than an honest link the stock grows.
    """

    def __init__(self, home: Path, stock_bits: int, *, speedup: float = 1.0, bare: Sequence[int] = ()) -> None:
        home.mkdir()
        self.home, self.stock_bits, self.speedup = home, stock_bits, speedup
        self.bare = bare
        names = [*KMES, *(f"{kme}-peer" for kme in KMES), *(f"bare-{number}" for number in bare)]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        saes, network = (self._authority(plane) for plane in ("sae", "network"))
        for kme in KMES:
            saes.issue(Role.KME, kme, server=True).write(home / f"{kme}.crt", home / f"{kme}.key")
            plane = network.issue(Role.KME, kme, server=True, client=True)
            plane.write(home / f"{kme}-peer.crt", home / f"{kme}-peer.key")
        for sae in ("sae-a", "sae-b"):
            saes.issue(Role.SAE, sae, client=True).write(home / f"{sae}.crt", home / f"{sae}.key")
        create_private(home / "pair.secret", secrets.token_bytes(1024))

    def _authority(self, plane: str) -> Authority:
        authority = Authority.create(f"bench {plane}")
        authority.issued.write(self.home / f"{plane}-ca.crt", self.home / f"{plane}-ca.key")
        return authority

    def commands(self) -> dict[str, list[str]]:
        """Return how each process is started, by name."""
        found = {f"bare-{number}": ["bare", str(self.ports[f"bare-{number}"]), str(number)] for number in self.bare}
        return found | {kme: ["kme", str(self._config(kme))] for kme in KMES}

    def wait_stock(self) -> None:
        """Wait until the stock is there.

        Raises:
            SystemExit: a KME ended, or it takes too long; with what it last said.
        """
        deadline_s = time.monotonic() + STOCK_S_MAX
        while (stock := self._stock()) < self.stock_bits:
            ended = [name for name, process in self.processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline_s:
                what = f"{ended[0]} ended" if ended else f"the stock of {stock} bits never reached {self.stock_bits}"
                raise SystemExit(f"bench: {what}; {self._last_words(ended[0] if ended else 'kme-a')}")
            time.sleep(0.2)

    def client(self, server: str, sae: str, path: str, number: int, **options: Any) -> dict[str, float]:
        """Run one client process; return its figures and the server's processor time for each request.

        Options as in ``foreign_client``.
        """
        files = {"certificate": f"{sae}.crt", "key": f"{sae}.key", "ca": "sae-ca.crt"}
        for option in ("ids", "save"):
            if options.get(option):
                options[option] = str(self.home / options[option])
        before_s = cpu_s(self.processes[server].pid)
        figures = foreign_client(
            port=self.ports[server],
            server_name=server if server in KMES else "kme-a",
            path=f"/api/v1/keys/{path}",
            number=number,
            **{name: str(self.home / file) for name, file in files.items()},
            **options,
        )
        return figures | {"server_us": (cpu_s(self.processes[server].pid) - before_s) / figures["count"] * 1e6}

    def _stock(self) -> int:
        try:
            links = json.loads((self.home / "kme-a" / "links.json").read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return int(links["kme-b"].get("outgoing_stock_bits", 0))

    def _last_words(self, name: str) -> str:
        return (self.home / f"{name}.log").read_text(errors="replace")[-1500:] or "it said nothing"

    def _config(self, own: str) -> Path:
        peer = KMES[own == KMES[0]]
        path = self.home / f"{own}.toml"
        path.write_text(
            f"""
[kme]
id = "{own}"
site = "{own}"
directory = "{own}"
storage_key_file = "{own}.storage"
[kme.sae_api]
host = "127.0.0.1"
port = {self.ports[own]}
certificate = "{own}.crt"
key = "{own}.key"
client_ca = "sae-ca.crt"
[kme.peer_api]
host = "127.0.0.1"
port = {self.ports[own + "-peer"]}
certificate = "{own}-peer.crt"
key = "{own}-peer.key"
ca = "network-ca.crt"
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
port = {self.ports[peer + "-peer"]}
attenuation_db = 13.5
speedup = {self.speedup if own == "kme-a" else 1.0}
stock_bits_at_start = {self.stock_bits + _SPARE_BITS if own == "kme-a" else 0}
max_stock_bits = {2 * self.stock_bits + 2 * _SPARE_BITS}
pair_secret_file = "pair.secret"
"""
        )
        return path


def foreign_client(**job: Any) -> dict[str, float]:
    """Run one client process against any KME; return ``rate``, ``p50_ms``, ``p99_ms``, ``count`` and ``dry``."""
    absent = {"certificate": "", "key": "", "ca": "", "server_name": None, "ids": None, "save": "", "requests": 0}
    whole = {**absent, "rate": 0.0, "waits": False, "connections": 16, **job}
    command = [sys.executable, str(Path(__file__).with_name("_keys_client.py")), json.dumps(whole)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, timeout=CLIENT_S_MAX)
    if done.returncode:
        raise SystemExit("bench: the client failed")
    result: dict[str, float] = json.loads(done.stdout)
    return result


@contextmanager
def running(servers: Servers) -> Iterator[None]:
    """Run all of them.

    Their words go to files: a pipe that nobody reads would stop them, and whoever reads one that an orphan holds waits.
    """
    try:
        for name, command in servers.commands().items():
            log = servers.home / f"{name}.log"
            servers.processes[name] = start([sys.executable, __file__, *command], log, BENCH_HOME=str(servers.home))
        yield
    finally:
        end(list(servers.processes.values()))


def _bare(port: int, number: int) -> None:
    home = Path(os.environ["BENCH_HOME"])
    key = {"key_ID": "00000000-0000-8000-8000-000000000000", "key": base64.b64encode(bytes(32)).decode()}
    source = {"kind": "simulated-qkd", "simulated": True, "epsilon": None, "link": {"secret_key_rate_bps": 495979.76}}
    container = {"keys": [key] * number, "key_container_extension": {"shosoin_source": source}}
    body = json.dumps(container, separators=(",", ":")).encode()

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_post("/api/v1/keys/{sae}/enc_keys", handle)
    context = server_context(home / "kme-a.crt", home / "kme-a.key", home / "sae-ca.crt")
    web.run_app(app, host="127.0.0.1", port=port, ssl_context=context, access_log=None, print=None, shutdown_timeout=1)


def _kme(config: Path) -> None:
    from shosoin.services.kme import run  # noqa: PLC0415  # the other roles of this file do not need it

    run(config)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["bare", port, number]:
            _bare(int(port), int(number))
        case ["kme", config]:
            _kme(Path(config))
