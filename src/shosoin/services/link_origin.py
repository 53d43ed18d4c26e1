"""What made the stock of a link, kept over restarts: what is said of a key must not follow from configuration alone.

Whoever replaces a simulation by devices, or an epsilon by a smaller one, still has bits in stock that came before. So
a small file beside what the link's source keeps says of what origin the stock is, and while there is any, the least
that was ever declared for it counts. A burned pair has no stock, and begins anew.

``<state>/sources/<peer>/origin.json``; what cannot be read there counts as simulated and of no known epsilon. Stock
from before there was such a file counts as what is declared now.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from shosoin.adapters.certificates import make_private_directory, write_private
from shosoin.keys.demands import assurance_of
from shosoin.keys.errors import StoreUnavailable
from shosoin.link.port import LinkFacts

__all__ = ["origin_of_stock"]

_FILE = "origin.json"
_BYTES_MAX = 4096
_UNREADABLE = LinkFacts("simulated-unknown", True, None, 0.0)


def origin_of_stock(directory: Path, declared: LinkFacts, *, has_stock: bool) -> LinkFacts:
    """Return what is known of a link's bits, of those in stock as of those to come, and keep it durably.

    Args:
        directory: of the link's source; need not exist.

    Raises:
        StoreUnavailable: it could not be written.
    """
    before = _read(directory / _FILE)
    found = _least(declared, before) if has_stock and before is not None else declared
    if before is None or _told(found) != _told(before) or before is _UNREADABLE:
        try:
            write_private(make_private_directory(directory) / _FILE, json.dumps(_told(found)).encode())
        except OSError as err:
            raise StoreUnavailable(f"cannot write {directory / _FILE}: {err.strerror}") from err
    return found


def _least(one: LinkFacts, other: LinkFacts) -> LinkFacts:
    known = [facts.epsilon for facts in (one, other) if facts.epsilon is not None]
    return replace(
        one,
        kind=min(one, other, key=assurance_of).kind,
        simulated=one.simulated or other.simulated,
        epsilon=max(known) if len(known) == 2 else None,
    )


def _told(facts: LinkFacts) -> dict[str, object]:
    return {"kind": facts.kind, "simulated": facts.simulated, "epsilon": facts.epsilon}


def _read(path: Path) -> LinkFacts | None:
    try:
        # As with a suspension: neither a link to nowhere nor a pipe means that there is none.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            told = json.loads(file.read(_BYTES_MAX) or b"")
        kind, simulated, epsilon = told["kind"], told["simulated"], told["epsilon"]
        if type(kind) is not str or type(simulated) is not bool or not _is_epsilon(epsilon):
            return _UNREADABLE
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return _UNREADABLE
    return LinkFacts(kind, simulated, epsilon, 0.0)


def _is_epsilon(told: object) -> bool:
    return told is None or (type(told) is float and 0.0 < told <= 1.0)
