"""Connections between two KME processes: in order while they last, and they do not last.

A connection is TCP under TLS: it delays, and it breaks; then what was under way is lost, or still arrives, and each
side notices at a time of its own. So messages of an old connection may come after those of a new one. Somebody who
broke TLS may besides drop, repeat, alter, swap and send again single messages (``Tamper``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import fields, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from shosoin.keys.errors import PairProtocolError
from shosoin.keys.messages import decode_message, encode_message

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.process import KmeProcess
    from shosoin.testing.key_simulation.world import World

__all__ = ["Connection", "Tamper", "Wiretap"]

_HISTORY = 200


class Tamper(Enum):
    """What somebody who broke TLS does to the next message."""

    DROP = "drop"
    REPEAT = "repeat"
    SWAP = "swap"
    ALTER = "alter"


class Wiretap:
    """Whoever sits on the wire, and what he remembers."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.orders: dict[str, deque[Tamper]] = {"a": deque(), "b": deque()}
        self.history: dict[str, deque[bytes]] = {"a": deque(maxlen=_HISTORY), "b": deque(maxlen=_HISTORY)}
        self._held: dict[str, bytes | None] = {"a": None, "b": None}

    def pass_on(self, to: str, raw: bytes) -> Iterator[bytes]:
        """Return what arrives at ``to`` in place of a message."""
        self.history[to].append(raw)
        order = self.orders[to].popleft() if self.orders[to] else None
        if order is Tamper.SWAP:
            self._held[to] = raw
            return
        if order is not Tamper.DROP:
            yield self._altered(raw) if order is Tamper.ALTER else raw
        if order is Tamper.REPEAT:
            yield raw
        held, self._held[to] = self._held[to], None
        if held is not None:
            yield held

    def _altered(self, raw: bytes) -> bytes:
        message: Any = decode_message(raw)
        names = [item.name for item in fields(message) if item.type in {"int", "str", "bool"}]
        name = self._world.rng.choice(names)
        value = getattr(message, name)
        other: Any = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "0" * len(value)
        return encode_message(replace(message, **{name: other}))


class Connection:
    """One classical channel between a process of ``a`` and one of ``b``."""

    def __init__(self, world: World, dialer: KmeProcess, listener: KmeProcess) -> None:
        self._world = world
        self.processes = {dialer.end: dialer, listener.end: listener}
        self.is_up = True
        self._still_arrives = False
        self._latest_s = {"a": 0.0, "b": 0.0}

    def peer_of(self, process: KmeProcess) -> KmeProcess:
        """Return the process at the other side."""
        return self.processes[process.peer]

    def send(self, sender: KmeProcess, raw: bytes) -> None:
        """Put a message on the wire."""
        if self.is_up:
            for each in self._world.wiretap.pass_on(sender.peer, raw):
                self.put(sender.peer, each)

    def put(self, to: str, raw: bytes) -> None:
        """Let a message arrive after those before it."""
        at_s = max(self._latest_s[to], self._world.now_s + self._world.latency_s())
        self._latest_s[to] = at_s
        self._world.at(at_s, lambda: self._arrive(to, raw))

    def _arrive(self, to: str, raw: bytes) -> None:
        if not self.is_up and not self._still_arrives:
            return
        process = self.processes[to]
        try:
            message = decode_message(raw)
        except PairProtocolError:
            process.channel_ended(self)
            return
        process.receive(self, message)

    def end(self, *, notice_s: float = 0.05) -> None:
        """Break: both sides notice within about ``notice_s``, each at its own time."""
        if not self.is_up:
            return
        self.is_up = False
        rng = self._world.rng
        self._still_arrives = rng.integer(0, 1) == 1
        for process in self.processes.values():
            self._world.after(rng.uniform(0.0, notice_s), lambda each=process: each.channel_ended(self))  # type: ignore[misc]
