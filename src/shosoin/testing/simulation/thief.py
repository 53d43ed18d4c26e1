"""A client with the owner's own keys that runs hostile code: a stolen laptop, a coordinator or dealer that lies.

What it may change it changes harmlessly: to values that count on the same bytes. So after it ended every honest client
must find what honest clients left, and must be able to go on. Everything else it tries must be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from shosoin.base import ObjectId, SiteId, VersionId
from shosoin.testing.simulation.attacks import THIEF_NAME
from shosoin.testing.simulation.hostile_clients import HostileClient
from shosoin.testing.simulation.notary import Seen
from shosoin.testing.simulation.parties import OWNER
from shosoin.testing.simulation.world import World
from shosoin.vault.attestations import Certificate, SignatureSet
from shosoin.vault.ballots import Ballot
from shosoin.vault.catalog_answers import Asked, Promised
from shosoin.vault.values import RegisterValue, ValueDraft, read_value, sign_values

__all__ = ["Target", "Thief", "accept_operations", "draft_after", "harmless", "newest_of"]


@dataclass(frozen=True, slots=True)
class Target:
    """A register that is attacked, with its newest value as far as honest disks tell."""

    register_id: ObjectId
    value: RegisterValue
    ballot: Ballot

    @property
    def class_(self) -> str:
        """The class under which the register is reached."""
        return self.value.class_


class Thief(HostileClient):
    """The owner's second client."""

    def __init__(self, world: World) -> None:
        super().__init__(world, THIEF_NAME, OWNER, world.plan.attacks)

    def target(self) -> Target | None:
        """Choose a register whose object still exists."""
        newest: dict[ObjectId, tuple[Ballot, str]] = {}
        for site in filter(self.is_honest, self.world.plan.sites):
            for owner, register_id, row in self.world.disks[site].registers():
                if owner == OWNER and row.committed_value is not None:
                    found = row.committed_ballot, row.committed_value
                    newest[register_id] = max(newest.get(register_id, found), found)
        targets = [Target(one, read_value(text), ballot) for one, (ballot, text) in sorted(newest.items())]
        targets = [target for target in targets if not target.value.tombstone]
        return self.rng.choice(targets) if targets else None

    def knowing(self, target: Target) -> set[SiteId]:
        """Return the honest sites that hold a value of a register."""
        return {
            SiteId(site)
            for site in filter(self.is_honest, self.world.plan.sites)
            for owner, register_id, row in self.world.disks[site].registers()
            if (owner, register_id) == (OWNER, target.register_id) and row.committed_value is not None
        }

    def older(self, target: Target) -> list[Seen]:
        """Return certified values that were replaced by the target's."""
        seen = self.world.notary.history.get(target.register_id, {}).values()
        return [one for one in seen if one.value.digest != target.value.digest and one.ballot < target.ballot]

    async def prepare(self, target: Target, ballot: Ballot) -> tuple[Asked, dict[SiteId, Promised]]:
        """Ask all sites to promise a ballot."""
        op = {"op": "prepare", "register": target.register_id, "ballot": list(ballot)}
        asked = await self.ask(target.class_, {site: [op] for site in self.sites})
        return asked, self.reader.promises(target.register_id, ballot, 0, asked)

    async def promised(self, target: Target) -> tuple[Ballot, dict[SiteId, Promised]]:
        """Get promises for a ballot that is newer than all others, trying a few times."""
        ballot: Ballot = (target.ballot[0] + 1, self.fresh_name())
        for _ in range(4):
            asked, promises = await self.prepare(target, ballot)
            if len(promises) >= self.world.scheme.write_quorum:
                return ballot, promises
            refused = [
                results[0]["promised"][0]
                for site, results in asked.answers.items()
                if self.is_honest(site) and results[0].get("granted") is False
            ]
            ballot = (max([ballot[0], *refused]) + 1, ballot[1])
        return ballot, promises

    def fresh_name(self) -> str:
        """Return a proposer's name that nobody uses."""
        return "thief" + self.rng.pseudo_bytes(4).hex()

    async def accept(
        self, target: Target, given: dict[SiteId, list[dict[str, Any]]], value: RegisterValue, ballot: Ballot
    ) -> tuple[list[SiteId], Asked]:
        """Send accepts and return the honest sites that granted."""
        asked = await self.ask(target.class_, given)
        granted = [site for site, results in asked.answers.items() if results and results[-1].get("granted") is True]
        return [site for site in granted if self.is_honest(site)], asked

    def certified(
        self, value: RegisterValue, ballot: Ballot, asked: Iterable[Asked]
    ) -> tuple[dict[str, Any], SignatureSet, int]:
        """Return the commit of a value with what acceptances there are, their signatures and how many they are."""
        found = {site: one for each in asked for site, one in self.reader.acceptances(value, ballot, 0, each).items()}
        signatures = SignatureSet.of({site: one.signature for site, one in found.items()})
        certificate = Certificate.of(signatures.name, {site: one.path for site, one in found.items()})
        return Seen(ballot, value, certificate.text, signatures).operation(), signatures, len(found)

    def must_refuse(self, kind: str, granted: Iterable[SiteId], what: str) -> None:
        """Report honest sites that did what they must not."""
        self.happened(kind)
        if sites := list(granted):
            self.violate(f"had {what} at honest {' and '.join(sites)}")


