"""Sites that lie when shares are repaired: helpers with wrong terms or other orders, targets that only claim, framers.

A lying site owns the keys of its links, so whatever it says is authentic. A site that *rushes* answers a step of an
attempt only when the others have answered theirs, or when it has waited long enough: it speaks last, when all that the
step sends to it, through the client, could have come.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from shosoin.base import ObjectId, SiteId
from shosoin.kernels import digest
from shosoin.vault.ports import ShareRow
from shosoin.vault.quotas import OwnerRecord
from shosoin.vault.repair_attempts import Attempt, NodeParts
from shosoin.vault.repair_helper import Helping
from shosoin.vault.repair_node import RepairNode
from shosoin.vault.repair_wire import Json

if TYPE_CHECKING:
    from shosoin.testing.simulation.liars import Liar

__all__ = ["Board", "make_repair_lie"]

_FOREVER_S = 1e6
_RUSHED_S = 2.0
_RUSH_STEP_S = 0.02
_FELLOWS = {"repair_open": 0, "repair_pads": -2, "repair_check": -2, "repair_help": -1, "repair_digest": -1}
"""How many others take part in a step beside one of its sites, more than k."""
_FRAMED = {"kind": "alarm", "code": "vault.repair_forged", "message": "a message between two nodes failed"}
_CLAIMED = {"repair_take", "repair_seal", "repair_adopt"}
_JUNK: tuple[Json, ...] = (
    {},
    {"pairs": []},
    {"pairs": {"koganei": {"keys": 3, "tag": None}}},
    {"offers": {"otemachi": "{}"}},
    {"staged": 1 << 40},
    {"contribution": "zz"},
    {"keys": ["0"], "tag": "0", "data": "AAAA", "challenges": "[", "origins": []},
    {"links": {"node-koganei": {"stored_bits": -1}}},
)
Handler = Callable[[OwnerRecord, Json], Awaitable[tuple[Json, bytes]]]


@dataclass(slots=True)
class Board:
    """What lying sites know of each other and of the steps of an attempt that others have answered."""

    honest: Collection[str] = ()
    k: int = 0
    """Helpers of an attempt."""
    watched: bool = False
    """Whether a lying site waits for what others answer."""
    answered: dict[tuple[str, ...], set[str]] = field(default_factory=dict)
    misled: set[tuple[str, int]] = field(default_factory=set)
    """Attempts and ranges in which a lying helper showed an honest one another order."""

    def note(self, site: str, header: Json) -> None:
        """Remember which steps of attempts a site has answered."""
        for op in header.get("ops", ()):
            if "attempt" in op:
                self.answered.setdefault(_step(op), set()).add(site)

    def others(self, site: str, op: Json) -> int:
        """Return how many others have answered a step."""
        return len(self.answered.get(_step(op), set()) - {site})


def _step(op: Json) -> tuple[str, ...]:
    return str(op.get("attempt")), str(op.get("op")), str(op.get("offset"))


def make_repair_lie(repair: RepairNode, liar: Liar, board: Board) -> None:
    """Have a node lie about repair from now on."""
    repair.helping = _LyingHelping(repair.parts, liar, board)
    repair.handlers = {
        kind: partial(_Teller(repair, liar, board).answer, handler) for kind, handler in repair.handlers.items()
    }


@dataclass(slots=True)
class _Teller:
    """Answers the steps of a repair as its site likes."""

    repair: RepairNode
    liar: Liar
    board: Board

    async def answer(self, handler: Handler, owner: OwnerRecord, op: Json) -> tuple[Json, bytes]:
        """Answer a step, honestly or not."""
        liar, kind = self.liar, str(op.get("op"))
        if liar.lies("repair_silence"):
            liar.tell(f"never answers {kind}")
            await liar.process.runtime.sleep(_FOREVER_S)
        if kind != "repair_stock" and liar.lies("repair_frame"):
            liar.tell(f"says at {kind} that another site's words were forged")
            return {"error": _FRAMED}, b""
        if kind in _CLAIMED and liar.lies("repair_claim"):
            liar.tell(f"claims to have done {kind}")
            return {"state": "committed", "contribution": liar.rng.pseudo_bytes(16).hex()}, b""
        result, payload = await handler(owner, op)
        if kind in _FELLOWS and liar.lies("repair_rush"):
            await self._rush(op)
        return self._falsified(kind, result, payload)

    async def _rush(self, op: Json) -> None:
        """Wait until everybody else who is asked for this step has answered, or for a while."""
        runtime = self.liar.process.runtime
        until_s = runtime.now_s() + _RUSHED_S
        fellows = self.board.k + _FELLOWS[str(op["op"])]
        self.liar.tell(f"waits with its answer to {op['op']} for those of others")
        while self.board.others(self.liar.site, op) < fellows and runtime.now_s() < until_s:
            await runtime.sleep(_RUSH_STEP_S)

    def _falsified(self, kind: str, result: Json, payload: bytes) -> tuple[Json, bytes]:
        liar = self.liar
        said = liar.said_of_repair.setdefault(kind, [])
        if said and liar.lies("repair_replay"):
            liar.tell(f"repeats an old answer to {kind}")
            return deepcopy(liar.rng.choice(said))
        said.append((deepcopy(result), payload))
        if liar.lies("repair_junk"):
            liar.tell(f"answers junk to {kind}")
            return deepcopy(liar.rng.choice(_JUNK)), payload
        if kind == "repair_stock" and liar.lies("repair_false_stock"):
            liar.tell("makes its stock of keys up")
            return _other_stock(result, liar), payload
        if kind in {"repair_pads", "repair_check", "repair_help", "repair_digest"} and liar.lies("repair_bad_tag"):
            liar.tell(f"spoils the tags of {kind}")
            return _spoilt(result), payload
        return result, payload


def _other_stock(result: Json, liar: Liar) -> Json:
    """Return a stock with no key at all, with more than there is, or with a relay that nobody knows of."""
    changes: tuple[Json, ...] = (
        {"stored_bits": 0},
        {"stored_bits": 1 << 60, "max_key_size_bits": 8},
        {"extension": {"shosoin_relays": ["elsewhere"]}},
        {"error": "the KME is away"},
    )
    return {"links": {peer: {**told, **liar.rng.choice(changes)} for peer, told in result.get("links", {}).items()}}


def _spoilt(result: Any) -> Any:
    """Return an answer in which every tag is another one."""
    if not isinstance(result, dict):
        return result
    told = {name: _spoilt(inner) for name, inner in result.items()}
    if isinstance(told.get("tag"), str):
        told["tag"] = told["tag"][::-1] + "0"
    if "pairs" in told:
        told["pairs"] = {site: tag[::-1] if isinstance(tag, str) else tag for site, tag in told["pairs"].items()}
    return told


class _LyingHelping(Helping):
    """Helps with a share that is not its own, or shows orders that nobody gave."""

    def __init__(self, parts: NodeParts, liar: Liar, board: Board) -> None:
        super().__init__(
            replace(parts, store=_AlteredReads(parts.store, liar), challenged=partial(_altered_digest, parts, liar))
        )
        self._liar = liar
        self._board = board

    async def pads(self, attempt: Attempt, op: Json) -> tuple[Json, bytes]:
        """Draw pads, and show those behind it the order of another target."""
        if not self._liar.lies("repair_other_order"):
            return await super().pads(attempt, op)
        self._liar.tell("shows other helpers the order of another target")
        if any(peer.site in self._board.honest for peer in attempt.order.slaves_of(SiteId(self._liar.site))):
            self._board.misled.add((attempt.order.attempt, int(op.get("offset", 0))))
        shown = copy(attempt)
        shown.order = replace(attempt.order, target=replace(attempt.order.target, site=SiteId("elsewhere")))
        return await super().pads(shown, op)


class _AlteredReads:
    """The site's store, with one byte of its share changed if it lies about terms."""

    def __init__(self, inner: Any, liar: Liar) -> None:
        self._inner = inner
        self._liar = liar

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, row: ShareRow, offset: int, length: int) -> bytes:
        """Return a term's share."""
        content: bytes = await self._inner.read(row, offset, length)
        if self._liar.lies("repair_wrong_term") or self._liar.lies("repair_wrong_term_and_digest"):
            self._liar.tell("helps with a wrong term")
            return _altered(content, offset, row)
        return content


async def _altered_digest(parts: NodeParts, liar: Liar, row: ShareRow, challenge: str) -> bytes:
    """Answer the audit of a repair for the share that it helped with, if it lies in both."""
    honest = await parts.challenged(row, challenge)
    if not liar.lies("repair_wrong_term_and_digest"):
        return honest
    liar.tell("answers an audit as it helped")
    content = await parts.store.read(row, 0, row.size_bytes)
    return digest(ObjectId(challenge).raw, _altered(bytes(content), 0, row))


def _altered(content: bytes, offset: int, row: ShareRow) -> bytes:
    """Change one byte in the middle of the share, the same one whenever it is asked for."""
    at = row.size_bytes // 2 - offset
    return content if not 0 <= at < len(content) else content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :]
