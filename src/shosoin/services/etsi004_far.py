"""The far ends of ETSI GS QKD 004 streams: what this KME keeps for applications that joined a stream made elsewhere.

A chunk is had in two steps: the stream's home is asked which key it is, then that key is fetched here, as dec_keys of
ETSI GS QKD 014 would; so what was fetched is fetched once, whatever the home says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from uuid import UUID

from shosoin.base import Denied, KmeId, PeerFault, Rejected, SaeId, ShosoinError
from shosoin.base.ports import Clock
from shosoin.keys.errors import KeyNotFound, StreamNotReady
from shosoin.keys.kme import Kme
from shosoin.keys.metadata004 import metadata_of
from shosoin.keys.qos004 import Pace
from shosoin.keys.stream004 import CallRefused, Positions, index_of, position_of
from shosoin.keys.wire004 import GetKeyRequest, GetKeyResponse, OpenConnectResponse, Qos, Status
from shosoin.link.port import LinkFacts
from shosoin.services import etsi004_messages as messages
from shosoin.services.etsi004_messages import AskChunk, AskState, ChunkTold, Joined, Leave, Left, Question, State, Void
from shosoin.services.etsi004_patience import Gone, Patience
from shosoin.services.json_log import log

__all__ = ["ERRAND_S", "Ask", "FarEnd", "FarEnds"]

ERRAND_S = 5.0
"""How long another KME may take to answer what no application waits for."""
_PENDING_MAX = 64
_ASKING_MAX = 64
"""Chunks asked for at once: a quarter of the questions that one KME answers to another."""

T = TypeVar("T")


class Ask(Protocol):
    """Asks a KME, or this one; a refusal is a ``CallRefused``."""

    async def __call__(self, kme: KmeId, question: Question, answer: type[T], timeout_s: float) -> T:
        """Return the answer."""
        ...


@dataclass(slots=True)
class _Told:
    key_id: str
    age_ms: int
    since_s: float

    def age_at(self, now_s: float) -> int:
        return self.age_ms + int((now_s - self.since_s) * 1000)


@dataclass(slots=True, eq=False)
class FarEnd:
    """The far end of a stream, at its KME."""

    ksid: UUID
    own: SaeId
    other: SaeId
    home_kme: KmeId
    token: str
    run: str
    """Which stream of that KSID it is: another, if the home has restarted."""
    qos: Qos
    pace: Pace
    had: Positions
    proposed: bool
    holder: object | None
    active_s: float
    facts: LinkFacts
    pending: dict[int, _Told] = field(default_factory=dict)
    """Chunks whose key is known here and that the application has not had."""
    asking: dict[int, asyncio.Task[_Told]] = field(default_factory=dict)


class FarEnds:
    """All far ends at one KME."""

    def __init__(self, kme: Kme, ask: Ask, clock: Clock) -> None:
        self._kme, self._ask, self._clock = kme, ask, clock
        self._ends: dict[UUID, FarEnd] = {}
        self._asking: Counter[KmeId] = Counter()

    def __len__(self) -> int:
        return len(self._ends)

    def get(self, ksid: UUID) -> FarEnd | None:
        """Return the far end of a stream."""
        return self._ends.get(ksid)

    def opened_by(self, sae: SaeId) -> int:
        """Return how many streams an SAE has joined here."""
        return sum(end.own == sae for end in self._ends.values())

    # OPEN_CONNECT

    async def enter(
        self, caller: SaeId, other: SaeId, ksid: UUID, joined: Joined, holder: object, gone: Gone
    ) -> OpenConnectResponse:
        """Keep a far end of what the home let it join; wait for near.

        Raises:
            CallRefused: near did not come in time.
        """
        qos = messages.qos_of(joined.qos)
        end = FarEnd(
            ksid=ksid,
            own=caller,
            other=other,
            home_kme=self._kme.kme_of(other),
            token=joined.token,
            run=joined.run,
            qos=qos,
            pace=Pace(self._clock, qos),
            had=Positions(joined.following),
            proposed=not joined.met,
            holder=holder,
            active_s=self._clock.now_s(),
            facts=self._kme.facts_of(other),
        )
        self._replace(self._ends.get(ksid), end)
        if not joined.met:
            return OpenConnectResponse(Status.QOS_NOT_MET, qos, ksid)
        if not joined.connected:
            await self._wait_for_near(end, Patience(self._clock, qos, gone))
        return OpenConnectResponse(Status.SUCCESS, qos, ksid)

    def _replace(self, before: FarEnd | None, end: FarEnd) -> None:
        if before is not None and before.run == end.run:
            end.had, end.pace = before.had, before.pace
            end.pending, before.pending = before.pending, {}
        elif before is not None:
            self._drop(before)
        self._ends[end.ksid] = end

    async def _wait_for_near(self, end: FarEnd, patience: Patience) -> None:
        async def ask() -> None:
            state = await self._ask(end.home_kme, AskState(str(end.ksid), end.token), State, ERRAND_S)
            if not state.connected:
                raise StreamNotReady("the peer application is not there yet")

        try:
            await patience.had(ask, "the peer application did not connect in time")
        except BaseException:  # a call that failed leaves nothing behind
            await self.leave(end)
            raise

    # GET_KEY

    async def give(self, end: FarEnd, request: GetKeyRequest, gone: Gone) -> GetKeyResponse:
        """Return a chunk that this end has not had.

        Raises:
            CallRefused: with the status.
        """
        position = position_of(request.index, end.had.following - 1, end.had.following)
        end.had.check(position)
        patience = Patience(self._clock, end.qos, gone)
        await patience.paced(end.pace)
        told = end.pending.get(position)
        if told is None:
            told = await patience.had(lambda: self._told(end, position), "the other KME did not answer")
        age_ms = told.age_at(self._clock.now_s())
        metadata = metadata_of(end.qos, request.metadata_size, age_ms, end.facts)
        bits = await patience.had(lambda: self._fetch(end, position, told.key_id), "the key stream is not open")
        end.pace.spend()
        return GetKeyResponse(Status.SUCCESS, index_of(position), bits, metadata)

    async def _told(self, end: FarEnd, position: int) -> _Told:
        """Ask a stream's home for a chunk; whoever asks for the same one waits with us.

        The question outlives an impatient call, so that calls with a short Timeout do not pile up questions that the
        home still works on.
        """
        asking = end.asking.get(position)
        if asking is None:
            if self._asking[end.home_kme] >= _ASKING_MAX:
                raise StreamNotReady(f"{_ASKING_MAX} chunks are being asked for at {end.home_kme}")
            self._asking[end.home_kme] += 1
            asking = end.asking[position] = asyncio.get_running_loop().create_task(self._tell(end, position))
            asking.add_done_callback(lambda task: self._answered(end, position, task))
        return await asyncio.shield(asking)

    def _answered(self, end: FarEnd, position: int, task: asyncio.Task[_Told]) -> None:
        self._asking[end.home_kme] -= 1
        end.asking.pop(position, None)
        if not task.cancelled():
            task.exception()  # whoever still waits is told; if nobody does, nobody need be

    async def _tell(self, end: FarEnd, position: int) -> _Told:
        question = AskChunk(str(end.ksid), end.token, position)
        try:
            answer = await self._ask(end.home_kme, question, ChunkTold, ERRAND_S)
        except CallRefused:
            self._drop(end)  # its home has restarted, or ended it
            raise
        if answer.status == Status.TIMEOUT:
            raise StreamNotReady(f"{end.home_kme} cannot draw now")
        if answer.status != Status.SUCCESS:
            raise CallRefused(messages.refusal_of(answer.status), "the stream's home has no such chunk")
        if self._ends.get(end.ksid) is None:  # it was closed meanwhile
            self._burn(end.own, end.other, [answer.key_id])
            raise CallRefused(Status.NO_QKD_CONNECTION, "the caller has no such stream")
        end.active_s = self._clock.now_s()
        told = end.pending[position] = _Told(answer.key_id, answer.age_ms, end.active_s)
        while len(end.pending) > _PENDING_MAX:  # its home tells again what was not fetched
            del end.pending[next(iter(end.pending))]
        return told

    async def _fetch(self, end: FarEnd, position: int, key_id: str) -> bytearray:
        end.had.check(position)  # another call for the same chunk may have been faster
        try:
            self._check_named(end, key_id)
            keys = self._kme.dec_keys(end.own, end.other, [key_id]).keys
        except (Rejected, Denied) as err:
            self._count_had(end, position)
            raise CallRefused(Status.INSUFFICIENT_KEY, "that chunk is gone") from err
        self._count_had(end, position)
        bits = bytearray(keys[0].material.take())
        if len(bits) != end.qos.key_chunk_size_bytes:
            raise PeerFault(f"a chunk of {len(bits)} bytes", code="etsi004.bad_answer")
        return bits

    def _check_named(self, end: FarEnd, key_id: str) -> None:
        """Check what the home told, as what it makes up must not count as the application's guess.

        Raises:
            KeyNotFound: no key of near for far is called so.
        """
        if not self._kme.may_be_named(end.own, end.other, key_id):
            log("etsi004.no_key_id", peer=end.home_kme, ksid=str(end.ksid))
            raise KeyNotFound

    def _count_had(self, end: FarEnd, position: int) -> None:
        end.had.add(position)
        end.pending.pop(position, None)

    # CLOSE, and what ends otherwise

    async def leave(self, end: FarEnd) -> None:
        """Take an end away and tell the stream's home."""
        self._drop(end)
        try:
            left = await self._ask(end.home_kme, Leave(str(end.ksid), end.token), Left, ERRAND_S)
        except ShosoinError as err:
            log("etsi004.left_unheard", ksid=str(end.ksid), peer=end.home_kme, reason=err.message)
            return
        self._burn(end.own, end.other, messages.texts(left.key_ids))

    def void(self, peer: KmeId, void: Void) -> None:
        """Burn what the home of a stream says that nobody will ask for.

        Raises:
            PeerFault: it is not the home's to say.
        """
        near, far = SaeId(void.near), SaeId(void.far)
        if self._kme.home_of(near) != peer or self._kme.home_of(far) != self._kme.kme_id:
            raise PeerFault(f"{peer} speaks of {near} and {far}", code="etsi004.bad_question")
        self._burn(far, near, messages.texts(void.key_ids))
        end = self._ends.get(messages.ksid_of(void.ksid))
        if void.over and end is not None and (end.other, end.own, end.run) == (near, far, void.run):
            self._drop(end)

    def idle(self) -> list[FarEnd]:
        """Return the ends that were idle for their TTL, and count them as asked after; burn what is too old."""
        now_s = self._clock.now_s()
        found = []
        for end in list(self._ends.values()):
            for position, told in list(end.pending.items()):
                if told.age_at(now_s) > end.qos.ttl_s * 1000:
                    self._count_had(end, position)
                    self._burn(end.own, end.other, [told.key_id])
            if now_s - end.active_s > end.qos.ttl_s:
                end.active_s = now_s
                found.append(end)
        return found

    async def ask_after(self, end: FarEnd) -> None:
        """Ask a stream's home whether it lives; take its end away if not, or if the home cannot be asked."""
        try:
            await self._ask(end.home_kme, AskState(str(end.ksid), end.token), State, ERRAND_S)
        except ShosoinError as err:
            log("etsi004.expired", ksid=str(end.ksid), peer=end.home_kme, reason=err.message)
            self._drop(end)

    def detach(self, holder: object) -> None:
        """Note that a connection is gone."""
        for end in self._ends.values():
            if end.holder is holder:
                end.holder = None

    def forget(self) -> None:
        """Forget all ends."""
        for end in self._ends.values():
            for asking in list(end.asking.values()):
                asking.cancel()
        self._ends.clear()

    def _drop(self, end: FarEnd) -> None:
        if self._ends.get(end.ksid) is end:
            del self._ends[end.ksid]
        self._burn(end.own, end.other, [told.key_id for told in end.pending.values()])
        end.pending.clear()

    def _burn(self, own: SaeId, other: SaeId, key_ids: list[str]) -> None:
        """Fetch and forget keys; what cannot be fetched now expires with the keys that nobody fetched."""
        for key_id in key_ids:
            if not self._kme.may_be_named(own, other, key_id):
                continue
            try:
                delivery = self._kme.dec_keys(own, other, [key_id])
            except ShosoinError:
                continue
            for key in delivery.keys:
                key.material.wipe()
