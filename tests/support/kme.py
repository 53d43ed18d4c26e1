"""A KME or two for tests, real in everything: certificates, files, ports, mutual TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.private_files import create_private
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.testbed.ports import free_ports
from tests.support.pki import Files, TestAuthority

SAES = {"sae-a1": "kme-a", "sae-a2": "kme-a", "sae-b1": "kme-b", "sae-b2": "kme-b"}


@dataclass
class KmePair:
    """Files of two KMEs, ``kme-a`` and ``kme-b``, with one link, and SAEs at both."""

    root: Path
    stock_bits: int = 1 << 22
    attenuation_db: float = 13.5
    speedup: float = 1.0
    limits: dict[str, Any] = field(default_factory=dict)
    skip_systems: dict[str, str] | None = None
    """SKIP is served if this is given: system IDs of SAEs where they are not the SAE IDs."""
    extra: dict[str, str] = field(default_factory=dict)
    """More lines for a section (``sae_api``, ``peer_api``), or sections for the end of the file (``end``)."""
    source: Callable[[str], str] | None = None
    """Tells for each KME what its ``[[link]]`` says from ``kind`` on, if it is not simulated."""
    link_lines: str = ""
    """More lines for the ``[[link]]``."""
    store: str = ""
    """Contents of ``[kme.store]``; files if there is none."""
    workers: int = 0
    """Worker processes of ``kme-a``."""
    workers_at_b: int = 0
    etsi004: dict[str, Any] | None = None
    """ETSI GS QKD 004 is served if this is given: its limits where they are not the usual ones."""

    key_exchange: dict[str, str] = field(default_factory=dict)
    """How TLS keys come about, by name of the section (``sae_api``, ``peer_api``) or ``kme-b peer_api`` for one KME."""
    ml_dsa: bool = False
    """Whether all certificates have ML-DSA-65 keys."""

    def __post_init__(self) -> None:
        self.sae_plane = TestAuthority(self.root / "pki-sae", "sae-plane", ml_dsa=self.ml_dsa)
        self.kme_plane = TestAuthority(self.root / "pki-kme", "kme-plane", ml_dsa=self.ml_dsa)
        self.saes: dict[str, Files] = {name: self.sae_plane.issue("sae", name) for name in SAES}
        numbers = free_ports(8)
        self.sae_port = {"kme-a": numbers[0], "kme-b": numbers[1]}
        self.peer_port = {"kme-a": numbers[2], "kme-b": numbers[3]}
        self.skip_port = {"kme-a": numbers[4], "kme-b": numbers[5]}
        self.etsi004_port = {"kme-a": numbers[6], "kme-b": numbers[7]}
        secret = os.urandom(1024)
        for kme in ("kme-a", "kme-b"):
            home = self.root / kme
            home.mkdir()
            create_private(home / "pair.secret", secret)
            (home / "config.toml").write_text(self._toml(kme))

    def directory(self, kme: str) -> Path:
        return self.root / kme / "state"

    def config(self, kme: str) -> Path:
        return self.root / kme / "config.toml"

    def client(self, sae: str, *, kme: str | None = None, **options: Any) -> KmeClient:
        options.setdefault("key_exchange", KeyExchange(self.key_exchange.get("sae_api", "classical")))
        home = kme or SAES[sae]
        files = options.pop("files", None) or self.saes[sae]
        return KmeClient(
            f"https://127.0.0.1:{self.sae_port[home]}",
            server_name=home,
            identity=home,
            certificate=files.certificate,
            key=files.key,
            ca=self.sae_plane.certificate,
            **options,
        )

    @asynccontextmanager
    async def running(self, *names: str):
        """Run KMEs inside this process."""
        processes = [KmeProcess(load_kme_config(self.config(name))) for name in names or ("kme-a", "kme-b")]
        async with asyncio.TaskGroup() as starting:
            started = [starting.create_task(process.__aenter__()) for process in processes]
        try:
            yield {task.result().config.kme.id: task.result() for task in started}
        finally:
            await asyncio.gather(*(process.__aexit__(None, None, None) for process in processes))

    def _skip(self, kme: str, server: Files) -> str:
        if self.skip_systems is None:
            return ""
        systems = "\n".join(f'[[skip.system]]\nid = "{id_}"\nsae = "{sae}"' for sae, id_ in self.skip_systems.items())
        return f"""
