"""Clients of the owner: they work through the real vault, crash, start again, and record what they saw."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from shosoin.base import Rejected, ShosoinError, SimulationRng
from shosoin.testing.linearizability import Kind, Pending
from shosoin.testing.simulation import checks
from shosoin.testing.simulation.kernel import Cancelled, Killed, Process
from shosoin.testing.simulation.plan import ClientPlan, Deed, Operation
from shosoin.testing.simulation.repairs import repair
from shosoin.testing.simulation.world import World, build_vault, hash_of
from shosoin.vault import Vault
from shosoin.vault.ports import Buffer
from shosoin.vault.putting import BytesSource

__all__ = ["Caller", "Client", "content_of", "perform"]

_BOUNDED = {"vault.conflict"}
"""Failures after which the effect came already or never comes."""
_NO_EFFECT = {"vault.too_little_key", "vault.bad_name", "vault.relays_unknown"}


class _Sink:
    def __init__(self) -> None:
        self.content = bytearray()

    async def write(self, data: Buffer) -> None:
        self.content += data


def content_of(tag: str, name: str, size_bytes: int) -> bytes:
    """Return content that no other put writes."""
    head = f"{tag} {name} ".encode()
    return head + SimulationRng(hash_of(f"{tag} {name}")).pseudo_bytes(max(size_bytes - len(head), 0))


class Client:
    """One client of a plan, over all its incarnations."""

    def __init__(self, world: World, plan: ClientPlan) -> None:
        self._world = world
        self._plan = plan
        self.name = plan.name
        self.process: Process = world.kernel.process(plan.name)
        self.process.alive = False
        self._left = {
            lane: [each for each in plan.operations if each.lane == lane]
            for lane in sorted({each.lane for each in plan.operations})
        }
        self._busy: set[int] = set()
        self._sent = 0
        self.dies_at: dict[int, float] = {}
        """Numbers of messages before which it dies, and how long it is away then."""
        self.stalls_at: dict[int, float] = {}
        """Numbers of messages before which it freezes, and for how long."""
        self.boot()

    @property
    def ended(self) -> bool:
        """Whether everything was tried."""
        return not any(self._left.values()) and not self._busy

    def boot(self) -> None:
        """Start with an empty memory and go on with the operation after the one that was interrupted."""
        if self.process.alive:
            return
        offset_s = self.process.wall_offset_s
        self.process = self._world.kernel.process(self.name)
        self.process.wall_offset_s = offset_s
        vault, links = build_vault(self._world, self.process)
        for link in links:
            link.before = self._before_message
        for lane in self._left:
            self.process.start(self._work(vault, lane), origin=self.name)

    def _before_message(self) -> None:
        self._sent += 1
        if self._sent in self.dies_at:
            self.crash(down_s=self.dies_at.pop(self._sent))
        elif self._sent in self.stalls_at:
            for_s = self.stalls_at.pop(self._sent)
            self._world.trace.tell(self.name, f"freezes for {for_s:.3g} s", count="freezes")
            self.process.freeze()
            self._world.kernel.after(for_s, self.process.thaw)

    def crash(self, *, down_s: float) -> None:
        """Die, and start again after a while."""
        if not self.process.alive or self.ended:
            return
        self._world.trace.tell(self.name, "crashes", count="client crashes")
        self.process.kill()
        self._busy.clear()
        self._world.kernel.after(down_s, self.boot)

    async def _work(self, vault: Vault, lane: int) -> None:
        left = self._left[lane]
        while left:
            await self.process.runtime.sleep(left[0].wait_s)
            operation = left.pop(0)  # tried once, whatever comes of it
            self._busy.add(lane)
            await perform(Caller(self._world, self.name, self.process, vault), operation)
            self._busy.discard(lane)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who does something with which vault."""

    world: World
    name: str
    process: Process
    vault: Vault


async def perform(caller: Caller, operation: Operation) -> ShosoinError | None:
    """Do one operation, record it, check what came of it; return how it failed."""
    trace, deed, name = caller.world.trace, operation.deed, caller.name
    what = f"{deed} {' '.join(operation.names)}" + (f" in class {operation.class_}" if "put" in deed else "")
    trace.tell(name, f"begins {what} ({operation.tag})", count=deed.value)
    try:
        said = await _DEEDS[deed](caller, operation)
    except ShosoinError as error:
        caller.process.check()
        trace.tell(name, f"fails to {what} ({operation.tag}): {error.code}: {error.message}", count=f"{deed} failed")
        return error
    except (Killed, Cancelled):
        raise
    except Exception as error:  # noqa: BLE001  # a defect: what the vault must never raise
        caller.process.check()  # unless it is only what a killed process leaves behind
        trace.violate(f"{name}'s {what} raised {type(error).__name__}: {error}")
        return Rejected("a defect")
    caller.process.check()
    trace.tell(name, f"ends {what} ({operation.tag}): {said}")
    return None


