"""What a simulation does, as data: the load of each client, the faults, the lies.

A plan follows from its seed and the options alone; the run adds nothing but the order in which things happen to come.
Because a plan is plain data, a failing one can be reduced (see ``shrinking``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from shosoin.base import SimulationRng
from shosoin.testing.simulation.attacks import JOINT_REGISTER_LIES, JOINT_SHARE_LIES, Attack, draw_attacks
from shosoin.testing.simulation.disk import PHASES
from shosoin.testing.simulation.seeds import hash_of
from shosoin.vault import Scheme

__all__ = [
    "ClientPlan",
    "Deed",
    "Fault",
    "FaultKind",
    "Liars",
    "Lie",
    "Mishap",
    "MishapKind",
    "Operation",
    "Plan",
    "draw_fault",
    "make_plan",
]

SITES = ("koganei", "otemachi", "hakusan", "hongo", "musashino", "kawasaki", "tsukuba")
CLIENTS = ("anna", "bert", "chie", "dai")
_SCHEMES = ("3-of-5", "3-of-5", "2-of-4", "2-of-4", "2-of-5", "3-of-6", "2-of-6", "3-of-7")
_SCHEME_OF_TWO_LIARS = "3-of-7"
_CLASSES = ("its", "its", "its", "qkd", "pqc")
_MESSAGES_IN_A_ROW = 25
"""Of one operation, about: tells how long clients are at work, so that faults come meanwhile."""


class Deed(StrEnum):
    """What a client does."""

    PUT = "put"
    PUT_MANY = "put_many"
    GET = "get"
    GET_MANY = "get_many"
    GET_RANGE = "get_range"
    LS = "ls"
    STAT = "stat"
    RM = "rm"
    AUDIT = "audit"
    VERIFY = "verify"
    RM_UNNAMED = "rm_unnamed"
    REPAIR = "repair"
    """Of one name; of odd sizes after a check by keys."""
    REPAIR_ALL = "repair_all"


_DEEDS = (
    *(Deed.PUT,) * 12,
    *(Deed.GET,) * 10,
    *(Deed.RM,) * 3,
    *(Deed.PUT_MANY,) * 3,
    *(Deed.GET_MANY,) * 3,
    *(Deed.GET_RANGE,) * 2,
    *(Deed.STAT,) * 2,
    *(Deed.LS,) * 2,
    *(Deed.VERIFY,) * 2,
    *(Deed.AUDIT,) * 1,
    *(Deed.RM_UNNAMED,) * 1,
)


class FaultKind(StrEnum):
    """What goes wrong without anybody meaning harm."""

    NODE_CRASH = "node_crash"
    """At a time."""
    DISK_CRASH = "disk_crash"
    """At a call of the disk: ``number`` and ``phase``."""
    NODE_FREEZE = "node_freeze"
    CLIENT_CRASH = "client_crash"
    """When it is about to send message ``number`` of those that it ever sends."""
    CLIENT_FREEZE = "client_freeze"
    CLIENT_STALL = "client_stall"
    """It freezes when it is about to send message ``number``."""
    CUT_TO = "cut_to"
    """No message reaches the site; its own still go out."""
    CUT_FROM = "cut_from"
    """No message of the site gets out; it hears everything."""
    CUT_PAIR = "cut_pair"
    """One client (``other``) and some sites do not reach each other; everybody else does."""
    LOSS = "loss"
    """Any message is lost with probability ``rate``."""
    DOUBLE = "double"
    """Any request is delivered twice with probability ``rate``."""
    SLOW = "slow"
    """Messages of a site take up to ``rate`` seconds."""
    DISK_FULL = "disk_full"
    KEYS_DRY = "keys_dry"
    KME_DOWN = "kme_down"
    CLOCK_STEP = "clock_step"
    """The wall clock of a site steps by ``rate`` seconds."""


class MishapKind(StrEnum):
    """What befalls a single share without a word, or the keys of two sites; only in plans with repairs."""

    RECORD_LOST = "record_lost"
    """The share is gone, and its record."""
    BYTES_LOST = "bytes_lost"
    """The share is gone; its record says that it is there."""
    ROT = "rot"
    """Some bytes changed; the site's own checksum tells whoever reads them."""
    ALTERED = "altered"
    """Some bytes changed before the checksum was made: nothing at the site tells."""
    LINK_DRY = "link_dry"
    """The keys that ``site`` draws for ``other`` run out."""


