"""Where policies are enforced: before a put draws a key, before it commits, before a get draws a key.

A put is judged three times: on its plan (class, scheme, home, declared domains, relays, what the links' status says),
when nothing has left; on the facts, when shares are staged and nothing counts on them yet; and on the sites that pinned
the shares, when the object is committed but has no name. A get is judged by the clauses under which the object was
stored and by those in force today: weakening a policy does not weaken what was stored under it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shosoin.base import AssuranceLabel, SiteId
from shosoin.base.ports import Event, KeyStatus
from shosoin.vault.assurance import label_of
from shosoin.vault.catalog import PROVEN, Reading
from shosoin.vault.coalitions import relay_party, smallest_coalition
from shosoin.vault.context import VaultContext
from shosoin.vault.exposure import checked_statuses, link_statuses, note_read, routes_now
from shosoin.vault.facts import ObjectFacts, probability
from shosoin.vault.found_bad import found_bad, last_audited
from shosoin.vault.policies import InForce
from shosoin.vault.policy import BadPolicy, Clause, parse_policy
from shosoin.vault.routes import ReadRoutes, Route, read_routes, route_of
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import Body, RegisterValue
from shosoin.vault.verdicts import Findings, Verdict, judge, refuse_failed

__all__ = [
    "ReadGate",
    "check_plan",
    "check_rebuilt",
    "check_written",
    "clauses_at_put",
    "foresee",
    "foreseen",
    "label_now",
    "label_of_reading",
    "never_met",
    "verdicts_on",
]

AT_PUT = "at put"
_UNREADABLE = Clause("the policy recorded at put", "")
_OF_KEYS = frozenset({"epsilon", "simulated", "everlasting"})


def clauses_at_put(context: VaultContext, name: str) -> list[str]:
    """Return the clauses in force for a name, as they are written into the facts of its value."""
    return [str(each.clause) for each in context.policies.in_force(name)]


def label_now(
    context: VaultContext,
    value: RegisterValue,
    *,
    pinned: Iterable[SiteId],
    freshness: str = PROVEN,
    planned: Mapping[SiteId, Route | None] | None = None,
) -> AssuranceLabel:
    """Return the label of a value; ``planned`` are the routes of a read that is about to happen."""
    reads = read_routes(context.journal, value)
    if planned:
        relays = {site: route for site, route in planned.items() if route is not None}
        reads = reads.joined(ReadRoutes(relays, frozenset(planned) - frozenset(relays)))
    return label_of(
        value,
        pinned=pinned,
        now_wall_s=context.clock.wall_s(),
        freshness=freshness,
        reads=reads,
        declared=context.declared,
    )


async def check_plan(context: VaultContext, names: Iterable[str], scheme: Scheme, class_: str) -> None:
    """Refuse a put whose policy cannot be met, before a key is drawn or anything leaves.

    Raises:
        PolicyRefused: with what was found.
    """
    bound = {name: clauses for name in names if (clauses := context.policies.in_force(name))}
    if not bound:
        return
    _refuse(bound, foreseen(context, scheme, class_, None))
    _refuse(bound, await foresee(context, scheme, class_))


async def foresee(context: VaultContext, scheme: Scheme, class_: str) -> Findings:
    """Ask the links for their status and return ``foreseen``.

    Raises:
        Exposed: an allowed coalition would learn the object by the keys that it sees.
    """
    return foreseen(context, scheme, class_, await _statuses(context, scheme, class_))


async def _statuses(context: VaultContext, scheme: Scheme, class_: str) -> dict[SiteId, KeyStatus]:
    if class_ == "its":
        return await checked_statuses(context, context.placement(scheme), scheme)
    return await link_statuses(context) if class_ == "qkd" else {}


def _refuse(bound: Mapping[str, Sequence[InForce]], findings: Findings) -> None:
    for name, clauses in bound.items():
        refuse_failed(name, judge(clauses, findings), undone="nothing was sent and no key was drawn")


def foreseen(
    context: VaultContext, scheme: Scheme, class_: str, statuses: Mapping[SiteId, KeyStatus] | None
) -> Findings:
    """Return what can be known of a put before it happens, at its best: all sites take part.

    ``statuses`` are those of the links; ``None`` if they were not asked.
    """
    placement = context.placement(scheme)
    remote = [site for site in placement if site != context.home]
    routes = _routes(context, remote, statuses or {}) if class_ == "its" else {}
    known = {site: route for site, route in routes.items() if route is not None}
    found = smallest_coalition({site: _openers(context, site, known.get(site, ())) for site in placement}, scheme.k)
    reasons = _foreseen_reasons(context, class_)
    simulated = class_ != "pqc" and any(
        status.extension.get("shosoin_simulated") is True for site, status in (statuses or {}).items() if site in remote
    )
    gap = [site for site in remote if class_ == "its" and site not in known] if statuses is not None else []
    reasons += ["the key links are simulated"] if simulated else []
    return Findings(
        class_=class_,
        scheme=(scheme.k, scheme.n),
        home=context.home,
        collusion=found.number,
        collusion_set=found.names,
        collusion_gap=f"nobody declared who sees the keys for {', '.join(gap)}" if gap else "",
        durable=scheme.n,
        epsilon=_least_epsilon(statuses or {}, remote, scheme) if class_ != "pqc" else None,
        age_s=0.0,
        everlasting=False if reasons else None,
        reasons=tuple(reasons),
        simulated=True if simulated else False if class_ == "pqc" else None,
        deal_checked=class_ == "its" and scheme.n > scheme.k,
        fresh=True,
        pending=(_OF_KEYS if class_ != "pqc" else frozenset({"everlasting"}))
        | {"durable"}
        | ({"collusion"} if class_ == "its" and statuses is None else frozenset()),
    )


def _routes(
    context: VaultContext, remote: Sequence[SiteId], statuses: Mapping[SiteId, KeyStatus]
) -> dict[SiteId, Route | None]:
    domains = context.domains
    return {
        site: route_of(statuses[site], domains[site]) if site in statuses else domains[site].relays for site in remote
    }


def _openers(context: VaultContext, site: SiteId, route: Route) -> tuple[str, ...]:
    declared = context.declared
    relays = [relay for relay in route if relay != context.home]
    by_relay = [
        name for relay in relays for name in (declared[relay].names() if relay in declared else (relay_party(relay),))
    ]
    return (*declared[site].names(), *by_relay)


def _foreseen_reasons(context: VaultContext, class_: str) -> list[str]:
    computed = [] if class_ == "its" else ["shares would travel under ciphers that rest on computation"]
    return computed + ([] if context.entropy.physical else [f"random numbers would come from {context.entropy.source}"])


def _least_epsilon(statuses: Mapping[SiteId, KeyStatus], remote: Sequence[SiteId], scheme: Scheme) -> float | None:
    """Return what the keys' failure probabilities add up to at least: one key for each site that must take part."""
    declared = [probability(statuses[site].extension.get("shosoin_epsilon")) for site in remote if site in statuses]
    known = sorted(epsilon for epsilon in declared if epsilon is not None)
    needed = max(scheme.durable_min - 1, 0)
    return sum(known[:needed]) if len(known) == len(remote) else None


