"""``[[link]] kind``: what feeds a link, and the table of each kind.

::

    [[link]]
    kind = "etsi014"
    ...
    [link.etsi014]
    url = "https://vendor-kme-a:8443"

Keys of a simulated link may also stand in ``[[link]]`` itself. A table of another kind than the link's is a mistake.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shosoin.link.events.attack_names import ATTACKS
from shosoin.services.sources.offers import TICKETS_MAX
from shosoin.services.toml_sections import Sections

__all__ = [
    "Etsi004Section",
    "Etsi014Section",
    "EventsSection",
    "PushSection",
    "ReplaySection",
    "SourceSection",
    "read_link_source",
]

_SIMULATED = "simulated"
_FLAT = {"attenuation_db", "length_km", "speedup", "stock_bits_at_start"}
_ORIGIN = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PORT_MAX = 65535
_UINT32_MAX = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Declared:
    """What the operator says about the bits, since no interface of a vendor does."""

    origin: str = "undeclared"
    """Such as ``qkd``. Undeclared bits are never called everlasting."""
    simulated: bool = False
    """Whether it is a simulation that makes the bits."""
    epsilon: float = 0.0
    """Failure probability of the security proof per block; 0: undeclared."""
    secret_key_rate_bps: float = 0.0
    """Of one direction, for information; 0: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paced(_Declared):
    """How blocks are made."""

    min_block_bits: int = 8192
    max_block_bits: int = 1 << 19
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0
    offer_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Etsi014Section(_Paced):
    """``[link.etsi014]``: pull from a vendor's KME by ETSI GS QKD 014."""

    url: str
    server_name: str
    peer_sae: str
    """SAE ID of the peer KME at the vendor's."""
    certificate: Path
    key: Path
    ca: Path
    identity: str = ""
    """KME id in the vendor's certificate, if the vendor's KME is one of ours."""
    key_size_bits: int = 0
    """0: the default size that the vendor's KME advertises."""
    keys_per_request: int = 0
    """0: what it advertises."""
    trust_stock: bool = True
    """Whether ``stored_key_count`` bounds what is asked for; some KMEs count other things there."""
    timeout_s: float = 30.0
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Etsi004Section(_Paced):
    """``[link.etsi004]``: pull from a vendor's key manager by ETSI GS QKD 004."""

    host: str
    server_name: str
    source: str
    """URI of this KME at the vendor's key manager."""
    destination: str
    """URI of the peer KME there."""
    certificate: Path
    key: Path
    ca: Path
    port: int = 25575
    chunk_bytes: int = 256
    max_bps: int = 0
    ttl_s: int = 3600
    timeout_s: float = 10.0
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSection(_Paced):
    """``[link.push]``: a device delivers key material to this KME."""

    host: str
    port: int
    certificate: Path
    key: Path
    device_ca: Path
    device: str
    """A URI of the device's certificate, or its subject as in RFC 4514."""
    max_held_bits: int = 1 << 26
    expiry_s: float = 600.0
    """Age at which material that the other end never had is dropped."""
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySection(_Paced):
    """``[link.replay]``: a recording of a QKD run."""

    file: Path
    speedup: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsSection:
    """``[link.events]``: simulated devices, pulse by pulse, and real post-processing of what they detect."""

    attenuation_db: float
    """Loss of the line."""
    authentication_key_file: Path
    """The same secret bytes at both ends, for the first messages; then the link's own keys take over."""
    length_km: float = 0.0
    stock_bits_at_start: int = 0
    """As if the devices had run before: of each direction, from a generator."""
    block_bits: int = 1 << 18
    """Sifted bits of the key basis in a block, as expected: a block is a number of detections."""
    pulses_per_s: float = 1e7
    """Pulses that a direction simulates in a second at most."""
    epsilon_secrecy: float = 1e-9
    epsilon_correctness: float = 1e-15
    """Per block, as the bound takes them."""
    eavesdropper: str = "none"
    eavesdropper_share: float = 1.0
    """Who listens on the simulated line, and to what share of the pulses."""


SourceSection = Etsi014Section | Etsi004Section | PushSection | ReplaySection | EventsSection
_KINDS: dict[str, type[SourceSection]] = {
    "etsi014": Etsi014Section,
    "etsi004": Etsi004Section,
    "push": PushSection,
    "replay": ReplaySection,
    "events": EventsSection,
}


def read_link_source(item: Mapping[str, Any], sections: Sections) -> tuple[dict[str, Any], SourceSection | None]:
    """Return a ``[[link]]`` without tables, those of a simulated link merged into it, and the table of other kinds.

    Raises:
        Rejected: an unknown kind, a table of another kind, or a mistake in the table.
    """
    kind = item.get("kind", _SIMULATED)
    known = [_SIMULATED, *_KINDS]
    if not isinstance(kind, str) or kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise sections.wrong(f"link kind {str(kind)[:80]!r}, expected {', '.join(map(repr, known))}{meant}")
    flat = {name: value for name, value in item.items() if name not in known}
    for name in item:
        if name in known and name != kind:
            raise sections.wrong(f"[link.{name}] in a [[link]] of kind {kind!r}")
    if kind == _SIMULATED:
        return _simulated(flat, item, sections), None
    for name in _FLAT & flat.keys():
        raise sections.wrong(f"[link] {name} is for links of kind {_SIMULATED!r}, this one is {kind!r}")
    _not_misspelled(kind, item, sections)
    section = sections.read(_KINDS[kind], f"link.{kind}", sections.table(item, kind, f"link.{kind}"))
    _check(section, f"link.{kind}", sections)
    return {**flat, "attenuation_db": 0}, section  # nobody asks for it