class Liars(StrEnum):
    """What lying sites lie about."""

    NONE = "none"
    SHARES = "shares"
    REGISTERS = "registers"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Operation:
    """One deed of a client; operations of one lane come one after the other."""

    deed: Deed
    names: tuple[str, ...]
    lane: int
    wait_s: float
    size_bytes: int
    class_: str
    tag: str
    """Tells what this operation writes from everything else."""


@dataclass(frozen=True, slots=True)
class ClientPlan:
    """A client and what it does."""

    name: str
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that begins at a time (or a disk call) and is over after another."""

    kind: FaultKind
    target: str = ""
    """A client, or one or more sites with spaces between."""
    other: str = ""
    at_s: float = 0.0
    for_s: float = 0.0
    rate: float = 0.0
    number: int = 0
    phase: str = ""
    silent: bool = False
    """Whether what breaks breaks without a word: nobody learns of a lost connection before its deadline."""


@dataclass(frozen=True, slots=True)
class Lie:
    """What a site does wrong on purpose, from a time on, with a probability."""

    site: str
    kind: str
    at_s: float = 0.0
    rate: float = 1.0


@dataclass(frozen=True, slots=True)
class Mishap:
    """Something that befalls one share of a site, or the keys of two sites."""

    kind: MishapKind
    site: str
    other: str = ""
    at_s: float = 0.0
    for_s: float = 0.0
    pick: int = 0
    """Tells which of the site's shares."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole simulation."""

    seed: int
    scheme: str
    latency_s: float
    """Typical time of a message; a disk takes a fifth of it."""
    orphan_age_s: float
    """Age at which nodes collect staged shares."""
    clients: tuple[ClientPlan, ...]
    faults: tuple[Fault, ...]
    lies: tuple[Lie, ...]
    mishaps: tuple[Mishap, ...] = ()
    repairs: bool = False
    """Whether shares are damaged and everything is repaired when all faults are over."""
    attacks: tuple[Attack, ...] = ()
    """What hostile clients do."""

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites; the first is the owner's home."""
        return SITES[: Scheme.parse(self.scheme).n]

    @property
    def liars(self) -> frozenset[str]:
        """Sites that lie at any time."""
        return frozenset(lie.site for lie in self.lies)

    def with_client(self, index: int, operations: tuple[Operation, ...]) -> Plan:
        """Return a copy in which one client does something else."""
        clients = list(self.clients)
        clients[index] = replace(clients[index], operations=operations)
        return replace(self, clients=tuple(clients))


def make_plan(
    seed: int,
    liars: Liars = Liars.SHARES,
    *,
    class_changes: bool = False,
    repairs: bool = False,
    hostile: bool = False,
) -> Plan:
    """Return the plan of a seed.

    With ``class_changes`` a name may go to an object of another class. With ``hostile`` there are clients that attack,
    and the liars conspire. With ``repairs`` shares get lost and are repaired. What the last two add comes from
    generators of their own; everything else stays as it was, but for the scheme of hostile plans.
    """
    plan = _base_plan(seed, liars, class_changes=class_changes)
    if hostile:
        plan = _with_hostility(plan, liars)
    if repairs:
        from shosoin.testing.simulation.repair_plans import with_repairs  # noqa: PLC0415  # it builds on plans

        plan = with_repairs(plan, liars)
    return plan


