"""``[identity]`` of a KME's configuration, and what its TLS endpoints have in common: whose files they are.

SAEs and network nodes have an authority each, so that a certificate of one plane opens nothing on the other even if it
carries the other's name. One authority for both is a mistake more often than a wish, so it has to be said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from shosoin.adapters.tls_files import issuer_id, read_authorities
from shosoin.base import Rejected
from shosoin.services.toml_sections import Sections

__all__ = ["IdentitySection", "are_of_one_plane", "check_authorities", "read_identity", "trusted_by"]

_OF_SAES = {"[kme.sae_api]", "[skip]", "[etsi004]"}
"""Endpoints of one plane."""


@dataclass(frozen=True, slots=True)
class IdentitySection:
    """``[identity]``."""

    poll_interval_s: float = 2.0
    """How often certificates, keys, authorities and revocation lists are looked at."""
    allow_shared_ca: bool = False
    """Whether one authority may vouch for SAEs, network nodes and administrators alike."""
    revoked_file: Path | None = None
    """Ids and serial numbers, one a line; ``revoked`` in the KME's directory unless told otherwise."""


def read_identity(document: Mapping[str, Any], sections: Sections) -> IdentitySection:
    """Read ``[identity]``; what is not there is as usual.

    Raises:
        Rejected: with the key that is wrong or unknown.
    """
    table = sections.table(document, "identity", "identity") if "identity" in document else {}
    found = sections.read(IdentitySection, "identity", table)
    if not 0.05 <= found.poll_interval_s <= 3600:
        raise sections.wrong("[identity] poll_interval_s must be 0.05 to 3600")
    return found


def check_authorities(sections: Sections, planes: Mapping[str, Path]) -> None:
    """Check that no two planes trust the same authority; files that cannot be read are told when they are used.

    Args:
        planes: where the authorities of each plane are, by what the configuration calls them.

    Raises:
        Rejected: two planes share an authority.
    """
    trusted = {name: trusted_by(path) for name, path in planes.items()}
    for one, other in combinations(planes, 2):
        if are_of_one_plane(one, other):
            continue
        if planes[one] == planes[other] or trusted[one] & trusted[other]:
            raise sections.wrong(
                f"{one} and {other} trust the same authority, so that a certificate for one could be "
                "tried on the other; "
                "give each plane an authority of its own, or write allow_shared_ca = true in [identity]"
            )


def are_of_one_plane(one: str, other: str) -> bool:
    """Whether two endpoints, as the configuration calls them, may trust the same authority in any case."""
    return one == other or {one, other} <= _OF_SAES


def trusted_by(path: Path) -> set[bytes]:
    """Return the authorities of a file (``tls_files.issuer_id``); none if it cannot be read."""
    try:
        return {issuer_id(each) for each in read_authorities(path)}
    except Rejected:
        return set()
