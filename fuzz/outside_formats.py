"""Harnesses of what adapters and services read: configuration, certificates, error bodies, paths, small files.

A configuration comes as TOML text, or as JSON that is written as TOML first, so that structure can be changed as well.
"""

from __future__ import annotations

import datetime
import json
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fuzz.harness import Finding, Harness
from shosoin.adapters.node_link import HttpsNodeLink
from shosoin.adapters.owner import FileMemo, load_owner_config
from shosoin.adapters.tls import peer_identity
from shosoin.base import ShosoinError, SiteId
from shosoin.cli.get import parse_range
from shosoin.services.kme_config import load_kme_config
from shosoin.services.node_config import load_node_config
from shosoin.testbed.build import prepare
from shosoin.testbed.layout import Layout
from shosoin.testbed.processes import read_record
from shosoin.testbed.scenario import load_scenario, parse_scenario

__all__ = ["HARNESSES", "scratch"]


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")  # noqa: S108  # nothing here must outlive the process, and flushes to a disk cost time
    return tempfile.TemporaryDirectory(prefix="shosoin-fuzz-", dir=memory if memory.is_dir() else None)


def scratch() -> Path:
    """Return a directory for files that a harness needs; removed when the process ends."""
    return Path(_scratch().name)


def as_toml(raw: bytes) -> bytes:
    """Return TOML: JSON objects are written as TOML, anything else is taken as it is."""
    if raw[:1] != b"{":
        return raw
    try:
        tree = json.loads(raw)
        lines = [f"{json.dumps(name)} = {_inline(value)}" for name, value in tree.items()]
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, AttributeError):
        return raw


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {_inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return '""' if value is None else json.dumps(value)


def _file_of(raw: bytes) -> Path:
    path = scratch() / "config.toml"
    path.write_bytes(as_toml(raw))
    return path


def _loads(load: Callable[[Path], Any]) -> Callable[[bytes], None]:
    return lambda raw: _only_told(load, _file_of(raw))


def _only_told(load: Callable[[Path], Any], path: Path) -> None:
    """Load; an error about a file names it, and the harness's own directory is printable."""
    load(path)


def scenario(raw: bytes) -> None:
    """Scenarios."""
    try:
        text = as_toml(raw).decode()
    except UnicodeDecodeError:
        return  # whoever reads the file says so
    parse_scenario(text)


@lru_cache(maxsize=1)
def _testbed() -> Path:
    """A testbed directory whose files are never started: every configuration as we write it."""
    root = scratch() / "bed"
    root.mkdir(mode=0o700)
    prepare(load_scenario("tiny"), root)
    return root


def _toml_seeds(*patterns: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        found = [path.read_bytes() for pattern in patterns for path in sorted(_testbed().glob(pattern))[:1]]
        # no absolute path of the machine that made the seed
        texts = [raw.replace(str(_testbed()).encode(), b"/bed") for raw in found]
        return texts + [_as_json(raw) for raw in texts]

    return seeds


def _as_json(raw: bytes) -> bytes:
    import tomllib  # seeds only

    return json.dumps(tomllib.loads(raw.decode())).encode()


def testbed_files(raw: bytes) -> None:
    """``ports.json`` and the records of processes: a directory is a testbed, or it is said that it is none."""
    root = scratch() / "found"
    root.mkdir(exist_ok=True)
    (root / "ports.json").write_bytes(raw)
    (root / "scenario.toml").write_bytes((_testbed() / "scenario.toml").read_bytes())
    (root / "pid").write_bytes(raw)
    record = read_record(root / "pid")
    if record is not None and (type(record.pid) is not int or type(record.started) is not str):
        raise Finding("a record of no process")
    layout = Layout.load(root)
    for process in layout.processes():
        if not isinstance(process.port, int):
            raise Finding(f"port {process.port!r}")


def index_memo(raw: bytes) -> None:
    """What is kept of the index at the owner's side, after the disk did what it wanted."""
    memo = FileMemo(scratch() / "memo")
    memo["index-part-x"] = raw
    if memo["index-part-x"] != raw or "index-part-x" not in memo:
        raise Finding("a memo that forgets")


def byte_range(raw: bytes) -> None:
    """Ranges as people write them."""
    start, length = parse_range(raw.decode("utf-8", "replace"))
    if start < 0 or (length is not None and length < 1):
        raise Finding(f"range {start} {length}")


class _Response:
    """As much of an HTTP response as an error is read from."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers


def node_error(raw: bytes) -> None:
    """Error bodies of a node; the first byte chooses the status."""
    if not raw:
        return
    link = HttpsNodeLink.__new__(HttpsNodeLink)
    link._site = SiteId("koganei")
    status = (400, 401, 404, 500, 502, 503, 302, 700)[raw[0] % 8]
    response: Any = _Response(status, {"Retry-After": raw[1:9].decode("latin-1")})
    error = link._failure(response, raw[1:])
    if not isinstance(error, ShosoinError):
        raise Finding("no error at all")
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None and not 0 <= retry_after_s <= 300:
        raise Finding(f"retry after {retry_after_s}")
    raise error


def certificate(raw: bytes) -> None:
    """Certificates: one of our URIs, or nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library frowns upon is not ours to judge
        identity = peer_identity(raw)
    if identity.role not in {"sae", "kme", "node"} or not identity.id.isprintable():
        raise Finding(f"identity {identity}")


def _certificates() -> list[bytes]:
    key = ec.derive_private_key(7, ec.SECP256R1())
    start = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    made = []
    for uris in (["urn:shosoin:node:node-a"], ["urn:shosoin:sae:a", "urn:shosoin:sae:b"], []):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node-a")])
        names = x509.SubjectAlternativeName([x509.DNSName("node-a"), *map(x509.UniformResourceIdentifier, uris)])
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), 5, start, start.replace(year=2035))
        signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
        made.append(signed.public_bytes(serialization.Encoding.DER))
    return made


def _error_bodies() -> list[bytes]:
    body = {"message": "busy", "code": "node.busy", "kind": "unavailable", "retry_after_s": 1.5}
    return [bytes([status]) + json.dumps(body).encode() for status in range(8)]


HARNESSES = (
    Harness("config_owner", _loads(load_owner_config), _toml_seeds("owners/*/owner.toml")),
    Harness("config_kme", _loads(load_kme_config), _toml_seeds("sites/*/kme/config.toml")),
    Harness("config_node", _loads(load_node_config), _toml_seeds("sites/*/node/config.toml")),
    Harness("config_scenario", scenario, _toml_seeds("scenario.toml")),
    Harness(
        "testbed_files",
        testbed_files,
        lambda: [(_testbed() / "ports.json").read_bytes(), b'{"pid":5,"started":"x 7"}'],
        size_max=2048,
    ),
    Harness("index_memo", index_memo, lambda: [b"", b"part"], size_max=64),
    Harness("byte_range", byte_range, lambda: [b"0-1", b"5-", b"999999999999999999-999999999999999999"], size_max=64),
    Harness("node_error", node_error, _error_bodies, size_max=2048),
    Harness("certificate", certificate, _certificates, size_max=4096),
)
