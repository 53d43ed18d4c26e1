"""Scenarios: a whole system described in one TOML file.

A scenario names sites, the links between them, owners and defaults; ``docs/specs/scenario.md`` is its specification.
Reading one checks everything before anything starts, and a mistake is answered with the nearest thing that would have
been right. Links are simulated: what a scenario says about lengths and losses decides the *rate* of a simulated key
link, and no figure in it makes a link real.

>>> from shosoin.testbed.scenario import load_scenario
>>> scenario = load_scenario("tiny")
>>> [site.name for site in scenario.sites]
['kita', 'naka', 'minami']

What it does not do: relays (two sites without a link share no keys here) and links to real devices.
"""

from __future__ import annotations

import math
import re
import tomllib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from shosoin.base import Rejected
from shosoin.link.events.attack_names import ATTACKS
from shosoin.testbed.fields import Table, did_you_mean

if TYPE_CHECKING:
    from shosoin.vault.scheme import Scheme

__all__ = [
    "MAX_SITES",
    "EventLevel",
    "Link",
    "Owner",
    "Policy",
    "Scenario",
    "Site",
    "load_scenario",
    "parse_scenario",
    "shipped_scenarios",
]

MIN_SITES = 2
MAX_SITES = 16
MAX_OWNERS = 64
MAX_SAES_PER_SITE = 64
MAX_SCENARIO_BYTES = 1 << 20
MAX_LINK_LENGTH_KM = 20_000.0
MAX_LINK_LOSS_DB = 100.0
MAX_STOCK_BITS = 1 << 36
MAX_SPEEDUP = 1e6
MIN_BLOCK_BITS = 1 << 16
MAX_BLOCK_BITS = 1 << 24
_LEVELS = ("rate", "events")
CLASSES = ("its", "qkd", "pqc", "auto")
KEY_EXCHANGES = ("classical", "prefer-hybrid", "require-hybrid")

_SCHEME = re.compile(r"([0-9]{1,2})-of-([0-9]{1,2})")
_SITE_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Site:
    """A place with one KME and one share node."""

    name: str
    """Lower-case letters, digits and single hyphens, at most 40 characters; becomes part of every id at the site."""
    place: str
    """Where it is, for people."""
    domain: str
    """Trust domain: who operates it. Sites of one domain count as one party in the collusion number."""
    vendor: str
    """Who made its equipment, as declared; empty when undeclared. Sites of one vendor also count as one party."""
    saes: int
    """How many further SAEs the site has beside its node and its owners: ``sae-<site>-1`` and so on."""

    @property
    def kme_id(self) -> str:
        """Id of its KME."""
        return f"kme-{self.name}"

    @property
    def node_id(self) -> str:
        """Id of its share node, which is also the SAE ID of the node."""
        return f"node-{self.name}"

    @property
    def sae_ids(self) -> tuple[str, ...]:
        """Ids of its further SAEs."""
        return tuple(f"sae-{self.name}-{number}" for number in range(1, self.saes + 1))


@dataclass(frozen=True, slots=True)
class EventLevel:
    """A link whose keys are made the real way from simulated detections (``level = "events"``)."""

    block_bits: int
    """Sifted bits of the key basis that make a block."""
    pulses_per_s: float
    """Pulses that each direction simulates in a second at most; real devices send a thousand million."""
    eavesdropper: str
    """Who sits on the line (``shosoin.link.events.attacks``), or ``none``."""
    eavesdropper_share: float
    """Share of the pulses she takes."""


@dataclass(frozen=True, slots=True)
class Link:
    """A simulated QKD link: two key streams, one per direction."""

    a: str
    b: str
    length_km: float
    attenuation_db: float
    """Loss of the whole link in decibel."""
    speedup: float
    """Factor on the key rate that physics would give, so that a demonstration need not wait. 1 is honest speed."""
    stock_bits_at_start: int
    """Key bits that each direction holds when the link first starts."""
    max_stock_bits: int
    """Key bits per direction at which the link stops to generate."""
    events: EventLevel | None = None
    """How its devices are simulated pulse by pulse; ``None`` when a rate model stands for them."""

    def other(self, site: str) -> str:
        """Return the far end as seen from ``site``."""
        return self.b if site == self.a else self.a

    @property
    def ends(self) -> frozenset[str]:
        """Both sites, without an order."""
        return frozenset((self.a, self.b))


