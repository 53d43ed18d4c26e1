"""The order of a repair: which share is rebuilt, for whom, by whom, in which attempt, signed by the owner.

Helpers reveal combinations of their shares, so every node judges the order by itself: whoever brings it may lie. Beside
the owner's signature a helper demands that the register value which it holds as committed says the same: the target
stands at that evaluation point, the version and the helpers count, and there are exactly k of them. Each pair of
helpers compares the whole text under a one-time MAC before their pad is used (see ``repair_node``).

An order can say that the target stands in for another site at the same point (``instead_of``), for the day when a
site is replaced; nodes refuse such orders until members of a placement can change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shosoin.base import Denied, ObjectId, OwnerId, Rejected, SaeId, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.kernels import ELEMENT_BYTES, POINTS, lagrange_weights, point_of
from shosoin.vault.envelope import canonical_json
from shosoin.vault.layout import BODY_BYTES_MAX
from shosoin.vault.ports import ShareKey
from shosoin.vault.signing import OwnerSigner, check_proof
from shosoin.vault.values import Body, RegisterValue

__all__ = [
    "CONTEXT",
    "MalformedOrder",
    "OrderRefused",
    "OrderStale",
    "Party",
    "RepairOrder",
    "check_counted",
    "read_order",
    "sign_orders",
]

CONTEXT = b"shosoin repair order v1"
_TEXT_BYTES_MAX = 8 << 10
_FIELDS = {
    "v",
    "owner",
    "object",
    "version",
    "epoch",
    "class",
    "size",
    "masks",
    "counter",
    "target",
    "helpers",
    "attempt",
    "replaces",
    "counted",
    "instead_of",
}


class MalformedOrder(Rejected):
    """A repair order that cannot be read, or contradicts itself."""

    code = "vault.repair_malformed"


class OrderRefused(Denied):
    """A repair order that contradicts what this site knows, however it is signed."""

    code = "vault.repair_refused"


class OrderStale(Unavailable):
    """The register here says something else than the order by now, or not yet."""

    code = "vault.repair_stale"


@dataclass(frozen=True, slots=True)
class Party:
    """A site that takes part: its name, its node's SAE, its place in the placement (1-based)."""

    site: SiteId
    node: SaeId
    x: int

    def to_json(self) -> list[Any]:
        """Return the public form."""
        return [self.site, self.node, self.x]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairOrder:
    """One attempt to rebuild one share; ``text`` is what is signed and compared."""

    owner: OwnerId
    object_id: ObjectId
    """The register of the object, or of the index."""
    version: VersionId
    """Version of the body."""
    epoch: int
    class_: str
    size_bytes: int
    """Length of the share."""
    masks: int
    """Audit mask elements at its start."""
    counter: int
    """Version counter of the register value that counts on the body."""
    target: Party
    helpers: tuple[Party, ...]
    """Exactly k sites, in the order of their places."""
    attempt: str
    """32 random hexadecimal digits, new for every attempt."""
    replaces: bool
    """Whether the target's share proved bad: what it holds is to be replaced."""
    counted: bool
    """Whether the register counts on a share of the target's already, which is lost or bad."""
    instead_of: SiteId | None = None

    @property
    def key(self) -> ShareKey:
        """The share that is rebuilt (and, at the helpers, the one it is made of)."""
        return ShareKey(self.owner, self.object_id, self.version, self.epoch)

    @property
    def text(self) -> str:
        """The canonical text."""
        return canonical_json(
            {
                "v": 1,
                "owner": self.owner,
                "object": self.object_id,
                "version": self.version,
                "epoch": self.epoch,
                "class": self.class_,
                "size": self.size_bytes,
                "masks": self.masks,
                "counter": self.counter,
                "target": self.target.to_json(),
                "helpers": [helper.to_json() for helper in self.helpers],
                "attempt": self.attempt,
                "replaces": self.replaces,
                "counted": self.counted,
                "instead_of": self.instead_of,
            }
        ).decode()

    def party(self, site: SiteId) -> Party:
        """Return a site's part.

        Raises:
            OrderRefused: it has none.
        """
        found = next((party for party in (*self.helpers, self.target) if party.site == site), None)
        if found is None:
            raise OrderRefused(f"the order does not name {site}")
        return found

    def masters_of(self, site: SiteId) -> list[Party]:
        """Return the helpers that draw the pads shared with a helper: those before it."""
        return [helper for helper in self.helpers if helper.x < self.party(site).x]

    def slaves_of(self, site: SiteId) -> list[Party]:
        """Return the helpers for which a helper draws pads: those behind it."""
        return [helper for helper in self.helpers if helper.x > self.party(site).x]

    def weight_of(self, site: SiteId) -> int:
        """Return lambda_i: what a helper's share counts in the target's."""
        weights = lagrange_weights([point_of(helper.x) for helper in self.helpers], point_of(self.target.x))
        return next(weight for helper, weight in zip(self.helpers, weights, strict=True) if helper.site == site)

    def again(self, attempt: str) -> RepairOrder:
        """Return the same order as another attempt."""
        return replace(self, attempt=attempt)


