"""Hostile clients: they attack at the times of the plan, and what they get back is judged.

A hostile client that meets an error goes on: it is what should happen. Whatever else it raises is a defect of ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from shosoin.base import OwnerId, ShosoinError, SiteId
from shosoin.testing.simulation.attacks import Attack
from shosoin.testing.simulation.kernel import Cancelled, Killed, SimTask
from shosoin.testing.simulation.network import SimulatedLink
from shosoin.testing.simulation.parties import OWNER, party_of
from shosoin.testing.simulation.wiretap import Request, Wiretap
from shosoin.testing.simulation.world import World, build_context
from shosoin.vault.catalog_answers import AnswerReader, Asked, ask
from shosoin.vault.channel import Answer
from shosoin.vault.ports import ShareKey, ShareRow

__all__ = ["Deed", "HostileClient", "HostileLink"]

Deed = Callable[[Any], Awaitable[None]]
_TIMEOUT_S = 3.0


class HostileLink(SimulatedLink):
    """A link that sends anything."""

    def _noted(self, path: str, raw: bytes) -> str:
        return f"{len(raw)} bytes to {path}"


class HostileClient:
    """One hostile client; ``deeds`` are its attacks by kind."""

    def __init__(self, world: World, name: str, owner: OwnerId, attacks: Sequence[Attack]) -> None:
        self.world = world
        self.name = name
        self.party = party_of(world.plan, owner)
        self.rng = world.rng(f"attacks of {name}")
        self.process = world.kernel.process(name)
        self.context, links = build_context(world, self.process, self.party, HostileLink)
        self.links = {link.site: link for link in links}
        keys = {site.name: site.public_key for site in self.context.sites}
        self.reader = AnswerReader(owner, self.party.signer.public_key, keys)
        self._tasks: list[SimTask[None]] = [
            self.process.start(self._attack(each), origin=name) for each in attacks if each.client == name
        ]

    deeds: Mapping[str, Deed] = {}

    @property
    def ended(self) -> bool:
        """Whether it has done its worst."""
        return all(task.done() for task in self._tasks)

    async def _attack(self, attack: Attack) -> None:
        await self.process.runtime.sleep(attack.at_s)
        for _ in range(attack.times):
            self.world.trace.tell(self.name, f"attacks: {attack.kind}")
            try:
                await self.deeds[attack.kind](self)
            except ShosoinError as error:
                self.world.trace.tell(self.name, f"fails to attack: {error.code}: {error.message}")
            except (Killed, Cancelled):
                raise
            except Exception as error:
                self.process.check()
                self.world.trace.violate(f"{self.name} fails at {attack.kind}: {type(error).__name__}: {error}")
                raise

    def happened(self, kind: str) -> None:
        """Count an attack that sites really had to judge."""
        self.world.trace.counts[f"attack {kind}"] += 1

    def violate(self, what: str) -> None:
        """Report that an attack succeeded."""
        self.world.trace.violate(f"{self.name} {what}")

    def is_honest(self, site: str) -> bool:
        """Whether a site never lies."""
        return site not in self.world.plan.liars

    @property
    def sites(self) -> list[SiteId]:
        """All sites."""
        return [SiteId(site) for site in self.world.plan.sites]

    async def ask(self, class_: str, operations: Mapping[SiteId, list[dict[str, Any]]]) -> Asked:
        """Send operations to several sites at once and wait for all of them."""
        channels = self.context.channels(class_)
        runtime = self.context.runtime
        return await ask(
            runtime, channels, operations, enough=len(operations), grace_s=_TIMEOUT_S, timeout_s=_TIMEOUT_S
        )

    async def exchange(
        self, class_: str, site: SiteId, operations: Sequence[dict[str, Any]], payload: bytes = b"", room: int = 0
    ) -> Answer:
        """Send operations to one site."""
        channel = self.context.channels(class_)[site]
        return await channel.exchange(operations, [payload] if payload else [], answer_bytes=room, timeout_s=_TIMEOUT_S)

    async def raw(self, site: SiteId, path: str, body: bytes) -> bytes | ShosoinError:
        """Send bytes."""
        try:
            return await self.links[site].exchange(path, [body], response_bytes_max=1 << 24, timeout_s=_TIMEOUT_S)
        except ShosoinError as error:
            return error

    def shares(self, owner: OwnerId = OWNER) -> list[tuple[str, ShareRow]]:
        """Return every share of an owner with its site: attackers know all IDs."""
        return [
            (site, row)
            for site in self.world.plan.sites
            for row in self.world.disks[site].shares()
            if row.key.owner == owner
        ]

    @property
    def tap(self) -> Wiretap:
        """What passes between clients and sites."""
        tap = self.world.network.tap
        if tap is None:
            raise RuntimeError("a hostile client without a wiretap")
        return tap

    def requests(self) -> list[Request]:
        """Return what honest clients sent."""
        hostile = {attack.client for attack in self.world.plan.attacks}
        return [each for each in self.tap.requests if each.client not in hostile]


def where(key: ShareKey) -> dict[str, Any]:
    """Return the fields that name a share."""
    return {"object": key.object_id, "version": key.version, "epoch": key.epoch}
