"""Opening a vault from an owner's configuration file, with real files, sockets and clocks behind the ports.

``owner.toml``::

    [owner]     id, site, certificate, key, signing_key, state
    [kme]       id, url, server_name, ca, key_exchange
    [nodes]     ca
    [defaults]  scheme, class
    [[site]]    name, node, url, server_name, domain, vendor, signing_public_key, relays, retired  (order = share index)
    [[policy]]  prefix, require     (see ``owner_policies``)
    [[relay]]   name, domain, vendor

The order of sites is the order of share indexes. A retired site is being replaced: nothing new goes there, and
``shosoin move`` takes away what is there. The files that ``signing_public_key`` names hold ML-DSA-65 keys; the owner's
``signing_key`` is the 32-byte seed of one. Paths are absolute or relative to the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tomllib
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shosoin.adapters.audit_ledger import FileLedger
from shosoin.adapters.clock import SystemClock
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.evidence_log import FileEvidence
from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.memory import PAGE_BYTES, is_page_aligned
from shosoin.adapters.node_link import HttpsNodeLink, NodeSession
from shosoin.adapters.owner_policies import declared_relays, read_policies, read_relays
from shosoin.adapters.private_files import read_private, require_tls_key
from shosoin.adapters.route_journal import FileRouteJournal
from shosoin.adapters.runtime import AsyncioRuntime
from shosoin.base import OwnerId, Rejected, SaeId, SiteId
from shosoin.base.foreign_text import printable_text
from shosoin.base.ports import Event, EventSink
from shosoin.vault import Scheme, Vault, VaultContext, VaultSite
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.policies import Policies
from shosoin.vault.signing import OwnerSigner

__all__ = [
    "EVIDENCE_NAME",
    "FileMemo",
    "FileSource",
    "FileTarget",
    "OwnerConfig",
    "load_owner_config",
    "open_vault",
]
EVIDENCE_NAME = "evidence.jsonl"
"""The owner's evidence, in the state directory."""
_SEED_BYTES_MAX = 1 << 16
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)  # not everywhere


class BadOwnerConfig(Rejected):
    """An owner's configuration that cannot be used."""

    code = "adapters.bad_owner_config"


@dataclass(frozen=True, slots=True)
class OwnerSite:
    """One ``[[site]]``."""

    name: SiteId
    node: SaeId
    url: str
    server_name: str
    domain: str
    vendor: str
    signing_public_key: Path
    relays: tuple[SiteId, ...] | None = None
    retired: bool = False
    """Whether it is being replaced; dead or not, it stays until everything was moved (what it signed is checked)."""


@dataclass(frozen=True, slots=True)
class OwnerConfig:
    """An owner's configuration, checked."""

    owner: OwnerId
    home: SiteId
    certificate: Path
    key: Path
    signing_key: Path
    state: Path
    kme_id: str
    kme_url: str
    kme_server_name: str
    kme_ca: Path
    node_ca: Path
    scheme: Scheme
    class_: str
    sites: tuple[OwnerSite, ...]
    policies: Policies = field(default_factory=Policies)
    relays: Mapping[SiteId, SiteDomains] = field(default_factory=dict)
    kme_key_exchange: KeyExchange = KeyExchange.CLASSICAL


