"""What has to be repaired, who can help, and what it takes of every link, before any key is drawn.

Shares are missed where the register places a site and does not count on it, where the register counts on a share that
its site does not list, and where a keyed check found a share damaged or wrong. Helper sets are exactly k sites whose
shares count, the home site among them if it can be, every two of them and each with the target on a direct link with
enough key. A link whose keys pass through relays is not used: what relays could learn over all transfers of an epoch
is not counted for links between nodes yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from shosoin.base import ObjectId, ShosoinError, SiteId
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import failure, settle
from shosoin.vault.context import VaultContext
from shosoin.vault.repair_keys import TAG_KEY_BYTES
from shosoin.vault.session import QKD_KEY_BYTES
from shosoin.vault.values import Body, RegisterValue

__all__ = [
    "LinkState",
    "Links",
    "Need",
    "Reason",
    "held_shares",
    "helper_sets",
    "read_links",
    "wanted_links",
]

_ASKED_TOGETHER = 512
_ASK_TIMEOUT_S = 10.0
_ENVELOPE_BYTES = 2 << 20
"""What the ciphertexts and key_IDs of one range may take in one envelope's header."""
_CHUNK_BYTES_MAX = 1 << 20
_KEY_ID_BYTES = 40

Link = tuple[SiteId, SiteId]
"""The site that draws the keys, and the one that fetches them."""


class Reason:
    """Why a share is to be rebuilt."""

    NOT_WRITTEN = "not written"
    LOST = "lost"
    DAMAGED = "damaged"
    WRONG = "wrong"
    UNCONFIRMED = "not confirmed"
    """The share is there; the register does not say that its site pinned it."""