def _base_plan(seed: int, liars: Liars, *, class_changes: bool) -> Plan:
    rng = SimulationRng(seed)
    scheme = rng.choice(_SCHEMES)
    sites = SITES[: Scheme.parse(scheme).n]
    latency_s = rng.choice((0.002, 0.005, 0.02))
    names = _Names(rng, rng.choice(("a", "a", "ab", "abc")), class_changes=class_changes)
    hurry = rng.integer(0, 2) > 0
    count = rng.integer(2, 4) if hurry else rng.integer(1, 3)
    clients = tuple(_client(rng, CLIENTS[index], names, hurry=hurry) for index in range(count))
    work_s = max(_work_s(client, latency_s) for client in clients)
    calm = rng.integer(0, 9) == 0
    faults = () if calm else tuple(draw_fault(rng, sites, clients, work_s) for _ in range(rng.integer(1, 8)))
    return Plan(
        seed,
        scheme,
        latency_s,
        rng.choice((120.0, 3600.0)),
        clients,
        faults,
        _lies(rng, scheme, sites, liars, work_s),
    )


def _with_hostility(plan: Plan, liars: Liars) -> Plan:
    """Add what attackers do and what liars do together; half of the time there are enough sites for two liars."""
    work_s = max(_work_s(client, plan.latency_s) for client in plan.clients)
    rng = SimulationRng(hash_of(f"{plan.seed} hostile"))
    plan = replace(plan, scheme=rng.choice((plan.scheme, _SCHEME_OF_TWO_LIARS)))
    plan = replace(plan, lies=(*plan.lies, *_joint_lies(rng, plan, liars, work_s)))
    return replace(plan, attacks=draw_attacks(rng, work_s))


def _joint_lies(rng: SimulationRng, plan: Plan, liars: Liars, work_s: float) -> list[Lie]:
    """Draw lies of conspirators: of those that lie already, and of others as far as the bound allows."""
    if liars is Liars.NONE:
        return []
    scheme = Scheme.parse(plan.scheme)
    bound = scheme.liars_survived if liars is Liars.SHARES else scheme.register_liars
    others = [site for site in plan.sites[1:] if site not in plan.liars]
    conspirators = sorted(plan.liars)
    while len(conspirators) < bound and rng.integer(0, 4):
        conspirators.append(others.pop(rng.integer(0, len(others) - 1)))
    kinds = {Liars.SHARES: JOINT_SHARE_LIES, Liars.REGISTERS: JOINT_REGISTER_LIES}
    agreed = [rng.choice(kinds.get(liars, JOINT_SHARE_LIES + JOINT_REGISTER_LIES)) for _ in range(rng.integer(1, 3))]
    at_s = rng.choice((0.0, rng.uniform(0.0, work_s)))
    return [Lie(site, kind, at_s, rng.choice((0.5, 1.0))) for site in conspirators for kind in agreed]


class _Names:
    """The names that clients use, and the class of what is put under each."""

    def __init__(self, rng: SimulationRng, names: str, *, class_changes: bool) -> None:
        self._rng = rng
        self._names = names
        self._class_of = {name: rng.choice(_CLASSES) for name in names}
        self._class_changes = class_changes

    def some(self, many: int) -> tuple[tuple[str, ...], str]:
        """Return at most so many names and a class for them; one name if the class has to be that name's own."""
        chosen = sorted({self._rng.choice(self._names) for _ in range(many)})
        if self._class_changes:
            return tuple(chosen), self._rng.choice(_CLASSES)
        class_ = self._class_of[chosen[0]]
        return tuple(name for name in chosen if self._class_of[name] == class_), class_


def _work_s(client: ClientPlan, latency_s: float) -> float:
    return sum(each.wait_s + _MESSAGES_IN_A_ROW * latency_s for each in client.operations)


def _client(rng: SimulationRng, name: str, names: _Names, *, hurry: bool) -> ClientPlan:
    lanes = 2 if rng.integer(0, 4) == 0 else 1
    many = rng.integer(2, 4 if hurry else 6)
    waits_s = (0.0, 0.0, 0.02) if hurry else (0.0, 0.1, 1.0)
    return ClientPlan(name, tuple(_operation(rng, name, index, lanes, names, waits_s) for index in range(many)))