def check_written(
    context: VaultContext, name: str, value: RegisterValue, pinned: Iterable[SiteId], *, undone: str
) -> None:
    """Refuse a put whose facts do not meet the policy; before the commit ``pinned`` are the sites that hold shares.

    Raises:
        PolicyRefused: with what was found; ``undone`` says what has not happened.
    """
    clauses = context.policies.in_force(name)
    if clauses:
        label = label_now(context, value, pinned=pinned)
        refuse_failed(name, judge(clauses, Findings.of_label(label)), undone=undone)


def check_rebuilt(
    context: VaultContext, name: str, value: RegisterValue, body: Body, target: SiteId, facts: Mapping[str, Any]
) -> None:
    """Refuse to rebuild a share if how it travels would break a clause of the object's policy that holds now.

    Raises:
        PolicyRefused: with what would be found. Else the object could not be read any more.
    """
    if value.kind != "object":
        return
    good = tuple(site for site in value.placement if site in body.good or site == target)
    bodies = tuple(each.with_good(good, target, facts) if each is body else each for each in value.bodies)
    after = value.with_bodies(bodies)
    broken = {verdict.clause for verdict in _broken(context, name, value, body.good)}
    news = [verdict for verdict in _broken(context, name, after, good) if verdict.clause not in broken]
    refuse_failed(name, news, undone="the share was not rebuilt; free other links for it, or put the object again")


def _broken(context: VaultContext, name: str, value: RegisterValue, pinned: Iterable[SiteId]) -> list[Verdict]:
    verdicts = verdicts_on(context, name, value, label_now(context, value, pinned=pinned))
    return [verdict for verdict in verdicts if verdict.met is False]


