"""Reading what a value says of how its object was written, without believing in its shape.

Facts are signed by the owner, but an older client may have written fewer of them, and a faulty one anything. So every
part is read on its own: what is missing or cannot be read becomes *unknown* (``None``, or left out), is named in
``unreadable`` if it can be, and is never taken for the better answer. ``assurance`` writes facts, and makes labels of
these.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from shosoin.base import Rejected, SiteId

__all__ = ["KeyFact", "ObjectFacts", "RandomFact", "Transfer", "probability"]

T = TypeVar("T")
_KEYS_MAX = 1 << 53


@dataclass(frozen=True, slots=True)
class KeyFact:
    """Keys of one origin."""

    kind: str
    simulated: bool
    epsilon: float | None
    """Failure probability of each key; ``None`` when undeclared."""
    keys: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """How a share came to its site."""

    how: str
    keys: tuple[KeyFact, ...]
    relays: tuple[str, ...] | None
    """Relays that saw the keys; ``None`` when nobody said."""


@dataclass(frozen=True, slots=True)
class RandomFact:
    """Where one kind of random number came from."""

    source: str
    physical: bool


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """The facts of a value."""

    home: str | None
    transfers: Mapping[str, Transfer]
    """By site; one of which nothing can be read is left out."""
    dropped: Mapping[str, tuple[str, ...]]
    """Relays on the routes to sites that dropped out of the put; one whose route is unknown is left out."""
    dropped_keys: Mapping[str, tuple[KeyFact, ...]]
    """Keys drawn for sites that dropped out: their share may have left under them."""
    untold: tuple[str, ...]
    """Sites to which a share may have travelled in a way that cannot be read."""
    former: Mapping[str, tuple[str, ...]]
    """Trust domains of sites that had a share before the object moved away from them."""
    random: Mapping[str, RandomFact]
    domains: Mapping[str, tuple[str, ...]]
    """Trust domains by site or relay; one of which nothing can be read is left out."""
    deal_checked: bool | None
    policy: tuple[str, ...] | None
    """Clauses under which the object was stored; ``None`` when they cannot be read."""
    unreadable: tuple[str, ...]
    """Names of the parts of which something is missing or cannot be read."""

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> ObjectFacts:
        """Read the facts of a register value; never fails."""
        transfers = _table(raw, "transfers", _transfer)
        random = _table(raw, "random", _random)
        domains = _table(raw, "domains", _texts)
        relay_domains = _table(raw, "relay_domains", _texts) if "relay_domains" in raw else {}
        dropped, dropped_keys = _table(raw, "dropped", _texts), _table(raw, "dropped_keys", _keys)
        keys_lost = not isinstance(raw.get("dropped_keys", {}), Mapping)
        former = _table(raw, "former", _texts) if "former" in raw else {}
        home, checked, policy = raw.get("home"), raw.get("deal_checked"), _texts(raw.get("policy", []))
        lost = {
            "home": not isinstance(home, str),
            "transfers": not transfers or None in transfers.values(),
            "random": not random or None in random.values(),
            "domains": not domains or None in (*domains.values(), *relay_domains.values()),
            "dropped_keys": keys_lost or None in dropped_keys.values(),
            "former": None in former.values()
            or not all(map(_is_site, former))
            or not isinstance(raw.get("former", {}), Mapping),
            "deal_checked": not isinstance(checked, bool),
            "policy": policy is None,
        }
        return cls(
            home=home if isinstance(home, str) else None,
            transfers=_known(transfers),
            dropped=_known(dropped),
            dropped_keys=_known(dropped_keys),
            untold=(*_unknown(transfers), *_unknown(dropped_keys), *(dropped if keys_lost else ())),
            former={site: names or () for site, names in former.items() if _is_site(site)},
            random=_known(random),
            domains=_known({**relay_domains, **domains}),
            deal_checked=checked if isinstance(checked, bool) else None,
            policy=policy,
            unreadable=tuple(name for name, is_lost in lost.items() if is_lost),
        )

    def rebuilt(self, shares: Mapping[SiteId, str]) -> ObjectFacts:
        """Return the facts with the transfers of shares that were rebuilt since, each as its canonical JSON says.

        Keys between sites pass no relay, or the sites would not have rebuilt it. The keys of the share that was there
        before, and whoever saw them, count on: it is the same share.
        """
        transfers = dict(self.transfers)
        for site, text in shares.items():
            before, now = transfers.pop(site, None), _transfer(json.loads(text))
            if now is not None:
                keys, relays = (before.keys, before.relays) if before is not None else self._sent_in_vain(site)
                transfers[site] = replace(now, keys=(*now.keys, *keys), relays=relays)
        return replace(self, transfers=transfers)

    def _sent_in_vain(self, site: str) -> tuple[tuple[KeyFact, ...], tuple[str, ...] | None]:
        """Return the keys drawn for a site that dropped out of the put, and their relays; nothing for other sites."""
        keys = self.dropped_keys.get(site, ())
        return keys, self.dropped.get(site, None if keys else ())


def probability(value: Any) -> float | None:
    """Return a number of 0 to 1, or ``None`` for anything else: no truth values, no NaN, nothing negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return float(value) if math.isfinite(value) else None


def _table(raw: Mapping[str, Any], name: str, read: Callable[[Any], T | None]) -> dict[str, T | None]:
    table = raw.get(name)
    return {str(key): read(fact) for key, fact in table.items()} if isinstance(table, Mapping) else {}


def _known(table: Mapping[str, T | None]) -> dict[str, T]:
    return {name: fact for name, fact in table.items() if fact is not None}


def _unknown(table: Mapping[str, object]) -> list[str]:
    return [name for name, fact in table.items() if fact is None]


def _is_site(name: str) -> bool:
    try:
        SiteId(name)
    except Rejected:
        return False
    return True


def _texts(raw: Any) -> tuple[str, ...] | None:
    return tuple(raw) if isinstance(raw, list) and all(isinstance(text, str) for text in raw) else None


def _transfer(raw: Any) -> Transfer | None:
    if not isinstance(raw, Mapping) or not isinstance(raw.get("how"), str) or not isinstance(raw.get("keys"), list):
        return None
    keys = _keys(raw["keys"])
    return None if keys is None else Transfer(raw["how"], keys, _texts(raw.get("relays")))


def _keys(raw: Any) -> tuple[KeyFact, ...] | None:
    keys = [_key(key) for key in raw] if isinstance(raw, list) else [None]
    return None if None in keys else tuple(key for key in keys if key is not None)


def _key(raw: Any) -> KeyFact | None:
    """Read the origin of keys; only an explicit ``false`` says that they are not simulated."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("kind"), str):
        return None
    keys = raw.get("keys")
    if type(keys) is not int or not 0 < keys <= _KEYS_MAX:
        return None
    return KeyFact(raw["kind"], raw.get("simulated") is not False, probability(raw.get("epsilon")), keys)


def _random(raw: Any) -> RandomFact | None:
    """Read where random numbers came from; only an explicit ``true`` says that the source is physical."""
    if not isinstance(raw, Mapping) or not isinstance(raw.get("source"), str):
        return None
    return RandomFact(raw["source"], raw.get("physical") is True)
