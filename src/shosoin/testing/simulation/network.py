"""The network between clients and share nodes: slow, lossy, doubling, and cut in one direction or both.

A message takes a random time, so messages overtake each other. Connections carry their own answers: of a request that
is delivered twice only the first answer counts. What breaks loudly is known at once, what breaks silently only at the
deadline.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Alarm, Denied, OwnerId, PeerFault, Rejected, ShosoinError, SimulationRng, SiteId, Unavailable
from shosoin.testing.simulation.kernel import Cancelled, Kernel, Killed, Process, SimTask
from shosoin.testing.simulation.repair_liars import Board
from shosoin.testing.simulation.repair_uses import repair_uses, terms_taken
from shosoin.testing.simulation.trace import Trace
from shosoin.testing.simulation.wiretap import Request, Wiretap
from shosoin.vault import SiteNode
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.ports import Buffer, NodeSlow

__all__ = ["Host", "Network", "SimulatedLink"]

_KINDS = (Rejected, Denied, Unavailable, PeerFault, Alarm)


@dataclass(slots=True)
class Host:
    """A site's machine as the network sees it."""

    site: SiteId
    process: Process | None = None
    node: SiteNode | None = None
    deaf: Counter[str] = field(default_factory=Counter)
    """How many faults keep the messages of each client (or of ``*``, all) from reaching it."""
    mute: Counter[str] = field(default_factory=Counter)
    """How many faults keep its messages from reaching each client (or ``*``, all)."""
    slow_s: float = 0.0
    open: dict[int, _Exchange] = field(default_factory=dict)
    """Exchanges that it works on."""

    def hears(self, client: str) -> bool:
        """Whether a client's messages reach it."""
        return not self.deaf["*"] and not self.deaf[client]

    def reaches(self, client: str) -> bool:
        """Whether its messages reach a client."""
        return not self.mute["*"] and not self.mute[client]


@dataclass(slots=True)
class _Exchange:
    """One request and what became of it."""

    number: int
    client: str
    path: str
    raw: bytes
    home: bool
    """Whether it stays inside the owner's home site."""
    task: SimTask[Any]
    owner: OwnerId
    """Whose certificate the client has."""
    outcome: list[bytes | ShosoinError] = field(default_factory=list)

    def request(self, site: SiteId) -> Request:
        return Request(self.number, self.client, self.owner, site, self.path, self.raw)

    def end(self, outcome: bytes | ShosoinError) -> None:
        if not self.outcome:
            self.outcome.append(outcome)
            self.task.wake()