def _operation(
    rng: SimulationRng, client: str, index: int, lanes: int, names: _Names, waits_s: tuple[float, ...]
) -> Operation:
    deed = Deed.PUT if index == 0 and rng.integer(0, 2) else rng.choice(_DEEDS)
    many = rng.integer(1, 4) if deed in {Deed.PUT_MANY, Deed.GET_MANY} else 1
    chosen, class_ = names.some(many)
    return Operation(
        deed,
        chosen,
        rng.integer(1, lanes),
        rng.choice(waits_s) * rng.uniform(0.5, 2.0),
        rng.choice((0, 1, 40, 300, 3000)),
        class_,
        f"{client}{index + 1}",
    )


def draw_fault(rng: SimulationRng, sites: tuple[str, ...], clients: tuple[ClientPlan, ...], work_s: float) -> Fault:
    """Return a fault of any kind that begins while clients work."""
    kind = rng.choice((*FaultKind, *_FREQUENT))
    rates = {FaultKind.SLOW: 5.0, FaultKind.CLOCK_STEP: 200.0, FaultKind.DOUBLE: 0.5}
    names = [client.name for client in clients]
    target = rng.choice(names) if kind in _OF_CLIENTS else rng.choice(sites)
    if kind in _OF_SITES:
        target = " ".join(sorted({rng.choice(sites) for _ in range(rng.integer(1, 3))}))
    return Fault(
        kind,
        target,
        rng.choice(names),
        rng.uniform(0.0, work_s),
        rng.choice((0.5 * work_s, work_s, 4.0, 20.0)) * rng.uniform(0.1, 1.0),
        rng.uniform(0.05, 1.0) * rates.get(kind, 0.4),
        rng.integer(1, 150),
        rng.choice(PHASES),
        rng.integer(0, 1) == 0,
    )


_OF_CLIENTS = {FaultKind.CLIENT_CRASH, FaultKind.CLIENT_FREEZE, FaultKind.CLIENT_STALL}
_OF_SITES = {FaultKind.NODE_CRASH, FaultKind.NODE_FREEZE, FaultKind.CUT_TO, FaultKind.CUT_FROM, FaultKind.CUT_PAIR}
_FREQUENT = (
    *(FaultKind.DISK_CRASH,) * 3,
    *(FaultKind.CLIENT_CRASH,) * 3,
    *(FaultKind.CLIENT_STALL,) * 2,
    *(FaultKind.CUT_PAIR,) * 3,
    FaultKind.CUT_FROM,
    FaultKind.CUT_TO,
    FaultKind.LOSS,
)
SHARE_LIES = (
    "wrong_share",
    "shifted_share",
    "wrong_digest",
    "silence",
    "deny_share",
    "junk",
    "claim_stored",
    "replay",
)
REGISTER_LIES = (
    "fork",
    "roll_back",
    "forget_accepts",
    "forget_promises",
    "inflate_ballots",
    "grant_all",
    "forge_certificate",
    "invalid_registers",
    "junk_registers",
    "replay_registers",
)


def _lies(rng: SimulationRng, scheme: str, sites: tuple[str, ...], liars: Liars, work_s: float) -> tuple[Lie, ...]:
    parsed = Scheme.parse(scheme)
    bound = parsed.liars_survived if liars is Liars.SHARES else parsed.register_liars
    if liars is Liars.NONE or rng.integer(0, 2) == 0:
        return ()
    kinds = {Liars.SHARES: SHARE_LIES, Liars.REGISTERS: REGISTER_LIES}.get(liars, (*SHARE_LIES, *REGISTER_LIES))
    others = list(sites[1:])
    found: list[Lie] = []
    for _ in range(rng.integer(1, max(bound, 1))):
        site = rng.choice(others)
        others.remove(site)
        found += [
            Lie(site, rng.choice(kinds), rng.choice((0.0, rng.uniform(0.0, work_s))), rng.choice((0.3, 1.0)))
            for _ in range(rng.integer(1, 3))
        ]
    return tuple(found)
