"""The part of a KME's configuration that is about SKIP: where it listens, and which system ID each SAE has."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.base import SaeId, SystemId
from shosoin.services.toml_sections import Sections

__all__ = ["SkipApiSection", "SkipConfig", "SkipSystemSection", "read_skip"]


@dataclass(frozen=True, slots=True)
class SkipApiSection:
    """``[skip]``: the Secure Key Integration Protocol for encryptors of the site."""

    host: str
    port: int
    certificate: Path
    key: Path
    client_ca: Path
    minimum_tls: str = "1.2"
    key_exchange: KeyExchange = KeyExchange.CLASSICAL
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""


@dataclass(frozen=True, slots=True)
class SkipSystemSection:
    """``[[skip.system]]``: an SAE whose system ID is not its SAE ID."""

    id: SystemId
    sae: SaeId


@dataclass(frozen=True, slots=True)
class SkipConfig:
    """Everything a KME is told about SKIP."""

    api: SkipApiSection
    systems: Mapping[SystemId, SaeId]
    """The SAE of every system ID."""


def read_skip(sections: Sections, document: Mapping[str, Any], saes: Collection[SaeId]) -> SkipConfig | None:
    """Read ``[skip]`` of a KME's configuration; None where it is absent.

    Raises:
        Rejected: with the section and key that is wrong, missing or unknown.
    """
    if "skip" not in document:
        return None
    table = sections.table(document, "skip", "skip")
    api = sections.read(SkipApiSection, "skip", {name: value for name, value in table.items() if name != "system"})
    if api.minimum_tls not in {"1.2", "1.3"}:
        raise sections.wrong("[skip] minimum_tls must be '1.2' or '1.3'")
    named = [sections.read(SkipSystemSection, "skip.system", item) for item in sections.tables(table, "system")]
    return SkipConfig(api, _systems(sections, named, saes))


def _systems(sections: Sections, named: list[SkipSystemSection], saes: Collection[SaeId]) -> Mapping[SystemId, SaeId]:
    own = {system.sae: system.id for system in named}
    for sae in own:
        if sae not in saes:
            raise sections.wrong(f"[[skip.system]] sae {sae} is in no [[sae]]")
    if len(own) < len(named):
        raise sections.wrong("an SAE appears twice in [[skip.system]]")
    systems = {own.get(sae, SystemId(sae)): sae for sae in saes}
    if len(systems) < len(saes):
        raise sections.wrong("two SAEs have the same system ID; without a [[skip.system]] it is the SAE ID")
    return systems
