"""Sites that lie together: they share what they hold and hear, answer last, and fit their lies to each other.

Conspirators see everything that passes (see ``wiretap``), so they *rush*: they wait until a client hears from nobody
else any more, and answer then. To their shares they add a polynomial of degree below k that is 0 at up to k-1 honest
sites: with those the lie is a perfect sharing of something else, and whoever is left over looks like the liar. They
show one false history of a register to some clients and the true one to others, and sign what the thief asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from shosoin.base import SimulationRng
from shosoin.kernels import ELEMENT_BYTES, element_mul, point_of
from shosoin.testing.simulation.attacks import THIEF_NAME
from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.testing.simulation.liars import Liar
from shosoin.testing.simulation.plan import Lie, Plan
from shosoin.testing.simulation.seeds import hash_of
from shosoin.testing.simulation.trace import Trace
from shosoin.testing.simulation.wiretap import Exchanged, Wiretap
from shosoin.vault.ports import ShareRow

__all__ = ["Conspiracy", "Conspirator"]

_RUSH_S, _GLANCE_S = 0.4, 0.02
"""How long conspirators wait for others at most, and how often they look; clients hedge after a second."""
_Pair = tuple[dict[str, Any], bytes]


class Conspiracy:
    """What the conspirators know together."""

    def __init__(self, plan: Plan, tap: Wiretap, disks: Mapping[str, SimulatedDisk]) -> None:
        self.members = frozenset(plan.liars)
        self.tap = tap
        self._plan = plan
        self._disks = disks
        self._zeros: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._stories: dict[str, tuple[dict[str, Any], list[str]]] = {}
        self.commitments: dict[str, dict[str, str]] = {}
        """What each site committed to, by share."""
        self.openings: dict[str, dict[str, str]] = {}

    def hear(self, one: Exchanged) -> None:
        """Remember what sites committed to and opened."""
        op, result, site = one.op, one.result, str(one.request.site)
        if op.get("op") == "seal" and isinstance(result.get("commitment"), str):
            self.commitments.setdefault(_share(op), {})[site] = result["commitment"]
        elif op.get("op") == "open" and isinstance(result.get("contribution"), str):
            self.openings.setdefault(_share(op), {})[site] = result["contribution"]

    def row(self, site: str, op: dict[str, Any]) -> ShareRow | None:
        """Return the record of a share at a site."""
        wanted = op.get("object"), op.get("version"), op.get("epoch", 0)
        rows = (row for row in self._disks[site].shares() if row.key.owner == "owner")
        return next(
            (row for row in rows if (row.key.object_id, row.key.version, row.key.epoch) == wanted),
            None,
        )

    def shift(self, site: str, op: dict[str, Any], client: str) -> bytes | None:
        """Return what a conspirator adds to an element of its share, or ``None`` if it knows too little."""
        mine = self.row(site, op)
        if mine is None:
            return None
        zeros = self._zeros_for(str(op.get("op")), op, client, mine.threshold)
        value = 1 + SimulationRng(hash_of(f"{self._plan.seed} {_share(op)}")).integer(0, 1 << 100)
        for zero in zeros:
            value = element_mul(value, point_of(mine.x_index) ^ zero)
        return value.to_bytes(ELEMENT_BYTES, "little")

    def _zeros_for(self, kind: str, op: dict[str, Any], client: str, k: int) -> tuple[int, ...]:
        """Return the points of up to k-1 honest sites with which the lie will agree: those asked, the home first."""
        what = (kind, client, _share(op))
        if what not in self._zeros:
            asked = [each.site for each in self.tap.requests[-200:] if each.client == client and _asks(each.header, op)]
            candidates = dict.fromkeys(str(site) for site in (*self._plan.sites[:1], *asked, *self._plan.sites))
            rows = [self.row(site, op) for site in candidates if site not in self.members]
            self._zeros[what] = tuple(point_of(row.x_index) for row in rows if row is not None)[: k - 1]
        return self._zeros[what]

    def story(
        self, client: str, register: str, truth: dict[str, Any], sets: list[str]
    ) -> tuple[dict[str, Any], list[str]]:
        """Return what a client is told about a register: half of them never hear of anything new."""
        if hash_of(f"{self._plan.seed} {client}") % 2:
            return truth, sets
        return self._stories.setdefault(register, (deepcopy(truth), list(sets)))


def _asks(header: Mapping[str, Any], op: dict[str, Any]) -> bool:
    operations: Any = header.get("ops")
    return isinstance(operations, list) and any(
        isinstance(each, dict) and each.get("op") == op.get("op") and _share(each) == _share(op) for each in operations
    )


def _share(op: Mapping[str, Any]) -> str:
    return f"{op.get('object')} {op.get('version')} {op.get('epoch', 0)}"


class Conspirator(Liar):
    """A liar that also lies together with others."""

    def __init__(self, site: str, lies: Sequence[Lie], seed: int, trace: Trace, conspiracy: Conspiracy) -> None:
        super().__init__(site, lies, seed, trace)
        self._conspiracy = conspiracy
        self._sets: list[str] = []

    def _conspires(self, kind: str, what: str) -> bool:
        if not self.lies(kind):
            return False
        self._trace.tell(self.site, f"lies with others: {what}", count=f"lie {kind}")
        return True

    async def ponder(self, operations: Any) -> None:
        """Rush: wait until the client hears from no other site any more."""
        kinds = {str(op.get("op")) for op in operations if isinstance(op, dict)}
        if not kinds & {"read", "digest", "open", "seal"} or not self._rushes():
            return
        client, until_s = self._client(), self.process.kernel.now_s + _RUSH_S
        while self._conspiracy.tap.waits(client, self._conspiracy.members) and self.process.kernel.now_s < until_s:
            await self.process.runtime.sleep(_GLANCE_S)
        self._trace.counts["answers after everybody else's"] += 1

    def _rushes(self) -> bool:
        return any(lie.startswith(("rush", "copy")) for lie in self._lies)

    def _client(self) -> str:
        current = self.process.kernel.current
        return current.origin if current else ""

    def reads_header(self, header: dict[str, Any]) -> None:
        """Keep the signatures that go with an answer: a false history needs those of its time."""
        self._sets = header.setdefault("sets", [])

    def _falsified(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        kind = str(op.get("op"))
        if kind == "open" and "error" not in result:
            return self._open(op, result), content
        if kind == "seal" and "error" not in result:
            others = self._others(self._conspiracy.commitments, op)
            if others and self._conspires("copy_commitment", "commits to what an honest site committed to"):
                return {"commitment": self._rng.choice(others)}, content
        return super()._falsified(op, result, content)

    def _others(self, told: Mapping[str, Mapping[str, str]], op: dict[str, Any]) -> list[str]:
        members = self._conspiracy.members
        return [value for site, value in told.get(_share(op), {}).items() if site not in members]

    def _open(self, op: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        """Open last: only if the challenge pleases, or with what somebody else opened."""
        others = self._others(self._conspiracy.openings, op)
        if others and self.lies("copy_commitment"):
            return {"contribution": self._rng.choice(others)}
        total = 0
        for opening in (*others, str(result.get("contribution"))):
            total ^= int(opening[:32], 16)
        if total & 1 and self._conspires("rush_open", "withholds its part of a challenge that it does not like"):
            return {"error": {"kind": "unavailable", "code": "vault.contribution_unknown", "message": "not known"}}
        return result

    def _read(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if content and self._conspires("rush_shift", "shifts its share along a polynomial that honest shares fit"):
            return result, self._shifted(op, content)
        return super()._read(op, result, content)

    def _digest(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if content and self._conspires("rush_frame", "shifts its digest so that an honest site looks wrong"):
            return result, self._shifted(op, content)
        return super()._digest(op, result, content)

    def _shifted(self, op: dict[str, Any], content: bytes) -> bytes:
        shift = self._conspiracy.shift(self.site, op, self._client())
        if shift is None or len(content) < ELEMENT_BYTES:
            return content
        head = bytes(a ^ b for a, b in zip(content, shift, strict=False))
        return head + content[ELEMENT_BYTES:]

    def _accept(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if self._helps(result, "signs what the thief wants accepted"):
            return self.pen.accept(op), b""
        return super()._accept(op, result, content)

    def _prepare(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if "committed_ballot" in result and self._helps(result, "promises the thief whatever it wants"):
            return self.pen.promise(op, result), b""
        return super()._prepare(op, result, content)

    def _helps(self, result: dict[str, Any], what: str) -> bool:
        refused = result.get("granted") is not True
        return refused and self._client() == THIEF_NAME and self._conspires("accomplice", what)

    def _register(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if "error" not in result and self.lies("shared_fork"):
            shown, sets = self._conspiracy.story(self._client(), str(op.get("register")), result, self._sets)
            if shown is not result:
                self._conspires_in_story()
                self._sets += [text for text in sets if text not in self._sets]
                return {**deepcopy(shown), **({"granted": result["granted"]} if "granted" in result else {})}, b""
        return super()._register(op, result, content)

    def _conspires_in_story(self) -> None:
        what = f"all show {self._client()} the same old history"
        self._trace.tell(self.site, f"lies with others: {what}", count="lie shared_fork")
