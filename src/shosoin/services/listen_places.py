"""Where a program listens: no two of its listeners at one place, which only the second to start would notice.

>>> meet(("127.0.0.1", 9000), ("0.0.0.0", 9000)), meet(("127.0.0.1", 9000), ("127.0.0.2", 9000))
(True, False)
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from itertools import combinations

from shosoin.services.toml_sections import Sections

__all__ = ["check_places", "meet"]

_OLD_CHARACTERS = set("0123456789abcdefx.")
_LOCALHOST = {"127.0.0.1", "::1"}


def check_places(places: Mapping[str, tuple[str, int]], sections: Sections) -> None:
    """Check that all listeners can listen beside each other.

    Args:
        places: host and port of each, by what the configuration calls it; port 0 is any that is free.

    Raises:
        Rejected: two meet.
    """
    for (one, place), (other, there) in combinations(places.items(), 2):
        if meet(place, there):
            raise sections.wrong(
                f"{one} and {other} listen at the same place, {there[0]} port {there[1]}; give one another port"
            )


def meet(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether two listeners want one address; names are compared as they stand, since nothing is looked up."""
    if one[1] != other[1] or one[1] == 0:
        return False
    here, there = _hosts(one[0]), _hosts(other[0])
    return bool(here & there) or _takes_all(here, there) or _takes_all(there, here)


def _hosts(host: str) -> set[str]:
    name = host.lower().rstrip(".")
    if name in {"", "*"}:
        return {"0.0.0.0", "::"}  # noqa: S104  # nothing listens here
    if name == "localhost":
        return _LOCALHOST
    try:
        return {str(ipaddress.ip_address(name.strip("[]")))}
    except ValueError:
        return {_old_spelling(name) or name}


def _old_spelling(name: str) -> str | None:
    """Return the address that the system would read in ``127.1`` or ``0x7f000001``."""
    try:
        return None if set(name) - _OLD_CHARACTERS else socket.inet_ntoa(socket.inet_aton(name))
    except OSError:
        return None


def _takes_all(here: set[str], there: set[str]) -> bool:
    """Whether one of our addresses stands for one of theirs; a name may be of either family."""
    for each in there:
        version = _version(each)
        if ("0.0.0.0" in here and version != 6) or ("::" in here and version != 4):  # noqa: S104  # likewise
            return True
    return False


def _version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None