@dataclass(slots=True)
class Need:
    """One share that has to be rebuilt."""

    name: str
    """Name of the object, or of the index that the body is part of."""
    value: RegisterValue
    body: Body
    target: SiteId
    reason: str
    helpers: tuple[SiteId, ...] = ()
    """Who will help, as planned; empty if nobody can or nobody has to."""
    bits: dict[Link, int] = field(default_factory=dict)
    """Key bits that it takes of each link."""
    stock: dict[Link, int] = field(default_factory=dict)
    wait_s: float | None = 0.0
    """Until the links have as much; ``None`` when that is not known, or never."""
    problem: str = ""
    """Why it cannot be done now."""
    key_bytes_max: int = 1 << 20
    """The longest key that every KME concerned hands out: many short keys make long messages."""

    @property
    def size_bytes(self) -> int:
        """Length of the share."""
        return 0 if self.reason == Reason.UNCONFIRMED else self.body.layout.total

    @property
    def chunk_bytes(self) -> int:
        """Length of a range, so that k ciphertexts with their key_IDs fit into one envelope's header."""
        per_byte = 4 / 3 + _KEY_ID_BYTES / max(self.key_bytes_max, 1)
        fitting = int(_ENVELOPE_BYTES / (self.value.scheme.k * per_byte))
        return max(min(fitting, _CHUNK_BYTES_MAX) // 4096 * 4096, 4096)

    def key_bits(self, links: Iterable[Link]) -> dict[Link, int]:
        """Return the key bits that rebuilding takes of each link.

        Class ``its``: every pair of helpers takes the length of the share, and so does every helper with the target.
        """
        if self.value.class_ == "pqc":
            return dict.fromkeys(links, 0)
        if self.value.class_ == "qkd":
            return dict.fromkeys(links, 8 * QKD_KEY_BYTES)
        chunks = -(-self.size_bytes // self.chunk_bytes) + 1
        pair = 8 * (self.size_bytes + 2 * TAG_KEY_BYTES * chunks)
        given = 8 * (self.size_bytes + TAG_KEY_BYTES * (chunks + 1))
        return {link: given if link[1] == self.target else pair for link in links}


@dataclass(frozen=True, slots=True)
class LinkState:
    """What a node's KME says of the keys that it shares with another node."""

    stored_bits: int
    capacity_bits: int
    key_bytes_max: int
    rate_bps: float
    relays: tuple[str, ...]


@dataclass(slots=True)
class Links:
    """The links between nodes, as their KMEs describe them."""

    states: dict[Link, LinkState] = field(default_factory=dict)
    problems: dict[Link, str] = field(default_factory=dict)
    silent: set[SiteId] = field(default_factory=set)
    """Sites that did not answer."""

    def usable(self, link: Link, bits: int) -> bool:
        """Whether a link is direct and has so many bits."""
        state = self.states.get(link)
        return state is not None and not state.relays and state.stored_bits >= bits

    def wait_s(self, link: Link, bits: int) -> float | None:
        """Return how long until a link has so many bits; ``None`` if that is unknown, or never."""
        state = self.states.get(link)
        if state is None or state.relays or state.capacity_bits < bits:
            return None
        if state.stored_bits >= bits:
            return 0.0
        return (bits - state.stored_bits) / state.rate_bps if state.rate_bps > 0 else None

    def problem(self, link: Link) -> str:
        """Say what is wrong with a link."""
        if link[0] in self.silent:
            return f"{link[0]} does not answer"
        if link in self.problems:
            return f"{link[0]} has no keys with {link[1]} ({self.problems[link]})"
        state = self.states.get(link)
        if state is not None and state.relays:
            return f"keys of {link[0]} and {link[1]} pass through {', '.join(state.relays)}"
        return f"too little key between {link[0]} and {link[1]}"

    def key_bytes_max(self) -> int:
        """Return the longest key that every KME hands out."""
        return min((state.key_bytes_max for state in self.states.values()), default=1 << 20)

    def spend(self, bits: Mapping[Link, int]) -> None:
        """Count planned bits as gone."""
        for link, count in bits.items():
            if link in self.states:
                old = self.states[link]
                self.states[link] = LinkState(
                    old.stored_bits - count, old.capacity_bits, old.key_bytes_max, old.rate_bps, old.relays
                )


def wanted_links(context: VaultContext, helpers: Sequence[SiteId], target: SiteId) -> list[Link]:
    """Return the links of a repair, each with the site first that draws the keys."""
    order = {site.name: index for index, site in enumerate(context.sites)}  # retired ones help too
    pairs = [tuple(sorted(pair, key=lambda site: order.get(site, len(order)))) for pair in combinations(helpers, 2)]
    return [(pair[0], pair[1]) for pair in pairs] + [(helper, target) for helper in helpers]


async def held_shares(
    context: VaultContext, channels: Mapping[SiteId, Channel], object_ids: Sequence[ObjectId]
) -> dict[SiteId, set[tuple[str, str, int]]]:
    """Ask every site which shares of objects it lists, as (object, version, epoch); silent sites are left out."""
    held: dict[SiteId, set[tuple[str, str, int]]] = {site: set() for site in channels}
    for at in range(0, len(object_ids), _ASKED_TOGETHER):
        some = object_ids[at : at + _ASKED_TOGETHER]
        ops = [{"op": "inventory", "after": _before(each), "limit": 1} for each in some]
        asked = [site for site in channels if site in held]
        tasks = await settle(
            context.runtime, (channels[site].exchange(ops, timeout_s=_ASK_TIMEOUT_S) for site in asked)
        )
        for site, task in zip(asked, tasks, strict=True):
            if failure(task) is not None or len(task.result().results) != len(ops):
                del held[site]
                continue
            held[site] |= set(_listed(task.result().results, set(some)))
    return held


def _before(object_id: ObjectId) -> str:
    """Return the identifier just before one, so that a list that starts after it starts with that object."""
    number = int(object_id, 16)
    return f"{number - 1:032x}" if number else ""


def _listed(results: Iterable[Mapping[str, Any]], wanted: set[ObjectId]) -> Iterator[tuple[str, str, int]]:
    for result in results:
        shares = result.get("shares")
        for entry in shares if isinstance(shares, list) else ():
            if isinstance(entry, list) and len(entry) == 5 and entry[0] in wanted and type(entry[2]) is int:
                yield str(entry[0]), str(entry[1]), entry[2]


async def read_links(context: VaultContext, channels: Mapping[SiteId, Channel]) -> Links:
    """Ask every node how much key it could draw for every other."""
    nodes = {site.node: site.name for site in context.sites}
    links = Links()
    asked = list(channels)
    ops = {
        site: {"op": "repair_stock", "peers": [node for node, name in nodes.items() if name != site]} for site in asked
    }
    tasks = await settle(
        context.runtime, (channels[site].exchange([ops[site]], timeout_s=_ASK_TIMEOUT_S) for site in asked)
    )
    for site, task in zip(asked, tasks, strict=True):
        error = failure(task)
        results = [] if error is not None else task.result().results
        found = results[0].get("links") if results else None
        if not isinstance(found, dict):
            if error is not None and not isinstance(error, ShosoinError):
                raise error
            links.silent.add(site)
            continue
        for node, name in nodes.items():
            if name != site:
                _note(links, (site, name), found.get(node))
    return links


def _note(links: Links, link: Link, raw: Any) -> None:
    told = raw if isinstance(raw, dict) else {"error": "no answer"}
    numbers = [told.get(name) for name in ("stored_bits", "capacity_bits", "max_key_size_bits")]
    extension = told.get("extension")
    if "error" in told or not all(type(number) is int for number in numbers) or not isinstance(extension, dict):
        links.problems[link] = str(told.get("error", "an answer that cannot be read"))[:200]
        return
    rate = extension.get("shosoin_secret_key_rate_bps")
    relays = extension.get("shosoin_relays", [])
    stored, capacity, largest = (number for number in numbers if isinstance(number, int))
    links.states[link] = LinkState(
        stored,
        capacity,
        max(largest // 8, 1),
        float(rate) if isinstance(rate, int | float) else 0.0,
        tuple(map(str, relays)) if isinstance(relays, list) else ("an unreadable list",),
    )


def helper_sets(context: VaultContext, need: Need, links: Links) -> list[tuple[SiteId, ...]]:
    """Return every set of k sites that can help now: those with the home site first, then by the scarcest link."""
    value = need.value
    known = {site.name for site in context.sites}
    fit = [site for site in need.body.good if site != need.target and site in known and site not in links.silent]
    found: list[tuple[bool, float, tuple[SiteId, ...]]] = []
    for helpers in combinations(fit, value.scheme.k):
        wanted = wanted_links(context, helpers, need.target)
        bits = need.key_bits(wanted)
        if value.class_ == "pqc" or all(links.usable(link, bits[link]) for link in wanted):
            spare = min((links.states[link].stored_bits for link in wanted if link in links.states), default=0)
            found.append((context.home not in helpers, -float(spare), helpers))
    return [helpers for _, _, helpers in sorted(found)]