class Network:
    """Carries messages."""

    def __init__(self, kernel: Kernel, trace: Trace, seed: int, latency_s: float, owner: OwnerId) -> None:
        self.kernel = kernel
        self.trace = trace
        self.owner = owner
        self.hosts: dict[SiteId, Host] = {}
        self.board = Board()
        self.loss = 0.0
        self.double = 0.0
        self._rng = SimulationRng(seed)
        self._latency_s = latency_s
        self._count = 0
        self.tap: Wiretap | None = None
        self._uses: dict[str, bytes] = {}
        """What each key was used for."""

    def _delay_s(self, host: Host, exchange: _Exchange) -> float:
        base_s = self._latency_s / 10 if exchange.home else self._latency_s
        return base_s * self._rng.uniform(0.3, 2.0) + self._rng.uniform(0.0, 1.0) * host.slow_s

    def _lost(self) -> bool:
        return self._rng.uniform(0.0, 1.0) < self.loss

    def next_number(self) -> int:
        """Return the number of the next exchange."""
        self._count += 1
        return self._count

    def send(self, host: Host, exchange: _Exchange) -> None:
        """Carry a request to a site, perhaps twice, perhaps never."""
        copies = 2 if self._rng.uniform(0.0, 1.0) < self.double else 1
        if copies == 2:
            self.trace.tell("network", f"doubles #{exchange.number}", count="doubled requests")
        for _ in range(copies):
            if not host.hears(exchange.client) or self._lost():
                self._lose(host, exchange, "request")
                continue
            self.kernel.after(self._delay_s(host, exchange), lambda: self._arrive(host, exchange))

    def _lose(self, host: Host, exchange: _Exchange, what: str) -> None:
        """Lose a message; half of the time somebody notices at once."""
        noticed = self._rng.integer(0, 1) == 1 and host.hears(exchange.client) and host.reaches(exchange.client)
        self.trace.tell("network", f"loses the {what} #{exchange.number}", count="lost messages")
        if noticed:
            error = Unavailable(f"{host.site} closed the connection", code="vault.node_unreachable")
            self.kernel.after(self._latency_s, lambda: exchange.end(error))

    def _arrive(self, host: Host, exchange: _Exchange) -> None:
        process, node = host.process, host.node
        if process is None or node is None or not process.alive:
            if host.reaches(exchange.client):
                error = Unavailable(f"{host.site} is unreachable", code="vault.node_unreachable")
                self.kernel.after(self._delay_s(host, exchange), lambda: exchange.end(error))
            return
        host.open[exchange.number] = exchange
        process.start(self._serve(process, host, node, exchange), origin=exchange.client)

    async def _serve(self, process: Process, host: Host, node: SiteNode, exchange: _Exchange) -> None:
        outcome: bytes | ShosoinError
        raw = exchange.raw
        try:
            if exchange.path == "/v1/session":
                outcome = await node.session(exchange.owner, raw)
            else:
                outcome = b"".join(await node.exchange(exchange.owner, raw))
        except (Killed, Cancelled):
            raise
        except ShosoinError as error:
            outcome = _over_the_wire(error)
        except Exception as error:  # noqa: BLE001  # a defect: what a node must never do
            process.check()  # unless it is only what a killed process leaves behind
            self.trace.violate(f"the node at {host.site} failed with {type(error).__name__}: {error}")
            outcome = PeerFault(f"{host.site} failed", code="vault.defect")
        host.open.pop(exchange.number, None)
        if self.board.watched and exchange.path != "/v1/session":
            self.board.note(host.site, parse_json(cut(raw).header))
        if self.tap is not None and isinstance(outcome, bytes):
            self.tap.answered(exchange.request(host.site), outcome)
        if not host.reaches(exchange.client) or self._lost():
            self._lose(host, exchange, "answer")
            return
        said = f"answers #{exchange.number}" if isinstance(outcome, bytes) else f"refuses #{exchange.number}: {outcome}"
        self.trace.tell(host.site, said)
        self.kernel.after(self._delay_s(host, exchange), lambda: exchange.end(outcome))

    def drop_connections(self, host: Host, *, silent: bool) -> None:
        """Break what a dead node was working on."""
        for exchange in host.open.values():
            if not silent and host.reaches(exchange.client):
                error = Unavailable(f"{host.site} closed the connection", code="vault.node_unreachable")
                self.kernel.after(self._latency_s, lambda exchange=exchange, error=error: exchange.end(error))  # type: ignore[misc]
        host.open.clear()

    def note_keys(self, header: dict[str, Any], raw: bytes) -> None:
        """Check that no key is used for two things, between sites either, and no term given on two orders."""
        for key, what in repair_uses(header["ops"], self.board.honest):
            self._note_use(key, what)
        for attempt, offset in terms_taken(header["ops"]) & self.board.misled:
            self.trace.violate(f"helpers of attempt {attempt[:8]} gave their terms at {offset} on different orders")
        if header.get("class") != "its":
            return
        digest = hashlib.sha256(raw).digest()
        used = [(key, digest) for key in header["auth"]["keys"]]
        used += [(key, b"share") for op in header["ops"] if op["op"] == "take" for key in op["keys"]]
        for key, use in used:
            self._note_use(key, use)

    def _note_use(self, key: str, use: bytes) -> None:
        if self._uses.setdefault(key, use) != use:
            self.trace.violate(f"key {key} was used twice")


def _over_the_wire(error: ShosoinError) -> ShosoinError:
    """Return what a client makes of an error: its kind, code and text."""
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), PeerFault)
    if isinstance(error, Unavailable):
        return Unavailable(error.message, code=error.code, retry_after_s=error.retry_after_s)
    return kind(error.message, code=error.code)


class SimulatedLink:
    """``NodeLink`` of one client process to one site."""

    def __init__(
        self, network: Network, process: Process, site: SiteId, *, home: bool, owner: OwnerId | None = None
    ) -> None:
        self.site = site
        self._network = network
        self._process = process
        self._home = home
        self._owner = owner or network.owner
        self.before: Callable[[], None] = lambda: None
        """Called before each message; may kill the client."""

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        """Send a request and wait for the answer."""
        self._process.check()
        self.before()
        self._process.check()
        raw = b"".join(body)
        network, client = self._network, self._process.name
        task = network.kernel.running()
        exchange = _Exchange(network.next_number(), client, path, raw, self._home, task, self._owner)
        network.trace.tell(client, f"sends #{exchange.number} to {self.site}: {self._noted(path, raw)}")
        if network.tap is not None:
            network.tap.sent(exchange.request(self.site))
        network.send(network.hosts[self.site], exchange)
        await self._process.runtime.wait_until(lambda: bool(exchange.outcome), timeout_s=timeout_s)
        if network.tap is not None:
            network.tap.ended(exchange.number)
        if not exchange.outcome:
            network.trace.tell(client, f"gives up on #{exchange.number} after {timeout_s:.3g} s", count="timeouts")
            raise NodeSlow(f"{self.site} did not answer in time (at most {timeout_s:.3g} s)")
        outcome = exchange.outcome[0]
        if isinstance(outcome, ShosoinError):
            raise _over_the_wire(outcome)
        if len(outcome) > response_bytes_max:
            raise PeerFault(f"{self.site} answered more than {response_bytes_max} bytes")
        return outcome

    def _noted(self, path: str, raw: bytes) -> str:
        if path == "/v1/session":
            return "session offer"
        header = parse_json(cut(raw).header)
        self._network.note_keys(header, raw)
        kinds = Counter(str(op["op"]) for op in header["ops"])
        return f"{header['class']} " + ", ".join(f"{kind} x{n}" if n > 1 else kind for kind, n in kinds.items())
