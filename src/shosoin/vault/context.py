"""Everything a vault operation needs to know about its owner: who, where, with what keys, over which nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from shosoin.base import Entropy, OwnerId, Rejected, SaeId, SiteId
from shosoin.base.ports import Clock, EventSink, KeySource, KeySourceFacts, Runtime
from shosoin.vault.audit_ledger import AuditLedger, MemoryLedger
from shosoin.vault.catalog import Catalog, Memory
from shosoin.vault.catalog_answers import AnswerReader
from shosoin.vault.channel import Channel, open_channel
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.electorate import Electorate
from shosoin.vault.evidence import EvidenceSink, NoEvidence
from shosoin.vault.fetching import Fetcher
from shosoin.vault.pads import OpenLinks
from shosoin.vault.patience import PatientLink
from shosoin.vault.policies import Policies
from shosoin.vault.ports import NodeLink
from shosoin.vault.routes import MemoryJournal, RouteJournal
from shosoin.vault.scheme import BadScheme, Scheme
from shosoin.vault.signing import OwnerSigner

__all__ = ["CLASSES", "KEYLESS_CLASS", "VaultContext", "VaultSite"]

CLASSES = ("its", "qkd", "pqc")
KEYLESS_CLASS = "pqc"
"""The class whose channels need no KME."""


@dataclass(frozen=True, slots=True)
class VaultSite:
    """One site as the owner knows it; the order of sites is the order of evaluation points."""

    name: SiteId
    node: SaeId
    link: NodeLink
    domains: SiteDomains
    public_key: bytes
    """ML-DSA-65 key of the site's statements about registers."""
    retired: bool = False
    """Whether it is being replaced: what it holds is still read, nothing new goes there."""


@dataclass(slots=True)
class VaultContext:
    """An owner's vault; channels of a class are opened once and kept."""

    owner: OwnerId
    home: SiteId
    sites: tuple[VaultSite, ...]
    default_scheme: Scheme
    keys: KeySource
    entropy: Entropy
    clock: Clock
    runtime: Runtime
    sink: EventSink
    signer: OwnerSigner
    memo: MutableMapping[str, bytes]
    """Decoded index parts, kept at the owner's side."""
    policies: Policies = field(default_factory=Policies)
    """What the owner requires of objects."""
    journal: RouteJournal = field(default_factory=MemoryJournal)
    """Who saw the keys of reads, kept at the owner's side."""
    relay_domains: Mapping[SiteId, SiteDomains] = field(default_factory=dict)
    """Declared trust domains of relays that are not sites."""
    closed_links: set[SaeId] = field(default_factory=set)
    """Nodes to which class ``its`` must not send now, because nobody says who sees the keys (see ``exposure``)."""
    relays: dict[SiteId, tuple[SiteId, ...]] = field(default_factory=dict)
    """Relays that see the keys shared with each site, as last asked; a site whose route nobody declares is left out."""
    ledger: AuditLedger = field(default_factory=MemoryLedger)
    """Challenges that audits used, and what they found."""
    evidence: EvidenceSink = field(default_factory=NoEvidence)
    _channels: dict[str, dict[SiteId, Channel]] = field(default_factory=dict)
    _links: dict[SiteId, PatientLink] = field(default_factory=dict)
    _memory: Memory = field(default_factory=Memory)

    @property
    def members(self) -> tuple[SiteId, ...]:
        """All sites that are not retired: they keep the registers."""
        return tuple(site.name for site in self.sites if not site.retired)

    @property
    def everyone(self) -> tuple[SiteId, ...]:
        """All sites, the home site first."""
        return tuple(sorted((site.name for site in self.sites), key=lambda site: site != self.home))

    @property
    def register_scheme(self) -> Scheme:
        """The scheme whose quorums the registers use: the default k over all sites."""
        return Scheme(min(self.default_scheme.k, len(self.members)), len(self.members))

    @property
    def electorate(self) -> Electorate:
        """Who decides about new register values: all sites of the configuration."""
        scheme = self.register_scheme
        return Electorate(self.members, scheme.write_quorum, scheme.register_liars)

    @property
    def domains(self) -> dict[SiteId, SiteDomains]:
        """Declared trust domains of every site."""
        return {site.name: site.domains for site in self.sites}

    @property
    def declared(self) -> dict[SiteId, SiteDomains]:
        """Declared trust domains of every site and relay."""
        return {**self.relay_domains, **self.domains}

    @property
    def catalog(self) -> Catalog:
        """The owner's registers, under a proposer name that no other run uses; the home site is asked first."""
        return Catalog(
            self.register_scheme,
            self.everyone,
            self.electorate,
            AnswerReader(
                self.owner,
                self.signer.public_key,
                {site.name: site.public_key for site in self.sites},
                self.register_scheme.register_liars,
            ),
            entropy=self.entropy,
            runtime=self.runtime,
            sink=self.sink,
            proposer=self.entropy.random_bytes(8).hex(),
            memory=self._memory,
        )

    def channels(self, class_: str) -> Mapping[SiteId, Channel]:
        """Return the channels of a class to all sites.

        Raises:
            Rejected: the class does not exist.
        """
        if class_ not in CLASSES:
            raise Rejected(
                f"class {class_[:20]!r} does not exist, expected one of {', '.join(CLASSES)}", code="vault.bad_class"
            )
        if class_ not in self._channels:
            keys = OpenLinks(self.keys, self.closed_links) if class_ == "its" else self.keys
            self._channels[class_] = {
                site.name: open_channel(
                    class_, self._patient(site), owner=self.owner, node=site.node, home=self.home, keys=keys
                )
                for site in self.sites
            }
        return self._channels[class_]

    def _patient(self, site: VaultSite) -> PatientLink:
        """Return the one link to a site that all channels share, so that what one learns of its lateness all know."""
        if site.name not in self._links:
            self._links[site.name] = PatientLink(site.link, self.clock)
        return self._links[site.name]

    def placement(self, scheme: Scheme) -> tuple[SiteId, ...]:
        """Return the sites that get shares: the home site and the next n-1, in the order of the configuration.

        Raises:
            BadScheme: there are fewer than n sites.
        """
        if scheme.n > len(self.members):
            raise BadScheme(f"{scheme} needs {scheme.n} sites, there are {len(self.members)}")
        others = [site for site in self.members if site != self.home]
        chosen = {self.home, *others[: scheme.n - 1]}
        return tuple(site for site in self.members if site in chosen)

    def fetcher(self, class_: str, placement: tuple[SiteId, ...], scheme: Scheme) -> Fetcher:
        """Return a fetcher for bodies of a class, placement and scheme."""
        return Fetcher(self.channels(class_), placement, scheme, self.home, self.runtime, self.sink)

    def key_facts(self, class_: str) -> dict[SiteId, Counter[KeySourceFacts]]:
        """Return the origins of all keys drawn so far under a class."""
        return {site: channel.facts for site, channel in self.channels(class_).items()}

    def bits_used(self) -> dict[SiteId, int]:
        """Return the key bits drawn so far per remote site, over all classes."""
        used: dict[SiteId, int] = {}
        for channels in self._channels.values():
            for site, channel in channels.items():
                if site != self.home:
                    used[site] = used.get(site, 0) + channel.bits_used
        return used
