"""Rigs: what stands behind a link's source in tests, one for each kind, with the same faults to order."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.tls import client_context
from shosoin.keys.wire004 import GetKeyResponse
from shosoin.services.json_log import LoggedEvents
from shosoin.services.sources.planes import plane_of
from shosoin.services.sources.recording import RecordingHeader, write_recording
from shosoin.services.tls_plane import TlsPlane
from shosoin.testbed.ports import free_ports
from tests.support.pki import TestAuthority
from tests.support.vendors import SITES, Planes, Vendor004, Vendor014, flipped


def plane_for(section: Any) -> TlsPlane:
    """The TLS endpoint of a link's table, its files read."""
    plane = plane_of("kme-x", section, SystemClock(), LoggedEvents())
    assert plane is not None
    plane.load()
    return plane


PACE = """
min_block_bits = 8192
max_block_bits = 65536
retry_min_s = 0.05
retry_max_s = 0.4
"""


class Rig:
    """What feeds the sources of both ends; the faults last until ``heal``."""

    kind = ""
    facts: tuple[str, bool, float | None] = ("undeclared", False, None)

    def __init__(self, root: Path) -> None:
        self.root = root

    async def start(self) -> None:
        """Be there."""

    async def stop(self) -> None:
        """Be gone."""

    def table(self, kme: str) -> str:
        raise NotImplementedError

    def link(self, kme: str) -> str:
        return f'kind = "{self.kind}"\n[link.{self.kind}]\n{PACE}{self.table(kme)}'

    async def restart(self, site: str) -> None:
        """Stop and start at one site, whatever it had in memory gone."""

    def differ(self) -> None:
        """Give other bits at kme-b."""

    def stall(self, site: str) -> None:
        """Do not answer at one site."""

    def withhold(self) -> None:
        """Give nothing at kme-b of what kme-a was given."""

    def lie_about_stock(self, claimed: int) -> None:
        """Claim to have so much."""

    def repeat(self) -> None:
        """Give bits again that were given before, under new names."""

    def heal(self) -> None:
        """Be honest again."""


class _Vendors(Rig):
    vendor: Any

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.planes = Planes(TestAuthority(root / "pki-vendor", "vendor-plane"))
        self.old: list[bytes] = []

    async def start(self) -> None:
        await self.vendor.start()

    async def stop(self) -> None:
        self.heal()
        await self.vendor.stop()

    async def restart(self, site: str) -> None:
        await self.vendor.stop(site)
        await asyncio.sleep(0.3)
        await self.vendor.start(site)

    def stall(self, site: str) -> None:
        async def hang(at, call, answer):
            if at == site:
                await asyncio.sleep(3600)
            return answer

        self.vendor.twist = hang

    def heal(self) -> None:
        self.vendor.twist = None

    def _files(self, kme: str) -> str:
        files = self.planes.client[kme]
        return f"""server_name = "vendor-{kme}"
certificate = "{files.certificate}"
key = "{files.key}"
ca = "{self.planes.authority.certificate}"
timeout_s = 1
"""


class Pull014Rig(_Vendors):
    kind = "etsi014"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.vendor = Vendor014(self.planes)

    def table(self, kme: str) -> str:
        peer = "our-" + SITES[1 - SITES.index(kme)]
        return f'url = "https://127.0.0.1:{self.vendor.port[kme]}"\npeer_sae = "{peer}"\n' + self._files(kme)

    def _change_keys(self, at_site: str | None, change) -> None:
        async def twist(site, call, answer):
            if call != "status" and "keys" in answer and at_site in {None, site}:
                for item in answer["keys"]:
                    item["key"] = base64.b64encode(change(base64.b64decode(item["key"]))).decode()
            return answer

        self.vendor.twist = twist

    def differ(self) -> None:
        self._change_keys("kme-b", flipped)

    def repeat(self) -> None:
        self._change_keys(None, lambda bits: bytes(len(bits)))

    def withhold(self) -> None:
        async def refuse(site, call, answer):
            if site == "kme-b" and call == "dec_keys":
                return web.json_response({"message": "not found"}, status=404)
            return answer

        self.vendor.twist = refuse

    def lie_about_stock(self, claimed: int) -> None:
        self.vendor.claimed = claimed

    def heal(self) -> None:
        super().heal()
        self.vendor.claimed = None


class Pull004Rig(_Vendors):
    kind = "etsi004"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.vendor = Vendor004(self.planes)

    def table(self, kme: str) -> str:
        peer = SITES[1 - SITES.index(kme)]
        return (
            f'host = "127.0.0.1"\nport = {self.vendor.port[kme]}\nsource = "qkd://our-{kme}"\n'
            f'destination = "qkd://our-{peer}"\nchunk_bytes = 512\n' + self._files(kme)
        )

    def _change_keys(self, at_site: str | None, change) -> None:
        async def twist(site, call, answer):
            if isinstance(answer, GetKeyResponse) and answer.key and at_site in {None, site}:
                return replace(answer, key=change(bytes(answer.key)))
            return answer

        self.vendor.twist = twist

    def differ(self) -> None:
        self._change_keys("kme-b", flipped)

    def repeat(self) -> None:
        self._change_keys(None, lambda bits: bytes(len(bits)))

    def withhold(self) -> None:
        async def dry(site, call, answer):
            return GetKeyResponse(2) if site == "kme-b" and isinstance(answer, GetKeyResponse) else answer

        self.vendor.twist = dry

    def lie_about_stock(self, claimed: int) -> None:
        self.vendor.chunks = 1 << 20 if claimed else 0

    def heal(self) -> None:
        super().heal()
        self.vendor.chunks = 1 << 20


