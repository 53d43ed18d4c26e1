"""Metrics and health of a KME over plain HTTP, for the machine it runs on.

====================  ==============================================================================
``/metrics``          Prometheus text format 0.0.4, or OpenMetrics 1.0.0 for whoever prefers it
``/health/live``      200 or 503, JSON with reasons
``/health/ready``     likewise, with the state of every link
====================  ==============================================================================

No TLS and no authentication, hence loopback unless the configuration says otherwise; nothing served here is secret, but
stock and traffic are nobody's business either. Clients are strangers: few connections, a deadline on each, no bodies,
and whoever asks too often gets the last text again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from shosoin.base import Rejected
from shosoin.base.ports import Clock
from shosoin.services.accepted_types import prefers
from shosoin.services.health import Health, live, ready
from shosoin.services.http_answers import json_response, refusal
from shosoin.services.json_log import log
from shosoin.services.kme_view import KmeView
from shosoin.services.metrics import registry_of
from shosoin.services.operations_config import OperationsSection
from shosoin.services.small_http import SmallHttp
from shosoin.services.storage_probe import StorageProbe

__all__ = ["Operations"]

_FORMATS: dict[bool, tuple[Callable[..., bytes], str]] = {
    False: (generate_latest, CONTENT_TYPE_PLAIN_0_0_4),
    True: (openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST),
}
"""By whether OpenMetrics is wanted."""


class Operations:
    """The operations endpoint of one KME."""

    def __init__(self, view: KmeView, section: OperationsSection, clock: Clock) -> None:
        self._view, self._section, self._clock = view, section, clock
        http = SmallHttp(
            "operations", self._answer, connections_max=section.max_connections, idle_s=section.idle_timeout_s
        )
        self.guard = http.guard
        self._registry = registry_of(view, clock, self.guard, sae_pairs_max=section.max_sae_pairs)
        self._texts: dict[bool, tuple[float, bytes]] = {}
        self._readiness: tuple[float, Health] | None = None
        self._storage = StorageProbe(view.config.kme.directory, clock, interval_s=section.min_scrape_interval_s)
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, 0 before it does."""
        return int(self._server.sockets[0].getsockname()[1]) if self._server is not None else 0

    async def start(self) -> None:
        """Listen.

        Raises:
            Rejected: the address cannot be used.
        """
        loop, place = asyncio.get_running_loop(), self._section
        try:
            self._server = await loop.create_server(self.guard, place.host, place.port, backlog=16)
        except OSError as err:
            reason = err.strerror or str(err)
            raise Rejected(f"[operations] cannot listen: {reason}", code="kme.cannot_listen") from err
        log("operations.listening", host=place.host, port=self.port, remote=place.allow_remote)

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self.guard.end_all()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in {"GET", "HEAD"}:
            response = refusal(405, {"message": "only GET and HEAD are defined"})
            response.headers["Allow"] = "GET, HEAD"
            return response
        match request.path:
            case "/metrics":
                wanted = prefers(request.headers.get("Accept", ""), "application/openmetrics-text", "text/plain")
                headers = {"Content-Type": _FORMATS[wanted][1], "Cache-Control": "no-store"}
                return web.Response(body=self._text(open_metrics=wanted), headers=headers)
            case "/health/live":
                return self._told(live(self._view))
            case "/health/ready":
                return self._told(await self._ready())
            case _:
                return json_response(404, {"message": "no such path: expected /metrics, /health/live or /health/ready"})

    def _text(self, *, open_metrics: bool) -> bytes:
        """Return the metrics, as they are or as they were a moment ago."""
        now_s = self._clock.now_s()
        made_s, text = self._texts.get(open_metrics, (0.0, b""))
        if not text or now_s - made_s >= self._section.min_scrape_interval_s:
            text = _FORMATS[open_metrics][0](self._registry)
            self._texts[open_metrics] = now_s, text
        return text

    async def _ready(self) -> Health:
        """Return readiness, likewise."""
        now_s = self._clock.now_s()
        if self._readiness is None or now_s - self._readiness[0] >= self._section.min_scrape_interval_s:
            self._readiness = now_s, await ready(self._view, self._storage)
        return self._readiness[1]

    def _told(self, health: Health) -> web.Response:
        return json_response(200 if health.is_good else 503, health.to_json(self._view.config.kme.id))
