"""The faults of the rounds: SIGKILL, SIGSTOP, a full disk, an altered or rotten share; how each ends again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from dataclasses import dataclass, field

from shosoin.base import OwnerId, Rejected, SimulationRng
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.tamper import alter_share, rot_share
from shosoin.vault.index import index_register
from shosoin.vault.ports import ShareDamaged
from tests.e2e.rounds_load import Journal

__all__ = ["Faults"]

MORE_THAN_ANY_VOLUME = 1 << 60
KINDS = ("kill", "kill", "kill", "kill both", "stop", "full", "alter", "rot", "alter index")


@dataclass
class Faults:
    """What is done to the sites, and whose shares were tampered with."""

    testbed: Testbed
    rng: SimulationRng
    journal: Journal
    tampered: dict[str, str] = field(default_factory=dict)
    """Object or index register to the one site whose shares of it are bad: f = 1, and nothing repairs them."""
    interrupted: set[str] = field(default_factory=set)
    """Sites that were down or stopped for a while: three audits in a row may have found such a one silent."""
    done: Counter[str] = field(default_factory=Counter)
    _index_liar: str = ""

    @property
    def sites(self) -> list[str]:
        """All sites."""
        return [site.name for site in self.testbed.layout.scenario.sites]

    def _may_lie(self, owner: str) -> list[str]:
        """Return the sites that may lie to an owner: not its home, which audits and deal checks trust."""
        home = self.testbed.layout.scenario.owner(owner).site
        return [site for site in self.sites if site != home]

    async def one(self) -> str:
        """Let one fault happen, and end; return what it was."""
        kind = self.rng.choice(KINDS)
        site = self.rng.choice(self.sites)
        match kind:
            case "kill":
                site = f"{site}/{self.rng.choice(['node', 'kme'])}"
                await self._kill(site)
            case "kill both":
                await self._kill(site)
            case "stop":
                await self._stop(site)
            case "full":
                await self._fill(site)
            case "alter index":
                site, kind = await self._alter_index()
            case _:
                site, kind = await self._tamper(kind)
        self.done[kind] += 1
        return f"{kind} {site}"

    async def _kill(self, target: str) -> None:
        self.interrupted.add(target.partition("/")[0])
        self.testbed.kill(target)
        await asyncio.sleep(self.rng.uniform(0.0, 0.3))
        await self.testbed.start(target)

    async def _stop(self, site: str) -> None:
        """Stop a process for a while without ending it: its connections stay open and nobody answers."""
        self.interrupted.add(site)
        role = self.rng.choice([ProcessRole.NODE, ProcessRole.KME])
        pid = {(process.site, process.role): pid for process, pid in self.testbed.pids().items()}[site, role]
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(self.rng.uniform(0.2, 1.5))
        finally:
            os.kill(pid, signal.SIGCONT)

    async def _fill(self, site: str) -> None:
        """Fill a node's disk for a while: it reserves more than the volume has, which is the real way to be full."""
        try:
            await self._reserve(site, MORE_THAN_ANY_VOLUME)
            await asyncio.sleep(self.rng.uniform(0.5, 1.5))
        finally:
            await self._reserve(site, None)

    async def _reserve(self, site: str, size_bytes: int | None) -> None:
        self.interrupted.add(site)
        self.testbed.kill(f"{site}/node")
        config = self.testbed.layout.process(site, ProcessRole.NODE).config
        text = config.read_text().partition("\n[limits]\n")[0]
        config.write_text(text if size_bytes is None else f"{text}\n[limits]\nreserve_bytes = {size_bytes}\n")
        await self.testbed.start(f"{site}/node")

    async def _tamper(self, kind: str) -> tuple[str, str]:
        """Make one site's share of an object wrong; of one object always the same site's."""
        known = [(name, found[-1]) for name, found in sorted(self.journal.objects.items())]
        if not known:
            return "", "nothing to tamper with"
        name, object_id = self.rng.choice(known)
        owner = name.partition(":")[0]
        site = self.tampered.get(object_id) or self.rng.choice(self._may_lie(owner))
        change = rot_share if kind == "rot" else alter_share
        self.tampered[object_id] = site  # before it is done: a client may find it at once
        try:
            await change(self.testbed, site, owner, object_id)
        except (Rejected, ShareDamaged):
            return site, f"{kind}: no share left"  # it was removed, this site has none, or it rots already
        return site, kind

    async def _alter_index(self) -> tuple[str, str]:
        """Make one site lie about the newest part of the index; in one run always the same site."""
        self._index_liar = self._index_liar or self.rng.choice(self._may_lie("owner-1"))
        register = index_register(OwnerId("owner-1"), self.rng.choice(["its", "qkd"]))
        self.tampered[register] = self._index_liar
        try:
            await alter_share(self.testbed, self._index_liar, "owner-1", register)
        except (Rejected, ShareDamaged):
            return self._index_liar, "alter index: no share left"
        return self._index_liar, "alter index"

    def strangers(self) -> list[str]:
        """Return every accusation of a site whose shares nobody tampered with."""
        wrong = []
        for owner, event in self.journal.alarms:
            site, about = str(event.fields.get("site")), str(event.fields.get("object"))
            if event.fields.get("kind") == "audit_doubtful" and about in self.tampered:
                continue  # with k + 1 answers an audit sees that one is wrong and cannot say which: it says so of all
            if event.fields.get("kind") == "audit_silent" and site in self.interrupted:
                continue
            if self.tampered.get(about) != site:
                wrong.append(f"{owner}: {event.name} {dict(event.fields)}")
        for name, site, said in self.journal.reported:
            if site not in {self.tampered.get(each) for each in self.journal.objects.get(name, ())}:
                wrong.append(f"{name}: {said} of {site}")
        return wrong
