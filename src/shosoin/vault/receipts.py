"""What the vault tells its callers: plans, receipts, listings, reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from shosoin.base import AssuranceLabel, SiteId
from shosoin.base.ports import Event
from shosoin.vault.policies import InForce
from shosoin.vault.scheme import Scheme
from shosoin.vault.verdicts import Findings, Verdict

__all__ = [
    "Foreseen",
    "GetReceipt",
    "KeyPlan",
    "Labelled",
    "Listing",
    "PolicyInForce",
    "PutReceipt",
    "RemoveReceipt",
    "Stat",
    "VerifyReport",
]


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """Key bits that a put would take, per remote site, beside what is in stock."""

    class_: str
    needed_bits: dict[SiteId, int]
    stock_bits: dict[SiteId, int]
    wait_s: float | None
    """Until enough will be there at the links' advertised rates; 0 when there is, ``None`` when unknown."""

    @property
    def enough(self) -> bool:
        """Whether the stock suffices now."""
        return all(self.stock_bits.get(site, 0) >= need for site, need in self.needed_bits.items())


@dataclass(frozen=True, slots=True)
class PutReceipt:
    """An acknowledged put: durable at ``durable_at`` sites."""

    name: str
    object_id: str
    version: str
    size_bytes: int
    durable_at: int
    acknowledged: list[SiteId]
    missing: list[SiteId]
    key_bits_used: dict[SiteId, int]
    seconds: float
    label: AssuranceLabel
    alarms: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class GetReceipt:
    """A finished get; every byte that was written passed its check."""

    name: str
    size_bytes: int
    seconds: float
    key_bits_used: dict[SiteId, int]
    sites_used: list[SiteId]
    alarms: list[Event]
    label: AssuranceLabel
    freshness: str
    warnings: list[Event] = field(default_factory=list)
    """Clauses of the policy that are not met, where that was overridden."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One name of the owner's index."""

    name: str
    size_bytes: int
    class_: str
    scheme: Scheme
    object_id: str
    version: str
    created_wall_s: float
    content_type: str


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of an object without reading it."""

    listing: Listing
    label: AssuranceLabel
    placement: list[SiteId]
    share_bytes: int
    policy: tuple[Verdict, ...] = ()
    """How the object fares under the clauses of its put and of today."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One name with its label, or with why there is none."""

    listing: Listing
    label: AssuranceLabel | None
    policy: tuple[Verdict, ...]
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a put would be, as far as can be known before it."""

    findings: Findings
    policy: tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """The policy that binds a name."""

    name: str
    clauses: tuple[InForce, ...]
    classes: tuple[str, ...] | None
    """Classes that every clause allows, the preferred one first; ``None`` if no clause asks."""
    names_fallback: bool
    """Whether a clause says which class to take when keys are short."""
    never_met: tuple[str, ...]
    """Sentences: why no object could meet it; empty if one could."""


@dataclass(frozen=True, slots=True)
class RemoveReceipt:
    """A removed object: tombstone committed, shares erased at ``erased_at``."""

    name: str
    object_id: str
    erased_at: list[SiteId]
    pending_at: list[SiteId]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """State of every share of an object: ``ok``, ``missing``, ``unreachable``, ``damaged`` or ``wrong``."""

    name: str
    per_site: dict[SiteId, str]
    alarms: list[Event]

    @property
    def ok(self) -> bool:
        """Whether no site holds a damaged or wrong share."""
        return not any(state in {"damaged", "wrong"} for state in self.per_site.values())