class PushRig(Rig):
    """Two modules that push the same key material into the KMEs of both sites."""

    kind = "push"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.authority = TestAuthority(root / "pki-device", "device-plane")
        self.device = {site: self.authority.issue("device", f"module-{site}") for site in SITES}
        self.server = {site: self.authority.issue("kme", site) for site in SITES}
        ports = free_ports(2)
        self.port = dict(zip(SITES, ports, strict=True))
        self.stream, self.index = str(uuid.uuid4()), 0
        self.sites: set[str] = set(SITES)
        self.change: dict[str, Any] = {}
        self.refused: list[tuple[str, str]] = []
        self.contexts: dict[str, ssl.SSLContext] = {}
        self._task: asyncio.Task[None] | None = None

    def table(self, kme: str) -> str:
        files = self.server[kme]
        return f"""host = "127.0.0.1"
port = {self.port[kme]}
certificate = "{files.certificate}"
key = "{files.key}"
device_ca = "{self.authority.certificate}"
device = "urn:shosoin:device:module-{kme}"
max_held_bits = 4194304
expiry_s = 20
"""

    def context(self, site: str) -> ssl.SSLContext:
        """The same each time, or every delivery would be a new connection."""
        if site not in self.contexts:
            files = self.device[site]
            self.contexts[site] = client_context(files.certificate, files.key, self.authority.certificate)
        return self.contexts[site]

    async def start(self) -> None:
        self._task = asyncio.create_task(self._push_for_ever())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def deliver(self, session, site: str, keys, *, stream: str | None = None):
        """Push keys, ``(index, bits)``, into one KME and return status and answer."""
        items = [{"index": index, "Key_buffer": base64.b64encode(bits).decode()} for index, bits in keys]
        async with session.post(
            f"https://127.0.0.1:{self.port[site]}/api/v1/push_keys",
            json={"Key_stream_ID": stream or self.stream, "keys": items},
            ssl=self.context(site),
            server_hostname=site,
        ) as response:
            return response.status, await response.json()

    async def _push_for_ever(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while True:
                keys = [(self.index + n, os.urandom(256)) for n in range(64)]
                self.index += 64
                for site in SITES:
                    if site not in self.sites:
                        continue
                    change = self.change.get(site, lambda bits: bits)
                    try:
                        _, answer = await self.deliver(session, site, [(n, change(bits)) for n, bits in keys])
                        self.refused += [(site, item["reason"]) for item in answer.get("refused", [])]
                    except (aiohttp.ClientError, OSError, TimeoutError):
                        await asyncio.sleep(0.2)  # every try takes a port that a KME may be about to listen on
                await asyncio.sleep(0.05)

    async def restart(self, site: str) -> None:
        self.stream = str(uuid.uuid4())
        self.index = 0

    def differ(self) -> None:
        self.change = {"kme-b": flipped}

    def stall(self, site: str) -> None:
        self.sites = set()

    def withhold(self) -> None:
        self.sites = {"kme-a"}

    def repeat(self) -> None:
        self.change = {site: lambda bits: bytes(len(bits)) for site in SITES}

    def heal(self) -> None:
        self.sites, self.change = set(SITES), {}


class ReplayRig(Rig):
    kind = "replay"
    facts = ("replayed-qkd", True, 1e-10)

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.header = RecordingHeader(uuid.uuid4().hex, "qkd", 3000, 1024, epsilon=1e-10)
        self.bits = os.urandom(self.header.chunks * self.header.chunk_bytes)
        self.file = {site: root / f"{site}.recording" for site in SITES}
        self.heal()

    def table(self, kme: str) -> str:
        return f'file = "{self.file[kme]}"\n'

    def differ(self) -> None:
        write_recording(self.file["kme-b"], self.header, bytes(byte ^ 1 for byte in self.bits))

    def repeat(self) -> None:
        for path in self.file.values():
            write_recording(path, self.header, bytes(len(self.bits)))

    def withhold(self) -> None:
        self.file["kme-b"].unlink()

    def stall(self, site: str) -> None:
        self.file[site].unlink()

    def heal(self) -> None:
        for path in self.file.values():
            write_recording(path, self.header, self.bits)


class SimulatedRig(Rig):
    kind = "simulated"
    facts = ("simulated-qkd", True, None)

    def link(self, kme: str) -> str:
        return 'kind = "simulated"\nattenuation_db = 13.5\nspeedup = 4.0\nlength_km = 45.0\n'


RIGS = {rig.kind: rig for rig in (SimulatedRig, Pull014Rig, Pull004Rig, PushRig, ReplayRig)}
