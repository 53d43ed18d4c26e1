"""One KME process: configuration in, listeners up, until it is told to stop.

``run`` is what ``shosoin kme run`` calls. While both listeners are up, ``<directory>/ready`` says so (JSON with pid and
ports) and ``<directory>/links.json`` shows the state of every link, written anew when it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from shosoin.adapters.admin_log import AdminLogTampered
from shosoin.adapters.clock import SystemClock
from shosoin.adapters.copy_store import CopyStorage
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.memory import collect_garbage_rarely
from shosoin.adapters.open_files import allow_many_open_files
from shosoin.adapters.state_lock import StateLock
from shosoin.base import KmeId, Rejected
from shosoin.base.ports import Event
from shosoin.keys.burning import Holding
from shosoin.keys.kme import Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.policy import KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.keys.worker_grants import Granting
from shosoin.services.admin_api import AdminApi
from shosoin.services.admin_config import AdminSection
from shosoin.services.copy_thread import CopyThread
from shosoin.services.etsi004 import Etsi004Service
from shosoin.services.etsi004_config import Etsi004Section
from shosoin.services.etsi004_streams import KeyStreams
from shosoin.services.etsi014 import Etsi014Service, HttpLimits
from shosoin.services.json_log import LoggedEvents, described, log, start_logging
from shosoin.services.kme_config import KmeConfig, load_kme_config
from shosoin.services.kme_identity import IDENTITY_FILE, KmeIdentity
from shosoin.services.kme_links import KmeLinks
from shosoin.services.kme_view import SaeService
from shosoin.services.link_driver import LinkDriver
from shosoin.services.multicast import Multicast
from shosoin.services.operations import Operations
from shosoin.services.paused_pairs import read_paused
from shosoin.services.peer_channel import listen
from shosoin.services.peer_redial import PeerRedial
from shosoin.services.sae_access import draws_ahead, http_limits
from shosoin.services.sae_http import Drawing
from shosoin.services.skip import SkipService
from shosoin.services.skip_config import SkipConfig
from shosoin.services.storage_key import storage_key
from shosoin.services.store_config import open_copies
from shosoin.services.tls_listener import TlsListener
from shosoin.services.worker_pool import WORKERS_FILE, WorkerPool

__all__ = ["KmeProcess", "run"]

_GUESSES_PER_S, _GUESSES_AT_ONCE = 100.0, 20_000.0
"""Wrong key_IDs an SAE may send: generous, since every key burned by a crash looks like one."""
_REPORT_S = 0.5


def run(config_path: Path) -> None:
    """Run a KME until SIGTERM or SIGINT.

    Raises:
        Rejected: if the configuration is wrong.
    """
    config = load_kme_config(config_path)
    start_logging()
    allow_many_open_files()
    asyncio.run(_run(config))


async def _run(config: KmeConfig) -> None:
    process = KmeProcess(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, process.stop_wanted.set)
    loop.add_signal_handler(signal.SIGHUP, process.identity.reload_soon)
    async with process:
        collect_garbage_rarely()
        await process.stop_wanted.wait()
    if process.defect is not None:
        raise RuntimeError("a part of the KME failed") from process.defect


class KmeProcess:
    """All parts of a KME, as an asynchronous context manager: running inside, stopped cleanly after."""

    def __init__(self, config: KmeConfig) -> None:
        self.config = config
        self.directory = config.kme.directory
        self._clock, self._entropy, self._events = SystemClock(), SystemEntropy(), LoggedEvents()
        self.links = KmeLinks(config, self._clock, self._entropy, self._events)
        self.identity = KmeIdentity(config, self._clock, self._events)
        self.links.source_planes = self.identity.source_planes
        self._redial = self._peer_redial()
        self.stop_wanted = asyncio.Event()
        """Set when the process is to end."""
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[TlsListener | WorkerPool] = []
        self.workers: WorkerPool | None = None
        """The processes that SAEs talk to, where it is not this one."""
        self._upkeep: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self.ports: tuple[int, int] = (0, 0)
        self.kme: Kme | None = None
        """What serves the SAEs, once every link was looked at."""
        self.services: dict[str, SaeService] = {}
        """How SAEs reach it, by the name of the interface."""
        self.operations = Operations(self, config.operations, self._clock) if config.operations else None
        self.skip_port: int | None = None
        self.admin: AdminApi | None = None
        self.is_draining = False
        """Whether it is about to stop and should get no new work."""
        self.etsi004_port: int | None = None
        self._multicast: Multicast | None = None
        self._copies: CopyThread | None = None
        self.links.burn_copies = self._burn_copies
        self._lock: StateLock | None = None
        self.defect: BaseException | None = None
        """Why a part of the process ended by itself."""

    async def __aenter__(self) -> KmeProcess:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._remove_signs()
        try:
            if self.operations is not None:
                await self.operations.start()  # first, so that it can be asked how far the rest is
            self._lock = StateLock(self.directory, exclusive=False)
            key = storage_key(self.config)
            self.identity.load()
            self._copies = CopyThread(self._copy_store(key))
            await self.links.open(key)
            await self._listen(self._copies)
            self._start_tasks()
        except BaseException:
            await self._stop()
            raise
        _write_json(self.directory / "links.json", self.link_states())
        ready: dict[str, Any] = {"pid": os.getpid(), "sae_port": self.ports[0], "peer_port": self.ports[1]}
        if self.operations is not None:
            ready["operations_port"] = self.operations.port
        if self.skip_port is not None:
            ready["skip_port"] = self.skip_port
        if self.admin is not None:
            ready["admin_port"] = self.admin.port
        if self.workers is not None:
            ready["worker_pids"] = self.workers.pids
        if self.etsi004_port is not None:
            ready["etsi004_port"] = self.etsi004_port
        _write_json(self.directory / "ready", ready)
        log("kme.ready", kme=self.config.kme.id, **ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._remove_signs()
        await self._stop()
        log("kme.stopped", kme=self.config.kme.id)

    @property
    def drivers(self) -> Mapping[KmeId, LinkDriver]:
        """Links whose stored state can be used."""
        return self.links.drivers

    @property
    def peer_groups(self) -> Mapping[str, int]:
        """Connections with peer KMEs since the start, by key-exchange group, empty where that is unknown."""
        return self.links.groups

    @property
    def is_listening(self) -> bool:
        """Whether every listener accepts connections."""
        return self.ports != (0, 0) and all(listener.is_serving for listener in self._listeners)

    def link_states(self) -> dict[str, Any]:
        """Return what an operator wants to know of each link; nothing secret."""
        return self.links.states()

    def drain(self) -> None:
        """Be unready from now on, and go on serving."""
        self.is_draining = True

    async def burn(self, peer: KmeId, *, dry_run: bool) -> Holding:
        """Burn all that is shared with a peer at this end, or only look; see ``KmeLinks.burn``."""
        return await self.links.burn(peer, dry_run=dry_run)

    async def lift(self, peer: KmeId) -> str:
        """Let a suspended link make keys again; see ``KmeLinks.lift``."""
        return await self.links.lift(peer)

    async def _burn_copies(self, peer: KmeId) -> None:
        if self._multicast is not None:
            await self._multicast.burn(peer)
        elif self._copies is not None:  # nobody knows of them yet
            await self._copies.do(lambda store: store.burn(peer))

    # Parts

    async def _listen(self, copies: CopyThread) -> None:
        peer, limits = self.config.peer_api, self.config.limits
        peer_plane = self.identity.planes["peer_api"]
        http = http_limits(limits)
        kme = self.kme = self._kme()
        kme.paused = read_paused(self.directory)
        multicast = self._multicast = Multicast(
            kme,
            Drawing(kme, self.links, self._clock, limits.lease_timeout_s),
            self.links.requests,
            copies,
            entropy=self._entropy,
            clock=self._clock,
            events=self._events,
            expiry_s=limits.key_expiry_s,
        )
        await multicast.refresh()
        service = Etsi014Service(kme, self.links, http, self._clock, multicast)
        try:
            known = {str(link.peer) for link in self.config.links}
            peers = await listen(peer.host, peer.port, peer_plane.server_context, self.links.accept, known)
            self._listeners.append(peers)
            sae_port = await self._listen_etsi014(service, kme)
            if self.config.skip is not None:
                await self._listen_skip(self.config.skip, kme, http)
            if self.config.admin is not None:
                await self._listen_admin(self.config.admin)
            if self.config.etsi004 is not None:
                await self._listen_004(self.config.etsi004, kme)
        except OSError as err:
            raise Rejected(f"cannot listen: {err.strerror or err}", code="kme.cannot_listen") from err
        self.ports = sae_port, peers.port

    async def _listen_etsi014(self, service: Etsi014Service, kme: Kme) -> int:
        """Listen here or in worker processes; return the port."""
        sae = self.config.sae_api
        plane = self.identity.planes["sae_api"]
        if self.config.kme.workers > 1:
            granting = Granting(kme, self.links.pairs, is_allowed=draws_ahead(self.config))
            pool = self.services["etsi014"] = self.workers = WorkerPool(service, self.config, granting, plane.approved)
            self._listeners.append(pool)
            self.identity.reloaded = pool.reload
            await pool.start(sae.host, sae.port)
            return pool.port
        self.services["etsi014"] = service
        listener = await service.listen(sae.host, sae.port, plane.server_context, plane.admit)
        self._listeners.append(listener)
        return listener.port

    def _copy_store(self, storage_key: bytes) -> CopyStorage:
        store, anew = open_copies(self.config.store, self.directory, self.config.kme.id, storage_key)
        if anew:
            self._events.emit(Event("keys.copies_damaged", "alarm", {"kme": self.config.kme.id}))
        return store

    async def _listen_skip(self, skip: SkipConfig, kme: Kme, http: HttpLimits) -> None:
        service = self.services["skip"] = SkipService(kme, skip.systems, self._entropy, self.links, http, self._clock)
        plane = self.identity.planes["skip"]
        listener = await service.listen(skip.api.host, skip.api.port, plane.server_context, plane.admit)
        self._listeners.append(listener)
        self.skip_port = listener.port

    async def _listen_admin(self, section: AdminSection) -> None:
        try:
            self.admin = AdminApi(self, section, self.identity.planes["admin"], self._clock)
        except AdminLogTampered as err:  # keys are served all the same: whoever spoils a record must not end that
            self._events.emit(Event(err.code, "alarm", {"reason": err.message, "hint": err.hint}))
            return
        self._listeners.append(await self.admin.start())

    async def _listen_004(self, section: Etsi004Section, kme: Kme) -> None:
        drawing = Drawing(kme, self.links, self._clock, self.config.limits.lease_timeout_s)
        streams = KeyStreams(kme, drawing, self.links.requests, self._entropy, self._clock, section)
        service = self.services["etsi004"] = Etsi004Service(streams, section, self._clock)
        plane = self.identity.planes["etsi004"]
        listener = await service.listen(section.host, section.port, plane.server_context, plane.admit)
        self._listeners.append(listener)
        self._upkeep.append(streams.run)
        self.etsi004_port = listener.port

    def _kme(self) -> Kme:
        limits = self.config.limits
        return Kme(
            KmeId(self.config.kme.id),
            directory=self.config.directory,
            pairs=self.links.pairs,
            facts=self.links.facts,
            max_stock_bits={KmeId(link.peer): link.max_stock_bits for link in self.config.links},
            local=LocalKeys(
                self._entropy, self._clock, capacity_bytes=limits.local_bytes, expiry_s=limits.key_expiry_s
            ),
            quota=Quota(self._clock, rate_bps=limits.sae_bits_per_s, burst_bits=limits.sae_burst_bits),
            guesses=Quota(self._clock, rate_bps=_GUESSES_PER_S, burst_bits=_GUESSES_AT_ONCE),
            policies=PolicyBook(
                KmeLimits(
                    limits.key_size_bits,
                    limits.min_key_size_bits,
                    limits.max_key_size_bits,
                    limits.max_key_per_request,
                    limits.max_request_bytes,
                    limits.max_additional_slaves,
                ),
                self.config.policies,
                self._clock,
            ),
            reserved_bits={
                KmeId(link.peer): int(link.max_stock_bits * link.reserved_share) for link in self.config.links
            },
            events=self._events,
        )

    def _peer_redial(self) -> PeerRedial:
        plane = self.identity.planes["peer_api"]
        self.links.admit = plane.admit
        redial = PeerRedial(self.config, self.links.requests, plane, self._events)
        self.identity.peers_renewed = redial.renewed
        return redial

    def _start_tasks(self) -> None:
        context = self.identity.planes["peer_api"].client_context
        work = [self._report(), self.identity.watch(), *self.links.work(context)]
        work += [upkeep() for upkeep in self._upkeep]
        if self._multicast is not None:
            work.append(self._multicast.run())
        self._tasks = [asyncio.create_task(item) for item in work]
        for task in self._tasks:
            task.add_done_callback(self._fail_loudly)

    # Life

    async def _report(self) -> None:
        last = {"links.json": "", WORKERS_FILE: ""}
        while True:
            states = {"links.json": self.link_states()}
            if self.workers is not None:
                states[WORKERS_FILE] = {"pid": os.getpid(), **self.workers.state()}
            for name, state in states.items():
                if (text := json.dumps(state)) != last[name]:
                    last[name] = text
                    _write_json(self.directory / name, state)
            await asyncio.sleep(_REPORT_S)

    async def _stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        await self.identity.stop()
        await self._redial.stop()
        if self._tasks:
            await self.links.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._remove_signs()  # the report may have written some again
        for service in self.services.values():
            if service.guard is not None:
                await service.guard.end_all()
        if self.admin is not None:
            await self.admin.stop()
        self.links.release()
        if self._copies is not None:
            self._copies.close()
        if self.operations is not None:
            await self.operations.stop()
        if self._lock is not None:
            self._lock.release()

    def _fail_loudly(self, task: asyncio.Task[None]) -> None:
        """End the process when a part of it fails unexpectedly: a half-working KME would not be noticed."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.defect = error
            log("kme.defect", **described(error))
            self.stop_wanted.set()

    def _remove_signs(self) -> None:
        for name in ("ready", "links.json", IDENTITY_FILE, WORKERS_FILE):
            with contextlib.suppress(FileNotFoundError):
                (self.directory / name).unlink()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)
