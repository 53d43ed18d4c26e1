"""A share node as a process: one site's shares and registers, served over mutual TLS until told to stop.

``run`` reads the configuration, opens the store (which recovers from whatever happened), connects to the site's KME,
listens, writes ``ready`` into the node's directory, and works until SIGTERM or SIGINT. Then it stops listening, lets
running requests end, and closes the store. ``kill -9`` at any moment loses nothing that was acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from shosoin.adapters.certificates import make_private_directory, write_private
from shosoin.adapters.clock import SystemClock
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.memory import collect_garbage_rarely, reuse_large_blocks
from shosoin.adapters.private_files import read_private, require_tls_key
from shosoin.adapters.runtime import AsyncioRuntime
from shosoin.adapters.share_store import ShareStore, StoreLimits
from shosoin.adapters.tls import server_context
from shosoin.base import OwnerId, Rejected, SiteId, Unavailable
from shosoin.base.ports import Event, EventSink, KeySource
from shosoin.services.guarded_connections import ConnectionGuard, identity_of
from shosoin.services.json_log import LoggedEvents, log, start_logging
from shosoin.services.node_config import NodeConfig, OwnerSection, load_node_config
from shosoin.services.node_edge import NodeEdge
from shosoin.services.node_upkeep import Upkeep, describe
from shosoin.vault.signing import SiteSigner
from shosoin.vault.site import OwnerRecord, SiteNode

__all__ = ["ServingNode", "listening", "node_service", "run"]

_READ_BUFFER_BYTES = 1 << 20
_SIGNING_KEY_BYTES = 1952
"""ML-DSA-65 public key (FIPS 204)."""
_SIGNING_SEED_BYTES = 32
_FILE_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class ServingNode:
    """A node that serves."""

    port: int
    store: ShareStore
    upkeep: Upkeep
    edge: NodeEdge


def run(config_path: Path) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        Rejected: the configuration is wrong.
        Denied: others can read a secret.
        Unavailable: the port or the store is taken.
        Alarm: the store's records are missing or older than its directory.
    """
    start_logging()
    reuse_large_blocks()
    config = load_node_config(config_path)
    asyncio.run(_until_told(config))


async def _until_told(config: NodeConfig) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _key_source(config) as keys, node_service(config, keys, LoggedEvents()) as node:
        collect_garbage_rarely()
        log("node.serving", site=config.node.site, node=config.node.id, port=node.port, pid=os.getpid())
        await stop.wait()
        log("node.stopping", site=config.node.site)


def _key_source(config: NodeConfig) -> KmeClient:
    kme = config.kme
    require_tls_key(kme.key, "[node.kme] key")
    return KmeClient(
        kme.url,
        identity=kme.id or None,
        server_name=kme.server_name,
        certificate=kme.certificate,
        key=kme.key,
        ca=kme.ca,
        key_exchange=kme.key_exchange,
    )


@asynccontextmanager
async def node_service(config: NodeConfig, keys: KeySource, sink: EventSink) -> AsyncIterator[ServingNode]:
    """Serve inside the ``async with``."""
    make_private_directory(config.node.directory)
    async with AsyncExitStack() as stack:
        store = _open_store(config, sink)
        stack.push_async_callback(store.close)
        config.ready.unlink(missing_ok=True)  # not before the store is ours: a node that runs may have written it
        runtime = AsyncioRuntime()
        stack.callback(runtime.close)
        logic = SiteNode(
            config.node.site,
            config.kme.sae_id,
            _owners(config),
            store,
            keys,
            entropy=SystemEntropy(),
            clock=SystemClock(),
            sink=sink,
            runtime=runtime,
            signer=_signer(config),
            site_keys=_site_keys(config),
        )
        edge = NodeEdge(logic, config.limits, sink)
        port = await stack.enter_async_context(listening(config, edge))
        upkeep = Upkeep(store, config.node.site, config.limits, sink)
        task = asyncio.create_task(upkeep.run())
        stack.push_async_callback(_cancel, task)
        _write_ready(config, port)
        stack.callback(config.ready.unlink, missing_ok=True)
        yield ServingNode(port, store, upkeep, edge)


