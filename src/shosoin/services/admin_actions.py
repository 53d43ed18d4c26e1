"""What the calls of administrators do; who may make them was decided before (``shosoin.services.admin_api``)."""

from __future__ import annotations

import asyncio
import difflib
import os
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Protocol

from shosoin.adapters.tls import Identity
from shosoin.base import KmeId, SaeId, Unavailable
from shosoin.base.ports import Clock
from shosoin.keys.burning import Holding
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.kme import Kme
from shosoin.services.admin_calls import AdminCall, NotThere
from shosoin.services.admin_interfaces import interface_states, worker_states
from shosoin.services.admin_openapi import openapi_document
from shosoin.services.health import live, ready
from shosoin.services.kme_view import KmeView
from shosoin.services.paused_pairs import write_paused
from shosoin.services.storage_probe import StorageProbe

__all__ = ["AdminActions", "AdminTarget"]

_STOP_S_MIN = 0.2
"""So that the answer reaches whoever asked."""
_BITS = GRANULE_BYTES * 8


class AdminTarget(KmeView, Protocol):
    """A KME process as its administrators see it."""

    @property
    def stop_wanted(self) -> asyncio.Event:
        """Set when the process is to end."""
        ...

    def drain(self) -> None:
        """Be unready from now on."""
        ...

    async def burn(self, peer: KmeId, *, dry_run: bool) -> Holding:
        """Destroy all that is shared with a peer at this end, or only look; return what that is."""
        ...

    async def lift(self, peer: KmeId) -> str:
        """Let a link that an alarm has suspended make keys again; return the code of the alarm, empty without one."""
        ...


