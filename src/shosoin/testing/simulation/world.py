"""All sites, their disks and keys, and the owner's clients in one process under one kernel.

``build_node`` and ``build_vault`` are the only places where code under test is put together.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial

from shosoin.base import SaeId, SimulationRng, SiteId
from shosoin.base.ports import Event
from shosoin.testing.linearizability import History
from shosoin.testing.memory_keys import MemoryKeyNetwork
from shosoin.testing.simulation.conspiracy import Conspiracy, Conspirator
from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.testing.simulation.kernel import Kernel, Process
from shosoin.testing.simulation.keys import SimulatedKme
from shosoin.testing.simulation.liars import Liar, LyingNode
from shosoin.testing.simulation.network import Host, Network, SimulatedLink
from shosoin.testing.simulation.notary import Notary
from shosoin.testing.simulation.parties import MALLORY, OWNER, Party, party_of
from shosoin.testing.simulation.plan import Plan
from shosoin.testing.simulation.seeds import hash_of
from shosoin.testing.simulation.trace import EventTrace, Trace
from shosoin.testing.simulation.wiretap import Exchanged, Wiretap
from shosoin.vault import OwnerRecord, Scheme, SiteNode, Vault, VaultContext, VaultSite
from shosoin.vault.assurance import SiteDomains
from shosoin.vault.ports import ShareKey
from shosoin.vault.signing import SiteSigner

__all__ = ["OWNER", "SeededEntropy", "World", "build_context", "build_node", "build_vault", "hash_of"]

_QUOTA_BYTES = 1 << 30
_UPKEEP_S = 5.0
_REBOOT_S = 0.2
_REMEMBERED_S = 100.0
"""For so long a reader may still tell what it found before a share was mended: it may have been frozen."""
_FALSE_ACCUSATIONS = {"share_wrong", "share_damaged", "message_forged", "deal_wrong", "audit_wrong", "audit_damaged"}


class SeededEntropy:
    """``Entropy`` that replays, which is what makes it worthless outside of a simulation."""

    source = "the seed of a simulation"
    physical = False

    def __init__(self, rng: SimulationRng) -> None:
        self._rng = rng

    def random_bytes(self, size_bytes: int) -> bytes:
        """Return bytes."""
        return self._rng.pseudo_bytes(size_bytes)


class World:
    """Everything that a run consists of."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.kernel = Kernel(self._seed("schedule"))
        self.trace = Trace(lambda: self.kernel.now_s)
        self.history = History(self._tick)
        self.keys = MemoryKeyNetwork(self._seed("keys"))
        self.network = Network(self.kernel, self.trace, self._seed("network"), plan.latency_s, OWNER)
        self.network.board.honest = frozenset(plan.sites) - plan.liars
        self.network.board.k = self.scheme.k
        self.network.board.watched = any(lie.kind == "repair_rush" for lie in plan.lies)
        if plan.attacks:
            self.network.tap = Wiretap()
        self.kmes_away: set[str] = set()
        self.disks: dict[str, SimulatedDisk] = {}
        self.liars: dict[str, Liar] = {}
        self.reboot_after_s: dict[str, float] = {}
        self.calm = False
        """Whether all faults are over."""
        self._ticks = 0
        self._started: dict[str, int] = {}
        self.hurt: dict[tuple[str, ShareKey], float] = {}
        """When which share at which site was last lost or damaged."""
        self.contents: dict[bytes, tuple[str, str]] = {}
        """What was ever handed to a put, with its tag and its name."""
        keys = {SiteId(name): _signer(name).public_key for name in plan.sites}
        honest = set(plan.sites) - plan.liars
        self.notary = Notary(OWNER, honest, keys, self.trace, liars_max=self.scheme.register_liars)
        self.conspiracy = Conspiracy(plan, self.network.tap or Wiretap(), self.disks)
        if self.network.tap is not None:
            self.network.tap.told = self._overhear
        for number, name in enumerate(plan.sites):
            self._add_site(name, number)

    def _overhear(self, one: Exchanged) -> None:
        self.notary.hear(one)
        self.conspiracy.hear(one)

    def _seed(self, purpose: str) -> int:
        return SimulationRng(hash_of(f"{self.plan.seed} {purpose}")).integer(0, 1 << 62)

    def _tick(self) -> float:
        """Return a time for the history that is never the same twice: the order in which things happened."""
        self._ticks += 1
        return self._ticks

    def rng(self, purpose: str) -> SimulationRng:
        """Return a generator of its own for each purpose and each call of it."""
        self._started[purpose] = number = self._started.get(purpose, 0) + 1
        return SimulationRng(self._seed(f"{purpose} {number}"))

    @property
    def scheme(self) -> Scheme:
        """The owner's scheme."""
        return Scheme.parse(self.plan.scheme)

    @property
    def home(self) -> str:
        """The owner's home site."""
        return self.plan.sites[0]

    def _add_site(self, name: str, number: int) -> None:
        disk = SimulatedDisk(self._seed(f"disk {name}"), latency_s=self.plan.latency_s / 5)
        disk.on_crash = partial(self._disk_crash, name)
        self.disks[name] = disk
        self.network.hosts[SiteId(name)] = Host(SiteId(name))
        lies = [lie for lie in self.plan.lies if lie.site == name]
        if lies:
            seed = self._seed(f"liar {name}")
            self.liars[name] = (
                Conspirator(name, lies, seed, self.trace, self.conspiracy)
                if self.plan.attacks
                else Liar(name, lies, seed, self.trace)
            )
        self.boot(name)

    def host(self, site: str) -> Host:
        """Return a site's machine."""
        return self.network.hosts[SiteId(site)]

    def boot(self, site: str) -> None:
        """Start a site's node with an empty memory on what its disk holds."""
        host = self.host(site)
        if host.process is not None and host.process.alive:
            return
        process = self.kernel.process(site)
        process.wall_offset_s = host.process.wall_offset_s if host.process else 0.0
        host.process = process
        self.disks[site].mount(process)
        host.node = build_node(self, site, process)
        process.start(self._upkeep(site, process))

    def crash(self, site: str, *, silent: bool, down_s: float) -> None:
        """Kill a site's node; it is started again after a while."""
        host = self.host(site)
        if host.process is None or not host.process.alive:
            return
        self.trace.tell(site, "crashes" + (" without a word" if silent else ""), count="node crashes")
        host.process.kill()
        self.disks[site].crash()
        self.network.drop_connections(host, silent=silent)
        self.kernel.after(down_s, partial(self._restart, site))

    def _restart(self, site: str) -> None:
        self.trace.tell(site, "starts again")
        self.boot(site)

    def _disk_crash(self, site: str) -> None:
        self.trace.counts["crashes at a disk call"] += 1
        self.crash(site, silent=False, down_s=self.reboot_after_s.get(site, _REBOOT_S))

    async def _upkeep(self, site: str, process: Process) -> None:
        while True:
            await process.runtime.sleep(_UPKEEP_S)
            collected = await self.disks[site].collect_orphans(process.runtime.wall_s() - self.plan.orphan_age_s)
            if collected:
                self.trace.tell(site, f"collects {collected} staged shares", count="orphans collected")

    def befell(self, site: str, object_id: str = "") -> bool:
        """Whether something befell a share of a site's (of one object), and it was not mended long ago."""
        made_s, now_s = self.disks[site].made_s if site in self.disks else {}, self.kernel.now_s
        return any(
            where == site
            and object_id in {"", key.object_id}
            and (made_s.get(key, 0.0) < when_s or now_s - made_s[key] < _REMEMBERED_S)
            for (where, key), when_s in self.hurt.items()
        )

    def listen(self, who: str, event: Event) -> None:
        """Check that no honest site is accused."""
        site, kind = str(event.fields.get("site", "")), str(event.fields.get("kind", ""))
        if event.severity == "alarm":
            self.trace.counts["alarms"] += 1
            known = kind in _FALSE_ACCUSATIONS and self.befell(site, str(event.fields.get("object", "")))
            if kind in _FALSE_ACCUSATIONS and site not in self.plan.liars and not known:
                self.trace.violate(f"{who} accuses the honest site {site}: {kind}")


