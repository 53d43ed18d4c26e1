"""``testbed.json``: what programs that know nothing of us read to find every service and certificate.

Absolute paths, URLs on loopback, and the pid of each process or null when it does not run. It is replaced whole at
every change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shosoin.adapters.certificates import write_private
from shosoin.testbed.layout import HOST, Layout, Process, ProcessRole
from shosoin.testbed.scenario import Link, Owner, Site

__all__ = ["testbed_document", "write_testbed_json"]


def write_testbed_json(layout: Layout, pids: Mapping[Process, int]) -> None:
    """Replace the file."""
    write_private(layout.testbed_json, json.dumps(testbed_document(layout, pids), indent=1).encode() + b"\n")


def testbed_document(layout: Layout, pids: Mapping[Process, int]) -> dict[str, Any]:
    """Return the content of ``testbed.json``."""
    scenario = layout.scenario
    return {
        "scenario": scenario.name,
        "scheme": {"k": scenario.threshold, "n": scenario.shares},
        "simulated": True,
        "ca": {plane: str(layout.authority(plane)[0]) for plane in ("sae", "node")},
        "sites": [_site(layout, site, pids) for site in scenario.sites],
        "links": [_link(link) for link in scenario.links],
        "owners": [_owner(layout, owner) for owner in scenario.owners],
    }


def _site(layout: Layout, site: Site, pids: Mapping[Process, int]) -> dict[str, Any]:
    return {
        "name": site.name,
        "domain": site.domain,
        "kme": _service(layout.process(site.name, ProcessRole.KME), site.kme_id, pids),
        "node": _service(layout.process(site.name, ProcessRole.NODE), site.node_id, pids),
        "saes": [_sae(layout, site, sae_id) for sae_id in site.sae_ids],
    }


def _service(process: Process, identifier: str, pids: Mapping[Process, int]) -> dict[str, Any]:
    return {
        "id": identifier,
        "url": f"https://{HOST}:{process.port}",
        "server_name": identifier,
        "pid": pids.get(process),
    }


def _sae(layout: Layout, site: Site, sae_id: str) -> dict[str, str]:
    certificate, key = layout.sae_files(site.name, sae_id)
    return {"id": sae_id, "cert": str(certificate), "key": str(key)}


def _link(link: Link) -> dict[str, Any]:
    return {
        "a": link.a,
        "b": link.b,
        "kind": "simulated",
        "length_km": link.length_km,
        "attenuation_db": link.attenuation_db,
    }


def _owner(layout: Layout, owner: Owner) -> dict[str, str]:
    directory = layout.owner_directory(owner.id)
    return {
        "id": owner.id,
        "site": owner.site,
        "cert": str(directory / "owner.crt"),
        "key": str(directory / "owner.key"),
        "config": str(directory / "owner.toml"),
    }