def _simulated(flat: dict[str, Any], item: Mapping[str, Any], sections: Sections) -> dict[str, Any]:
    if _SIMULATED in item:
        table = sections.table(item, _SIMULATED, f"link.{_SIMULATED}")
        sections.only(table, _FLAT, f"[link.{_SIMULATED}]")
        if twice := sorted(table.keys() & flat.keys()):
            raise sections.wrong(f"{twice[0]!r} is in [[link]] and in [link.{_SIMULATED}]")
        flat |= table
    if "attenuation_db" not in flat:
        _not_misspelled("attenuation_db", flat, sections)
        raise sections.wrong("[link] lacks 'attenuation_db'")
    return flat


def _not_misspelled(wanted: str, found: Mapping[str, Any], sections: Sections) -> None:
    """Raise if something is missing and something else has nearly its name."""
    near = difflib.get_close_matches(wanted, found, n=1, cutoff=0.8)
    if wanted not in found and near:
        raise sections.wrong(f"unknown key {near[0]!r} in [link]; did you mean {wanted!r}?")


def _check(section: SourceSection, where: str, sections: Sections) -> None:
    if isinstance(section, EventsSection):
        _check_events(section, where, sections)
        return
    if not _ORIGIN.fullmatch(section.origin):
        raise sections.wrong(f"[{where}] origin must be lower-case letters, digits and hyphens, such as 'qkd'")
    if section.epsilon > 1:
        raise sections.wrong(f"[{where}] epsilon is a probability, got {section.epsilon}")
    if not 1280 <= section.min_block_bits <= section.max_block_bits <= 1 << 26:
        raise sections.wrong(f"[{where}] wants 1280 <= min_block_bits <= max_block_bits <= {1 << 26}")
    if not 0.01 <= section.retry_min_s <= section.retry_max_s <= 3600:
        raise sections.wrong(f"[{where}] wants 0.01 <= retry_min_s <= retry_max_s <= 3600")
    for item in fields(section):
        if item.name.endswith("timeout_s") and not 0 < getattr(section, item.name) <= 3600:
            raise sections.wrong(f"[{where}] {item.name} must be above 0 and at most 3600")
    if isinstance(section, Etsi014Section):
        _check_014(section, where, sections)
    elif isinstance(section, Etsi004Section):
        _check_004(section, where, sections)
    elif isinstance(section, PushSection):
        _check_push(section, where, sections)
    elif section.speedup <= 0:
        raise sections.wrong(f"[{where}] speedup must be above 0")


def _check_014(section: Etsi014Section, where: str, sections: Sections) -> None:
    if not _is_https(section.url):
        raise sections.wrong(f"[{where}] url must be https://host or https://host:port")
    if section.key_size_bits % 8 or section.key_size_bits > 1 << 20:
        raise sections.wrong(f"[{where}] key_size_bits must be a multiple of 8, at most {1 << 20}")
    if not section.peer_sae or section.keys_per_request > 1024:
        raise sections.wrong(f"[{where}] wants a peer_sae, and keys_per_request at most 1024")


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        return False


def _check_004(section: Etsi004Section, where: str, sections: Sections) -> None:
    _check_port(section.port, where, sections)
    for name in ("source", "destination"):
        text = getattr(section, name)
        if not 0 < len(text) <= 1024 or not all(" " < letter <= "~" for letter in text):
            raise sections.wrong(f"[{where}] {name} must be a URI")
    if not 16 <= section.chunk_bytes <= 1 << 20:
        raise sections.wrong(f"[{where}] chunk_bytes must be 16 to {1 << 20}")
    if section.min_block_bits > 8 * section.chunk_bytes * TICKETS_MAX:
        raise sections.wrong(f"[{where}] min_block_bits needs more than {TICKETS_MAX} chunks of chunk_bytes")
    if max(section.max_bps, section.ttl_s) > _UINT32_MAX:
        raise sections.wrong(f"[{where}] max_bps and ttl_s must fit 32 bits")


def _check_push(section: PushSection, where: str, sections: Sections) -> None:
    _check_port(section.port, where, sections)
    if not section.device:
        raise sections.wrong(f"[{where}] device must name a URI or the subject of the device's certificate")
    if section.max_held_bits < 2 * section.max_block_bits or section.max_held_bits > 1 << 33:
        raise sections.wrong(f"[{where}] max_held_bits must be twice max_block_bits at least, and at most {1 << 33}")


def _check_events(section: EventsSection, where: str, sections: Sections) -> None:
    if section.attenuation_db > 100 or section.eavesdropper_share > 1:
        raise sections.wrong(f"[{where}] wants an attenuation of at most 100 dB and an eavesdropper_share of at most 1")
    if not 1 << 16 <= section.block_bits <= 1 << 24 or not 1e3 <= section.pulses_per_s <= 1e9:
        raise sections.wrong(f"[{where}] wants 65536 <= block_bits <= 16777216 and 1e3 <= pulses_per_s <= 1e9")
    for name in ("epsilon_secrecy", "epsilon_correctness"):
        if not 0 < getattr(section, name) < 0.1:
            raise sections.wrong(f"[{where}] {name} is a probability above 0 and below 0.1")
    if section.eavesdropper not in ("none", *ATTACKS):
        raise sections.wrong(f"[{where}] eavesdropper must be one of none, {', '.join(ATTACKS)}")


def _check_port(port: int, where: str, sections: Sections) -> None:
    if port > _PORT_MAX:
        raise sections.wrong(f"[{where}] port must be at most {_PORT_MAX}, got {port}")
