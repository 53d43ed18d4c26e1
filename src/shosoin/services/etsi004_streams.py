"""OPEN_CONNECT, GET_KEY and CLOSE of ETSI GS QKD 004 as a KME serves them, at either end of a stream.

The first caller's KME is the stream's home (``shosoin.services.etsi004_homes``), and its application the near end. The
other application is the far end (``shosoin.services.etsi004_far``), wherever it is; at one KME, the KME asks itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

from shosoin.base import Entropy, KmeId, SaeId, ShosoinError, Unavailable
from shosoin.base.ports import Clock
from shosoin.keys.kme import Kme
from shosoin.keys.metadata004 import metadata_of
from shosoin.keys.stream004 import CallRefused, index_of, position_of
from shosoin.keys.uri004 import sae_of_uri
from shosoin.keys.wire004 import (
    NO_STREAM,
    CloseRequest,
    CloseResponse,
    GetKeyRequest,
    GetKeyResponse,
    OpenConnectRequest,
    OpenConnectResponse,
    Qos,
    Status,
)
from shosoin.services.etsi004_config import Etsi004Section
from shosoin.services.etsi004_far import ERRAND_S, FarEnds
from shosoin.services.etsi004_homes import Home, Homes, age_ms
from shosoin.services.etsi004_messages import (
    SUBJECT,
    AskChunk,
    AskState,
    Join,
    Joined,
    Leave,
    Left,
    Question,
    Void,
    pack,
    qos_list,
    refusal_of,
    unpack_answer,
    unpack_question,
)
from shosoin.services.etsi004_patience import Gone, Patience
from shosoin.services.json_log import described, log
from shosoin.services.kme_requests import PeerRefused, PeerRequests
from shosoin.services.sae_http import Drawing

__all__ = ["KeyStreams"]

_SWEEP_S = 0.2
_ERRANDS_MAX = 32

T = TypeVar("T")


class KeyStreams:
    """All streams of one KME, for its applications and for other KMEs."""

    def __init__(
        self,
        kme: Kme,
        drawing: Drawing,
        requests: PeerRequests,
        entropy: Entropy,
        clock: Clock,
        limits: Etsi004Section,
    ) -> None:
        self._kme, self._requests = kme, requests
        self._entropy, self._clock, self._limits = entropy, clock, limits
        self.homes = Homes(kme, drawing, entropy, clock, limits)
        self._far = FarEnds(kme, self._ask, clock)
        self._opening: set[tuple[UUID, SaeId]] = set()
        self._errands: set[asyncio.Task[None]] = set()
        requests.serve(SUBJECT, self._serve)

    @property
    def ends(self) -> dict[str, int]:
        """How many ends of streams are here."""
        return {"near": len(self.homes), "far": len(self._far)}

    # OPEN_CONNECT

    async def open(self, caller: SaeId, request: OpenConnectRequest, holder: object, gone: Gone) -> OpenConnectResponse:
        """Make a stream, or join the one that the peer application made.

        Args:
            holder: the caller's connection; while it lasts, nobody else opens that end.

        Raises:
            CallRefused: with the status.
        """
        other = self._other(caller, request)
        if request.key_stream_id == NO_STREAM:
            self._count(caller)
            home = self.homes.make(self._new_ksid(), caller, other, request.qos, caller)
            home.is_ours = True
            return await self._wait_for_far(home, holder, gone)
        opening = request.key_stream_id, caller
        if opening in self._opening:
            raise CallRefused(Status.KSID_IN_USE, "that KSID is being opened")
        self._opening.add(opening)
        try:
            return await self._open_named(caller, other, request, holder, gone)
        finally:
            self._opening.discard(opening)

    def _other(self, caller: SaeId, request: OpenConnectRequest) -> SaeId:
        self._kme.require_own(caller)
        ends = [sae_of_uri(request.source), sae_of_uri(request.destination)]
        others = [sae for sae in ends if sae != caller]
        if len(others) != 1 or others[0] is None or self._kme.home_of(others[0]) is None:
            raise CallRefused(Status.NO_QKD_CONNECTION, "source and destination are not the caller and another SAE")
        return others[0]

    def _new_ksid(self) -> UUID:
        return UUID(bytes=bytes(self._entropy.random_bytes(16)), version=4)

    def _count(self, caller: SaeId) -> None:
        mine = self._far.opened_by(caller) + self.homes.opened_by(caller)
        if mine >= self._limits.max_streams_per_sae or len(self._far) >= self._limits.max_streams:
            raise CallRefused(Status.NO_QKD_CONNECTION, f"{caller} has too many streams")

    async def _open_named(
        self, caller: SaeId, other: SaeId, request: OpenConnectRequest, holder: object, gone: Gone
    ) -> OpenConnectResponse:
        ksid = request.key_stream_id
        home = self.homes.get(ksid)
        if home is None or (home.stream.far, home.stream.near) == (caller, other):
            self._check_far(ksid, caller, other)
            joined = await self._join(caller, other, ksid, request.qos)
            if joined.known:
                return await self._far.enter(caller, other, ksid, joined, holder, gone)
            home = self.homes.get(ksid)  # it may have come meanwhile
        return await self._enter_near(caller, other, request, home, holder, gone)

    def _check_far(self, ksid: UUID, caller: SaeId, other: SaeId) -> None:
        end = self._far.get(ksid)
        if end is None:
            self._count(caller)
        elif (end.own, end.other) != (caller, other) or (end.holder is not None and not end.proposed):
            raise CallRefused(Status.KSID_IN_USE, "that KSID is in use")

    async def _join(self, caller: SaeId, other: SaeId, ksid: UUID, wanted: Qos) -> Joined:
        kme = self._kme.kme_of(other)
        if not self._kme.status(caller, other).stream_open:
            raise CallRefused(Status.NO_QKD_CONNECTION, "there is no key stream between the two")
        try:
            return await self._ask(kme, Join(str(ksid), caller, other, qos_list(wanted)), Joined, ERRAND_S)
        except CallRefused:
            raise
        except Unavailable as err:
            raise CallRefused(Status.NO_QKD_CONNECTION, f"{kme} cannot be asked") from err

    async def _enter_near(
        self,
        caller: SaeId,
        other: SaeId,
        request: OpenConnectRequest,
        home: Home | None,
        holder: object,
        gone: Gone,
    ) -> OpenConnectResponse:
        if home is None:
            self._count(caller)
            home = self.homes.make(request.key_stream_id, caller, other, request.qos, caller)
            try:
                return await self._wait_for_far(home, holder, gone)
            except BaseException:  # a call that failed leaves nothing behind
                self.homes.end(home, "nobody came")
                raise
        stream = home.stream
        settled = stream.is_connected or home.holder is not holder
        taken = stream.near_open and home.holder is not None and settled and not home.proposed
        if (stream.near, stream.far) != (caller, other) or taken or (stream.closed and not stream.near_open):
            raise CallRefused(Status.KSID_IN_USE, "that KSID is in use")
        if home.proposed and not stream.far_open:
            self.homes.propose_again(home, request.qos)
        return await self._wait_for_far(home, holder, gone)

    async def _wait_for_far(self, home: Home, holder: object, gone: Gone) -> OpenConnectResponse:
        """Wait for far; not where the KSID is new, for then the caller must tell it to the other application first."""
        stream = home.stream
        home.holder, stream.near_open, stream.active_s = holder, True, self._clock.now_s()
        status = Status.SUCCESS
        if stream.far_open:
            home.proposed = False
        elif home.proposed:
            status = Status.QOS_NOT_MET
        elif home.is_ours:
            status = Status.PEER_NOT_CONNECTED
        else:
            patience, missing = Patience(self._clock, stream.qos, gone), "the peer application did not connect in time"
            await patience.until(lambda: stream.far_open or stream.closed, missing)
        return OpenConnectResponse(status, stream.qos, stream.ksid)

    # GET_KEY

    async def get(self, caller: SaeId, request: GetKeyRequest, gone: Gone) -> GetKeyResponse:
        """Return a chunk that this end has not had.

        Raises:
            CallRefused: with the status.
        """
        home, end = self.homes.get(request.key_stream_id), self._far.get(request.key_stream_id)
        if home is not None and home.stream.near == caller and home.stream.near_open:
            return await self._get_near(home, request, gone)
        if end is not None and end.own == caller:
            return await self._far.give(end, request, gone)
        raise CallRefused(Status.NO_QKD_CONNECTION, "the caller has no such stream")

    async def _get_near(self, home: Home, request: GetKeyRequest, gone: Gone) -> GetKeyResponse:
        stream = home.stream
        if not stream.far_open and not stream.closed:
            raise CallRefused(Status.PEER_NOT_CONNECTED_GET_KEY, "the peer application is not connected")
        position = position_of(request.index, stream.latest, stream.had.following)
        stream.had.check(position)
        patience = Patience(self._clock, stream.qos, gone)
        await patience.paced(home.pace)
        chunk = await patience.had(lambda: self.homes.for_near(home, position), "the key stream is not open")
        now_s = self._clock.now_s()
        metadata = metadata_of(stream.qos, request.metadata_size, age_ms(chunk, now_s), home.facts)
        bits = stream.take(position, now_s)
        home.pace.spend()
        return GetKeyResponse(Status.SUCCESS, index_of(position), bits, metadata)

    # CLOSE

    async def close(self, caller: SaeId, request: CloseRequest) -> CloseResponse:
        """End the caller's side of a stream.

        Raises:
            CallRefused: with the status.
        """
        home, end = self.homes.get(request.key_stream_id), self._far.get(request.key_stream_id)
        if home is not None and home.stream.near == caller and home.stream.near_open:
            self.homes.close(home)
        elif end is not None and end.own == caller:
            await self._far.leave(end)
        else:
            raise CallRefused(Status.NO_QKD_CONNECTION, "the caller has no such stream")
        return CloseResponse(Status.SUCCESS)

    def detach(self, holder: object) -> None:
        """Note that a connection is gone; its streams stay, and whoever holds their KSIDs may open them again."""
        for home in self.homes:
            if home.holder is holder:
                home.holder = None
        self._far.detach(holder)

    # Between KMEs

    async def _serve(self, peer: KmeId, raw: bytes) -> bytes:
        question = unpack_question(raw)
        match question:
            case Join():
                return pack(self.homes.join(peer, question))
            case AskState():
                return pack(self.homes.state(peer, question))
            case AskChunk():
                return pack(await self.homes.chunk(peer, question))
            case Leave():
                return pack(self.homes.leave(peer, question))
            case Void():
                self._far.void(peer, question)
        return pack(Left([]))

    async def _ask(self, kme: KmeId, question: Question, answer: type[T], timeout_s: float) -> T:
        if kme == self._kme.kme_id:
            return unpack_answer(answer, await self._serve(kme, pack(question)))
        try:
            return unpack_answer(answer, await self._requests.ask(kme, SUBJECT, pack(question), timeout_s))
        except PeerRefused as err:
            raise CallRefused(_status_of(err), err.message) from err

    # Upkeep

    async def run(self) -> None:
        """Do what time makes due, until cancelled; then nothing is left of any stream."""
        try:
            while True:
                await asyncio.sleep(_SWEEP_S)
                self.homes.sweep()
                for end in self._far.idle():
                    self._start(self._far.ask_after(end))
                while self.homes.voids and len(self._errands) < _ERRANDS_MAX:
                    self._start(self._carry(*self.homes.voids.popleft()))
        finally:
            for task in list(self._errands):
                task.cancel()
            self.homes.wipe()
            self._far.forget()

    async def _carry(self, kme: KmeId, void: Void) -> None:
        try:
            await self._ask(kme, void, Left, ERRAND_S)
        except ShosoinError as err:
            log("etsi004.void_unheard", peer=kme, ksid=void.ksid, reason=err.message)

    def _start(self, errand: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(errand)
        self._errands.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._errands.discard(task)
        if not task.cancelled() and (err := task.exception()) is not None:
            log("etsi004.errand_failed", **described(err))


def _status_of(err: PeerRefused) -> Status:
    """Return the status that a refusal of another KME stands for."""
    name = err.code.rpartition(".")[2].upper()
    return refusal_of(Status[name]) if name in Status.__members__ else Status.NO_QKD_CONNECTION
