"""Who sees the keys of class ``its``: asked of the home KME before shares move under them, and kept to meanwhile.

The home KME's status of a link names the relays that see its keys. For every k-1 sites and relays the shares that they
hold, or whose keys they see, must be k-1 at most. A link of which that is not known carries nothing: no key of it is
drawn until its status can be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from shosoin.base import SiteId
from shosoin.base.ports import KeyStatus
from shosoin.vault.assurance import check_exposure
from shosoin.vault.concurrency import settle, succeeded
from shosoin.vault.context import VaultContext
from shosoin.vault.former import earlier_holders
from shosoin.vault.routes import Route, read_routes, record_read, relays_then, route_of
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue

__all__ = ["checked_statuses", "link_statuses", "note_read", "routes_now"]


async def link_statuses(context: VaultContext) -> dict[SiteId, KeyStatus]:
    """Return what the home KME says of the keys shared with each remote site; sites it says nothing of are left out.

    Raises:
        ShosoinError: it says nothing at all.
    """
    asked = [site for site in context.sites if site.name != context.home]
    tasks = await settle(context.runtime, (context.keys.status(site.node) for site in asked))
    if asked and not any(map(succeeded, tasks)):
        tasks[0].result()  # the home KME itself does not answer: say why
    return {site.name: task.result() for site, task in zip(asked, tasks, strict=True) if succeeded(task)}


async def checked_statuses(
    context: VaultContext, placement: Sequence[SiteId], scheme: Scheme, value: RegisterValue | None = None
) -> dict[SiteId, KeyStatus]:
    """Return ``link_statuses``; no allowed coalition of sites and relays may learn k shares of that placement.

    Who saw the keys under which the shares of ``value`` were sent out, or read, counts too: they are the same shares.
    So do sites from which the object moved away: they may have kept theirs.
    Names are shared over all sites, and checked likewise. Links without a status are closed until they have one.

    Raises:
        Exposed: a coalition would. No key was drawn.
    """
    statuses = await link_statuses(context)
    domains = context.domains
    routes: dict[SiteId, Route | None] = {context.home: ()}
    routes |= {site: route_of(status, domains[site]) for site, status in statuses.items()}
    holders = {site: (site, *(route or ())) for site, route in routes.items()}
    then = relays_then(value) if value is not None else {}
    since = read_routes(context.journal, value).relays if _is_object(value) else {}
    seen = {site: (*then.get(site, ()), *since.get(site, ())) for site in {*placement, *then, *since}}
    placed = {site: (*holders.get(site, (site,)), *seen[site]) for site in placement}
    for site, before in (earlier_holders(value, placement) if _is_object(value) else {}).items():
        had = (name for one in before for name in (SiteId(one), *seen.get(SiteId(one), ())))
        placed[site] = (*placed.get(site, ()), *had)
    check_exposure(placed, scheme, context.home)
    check_exposure(holders, context.register_scheme, context.home)
    context.relays.clear()
    context.relays |= {site: route for site, route in routes.items() if route is not None}
    context.closed_links.clear()
    context.closed_links |= {site.node for site in context.sites if site.name not in holders}
    return statuses


def routes_now(context: VaultContext, value: RegisterValue) -> dict[SiteId, Route | None]:
    """Return the routes, as last asked, of the keys under which remote shares of a value would travel now."""
    open_sites = [site for site in context.sites if site.node not in context.closed_links]
    placed = {site.name for site in open_sites if site.name != context.home} & set(value.placement)
    return {site: context.relays.get(site) for site in sorted(placed)}


def note_read(context: VaultContext, value: RegisterValue) -> None:
    """Write down who will see the keys of a read of an object in class ``its``, before a key of it is drawn."""
    if value.class_ == "its" and _is_object(value):
        record_read(context.journal, value, routes_now(context, value))


def _is_object(value: RegisterValue | None) -> TypeGuard[RegisterValue]:
    """Whether this is an object's value, not an index's."""
    return value is not None and value.kind == "object"
