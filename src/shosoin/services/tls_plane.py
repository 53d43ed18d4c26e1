"""One TLS endpoint of a KME while it runs: what it shows, whom it admits, and the connections that it has.

New files are made into a new context when they are right, and the next connection gets it; else the old ones stay in
use and it is said why. Revocation and expiry are held against a connection when it begins and at every look, so that
whoever is revoked or out of time loses the connections that are open. It is checked here and not by the TLS library,
hence the same for every library and for names and lists alike; nothing that a peer sends is looked at before.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shosoin.adapters.peer_chain import Holder, holder_of
from shosoin.adapters.revocation_lists import Reading, RevocationList, list_traces, merged, read_lists
from shosoin.adapters.tls import Identity
from shosoin.adapters.tls_files import (
    TlsBytes,
    TlsCredential,
    TlsFiles,
    issuer_id,
    load_credential,
    losses,
    made_credential,
)
from shosoin.base import Denied, Rejected
from shosoin.base.ports import Clock, Event, EventSink
from shosoin.services.json_log import described
from shosoin.services.revoked_names import RevokedNames

__all__ = ["Approved", "Contexts", "PlaneTally", "TlsPlane"]

_WARNINGS_DAYS = (30, 7, 1)


@dataclass(frozen=True, slots=True)
class Contexts:
    """What connections are made with."""

    server: ssl.SSLContext | None = None
    """Where others call us."""
    client: ssl.SSLContext | None = None
    """Where we call others."""


@dataclass(frozen=True, slots=True)
class Approved:
    """What an endpoint uses at a moment, as it was when it was checked, for whoever serves in its place."""

    files: TlsBytes
    """A secret."""
    lists: Mapping[bytes, RevocationList]
    revoked: RevokedNames


@dataclass(slots=True)
class PlaneTally:
    """What happened since the start."""

    loaded: int = 0
    """New files taken into use."""
    refused: int = 0
    """New files that were not."""
    turned_away: int = 0
    """Connections refused for revocation."""
    cut: int = 0
    """Connections ended for revocation or expiry."""


@dataclass(slots=True)
class _Open:
    holder: Holder
    shown: str
    """Digest of what we showed."""


@dataclass(slots=True)
class _Found:
    """What a look at the files brought."""

    credential: tuple[TlsCredential, Contexts] | None = None
    fault: str = ""
    reading: Reading | None = None
    traces: tuple[object, ...] = ()


@dataclass(slots=True)
class TlsPlane:
    """Call ``load`` once, then ``look`` again and again."""

    name: str
    """What the configuration calls it: ``sae_api``, ``peer_api``, ``skip``, ``admin``, ``link.push:kme-b``."""
    files: TlsFiles
    crl: Path | None
    crl_required: bool
    make: Callable[[TlsFiles], Contexts]
    clock: Clock
    events: EventSink
    tally: PlaneTally = field(default_factory=PlaneTally)
    revoked: RevokedNames = field(default_factory=RevokedNames)
    fault: str = ""
    """Why the files on disk are not what is in use, empty if they are."""
    list_faults: tuple[str, ...] = ()
    """Why lists on disk are not in use."""
    lists: dict[bytes, RevocationList] = field(default_factory=dict)
    trusted: frozenset[bytes] = frozenset()
    """The authorities in use (``tls_files.issuer_id``)."""
    shared: Callable[[str, frozenset[bytes]], str] = lambda *_: ""
    """Told the name of this endpoint and authorities that it would trust from now on; returns why it must not."""
    _credential: TlsCredential | None = None
    _contexts: Contexts | None = None
    _traces: tuple[object, ...] = ()
    _told: str = ""
    _warned: tuple[str, int] = ("", 0)
    _outdated: frozenset[bytes] = frozenset()
    _open: weakref.WeakKeyDictionary[asyncio.BaseTransport, _Open] = field(default_factory=weakref.WeakKeyDictionary)

    # What others use

    @property
    def credential(self) -> TlsCredential:
        """What is in use."""
        assert self._credential is not None  # noqa: S101  # it was loaded
        return self._credential

    def server_context(self) -> ssl.SSLContext:
        """Return the context for the next connection that comes in."""
        assert self._contexts is not None  # noqa: S101  # it was loaded
        assert self._contexts.server is not None  # noqa: S101  # asked only where others call us
        return self._contexts.server

    def client_context(self) -> ssl.SSLContext:
        """Return the context for the next connection that we make."""
        assert self._contexts is not None  # noqa: S101  # it was loaded
        assert self._contexts.client is not None  # noqa: S101  # asked only where we call others
        return self._contexts.client

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Whether a connection may go on; those that may are known from then on."""
        try:
            holder = holder_of(transport.get_extra_info("ssl_object"), self.credential.authorities)
            why = self.refusal(holder)
        except Denied as err:
            why, holder = err.message, None
        if holder is None or why:
            self.tally.turned_away += 1
            self._emit("tls.turned_away", "warning", caller=_name(holder), reason=why)
            return False
        self._open[transport] = _Open(holder, self.credential.digest)
        return True

    def refusal(self, holder: Holder) -> str:
        """Return why a holder is not admitted, empty if it is."""
        if holder.identity in self.revoked.identities or holder.serial in self.revoked.serials:
            return "it is revoked by name or serial number"
        if holder.anchor is not None and holder.anchor not in self.trusted:
            return "its authority is not trusted any more"
        if self._now() > holder.ends:
            return "its certificate has expired"
        for issuer, serial in holder.links:
            listed = self.lists.get(issuer)
            if listed is not None and serial in listed.serials:
                return "its certificate is revoked"
        return self._unknown_state(holder) if self.crl_required else ""

    def _unknown_state(self, holder: Holder) -> str:
        listed = [self.lists.get(issuer) for issuer, _ in holder.links[:1]]
        if not any(each is not None and each.is_current(self._now()) for each in listed):
            return "no current revocation list of its authority is there, and one is required"
        return ""

    def cut(self) -> int:
        """End the connections of those who are not admitted any more; return how many."""
        gone = 0
        for transport, each in list(self._open.items()):
            why = "" if transport.is_closing() else self.refusal(each.holder)
            if why and isinstance(transport, asyncio.Transport):
                gone += 1
                self._emit("tls.connection_cut", "warning", caller=_name(each.holder), reason=why)
                transport.abort()
        self.tally.cut += gone
        return gone

    def connections(self, identity: Identity, *, old: bool = False) -> list[asyncio.Transport]:
        """Return connections with a holder; ``old`` are those that were made with what we showed before."""
        shown = self.credential.digest if old else ""
        return [
            transport
            for transport, each in list(self._open.items())
            if isinstance(transport, asyncio.Transport)
            and not transport.is_closing()
            and each.holder.identity == identity
            and each.shown != shown
        ]

    def callers(self, role: str) -> Counter[str]:
        """Return how many connections there are with each holder of a role, by its id."""
        identities = [each.holder.identity for way, each in list(self._open.items()) if not _is_closing(way)]
        return Counter(each.id for each in identities if each is not None and each.role == role)

    # Files

    def load(self) -> None:
        """Read everything for the first time; certificates out of their time are used all the same, and told.

        Raises:
            Rejected: certificate, key or authorities cannot be used.
            Denied: others can read the key.
        """
        self._traces = self._traces_now()
        self._use(*load_credential(self.files, self.make))
        if self.crl is not None:
            self._take_lists(self._read(self.credential))
        self.look_at_dates()

    def approved(self) -> Approved:
        """Return what is in use, for other processes that serve this endpoint."""
        return Approved(self.credential.raw, dict(self.lists), self.revoked)

    def follow(self, approved: Approved) -> None:
        """Use what another process has checked, instead of ``load`` and ``look``: nothing on the disk counts.

        Raises:
            Rejected: no TLS context can be made of it here.
        """
        new, old = approved.files, self._credential
        if old is None or (new.certificate, new.ca) != (old.raw.certificate, old.raw.ca):
            self._use(*made_credential(new, self.make))
        self.lists, self.revoked = dict(approved.lists), approved.revoked
        self.cut()

    async def look(self, *, forced: bool) -> bool:
        """Look at the files and take what is new and right; return whether anything is different now.

        Args:
            forced: tell what is wrong at once; else a fault has to be there twice, since files come one by one.
        """
        found = await asyncio.to_thread(self._look, forced)
        changed = False
        if found.credential is not None:
            changed = self._take(*found.credential)
        elif found.fault:
            self._refuse(found.fault, forced=forced)
        if found.reading is not None:
            changed |= self._take_lists(found.reading)
        if not self.fault:
            self._traces = found.traces
        self.look_at_dates()
        return changed

    def _look(self, forced: bool) -> _Found:
        """In a thread: reading files and making contexts takes its time."""
        found = _Found(traces=self._traces_now())
        if found.traces == self._traces and not self.fault and not forced:
            return found
        credential = self.credential
        try:
            new = load_credential(self.files, self.make)
            found.fault = self._objection(new[0])
            if not found.fault:
                found.credential, credential = new, new[0]
        except (Rejected, Denied) as err:
            found.fault = err.message
        except Exception as err:  # noqa: BLE001  # whatever a file holds must not end the KME
            found.fault = f"a defect: {described(err)}"
        if self.crl is not None:
            found.reading = self._read(credential)
        return found

    def _objection(self, new: TlsCredential) -> str:
        lost = losses(self.credential, new)
        added = frozenset(issuer_id(each) for each in new.authorities) - self.trusted
        words = f"the new certificate {' and '.join(lost)}" if lost else ""
        return new.fault(self._now()) or words or self.shared(self.name, added)

    def _read(self, credential: TlsCredential) -> Reading:
        assert self.crl is not None  # noqa: S101  # asked only where there is one
        try:
            return read_lists(self.crl, credential.authorities, self._now())
        except Exception as err:  # noqa: BLE001  # likewise
            return Reading(faults=[f"a defect: {described(err)}"])

    def _take(self, new: TlsCredential, contexts: Contexts) -> bool:
        old, self.fault, self._told = self.credential, "", ""
        if new == old:
            return False
        self._use(new, contexts)
        self.tally.loaded += 1
        until = f"{new.ends:%Y-%m-%dT%H:%M:%SZ}"
        self._emit("tls.renewed", "info", certificate=new.digest[:16], until=until, shown=new.digest != old.digest)
        return True

    def _refuse(self, fault: str, *, forced: bool) -> None:
        settled = forced or fault == self.fault
        self.fault = fault
        if settled and fault != self._told:
            self._told = fault
            self.tally.refused += 1
            self._emit("tls.renewal_refused", "warning", reason=fault)

    def _take_lists(self, reading: Reading) -> bool:
        lists, older = merged(self.lists, reading.lists, self.trusted)
        faults = (*reading.faults, *older)
        if faults != self.list_faults:
            for fault in faults:
                self._emit("tls.crl_unusable", "warning", reason=fault)
        changed = lists != self.lists
        self.lists, self.list_faults = lists, faults
        return changed

    def _use(self, credential: TlsCredential, contexts: Contexts) -> None:
        self._credential, self._contexts = credential, contexts
        self.trusted = frozenset(issuer_id(each) for each in credential.authorities)

    def _traces_now(self) -> tuple[object, ...]:
        return *self.files.traces(), list_traces(self.crl) if self.crl is not None else ()

    # Dates

    def look_at_dates(self) -> None:
        """Tell what expires soon or has expired, each once."""
        now, credential = self._now(), self.credential
        left = credential.ends - now
        lifetime = credential.ends - credential.certificate.not_valid_before_utc
        due = [days for days in _WARNINGS_DAYS if left <= datetime.timedelta(days=days) <= lifetime / 2]
        stage = 0 if left.total_seconds() <= 0 else min(due, default=-1)
        if stage >= 0 and self._warned != (credential.digest, stage):
            self._warned = credential.digest, stage
            name = "tls.certificate_expires" if stage else "tls.certificate_expired"
            self._emit(name, "warning", until=f"{credential.ends:%Y-%m-%dT%H:%M:%SZ}", within_days=stage)
        outdated = frozenset(issuer for issuer, each in self.lists.items() if not each.is_current(now))
        for issuer in outdated - self._outdated:
            self._emit("tls.crl_outdated", "warning", issuer=self.lists[issuer].issuer, required=self.crl_required)
        self._outdated = outdated

    def faults(self) -> list[tuple[str, str]]:
        """Return why nobody can use this endpoint, as code and message; none if somebody can."""
        why = self.credential.fault(self._now())
        found = [("kme.certificate", f"{self.name}: {why}")] if why else []
        if self.crl_required and not any(each.is_current(self._now()) for each in self.lists.values()):
            message = f"{self.name}: no current revocation list is there, and one is required"
            found.append(("kme.crl", message))
        return found

    @property
    def crl_is_current(self) -> bool:
        """Whether there is a current list of every authority."""
        lists = [self.lists.get(issuer) for issuer in self.trusted]
        return all(each is not None and each.is_current(self._now()) for each in lists)

    def state(self) -> dict[str, Any]:
        """Return what an operator wants to know; nothing secret."""
        credential, identity = self.credential, self.credential.identity
        return {
            "identity": f"{identity.role}:{identity.id}" if identity is not None else None,
            "serial": f"{credential.certificate.serial_number:x}",
            "sha256": credential.digest,
            "valid_until": f"{credential.ends:%Y-%m-%dT%H:%M:%SZ}",
            "authorities": [each.subject.rfc4514_string()[:200] for each in credential.authorities],
            "authorities_valid_until": f"{credential.authority_ends:%Y-%m-%dT%H:%M:%SZ}",
            "refused_files": self.fault or None,
            "crl_required": self.crl_required,
            "crl": [
                {"issuer": each.issuer, "revoked": len(each.serials), "next_update": f"{each.next:%Y-%m-%dT%H:%M:%SZ}"}
                for each in self.lists.values()
            ],
            "refused_crl": list(self.list_faults),
            "renewals": self.tally.loaded,
        }

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.clock.wall_s(), datetime.UTC)

    def _emit(self, event: str, severity: str, **fields: object) -> None:
        self.events.emit(Event(event, severity, {"endpoint": self.name, **fields}))


def _is_closing(transport: asyncio.BaseTransport) -> bool:
    return isinstance(transport, asyncio.Transport) and transport.is_closing()


def _name(holder: Holder | None) -> str:
    identity = holder.identity if holder is not None else None
    return f"{identity.role}:{identity.id}" if identity is not None else ""
