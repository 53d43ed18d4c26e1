"""From a link's table to its source."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from shosoin.adapters.used_tickets import UsedMemory
from shosoin.base import KmeId, Rejected, Unavailable
from shosoin.keys.errors import StoreUnavailable, StreamRefused
from shosoin.link import SimulatedLink
from shosoin.link.port import LinkFacts
from shosoin.services.sources.config import (
    Etsi004Section,
    Etsi014Section,
    EventsSection,
    PushSection,
    ReplaySection,
    SourceSection,
)
from shosoin.services.sources.coordinated import CoordinatedSource, Pace, SourceParts
from shosoin.services.sources.port import LinkSource, Supply
from shosoin.services.sources.pull004 import Pull004
from shosoin.services.sources.pull014 import Pull014
from shosoin.services.sources.push import Pushed
from shosoin.services.sources.recording import Recording
from shosoin.services.sources.replay import Replay
from shosoin.services.sources.simulated import SimulatedDevices
from shosoin.services.tls_plane import TlsPlane

__all__ = ["check_recordings", "facts_of", "make_source"]


class SimulatedTable(Protocol):
    """What a ``[[link]]`` says about a simulated link."""

    @property
    def attenuation_db(self) -> float:
        """Of the fibre."""
        ...

    @property
    def length_km(self) -> float:
        """Of the fibre."""
        ...

    @property
    def speedup(self) -> float:
        """How many times faster than the model it runs."""
        ...

    @property
    def stock_bits_at_start(self) -> int:
        """As if the devices had run before."""
        ...


def facts_of(link: SimulatedTable, section: SourceSection | None) -> LinkFacts:
    """Return what is declared of a link's bits.

    Raises:
        Rejected: a recording cannot be read, or the link model refuses its parameters.
    """
    if section is None:
        return _simulated(link, stock_bits=0).facts
    if isinstance(section, ReplaySection):
        header = Recording(section.file).header
        rate = header.secret_key_rate_bps * section.speedup / 2
        return LinkFacts(f"replayed-{header.origin}", True, header.epsilon, rate, speedup=section.speedup)
    if isinstance(section, EventsSection):
        facts: LinkFacts = _events().event_facts(section)
        return facts
    kind = section.origin
    if section.simulated and not kind.startswith("simulated"):
        kind = "simulated-qkd" if kind == "undeclared" else f"simulated-{kind}"
    return LinkFacts(kind, section.simulated, section.epsilon or None, section.secret_key_rate_bps)


def _events() -> Any:
    """Return the module for simulated devices: most KMEs have none, and what it imports would slow their start."""
    return importlib.import_module("shosoin.services.sources.event_build")


def check_recordings(sources: Mapping[KmeId, SourceSection]) -> None:
    """Check that no two links replay the same run: each peer would hold the other pair's keys.

    Raises:
        Rejected: two do, or a recording cannot be read.
    """
    peers: dict[str, KmeId] = {}
    for peer, section in sources.items():
        if isinstance(section, ReplaySection):
            other = peers.setdefault(Recording(section.file).header.run, peer)
            if other != peer:
                message = f"the links with {other} and {peer} replay the same run: their keys would be the same bits"
                raise Rejected(message, code="source.same_run", hint="record one run for each link")


def make_source(
    link: SimulatedTable,
    section: SourceSection | None,
    parts: SourceParts,
    facts: LinkFacts,
    open_used: Callable[[], UsedMemory],
    plane: TlsPlane | None,
) -> LinkSource:
    """Return the source of a link.

    Args:
        open_used: opens the memory of what it has used, if it needs one.
        plane: its TLS endpoint, loaded, if it has one (``planes.plane_of``).

    Raises:
        Rejected: a file of its table cannot be used.
        StreamRefused: what it has used before cannot be read.
    """
    driver = parts.driver
    if section is None:
        initial_bits = max(0, link.stock_bits_at_start - driver.pair.outgoing.produced_granules * 256)
        simulated = _simulated(link, stock_bits=initial_bits)
        return SimulatedDevices(driver, simulated, parts.entropy, parts.clock, max_stock_bits=parts.max_stock_bits)
    if isinstance(section, EventsSection):
        devices: LinkSource = _events().event_devices(section, parts)
        return devices
    if section.max_block_bits > parts.max_stock_bits:
        raise Rejected(f"max_block_bits of {driver.pair.peer} is above max_stock_bits", code="config.bad_value")
    pace = Pace(
        section.min_block_bits,
        section.max_block_bits,
        section.retry_min_s,
        section.retry_max_s,
        section.offer_timeout_s,
    )
    return CoordinatedSource(_supply(section, parts, open_used, plane), parts, facts, pace)


def _supply(
    section: Etsi014Section | Etsi004Section | PushSection | ReplaySection,
    parts: SourceParts,
    open_used: Callable[[], UsedMemory],
    plane: TlsPlane | None,
) -> Supply:
    even = parts.driver.pair.own < parts.driver.pair.peer
    try:
        used = open_used()
    except StoreUnavailable:
        raise
    except Unavailable as err:
        hint = f"mend or remove sources/{parts.driver.pair.peer}; then old key material may pass"
        raise StreamRefused(err.message, hint=hint) from err
    if isinstance(section, ReplaySection):
        return Replay(section, used, parts.clock, even=even)
    assert plane is not None  # noqa: S101  # all other sections have one
    match section:
        case Etsi014Section():
            return Pull014(section, plane, used)
        case Etsi004Section():
            return Pull004(section, plane, used)
        case PushSection():
            return Pushed(section, plane, used, parts.clock, even=even)


def _simulated(link: SimulatedTable, *, stock_bits: int) -> SimulatedLink:
    return SimulatedLink(
        attenuation_db=link.attenuation_db,
        length_km=link.length_km,
        speedup=link.speedup,
        stock_bits_at_start=stock_bits,
    )
