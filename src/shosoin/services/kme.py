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
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.copy_store import CopyStore, open_copy_store
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.key_exchange import client_context_by, server_context_by
from shosoin.adapters.memory import collect_garbage_rarely
from shosoin.adapters.open_files import allow_many_open_files
from shosoin.adapters.stream_store import read_or_make_storage_key
from shosoin.base import KmeId, Rejected
from shosoin.base.ports import Event
from shosoin.keys.kme import Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.policy import KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.services.etsi014 import Etsi014Service, HttpLimits
from shosoin.services.json_log import LoggedEvents, described, log, start_logging
from shosoin.services.kme_config import KmeConfig, SaeApiSection, load_kme_config
from shosoin.services.kme_links import KmeLinks
from shosoin.services.kme_view import SaeService
from shosoin.services.link_driver import LinkDriver
from shosoin.services.multicast import Multicast
from shosoin.services.operations import Operations
from shosoin.services.peer_channel import listen
from shosoin.services.sae_http import Drawing
from shosoin.services.skip import SkipService
from shosoin.services.skip_config import SkipApiSection, SkipConfig
from shosoin.services.tls_listener import TlsListener

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
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with KmeProcess(config) as process:
        collect_garbage_rarely()
        await stop.wait()
    if process.defect is not None:
        raise RuntimeError("a part of the KME failed") from process.defect


class KmeProcess:
    """All parts of a KME, as an asynchronous context manager: running inside, stopped cleanly after."""

    def __init__(self, config: KmeConfig) -> None:
        self.config = config
        self.directory = config.kme.directory
        self._clock, self._entropy, self._events = SystemClock(), SystemEntropy(), LoggedEvents()
        self.links = KmeLinks(config, self._clock, self._entropy, self._events)
        self._tasks: list[asyncio.Task[None]] = []
        self._listeners: list[TlsListener] = []
        self.ports: tuple[int, int] = (0, 0)
        self.kme: Kme | None = None
        """What serves the SAEs, once every link was looked at."""
        self.services: dict[str, SaeService] = {}
        """How SAEs reach it, by the name of the interface."""
        self.operations = Operations(self, config.operations, self._clock) if config.operations else None
        self.skip_port: int | None = None
        self._multicast: Multicast | None = None
        self.defect: BaseException | None = None
        """Why a part of the process ended by itself."""

    async def __aenter__(self) -> KmeProcess:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._remove_signs()
        try:
            if self.operations is not None:
                await self.operations.start()  # first, so that it can be asked how far the rest is
            storage_key = read_or_make_storage_key(self.config.kme.storage_key_file)
            await self.links.open(storage_key)
            await self._listen(storage_key)
            self._start_tasks()
        except BaseException:
            await self._stop()
            raise
        _write_json(self.directory / "links.json", self.link_states())
        ready = {"pid": os.getpid(), "sae_port": self.ports[0], "peer_port": self.ports[1]}
        if self.operations is not None:
            ready["operations_port"] = self.operations.port
        if self.skip_port is not None:
            ready["skip_port"] = self.skip_port
        _write_json(self.directory / "ready", ready)
        log("kme.ready", kme=self.config.kme.id, **ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._remove_signs()
        await self._stop()
        log("kme.stopped", kme=self.config.kme.id)

    @property
    def drivers(self) -> Mapping[KmeId, LinkDriver]:
        """Links whose stored state could be used when the process started."""
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

    # Parts

    async def _listen(self, storage_key: bytes) -> None:
        sae, peer = self.config.sae_api, self.config.peer_api
        context = _sae_context(sae)
        limits = self.config.limits
        http = HttpLimits(
            limits.max_body_bytes,
            limits.max_bodies_bytes,
            limits.max_answers_bytes,
            limits.max_connections,
            limits.request_timeout_s,
            limits.idle_timeout_s,
            limits.lease_timeout_s,
        )
        kme = self.kme = self._kme()
        multicast = self._multicast = Multicast(
            kme,
            Drawing(kme, self.links, self._clock, limits.lease_timeout_s),
            self.links.requests,
            self._copy_store(storage_key),
            entropy=self._entropy,
            clock=self._clock,
            events=self._events,
            expiry_s=limits.key_expiry_s,
        )
        service = self.services["etsi014"] = Etsi014Service(kme, self.links, http, self._clock, multicast)
        peer_context = server_context_by(peer.key_exchange, peer.certificate, peer.key, peer.ca)
        try:
            peers = await listen(peer.host, peer.port, lambda: peer_context, self.links.accept, set(self.drivers))
            self._listeners.append(peers)
            saes = await service.listen(sae.host, sae.port, lambda: context)
            self._listeners.append(saes)
            if self.config.skip is not None:
                await self._listen_skip(self.config.skip, kme, http)
        except OSError as err:
            raise Rejected(f"cannot listen: {err.strerror or err}", code="kme.cannot_listen") from err
        self.ports = saes.port, peers.port

    def _copy_store(self, storage_key: bytes) -> CopyStore:
        store, anew = open_copy_store(self.directory / "copies.sqlite", storage_key)
        if anew:
            self._events.emit(Event("keys.copies_damaged", "alarm", {"kme": self.config.kme.id}))
        return store

    async def _listen_skip(self, skip: SkipConfig, kme: Kme, http: HttpLimits) -> None:
        service = self.services["skip"] = SkipService(kme, skip.systems, self._entropy, self.links, http, self._clock)
        context = _sae_context(skip.api)
        listener = await service.listen(skip.api.host, skip.api.port, lambda: context)
        self._listeners.append(listener)
        self.skip_port = listener.port

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

    def _start_tasks(self) -> None:
        peer, minimum = self.config.peer_api, ssl.TLSVersion.TLSv1_3
        context = client_context_by(peer.key_exchange, peer.certificate, peer.key, peer.ca, minimum=minimum)
        work = [self._report(), *self.links.work(lambda: context)]
        if self._multicast is not None:
            work.append(self._multicast.run())
        self._tasks = [asyncio.create_task(item) for item in work]
        for task in self._tasks:
            task.add_done_callback(self._fail_loudly)

    # Life

    async def _report(self) -> None:
        last = ""
        while True:
            await asyncio.sleep(_REPORT_S)
            states = self.link_states()
            if (text := json.dumps(states)) != last:
                last = text
                _write_json(self.directory / "links.json", states)

    async def _stop(self) -> None:
        for listener in self._listeners:
            listener.close()
        if self._tasks:
            await self.links.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for service in self.services.values():
            if service.guard is not None:
                await service.guard.end_all()
        self.links.release()
        if self._multicast is not None:
            self._multicast.close()
        if self.operations is not None:
            await self.operations.stop()

    def _fail_loudly(self, task: asyncio.Task[None]) -> None:
        """End the process when a part of it fails unexpectedly: a half-working KME would not be noticed."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.defect = error
            log("kme.defect", **described(error))
            os.kill(os.getpid(), signal.SIGTERM)

    def _remove_signs(self) -> None:
        for name in ("ready", "links.json"):
            with contextlib.suppress(FileNotFoundError):
                (self.directory / name).unlink()


def _sae_context(api: SaeApiSection | SkipApiSection) -> ssl.SSLContext:
    minimum = ssl.TLSVersion.TLSv1_2 if api.minimum_tls == "1.2" else ssl.TLSVersion.TLSv1_3
    return server_context_by(api.key_exchange, api.certificate, api.key, api.client_ca, minimum=minimum)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(content), encoding="utf-8")
    part.replace(path)
