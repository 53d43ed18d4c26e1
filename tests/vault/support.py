"""A whole vault in one process: real vault code at owner and sites, KMEs and stores in memory.

Time is counted in turns of the event loop (``TurnRuntime``), so that a time-out or a back-off costs no waiting and
every run of a test is the same. Links can lose a request before the node sees it (``before``) or the answer after the
node acted on it (``after``), and both hooks may wait, which is how a test puts two writers into a chosen order.
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.entropy import SystemEntropy
from shosoin.base import Entropy, KeyMaterial, ObjectId, OwnerId, SaeId, SiteId, Unavailable
from shosoin.base.ports import DeliveredKey, Event, KeySource, KeySourceFacts, KeyStatus, Task
from shosoin.testing.memory_keys import MemoryKeyNetwork
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.vault import OwnerRecord, Scheme, SiteNode, Vault, VaultContext, VaultSite, attestations
from shosoin.vault.acceptor import Certified, Justification
from shosoin.vault.assurance import SiteDomains
from shosoin.vault.attestations import STATEMENT_CONTEXT, Certificate, Promise, SignatureSet
from shosoin.vault.ballots import NO_BALLOT, Ballot
from shosoin.vault.catalog import Memory
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.ports import Buffer, ShareKey
from shosoin.vault.putting import BytesSource
from shosoin.vault.signing import OwnerSigner, SiteSigner
from shosoin.vault.values import RegisterValue

OWNER = OwnerId("owner-1")
SITES = ("koganei", "otemachi", "hakusan", "hongo", "musashino", "kawasaki", "tsukuba", "yokosuka")
SIGNER = OwnerSigner(bytes(range(32)))
SITE_SIGNERS = {SiteId(name): SiteSigner(name.encode().ljust(32)) for name in SITES}
SITE_KEYS = {name: signer.public_key for name, signer in SITE_SIGNERS.items()}
_TURNS_PER_S = 400

Hook = Callable[["DirectLink", dict[str, Any]], Awaitable[None] | None]


class TurnRuntime:
    """``Runtime`` whose seconds are turns of the event loop and whose threads are the caller's own."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._running: set[asyncio.Task[Any]] = set()

    def now_s(self) -> float:
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        await self._turns(seconds, lambda: False)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def wait(self, tasks: Collection[Task[Any]], *, timeout_s: float | None, first: bool) -> None:
        if not tasks:
            return
        if timeout_s is None:
            until = asyncio.FIRST_COMPLETED if first else asyncio.ALL_COMPLETED
            await asyncio.wait(tasks, return_when=until)  # type: ignore[type-var]
            return
        await self._turns(timeout_s, lambda: (any if first else all)(task.done() for task in tasks))

    async def _turns(self, seconds: float, ended: Callable[[], bool]) -> None:
        start_s = self._now_s
        for turn in range(round(seconds * _TURNS_PER_S) + 1):
            self._now_s = max(self._now_s, start_s + turn / _TURNS_PER_S)
            if ended():
                return
            await asyncio.sleep(0)
        self._now_s = max(self._now_s, start_s + seconds)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        await asyncio.sleep(0)
        return function(*arguments)


class SeededEntropy:
    """An ``Entropy`` that replays; ``physical`` as a test wants it."""

    def __init__(self, seed: int, *, physical: bool = False) -> None:
        self._random = random.Random(seed)
        self.source = "quantum generator" if physical else "seeded test generator"
        self.physical = physical

    def random_bytes(self, size_bytes: int) -> bytes:
        return self._random.randbytes(size_bytes)


class Recorder:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


@dataclass
class DirectLink:
    """A node link that calls the node; hooks, ``down`` and ``spoil`` make it fail or lie."""

    site: SiteId
    node: SiteNode
    owner: OwnerId = OWNER
    down: bool = False
    spoil: Callable[[bytes], bytes] | None = None
    """Alters answers, as a forger on the wire would."""
    before: Hook | None = None
    """Called with the request's header before the node sees it; raising loses the request."""
    after: Hook | None = None
    """Called when the node has acted; raising loses the answer."""
    seen: list[bytes] = field(default_factory=list)
    """Envelopes that reached the node."""
    offers: list[bytes] = field(default_factory=list)
    """Session offers that reached the node."""
    answered: list[bytes] = field(default_factory=list)

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        if self.down:
            raise Unavailable(f"{self.site} is down")
        raw = b"".join(body)
        header = header_of(path, raw)
        await _call(self.before, self, header)
        if path == "/v1/session":
            self.offers.append(raw)
            answer = await self.node.session(self.owner, raw)
        else:
            self.seen.append(raw)
            answer = b"".join(await self.node.exchange(self.owner, raw))
        assert len(answer) <= response_bytes_max
        self.answered.append(answer)
        await _call(self.after, self, header)
        return self.spoil(answer) if self.spoil else answer