def build_node(world: World, site: str, process: Process) -> SiteNode:
    """Return a share node over its disk."""
    sae = _sae(site)
    owners = [OWNER, MALLORY] if world.plan.attacks else [OWNER]
    liar = world.liars.get(site)
    node = (LyingNode if liar else SiteNode)(
        SiteId(site),
        sae,
        {owner: _record(party_of(world.plan, owner)) for owner in owners},
        world.disks[site],
        SimulatedKme(world.keys.kme(sae), process, lambda: site in world.kmes_away),
        entropy=SeededEntropy(world.rng(f"entropy of {site}")),
        clock=process.runtime,
        sink=EventTrace(world.trace, site, world.listen),
        runtime=process.runtime,
        signer=_signer(site),
        site_keys={SiteId(name): _signer(name).public_key for name in world.plan.sites},
    )
    if liar and isinstance(node, LyingNode):
        liar.process = process
        node.make_lie(liar, _signer(site), world.network.board)
    return node


def _record(party: Party) -> OwnerRecord:
    return OwnerRecord(party.owner, SiteId(party.home), party.signer.public_key, _QUOTA_BYTES)


def build_vault(world: World, process: Process) -> tuple[Vault, list[SimulatedLink]]:
    """Return the vault of a client process that has just started, and its links."""
    context, links = build_context(world, process, party_of(world.plan, OWNER))
    return Vault(context), links


def build_context(
    world: World, process: Process, party: Party, kind: type[SimulatedLink] = SimulatedLink
) -> tuple[VaultContext, list[SimulatedLink]]:
    """Return what an owner's client knows, and its links."""
    sites, links = [], []
    for name in world.plan.sites:
        link = kind(world.network, process, SiteId(name), home=name == party.home, owner=party.owner)
        links.append(link)
        sites.append(
            VaultSite(
                name=SiteId(name),
                node=_sae(name),
                link=link,
                domains=SiteDomains(f"operator of {name}"),
                public_key=_signer(name).public_key,
            )
        )
    context = VaultContext(
        owner=party.owner,
        home=SiteId(party.home),
        sites=tuple(sites),
        default_scheme=world.scheme,
        keys=SimulatedKme(world.keys.kme(SaeId(party.owner)), process, lambda: party.home in world.kmes_away),
        entropy=SeededEntropy(world.rng(f"entropy of {process.name}")),
        clock=process.runtime,
        runtime=process.runtime,
        sink=EventTrace(world.trace, process.name, world.listen),
        signer=party.signer,
        memo={},
    )
    return context, links


@lru_cache(maxsize=64)
def _signer(site: str) -> SiteSigner:
    return SiteSigner(hashlib.sha256(f"site {site}".encode()).digest())


def _sae(site: str) -> SaeId:
    return SaeId(f"node-{site}")
