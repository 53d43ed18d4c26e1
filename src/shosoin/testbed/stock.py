"""How many key bits each link of a testbed holds, as its KMEs advertise them through ETSI GS QKD 014.

Asked as the share node of each site, over mutual TLS, with a plain HTTP client: what a KME tells its own site is what
its clients can plan with. A KME that does not answer leaves ``None``.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Sequence
from typing import Any

from shosoin.testbed.layout import HOST, Layout, ProcessRole

__all__ = ["link_stock"]

TIMEOUT_S = 3.0
ANSWER_BYTES_MAX = 1 << 20


def link_stock(layout: Layout, sites: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return one entry per direction of each link: ``from``, ``to``, ``stock_bits`` and ``devices`` (or ``None``).

    Args:
        layout: the testbed.
        sites: only links that start at these sites; all when ``None``.
    """
    stock: list[dict[str, Any]] = []
    for site in [site.name for site in layout.scenario.sites] if sites is None else sites:
        peers = [link.other(site) for link in layout.scenario.links_of(site)]
        held, devices = _held_bits(layout, site, peers), _devices(layout, site)
        stock += [
            {"from": site, "to": peer, "stock_bits": held.get(peer), "devices": devices.get(peer) if held else None}
            for peer in peers
        ]
    return stock


def _devices(layout: Layout, site: str) -> dict[str, str]:
    """Return how the devices at a site are, by the site at the other end, as its KME last wrote down."""
    path = layout.site_directory(site) / "kme" / "state" / "links.json"
    try:
        links = json.loads(path.read_text("utf-8"))
        return {peer.removeprefix("kme-"): str(state["source"]) for peer, state in links.items() if "source" in state}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _held_bits(layout: Layout, site: str, peers: list[str]) -> dict[str, int]:
    """Return the bits that the KME of a site holds for each peer, as far as it answers."""
    held: dict[str, int] = {}
    connection = http.client.HTTPSConnection(
        HOST, layout.process(site, ProcessRole.KME).port, timeout=TIMEOUT_S, context=_context(layout, site)
    )
    try:
        for peer in peers:
            connection.request("GET", f"/api/v1/keys/{layout.scenario.site(peer).node_id}/status")
            response = connection.getresponse()
            body = response.read(ANSWER_BYTES_MAX)
            if response.status == http.client.OK:
                answer = json.loads(body)
                held[peer] = int(answer["stored_key_count"]) * int(answer["key_size"])
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return held
    finally:
        connection.close()
    return held


def _context(layout: Layout, site: str) -> ssl.SSLContext:
    node = layout.process(site, ProcessRole.NODE).directory
    context = ssl.create_default_context(cafile=str(layout.authority("sae")[0]))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(node / "sae.crt", node / "sae.key")
    return context