[skip]
host = "127.0.0.1"
port = {self.skip_port[kme]}
certificate = "{server.certificate}"
key = "{server.key}"
client_ca = "{self.sae_plane.certificate}"
{self._key_exchange(kme, "skip")}

{systems}
"""

    def _etsi004(self, kme: str, server: Files) -> str:
        if self.etsi004 is None:
            return ""
        limits = "\n".join(f"{name} = {value}" for name, value in self.etsi004.items())
        return f"""
[etsi004]
host = "127.0.0.1"
port = {self.etsi004_port[kme]}
certificate = "{server.certificate}"
key = "{server.key}"
client_ca = "{self.sae_plane.certificate}"
{self._key_exchange(kme, "etsi004")}
{limits}
"""

    def _key_exchange(self, kme: str, section: str) -> str:
        chosen = self.key_exchange.get(f"{kme} {section}", self.key_exchange.get(section))
        return f'key_exchange = "{chosen}"' if chosen else ""

    def _toml(self, kme: str) -> str:
        peer = "kme-b" if kme == "kme-a" else "kme-a"
        server = self.sae_plane.issue("kme", kme)
        plane = self.kme_plane.issue("kme", kme)
        limits = "\n".join(f"{name} = {value}" for name, value in self.limits.items())
        saes = "\n".join(f'[[sae]]\nid = "{sae}"\nkme = "{home}"' for sae, home in SAES.items())
        return f"""
[kme]
id = "{kme}"
site = "{kme[-1]}"
directory = "state"
storage_key_file = "storage.key"
workers = {self.workers if kme == "kme-a" else self.workers_at_b}

[kme.sae_api]
host = "127.0.0.1"
port = {self.sae_port[kme]}
certificate = "{server.certificate}"
key = "{server.key}"
client_ca = "{self.sae_plane.certificate}"
{self.extra.get("sae_api", "")}
{self._key_exchange(kme, "sae_api")}

[kme.peer_api]
host = "127.0.0.1"
port = {self.peer_port[kme]}
certificate = "{plane.certificate}"
key = "{plane.key}"
ca = "{self.kme_plane.certificate}"
{self.extra.get("peer_api", "")}
{self._key_exchange(kme, "peer_api")}

{"[kme.store]" if self.store else ""}
{self.store}

[limits]
{limits}

{saes}
{self._skip(kme, server)}
{self._etsi004(kme, server)}

[[link]]
peer = "{peer}"
host = "127.0.0.1"
port = {self.peer_port[peer]}
max_stock_bits = {max(2 * self.stock_bits, 1 << 22)}
pair_secret_file = "pair.secret"
{self.link_lines}
{self._simulated() if self.source is None else self.source(kme)}
{self.extra.get("end", "")}
"""

    def _simulated(self) -> str:
        return f"""kind = "simulated"
length_km = 45.0
attenuation_db = {self.attenuation_db}
speedup = {self.speedup}
stock_bits_at_start = {self.stock_bits}
"""


async def until(condition, *, timeout_s: float = 30.0) -> None:
    """Wait until a condition holds; the bound is for a broken build, not for timing."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def until_stock(client: KmeClient, slave: str, keys: int, *, timeout_s: float = 60.0) -> None:
    """Wait until a KME advertises at least that many keys."""
    async with asyncio.timeout(timeout_s):
        while (await client.status(slave)).stored_key_count < keys:  # type: ignore[arg-type]
            await asyncio.sleep(0.02)


class ServerProcess:
    """One KME as a process of its own, ended by its pid."""

    def __init__(self, config: Path, *, state: str = "state") -> None:
        self.config, self.state = config, state
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        code = "import sys, pathlib; from shosoin.services.kme import run; run(pathlib.Path(sys.argv[1]))"
        log = (self.config.parent / "log").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, str(self.config), stdout=log, stderr=log
        )
        log.close()
        sign = self.config.parent / self.state / "ready"

        def is_ready() -> bool:
            if self.process is not None and self.process.returncode is not None:
                raise AssertionError((self.config.parent / "log").read_text()[-2000:])
            try:
                return self.process is not None and json.loads(sign.read_text())["pid"] == self.process.pid
            except (FileNotFoundError, ValueError):
                return False

        await until(is_ready)

    async def kill(self) -> None:
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()
        self.process = None
