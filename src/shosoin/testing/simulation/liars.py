"""Sites that lie: a share node with the right keys and seals whose answers are wrong on purpose.

Lies are made behind the seal, so every wrong answer is authentic. A lying site may know everything that its clients
tell it, which of them asks, and what it answered before. It lies from a time on, with a probability for each operation.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from shosoin.base import ObjectId, OwnerId, SimulationRng
from shosoin.testing.simulation.kernel import Process
from shosoin.testing.simulation.plan import Lie
from shosoin.testing.simulation.repair_liars import Board, make_repair_lie
from shosoin.testing.simulation.trace import Trace
from shosoin.vault import OwnerRecord, SiteNode, attestations
from shosoin.vault.operations import SiteOperations
from shosoin.vault.ports import Buffer
from shosoin.vault.signing import SiteSigner

__all__ = ["LyingNode"]

_FOREVER_S = 1e6
_ABOUT_SHARES = {"write", "take", "seal", "abort", "read", "digest", "erase", "inventory"}
_JUNK: tuple[Any, ...] = (
    {},
    {"size": -1},
    {"size": "many", "x": None},
    {"error": "no"},
    {"error": {"kind": 7, "code": None}},
    {"granted": "yes", "promised": [[]], "committed": 3},
    {"contribution": "zz"},
)
_Pair = tuple[dict[str, Any], bytes]
_NOTHING = {"committed": None, "committed_ballot": [0, ""], "certificate": None, "set": None}


class _LyingOperations(SiteOperations):
    """Runs operations and falsifies their results."""

    def __init__(self, honest: SiteOperations, liar: Liar, signer: SiteSigner) -> None:
        self._honest = honest
        self._liar = liar
        self._signer = signer

    async def run(
        self, owner: OwnerRecord, class_: str, operations: Any, payload: memoryview, answer_bytes: int
    ) -> tuple[dict[str, Any], list[Buffer]]:
        """Answer an envelope."""
        liar = self._liar
        if liar.lies("silence"):
            await liar.process.runtime.sleep(_FOREVER_S)
        told, content = liar.before(operations, payload)
        header, out = await self._honest.run(owner, class_, told, content, answer_bytes)
        await liar.ponder(operations)
        liar.pen = Pen(owner.owner, self._signer, header.setdefault("signatures", []))
        liar.reads_header(header)
        results, lied = liar.after(operations, header["results"], out)
        return {**header, "results": results}, lied


class LyingNode(SiteNode):
    """A share node that lies."""

    def make_lie(self, liar: Liar, signer: SiteSigner, board: Board) -> None:
        """Lie from now on, and sign it."""
        if liar.about_repair:
            make_repair_lie(self._operations._repair, liar, board)  # noqa: SLF001  # it is this node's own
        self._operations = _LyingOperations(self._operations, liar, signer)


@dataclass(slots=True)
class Pen:
    """Signs lies about registers: the key is the site's own."""

    owner: OwnerId
    signer: SiteSigner
    signatures: list[str]

    def sign(self, result: dict[str, Any], statement: bytes) -> dict[str, Any]:
        """Return the result with a signature that holds."""
        (path,), signature = self.signer.sign_together([statement], attestations.STATEMENT_CONTEXT)
        self.signatures.append(base64.b64encode(signature).decode())
        return {**result, "path": base64.b64encode(path).decode(), "signed": len(self.signatures) - 1}

    def promise(self, op: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
        """Promise what an operation asks, with the state that the result shows."""
        ballot, held = _ballot(op.get("ballot")), _ballot(result.get("committed_ballot"))
        digest = attestations.digest_of(result["committed"]) if result.get("committed") else None
        register = ObjectId(str(op.get("register")))
        return self.sign({**result, "granted": True}, attestations.promise(self.owner, register, ballot, held, digest))

    def accept(self, op: dict[str, Any]) -> dict[str, Any]:
        """Accept a value."""
        digest = attestations.digest_of(str(op.get("value")))
        register = ObjectId(str(op.get("register")))
        statement = attestations.acceptance(self.owner, register, _ballot(op.get("ballot")), digest)
        return self.sign({"granted": True}, statement)


def _ballot(raw: Any) -> tuple[int, str]:
    return (raw[0], raw[1]) if isinstance(raw, list) and len(raw) == 2 else (0, "")


class Liar:
    """What one site lies about; keeps what it needs to over restarts."""

    def __init__(self, site: str, lies: Sequence[Lie], seed: int, trace: Trace) -> None:
        self.site = site
        self.process: Process = None  # type: ignore[assignment]  # set whenever its node starts
        self._lies = {lie.kind: lie for lie in lies}
        self._rng = SimulationRng(seed)
        self._trace = trace
        self.pen: Pen = None  # type: ignore[assignment]  # set for every answer
        self._said: dict[str, list[_Pair]] = {}
        self._old: dict[tuple[str, str], dict[str, Any]] = {}
        """The first register answers, for each client and register."""
        self.rng = self._rng
        self.about_repair = any(kind.startswith("repair_") for kind in self._lies)
        self.said_of_repair: dict[str, list[_Pair]] = {}

    def lies(self, kind: str) -> bool:
        """Whether to lie in this way now."""
        lie = self._lies.get(kind)
        if lie is None or self.process.kernel.now_s < lie.at_s:
            return False
        return self._rng.uniform(0.0, 1.0) < lie.rate

    def tell(self, what: str) -> None:
        """Tell the trace of a lie about repair."""
        self._tell(what)
        self._trace.counts["lies about repair"] += 1

    async def ponder(self, operations: Any) -> None:
        """Take time before an answer; this liar needs none."""

    def reads_header(self, header: dict[str, Any]) -> None:
        """Look at, and change, what the answer says beside its results; this liar does not."""

    def _tell(self, what: str) -> None:
        self._trace.tell(self.site, f"lies: {what}", count="lies")

    def before(self, operations: Any, payload: memoryview) -> tuple[Any, memoryview]:
        """Leave out what it will only claim to have done."""
        if not isinstance(operations, list) or not self.lies("claim_stored"):
            return operations, payload
        told, content, position = [], [], 0
        for op in operations:
            kind = str(op.get("op"))
            size = op["size"] if kind == "write" else 0
            if kind in {"write", "take", "seal"}:
                told.append({"op": "inventory", "after": "f" * 32, "limit": 1})
                content.append(b"")
            else:
                told.append(op)
                content.append(bytes(payload[position : position + size]))
            position += size
        return told, memoryview(b"".join(content))

    def after(
        self, operations: Any, results: list[dict[str, Any]], out: Sequence[Buffer]
    ) -> tuple[list[dict[str, Any]], list[Buffer]]:
        """Falsify results."""
        pieces = iter(out)
        pairs: list[_Pair] = []
        for op, result in zip(operations, results, strict=True):
            has = str(op.get("op")) in {"read", "digest", "repair_digest"} and "error" not in result
            pairs.append(self._falsified(op, result, bytes(next(pieces)) if has else b""))
        told = [result for result, _ in pairs]
        shares_alone = all(str(op.get("op")) in _ABOUT_SHARES for op in operations)
        if self.lies("junk" if shares_alone else "junk_registers") and self._rng.integer(0, 3) == 0:
            self._tell("gives another number of results than was asked")
            told = self._rng.choice(([], told[:-1], [*told, {}], told[::-1]))
        return told, [content for _, content in pairs if content]

    def _falsified(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        kind = str(op.get("op"))
        honest = (result, content)
        said = self._said.setdefault(kind, [])
        if self.lies("replay" if kind in _ABOUT_SHARES else "replay_registers") and said:
            self._tell(f"repeats an old answer to {kind}")
            return self._rng.choice(said)
        said.append(deepcopy(honest))
        if self.lies("junk" if kind in _ABOUT_SHARES else "junk_registers"):
            self._tell(f"answers junk to {kind}")
            return deepcopy(self._rng.choice(_JUNK)), content
        about: Callable[[dict[str, Any], dict[str, Any], bytes], _Pair] | None = {
            "read": self._read,
            "digest": self._digest,
            "write": self._claim,
            "take": self._claim,
            "seal": self._claim,
            "accept": self._accept,
            "prepare": self._prepare,
            "register": self._register,
        }.get(kind)
        return about(op, result, content) if about else honest

    def _read(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if self.lies("deny_share"):
            self._tell("denies its share")
            return {"error": {"kind": "unavailable", "code": "vault.no_share", "message": "no such share"}}, b""
        if content and self.lies("wrong_share"):
            self._tell("gives a wrong share")
            return result, self._rng.pseudo_bytes(len(content))
        if content and self.lies("shifted_share"):
            self._tell("shifts its share by one bit")
            return result, bytes([content[0] ^ 1]) + content[1:]
        return result, content

    def _digest(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if self.lies("wrong_digest"):
            self._tell("gives a wrong digest")
            return {"size": 16}, self._rng.pseudo_bytes(16)
        return result, content

    def _claim(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if "shares" in result:  # what ``before`` put in the place of the operation
            self._tell(f"claims to have done {op['op']}")
            return ({"commitment": self._rng.pseudo_bytes(48).hex()} if op["op"] == "seal" else {}), b""
        return result, content

    def _accept(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if "error" in result and self.lies("grant_all"):
            self._tell("accepts a value whose share it does not hold, or that nothing justifies")
            return self.pen.accept(op), b""
        if result.get("granted") is False and self.lies("grant_all"):
            self._tell("accepts what it promised not to accept")
            return self.pen.accept(op), b""
        return result, content

    def _prepare(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        if self.lies("inflate_ballots"):
            self._tell("claims to have promised a huge ballot")
            return {**result, "granted": False, "promised": [self._rng.integer(1, 1 << 40), "z"]}, b""
        if self.lies("forget_promises") and result.get("granted") is False:
            self._tell("promises twice")
            return self.pen.promise(op, result), b""
        if self.lies("forget_accepts"):
            self._tell("promises, and denies what it holds")
            return self.pen.promise(op, {**result, **_NOTHING}), b""
        shown, content = self._register(op, result, content)
        if shown is not result and shown.get("granted") is True:
            shown = self.pen.promise(op, shown)
        return shown, content

    def _register(self, op: dict[str, Any], result: dict[str, Any], content: bytes) -> _Pair:
        current = self.process.kernel.current
        client = current.origin if current else ""
        old = self._old.setdefault((client, str(op.get("register"))), deepcopy(result))
        if self.lies("fork"):
            self._tell(f"shows {client} an old state of a register")
            return {**deepcopy(old), **({"granted": result["granted"]} if "granted" in result else {})}, b""
        if result.get("committed") is not None and self.lies("forge_certificate"):
            self._tell("claims that an older value was certified under a huge ballot")
            return {**result, "committed": old.get("committed"), "committed_ballot": [1 << 30, "z"]}, b""
        if self.lies("invalid_registers"):
            self._tell("answers what is no register")
            return {**result, "committed": "{}", "certificate": "[[", "committed_ballot": [1, 2, 3]}, b""
        return result, content
