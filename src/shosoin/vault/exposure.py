"""Who sees the keys of class ``its``: asked of the home KME before shares move under them, and kept to meanwhile.

The home KME's status of a link names the relays that see its keys. For every k-1 sites and relays the shares that they
hold, or whose keys they see, must be k-1 at most. A link of which that is not known carries nothing: no key of it is
drawn until its status can be read.
"""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import SiteId
from shosoin.base.ports import KeyStatus
from shosoin.vault.assurance import check_exposure, relays_of, relays_then
from shosoin.vault.concurrency import settle, succeeded
from shosoin.vault.context import VaultContext
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue

__all__ = ["checked_statuses", "link_statuses"]


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

    Who saw the keys under which the shares of ``value`` were sent out counts too, for they are the same shares. Names
    are shared over all sites, and checked likewise. Links without a status are closed until they have one.

    Raises:
        Exposed: a coalition would. No key was drawn.
    """
    statuses = await link_statuses(context)
    holders: dict[SiteId, tuple[SiteId, ...]] = {context.home: (context.home,)}
    holders |= {site: (site, *relays_of(status)) for site, status in statuses.items()}
    then = relays_then(value) if value is not None else {}
    placed = {site: (*holders.get(site, (site,)), *then.get(site, ())) for site in placement}
    check_exposure(placed, scheme, context.home)
    check_exposure(holders, context.register_scheme, context.home)
    context.relays.clear()
    context.relays |= {site: seen[1:] for site, seen in holders.items()}
    context.closed_links.clear()
    context.closed_links |= {site.node for site in context.sites if site.name not in holders}
    return statuses