async def _call(hook: Hook | None, link: DirectLink, header: dict[str, Any]) -> None:
    outcome = hook(link, header) if hook else None
    if inspect.isawaitable(outcome):
        await outcome


def header_of(path: str, raw: bytes) -> dict[str, Any]:
    """The JSON header of a request (the whole of a session offer)."""
    return parse_json(raw) if path == "/v1/session" else parse_json(cut(raw).header)


def kinds_of(header: dict[str, Any]) -> set[str]:
    """The operations of a request."""
    return {op["op"] for op in header.get("ops", ())} or {"session"}


def failing(*kinds: str, times: int = 1 << 30) -> Hook:
    """A hook that loses the first ``times`` requests (or answers) that carry one of the operations."""
    left = [times]

    def hook(link: DirectLink, header: dict[str, Any]) -> None:
        if left[0] > 0 and kinds_of(header) & set(kinds):
            left[0] -= 1
            raise Unavailable(f"{link.site}: lost on the way")

    return hook


class WrappedKeys:
    """A key source that changes what a KME delivers or says."""

    def __init__(self, inner: KeySource, facts: KeySourceFacts | None = None) -> None:
        self._inner = inner
        self._facts = facts
        self.drawn: list[tuple[str, bytes]] = []
        """Every key drawn, in order: key_ID and bits."""

    async def status(self, slave: SaeId) -> KeyStatus:
        return await self._inner.status(slave)

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        return [self._seen(key) for key in await self._inner.enc_keys(slave, number=number, size_bits=size_bits)]

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        return await self._inner.dec_keys(master, key_ids)

    def _seen(self, key: DeliveredKey) -> DeliveredKey:
        content = key.material.take()
        self.drawn.append((key.key_id, content))
        return DeliveredKey(key.key_id, KeyMaterial(content), self._facts or key.facts)


@dataclass
class World:
    """Sites, keys and one owner's vault."""

    vault: Vault
    context: VaultContext
    links: dict[str, DirectLink]
    stores: dict[str, MemorySiteStore]
    network: MemoryKeyNetwork
    sink: Recorder
    keys: WrappedKeys
    nodes: dict[str, SiteNode] = field(default_factory=dict)

    def another_vault(self, *, entropy: Entropy | None = None) -> World:
        """A second client of the same owner, with links and sessions of its own."""
        links = {
            name: DirectLink(link.site, link.node, link.owner, down=link.down) for name, link in self.links.items()
        }
        sites = tuple(replace(site, link=links[site.name]) for site in self.context.sites)
        context = replace(
            self.context,
            sites=sites,
            entropy=entropy or self.context.entropy,
            keys=self.keys,
            memo={},
            _channels={},
            _links={},
            _memory=Memory(),
        )
        return replace(self, vault=Vault(context), context=context, links=links)

    def on_all(self, *, before: Hook | None = None, after: Hook | None = None) -> None:
        """Put hooks on every link (``None`` takes them off)."""
        for link in self.links.values():
            link.before, link.after = before, after

    def share_key(self, object_id: str, site: str, version: str | None = None) -> ShareKey:
        """The key of a share of an object at a site."""
        rows = [row.key for row in self.stores[site].shares() if row.key.object_id == object_id]
        return next(key for key in rows if version in (None, key.version))

    def restart(self, site: str) -> None:
        """Lose everything that a node keeps in memory only."""
        node = self.links[site].node
        self.stores[site].crash()
        node._sessions.clear()


class ListSink:
    """Collects what a get writes."""

    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, data: Buffer) -> None:
        self.content += data


