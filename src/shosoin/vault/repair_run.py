"""One attempt to rebuild one share, as the owner's client drives it: relay what nodes say to each other, in rounds.

For every range of the share there are four rounds, and each is one exchange with every site that takes part in it:
pads (helpers draw), check (the others fetch and show their order), help (combinations, sealed for the target), take.
Ranges are in flight side by side, and no more than a few of them are in memory. The client sees key_IDs, tags and
ciphertext of other nodes' keys, and nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Alarm, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Runtime
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.channel import TIMEOUT_S, Channel
from shosoin.vault.concurrency import failure, gather, gather_few, settle
from shosoin.vault.repair_order import Party, RepairOrder

__all__ = ["AttemptRun", "SiteFailed"]

_BYTES_PER_S_MIN = 256 << 10
_DISK_BYTES_PER_S_MIN = 8 << 20
_IN_FLIGHT = 2
_ORIGINS_MAX = 16
_KIND_MAX = 64
Pace = Callable[[int], Awaitable[None]]


class SiteFailed(Unavailable):
    """A site did not do its part of an attempt; the attempt is over."""

    code = "vault.repair_failed"

    def __init__(self, site: SiteId, error: ShosoinError) -> None:
        retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
        super().__init__(f"{site}: {error.message}", code=error.code, retry_after_s=retry_after_s)
        self.site = site
        self.forged = isinstance(error, Alarm) or error.code == "vault.repair_forged"
        """Whether a message between nodes was altered, or two nodes had different orders."""


@dataclass(slots=True)
class AttemptRun:
    """Drives one order through its sites."""

    order: RepairOrder
    proof: str
    """The owner's proof, base64."""
    channels: Mapping[SiteId, Channel]
    runtime: Runtime
    chunk_bytes: int
    pace: Pace
    """Waits until so many more bytes may be rebuilt."""
    progress: Callable[[int], None]
    """Told how many more bytes were rebuilt."""
    judge: Callable[[], None] = lambda: None
    """Told when it is known where more of the helpers' keys came from; may raise."""
    contributions: list[str] = field(default_factory=list)
    origins: dict[SiteId, list[dict[str, Any]]] = field(default_factory=dict)
    """Where the keys that each helper drew came from, as it says."""

    @property
    def parties(self) -> tuple[Party, ...]:
        """Everybody who takes part."""
        return (*self.order.helpers, self.order.target)

    async def ask(
        self, party: Party, op: str, *, answer_bytes: int = 0, timeout_s: float = TIMEOUT_S, **fields: Any
    ) -> tuple[dict[str, Any], memoryview]:
        """Have a site do its part of a step.

        Raises:
            SiteFailed: it did not.
        """
        request = {"op": op, "object": self.order.object_id, "attempt": self.order.attempt, **fields}
        try:
            answer = await self.channels[party.site].exchange([request], answer_bytes=answer_bytes, timeout_s=timeout_s)
        except ShosoinError as error:
            raise SiteFailed(party.site, error) from error
        result = answer.results[0] if answer.results else {"error": {}}
        if "error" in result:
            raise SiteFailed(party.site, _told(result["error"]))
        return result, answer.payload

    async def _round(
        self, parties: Sequence[Party], op: str, fields: Callable[[Party], dict[str, Any]], timeout_s: float = TIMEOUT_S
    ) -> dict[SiteId, dict[str, Any]]:
        asked = [self.ask(party, op, timeout_s=timeout_s, **fields(party)) for party in parties]
        answers = await gather(self.runtime, asked)
        return {party.site: result for party, (result, _) in zip(parties, answers, strict=True)}

    async def open(self) -> int:
        """Give the order to everybody; return how many bytes of the share the target has from earlier attempts."""
        text = self.order.text
        opened = await self._round(self.parties, "repair_open", lambda _: {"order": text, "proof": self.proof})
        self.contributions = [str(result.get("contribution")) for result in opened.values()]
        if self.order.class_ != "its":
            await self._agree({site: _table(site, result, "offers", str) for site, result in opened.items()})
        staged = opened[self.order.target.site].get("staged")
        return staged if type(staged) is int and 0 <= staged <= self.order.size_bytes else 0

    async def _agree(self, offers: Mapping[SiteId, Mapping[str, Any]]) -> None:
        """Relay session offers and their answers (classes ``qkd`` and ``pqc``)."""
        to = _turned(offers)
        met = [party for party in self.parties if party.site in to]
        answered = await self._round(met, "repair_meet", lambda party: {"offers": to[party.site]})
        back = _turned({site: _table(site, result, "answers", str) for site, result in answered.items()})
        finishing = [party for party in self.order.helpers if party.site in back]
        await self._round(finishing, "repair_met", lambda party: {"answers": back[party.site]})

    async def transfer(self, staged_bytes: int) -> None:
        """Rebuild the share from where earlier attempts ended; its last range always comes again."""
        size = self.order.size_bytes
        start = min(staged_bytes, size - 1) // self.chunk_bytes * self.chunk_bytes
        self.progress(start)
        ranges = [(at, min(self.chunk_bytes, size - at)) for at in range(start, size, self.chunk_bytes)]
        await gather_few(self.runtime, [self._chunk(*each) for each in ranges], at_once=_IN_FLIGHT)

    async def _chunk(self, offset: int, size: int) -> None:
        await self.pace(size)
        helpers, where = self.order.helpers, {"offset": offset, "size": size}
        timeout_s = TIMEOUT_S + len(helpers) * size / _BYTES_PER_S_MIN
        drawn = await self._round(helpers[:-1], "repair_pads", lambda _: where, timeout_s)
        to = _turned({site: _table(site, result, "pairs") for site, result in drawn.items()})
        shown = await self._round(
            helpers[1:], "repair_check", lambda party: {**where, "pairs": to.get(party.site, {})}, timeout_s
        )
        back = _turned({site: _table(site, result, "pairs", str) for site, result in shown.items()})
        given = await self._round(
            helpers, "repair_help", lambda party: {**where, "pairs": back.get(party.site, {})}, timeout_s
        )
        parts = {}
        for site, result in given.items():
            self.origins[site] = _origins(site, result.pop("origins", None))
            parts[site] = result
        self.judge()
        await self.ask(self.order.target, "repair_take", timeout_s=timeout_s, parts=parts, **where)
        self.progress(size)

    async def seal(self) -> None:
        """Have the target make what it got durable."""
        timeout_s = TIMEOUT_S + self.order.size_bytes / _DISK_BYTES_PER_S_MIN
        result, _ = await self.ask(self.order.target, "repair_seal", timeout_s=timeout_s)
        self.contributions.append(str(result.get("contribution")))

    async def digests(self, challenge: str) -> dict[SiteId, int]:
        """Have the helpers, then the target, answer the audit challenge.

        Raises:
            SiteFailed: one does not answer.
        """
        timeout_s = 4 * TIMEOUT_S + self.order.size_bytes / _DISK_BYTES_PER_S_MIN
        asked = [
            self.ask(helper, "repair_digest", answer_bytes=ELEMENT_BYTES, timeout_s=timeout_s, r=challenge)
            for helper in self.order.helpers
        ]
        answers = await gather(self.runtime, asked)
        notes = {
            helper.site: {"keys": result.get("keys"), "tag": result.get("tag")}
            for helper, (result, _) in zip(self.order.helpers, answers, strict=True)
        }
        _, rebuilt = await self.ask(
            self.order.target,
            "repair_digest",
            answer_bytes=ELEMENT_BYTES,
            timeout_s=timeout_s,
            r=challenge,
            notes=notes,
        )
        digests = [payload for _, payload in answers] + [rebuilt]
        for party, digest in zip(self.parties, digests, strict=True):
            if len(digest) != ELEMENT_BYTES:
                raise SiteFailed(party.site, Unavailable("an audit answer of the wrong size", code="vault.wrong_size"))
        return {
            party.site: int.from_bytes(digest, "little") for party, digest in zip(self.parties, digests, strict=True)
        }

    async def adopt(self) -> None:
        """Have the target record what it rebuilt."""
        await self.ask(self.order.target, "repair_adopt")

    async def abort(self, *, discard: bool) -> None:
        """Have everybody forget the attempt; best effort, they forget it anyway."""
        tasks = await settle(
            self.runtime,
            (self.ask(party, "repair_abort", timeout_s=3.0, discard=discard) for party in self.parties),
        )
        for task in tasks:
            failure(task)


