"""``[admin]`` of a KME's configuration: where administrators are served, and what each of them may do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from shosoin.base import Rejected, SaeId
from shosoin.services.operations_config import is_loopback
from shosoin.services.toml_sections import Sections

__all__ = ["AdminRole", "AdminSection", "read_admin"]


class AdminRole(StrEnum):
    """What an administrator may do; every one of them may look (``viewer``)."""

    VIEWER = "viewer"
    """Look at status, links, pairs, SAEs and certificates."""
    OPERATOR = "operator"
    """Reload files, stop the KME, pause and resume pairs."""
    SECURITY = "security"
    """Revoke holders of certificates, burn pairs."""


@dataclass(frozen=True, slots=True)
class AdminSection:
    """``[admin]``: JSON over HTTP under mutual TLS 1.3, with an authority of its own."""

    port: int
    certificate: Path
    key: Path
    client_ca: Path
    host: str = "127.0.0.1"
    allow_remote: bool = False
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""
    max_connections: int = 16
    idle_timeout_s: float = 30.0
    calls_per_s: float = 5.0
    """Of one administrator, with ten times as many at once; more are refused and not recorded one by one."""
    audit_file_bytes: int = 4 << 20
    audit_files: int = 16
    """How many files of that size the record of calls has at most."""
    roles: Mapping[str, frozenset[AdminRole]] = field(default_factory=dict)
    """``[admin.roles]``: of each administrator, by the id in the certificate."""


def read_admin(document: Mapping[str, Any], sections: Sections) -> AdminSection | None:
    """Read ``[admin]``, ``None`` where it is absent.

    Raises:
        Rejected: with the key that is wrong, missing or unknown.
    """
    if "admin" not in document:
        return None
    table = sections.table(document, "admin", "admin")
    found = sections.read(AdminSection, "admin", {name: each for name, each in table.items() if name != "roles"})
    if not found.allow_remote and not is_loopback(found.host):
        raise sections.wrong(
            f"[admin] host {found.host!r} is no loopback address: write allow_remote = true if it is meant"
        )
    if found.max_connections < 1 or found.idle_timeout_s <= 0 or found.calls_per_s <= 0:
        raise sections.wrong("[admin] max_connections, idle_timeout_s and calls_per_s must be above zero")
    if found.audit_file_bytes < 4096 or found.audit_files < 2:
        raise sections.wrong("[admin] audit_file_bytes must be at least 4096, audit_files at least 2")
    roles = sections.table(table, "roles", "admin.roles") if "roles" in table else {}
    return replace(found, roles={name: _roles(sections, name, each) for name, each in roles.items()})


def _roles(sections: Sections, name: str, value: Any) -> frozenset[AdminRole]:
    try:
        SaeId(name)  # the ids in certificates have that form
    except Rejected as err:
        raise sections.wrong(f"[admin.roles]: {err.message}") from err
    listed = value if isinstance(value, list) else [value]
    return frozenset(_role(sections, name, each) for each in listed) | {AdminRole.VIEWER}


def _role(sections: Sections, name: str, value: Any) -> AdminRole:
    known = [role.value for role in AdminRole]
    if value in known:
        return AdminRole(value)
    near = difflib.get_close_matches(str(value)[:40], known, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
    raise sections.wrong(f"[admin.roles] {name} = {repr(value)[:40]}; {meant}")