def verdicts_on(context: VaultContext, name: str, value: RegisterValue, label: AssuranceLabel) -> tuple[Verdict, ...]:
    """Return how a stored object fares: under the clauses of its put and under those in force today."""
    now = context.policies.in_force(name)
    stored = ObjectFacts.read(value.facts).policy
    broken: list[Verdict] = []
    then: list[InForce] = []
    try:
        if stored is None:
            raise BadPolicy("not a list of clauses")
        then = [InForce(AT_PUT, clause) for text in stored for clause in parse_policy(text)]
    except BadPolicy as error:
        hint = "put it again; nobody can tell what it was stored under"
        broken.append(Verdict(AT_PUT, _UNREADABLE, False, f"that it cannot be read ({error.message})", hint))
    known = {each.clause for each in now}
    return (*broken, *judge([*now, *(each for each in then if each.clause not in known)], Findings.of_label(label)))


def label_of_reading(
    context: VaultContext, value: RegisterValue, reading: Reading, durable_max: int, *, planned: bool = False
) -> AssuranceLabel:
    """Return the label of what was read of a register; an object is as durable as its name at most.

    Sites whose shares were found bad, and not rebuilt since, are not counted.
    With ``planned`` the routes of a read that is about to happen count as well.
    """
    routes = routes_now(context, value) if planned and value.class_ == "its" else None
    label = label_now(context, value, pinned=reading.certificate, freshness=reading.freshness, planned=routes)
    sound = set(value.durable_sites(reading.certificate)) - found_bad(context, value)
    durable_at = min(label.durable_at, len(sound), durable_max)
    return replace(label, durable_at=durable_at, audited_at_wall_s=last_audited(context, value))


@dataclass(frozen=True, slots=True)
class ReadGate:
    """Lets reads pass whose objects meet their policy; with ``despite`` all, with a warning."""

    context: VaultContext
    durable_max: Callable[[str], int]
    """At how many sites a name is durable."""
    despite: bool = False

    def admit(self, name: str, value: RegisterValue, reading: Reading, *, planned: bool = False) -> list[Event]:
        """Return warnings; ``planned`` counts the routes that the read would take, as last asked.

        Raises:
            PolicyRefused: with what was found.
        """
        if not self.context.policies.in_force(name) and value.facts.get("policy", []) == []:
            return []
        label = label_of_reading(self.context, value, reading, self.durable_max(name), planned=planned)
        verdicts = verdicts_on(self.context, name, value, label)
        if not self.despite:
            refuse_failed(name, verdicts, undone="nothing was read; --despite-policy reads it all the same")
        return [self._warning(value, verdict) for verdict in verdicts if verdict.met is False]

    def admit_route(self, name: str, value: RegisterValue, reading: Reading) -> list[Event]:
        """Do the same once the links' status is known, then write down whose eyes the read has.

        Call before a key is drawn for it.
        """
        warnings = self.admit(name, value, reading, planned=True)
        note_read(self.context, value)
        return warnings

    def _warning(self, value: RegisterValue, verdict: Verdict) -> Event:
        fields = {"object": str(value.register_id), "clause": str(verdict.clause), "found": verdict.found}
        warning = Event("vault.despite_policy", "warning", fields)
        self.context.sink.emit(warning)
        return warning


def never_met(context: VaultContext, clauses: Sequence[InForce]) -> list[str]:
    """Return, in sentences, why no object could ever meet these clauses with this owner's sites, if none could."""
    of = {
        subject: [each.clause for each in clauses if each.clause.subject == subject]
        for subject in {each.clause.subject for each in clauses}
    }
    allowed = {
        "class": {"its", "qkd", "pqc"},
        "scheme": {f"{k}-of-{n}" for n in range(2, len(context.sites) + 1) for k in range(2, n + 1)},
        "home": {str(context.home)},
    }
    for subject, values in allowed.items():
        for clause in of.get(subject, ()):
            values &= set(clause.values)
    said = [f"no {subject} is left that every clause allows" for subject, values in allowed.items() if not values]
    n_max = max((int(scheme.split("-")[-1]) for scheme in allowed["scheme"]), default=0)
    everybody = smallest_coalition({site: each.names() for site, each in context.domains.items()}, len(context.sites))
    limits = {"durable": n_max, "collusion": everybody.number}
    for subject, limit in limits.items():
        wanted = max((clause.number for clause in of.get(subject, ()) if clause.values != ("n",)), default=0)
        if wanted > limit:
            said.append(f"{subject} can be {limit} at most with these sites")
    needing = [subject for subject in ("everlasting", "deal checked") if subject in of]
    said += [f"`{subject}` needs class its" for subject in needing if "its" not in allowed["class"]]
    if "epsilon" in of and allowed["class"] <= {"pqc"}:
        said.append("`epsilon` needs keys, and class pqc has none")
    return said