class PiecewiseSource:
    """A source of unknown length that gives its pieces as they come."""

    def __init__(self, *pieces: bytes, size_hint: int | None = None) -> None:
        self._pieces = list(pieces)
        self.size_hint = size_hint

    async def read(self, size_bytes: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size_bytes:
            self._pieces.insert(0, piece[size_bytes:])
        return piece[:size_bytes]


def make_world(
    n: int = 5,
    scheme: str = "3-of-5",
    *,
    entropy: Entropy | None = None,
    facts: KeySourceFacts | None = None,
    domains: dict[str, SiteDomains] | None = None,
    quota_bytes: int = 1 << 40,
    seed: int = 7,
    **network_options: Any,
) -> World:
    """Build n sites and an owner at the first."""
    network = MemoryKeyNetwork(seed, **network_options)
    entropy = entropy or SystemEntropy()
    clock, runtime, sink = SystemClock(), TurnRuntime(), Recorder()
    home = SiteId(SITES[0])
    record = OwnerRecord(OWNER, home, SIGNER.public_key, quota_bytes)
    links, stores, sites = {}, {}, []
    for name in SITES[:n]:
        sae = SaeId(f"node-{name}")
        store = MemorySiteStore()
        node = SiteNode(
            SiteId(name),
            sae,
            {OWNER: record},
            store,
            network.kme(sae),
            entropy=entropy,
            clock=clock,
            sink=sink,
            runtime=runtime,
            signer=SITE_SIGNERS[SiteId(name)],
            site_keys=SITE_KEYS,
        )
        links[name], stores[name] = DirectLink(SiteId(name), node), store
        declared = (domains or {}).get(name, SiteDomains(f"operator-{name}"))
        sites.append(VaultSite(SiteId(name), sae, links[name], declared, SITE_KEYS[SiteId(name)]))
    keys = WrappedKeys(network.kme(SaeId(OWNER)), facts)
    context = VaultContext(
        owner=OWNER,
        home=home,
        sites=tuple(sites),
        default_scheme=Scheme.parse(scheme),
        keys=keys,
        entropy=entropy,
        clock=clock,
        runtime=runtime,
        sink=sink,
        signer=SIGNER,
        memo={},
    )
    return World(Vault(context), context, links, stores, network, sink, keys)


async def store(world: World, name: str, content: bytes, class_: str = "its", **options: Any) -> Any:
    """Put bytes."""
    return await world.vault.put(BytesSource(content), name, class_=class_, **options)


async def fetch(vault: Vault, name: str, **options: Any) -> tuple[bytes, Any]:
    """Get an object into memory."""
    sink = ListSink()
    receipt = await vault.get(name, sink, **options)
    return bytes(sink.content), receipt


def pattern(size: int, tag: int = 0) -> bytes:
    """Bytes that differ at every place and from every other tag."""
    return random.Random(size * 1009 + tag).randbytes(size)


async def reached(event: asyncio.Event, *tasks: asyncio.Task[Any]) -> None:
    """Wait for an event that one of the tasks sets; a task that ends first fails the test instead of hanging it."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    assert event.is_set(), [task.exception() for task in tasks if task.done()]


@dataclass(frozen=True)
class Signed:
    """What sites sign about one register, for tests that speak to acceptors directly."""

    register_id: ObjectId
    owner: OwnerId = OWNER

    def certified(self, ballot: Ballot, value: RegisterValue, sites: Sequence[str]) -> Certified:
        """A value with the acceptances of some sites."""
        statement = attestations.acceptance(self.owner, self.register_id, ballot, value.digest)
        signed = {SiteId(site): _sign(site, statement) for site in sites}
        signatures = SignatureSet.of({site: signature for site, (_, signature) in signed.items()})
        certificate = Certificate.of(signatures.name, {site: path for site, (path, _) in signed.items()})
        signers = certificate.signers({signatures.name: signatures}, statement, SITE_KEYS)
        return Certified(ballot, value, certificate, signatures, signers)

    def justified(self, ballot: Ballot, sites: Sequence[str], top: Certified | None = None) -> Justification:
        """The promises of some sites, all of which hold ``top``."""
        held, digest = (top.ballot, top.value.digest) if top else (NO_BALLOT, None)
        statement = attestations.promise(self.owner, self.register_id, ballot, held, digest)
        promises = [Promise(SiteId(site), held, digest, _sign(site, statement)[0]) for site in sites]
        return Justification(promises, top)


def _sign(site: str, statement: bytes) -> tuple[bytes, bytes]:
    (path,), signature = SITE_SIGNERS[SiteId(site)].sign_together([statement], STATEMENT_CONTEXT)
    return path, signature