async def _put(caller: Caller, op: Operation) -> str:
    contents = {each: content_of(op.tag, each, op.size_bytes) for each in op.names}
    pending: list[Pending] = []
    for each, content in contents.items():
        caller.world.contents[content] = op.tag, each
        pending.append(caller.world.history.begin(Kind.WRITE, each, op.tag, client=caller.name))
    try:
        if op.deed is Deed.PUT:
            (only,) = op.names
            receipts = [await caller.vault.put(BytesSource(contents[only]), only, class_=op.class_)]
        else:
            receipts = await caller.vault.put_many(contents, class_=op.class_)
    except ShosoinError as error:
        _settle(pending, error)
        raise
    for one in pending:
        one.ok()
    for receipt in receipts:
        checks.check_put(caller.world, caller.name, receipt)
    return ", ".join(f"{receipt.name} durable at {receipt.durable_at}" for receipt in receipts)


def _settle(pending: list[Pending], error: ShosoinError) -> None:
    for each in pending:
        if error.code in _NO_EFFECT:
            each.failed()
        elif error.code in _BOUNDED and len(pending) == 1:
            each.over()


async def _get(caller: Caller, op: Operation) -> str:
    (name,) = op.names
    pending, sink = caller.world.history.begin(Kind.READ, name, client=caller.name), _Sink()
    start, length = (op.size_bytes // 3, max(op.size_bytes // 2, 8)) if op.deed is Deed.GET_RANGE else (0, None)
    try:
        receipt = await caller.vault.get(name, sink, start=start, length=length)
    except ShosoinError as error:
        if error.code == "vault.not_found":
            pending.found_nothing()
        raise
    tag = checks.tag_of(caller.world, caller.name, name, bytes(sink.content), start, length)
    if tag is not None:
        pending.ok(tag, proven=receipt.freshness == "proven")
    checks.check_label(caller.world, caller.name, name, receipt.label)
    if receipt.freshness != "proven" and caller.name == checks.AUDITOR:
        caller.world.trace.violate(f"after all faults ended, {name} is served as {receipt.freshness}")
    return f"{len(sink.content)} bytes of {tag}, {receipt.freshness}"


async def _get_many(caller: Caller, op: Operation) -> str:
    pending = {each: caller.world.history.begin(Kind.READ, each, client=caller.name) for each in op.names}
    found = await caller.vault.get_many(list(op.names))
    tags = {each: checks.tag_of(caller.world, caller.name, each, content, 0, None) for each, content in found.items()}
    for each, tag in tags.items():
        if tag is not None:
            pending[each].ok(tag)
    return ", ".join(f"{each} is {tag}" for each, tag in tags.items())


async def _ls(caller: Caller, _: Operation) -> str:
    return "names " + " ".join(listing.name for listing in await caller.vault.ls())


async def _stat(caller: Caller, op: Operation) -> str:
    (name,) = op.names
    stat = await caller.vault.stat(name)
    checks.check_label(caller.world, caller.name, name, stat.label)
    return f"durable at {stat.label.durable_at}"


async def _rm(caller: Caller, op: Operation) -> str:
    (name,) = op.names
    pending = caller.world.history.begin(Kind.REMOVE, name, client=caller.name)
    try:
        receipt = await caller.vault.rm(name)
    except ShosoinError as error:
        if error.code == "vault.not_found":
            pending.found_nothing()
        else:
            _settle([pending], error)
        raise
    pending.ok()
    return f"erased at {len(receipt.erased_at)}"


async def _audit(caller: Caller, _: Operation) -> str:
    found = await caller.vault.audit()
    states = [state for sites in found.values() for state in sites.values()]
    return f"{len(found)} objects, " + ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))


async def _verify(caller: Caller, op: Operation) -> str:
    report = await caller.vault.verify(op.names[0])
    bad = {site: state for site, state in report.per_site.items() if state in {"damaged", "wrong"}}
    for site, state in bad.items():
        if site not in caller.world.plan.liars and not caller.world.befell(site):
            caller.world.trace.violate(f"{caller.name}: verify says that the share at honest {site} is {state}")
    return ", ".join(f"{site} {state}" for site, state in report.per_site.items())


async def _rm_unnamed(caller: Caller, op: Operation) -> str:
    removed = await caller.vault.rm_unnamed(older_than_s=(0.0, 5.0, 100.0)[op.size_bytes % 3])
    return f"removed {len(removed)}"


_DEEDS: dict[Deed, Callable[[Caller, Operation], Awaitable[str]]] = {
    Deed.PUT: _put,
    Deed.PUT_MANY: _put,
    Deed.GET: _get,
    Deed.GET_RANGE: _get,
    Deed.GET_MANY: _get_many,
    Deed.LS: _ls,
    Deed.STAT: _stat,
    Deed.RM: _rm,
    Deed.AUDIT: _audit,
    Deed.VERIFY: _verify,
    Deed.RM_UNNAMED: _rm_unnamed,
    Deed.REPAIR: repair,
    Deed.REPAIR_ALL: repair,
}