def load_owner_config(path: Path) -> OwnerConfig:
    """Read an owner's configuration.

    Raises:
        BadOwnerConfig: missing file, not TOML, or a missing or unusable field, named.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadOwnerConfig(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise BadOwnerConfig(f"{path} is not TOML: {printable_text(str(error))}") from None

    def text(table: str, name: str, default: str | None = None) -> str:
        found = raw.get(table, {})
        value = found.get(name, default) if isinstance(found, dict) else None
        if not isinstance(value, str):
            raise BadOwnerConfig(f"{path}: [{table}] {name} is missing or not text")
        return value

    def file(table: str, name: str) -> Path:
        written = text(table, name)
        if "\0" in written:
            raise BadOwnerConfig(f"{path}: [{table}] {name} is no path")
        return path.parent / written

    entries = raw.get("site", [])
    if not isinstance(entries, list):
        raise BadOwnerConfig(f"{path}: [[site]] must be tables")
    sites = tuple(_site(path, entry) for entry in entries)
    home = SiteId(text("owner", "site"))
    if home not in {site.name for site in sites} or len({site.name for site in sites}) != len(sites):
        raise BadOwnerConfig(f"{path}: the sites must be distinct and include the home site {home}")
    if any(site.retired and site.name == home for site in sites):
        raise BadOwnerConfig(f"{path}: the home site {home} cannot be retired")
    return OwnerConfig(
        owner=OwnerId(text("owner", "id")),
        home=home,
        certificate=file("owner", "certificate"),
        key=file("owner", "key"),
        signing_key=file("owner", "signing_key"),
        state=file("owner", "state"),
        kme_id=text("kme", "id", ""),
        kme_url=text("kme", "url"),
        kme_server_name=text("kme", "server_name"),
        kme_ca=file("kme", "ca"),
        node_ca=file("nodes", "ca"),
        scheme=Scheme.parse(text("defaults", "scheme", "3-of-5")),
        class_=text("defaults", "class", "its"),
        sites=sites,
        policies=read_policies(raw),
        relays=read_relays(raw),
        kme_key_exchange=KeyExchange(text("kme", "key_exchange", KeyExchange.CLASSICAL)),
    )


def _site(path: Path, entry: Any) -> OwnerSite:
    if not isinstance(entry, dict):
        raise BadOwnerConfig(f"{path}: [[site]] must be tables")
    needed = ("name", "node", "url", "server_name", "domain", "signing_public_key")
    missing = [name for name in needed if not isinstance(entry.get(name), str)]
    if missing:
        raise BadOwnerConfig(f"{path}: a [[site]] lacks {', '.join(missing)}")
    retired = entry.get("retired", False)
    if not isinstance(retired, bool):
        raise BadOwnerConfig(f"{path}: [[site]] retired is neither true nor false")
    return OwnerSite(
        SiteId(entry["name"]),
        SaeId(entry["node"]),
        entry["url"],
        entry["server_name"],
        entry["domain"],
        str(entry.get("vendor", "")),
        path.parent / entry["signing_public_key"],
        declared_relays(entry),
        retired,
    )


class FileMemo(MutableMapping[str, bytes]):
    """Small values kept in a directory that only the owner reads (decoded index parts)."""

    _KEPT_MAX = 256

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _path(self, key: str) -> Path:
        return self._directory / key

    def __getitem__(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._path(key).exists()

    def __setitem__(self, key: str, value: bytes) -> None:
        temporary = self._path(f".{key}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
        temporary.replace(self._path(key))
        self._trim()

    def _trim(self) -> None:
        """Keep the newest values only: parts are folded away, and what is missing is fetched again."""
        names = sorted(self, key=lambda name: self._path(name).stat().st_mtime)
        for name in names[: -self._KEPT_MAX]:
            self._path(name).unlink(missing_ok=True)

    def __delitem__(self, key: str) -> None:
        self._path(key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self._directory.iterdir() if not path.name.startswith("."))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Discard:
    """Where events go when nobody listens."""

    def emit(self, event: Event) -> None:
        """Drop it."""


@asynccontextmanager
async def open_vault(config: OwnerConfig, *, sink: EventSink | None = None) -> AsyncIterator[Vault]:
    """Open the vault of an owner; connections are made on first use and closed at the end.

    Raises:
        Rejected: a file of the owner's cannot be used.
        Denied: others can read a secret.
    """
    seed = read_private(config.signing_key, "[owner] signing_key", bytes_max=_SEED_BYTES_MAX)
    require_tls_key(config.key, "[owner] key")
    async with AsyncExitStack() as stack:
        keys = await stack.enter_async_context(
            KmeClient(
                config.kme_url,
                identity=config.kme_id or None,
                server_name=config.kme_server_name,
                certificate=config.certificate,
                key=config.key,
                ca=config.kme_ca,
                key_exchange=config.kme_key_exchange,
            )
        )
        session = await stack.enter_async_context(NodeSession(config.certificate, config.key, config.node_ca))
        sites = tuple(
            VaultSite(
                site.name,
                site.node,
                HttpsNodeLink(session, site.name, site.node, site.url, site.server_name),
                SiteDomains(site.domain, site.vendor, site.relays),
                _site_key(site),
                retired=site.retired,
            )
            for site in config.sites
        )
        ledger, signer, clock = FileLedger(config.state / "audits.sqlite"), OwnerSigner(seed), SystemClock()
        stack.callback(ledger.close)
        yield Vault(
            VaultContext(
                owner=config.owner,
                home=config.home,
                sites=sites,
                default_scheme=config.scheme,
                keys=keys,
                entropy=SystemEntropy(),
                clock=clock,
                runtime=AsyncioRuntime(),
                sink=sink or _Discard(),
                signer=signer,
                memo=FileMemo(config.state / "index"),
                ledger=ledger,
                evidence=FileEvidence(config.state / EVIDENCE_NAME, config.owner, signer, clock),
                policies=config.policies,
                journal=FileRouteJournal(config.state / "routes"),
                relay_domains=config.relays,
            )
        )


def _site_key(site: OwnerSite) -> bytes:
    try:
        return site.signing_public_key.read_bytes()
    except OSError as error:
        raise BadOwnerConfig(f"cannot read {site.signing_public_key}: {error.strerror}") from None


class FileSource:
    """A file as the source of a put; its size at the start is what it must give."""

    def __init__(self, path: Path, runtime: AsyncioRuntime | None = None) -> None:
        self._runtime = runtime or AsyncioRuntime()
        try:
            self._file: BinaryIO = path.open("rb", buffering=0)
            if not path.is_file():
                raise Rejected(f"{path} is not a regular file", code="vault.unreadable")
        except OSError as error:
            raise Rejected(f"cannot read {path}: {error.strerror}", code="vault.unreadable") from None
        self.size_hint: int | None = os.fstat(self._file.fileno()).st_size

    async def read(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        try:
            return await self._runtime.in_thread(self._file.read, size_bytes)
        except OSError as error:
            raise Rejected(f"reading failed: {error.strerror}", code="vault.unreadable") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_all(stream: BinaryIO, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        written = stream.write(view)
        view = view[written:]


class FileTarget:
    """A file as the target of a get: written beside its name and renamed when complete, or not at all.

    Whole pages go to the disk past the page cache where the system allows it: the file is flushed at the end anyway,
    and a copy into memory that nobody asked for costs a fifth of the processor time of a large get.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._runtime = AsyncioRuntime()
        try:
            self._file: BinaryIO = self._partial.open("xb", buffering=0)
        except OSError as error:
            raise Rejected(f"cannot write {path}: {error.strerror}", code="vault.unwritable") from None
        self._at = 0
        self._direct: int = _O_DIRECT
        """The flag that bypasses the page cache; 0 once it does not work or is not wanted any more."""
        self._is_direct = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write the next bytes."""
        try:
            await self._runtime.in_thread(self._write, memoryview(data).cast("B"))
        except OSError as error:
            raise Rejected(f"cannot write {self._path}: {error.strerror}", code="vault.unwritable") from None

    def _write(self, view: memoryview) -> None:
        whole = self._at % PAGE_BYTES == 0 and len(view) % PAGE_BYTES == 0 and is_page_aligned(view)
        self._set_direct(on=bool(self._direct) and whole and len(view) > 0)
        try:
            _write_all(self._file, view)
        except OSError as error:
            if not self._is_direct or error.errno != errno.EINVAL:
                raise
            self._direct = 0  # this file system takes the flag and not the write
            self._set_direct(on=False)
            self._file.seek(self._at)
            _write_all(self._file, view)
        self._at += len(view)

    def _set_direct(self, *, on: bool) -> None:
        if on == self._is_direct:
            return
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | self._direct if on else flags & ~_O_DIRECT)
            self._is_direct = on
        except OSError:
            if not on:
                raise
            self._direct = 0

    def commit(self) -> None:
        """Make the file complete and visible."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._partial.unlink(missing_ok=True)
