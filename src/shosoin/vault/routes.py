"""Which relays saw the keys of a share's journeys: of its put, and of every read since.

Relays of a put stand in the value's facts. A read draws keys as well, perhaps over another route, and whoever saw them
may have the share; nobody but the reader knows. So the owner's side keeps a journal: before the first key of a read is
drawn, a line says whose eyes the route has. Direct links leave no line. What is not in this journal (reads from another
computer of the same owner) is not known here, and labels of class ``its`` say so.

A line that cannot be read means that something was seen by somebody, somewhere: every route of the object is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shosoin.base import PeerFault, Rejected, SiteId
from shosoin.base.ports import KeyStatus
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.envelope import canonical_json
from shosoin.vault.values import RegisterValue

__all__ = [
    "MemoryJournal",
    "ReadRoutes",
    "Route",
    "RouteJournal",
    "read_routes",
    "record_read",
    "relays_then",
    "route_of",
]

RELAYS_EXTENSION = "shosoin_relays"
"""Member of ``status_extension``: the sites and other nodes through which the keys of this pair pass."""

Route = tuple[SiteId, ...]
"""Relays that see the keys of a pair of KMEs; empty on a direct link."""


class RouteJournal(Protocol):
    """Lines kept at the owner's side, per object, for good."""

    def lines(self, object_id: str) -> Sequence[bytes]:
        """Return the lines of an object, in order."""
        ...

    def append(self, object_id: str, line: bytes) -> None:
        """Add a line; it is durable on return."""
        ...


@dataclass(slots=True)
class MemoryJournal:
    """A journal that lives as long as its process."""

    _kept: dict[str, list[bytes]] = field(default_factory=dict)

    def lines(self, object_id: str) -> Sequence[bytes]:
        """Return the lines of an object."""
        return tuple(self._kept.get(object_id, ()))

    def append(self, object_id: str, line: bytes) -> None:
        """Add a line."""
        self._kept.setdefault(object_id, []).append(line)


@dataclass(frozen=True, slots=True)
class ReadRoutes:
    """What is known here of the reads of one version's shares."""

    relays: Mapping[SiteId, Route]
    """Relays that saw keys of a site's share."""
    undeclared: frozenset[SiteId]
    """Sites whose share travelled over a route that nobody declared."""

    def joined(self, other: ReadRoutes) -> ReadRoutes:
        """Return both together."""
        sites = {*self.relays, *other.relays}
        relays = {site: _union(self.relays.get(site, ()), other.relays.get(site, ())) for site in sites}
        return ReadRoutes(relays, self.undeclared | other.undeclared)


def route_of(status: KeyStatus, declared: SiteDomains | None = None) -> Route | None:
    """Return the relays of a pair of KMEs: those that the home KME names and those that the owner declares.

    ``None`` if neither says anything. A KME may leave relays out; the owner's declaration is what it cannot take away.

    Raises:
        PeerFault: the KME says something that cannot be read. To take that for "none" would be to guess.
    """
    known = declared.relays if declared is not None else None
    if RELAYS_EXTENSION not in status.extension:
        return known
    named = status.extension[RELAYS_EXTENSION]
    try:
        if not isinstance(named, list):
            raise TypeError("no list")
        return _union(known or (), tuple(SiteId(name) for name in named))
    except (TypeError, Rejected):
        raise PeerFault("the KME's status names relays in a way that cannot be read", code="vault.bad_relays") from None


def relays_then(value: RegisterValue) -> dict[SiteId, Route]:
    """Return the relays that saw the keys under which a value's shares travelled to their sites.

    Raises:
        PeerFault: the value says something of them that cannot be read.
    """
    transfers = value.facts.get("transfers", {})
    try:
        return {SiteId(site): tuple(map(SiteId, fact.get("relays", ()))) for site, fact in transfers.items()}
    except (AttributeError, TypeError):
        raise PeerFault(
            "the object's relays are recorded in a way that cannot be read", code="vault.bad_relays"
        ) from None


def record_read(journal: RouteJournal, value: RegisterValue, routes: Mapping[SiteId, Route | None]) -> None:
    """Write down whose eyes the routes of a read have, unless that is known already; call before a key is drawn."""
    known = read_routes(journal, value)
    news = {
        site: None if route is None else sorted(route)
        for site, route in routes.items()
        if (route is None and site not in known.undeclared) or not set(route or ()) <= set(known.relays.get(site, ()))
    }
    if news:
        line = canonical_json({"version": value.bodies[0].version, "epoch": value.bodies[0].epoch, "routes": news})
        journal.append(value.register_id, line)


def read_routes(journal: RouteJournal, value: RegisterValue) -> ReadRoutes:
    """Return what the journal says of the shares of a value, of this version and epoch."""
    found = ReadRoutes({}, frozenset())
    body = value.bodies[0]
    for line in journal.lines(value.register_id):
        try:
            raw = json.loads(line)
            if (raw["version"], raw["epoch"]) == (body.version, body.epoch):
                found = found.joined(_read_line(raw["routes"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Rejected):
            found = found.joined(ReadRoutes({}, frozenset(value.placement)))
    return found


def _read_line(routes: Mapping[str, Any]) -> ReadRoutes:
    relays = {SiteId(site): tuple(map(SiteId, named)) for site, named in routes.items() if named is not None}
    return ReadRoutes(relays, frozenset(SiteId(site) for site, named in routes.items() if named is None))


def _union(one: Route, other: Route) -> Route:
    return tuple(dict.fromkeys((*one, *other)))
