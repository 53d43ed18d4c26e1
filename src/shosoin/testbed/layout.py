"""Where everything of a testbed lies in its directory.

::

    DIR/scenario.toml               the scenario, verbatim
    DIR/ports.json                  loopback ports, fixed for the life of the directory; written last: DIR is complete
    DIR/testbed.json                what outside programs read; written when everything serves
    DIR/launch.log                  what starting them together said; empty when all is well
    DIR/ca/{sae,node}.{crt,key}     the two certificate authorities
    DIR/sites/SITE/{kme,node}/      config.toml, state/, log, pid, certificates
    DIR/sites/SITE/saes/            certificates of the site's further SAEs
    DIR/owners/OWNER/               owner.toml, certificate, signing keys, state/

Paths inside configuration files are relative, so that a stopped directory can be moved.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from shosoin.base import Rejected
from shosoin.base.foreign_text import printable_text
from shosoin.testbed.fields import did_you_mean
from shosoin.testbed.scenario import Scenario, parse_scenario

__all__ = ["HOST", "Layout", "Process", "ProcessRole", "SitePorts"]

HOST = "127.0.0.1"


class ProcessRole(StrEnum):
    """The two processes of a site."""

    KME = "kme"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class SitePorts:
    """Loopback ports of one site."""

    sae_api: int
    """ETSI GS QKD 014 of the KME."""
    peer_api: int
    """KME to KME."""
    node_api: int
    """Share node."""


def _ports(numbers: dict[str, int]) -> SitePorts:
    ports = SitePorts(**numbers)
    if any(type(port) is not int or not 0 < port < 1 << 16 for port in numbers.values()):
        raise ValueError("a port that is no number of a port")
    return ports


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a testbed and its files."""

    site: str
    role: ProcessRole
    directory: Path
    port: int
    """The port that clients call."""

    @property
    def target(self) -> str:
        """``SITE/ROLE``, as the command line writes it."""
        return f"{self.site}/{self.role.value}"

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.directory / "config.toml"

    @property
    def state(self) -> Path:
        """Its durable state."""
        return self.directory / "state"

    @property
    def ready(self) -> Path:
        """Written by the process itself once it listens."""
        return self.state / "ready"

    @property
    def log(self) -> Path:
        """Its standard output and error."""
        return self.directory / "log"

    @property
    def pid(self) -> Path:
        """Who runs, written by us."""
        return self.directory / "pid"


@dataclass(frozen=True, slots=True)
class Layout:
    """A testbed's directory together with what it was made from."""

    root: Path
    scenario: Scenario
    ports: dict[str, SitePorts]

    @classmethod
    def load(cls, root: Path) -> Layout:
        """Read a complete testbed directory back.

        Raises:
            Rejected: there is none.
        """
        try:
            ports = json.loads((root / "ports.json").read_text(encoding="utf-8"))
            scenario = parse_scenario((root / "scenario.toml").read_text(encoding="utf-8"))
            return cls(root.resolve(), scenario, {site.name: _ports(ports[site.name]) for site in scenario.sites})
        except KeyError as err:
            raise Rejected(f"{root} is not a testbed: no ports for site {err}", code="testbed.no_testbed") from err
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as err:
            why = (
                f"it has no {Path(err.filename).name}"
                if isinstance(err, FileNotFoundError)
                else printable_text(str(err))
            )
            raise Rejected(
                f"{root} is not a testbed: {why}",
                code="testbed.no_testbed",
                hint=f"make one with: shosoin testbed up --dir {root}",
            ) from err

    @property
    def testbed_json(self) -> Path:
        """The file for outside programs."""
        return self.root / "testbed.json"

    @property
    def launch_log(self) -> Path:
        """What was said before the processes had logs of their own."""
        return self.root / "launch.log"

    def authority(self, plane: str) -> tuple[Path, Path]:
        """Return certificate and key of the authority of plane ``sae`` or ``node``."""
        return self.root / "ca" / f"{plane}.crt", self.root / "ca" / f"{plane}.key"

    def site_directory(self, site: str) -> Path:
        """Return the directory of a site."""
        return self.root / "sites" / site

    def owner_directory(self, owner_id: str) -> Path:
        """Return the directory of an owner."""
        return self.root / "owners" / owner_id

    def owner_config(self, owner_id: str | None) -> Path:
        """Return the configuration of an owner (the first one of the scenario if not named)."""
        return self.owner_directory(self.scenario.owner(owner_id).id) / "owner.toml"

    def sae_files(self, site: str, sae_id: str) -> tuple[Path, Path]:
        """Return certificate and key of one of a site's further SAEs."""
        directory = self.site_directory(site) / "saes"
        return directory / f"{sae_id}.crt", directory / f"{sae_id}.key"

    def process(self, site: str, role: ProcessRole) -> Process:
        """Return one process."""
        ports = self.ports[site]
        port = ports.sae_api if role is ProcessRole.KME else ports.node_api
        return Process(site, role, self.site_directory(site) / role.value, port)

    def processes(self) -> list[Process]:
        """Return all processes, site by site."""
        return [self.process(site.name, role) for site in self.scenario.sites for role in ProcessRole]

    def select(self, target: str) -> list[Process]:
        """Return the processes that ``SITE`` or ``SITE/ROLE`` names.

        Raises:
            Rejected: no such site or role.
        """
        site_name, slash, role_name = target.partition("/")
        site = self.scenario.site(site_name)
        if not slash:
            return [self.process(site.name, role) for role in ProcessRole]
        roles = [role.value for role in ProcessRole]
        if role_name not in roles:
            raise Rejected(
                f"no role {role_name[:80]!r} at site {site.name}; roles are {', '.join(roles)}",
                code="testbed.unknown_role",
                hint=did_you_mean(role_name, roles),
            )
        return [self.process(site.name, ProcessRole(role_name))]
