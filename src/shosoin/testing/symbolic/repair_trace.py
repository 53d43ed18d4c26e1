"""Recorded repairs read as linear forms: what nodes said to each other, through the owner.

Nodes speak in the headers of the owner's messages: key_IDs, tags, and what each helper gives,

    c_i = lambda_i y_i + sum over the other helpers j of p_ij + q_i

with the pads of ``docs/specs/repair.md``, which are keys of the links between these nodes. Each c_i is computed as a
form, from the share as the dealer made it, the weights of the order *that this helper was told*, and the keys that were
named; the form must give exactly the bytes that the helper said. All that one node says to another is on the wire.

**Tags** cover what is on the wire: order, range, direction, c_i. Each is checked under the recorded key and the order
of whoever made it, and its key, used for nothing else, is given to the adversary whole; so tags tell nothing more,
whatever function they are (see ``transcript``). That the receiver compares its own order is no matter of the wire: a
node that does not is read like any other, and the coalitions show what comes of it.

What the owner relays must be what a node said, or it could be a message of the owner's own.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cryptography.hazmat.primitives.poly1305 import Poly1305

from shosoin.kernels import ELEMENT_BYTES, point_of, reference
from shosoin.kernels.fields import Values
from shosoin.testing.symbolic.forms import array, forms_of
from shosoin.testing.symbolic.recorded import Body, Deal, Parts, RecordedKeys, Unexplained
from shosoin.testing.symbolic.transcript import WIRE, Link
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.repair_wire import UNKNOWN

__all__ = ["REPAIR_FIELDS", "RepairTrace", "attempt_of"]

_TAG_KEY_BYTES = 32
_TAG_ELEMENTS = _TAG_KEY_BYTES // ELEMENT_BYTES
_FORGOTTEN = {f"{UNKNOWN}{number}" for number in range(ANSWERS_PER_EPOCH)}
"""What stands in a list of challenges for those that a site has forgotten."""
_STEP = {"op", "object", "attempt"}
_RANGE = _STEP | {"offset", "size"}
_GIVEN = {"keys", "tag", "data", "challenges"}
REPAIR_FIELDS: Mapping[str, tuple[set[str], set[str]]] = {
    "repair_open": (_STEP | {"order", "proof"}, {"contribution", "staged"}),
    "repair_pads": (_RANGE, {"pairs"}),
    "repair_check": (_RANGE | {"pairs"}, {"pairs"}),
    "repair_help": (_RANGE | {"pairs"}, _GIVEN | {"origins"}),
    "repair_take": (_RANGE | {"parts"}, set()),
    "repair_seal": (_STEP, {"contribution"}),
    "repair_digest": (_STEP | {"r", "notes"}, {"size", "keys", "tag"}),
    "repair_adopt": (_STEP, {"state"}),
    "repair_abort": (_STEP | {"discard"}, set()),
}
"""What steps of class ``its`` may say in clear; of these, what depends on shares is ``data``, which forms explain."""


@dataclass(frozen=True, slots=True)
class _Order:
    """An order as one site was told it; sites by their place in the recording."""

    text: bytes
    body: Body
    target: int
    helpers: tuple[int, ...]
    sites: Mapping[str, int]
    """By name."""
    points: Mapping[int, int]
    """Index of the evaluation point by site."""

    def named(self, name: str) -> int:
        """Return the site of a name."""
        if name not in self.sites:
            raise Unexplained(f"{name} has no part in this repair")
        return self.sites[name]

    def name_of(self, site: int) -> str:
        """Return the name of a site."""
        return next(name for name, each in self.sites.items() if each == site)

    def from_to(self, where: str, sender: int, receiver: int) -> bytes:
        """Return what the tag of one helper to another says beside the order."""
        return f"{where} {self.name_of(sender)}>{self.name_of(receiver)}".encode()


def attempt_of(op: Mapping[str, Any]) -> str | None:
    """Return the attempt that an operation is part of, ``None`` for other operations."""
    if not str(op["op"]).startswith("repair_"):
        return None
    if op["op"] == "repair_open":
        return str(json.loads(op["order"])["attempt"])
    return op.get("attempt")


class RepairTrace:
    """Reads the repair operations of a run, in the order in which they left the owner.

    Args:
        keys: all keys drawn, by the owner and by nodes.
        deals: the bodies that were shared.
        nodes: sites by the name of their node.
        asked: every challenge of the run; a list of challenges may name no other.
    """

    def __init__(
        self, keys: RecordedKeys, deals: Mapping[Body, Deal], nodes: Mapping[str, int], asked: set[str]
    ) -> None:
        self._keys = keys
        self._deals = deals
        self._nodes = nodes
        self._asked = asked
        self._orders: dict[tuple[str, int], _Order] = {}
        self._pads: dict[tuple[str, frozenset[int], int], tuple[bytes, Values]] = {}
        self._said: set[tuple[str, int, str]] = set()
        self._steps: dict[str, Callable[[str, int, dict[str, Any], dict[str, Any]], None]] = {
            "repair_pads": self._drew,
            "repair_check": self._showed,
            "repair_help": self._gave,
            "repair_digest": self._noted,
        }

    def learn(self, parts: Parts) -> None:
        """Take from orders where their sites stand: a target may have been away when the body was shared."""
        for op in parts.header["ops"]:
            if op["op"] == "repair_open" and attempt_of(op):
                order = self._read(op)
                for site, x in order.points.items():
                    if order.body in self._deals:
                        self._deals[order.body].sites.setdefault(site, x)

    def body(self, site: int, op: Mapping[str, Any]) -> Body:
        """Return the body that a site repairs, by the order that it was told."""
        return self._order(str(op["attempt"]), site).body

    def explain(self, parts: Parts) -> None:
        """Explain what a message relayed and what its answer said, and put that on the wire."""
        site = parts.message.site
        for op in parts.header["ops"]:
            self._check_relayed(site, op)
        for op, result in zip(parts.header["ops"], parts.results, strict=False):
            attempt = attempt_of(op)
            if attempt is None or "error" in result:
                continue
            if op["op"] not in REPAIR_FIELDS:
                raise Unexplained(f"{op['op']} has no place in a repair of class its")
            if op["op"] == "repair_open":
                self._orders[attempt, site] = self._read(op)
            elif op["op"] in self._steps:
                self._steps[op["op"]](attempt, site, op, result)

    def _read(self, op: Mapping[str, Any]) -> _Order:
        raw = json.loads(op["order"])
        try:
            places = {name: (self._nodes[node], x) for name, node, x in [*raw["helpers"], raw["target"]]}
        except KeyError:
            raise Unexplained("an order names a node that was never spoken to") from None
        sites = {name: site for name, (site, _) in places.items()}
        return _Order(
            op["order"].encode(),
            (raw["object"], raw["version"], raw["epoch"]),
            sites[raw["target"][0]],
            tuple(sites[name] for name, _, _ in raw["helpers"]),
            sites,
            dict(places.values()),
        )

    def _order(self, attempt: str, site: int) -> _Order:
        if (attempt, site) not in self._orders:
            raise Unexplained(f"site {site} takes part in a repair whose order it was not told")
        return self._orders[attempt, site]

    def _check_relayed(self, site: int, op: Mapping[str, Any]) -> None:
        """Hold what the owner passes on against what was said before."""
        attempt = attempt_of(op)
        if attempt is None:
            return
        for field in ("pairs", "parts", "notes"):
            for sender, told in op.get(field, {}).items():
                order = self._order(attempt, site)
                if (attempt, order.named(sender), _said(told)) not in self._said:
                    raise Unexplained(f"{op['op']} passes on what {sender} did not say")

    def _drew(self, attempt: str, site: int, op: dict[str, Any], result: dict[str, Any]) -> None:
        """Read pads that a helper drew, and the tags that show its order."""
        order, (start, count), where = self._order(attempt, site), _range_of(op), f"pad {op['offset']}+{op['size']}"
        deal = self._deals[order.body]
        for name, told in result["pairs"].items():
            peer = order.named(name)
            title = "pair", deal.name, attempt, site, peer
            forms = self._keys.drawn(
                (site, peer), told["keys"], [((title, "tags"), start, 2 * _TAG_ELEMENTS), (title, start, count)]
            )
            content = self._keys.content(told["keys"])
            _check_tag(content, told["tag"], order.text, order.from_to(where, site, peer))
            self._keys.run.reveal(WIRE, forms[: 2 * _TAG_ELEMENTS])
            self._pads[attempt, frozenset((site, peer)), op["offset"]] = content, array(forms[2 * _TAG_ELEMENTS :])
            self._say(attempt, site, told, {"keys", "tag"})

    def _showed(self, attempt: str, site: int, op: dict[str, Any], result: dict[str, Any]) -> None:
        """Check the tags by which a helper shows its order to those that drew."""
        order, where = self._order(attempt, site), f"pad {op['offset']}+{op['size']}"
        for name, tag in result["pairs"].items():
            peer = order.named(name)
            content, _ = self._pad(attempt, (site, peer), op["offset"])
            back = content[_TAG_KEY_BYTES : 2 * _TAG_KEY_BYTES]
            _check_tag(back, tag, order.text, order.from_to(where, site, peer))
            self._say(attempt, site, tag)

    def _gave(self, attempt: str, site: int, op: dict[str, Any], result: dict[str, Any]) -> None:
        """Compute what a helper gave, hold it against what it said, and put it on the wire."""
        order, (start, count) = self._order(attempt, site), _range_of(op)
        deal, symbols = self._deals[order.body], self._keys.run.symbols
        title = "repair", deal.name, attempt, site, order.target
        names = [((title, "mac"), start, _TAG_ELEMENTS), ((title, "pad"), start, count)]
        link = self._keys.drawn((site, order.target), result["keys"], names)
        given = symbols.scale(_weight(self._keys, order, site), deal.shares[site][start : start + count])
        for other in order.helpers:
            if other != site:
                given = symbols.add(given, self._pad(attempt, (site, other), op["offset"])[1])
        given = symbols.add(given, array(link[_TAG_ELEMENTS:]))
        data, listed = base64.b64decode(result["data"], validate=True), result["challenges"].encode()
        self._keys.hold(forms_of(given), data, f"what site {site} gave site {order.target}")
        where = f"share {op['offset']}+{op['size']} {order.name_of(site)}".encode()
        _check_tag(self._keys.content(result["keys"]), result["tag"], order.text, where, listed, data)
        self._check_challenges(listed)
        self._keys.run.reveal(WIRE, chain(link[:_TAG_ELEMENTS], forms_of(given)))
        self._say(attempt, site, result, _GIVEN | {"origins"})

    def _noted(self, attempt: str, site: int, op: dict[str, Any], result: dict[str, Any]) -> None:
        """Check a helper's note that it has recorded a challenge; the target gives none."""
        order = self._order(attempt, site)
        if site == order.target:
            if "tag" in result:
                raise Unexplained("a target that gives a note")
            return
        title = "note", self._deals[order.body].name, attempt, site, order.target
        forms = self._keys.drawn((site, order.target), result["keys"], [(title, 0, _TAG_ELEMENTS)])
        note = f"note {op['r']} {order.name_of(site)}".encode()
        _check_tag(self._keys.content(result["keys"]), result["tag"], order.text, note)
        self._keys.run.reveal(WIRE, forms)
        self._say(attempt, site, {"keys": result["keys"], "tag": result["tag"]})

    def _pad(self, attempt: str, pair: Link, offset: int) -> tuple[bytes, Values]:
        found = self._pads.get((attempt, frozenset(pair), offset))
        if found is None:
            raise Unexplained(f"no pad of sites {pair} was drawn for this range")
        return found

    def _check_challenges(self, listed: bytes) -> None:
        told = json.loads(listed)
        if canonical_json({"challenges": told.get("challenges")}) != listed:
            raise Unexplained("a list of challenges says more than challenges")
        if not set(told["challenges"]) <= self._asked | _FORGOTTEN:
            raise Unexplained("a list of challenges names one that nobody was asked")

    def _say(self, attempt: str, site: int, told: Any, fields: set[str] | None = None) -> None:
        if fields is not None and not set(told) <= fields:
            raise Unexplained(f"site {site} says more to another than it should: {sorted(set(told) - fields)}")
        self._said.add((attempt, site, _said(told)))


def _said(told: Any) -> str:
    """Return words of a node in one form; where its keys came from is for the owner alone."""
    if isinstance(told, dict):
        told = {name: value for name, value in told.items() if name != "origins"}
    return canonical_json({"": told}).decode()


def _weight(keys: RecordedKeys, order: _Order, site: int) -> int:
    points = [point_of(order.points[helper]) for helper in order.helpers]
    weights = reference.lagrange_weights(keys.run.symbols, points, point_of(order.points[order.target]))
    return weights[order.helpers.index(site)]


def _range_of(op: Mapping[str, Any]) -> tuple[int, int]:
    """Return the first element and the number of elements that an operation names."""
    return op["offset"] // ELEMENT_BYTES, op["size"] // ELEMENT_BYTES


def _check_tag(key: bytes, tag: str, *parts: bytes) -> None:
    mac = Poly1305(key[:_TAG_KEY_BYTES])
    for part in parts:
        mac.update(len(part).to_bytes(8, "little") + part)
    if not hmac.compare_digest(mac.finalize().hex(), tag):
        raise Unexplained("a tag between two nodes that is not of its message under its key")
