"""What a KME's configuration, and the KME that runs by it on this machine, give.

The files are read and checked as at a start. Of a KME that runs, what it wrote into its directory is held against what
can be seen: its process, the certificate that its port shows, and whether each worker has spoken lately. Nothing is
changed.
"""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.private_files import read_private
from shosoin.base import ShosoinError
from shosoin.base.messages import text
from shosoin.base.ports import Event
from shosoin.services.kme_config import KmeConfig, load_kme_config
from shosoin.services.kme_identity import KmeIdentity
from shosoin.services.kme_reload import running_kme
from shosoin.services.storage_key_config import secret_files
from shosoin.services.worker_pool import WORKERS_FILE
from shosoin.testbed.finding import Finding

__all__ = ["examine_kme"]

_SECRET_BYTES_MAX = 1 << 16
_SOON = timedelta(days=30)
_TRIES_PER_WORKER = 4
_TIMEOUT_S = 5.0


def examine_kme(path: Path) -> list[Finding]:
    """Return all findings about a KME.

    Args:
        path: its configuration.

    Raises:
        Rejected: the configuration is wrong.
    """
    config = load_kme_config(path)
    state = running_kme(config.kme.directory)
    findings = [files(config), process(config, state)]
    if state is not None:
        findings += [in_use(state), port(config, state), workers(config, state)]
    return findings


def files(config: KmeConfig) -> Finding:
    """Whether a start would take the files that the configuration names, and when the first certificate expires."""
    identity = KmeIdentity(config, SystemClock(), _Silent())
    try:
        for plane in identity.planes.values():
            plane.load()
        for link in config.links:
            read_private(
                link.pair_secret_file, f"[[link]] of {link.peer}: pair_secret_file", bytes_max=_SECRET_BYTES_MAX
            )
        for secret in filter(Path.exists, secret_files(config.storage_key)):
            read_private(secret, "storage key", bytes_max=_SECRET_BYTES_MAX)
    except ShosoinError as err:
        found = f"{err.message} ({err.hint})" if err.hint else err.message
        return Finding("kme_files", found, "kme_files_wrong", False, {"code": err.code})
    name, plane = min(identity.planes.items(), key=lambda item: item[1].credential.ends)
    ends = plane.credential.ends
    found = text("doctor.found_kme_files", endpoint=name, until=f"{ends:%Y-%m-%d}")
    lasting = ends - datetime.now(UTC) > _SOON
    details = {"valid_until": identity.ends()}
    return Finding("kme_files", found, "kme_files_ok" if lasting else "kme_files_soon", lasting, details)


def process(config: KmeConfig, state: dict[str, Any] | None) -> Finding:
    """Whether the KME runs."""
    kme, pid = str(config.kme.id), state["pid"] if state is not None else None
    found = text("doctor.found_kme_stands", kme=kme) if pid is None else text("doctor.found_kme_runs", kme=kme, pid=pid)
    means = "kme_stands" if pid is None else "kme_runs"
    return Finding("kme", found, means, pid is not None, {"kme": kme, "pid": pid})


def in_use(state: dict[str, Any]) -> Finding:
    """Whether it uses what is on the disk."""
    refused = {name: each["refused_files"] for name, each in state["endpoints"].items() if each["refused_files"]}
    refused |= {
        f"{name} crl": each["refused_crl"][0] for name, each in state["endpoints"].items() if each["refused_crl"]
    }
    if state["revoked"]["refused_file"]:
        refused["revoked"] = state["revoked"]["refused_file"]
    said = "; ".join(f"{name}: {why}" for name, why in refused.items()) or text("doctor.found_kme_in_use")
    means = "kme_in_use_old" if refused else "kme_in_use_ok"
    return Finding("kme_in_use", said, means, not refused, {"refused": refused})


def port(config: KmeConfig, state: dict[str, Any]) -> Finding:
    """Whether the port for SAEs shows the certificate that the KME says; with workers it is asked several times."""
    if config.sae_api.key_exchange is KeyExchange.REQUIRE_HYBRID:
        return Finding("kme_port", text("doctor.found_kme_port_untried"), "kme_port_untried", False, {"shown": None})
    wanted, seen = state["endpoints"]["sae_api"]["serial"], set()
    try:
        for _ in range(_TRIES_PER_WORKER * max(1, config.kme.workers)):
            seen.add(f"{_serial_shown(config.sae_api.host, _sae_port(config)):x}")
    except (OSError, ValueError) as err:
        return Finding("kme_port", str(err), "kme_port_wrong", False, {"shown": None})
    found = text("doctor.found_kme_port", serials=", ".join(sorted(seen)))
    good = seen == {wanted}
    return Finding("kme_port", found, "kme_port_ok" if good else "kme_port_wrong", good, {"shown": sorted(seen)})


def workers(config: KmeConfig, state: dict[str, Any]) -> Finding:
    """Whether there are as many workers as configured, and each answers and shows the KME's certificate."""
    if config.kme.workers <= 1:
        return Finding("kme_workers", text("doctor.found_kme_alone"), "kme_alone", True, {"configured": 0})
    said = _told(config.kme.directory / WORKERS_FILE)
    if said.get("pid") != state["pid"]:  # of another run
        said = {}
    each = said.get("workers", [])
    shown = state["endpoints"]["sae_api"]["sha256"]
    well = [one["pid"] for one in each if one["answers"] and one["certificate"] == shown]
    details = {"configured": config.kme.workers, "restarts": said.get("restarts", 0), "workers": each}
    found = text(
        "doctor.found_kme_workers", well=len(well), configured=config.kme.workers, restarts=details["restarts"]
    )
    good = len(well) == config.kme.workers
    return Finding("kme_workers", found, "kme_workers_ok" if good else "kme_workers_missing", good, details)


def _sae_port(config: KmeConfig) -> int:
    return config.sae_api.port or int(_told(config.kme.directory / "ready").get("sae_port", 0))


def _told(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    return {}


def _serial_shown(host: str, number: int) -> int:
    """Return the serial number of the certificate that a port shows; nothing is sent, and nobody is believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    where = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # we call
    with socket.create_connection((where, number), timeout=_TIMEOUT_S) as plain, context.wrap_socket(plain) as tls:
        der = tls.getpeercert(binary_form=True) or b""
    return x509.load_der_x509_certificate(der).serial_number


class _Silent:
    """Where events go when nobody listens."""

    def emit(self, event: Event) -> None:
        """Drop it."""
