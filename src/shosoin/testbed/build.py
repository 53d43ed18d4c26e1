"""Making a testbed's directory: certificates, secrets and configuration files of every process and owner.

Everything is made here at the first ``up`` and never leaves the directory. A directory is complete when its
``ports.json`` exists, which is written last; what an interrupted build left behind is made afresh.
"""

from __future__ import annotations

import json
import secrets
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from shosoin.adapters.certificates import (
    Authority,
    Role,
    make_private_directory,
    write_private,
    write_signing_key,
)
from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.openssl_binding import binding
from shosoin.base import Rejected
from shosoin.testbed.layout import HOST, Layout, SitePorts
from shosoin.testbed.ports import free_ports
from shosoin.testbed.scenario import Link, Owner, Scenario, Site
from shosoin.testbed.toml import Section, toml_text

__all__ = ["claim", "prepare"]

OWN_ENTRIES = frozenset({"ca", "sites", "owners", "scenario.toml", "ports.json", "testbed.json", "launch.log", "lock"})
PAIR_SECRET_BYTES = 1024
"""Out-of-band secret of two KMEs: first authentication keys and the seed of their simulated link."""
STORAGE_KEY_BYTES = 32
CA_FROM_PROCESS = "../../../ca"
"""Path from a process's directory to the certificate authorities."""


def claim(root: Path) -> None:
    """Make a directory ours and private; one with anything else in it is left untouched.

    Raises:
        Rejected: it holds things that are not part of a testbed.
    """
    if root.exists():
        _refuse_strangers(root)
    make_private_directory(root)


def prepare(scenario: Scenario, root: Path) -> Layout:
    """Return the layout of ``root``, making the directory if it is not complete.

    Raises:
        Rejected: the directory holds another scenario or things that are not ours.
    """
    claim(root)
    _check_policies(scenario)
    _check_key_exchange(scenario)
    if (root / "ports.json").exists():
        layout = Layout.load(root)
        if layout.scenario != scenario:
            raise Rejected(
                f"{root} already holds a testbed of scenario {layout.scenario.name!r}, which differs from the "
                f"{scenario.name!r} asked for",
                code="testbed.other_scenario",
                hint="choose another directory, or leave the scenario out to use the one that is there",
            )
        return layout
    for entry in ("ca", "sites", "owners"):
        shutil.rmtree(root / entry, ignore_errors=True)
    return _Builder.of(scenario, root.resolve()).build()


def _check_policies(scenario: Scenario) -> None:
    """Read every owner's policies before anything is made of them.

    Raises:
        BadPolicy: naming the clause.
    """
    if scenario.policies:
        from shosoin.vault.policies import Policies  # noqa: PLC0415  # loads the whole vault

        for owner in scenario.owners:
            Policies.of((policy.prefix, policy.require) for policy in scenario.policies_of(owner.id))


def _check_key_exchange(scenario: Scenario) -> None:
    """Make sure that the KMEs will be able to talk, before they are started one by one.

    Raises:
        Rejected: the extra is missing.
    """
    if KeyExchange(scenario.key_exchange).is_hybrid:
        binding()


def _refuse_strangers(root: Path) -> None:
    if not root.is_dir():
        raise Rejected(f"{root} is not a directory", code="testbed.directory_in_use")
    strangers = sorted(entry.name for entry in root.iterdir() if not _is_ours(entry.name))
    if strangers:
        raise Rejected(
            f"{root} holds {strangers[0]!r}, which is not part of a testbed",
            code="testbed.directory_in_use",
            hint="choose an empty or a new directory",
        )


def _is_ours(name: str) -> bool:
    """Return whether an entry may be there; hidden files are nobody's business (``.DS_Store``)."""
    return name in OWN_ENTRIES or name.startswith(".")


