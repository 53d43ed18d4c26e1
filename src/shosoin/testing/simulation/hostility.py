"""The hostile clients of a plan, from their start to the reckoning."""

from __future__ import annotations

from shosoin.testing.simulation import thief_registers, thief_shares
from shosoin.testing.simulation.attacks import MALLORY_NAME, THIEF_NAME
from shosoin.testing.simulation.hostile_clients import Deed, HostileClient
from shosoin.testing.simulation.mallory import Mallory
from shosoin.testing.simulation.thief import Thief
from shosoin.testing.simulation.world import World

__all__ = ["reckon_hostility", "start_hostile_clients"]

_OF_THIEF: dict[str, Deed] = {
    name: getattr(module, name) for module in (thief_registers, thief_shares) for name in module.__all__
}


def start_hostile_clients(world: World) -> list[HostileClient]:
    """Start the attackers that a plan names."""
    Thief.deeds = _OF_THIEF
    kinds: dict[str, type[Mallory] | type[Thief]] = {MALLORY_NAME: Mallory, THIEF_NAME: Thief}
    return [kinds[name](world) for name in sorted({attack.client for attack in world.plan.attacks})]


def reckon_hostility(world: World, hostile: list[HostileClient]) -> None:
    """End the attacks, and judge what honest disks hold."""
    for client in hostile:
        client.process.kill()
    if hostile:
        world.trace.tell("nature", "all attacks are over")
    for site in world.plan.sites:
        if site not in world.plan.liars and world.plan.attacks:
            world.notary.check_disk(site, world.disks[site].registers(), world.disks[site].challenges())
