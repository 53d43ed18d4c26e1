"""What an owner's configuration says of policies and relays.

::

    [[policy]]  prefix = "patients/", require = ["collusion >= 3", "class = its"]    (no prefix: the owner's own policy)
    [[relay]]   name, domain, vendor
    [[site]]    relays = ["relay-1"]    (known to see the keys shared with that site; [] says that nobody does)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shosoin.base import Rejected, SiteId
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.policies import Policies
from shosoin.vault.policy import BadPolicy, nearest

__all__ = ["declared_relays", "read_policies", "read_relays"]


class BadDeclaration(Rejected):
    """A policy or a relay in a configuration that cannot be used."""

    code = "adapters.bad_owner_config"


def read_policies(raw: Mapping[str, Any]) -> Policies:
    """Read ``[[policy]]``.

    Raises:
        BadDeclaration: a key that does not exist, a wrong type.
        BadPolicy: a clause that cannot be understood.
    """
    written = []
    for table in _tables(raw, "policy"):
        _check_keys("[[policy]]", table, ("prefix", "require"))
        prefix, require = table.get("prefix", ""), _require(table.get("require"))
        if not isinstance(prefix, str):
            raise BadDeclaration("[[policy]] prefix is not text")
        written.append((prefix, require))
    try:
        return Policies.of(written)
    except BadPolicy as error:
        raise BadPolicy(f"[[policy]]: {error.message}", hint=error.hint) from None


def _require(value: Any) -> list[str]:
    clauses = [value] if isinstance(value, str) else value
    if not isinstance(clauses, list) or not all(isinstance(clause, str) for clause in clauses):
        raise BadDeclaration('[[policy]] require is not a list of clauses, such as ["collusion >= 3"]')
    return clauses


def read_relays(raw: Mapping[str, Any]) -> dict[SiteId, SiteDomains]:
    """Read ``[[relay]]``.

    Raises:
        BadDeclaration: a key that does not exist or is missing, a wrong type, a relay twice.
    """
    found: dict[SiteId, SiteDomains] = {}
    for table in _tables(raw, "relay"):
        _check_keys("[[relay]]", table, ("name", "domain", "vendor"))
        texts = [table.get("name"), table.get("domain"), table.get("vendor", "")]
        name, domain, vendor = (text if isinstance(text, str) else None for text in texts)
        if name is None or not domain or vendor is None:
            raise BadDeclaration("a [[relay]] needs name and domain, and a vendor is text")
        if name in found:
            raise BadDeclaration(f"the relay {name[:80]!r} is declared twice")
        found[SiteId(name)] = SiteDomains(domain, vendor)
    return found


def declared_relays(site: Mapping[str, Any]) -> tuple[SiteId, ...] | None:
    """Return ``relays`` of a ``[[site]]``; ``None`` if it says nothing.

    Raises:
        BadDeclaration: it is no list of names.
    """
    named = site.get("relays")
    if named is None:
        return None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise BadDeclaration("[[site]] relays is not a list of names")
    return tuple(map(SiteId, named))


def _tables(raw: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    tables = raw.get(name, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise BadDeclaration(f"[[{name}]] must be tables")
    return tables


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise BadDeclaration(f"{where} has an unknown key {key[:80]!r}", hint=nearest(key, known))
