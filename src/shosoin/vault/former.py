"""Who had a share before an object moved: such a site may have kept it, whatever it says.

A move gives a new site the place, and so the share, of the one that leaves. The facts of a moved value name the sites
that left (``former``, with their trust domains) and the places they had (``former_places``). A site that comes back may
have that place again and no other one: a second share of the same sharing would make one site count twice, and k-1
sites might hold k shares. A new version of the object is shared anew, and forgets all this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shosoin.base import SiteId, Unavailable
from shosoin.vault.values import RegisterValue

__all__ = ["earlier_holders", "facts_after_move", "places_after_move"]


def _former_places(value: RegisterValue) -> dict[str, int | None]:
    """Return the place that each former site had; ``None`` where that is not recorded."""
    former, places = value.facts.get("former"), value.facts.get("former_places")
    known = places if isinstance(places, dict) else {}
    found = {site: known.get(site) for site in former} if isinstance(former, dict) else {}
    return {site: place if type(place) is int else None for site, place in found.items()}


def earlier_holders(value: RegisterValue, placement: Sequence[SiteId]) -> dict[SiteId, tuple[str, ...]]:
    """Return by site who may have that site's share too, in a placement to which a value moved or will move.

    A former site whose place is not recorded has a share of its own, as far as is known.
    """
    holders: dict[SiteId, tuple[str, ...]] = {}
    if len(placement) != len(value.placement):
        return holders
    left: dict[str, int | None] = {str(site): at for at, site in enumerate(value.placement, 1)}
    for name, place in {**_former_places(value), **left}.items():
        known = place is not None and 0 < place <= len(placement)
        site = placement[place - 1] if known and place is not None else SiteId(name)
        if name != site or site not in placement:
            holders[site] = (*holders.get(site, ()), name)
    return holders


def places_after_move(
    value: RegisterValue, members: Sequence[SiteId], *, undone: str = "the object stays where it is"
) -> tuple[SiteId, ...]:
    """Return a placement in which members take the places of sites that are none, in the order of the configuration.

    A site that comes back takes the place that it had.

    Raises:
        Unavailable: there are not enough members that may.
    """
    had = _former_places(value)
    gone = [place for place, site in enumerate(value.placement, 1) if site not in members]
    free = [site for site in members if site not in value.placement]
    taking = {place: site for site in free if (place := had.get(site)) in gone}
    fresh = [site for site in free if site not in had]
    open_places = [place for place in gone if place not in taking]
    if len(fresh) < len(open_places):
        raise _too_few(len(gone), len(free), undone)
    taking |= dict(zip(open_places, fresh, strict=False))
    return tuple(taking.get(place, site) for place, site in enumerate(value.placement, 1))


def _too_few(gone: int, free: int, undone: str) -> Unavailable:
    if free < gone:
        return Unavailable(
            f"{gone} sites of the placement are retired and {free} are free to take their places",
            code="vault.no_free_site",
            hint="add the new sites to the configuration",
        )
    return Unavailable(
        f"a site that comes back may have kept another share of it; {undone}",
        code="vault.second_share",
        hint="put the object again, which shares it anew, or add a site that never had a share of it",
    )


def facts_after_move(
    value: RegisterValue, placement: Sequence[SiteId], names_of: dict[SiteId, tuple[str, ...]]
) -> dict[str, Any]:
    """Return the facts of a value that moves to another placement: what a former site knows counts for ever.

    ``names_of`` are the trust domains that are declared today.
    """
    domains = dict(value.facts.get("domains", {}))
    former, places = dict(value.facts.get("former", {})), dict(value.facts.get("former_places", {}))
    leaving = {site: place for place, site in enumerate(value.placement, 1) if site not in placement}
    former |= {site: domains.get(site, [str(site)]) for site in leaving}
    domains |= {site: list(names_of[site]) for site in placement if site not in domains}
    return {**value.facts, "domains": domains, "former": former, "former_places": {**places, **leaving}}
