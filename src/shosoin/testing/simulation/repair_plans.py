"""What plans with repairs have on top: one more client that repairs, shares that get lost, lies about repair.

All of it is drawn from a generator of its own, so that the rest of a plan is what it is without repairs.
"""

from __future__ import annotations

from dataclasses import replace

from shosoin.base import SimulationRng
from shosoin.testing.simulation.plan import (
    ClientPlan,
    Deed,
    Liars,
    Lie,
    Mishap,
    MishapKind,
    Operation,
    Plan,
    draw_fault,
)
from shosoin.testing.simulation.world import hash_of
from shosoin.vault import Scheme

__all__ = ["REPAIR_LIES", "with_repairs"]

REPAIR_LIES = (
    "repair_wrong_term",
    "repair_wrong_term_and_digest",
    "repair_other_order",
    "repair_bad_tag",
    "repair_claim",
    "repair_silence",
    "repair_replay",
    "repair_junk",
    "repair_frame",
    "repair_false_stock",
    "repair_rush",
)
_REPAIRER = "emi"
_DEEDS = (Deed.REPAIR_ALL, Deed.REPAIR_ALL, Deed.REPAIR, Deed.GET, Deed.VERIFY)
_SHARE_MISHAPS = tuple(kind for kind in MishapKind if kind is not MishapKind.LINK_DRY)
_SHORT_S = 1.5
"""In which the repairer and the mishaps come, at least; longer if clients wait longer."""


def with_repairs(plan: Plan, liars: Liars) -> Plan:
    """Return a plan with repairs, mishaps of shares, and lies about repair if there may be liars."""
    rng = SimulationRng(hash_of(f"{plan.seed} repairs"))
    names = sorted({name for client in plan.clients for each in client.operations for name in each.names}) or ["a"]
    work_s = max(sum(each.wait_s for each in client.operations) for client in plan.clients) + _SHORT_S
    clients = tuple(_with_deeds(rng, client, names) for client in plan.clients)
    repairer = _repairer(rng, plan, names, work_s)
    faults = [draw_fault(rng, plan.sites, (repairer,), work_s) for _ in range(rng.integer(0, 4))]
    return replace(
        plan,
        clients=(*clients, repairer),
        faults=(*plan.faults, *faults),
        lies=plan.lies if liars is Liars.NONE else _lies(rng, plan, work_s),
        mishaps=tuple(_mishap(rng, plan.sites, work_s) for _ in range(rng.integer(2, 8))),
        repairs=True,
    )


def _with_deeds(rng: SimulationRng, client: ClientPlan, names: list[str]) -> ClientPlan:
    """Let a client repair between two of its deeds, perhaps."""
    operations = list(client.operations)
    for number in range(rng.integer(0, 2)):
        lane = rng.choice([each.lane for each in operations])
        deed = rng.choice((Deed.REPAIR, Deed.REPAIR_ALL))
        operations.insert(rng.integer(0, len(operations)), _operation(rng, client.name, number, deed, names, lane=lane))
    return replace(client, operations=tuple(operations))


def _repairer(rng: SimulationRng, plan: Plan, names: list[str], work_s: float) -> ClientPlan:
    """Return a client that puts, waits for damage, and repairs."""
    classes = {name: each.class_ for client in plan.clients for each in client.operations for name in each.names}
    name = rng.choice(names)
    put = replace(_operation(rng, _REPAIRER, 0, Deed.PUT, [name]), class_=classes.get(name, "its"))
    deeds = [Deed.REPAIR_ALL, *(rng.choice(_DEEDS) for _ in range(rng.integer(1, 4)))]
    rest = [_operation(rng, _REPAIRER, number, deed, names) for number, deed in enumerate(deeds, start=1)]
    waits_s = [rng.uniform(0.0, 1.5 * work_s / len(rest)) for _ in rest]
    timed = [replace(each, wait_s=wait_s) for each, wait_s in zip(rest, waits_s, strict=True)]
    return ClientPlan(_REPAIRER, (put, *timed))


def _operation(
    rng: SimulationRng, client: str, number: int, deed: Deed, names: list[str], *, lane: int = 1
) -> Operation:
    chosen = () if deed is Deed.REPAIR_ALL else (rng.choice(names),)
    size_bytes = rng.choice((40, 300, 301, 3001))
    return Operation(deed, chosen, lane, 0.0, size_bytes, "its", f"{client}r{number}")


def _mishap(rng: SimulationRng, sites: tuple[str, ...], work_s: float) -> Mishap:
    kind = MishapKind.LINK_DRY if rng.integer(0, 7) == 0 else rng.choice(_SHARE_MISHAPS)
    return Mishap(
        kind,
        rng.choice(sites),
        rng.choice(sites),
        rng.uniform(0.0, 1.2 * work_s),
        rng.choice((0.2, 2.0, 10.0)),
        rng.integer(0, 1 << 16),
    )


def _lies(rng: SimulationRng, plan: Plan, work_s: float) -> tuple[Lie, ...]:
    """Return the lies of a plan, with sites that lie about repair beside the others, or instead of them."""
    bound = Scheme.parse(plan.scheme).register_liars
    way = rng.integer(0, 3)
    if way == 0 or bound == 0:
        return plan.lies
    kept = plan.lies if way == 1 else ()
    others = [site for site in plan.sites[1:] if site not in {lie.site for lie in kept}]
    sites = sorted({lie.site for lie in kept})
    while len(sites) < bound and others and (not sites or rng.integer(0, 1)):
        sites.append(others.pop(rng.integer(0, len(others) - 1)))
    return (*kept, *(_lie(rng, site, work_s) for site in sites for _ in range(rng.integer(1, 3))))


def _lie(rng: SimulationRng, site: str, work_s: float) -> Lie:
    at_s = rng.choice((0.0, rng.uniform(0.0, work_s)))
    return Lie(site, rng.choice(REPAIR_LIES), at_s, rng.choice((0.3, 1.0)))