def harmless(thief: Thief, value: RegisterValue) -> RegisterValue:
    """Return a value that may follow and counts on the same bytes: another site part, or a version in name alone."""
    if value.bodies and thief.rng.integer(0, 1):
        site = thief.rng.choice(value.bodies[0].good)
        facts: dict[str, Any] = {"how": "it was here before", "keys": []}
        first = value.bodies[0].with_good(value.bodies[0].good, site, facts if thief.rng.integer(0, 1) else None)
        return value.with_bodies((first, *value.bodies[1:]))
    return sign_values([draft_after(thief, value)], thief.party.signer)[0]


def draft_after(thief: Thief, value: RegisterValue) -> ValueDraft:
    """Return a new version that counts on the same bytes."""
    return ValueDraft(
        kind=value.kind,
        register_id=value.register_id,
        owner=value.owner,
        version=VersionId.from_bytes(thief.rng.pseudo_bytes(16)),
        parent=value,
        scheme=value.scheme,
        class_=value.class_,
        placement=value.placement,
        electorate=value.electorate,
        bodies=tuple(replace(body) for body in value.bodies),
        added=0,
        created_wall_s=value.created_wall_s,
        facts=dict(value.facts),
    )


def accept_operations(
    value: RegisterValue, ballot: Ballot, promises: dict[SiteId, Promised], *, top: Seen | None = None
) -> list[dict[str, Any]]:
    """Return an accept with promises, and the newest certified value among them unless another is to be shown."""
    op: dict[str, Any] = {
        "op": "accept",
        "register": value.register_id,
        "ballot": list(ballot),
        "value": value.text,
    }
    sets: list[SignatureSet] = []
    if promises:
        signed = SignatureSet.of({site: one.signature for site, one in promises.items()})
        op["promises"] = {"set": signed.name, "given": [one.promise.to_json() for one in promises.values()]}
        sets.append(signed)
    newest = max((one.top for one in promises.values() if one.top), key=lambda one: one.ballot, default=None)
    if top is not None:
        op["top"] = {"ballot": list(top.ballot), "certificate": top.certificate, "value": top.value.text}
        sets.append(top.signatures)
    elif newest is not None:
        op["top"] = {
            "ballot": list(newest.ballot),
            "certificate": newest.certificate.text,
            "value": newest.value.text,
        }
        sets.append(newest.signatures)
    return [*({"op": "signatures", "text": one.text} for one in sets), op]


def newest_of(promises: dict[SiteId, Promised]) -> RegisterValue | None:
    """Return the newest certified value that promises name."""
    tops = [one.top for one in promises.values() if one.top is not None]
    return max(tops, key=lambda top: top.ballot).value if tops else None