def _turned(sent: Mapping[Any, Mapping[str, Any]]) -> dict[Any, dict[str, Any]]:
    """Turn what each site says to others into what each site is told by others."""
    told: dict[Any, dict[str, Any]] = {}
    for sender, messages in sent.items():
        for receiver, message in messages.items():
            told.setdefault(receiver, {})[sender] = message
    return told


def _table(site: SiteId, result: Mapping[str, Any], name: str, of: type = dict) -> dict[str, Any]:
    """Read what a site says to others; what they could not read would look like their fault."""
    found = result.get(name, {})
    if not isinstance(found, dict) or not all(isinstance(told, of) for told in found.values()):
        raise SiteFailed(site, Unavailable("an answer that cannot be read", code="vault.malformed_answer"))
    return found


def _origins(site: SiteId, raw: Any) -> list[dict[str, Any]]:
    """Read where a helper's keys came from; what cannot be read would make the label say too much."""
    for origin in raw if isinstance(raw, list) and len(raw) <= _ORIGINS_MAX else [None]:
        told = origin if isinstance(origin, dict) else {}
        kind, epsilon = told.get("kind"), told.get("epsilon")
        sound = isinstance(kind, str) and len(kind) <= _KIND_MAX and isinstance(told.get("simulated"), bool)
        if not sound or type(told.get("keys")) is not int or not isinstance(epsilon, float | int | None):
            raise SiteFailed(site, Unavailable("an answer that cannot be read", code="vault.malformed_answer"))
    return list(raw)


def _told(raw: Any) -> ShosoinError:
    told = raw if isinstance(raw, dict) else {}
    code, message = str(told.get("code", "vault.malformed_answer"))[:64], str(told.get("message", ""))[:200]
    return Unavailable(message or "no answer that can be read", code=code)