def sign_orders(orders: Sequence[RepairOrder], signer: OwnerSigner) -> list[bytes]:
    """Return the owner's proof for each order, under one signature."""
    return signer.proofs([order.text.encode() for order in orders], CONTEXT)


def read_order(text: Any, proof: bytes, owner: OwnerId, public_key: bytes) -> RepairOrder:
    """Read an order and check that the owner signed it.

    Raises:
        MalformedOrder: it cannot be read, or is not in its canonical form.
        OrderRefused: it is another owner's.
        SignatureForged: the signature does not hold.
    """
    if not isinstance(text, str) or len(text) > _TEXT_BYTES_MAX:
        raise MalformedOrder("a repair order that is no text, or too long")
    try:
        order = _parse(json.loads(text))
        canonical = order.text == text
    except MalformedOrder:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, ShosoinError) as error:
        raise MalformedOrder(f"a repair order that cannot be read ({type(error).__name__})") from None
    if not canonical:
        raise MalformedOrder("a repair order that is not in its canonical form")
    if order.owner != owner:
        raise OrderRefused("the order is another owner's")
    check_proof(public_key, proof, text.encode(), CONTEXT)
    return order


def _parse(raw: dict[str, Any]) -> RepairOrder:
    if set(raw) != _FIELDS or raw["v"] != 1:
        raise MalformedOrder("a repair order of an unknown form")
    order = RepairOrder(
        owner=OwnerId(raw["owner"]),
        object_id=ObjectId(raw["object"]),
        version=VersionId(raw["version"]),
        epoch=_whole(raw["epoch"], (1 << 31) - 1),
        class_=_class(raw["class"]),
        size_bytes=_whole(raw["size"], BODY_BYTES_MAX, ELEMENT_BYTES),
        masks=_whole(raw["masks"], BODY_BYTES_MAX // ELEMENT_BYTES),
        counter=_whole(raw["counter"], 1 << 53, 1),
        target=_party(raw["target"]),
        helpers=tuple(map(_party, raw["helpers"])),
        attempt=ObjectId(raw["attempt"]),
        replaces=_truth(raw["replaces"]),
        counted=_truth(raw["counted"]),
        instead_of=None if raw["instead_of"] is None else SiteId(raw["instead_of"]),
    )
    parties = (*order.helpers, order.target)
    if len({party.site for party in parties}) < len(parties) or len({party.node for party in parties}) < len(parties):
        raise MalformedOrder("a site takes part twice")
    if [helper.x for helper in order.helpers] != sorted({helper.x for helper in order.helpers}):
        raise MalformedOrder("helpers that are not in the order of their places")
    if len(order.helpers) < 2 or order.target.x in {helper.x for helper in order.helpers}:  # k >= 2
        raise MalformedOrder("too few helpers, or one that would help itself")
    if order.size_bytes % ELEMENT_BYTES or order.masks * ELEMENT_BYTES > order.size_bytes:
        raise MalformedOrder("a share length that cannot be")
    return order


def _whole(value: Any, high: int, low: int = 0) -> int:
    if type(value) is not int or not low <= value <= high:
        raise MalformedOrder(f"a number that is not from {low} to {high}")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise MalformedOrder("a truth value that is none")
    return value


def _class(value: Any) -> str:
    if value not in ("its", "qkd", "pqc"):
        raise MalformedOrder("a class that does not exist")
    return str(value)


def _party(raw: Any) -> Party:
    site, node, x = raw
    return Party(SiteId(site), SaeId(node), _whole(x, len(POINTS), 1))


def check_counted(order: RepairOrder, value: RegisterValue) -> Body:
    """Check an order against the register value that a site holds as committed; return the body that it repairs.

    Raises:
        OrderStale: the value does not count on that body.
        OrderRefused: it contradicts the order.
    """
    body = next((each for each in value.bodies if (each.version, each.epoch) == (order.version, order.epoch)), None)
    if body is None:
        raise OrderStale("the committed value does not count on this version and epoch")
    if order.instead_of is not None:
        raise OrderRefused("a site cannot take another's place yet")
    if value.class_ != order.class_ or body.layout.total != order.size_bytes:
        raise OrderRefused("the order names another class or length than the register")
    if body.layout.masks != order.masks * ELEMENT_BYTES:
        raise OrderRefused("the order names another number of masks than the register")
    if len(order.helpers) != value.scheme.k:
        raise OrderRefused(f"{len(order.helpers)} helpers, the scheme takes {value.scheme.k}")
    for party in (*order.helpers, order.target):
        if party.x > len(value.placement) or value.placement[party.x - 1] != party.site:
            raise OrderRefused(f"{party.site} does not stand at place {party.x}")
    if any(helper.site not in body.good for helper in order.helpers):
        raise OrderRefused("a helper whose share does not count")
    if order.counted != (order.target.site in body.good):
        raise OrderRefused("the order is wrong about whether the target's share counts")
    return body
