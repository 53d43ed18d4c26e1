"""Losing and damaging single shares without a word, never so many that an object could not be read any more.

A share of a body is hurt only where k sites keep a good one, and where the sites that lost theirs and those that lie
are no more than f together.
"""

from __future__ import annotations

from functools import partial

from shosoin.base import SaeId, SimulationRng
from shosoin.kernels import ELEMENT_BYTES
from shosoin.testing.simulation.plan import Mishap, MishapKind
from shosoin.testing.simulation.truth import good_sites, honest_sites, is_good, share_liars
from shosoin.testing.simulation.world import World
from shosoin.vault.ports import ShareKey, ShareState

__all__ = ["arm_mishaps", "hurt_all", "hurt_share"]

_AGAIN_S = 0.05
_TRIES = 20
_DRY_BITS = 4096
_ALTERED_BYTES = 8
"""Random ones: what nature does fits no liar's lie."""


def arm_mishaps(world: World) -> None:
    """Schedule the mishaps of a plan."""
    for mishap in world.plan.mishaps:
        begin = _dry if mishap.kind is MishapKind.LINK_DRY else _befall
        world.kernel.at(mishap.at_s, partial(begin, world, mishap))


def _dry(world: World, mishap: Mishap) -> None:
    if world.calm:
        return
    pair, stock = (SaeId(f"node-{mishap.site}"), SaeId(f"node-{mishap.other}")), world.keys.stock_bits
    text = f"the keys of {mishap.site} for {mishap.other} run out, for {mishap.for_s:.3g} s"
    world.trace.tell("nature", text, count="links dry")
    stock[pair] = mishap.pick % _DRY_BITS
    world.kernel.after(mishap.for_s, partial(stock.pop, pair, None))


def _befall(world: World, mishap: Mishap, tries: int = _TRIES) -> None:
    """Hurt one of a site's shares, as soon as there is one that may be."""
    if world.calm or mishap.site in world.plan.liars:
        return
    shares = _may_be_hurt(world, mishap.site)
    if shares:
        hurt_share(world, mishap.site, shares[mishap.pick % len(shares)], mishap.kind, mishap.pick)
    elif tries:
        world.kernel.after(_AGAIN_S, partial(_befall, world, mishap, tries - 1))


def hurt_all(world: World, kinds: tuple[MishapKind, ...]) -> None:
    """Hurt as many shares as may be, of every object, in turn in each of some ways."""
    for number, site in enumerate(honest_sites(world)):
        for key in _may_be_hurt(world, site):
            if _may_lose(world, site, key):  # after what was hurt just now
                hurt_share(world, site, key, kinds[(number + len(world.hurt)) % len(kinds)], number)


def _may_be_hurt(world: World, site: str) -> list[ShareKey]:
    disk = world.disks[site]
    if not disk.settled:
        return []
    kept = [row.key for row in disk.shares() if row.state is not ShareState.STAGED]
    return [key for key in kept if _may_lose(world, site, key)]


def _may_lose(world: World, site: str, key: ShareKey) -> bool:
    """Whether the object stays readable when a site loses its share."""
    scheme, others = world.scheme, set(good_sites(world, key)) - {site}
    lost = [where for where, which in world.hurt if which == key and not is_good(world, where, key)]
    within = len(set(lost) | share_liars(world)) + 1 <= scheme.liars_survived
    return within and len(others) >= scheme.k and is_good(world, site, key)


def hurt_share(world: World, site: str, key: ShareKey, kind: MishapKind, pick: int) -> None:
    """Lose or damage a share."""
    disk = world.disks[site]
    row = disk.row(key)
    if row is None:
        return
    world.hurt[site, key] = world.kernel.now_s
    what = kind.value.replace("_", " ")
    world.trace.tell(site, f"{what}: the share of {key.object_id[:8]} version {key.version[:8]}", count="shares hurt")
    match kind:
        case MishapKind.RECORD_LOST:
            disk.forget(key)
        case MishapKind.BYTES_LOST:
            disk.lose(key)
        case MishapKind.ROT:
            disk.rot(key)
        case _:
            found, masks_bytes = disk.bytes_of(row), row.mask_elements * ELEMENT_BYTES
            if found is not None and len(found) > masks_bytes:  # no key protects masks: nobody could tell
                at = masks_bytes + pick % (len(found) - masks_bytes)
                noise = SimulationRng(pick).pseudo_bytes(min(_ALTERED_BYTES, len(found) - at))
                disk.falsify(key, at, bytes(old ^ (new | 2) for old, new in zip(found[at:], noise, strict=False)))
