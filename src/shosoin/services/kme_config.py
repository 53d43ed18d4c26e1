"""The configuration file of a KME: TOML in, frozen values out, every mistake named."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from shosoin.base import KmeId, Rejected, SaeId
from shosoin.keys.key_id import LENGTH_BYTES_MAX

__all__ = ["KmeConfig", "LimitSection", "LinkSection", "PeerApiSection", "SaeApiSection", "load_kme_config"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KmeSection:
    """``[kme]``."""

    id: str
    site: str
    directory: Path
    storage_key_file: Path


@dataclass(frozen=True, slots=True)
class SaeApiSection:
    """``[kme.sae_api]``: ETSI GS QKD 014 for the SAEs of the site."""

    host: str
    port: int
    certificate: Path
    key: Path
    client_ca: Path
    minimum_tls: str = "1.2"


@dataclass(frozen=True, slots=True)
class PeerApiSection:
    """``[kme.peer_api]``: the network plane between KMEs."""

    host: str
    port: int
    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True, slots=True)
class LimitSection:
    """``[limits]``: a bound on everything."""

    key_size_bits: int = 256
    min_key_size_bits: int = 8
    max_key_size_bits: int = LENGTH_BYTES_MAX * 8
    max_key_per_request: int = 128
    max_request_bytes: int = 64 << 20
    max_body_bytes: int = 64 << 10
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
    """``[[link]]``."""

    peer: str
    host: str
    port: int
    attenuation_db: float
    pair_secret_file: Path
    kind: str = "simulated"
    length_km: float = 0.0
    speedup: float = 1.0
    stock_bits_at_start: int = 0
    max_stock_bits: int = 1 << 31


@dataclass(frozen=True, slots=True)
class SaeSection:
    """``[[sae]]``."""

    id: str
    kme: str


@dataclass(frozen=True, slots=True)
class KmeConfig:
    """Everything a KME process is told."""

    kme: KmeSection
    sae_api: SaeApiSection
    peer_api: PeerApiSection
    limits: LimitSection
    directory: Mapping[SaeId, KmeId]
    links: tuple[LinkSection, ...]
    origin: Path = field(default=Path())


def load_kme_config(path: Path) -> KmeConfig:
    """Read a configuration; relative paths are relative to the file.

    Raises:
        Rejected: with the section and key that is wrong, missing or unknown.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as err:
        raise Rejected(f"cannot read configuration {path}: {err}", code="config.unreadable") from err
    reader = _Reader(path)
    reader.check_names("top level", document, {"kme", "limits", "sae", "link"})
    kme = reader.table("kme", document)
    reader.check_names("kme", kme, {"id", "site", "directory", "storage_key_file", "sae_api", "peer_api"})
    apis = {"sae_api", "peer_api"}
    saes = [reader.section(SaeSection, "sae", item) for item in reader.array("sae", document)]
    config = KmeConfig(
        kme=reader.section(KmeSection, "kme", {name: value for name, value in kme.items() if name not in apis}),
        sae_api=reader.section(SaeApiSection, "kme.sae_api", reader.table("sae_api", kme)),
        peer_api=reader.section(PeerApiSection, "kme.peer_api", reader.table("peer_api", kme)),
        limits=reader.section(LimitSection, "limits", document.get("limits", {})),
        directory={SaeId(sae.id): KmeId(sae.kme) for sae in saes},
        links=tuple(reader.section(LinkSection, "link", item) for item in reader.array("link", document)),
        origin=path,
    )
    _check_meaning(config, len(saes))
    return config


def _check_meaning(config: KmeConfig, saes: int) -> None:
    own = KmeId(config.kme.id)
    peers = [KmeId(link.peer) for link in config.links]
    if len(set(peers)) < len(peers) or own in peers:
        raise Rejected(f"{config.origin}: every [[link]] needs a peer of its own", code="config.bad_value")
    if len(config.directory) < saes:
        raise Rejected(f"{config.origin}: an SAE appears twice in [[sae]]", code="config.bad_value")
    for link in config.links:
        if link.kind != "simulated":
            raise Rejected(f"{config.origin}: link kind {link.kind!r}, expected 'simulated'", code="config.bad_value")
    low, high = config.limits.min_key_size_bits, config.limits.max_key_size_bits
    default, most = config.limits.key_size_bits, LENGTH_BYTES_MAX * 8
    if not 8 <= low <= default <= high <= most or low % 8 or default % 8 or high % 8:
        message = f"{config.origin}: key sizes must be multiples of 8 with 8 <= min <= default <= max <= {most}"
        raise Rejected(message, code="config.bad_value")
    if config.sae_api.minimum_tls not in {"1.2", "1.3"}:
        raise Rejected(f"{config.origin}: minimum_tls must be '1.2' or '1.3'", code="config.bad_value")


@dataclass(frozen=True, slots=True)
class _Reader:
    origin: Path

    def table(self, name: str, parent: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a table that must be there."""
        value = parent.get(name)
        if not isinstance(value, dict):
            raise self._wrong(f"[{name}] is missing or not a table")
        return value

    def array(self, name: str, parent: Mapping[str, Any]) -> list[Any]:
        """Return an array of tables that may be absent."""
        value = parent.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(f"[[{name}]] must be an array of tables")
        return value

    def check_names(self, section: str, found: Mapping[str, Any], known: set[str]) -> None:
        """Refuse names that mean nothing here, and say which one was probably meant."""
        for name in found:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
                raise self._wrong(f"unknown key {name!r} in {section}{meant}")

    def section(self, kind: type[T], name: str, found: Mapping[str, Any]) -> T:
        """Read a table into its dataclass."""
        declared = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
        self.check_names(f"[{name}]", found, set(declared))
        values = {}
        for key, item in declared.items():
            if key in found:
                values[key] = self._value(f"[{name}] {key}", str(item.type), found[key])
            elif item.default is MISSING:
                near = difflib.get_close_matches(key, [k for k in found if k not in declared], n=1)
                raise self._wrong(f"[{name}] lacks {key!r}" + (f" (there is {near[0]!r})" if near else ""))
        return kind(**values)

    def _value(self, where: str, declared: str, value: Any) -> Any:
        convert: dict[str, tuple[tuple[type, ...], Callable[[Any], Any]]] = {
            "str": ((str,), str),
            "int": ((int,), int),
            "float": ((int, float), float),
            "Path": ((str,), lambda text: (self.origin.parent / text).resolve()),
        }
        types, make = convert[declared]
        number = declared in {"int", "float"}
        if type(value) not in types or (number and value < 0):
            raise self._wrong(f"{where} must be {declared.lower()}{' >= 0' if number else ''}, got {value!r}")
        return make(value)

    def _wrong(self, message: str) -> Rejected:
        return Rejected(f"{self.origin}: {message}", code="config.bad_value")