@dataclass(frozen=True, slots=True)
class _Builder:
    """One run of the builder."""

    layout: Layout
    sae_plane: Authority
    node_plane: Authority

    @classmethod
    def of(cls, scenario: Scenario, root: Path) -> _Builder:
        numbers = iter(free_ports(3 * len(scenario.sites)))
        ports = {site.name: SitePorts(next(numbers), next(numbers), next(numbers)) for site in scenario.sites}
        planes = [Authority.create(f"{scenario.name} {plane} plane") for plane in ("sae", "node")]
        return cls(Layout(root, scenario, ports), *planes)

    def build(self) -> Layout:
        """Write everything and return the layout."""
        layout = self.layout
        make_private_directory(layout.root / "ca")
        self.sae_plane.issued.write(*layout.authority("sae"))
        self.node_plane.issued.write(*layout.authority("node"))
        for owner in layout.scenario.owners:
            self._owner(owner)
        for site in layout.scenario.sites:
            self._kme(site)
            self._node(site)
            self._saes(site)
        for link in layout.scenario.links:
            self._pair_secret(link)
            if link.events is not None:
                self._authentication_key(link)
        write_private(layout.root / "scenario.toml", layout.scenario.text.encode())
        ports = {site: asdict(numbers) for site, numbers in layout.ports.items()}
        write_private(layout.root / "ports.json", json.dumps(ports, indent=1).encode())
        return layout

    def _owner(self, owner: Owner) -> None:
        directory = make_private_directory(self.layout.owner_directory(owner.id))
        make_private_directory(directory / "state")
        issued = self.sae_plane.issue(Role.SAE, owner.id, client=True)
        issued.write(directory / "owner.crt", directory / "owner.key")
        write_signing_key(directory / "signing.key", directory / "signing.pub")
        write_private(directory / "owner.toml", self._owner_toml(owner).encode())

    def _owner_toml(self, owner: Owner) -> str:
        scenario = self.layout.scenario
        home = scenario.site(owner.site)
        return toml_text(
            {
                "owner": {
                    "id": owner.id,
                    "site": owner.site,
                    "certificate": "owner.crt",
                    "key": "owner.key",
                    "signing_key": "signing.key",
                    "state": "state",
                },
                "kme": {
                    "id": home.kme_id,
                    "url": self._url(self.layout.ports[home.name].sae_api),
                    "server_name": home.kme_id,
                    "ca": "../../ca/sae.crt",
                },
                "nodes": {"ca": "../../ca/node.crt"},
                "defaults": {"scheme": scenario.scheme_text, "class": scenario.class_},
                "site": [self._site_entry(site) for site in self._reachable(owner)],
                "policy": [
                    {"prefix": policy.prefix, "require": policy.require} for policy in scenario.policies_of(owner.id)
                ],
            }
        )

    def _reachable(self, owner: Owner) -> list[Site]:
        """Return the owner's home and its neighbours, in the scenario's order."""
        near = {owner.site, *(link.other(owner.site) for link in self.layout.scenario.links_of(owner.site))}
        return [site for site in self.layout.scenario.sites if site.name in near]

    def _site_entry(self, site: Site) -> Section:
        return {
            "name": site.name,
            "node": site.node_id,
            "url": self._url(self.layout.ports[site.name].node_api),
            "server_name": site.node_id,
            "domain": site.domain,
            "vendor": site.vendor,
            "signing_public_key": f"../../sites/{site.name}/node/signing.pub",
        }

    def _kme(self, site: Site) -> None:
        directory = make_private_directory(self.layout.site_directory(site.name) / "kme")
        make_private_directory(directory / "state")
        write_private(directory / "storage.key", secrets.token_bytes(STORAGE_KEY_BYTES))
        issued = self.sae_plane.issue(Role.KME, site.kme_id, server=True)
        issued.write(directory / "sae-api.crt", directory / "sae-api.key")
        issued = self.node_plane.issue(Role.KME, site.kme_id, server=True, client=True)
        issued.write(directory / "peer-api.crt", directory / "peer-api.key")
        write_private(directory / "config.toml", self._kme_toml(site).encode())

    def _kme_toml(self, site: Site) -> str:
        ports = self.layout.ports[site.name]
        return toml_text(
            {
                "kme": {
                    "id": site.kme_id,
                    "site": site.name,
                    "directory": "state",
                    "storage_key_file": "storage.key",
                },
                "kme.sae_api": {
                    "host": HOST,
                    "port": ports.sae_api,
                    "certificate": "sae-api.crt",
                    "key": "sae-api.key",
                    "client_ca": f"{CA_FROM_PROCESS}/sae.crt",
                },
                "kme.peer_api": {
                    "host": HOST,
                    "port": ports.peer_api,
                    "certificate": "peer-api.crt",
                    "key": "peer-api.key",
                    "ca": f"{CA_FROM_PROCESS}/node.crt",
                    "key_exchange": self.layout.scenario.key_exchange,
                },
                "sae": self._sae_directory(),
                "link": [self._link_entry(site, link) for link in self.layout.scenario.links_of(site.name)],
            }
        )

    def _sae_directory(self) -> list[Section]:
        """Return every SAE with the KME that serves it."""
        scenario = self.layout.scenario
        entries: list[Section] = [
            {"id": sae_id, "kme": site.kme_id} for site in scenario.sites for sae_id in (site.node_id, *site.sae_ids)
        ]
        entries += [{"id": owner.id, "kme": scenario.site(owner.site).kme_id} for owner in scenario.owners]
        return entries

    def _link_entry(self, site: Site, link: Link) -> Section:
        peer = self.layout.scenario.site(link.other(site.name))
        entry: Section = {
            "peer": peer.kme_id,
            "host": HOST,
            "port": self.layout.ports[peer.name].peer_api,
            "kind": "simulated" if link.events is None else "events",
            "max_stock_bits": link.max_stock_bits,
            "pair_secret_file": _pair_secret_name(peer),
        }
        line: Section = {
            "length_km": link.length_km,
            "attenuation_db": link.attenuation_db,
            "stock_bits_at_start": link.stock_bits_at_start,
        }
        if link.events is None:
            return {**entry, **line, "speedup": link.speedup}
        events = {**line, **asdict(link.events), "authentication_key_file": _authentication_key_name(peer)}
        return {**entry, "events": events}

    def _pair_secret(self, link: Link) -> None:
        """Write the same secret at both ends, as two people would carry it."""
        secret = secrets.token_bytes(PAIR_SECRET_BYTES)
        scenario = self.layout.scenario
        for here, there in ((link.a, link.b), (link.b, link.a)):
            directory = self.layout.site_directory(here) / "kme"
            write_private(directory / _pair_secret_name(scenario.site(there)), secret)

    def _authentication_key(self, link: Link) -> None:
        """Write the key with which the ends of a post-processed link know each other until they have made their own."""
        key = secrets.token_bytes(AUTHENTICATION_KEY_BYTES)
        scenario = self.layout.scenario
        for here, there in ((link.a, link.b), (link.b, link.a)):
            directory = self.layout.site_directory(here) / "kme"
            write_private(directory / _authentication_key_name(scenario.site(there)), key)

    def _node(self, site: Site) -> None:
        directory = make_private_directory(self.layout.site_directory(site.name) / "node")
        make_private_directory(directory / "state")
        issued = self.node_plane.issue(Role.NODE, site.node_id, server=True)
        issued.write(directory / "node.crt", directory / "node.key")
        issued = self.sae_plane.issue(Role.SAE, site.node_id, client=True)
        issued.write(directory / "sae.crt", directory / "sae.key")
        write_signing_key(directory / "signing.key", directory / "signing.pub")
        write_private(directory / "config.toml", self._node_toml(site).encode())

    def _node_toml(self, site: Site) -> str:
        ports = self.layout.ports[site.name]
        owners: list[Section] = [
            {
                "id": owner.id,
                "home_site": owner.site,
                "signing_public_key": f"../../../owners/{owner.id}/signing.pub",
                "quota_bytes": owner.quota_bytes,
            }
            for owner in self.layout.scenario.owners
        ]
        return toml_text(
            {
                "node": {
                    "id": site.node_id,
                    "site": site.name,
                    "directory": "state",
                    "signing_key": "signing.key",
                },
                "node.api": {
                    "host": HOST,
                    "port": ports.node_api,
                    "certificate": "node.crt",
                    "key": "node.key",
                    "client_ca": f"{CA_FROM_PROCESS}/sae.crt",
                },
                "node.kme": {
                    "id": site.kme_id,
                    "url": self._url(ports.sae_api),
                    "server_name": site.kme_id,
                    "ca": f"{CA_FROM_PROCESS}/sae.crt",
                    "certificate": "sae.crt",
                    "key": "sae.key",
                    "sae_id": site.node_id,
                },
                "owner": owners,
                "site": [
                    {"name": other.name, "signing_public_key": f"../../{other.name}/node/signing.pub"}
                    for other in self.layout.scenario.sites
                ],
            }
        )

    def _saes(self, site: Site) -> None:
        make_private_directory(self.layout.site_directory(site.name) / "saes")
        for sae_id in site.sae_ids:
            issued = self.sae_plane.issue(Role.SAE, sae_id, client=True)
            issued.write(*self.layout.sae_files(site.name, sae_id))

    def _url(self, port: int) -> str:
        return f"https://{HOST}:{port}"


AUTHENTICATION_KEY_BYTES = 1 << 16
"""Enough for some hundred starts before any block was finished; from then on the link makes its own."""


def _pair_secret_name(peer: Site) -> str:
    return f"pair-{peer.name}.secret"


def _authentication_key_name(peer: Site) -> str:
    return f"authentication-{peer.name}.key"
