"""What an adversary learns of a real run, by the symbolic checker: every coalition, from every byte that it may see.

Runs have T = 2 audit answers instead of 16, so that their forms stay small.
"""

from __future__ import annotations

import pytest

from shosoin.base import ShosoinError, SiteId
from shosoin.testing.symbolic import check, coalitions
from shosoin.testing.symbolic.transcript import WIRE
from shosoin.vault import Scheme
from tests.mutants.attacks_register import SEED
from tests.secrecy.support import Recording, recorded_world
from tests.vault.support import SITES, SeededEntropy, fetch, pattern, store

_SCHEME = Scheme(2, 3)
_MODULES = ("layout", "digest_operations", "audit_batch", "audit_ledger")
_ASKED = 4
"""Challenges for each site, each another one."""


def learned(recording: Recording, *, overheard: bool) -> str | None:
    """What some coalition that the scheme allows learns; all audit answers are told to it where they are overheard."""
    trace = recording.trace()
    if overheard:
        trace.run.reveal(WIRE, [form for one in trace.run.exchanges if len(one.answer) == 1 for form in one.answer])
    found = check(trace.run, _SCHEME.n, list(coalitions(_SCHEME.n, _SCHEME.k - 1)))
    if not found:
        return None
    return f"{' then '.join(map(str, found[0].coalition))} learns {found[0].elements} elements"


async def auditor_that_asks_on() -> str | None:
    """An auditor asks each site for another challenge, again and again, and tells what it hears to one site."""
    with pytest.MonkeyPatch.context() as patch:
        for module in _MODULES:
            patch.setattr(f"shosoin.vault.{module}.ANSWERS_PER_EPOCH", 2)
        recording = recorded_world(3, "2-of-3", entropy=SeededEntropy(SEED))
        world = recording.world
        receipt = await store(world, "object", pattern(100), "its")
        for place, site in enumerate(SITES[:3]):
            key = world.share_key(receipt.object_id, site)
            where = {"object": key.object_id, "version": key.version, "epoch": key.epoch}
            for number in range(_ASKED):
                ask = {"op": "digest", **where, "r": f"{(1 + place * _ASKED + number) << 64:032x}"}
                try:
                    await world.context.channels("its")[SiteId(site)].exchange([ask], answer_bytes=16)
                except ShosoinError:
                    break
        return learned(recording, overheard=True)


async def life_on_the_wire() -> str | None:
    """An object is put and read; who hears the wires, and holds one site, combines what passed."""
    recording = recorded_world(3, "2-of-3", entropy=SeededEntropy(SEED))
    await store(recording.world, "object", pattern(100), "its")
    try:
        await fetch(recording.world.vault, "object")
    except ShosoinError as error:
        return f"nothing works: {error.code}"
    return learned(recording, overheard=False)


async def many_objects_audited() -> str | None:
    """Three objects answer as many challenges each as their masks hide, and all answers are overheard."""
    with pytest.MonkeyPatch.context() as patch:
        for module in _MODULES:
            patch.setattr(f"shosoin.vault.{module}.ANSWERS_PER_EPOCH", 2)
        recording = recorded_world(3, "2-of-3", entropy=SeededEntropy(SEED))
        for name in ("one", "two", "three"):
            await store(recording.world, name, pattern(100), "its")
        await recording.world.vault.audit()
        return learned(recording, overheard=True)
