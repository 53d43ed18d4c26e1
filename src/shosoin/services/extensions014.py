"""The ``shosoin_`` extensions of a key request (ETSI GS QKD 014 V1.1.1, clauses 5.4 and 6.2).

``extension_mandatory`` and ``extension_optional`` are arrays of objects; every member of every object is one extension.
A mandatory one that we do not know, or cannot meet, refuses the request with the standard's message. An optional one
that we do not know is ignored; one that we know is met if that is possible.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shosoin.base import Rejected
from shosoin.keys.demands import Assurance, Demands

__all__ = ["EXTENSION_UNSUPPORTED", "parse_extensions"]

EXTENSION_UNSUPPORTED = "not all extension_mandatory parameters are supported"
MAX_AGE, ROUTE_TYPE, MIN_ASSURANCE = "shosoin_max_age_s", "shosoin_route_type", "shosoin_min_assurance"
_ROUTES = ("direct", "indirect")
_LEVELS = {level.word: level for level in Assurance}
_AGE_S_MAX = 1 << 40


def parse_extensions(items: Sequence[Any], *, mandatory: bool) -> Demands:
    """Read one of the two arrays.

    Raises:
        Rejected: an item is no object, a value is none that the extension has, or (if mandatory) a name is unknown.
    """
    array = "extension_mandatory" if mandatory else "extension_optional"
    members: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, Mapping):
            raise _bad(f"every item of {array} shall be an object")
        for name, value in item.items():
            if name in members and members[name] != value:
                raise _bad(f"{array} names an extension twice, with two values")
            members[name] = value
    if mandatory and not members.keys() <= {MAX_AGE, ROUTE_TYPE, MIN_ASSURANCE}:
        raise _bad(EXTENSION_UNSUPPORTED)
    return Demands(
        max_age_s=_age_s(members[MAX_AGE]) if MAX_AGE in members else None,
        route_type=_word(ROUTE_TYPE, members[ROUTE_TYPE], _ROUTES) if ROUTE_TYPE in members else None,
        min_assurance=_LEVELS[_word(MIN_ASSURANCE, members[MIN_ASSURANCE], tuple(_LEVELS))]
        if MIN_ASSURANCE in members
        else None,
    )


def _age_s(value: Any) -> float:
    if type(value) not in {int, float} or not 0 < value <= _AGE_S_MAX:  # NaN is not in there either
        raise _bad(f"{MAX_AGE} shall be a number of seconds above 0")
    return float(value)


def _word(name: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise _bad(f"{name} shall be one of {', '.join(known)}")
    return value


def _bad(message: str) -> Rejected:
    return Rejected(message, code="etsi014.bad_request")