class AdminActions:
    """The calls, by name."""

    def __init__(self, target: AdminTarget, clock: Clock) -> None:
        self._target, self._config = target, target.config
        self._storage = StorageProbe(self._config.kme.directory, clock, interval_s=1.0)
        self._stopping: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()
        """Of whoever changes which pairs are paused."""
        self._burning: defaultdict[KmeId, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Likewise of whoever burns a pair; that may take long, and a pause must not wait for it."""
        self._calls: dict[str, Callable[[str, Mapping[str, Any], str], Awaitable[dict[str, Any]]]] = {
            "status": self._status,
            "links": self._links,
            "pairs": self._pairs,
            "saes": self._saes,
            "interfaces": self._interfaces,
            "certificates": self._certificates,
            "openapi": self._openapi,
            "reload": self._reload,
            "stop": self._stop,
            "pause": self._pause,
            "resume": self._resume,
            "revoke": self._revoke,
            "burn": self._burn,
            "lift": self._lift,
        }

    async def do(self, call: AdminCall, subject: str, body: Mapping[str, Any], who: str) -> dict[str, Any]:
        """Carry out a call for an administrator and return the answer; the body is what the call defines."""
        return await self._calls[call.name](subject, body, who)

    def close(self) -> None:
        """Forget a stop that was asked for."""
        if self._stopping is not None:
            self._stopping.cancel()

    # Looking

    async def _status(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        target, kme = self._target, self._config.kme
        health = await ready(target, self._storage)
        state = {"site": kme.site, "pid": os.getpid(), "live": live(target).is_good, "draining": target.is_draining}
        return {**health.to_json(kme.id), **state}

    async def _links(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        return {"links": self._target.link_states()}

    async def _pairs(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        return {"pairs": {link.peer: self._pair(KmeId(link.peer)) for link in self._config.links}}

    def _pair(self, peer: KmeId) -> dict[str, Any]:
        driver = self._target.drivers.get(peer)
        if driver is None or driver.failed:
            return {"paused": peer in self._kme.paused, "refused": True}
        outgoing, incoming = driver.pair.outgoing, driver.pair.incoming
        return {
            "paused": peer in self._kme.paused,
            "refused": False,
            "open": driver.pair.is_open,
            "connected": driver.is_answered,
            "outgoing_stock_bits": outgoing.stock_granules() * _BITS,
            "leased_bits": outgoing.leased_granules() * _BITS,
            "incoming_held_bits": incoming.held_granules() * _BITS,
            "delivered_keys": {
                "outgoing": outgoing.tally.delivered.keys,
                "incoming": incoming.tally.delivered.keys,
            },
        }

    async def _saes(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        identity, own = self._target.identity, self._config.kme.id
        planes = [plane for name, plane in identity.planes.items() if name in {"sae_api", "skip", "etsi004"}]
        connections = self._at_workers()
        for plane in planes:
            connections.update(plane.callers("sae"))
        saes = {
            sae: {
                "kme": kme,
                "here": kme == own,
                "revoked": Identity("sae", sae) in identity.revoked.identities,
                "connections": connections[sae],
            }
            for sae, kme in self._config.directory.items()
        }
        return {"saes": saes}

    def _at_workers(self) -> Counter[str]:
        """Return how many connections with each SAE the workers had a second ago."""
        workers = self._target.workers
        return workers.counts.callers if workers is not None else Counter()

    async def _interfaces(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        target = self._target
        workers = worker_states(target.workers, self._config.kme.workers)
        return {"interfaces": interface_states(target.services), "workers": workers}

    async def _certificates(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        return self._target.identity.state()

    async def _openapi(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        return openapi_document()

    # Operating

    async def _reload(self, _: str, __: Mapping[str, Any], ___: str) -> dict[str, Any]:
        return await self._target.identity.reload()

    async def _stop(self, _: str, body: Mapping[str, Any], __: str) -> dict[str, Any]:
        drain_s = body.get("drain_s", 0)
        self.close()
        self._target.drain()
        loop = asyncio.get_running_loop()
        self._stopping = loop.call_later(max(_STOP_S_MIN, drain_s), self._target.stop_wanted.set)
        return {"stops_in_s": drain_s}

    async def _pause(self, peer: str, _: Mapping[str, Any], __: str) -> dict[str, Any]:
        return await self._set_paused(peer, paused=True)

    async def _resume(self, peer: str, _: Mapping[str, Any], __: str) -> dict[str, Any]:
        return await self._set_paused(peer, paused=False)

    async def _set_paused(self, peer: str, *, paused: bool) -> dict[str, Any]:
        kme_id = KmeId(_known(peer, [link.peer for link in self._config.links], "peer KME"))
        if paused:
            self._kme.paused.add(kme_id)  # at once, whether or not it can be kept, and whatever others do
        async with self._turn:
            wanted = self._kme.paused | {kme_id} if paused else self._kme.paused - {kme_id}
            if paused:
                self._kme.paused.add(kme_id)  # again: it may have been resumed in between
            await asyncio.to_thread(write_paused, self._config.kme.directory, wanted)
            if not paused:
                self._kme.paused.discard(kme_id)
        return {"peer": kme_id, "paused": paused}

    # Security

    async def _revoke(self, sae: str, body: Mapping[str, Any], who: str) -> dict[str, Any]:
        reason = body.get("reason", "")
        own = [each for each, kme in self._config.directory.items() if kme == self._config.kme.id]
        holder = Identity("sae", SaeId(_known(sae, own, f"SAE of {self._config.kme.id}")))
        at_workers = self._at_workers()[holder.id]  # which end them on their own
        gone = at_workers + await self._target.identity.revoke(holder, f"by {who}" + (f": {reason}" if reason else ""))
        return {"sae": holder.id, "revoked": True, "connections_ended": gone}

    async def _burn(self, peer: str, body: Mapping[str, Any], _: str) -> dict[str, Any]:
        kme_id = KmeId(_known(peer, [link.peer for link in self._config.links], "peer KME"))
        dry_run = body.get("dry_run", False)
        async with self._burning[kme_id]:
            held = await self._target.burn(kme_id, dry_run=dry_run)
        return {"peer": kme_id, "dry_run": dry_run, "blocks": held.blocks, "bits": held.granules * _BITS}

    async def _lift(self, peer: str, _: Mapping[str, Any], __: str) -> dict[str, Any]:
        kme_id = KmeId(_known(peer, [link.peer for link in self._config.links], "peer KME"))
        reason = await self._target.lift(kme_id)
        return {"peer": kme_id, "was_suspended": bool(reason), "code": reason}

    @property
    def _kme(self) -> Kme:
        kme = self._target.kme
        if kme is None:
            raise Unavailable("the KME still starts", code="admin.starting", retry_after_s=1.0)
        return kme


def _known(name: str, known: Collection[str], what: str) -> str:
    """Return a name that is known.

    Raises:
        NotThere: with the nearest.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(name[:64], known, n=1)
    raise NotThere(f"no such {what}", hint=f"did you mean {near[0]}?" if near else f"there are {len(known)}")
