"""Who a KME is and whom it admits, on all its TLS endpoints: kept up to date while it runs.

Files are looked at every few seconds, and at once on SIGHUP or when an administrator asks. ``identity.json`` in the
KME's directory says what is in use; its counter of reloads tells whoever asked that it was done.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from ssl import TLSVersion
from typing import Any

from shosoin.adapters.certificates import write_private
from shosoin.adapters.key_exchange import KeyExchange, client_context_by, server_context_by
from shosoin.adapters.process_mark import mark_of
from shosoin.adapters.tls import Identity
from shosoin.adapters.tls_files import TlsFiles, trace
from shosoin.base import KmeId, Rejected, ShosoinError
from shosoin.base.ports import Clock, Event, EventSink
from shosoin.services.admin_config import AdminSection
from shosoin.services.etsi004_config import Etsi004Section
from shosoin.services.identity_config import are_of_one_plane, trusted_by
from shosoin.services.json_log import described, log
from shosoin.services.kme_config import KmeConfig, PeerApiSection, SaeApiSection
from shosoin.services.revoked_names import RevokedNames, add_revoked, read_revoked
from shosoin.services.skip_config import SkipApiSection
from shosoin.services.sources.config import PushSection, SourceSection
from shosoin.services.sources.planes import plane_of
from shosoin.services.tls_plane import Approved, Contexts, TlsPlane

__all__ = ["IDENTITY_FILE", "KmeIdentity", "followed_plane"]

IDENTITY_FILE = "identity.json"
Section = SaeApiSection | PeerApiSection | SkipApiSection | Etsi004Section | AdminSection


class KmeIdentity:
    """All TLS endpoints of one KME."""

    def __init__(self, config: KmeConfig, clock: Clock, events: EventSink) -> None:
        self._config, self._clock, self._events = config, clock, events
        self.planes: dict[str, TlsPlane] = {}
        """The endpoints, by what the configuration calls them."""
        self.source_planes: dict[KmeId, TlsPlane] = {}
        """Those of them that key sources have, by peer."""
        self.revoked = RevokedNames()
        self.revoked_fault = ""
        """Why the file of revoked names is not what is in use."""
        self.reloads = 0
        self._looked_s = time.monotonic()
        """When the last look began that was asked for, by the clock of this machine that is never set."""
        self.peers_renewed: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Called when other KMEs see a new certificate of ours."""
        self.reloaded: Callable[[], None] = lambda: None
        """Called when something else may be in use than before."""
        self._revoked_trace: object = None
        self._loaded = False
        self._unwritten: set[Identity] = set()
        """Revoked by an administrator, and not in the file yet."""
        self._wanted = asyncio.Event()
        self._turn = asyncio.Lock()
        self._redialling: asyncio.Task[None] | None = None
        self._make_planes()

    @property
    def revoked_file(self) -> Path:
        """Where names and serial numbers of revoked holders are."""
        return self._config.identity.revoked_file or self._config.kme.directory / "revoked"

    def load(self) -> None:
        """Read everything for the first time.

        Raises:
            Rejected: a file cannot be used.
            Denied: others can read a key.
        """
        self._revoked_trace = trace(self.revoked_file)
        self._revoke(read_revoked(self.revoked_file))
        for plane in self.planes.values():
            plane.load()
        self._loaded = True
        self._write(self._content())

    # While it runs

    def reload_soon(self) -> None:
        """Look at all files at once (SIGHUP)."""
        self._wanted.set()

    async def reload(self) -> dict[str, Any]:
        """Look at all files now, and return what is in use."""
        await self._refresh(forced=True)
        return self.state()

    async def watch(self) -> None:
        """Look at the files again and again, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.identity.poll_interval_s):
                    await self._wanted.wait()
            forced = self._wanted.is_set()
            self._wanted.clear()
            await self._refresh(forced=forced)

    async def revoke(self, identity: Identity, remark: str) -> int:
        """Refuse a holder from now on, and return how many of its connections were ended.

        Raises:
            Unavailable: that could not be written down; it holds until the next start all the same.
        """
        self._unwritten.add(identity)  # at once: whoever holds the turn may wait for a disk
        self._revoke(self.revoked)
        gone = self._cut()
        self.reloaded()
        async with self._turn:
            await asyncio.to_thread(add_revoked, self.revoked_file, identity, remark)
            self._revoked_trace = None
            if await self._look_at_revoked(forced=False) or not self.revoked_fault:
                self._unwritten.discard(identity)  # an operator may take it out of the file again
            await self._tell()
        return gone

    async def stop(self) -> None:
        """End what is under way."""
        self.peers_renewed = None
        if self._redialling is not None:
            self._redialling.cancel()
            await asyncio.gather(self._redialling, return_exceptions=True)

    async def _refresh(self, *, forced: bool) -> None:
        async with self._turn:
            if forced:
                self._looked_s = time.monotonic()
            changed = await self._look_at_revoked(forced=forced)
            shown = self._shown_to_peers()
            before = [plane.fault for plane in self.planes.values()]
            for plane in self.planes.values():
                changed |= await plane.look(forced=forced)
            self._cut()
            self.reloads += forced
            if changed or forced or before != [plane.fault for plane in self.planes.values()]:
                self.reloaded()
                await self._tell()
            if self._shown_to_peers() != shown:
                self._redial()

    def _shown_to_peers(self) -> str:
        plane = self.planes.get("peer_api")
        return plane.credential.digest if plane is not None else ""

    def _redial(self) -> None:
        if self.peers_renewed is None:
            return
        if self._redialling is not None:
            self._redialling.cancel()
        self._redialling = asyncio.create_task(self.peers_renewed())
        self._redialling.add_done_callback(_log_defect)

    def _cut(self) -> int:
        return sum(plane.cut() for plane in self.planes.values())

    # Names

    async def _look_at_revoked(self, *, forced: bool) -> bool:
        found = await asyncio.to_thread(trace, self.revoked_file)
        if found == self._revoked_trace and not forced:
            return False
        try:
            revoked = await asyncio.to_thread(self._read_revoked)
        except Rejected as err:
            if self.revoked_fault != err.message or forced:
                self._events.emit(Event("identity.revoked_unusable", "warning", {"reason": err.message}))
            self.revoked_fault = err.message
            return False
        self._revoked_trace, self.revoked_fault = found, ""
        changed = revoked != self.revoked
        self._revoke(revoked)
        return changed

    def _read_revoked(self) -> RevokedNames:
        if len(self.revoked) and trace(self.revoked_file) == errno.ENOENT:
            raise Rejected(f"{self.revoked_file} is gone; who was revoked there still is", code="identity.bad_revoked")
        return read_revoked(self.revoked_file)

    def _revoke(self, revoked: RevokedNames) -> None:
        revoked = self.revoked = RevokedNames(revoked.identities | self._unwritten, revoked.serials)
        for plane in self.planes.values():
            plane.revoked = revoked

    # What is told

    def state(self) -> dict[str, Any]:
        """Return what is in use; nothing secret."""
        return {
            "reloads": self.reloads,
            "time": datetime.fromtimestamp(self._clock.wall_s(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "endpoints": {name: plane.state() for name, plane in self.planes.items()},
            "revoked": {"entries": len(self.revoked), "refused_file": self.revoked_fault or None},
        }

    @property
    def is_loaded(self) -> bool:
        """Whether the files were read."""
        return self._loaded

    def ends(self) -> dict[str, str]:
        """Return when the certificate of each endpoint expires."""
        return {name: plane.state()["valid_until"] for name, plane in self.planes.items()}

    def faults(self) -> list[tuple[str, str]]:
        """Return why requests cannot succeed, as code and message; without one source others may have keys."""
        of_sources = {plane.name for plane in self.source_planes.values()}
        return [fault for name, plane in self.planes.items() if name not in of_sources for fault in plane.faults()]

    async def _tell(self) -> None:
        """Write down what is in use."""
        await asyncio.to_thread(self._write, self._content())

    def _content(self) -> bytes:
        process = {"pid": os.getpid(), "mark": mark_of(os.getpid()), "looked_s": self._looked_s}
        return json.dumps({**process, **self.state()}).encode()

    def _write(self, content: bytes) -> None:
        try:
            write_private(self._config.kme.directory / IDENTITY_FILE, content)
        except OSError as err:  # a full disk must not end what is served
            log("identity.not_told", reason=err.strerror)

    # Endpoints

    def _make_planes(self) -> None:
        config, peer = self._config, self._config.peer_api
        self._add("sae_api", config.sae_api, config.sae_api.client_ca, _maker(config.sae_api))
        self._add("peer_api", peer, peer.ca, _maker(peer, dials=True))
        if config.skip is not None:
            self._add("skip", config.skip.api, config.skip.api.client_ca, _maker(config.skip.api))
        if config.etsi004 is not None:
            self._add("etsi004", config.etsi004, config.etsi004.client_ca, _maker(config.etsi004))
        if config.admin is not None:
            self._add("admin", config.admin, config.admin.client_ca, _maker(config.admin))
        for kme, source in config.sources.items():
            self._add_source(kme, source)

    def _add(self, name: str, section: Section, ca: Path, make: Callable[[TlsFiles], Contexts]) -> None:
        files = TlsFiles(section.certificate, section.key, ca, f"{_section_of(name)} key")
        plane = TlsPlane(name, files, section.crl, section.crl_required, make, self._clock, self._events)
        plane.shared = self._shared
        self.planes[name] = plane

    def _add_source(self, peer: KmeId, section: SourceSection) -> None:
        plane = plane_of(peer, section, self._clock, self._events)
        if plane is None:
            return
        if isinstance(section, PushSection):  # whom we call, we call by name: others may trust that authority, too
            plane.shared = self._shared
        self.planes[plane.name] = self.source_planes[peer] = plane

    def _shared(self, name: str, added: frozenset[bytes]) -> str:
        """Return why an endpoint may not trust more authorities: another plane does, in use or on the disk."""
        if self._config.identity.allow_shared_ca or not added:
            return ""
        others = {other: trusted_by(path) for other, path in self._config.authorities().items()}
        for other, plane in self.planes.items():
            if (section := _section_of(other)) in others:
                others[section] |= plane.trusted
        for other, trusted in others.items():
            if not are_of_one_plane(_section_of(name), other) and trusted & added:
                return f"{_section_of(name)} and {other} would trust the same authority"
        return ""


def followed_plane(config: KmeConfig, approved: Approved, clock: Clock, events: EventSink) -> TlsPlane:
    """Return the endpoint for SAEs in a worker process: the owner of the streams looks at files, and tells."""
    place = config.sae_api
    files = TlsFiles(place.certificate, place.key, place.client_ca)
    plane = TlsPlane("sae_api", files, None, place.crl_required, _maker(place), clock, events)
    plane.follow(approved)
    return plane


def _section_of(name: str) -> str:
    """Return what the configuration calls an endpoint."""
    table, _, peer = name.partition(":")
    if peer:
        return f"[{table}] of {peer}"
    return f"[kme.{name}]" if name in {"sae_api", "peer_api"} else f"[{name}]"


def _maker(section: Section, *, dials: bool = False) -> Callable[[TlsFiles], Contexts]:
    """Return what makes the contexts of an endpoint from its files; the only place that chooses a TLS library."""
    with_1_2 = isinstance(section, SaeApiSection | SkipApiSection | Etsi004Section) and section.minimum_tls == "1.2"
    minimum = TLSVersion.TLSv1_2 if with_1_2 else TLSVersion.TLSv1_3
    key_exchange = KeyExchange.CLASSICAL if isinstance(section, AdminSection) else section.key_exchange

    def make(files: TlsFiles) -> Contexts:
        where = key_exchange, files.certificate, files.key, files.ca
        client = client_context_by(*where, minimum=minimum) if dials else None
        return Contexts(server_context_by(*where, minimum=minimum), client)

    return make


def _log_defect(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, ShosoinError):
        log("identity.defect", **described(error))
