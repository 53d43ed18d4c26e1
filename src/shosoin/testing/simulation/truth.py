"""What every site should hold, without asking the code under test: what dealers made, and what lies on the disks now.

A share that a dealer gave a site is remembered as it came. What a site would have been given that got nothing lies on
the polynomial through k shares of honest sites.
"""

from __future__ import annotations

from shosoin.base import ObjectId
from shosoin.kernels import combine_into, lagrange_weights
from shosoin.testing.simulation.repair_plans import REPAIR_LIES
from shosoin.testing.simulation.world import OWNER, World
from shosoin.vault.ports import ShareKey, ShareState
from shosoin.vault.values import RegisterValue, read_value

__all__ = ["committed", "good_sites", "honest_sites", "is_good", "share_liars"]


def honest_sites(world: World) -> list[str]:
    """Return the sites that never lie."""
    return [site for site in world.plan.sites if site not in world.plan.liars]


def share_liars(world: World) -> set[str]:
    """Return the sites that lie about more than repair: their shares help no reader."""
    return {lie.site for lie in world.plan.lies if lie.kind not in REPAIR_LIES}


def should_hold(world: World, site: str, key: ShareKey) -> bytes | None:
    """Return the share that is a site's; ``None`` if too few honest sites ever had theirs."""
    own = world.disks[site].dealt.get(key)
    if own is not None and site not in world.plan.liars:
        return own
    points = dict(zip(world.plan.sites, world.scheme.points(), strict=True))
    base = [each for each in honest_sites(world) if key in world.disks[each].dealt][: world.scheme.k]
    if len(base) < world.scheme.k:
        return None
    parts = [world.disks[each].dealt[key] for each in base]
    out = bytearray(len(parts[0]))
    combine_into(lagrange_weights([points[each] for each in base], points[site]), parts, out)
    return bytes(out)


def is_good(world: World, site: str, key: ShareKey) -> bool:
    """Whether a site holds its share of a body, the right bytes of it, and keeps them."""
    disk = world.disks[site]
    row = disk.row(key)
    if row is None or row.state is ShareState.STAGED:
        return False
    found = disk.bytes_of(row)
    return found is not None and found == should_hold(world, site, key)


def good_sites(world: World, key: ShareKey) -> list[str]:
    """Return the sites whose share of a body helps a reader."""
    spoilt = share_liars(world)
    return [site for site in world.plan.sites if site not in spoilt and is_good(world, site, key)]


def committed(world: World) -> dict[ObjectId, RegisterValue]:
    """Return the newest committed value of every register at honest sites."""
    newest: dict[ObjectId, RegisterValue] = {}
    for site in honest_sites(world):
        for text in world.disks[site].values(OWNER):
            value = read_value(text)
            known = newest.get(value.register_id)
            if known is None or (value.counter, value.revision) > (known.counter, known.revision):
                newest[value.register_id] = value
    return newest
