"""The configuration file of a KME: TOML in, frozen values out, every mistake named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.base import KmeId, SaeId
from shosoin.keys.key_id import LENGTH_BYTES_MAX
from shosoin.keys.policy import PolicyRule
from shosoin.services.admin_config import AdminSection, read_admin
from shosoin.services.etsi004_config import Etsi004Section, read_etsi004
from shosoin.services.identity_config import IdentitySection, check_authorities, read_identity
from shosoin.services.listen_places import check_places
from shosoin.services.operations_config import OperationsSection, read_operations
from shosoin.services.policy_config import check_policies, read_policies
from shosoin.services.skip_config import SkipConfig, read_skip
from shosoin.services.sources.config import PushSection, SourceSection, read_link_source
from shosoin.services.storage_key_config import STORAGE_KEY_NAMES, StorageKeyChoice, read_storage_key
from shosoin.services.store_config import StoreSection, read_store
from shosoin.services.toml_sections import Sections, load_toml
from shosoin.services.wire014 import container_bytes
from shosoin.services.wire_skip import key_bytes

__all__ = ["KmeConfig", "LimitSection", "LinkSection", "PeerApiSection", "SaeApiSection", "load_kme_config"]

_PORT_MAX = 65535
_WORKERS_MAX = 64


@dataclass(frozen=True, slots=True)
class KmeSection:
    """``[kme]``."""

    id: KmeId
    site: str
    directory: Path
    workers: int = 0
    """Processes that SAEs talk to; with 0 or 1 it is this one."""


@dataclass(frozen=True, slots=True)
class SaeApiSection:
    """``[kme.sae_api]``: ETSI GS QKD 014 for the SAEs of the site."""

    host: str
    port: int
    certificate: Path
    key: Path
    client_ca: Path
    minimum_tls: str = "1.2"
    """Of classical connections; hybrid ones have 1.3."""
    key_exchange: KeyExchange = KeyExchange.CLASSICAL
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""


@dataclass(frozen=True, slots=True)
class PeerApiSection:
    """``[kme.peer_api]``: the network plane between KMEs."""

    host: str
    port: int
    certificate: Path
    key: Path
    ca: Path
    key_exchange: KeyExchange = KeyExchange.CLASSICAL
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""


@dataclass(frozen=True, slots=True)
class LimitSection:
    """``[limits]``: a bound on everything."""

    key_size_bits: int = 256
    min_key_size_bits: int = 8
    max_key_size_bits: int = LENGTH_BYTES_MAX * 8
    max_key_per_request: int = 128
    max_request_bytes: int = 64 << 20
    max_additional_slaves: int = 16
    """SAEs beside the first that one request may name."""
    max_body_bytes: int = 64 << 10
    max_bodies_bytes: int = 16 << 20
    """Request bodies of all SAEs in memory at once; of one SAE at most half of that."""
    max_answers_bytes: int = 256 << 20
    """Answers that are being made or sent, likewise."""
    max_connections: int = 1024
    sae_bits_per_s: float = 0.0
    sae_burst_bits: float = 8e9
    lease_bytes: int = 256 << 10
    local_bytes: int = 32 << 20
    """Keys between SAEs of this KME that may await fetching, for each master."""
    key_expiry_s: float = 86400.0
    request_timeout_s: float = 10.0
    """How long a client may take to send a request."""
    idle_timeout_s: float = 75.0
    """How long a connection may stay open without a request."""
    lease_timeout_s: float = 3.0


@dataclass(frozen=True, slots=True)
class LinkSection:
    """``[[link]]``; what its kind needs besides is in a table of its own (``shosoin.services.sources.config``)."""

    peer: KmeId
    host: str
    port: int
    attenuation_db: float
    pair_secret_file: Path
    kind: str = "simulated"
    length_km: float = 0.0
    speedup: float = 1.0
    stock_bits_at_start: int = 0
    max_stock_bits: int = 1 << 31
    reserved_share: float = 0.0
    """Share of ``max_stock_bits`` that only SAEs with a priority may draw."""
    max_age_s: int = 0
    """Age at which both ends burn bits; the lower one of the two KMEs counts, 0 means never."""


@dataclass(frozen=True, slots=True)
class SaeSection:
    """``[[sae]]``."""

    id: SaeId
    kme: KmeId


@dataclass(frozen=True, slots=True)
class KmeConfig:
    """Everything a KME process is told."""

    kme: KmeSection
    storage_key: StorageKeyChoice
    sae_api: SaeApiSection
    peer_api: PeerApiSection
    limits: LimitSection
    directory: Mapping[SaeId, KmeId]
    links: tuple[LinkSection, ...]
    sources: Mapping[KmeId, SourceSection]
    """What feeds a link, where it is not simulated."""
    operations: OperationsSection | None = None
    skip: SkipConfig | None = None
    store: StoreSection = field(default_factory=StoreSection)
    etsi004: Etsi004Section | None = None
    policies: tuple[PolicyRule, ...] = ()
    """``[[policy]]``: terms for pairs of SAEs; the first that fits counts."""
    identity: IdentitySection = field(default_factory=IdentitySection)
    admin: AdminSection | None = None

    def authorities(self) -> dict[str, Path]:
        """Return where the authorities of each plane are, by what the configuration calls them."""
        planes = {"[kme.sae_api]": self.sae_api.client_ca, "[kme.peer_api]": self.peer_api.ca}
        if self.skip is not None:
            planes["[skip]"] = self.skip.api.client_ca
        if self.etsi004 is not None:
            planes["[etsi004]"] = self.etsi004.client_ca
        for peer, source in self.sources.items():
            if isinstance(source, PushSection):
                planes[f"[link.push] of {peer}"] = source.device_ca
        return planes if self.admin is None else {**planes, "[admin]": self.admin.client_ca}

    def listeners(self) -> dict[str, tuple[str, int]]:
        """Return where the KME listens, by what the configuration calls it: host and port."""
        sections: dict[str, Any] = {"[kme.sae_api]": self.sae_api, "[kme.peer_api]": self.peer_api}
        sections |= {"[operations]": self.operations, "[admin]": self.admin, "[etsi004]": self.etsi004}
        sections["[skip]"] = self.skip.api if self.skip is not None else None
        for peer, source in self.sources.items():
            if isinstance(source, PushSection):
                sections[f"[link.push] of {peer}"] = source
        return {name: (each.host, each.port) for name, each in sections.items() if each is not None}


def load_kme_config(path: Path) -> KmeConfig:
    """Read a configuration; relative paths are relative to the file.

    Raises:
        Rejected: with the section and key that is wrong, missing or unknown.
    """
    document, sections = load_toml(path), Sections(path)
    known = {"kme", "limits", "sae", "link", "operations", "skip", "policy", "identity", "admin", "etsi004"}
    sections.only(document, known, "top level")
    kme = sections.table(document, "kme", "kme")
    others = {"sae_api", "peer_api", "store"} | STORAGE_KEY_NAMES
    sections.only(kme, {item.name for item in fields(KmeSection)} | others, "[kme]")
    saes = [sections.read(SaeSection, "sae", item) for item in sections.tables(document, "sae")]
    read = [read_link_source(item, sections) for item in sections.tables(document, "link")]
    links = tuple(sections.read(LinkSection, "link", item) for item, _ in read)
    config = KmeConfig(
        kme=sections.read(KmeSection, "kme", {name: value for name, value in kme.items() if name not in others}),
        storage_key=read_storage_key(kme, sections),
        sae_api=sections.read(SaeApiSection, "kme.sae_api", sections.table(kme, "sae_api", "kme.sae_api")),
        peer_api=sections.read(PeerApiSection, "kme.peer_api", sections.table(kme, "peer_api", "kme.peer_api")),
        limits=sections.read(
            LimitSection, "limits", sections.table(document, "limits", "limits") if "limits" in document else {}
        ),
        directory={sae.id: sae.kme for sae in saes},
        links=links,
        sources={link.peer: source for link, (_, source) in zip(links, read, strict=True) if source is not None},
        operations=read_operations(document, sections),
        skip=read_skip(sections, document, {sae.id for sae in saes}),
        identity=read_identity(document, sections),
        admin=read_admin(document, sections),
        store=read_store(kme, sections),
        etsi004=read_etsi004(document, sections),
        policies=read_policies(sections, document, {sae.id for sae in saes}),
    )
    if not config.identity.allow_shared_ca:
        check_authorities(sections, config.authorities())
    _check_meaning(config, len(saes), sections)
    return config


def _check_meaning(config: KmeConfig, saes: int, sections: Sections) -> None:
    peers = [link.peer for link in config.links]
    if len(set(peers)) < len(peers) or config.kme.id in peers:
        raise sections.wrong("every [[link]] needs a peer of its own")
    if len(config.directory) < saes:
        raise sections.wrong("an SAE appears twice in [[sae]]")
    _check_ports(config, sections)
    _check_ages(config, sections)
    for link in config.links:
        if link.reserved_share >= 1:
            raise sections.wrong(f"[[link]] of {link.peer}: reserved_share must be below 1, got {link.reserved_share}")
    low, high = config.limits.min_key_size_bits, config.limits.max_key_size_bits
    default, most = config.limits.key_size_bits, LENGTH_BYTES_MAX * 8
    if not 8 <= low <= default <= high <= most or low % 8 or default % 8 or high % 8:
        raise sections.wrong(f"key sizes must be multiples of 8 with 8 <= min <= default <= max <= {most}")
    check_policies(config.policies, low, default, high, sections)
    limits, processes = config.limits, max(1, config.kme.workers)
    if processes > _WORKERS_MAX:
        raise sections.wrong(f"[kme] workers must be at most {_WORKERS_MAX}, got {processes}")
    if 2 * limits.max_body_bytes * processes > limits.max_bodies_bytes:
        each = "" if processes == 1 else ", for each worker"
        raise sections.wrong(f"max_bodies_bytes must be at least twice max_body_bytes{each}: one SAE gets half")
    longest_bytes = container_bytes(limits.max_key_per_request, limits.max_request_bytes)
    if 2 * longest_bytes > limits.max_answers_bytes:
        raise sections.wrong(f"max_answers_bytes must be at least {2 * longest_bytes} for max_request_bytes as it is")
    longest_bytes = key_bytes(min(high // 8, limits.max_request_bytes))
    if config.skip is not None and 2 * longest_bytes > limits.max_answers_bytes:
        raise sections.wrong(f"max_answers_bytes must be at least {2 * longest_bytes} for the longest key by SKIP")
    if config.sae_api.minimum_tls not in {"1.2", "1.3"}:
        raise sections.wrong("minimum_tls must be '1.2' or '1.3'")


def _check_ages(config: KmeConfig, sections: Sections) -> None:
    """Check that a pair that takes young bits alone cannot starve behind old ones that nobody else draws."""
    if not any(rule.max_age_s for rule in config.policies):
        return
    for link in config.links:
        if not link.max_age_s:
            raise sections.wrong(
                f"a [[policy]] has max_age_s, and the [[link]] of {link.peer} has none: once its stock is older than "
                "that, and nobody else draws it, no key would come any more; give the link a max_age_s"
            )


def _check_ports(config: KmeConfig, sections: Sections) -> None:
    places = config.listeners()
    calls = {f"[[link]] of {link.peer}": (link.host, link.port) for link in config.links}
    for where, (_, port) in {**places, **calls}.items():
        if port > _PORT_MAX:
            raise sections.wrong(f"{where} port must be at most {_PORT_MAX}, got {port}")
    check_places(places, sections)
