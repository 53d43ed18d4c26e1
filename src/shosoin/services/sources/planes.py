"""The TLS endpoint of a link whose bits come over TLS: a vendor that we call, or a device that calls us.

Like the KME's other endpoints it takes new files while it runs, and holds revocation lists and dates against whoever is
at the other end (``shosoin.services.tls_plane``). Sources ask it for the context of each new connection.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shosoin.adapters.key_exchange import KeyExchange, client_context_by, server_context_by
from shosoin.adapters.tls_files import TlsFiles
from shosoin.base.ports import Clock, EventSink
from shosoin.services.sources.config import Etsi004Section, Etsi014Section, PushSection, SourceSection
from shosoin.services.tls_plane import Contexts, TlsPlane

__all__ = ["plane_of"]


def plane_of(peer: str, section: SourceSection, clock: Clock, events: EventSink) -> TlsPlane | None:
    """Return the endpoint of a link's source, to be loaded; ``None`` if there is no TLS in it.

    Its name is the table's and the peer's: ``link.push:kme-b``.
    """
    match section:
        case Etsi014Section():
            return _plane(f"link.etsi014:{peer}", section, section.ca, _calling, clock, events)
        case Etsi004Section():
            return _plane(f"link.etsi004:{peer}", section, section.ca, _calling, clock, events)
        case PushSection():
            return _plane(f"link.push:{peer}", section, section.device_ca, _called, clock, events)
    return None


def _plane(
    name: str,
    section: Etsi014Section | Etsi004Section | PushSection,
    ca: Path,
    make: Callable[[TlsFiles], Contexts],
    clock: Clock,
    events: EventSink,
) -> TlsPlane:
    table, _, peer = name.partition(":")
    files = TlsFiles(section.certificate, section.key, ca, f"[{table}] of {peer}: key")
    return TlsPlane(name, files, section.crl, section.crl_required, make, clock, events)


def _calling(files: TlsFiles) -> Contexts:
    return Contexts(client=client_context_by(KeyExchange.CLASSICAL, files.certificate, files.key, files.ca))


def _called(files: TlsFiles) -> Contexts:
    return Contexts(server_context_by(KeyExchange.CLASSICAL, files.certificate, files.key, files.ca))