@dataclass(frozen=True, slots=True)
class Owner:
    """Somebody who stores objects, at home at one site."""

    id: str
    site: str
    quota_bytes: int
    """Share bytes that each site grants."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What owners require of objects (see ``shosoin.vault.policy``)."""

    owner: str
    """Whose it is; empty for everybody's."""
    prefix: str
    """Of which names; empty for all."""
    require: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A checked scenario."""

    name: str
    title: str
    sites: tuple[Site, ...]
    """In the order of share indices 1 to n."""
    links: tuple[Link, ...]
    owners: tuple[Owner, ...]
    threshold: int
    """k of the default scheme of every owner."""
    shares: int
    """n of it."""
    class_: str
    """Default transfer class: ``its``, ``qkd``, ``pqc`` or ``auto``."""
    text: str
    """The TOML it was read from, verbatim."""
    policies: tuple[Policy, ...] = ()
    key_exchange: str = "classical"
    """Of TLS between KMEs (``shosoin.adapters.key_exchange``)."""

    @property
    def scheme(self) -> Scheme:
        """Default scheme of every owner."""
        from shosoin.vault.scheme import Scheme  # noqa: PLC0415  # `down` must work where the kernels do not

        return Scheme(self.threshold, self.shares)

    @property
    def scheme_text(self) -> str:
        """The default scheme as configurations write it."""
        return f"{self.threshold}-of-{self.shares}"

    def site(self, name: str) -> Site:
        """Return a site by name.

        Raises:
            Rejected: no such site; names the nearest one.
        """
        for site in self.sites:
            if site.name == name:
                return site
        raise _unknown_site(name, [site.name for site in self.sites])

    def owner(self, owner_id: str | None) -> Owner:
        """Return an owner by id, or the first one.

        Raises:
            Rejected: no such owner.
        """
        if owner_id is None:
            return self.owners[0]
        for owner in self.owners:
            if owner.id == owner_id:
                return owner
        known = [owner.id for owner in self.owners]
        raise Rejected(
            f"no owner {owner_id[:80]!r} in scenario {self.name}",
            code="testbed.unknown_owner",
            hint=did_you_mean(owner_id, known),
        )

    def policies_of(self, owner_id: str) -> tuple[Policy, ...]:
        """Return the policies of an owner: everybody's and its own, those with one prefix joined."""
        joined: dict[str, tuple[str, ...]] = {}
        for policy in self.policies:
            if policy.owner in {"", owner_id}:
                prefix = unicodedata.normalize("NFC", policy.prefix)
                joined[prefix] = (*joined.get(prefix, ()), *policy.require)
        return tuple(Policy(owner_id, prefix, require) for prefix, require in joined.items())

    def links_of(self, site: str) -> tuple[Link, ...]:
        """Return the links that end at a site."""
        return tuple(link for link in self.links if site in link.ends)


def shipped_scenarios() -> list[str]:
    """Return the names of the scenarios in the package."""
    folder = resources.files("shosoin.testbed") / "scenarios"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_scenario(name_or_path: str) -> Scenario:
    """Read a shipped scenario by name, or any scenario by the path of its file.

    Raises:
        Rejected: nothing of that name, an unreadable file, or a mistake in it.
    """
    shipped = shipped_scenarios()
    if name_or_path in shipped:
        source = resources.files("shosoin.testbed") / "scenarios" / f"{name_or_path}.toml"
        return parse_scenario(source.read_text(encoding="utf-8"))
    path = Path(name_or_path)
    if not path.is_file():
        raise Rejected(
            f"no scenario {name_or_path[:200]!r}: neither a file nor one of {', '.join(shipped)}",
            code="testbed.unknown_scenario",
            hint=did_you_mean(name_or_path, shipped),
        )
    return parse_scenario(_read_bounded(path))


