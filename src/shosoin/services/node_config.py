"""The configuration file of a share node: TOML in, frozen values out, every mistake named.

``docs/specs/share-node.md`` lists the keys. Paths are relative to the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.base import KmeId, OwnerId, SaeId, SiteId
from shosoin.services.toml_sections import Sections, load_toml

__all__ = [
    "NodeApiSection",
    "NodeConfig",
    "NodeKmeSection",
    "NodeLimitSection",
    "NodeSection",
    "OwnerSection",
    "SiteSection",
    "load_node_config",
]

_PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class NodeSection:
    """``[node]``."""

    id: SaeId
    site: SiteId
    directory: Path
    signing_key: Path
    """Seed of the ML-DSA-65 key under which this site states what it promised and accepted."""


@dataclass(frozen=True, slots=True)
class NodeApiSection:
    """``[node.api]``: where owners call."""

    host: str
    port: int
    certificate: Path
    key: Path
    client_ca: Path


@dataclass(frozen=True, slots=True)
class NodeKmeSection:
    """``[node.kme]``: the site's KME, and how the node shows itself there."""

    id: str
    """KME id that its certificate must carry too; empty for KMEs of others, which do not know our names."""
    url: str
    server_name: str
    ca: Path
    certificate: Path
    key: Path
    sae_id: SaeId
    key_exchange: KeyExchange = KeyExchange.CLASSICAL


@dataclass(frozen=True, slots=True)
class NodeLimitSection:
    """``[limits]``: a bound on everything; all have defaults."""

    body_bytes: int = 13 << 20
    """Longest request: the longest envelope header and payload."""
    bodies_bytes: int = 256 << 20
    """All requests in memory at once."""
    requests: int = 64
    requests_per_owner: int = 48
    connections: int = 512
    handshake_s: float = 10.0
    body_s: float = 30.0
    """How long a request body may take."""
    idle_s: float = 75.0
    """How long a connection may take to read an answer and to send the next request head; idle ones end then."""
    stop_s: float = 10.0
    """How long requests may go on after the node was told to stop."""
    scrub_bytes_per_s: int = 8 << 20
    upkeep_interval_s: float = 30.0
    """Pause between two rounds of scrubbing and collecting orphans."""
    orphan_age_s: float = 3600.0
    reserve_bytes: int = 64 << 20
    """Free space that large shares never fill, nor small ones half of it, so that objects can still be removed."""


@dataclass(frozen=True, slots=True)
class OwnerSection:
    """``[[owner]]``."""

    id: OwnerId
    home_site: SiteId
    signing_public_key: Path
    quota_bytes: int


@dataclass(frozen=True, slots=True)
class SiteSection:
    """``[[site]]``: a site whose statements about registers this node takes; its own is among them."""

    name: SiteId
    signing_public_key: Path


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node process is told."""

    node: NodeSection
    api: NodeApiSection
    kme: NodeKmeSection
    limits: NodeLimitSection
    owners: tuple[OwnerSection, ...]
    sites: tuple[SiteSection, ...]

    @property
    def store(self) -> Path:
        """Where the shares are."""
        return self.node.directory / "store"

    @property
    def ready(self) -> Path:
        """The file that says that the node serves."""
        return self.node.directory / "ready"


def load_node_config(path: Path) -> NodeConfig:
    """Read a configuration.

    Raises:
        Rejected: with the section and key that is wrong, missing or unknown.
    """
    document = load_toml(path)
    sections = Sections(path)
    sections.only(document, {"node", "limits", "owner", "site"}, "the file")
    node = sections.table(document, "node", "node")
    parts = {"api", "kme"}
    config = NodeConfig(
        node=sections.read(NodeSection, "node", {key: value for key, value in node.items() if key not in parts}),
        api=sections.read(NodeApiSection, "node.api", sections.table(node, "api", "node.api")),
        kme=sections.read(NodeKmeSection, "node.kme", sections.table(node, "kme", "node.kme")),
        limits=sections.read(NodeLimitSection, "limits", document.get("limits", {})),
        owners=tuple(sections.read(OwnerSection, "owner", entry) for entry in sections.tables(document, "owner")),
        sites=tuple(sections.read(SiteSection, "site", entry) for entry in sections.tables(document, "site")),
    )
    if config.api.port > _PORT_MAX:
        raise sections.wrong(f"[node.api] port must be at most {_PORT_MAX}, got {config.api.port}")
    if len({owner.id for owner in config.owners}) != len(config.owners):
        raise sections.wrong("an owner appears twice in [[owner]]")
    names = [site.name for site in config.sites]
    if len(set(names)) != len(names) or config.node.site not in names:
        raise sections.wrong(f"[[site]] must name every site once, {config.node.site} among them")
    if config.kme.id:
        KmeId(config.kme.id)
    if not config.kme.url.startswith("https://"):
        raise sections.wrong(f"[node.kme] url must start with https://, got {config.kme.url!r}")
    return config
