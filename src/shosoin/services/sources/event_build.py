"""From ``[link.events]`` to simulated devices; imported only where a link has them, since bounds are slow to load."""

from __future__ import annotations

from functools import partial

from shosoin.adapters.private_files import read_private
from shosoin.link.port import LinkFacts
from shosoin.link.rates.decoy import METRO, secret_key_rate_per_pulse
from shosoin.services.sources.config import EventsSection
from shosoin.services.sources.coordinated import SourceParts
from shosoin.services.sources.event_journals import open_link_journals
from shosoin.services.sources.event_line import EPSILON_AUTHENTICATION, event_line
from shosoin.services.sources.events import EventDevices

__all__ = ["event_devices", "event_facts"]

_START_KEY_BYTES_MAX = 1 << 20


def event_facts(section: EventsSection) -> LinkFacts:
    """Return the facts of a link of simulated devices; its rate is asymptotic, for the pulses that are simulated."""
    rate = float(secret_key_rate_per_pulse(METRO, attenuation_db=section.attenuation_db)) * section.pulses_per_s
    epsilon = section.epsilon_secrecy + section.epsilon_correctness + EPSILON_AUTHENTICATION
    return LinkFacts("simulated-qkd", True, epsilon, rate, section.attenuation_db, section.length_km)


def event_devices(section: EventsSection, parts: SourceParts) -> EventDevices:
    """Return the devices of a link at one end.

    Raises:
        Rejected, Denied: the start key cannot be read, or others can read it.
    """
    start_key = read_private(
        section.authentication_key_file, "[link.events] authentication_key_file", bytes_max=_START_KEY_BYTES_MAX
    )
    pair = parts.driver.pair
    open_journals = partial(open_link_journals, parts.directory, parts.pair_secret, pair.own < pair.peer, start_key)
    return EventDevices(
        parts,
        event_line(section),
        open_journals,
        stock_bits=max(0, section.stock_bits_at_start - pair.outgoing.produced_granules * 256),
        seed=int.from_bytes(parts.entropy.random_bytes(8), "little"),
    )