def parse_scenario(written: str) -> Scenario:
    """Read a scenario from its TOML text.

    Raises:
        Rejected: not TOML, an unknown or missing key, a value out of range, or parts that do not fit together.
    """
    try:
        document = Table("the scenario", tomllib.loads(written))
    except (ValueError, RecursionError) as err:
        raise Rejected(f"the scenario is not valid TOML: {err}", code="testbed.bad_scenario") from err
    head = document.table("scenario")
    name = head.name("name", _SITE_NAME, 40)
    title = head.text("title", default=name)
    head.finish()
    defaults = document.table("defaults", optional=True)
    scheme_text = defaults.text("scheme", default="")
    class_ = defaults.one_of("class", CLASSES, default="its")
    defaults.finish()
    network = document.table("network", optional=True)
    key_exchange = network.one_of("key_exchange", KEY_EXCHANGES, default="classical")
    network.finish()
    link_defaults = _LinkDefaults.read(document.table("link_defaults", optional=True))
    sites = tuple(_site(table) for table in document.tables("site"))
    _check_sites(sites)
    known = [site.name for site in sites]
    links = tuple(_link(table, known, link_defaults) for table in document.tables("link"))
    owners = tuple(_owner(table, known) for table in document.tables("owner"))
    policies = tuple(_policy(table, [owner.id for owner in owners]) for table in document.tables("policy"))
    document.finish()
    _check_links(links)
    _check_owners(owners, sites)
    threshold, shares = _scheme(scheme_text) if scheme_text else (max(2, len(sites) // 2 + 1), len(sites))
    scenario = Scenario(name, title, sites, links, owners, threshold, shares, class_, written, policies, key_exchange)
    _check_reach(scenario)
    return scenario


@dataclass(frozen=True, slots=True)
class _LinkDefaults:
    """Values for links that do not say otherwise."""

    speedup: float
    stock_bits_at_start: int
    max_stock_bits: int
    level: str

    @classmethod
    def read(cls, table: Table) -> _LinkDefaults:
        start, top = table.integer("stock_bits_at_start", 0, MAX_STOCK_BITS, default=1 << 24), MAX_STOCK_BITS
        made = cls(
            speedup=table.number("speedup", 0.0, MAX_SPEEDUP, default=1.0),
            stock_bits_at_start=start,
            max_stock_bits=table.integer("max_stock_bits", 0, top, default=max(start, 1 << 26)),
            level=table.one_of("level", _LEVELS, default="rate"),
        )
        table.finish()
        return made


def _read_bounded(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_SCENARIO_BYTES + 1)
        if len(raw) > MAX_SCENARIO_BYTES:
            raise Rejected(f"{path} is larger than {MAX_SCENARIO_BYTES} bytes", code="testbed.bad_scenario")
        return raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise Rejected(f"cannot read scenario {path}: {err}", code="testbed.bad_scenario") from err


def _scheme(written: str) -> tuple[int, int]:
    """Return k and n of ``K-of-N``."""
    match = _SCHEME.fullmatch(written)
    k, n = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 2 <= k <= n <= MAX_SITES:
        raise Rejected(
            f"scheme {written[:40]!r} is not K-of-N with 2 <= K <= N <= {MAX_SITES}",
            code="testbed.bad_scheme",
            hint="write it as 3-of-5: any 3 of 5 sites give an object back",
        )
    return k, n


def _site(table: Table) -> Site:
    site = Site(
        name=table.name("name", _SITE_NAME, 40),
        place=table.text("place", default=""),
        domain=table.text("domain"),
        vendor=table.text("vendor", default=""),
        saes=table.integer("saes", 0, MAX_SAES_PER_SITE, default=2),
    )
    table.finish()
    return site


def _link(table: Table, known: list[str], defaults: _LinkDefaults) -> Link:
    a, b = (_known_site(table.text(end), known) for end in ("a", "b"))
    length_km = table.number("length_km", 0.0, MAX_LINK_LENGTH_KM)
    link = Link(
        a=a,
        b=b,
        length_km=length_km,
        attenuation_db=_attenuation_db(table, length_km),
        speedup=table.number("speedup", 0.0, MAX_SPEEDUP, default=defaults.speedup),
        stock_bits_at_start=table.integer(
            "stock_bits_at_start", 0, MAX_STOCK_BITS, default=defaults.stock_bits_at_start
        ),
        max_stock_bits=table.integer("max_stock_bits", 0, MAX_STOCK_BITS, default=defaults.max_stock_bits),
        events=_event_level(table, defaults.level),
    )
    table.finish()
    if link.stock_bits_at_start > link.max_stock_bits:
        raise Rejected(
            f"link {a} - {b}: stock_bits_at_start {link.stock_bits_at_start} is above "
            f"max_stock_bits {link.max_stock_bits}",
            code="testbed.bad_scenario",
        )
    return link


def _event_level(table: Table, default: str) -> EventLevel | None:
    """Return how events are simulated, if they are; what only events have is refused beside a rate."""
    if table.one_of("level", _LEVELS, default=default) == "rate":
        return None
    return EventLevel(
        block_bits=table.integer("block_bits", MIN_BLOCK_BITS, MAX_BLOCK_BITS, default=1 << 18),
        pulses_per_s=table.number("pulses_per_s", 1e3, 1e9, default=1e7),
        eavesdropper=table.one_of("eavesdropper", ("none", *ATTACKS), default="none"),
        eavesdropper_share=table.number("eavesdropper_share", 0.0, 1.0, default=1.0),
    )


def _attenuation_db(table: Table, length_km: float) -> float:
    """Return the loss of a link, given whole or per kilometre (exactly one of the two)."""
    whole = table.number("attenuation_db", 0.0, MAX_LINK_LOSS_DB, default=math.nan)
    per_km = table.number("attenuation_db_per_km", 0.0, MAX_LINK_LOSS_DB, default=math.nan)
    if math.isnan(whole) == math.isnan(per_km):
        raise Rejected(
            f"{table.where} needs exactly one of attenuation_db and attenuation_db_per_km",
            code="testbed.bad_scenario",
        )
    loss_db = per_km * length_km if math.isnan(whole) else whole
    if loss_db > MAX_LINK_LOSS_DB:
        raise Rejected(
            f"{table.where}: loss of {loss_db:g} dB is above {MAX_LINK_LOSS_DB:g} dB", code="testbed.bad_scenario"
        )
    return round(loss_db, 6)


def _owner(table: Table, known: list[str]) -> Owner:
    owner = Owner(
        id=table.name("id", _SITE_NAME, 60),
        site=_known_site(table.text("site"), known),
        quota_bytes=table.integer("quota_bytes", 1, 1 << 60, default=1 << 34),
    )
    table.finish()
    return owner


def _policy(table: Table, owners: list[str]) -> Policy:
    owner = table.text("owner", default="")
    policy = Policy(owner, table.text("prefix", default=""), table.texts("require"))
    table.finish()
    if owner and owner not in owners:
        raise Rejected(
            f"{table.where}: no owner {owner[:80]!r}",
            code="testbed.unknown_owner",
            hint=did_you_mean(owner, owners),
        )
    return policy


def _known_site(name: str, known: list[str]) -> str:
    if name not in known:
        raise _unknown_site(name, known)
    return name


def _unknown_site(name: str, known: list[str]) -> Rejected:
    return Rejected(
        f"no site {name[:80]!r}; sites are {', '.join(known)}",
        code="testbed.unknown_site",
        hint=did_you_mean(name, known),
    )


def _check_sites(sites: tuple[Site, ...]) -> None:
    if not MIN_SITES <= len(sites) <= MAX_SITES:
        raise Rejected(
            f"a scenario has {MIN_SITES} to {MAX_SITES} sites, got {len(sites)}", code="testbed.bad_scenario"
        )
    _check_unique("site", (site.name for site in sites))


def _check_links(links: tuple[Link, ...]) -> None:
    for link in links:
        if link.a == link.b:
            raise Rejected(f"a link joins {link.a} to itself", code="testbed.bad_scenario")
    _check_unique("link", (" - ".join(sorted(link.ends)) for link in links))


def _check_owners(owners: tuple[Owner, ...], sites: tuple[Site, ...]) -> None:
    if not 1 <= len(owners) <= MAX_OWNERS:
        raise Rejected(f"a scenario has 1 to {MAX_OWNERS} owners, got {len(owners)}", code="testbed.bad_scenario")
    saes = [sae for site in sites for sae in (site.node_id, site.kme_id, *site.sae_ids)]
    _check_unique("owner or SAE", [*saes, *(owner.id for owner in owners)])


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Rejected(f"{what} {name!r} is named twice", code="testbed.bad_scenario")
        seen.add(name)


def _check_reach(scenario: Scenario) -> None:
    """Refuse a default scheme that no owner's home site could serve over its own links."""
    for owner in scenario.owners:
        reach = 1 + len(scenario.links_of(owner.site))
        if reach < scenario.shares:
            raise Rejected(
                f"scheme {scenario.scheme_text} needs {scenario.shares} sites, but {owner.site}, home of {owner.id}, "
                f"has links to {reach - 1} others",
                code="testbed.bad_scenario",
                hint="add links or lower N; sites without a link share no keys in a testbed",
            )