def _open_store(config: NodeConfig, sink: EventSink) -> ShareStore:
    limits = StoreLimits(
        orphan_age_s=config.limits.orphan_age_s,
        staging_age_s=config.limits.orphan_age_s,
        reserve_bytes=config.limits.reserve_bytes,
    )
    store = ShareStore.open(config.store, clock=SystemClock(), limits=limits)
    found = store.recovered
    sink.emit(
        Event(
            "vault.store_opened",
            "info",
            {
                "site": config.node.site,
                "staging_dropped": found.staging_dropped,
                "files_unclaimed": found.files_unclaimed,
                "damaged": len(found.damaged),
            },
        )
    )
    for key in found.damaged:
        sink.emit(Event("vault.share_damaged", "warning", {"site": config.node.site, **describe(key)}))
    return store


def _owners(config: NodeConfig) -> dict[OwnerId, OwnerRecord]:
    return {owner.id: _owner(owner) for owner in config.owners}


def _owner(owner: OwnerSection) -> OwnerRecord:
    public_key = _key_bytes(owner.signing_public_key, owner.id, _SIGNING_KEY_BYTES)
    return OwnerRecord(owner.id, owner.home_site, public_key, owner.quota_bytes)


def _site_keys(config: NodeConfig) -> dict[SiteId, bytes]:
    return {site.name: _key_bytes(site.signing_public_key, site.name, _SIGNING_KEY_BYTES) for site in config.sites}


def _signer(config: NodeConfig) -> SiteSigner:
    """Return the site's signing key.

    Raises:
        Rejected: it cannot be read, or is not the one that the other sites are told of.
        Denied: others can read it.
    """
    seed = read_private(config.node.signing_key, "[node] signing_key", bytes_max=_FILE_BYTES_MAX)
    signer = SiteSigner(_sized(seed, config.node.site, _SIGNING_SEED_BYTES))
    if _site_keys(config)[config.node.site] != signer.public_key:
        raise Rejected(
            f"[[site]] has another signing key for {config.node.site} than [node] signing_key", code="config.bad_value"
        )
    return signer


def _key_bytes(path: Path, whose: str, size_bytes: int) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as err:
        raise Rejected(f"cannot read the signing key of {whose}: {err.strerror}", code="config.bad_value") from err
    return _sized(content, whose, size_bytes)


def _sized(content: bytes, whose: str, size_bytes: int) -> bytes:
    if len(content) != size_bytes:
        raise Rejected(
            f"the signing key of {whose} has {len(content)} bytes, expected {size_bytes}", code="config.bad_value"
        )
    return content


@asynccontextmanager
async def listening(config: NodeConfig, edge: NodeEdge) -> AsyncIterator[int]:
    """Listen; at the end stop listening first, then let requests end."""
    limits = config.limits
    web_server = web.Server(
        edge.handle,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=limits.idle_s,
        lingering_time=2.0,
        read_bufsize=_READ_BUFFER_BYTES,
    )
    guard = ConnectionGuard(web_server, limits.connections, limits.idle_s, who=_name_of)
    require_tls_key(config.api.key, "[node.api] key")
    context = server_context(config.api.certificate, config.api.key, config.api.client_ca)
    try:
        server = await asyncio.get_running_loop().create_server(
            guard,
            config.api.host,
            config.api.port,
            ssl=context,
            ssl_handshake_timeout=limits.handshake_s,
            ssl_shutdown_timeout=2.0,
            backlog=256,
        )
    except OSError as err:
        message = f"cannot listen at {config.api.host} port {config.api.port}: {err.strerror}"
        raise Unavailable(message, code="node.cannot_listen") from err
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.stop_s):
                await edge.idle.wait()
        await web_server.shutdown(1.0)
        await guard.end_all()


def _name_of(transport: asyncio.Transport) -> str:
    """Return who is at the other end of a connection, empty if its certificate names nobody."""
    holder = identity_of(transport)
    return holder.id if holder is not None else ""


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _write_ready(config: NodeConfig, port: int) -> None:
    value = {
        "pid": os.getpid(),
        "node": config.node.id,
        "site": config.node.site,
        "host": config.api.host,
        "port": port,
    }
    write_private(config.ready, json.dumps(value).encode())
