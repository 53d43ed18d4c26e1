"""The ETSI GS QKD 004 streams whose home this KME is: made, joined, fed with keys, ended.

Nothing here talks to an application; ``shosoin.services.etsi004_streams`` does, for both ends. What far's KME must be
told when a stream ends or a chunk expires is put aside in ``voids`` until somebody carries it there.
"""

from __future__ import annotations

import asyncio
import hmac
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

from shosoin.base import Entropy, KmeId, PeerFault, SaeId, Unavailable
from shosoin.base.ports import Clock
from shosoin.keys.demands import Demands
from shosoin.keys.errors import DemandUnmet, LeaseNeeded, StreamNotReady
from shosoin.keys.kme import Delivery, Kme
from shosoin.keys.qos004 import Offer, Pace, negotiate
from shosoin.keys.stream004 import CallRefused, Chunk, HomeStream
from shosoin.keys.wire004 import Qos, Status
from shosoin.link.port import LinkFacts
from shosoin.services.etsi004_config import Etsi004Section
from shosoin.services.etsi004_messages import (
    KEY_IDS_MAX,
    AskChunk,
    AskState,
    ChunkTold,
    Join,
    Joined,
    Leave,
    Left,
    State,
    Void,
    ksid_of,
    qos_list,
    qos_of,
)
from shosoin.services.json_log import log
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.sae_http import Drawing

__all__ = ["Home", "Homes"]

_VOIDS_MAX = 4096
_AWAITING_NEAR_MAX = 128
"""Streams that one KME's applications opened and that no application here knows of yet."""
_WORD_MAX = (1 << 32) - 1


@dataclass(slots=True, eq=False)
class Home:
    """A stream at its home, and what surrounds it."""

    stream: HomeStream
    far_kme: KmeId
    opener: SaeId
    """Whose stream it is when streams are counted."""
    pace: Pace
    proposed: bool
    """Whether the QoS is a counter-proposal that nobody has taken up yet."""
    facts: LinkFacts
    run: str
    """Tells it from another stream that has the same KSID later."""
    burn_mark: str
    """Of the pair when the stream was made."""
    is_ours: bool = False
    """Whether the KSID was made here, so that the other application cannot know it yet."""
    holder: object | None = None
    """Near's connection, while it is there."""
    token: str = ""
    drawing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Homes:
    """All streams of one KME that are fed here."""

    def __init__(self, kme: Kme, drawing: Drawing, entropy: Entropy, clock: Clock, limits: Etsi004Section) -> None:
        self._kme, self._drawing = kme, drawing
        self._entropy, self._clock, self._limits = entropy, clock, limits
        self._homes: dict[UUID, Home] = {}
        self.reserved = MemoryBudget(limits.max_reserved_bytes, code="etsi004.busy")
        self.voids: deque[tuple[KmeId, Void]] = deque(maxlen=_VOIDS_MAX)

    def __len__(self) -> int:
        return len(self._homes)

    def __iter__(self) -> Iterator[Home]:
        return iter(list(self._homes.values()))

    def get(self, ksid: UUID) -> Home | None:
        """Return a stream."""
        return self._homes.get(ksid)

    def opened_by(self, sae: SaeId) -> int:
        """Return how many streams an SAE has made here."""
        return sum(home.opener == sae for home in self._homes.values())

    # Making

    def offer(self, near: SaeId, far: SaeId) -> Offer:
        """Return what a stream from ``near`` to ``far`` can have now.

        Raises:
            CallRefused: there is no key stream between their KMEs at this moment.
        """
        if not self._kme.status(near, far).stream_open:
            raise CallRefused(Status.NO_QKD_CONNECTION, "there is no key stream between the two")
        limits, policy, far_kme = self._limits, self._kme.policies.of(near, far), self._kme.kme_of(far)
        bounds, rate_bps = policy.limits, self._kme.facts_of(far).secret_key_rate_bps
        yields_bps = int(rate_bps) if far_kme != self._kme.kme_id else limits.max_bps
        plain_bps = int(yields_bps * (1.0 - self._kme.reserved_share(far_kme)))
        shortest = max(1, -(-bounds.min_key_size_bits // 8))
        longest = min(limits.max_chunk_bytes, bounds.max_key_size_bits // 8, bounds.max_request_bytes)
        if shortest > longest:
            raise CallRefused(
                Status.NO_QKD_CONNECTION, f"keys have {shortest} bytes at least, chunks {longest} at most"
            )
        return Offer(
            chunk_bytes_min=shortest,
            chunk_bytes_max=longest,
            chunk_bytes=limits.chunk_bytes,
            max_bps=limits.max_bps,
            spare_bps=_word(yields_bps - self._promised_bps(far_kme, lambda _: True)),
            plain_bps=_word(plain_bps - self._promised_bps(far_kme, lambda priority: priority == 0)),
            priority_max=_word(policy.priority),
            timeout_ms=limits.timeout_ms,
            timeout_ms_max=limits.max_timeout_ms,
            ttl_s=limits.ttl_s,
            ttl_s_max=limits.max_ttl_s,
        )

    def _promised_bps(self, far_kme: KmeId, counts: Callable[[int], bool]) -> int:
        """Return the Min_bps of all streams to a KME that are agreed, and whose priority counts."""
        homes = (home for home in self._homes.values() if home.far_kme == far_kme and not home.proposed)
        return sum(home.stream.qos.min_bps for home in homes if counts(home.stream.qos.priority))

    def _kept_back_bits(self, home: Home) -> int:
        """Return what a stream leaves in stock: a second of what streams of a higher priority were promised."""
        return self._promised_bps(home.far_kme, lambda priority: priority > home.stream.qos.priority)

    def make(self, ksid: UUID, near: SaeId, far: SaeId, wanted: Qos, opener: SaeId) -> Home:
        """Make a stream.

        Raises:
            CallRefused: there is no key stream, or there are too many of these.
        """
        limits = self._limits
        if len(self._homes) >= limits.max_streams or self.opened_by(opener) >= limits.max_streams_per_sae:
            raise CallRefused(Status.NO_QKD_CONNECTION, f"{opener} has too many streams")
        qos, met = negotiate(wanted, self.offer(near, far))
        facts = self._kme.facts_of(far)
        stream = HomeStream(ksid, near, far, qos, self._window(qos), self._clock.now_s())
        run = self._entropy.random_bytes(16).hex()
        far_kme, pace = self._kme.kme_of(far), Pace(self._clock, qos)
        mark = self._kme.burn_mark(far_kme)
        home = Home(stream, far_kme, opener, pace, proposed=not met, facts=facts, run=run, burn_mark=mark)
        self._homes[ksid] = home
        log("etsi004.made", caller=opener, ksid=str(ksid), near=near, far=far, met=met)
        return home

    def propose_again(self, home: Home, wanted: Qos) -> None:
        """Negotiate anew, while nobody has taken the first proposal up."""
        stream = home.stream
        qos, met = negotiate(wanted, self.offer(stream.near, stream.far))
        stream.qos, stream.window = qos, self._window(qos)
        home.pace, home.proposed = Pace(self._clock, qos), not met

    def _window(self, qos: Qos) -> int:
        return self._limits.max_stream_reserved_bytes // qos.key_chunk_size_bytes

    # What far's KME asks

    def join(self, peer: KmeId, question: Join) -> Joined:
        """Let far in; make the stream here if it is nowhere and this KME is the one to make it."""
        ksid, caller, other = ksid_of(question.ksid), SaeId(question.caller), SaeId(question.other)
        wanted = qos_of(question.qos)
        if self._kme.home_of(caller) != peer or self._kme.home_of(other) != self._kme.kme_id or caller == other:
            raise PeerFault(f"{peer} asks for {caller} and {other}", code="etsi004.bad_question")
        home = self._homes.get(ksid)
        if home is None:
            if peer <= self._kme.kme_id:  # of two KMEs the one with the lower id makes what both were told to open
                return Joined(known=False)
            if self._awaiting_near(peer) >= _AWAITING_NEAR_MAX:
                raise CallRefused(Status.NO_QKD_CONNECTION, f"{peer} opened too many streams that nobody here joined")
            home = self.make(ksid, other, caller, wanted, caller)
        stream = home.stream
        left = stream.closed and not stream.far_open
        if (stream.near, stream.far, home.far_kme) != (other, caller, peer) or left:
            raise CallRefused(Status.KSID_IN_USE, "that KSID is in use")
        if home.proposed and not stream.near_open and stream.far_open:
            self.propose_again(home, wanted)
        home.token = self._entropy.random_bytes(16).hex()
        stream.far_open, stream.active_s = True, self._clock.now_s()
        met = not home.proposed or stream.near_open  # whoever comes second takes what there is
        if stream.near_open:
            home.proposed = False
        following = stream.told.following
        return Joined(True, met, stream.near_open, home.token, home.run, qos_list(stream.qos), following)

    def _awaiting_near(self, peer: KmeId) -> int:
        return sum(home.far_kme == peer and not home.stream.near_open for home in self._homes.values())

    def state(self, peer: KmeId, question: AskState) -> State:
        """Say whether near is there, or was: what it left reserved can be had."""
        stream = self._joined(peer, question.ksid, question.token).stream
        return State(stream.near_open or stream.closed)

    async def chunk(self, peer: KmeId, question: AskChunk) -> ChunkTold:
        """Tell the key_ID of a chunk, drawing it if it is new."""
        home = self._joined(peer, question.ksid, question.token)
        try:
            await self.reserve(home, question.position)
            now_s = self._clock.now_s()
            chunk = home.stream.tell(question.position, now_s)
        except CallRefused as err:
            return ChunkTold(err.status)
        except (StreamNotReady, LeaseNeeded):
            return ChunkTold(Status.TIMEOUT)
        except Unavailable:
            return ChunkTold(Status.INSUFFICIENT_KEY)
        return ChunkTold(Status.SUCCESS, chunk.key_id, age_ms(chunk, now_s))

    def leave(self, peer: KmeId, question: Leave) -> Left:
        """Let far go."""
        home = self._joined(peer, question.ksid, question.token)
        key_ids = home.stream.close_far()
        if not home.stream.near_open:
            self.end(home, "closed")
        return Left(key_ids[:KEY_IDS_MAX])

    def _joined(self, peer: KmeId, ksid: str, token: str) -> Home:
        home = self._homes.get(ksid_of(ksid))
        valid = home is not None and home.stream.far_open and home.far_kme == peer
        if home is None or not valid or not hmac.compare_digest(home.token.encode(), token.encode()):
            raise CallRefused(Status.NO_QKD_CONNECTION, "no such stream")
        return home

    # Feeding

    async def for_near(self, home: Home, position: int) -> Chunk:
        """Return a chunk as ``reserve`` does, also one that waits in memory only while keys of the pair may be had."""
        self._kme.require_stream(home.far_kme)
        self._end_burned(home)
        return await self.reserve(home, position)

    def _end_burned(self, home: Home) -> None:
        """End a stream of whose reserved chunks every other copy was burned; what is asked of it then is refused."""
        if home.burn_mark != self._kme.burn_mark(home.far_kme):
            self.end(home, "burned")

    async def reserve(self, home: Home, position: int) -> Chunk:
        """Return the chunk at a position, drawn if it is new.

        Raises:
            CallRefused: it cannot be had.
            StreamNotReady: it may be had later.
        """
        stream = home.stream
        async with home.drawing:
            chunk = stream.chunk(position)
            if chunk is not None:
                return chunk
            stream.check_new(position)
            claim = self.reserved.claim()
            try:
                chunk = await self._draw(home, claim)
            except BaseException:
                claim.drop()
                raise
            stream.add(position, chunk)
            if stream.closed or self._homes.get(stream.ksid) is not home:
                self._forget(home, position)
            return chunk

    async def _draw(self, home: Home, claim: Claim) -> Chunk:
        stream = home.stream

        def admit(_: int, total_bytes: int) -> None:
            claim.take(stream.near, total_bytes)

        near, far, oldest_s = stream.near, stream.far, self._kme.max_age_s(stream.near, stream.far)
        try:
            delivery: Delivery = await self._drawing.draw(
                near,
                far,
                1,
                stream.qos.key_chunk_size_bytes * 8,
                admit,
                Demands(max_age_s=oldest_s, leave_bits=self._kept_back_bits(home)),
            )
        except DemandUnmet as err:
            raise CallRefused(Status.INSUFFICIENT_KEY, "what is left is too old") from err
        key, now_s = delivery.keys[0], self._clock.now_s()
        until_s = math.inf if oldest_s is None else now_s + oldest_s - (delivery.age_s or 0.0)
        return Chunk(key.key_id, now_s, bytearray(key.material.take()), claim.drop, until_s)

    def _forget(self, home: Home, position: int) -> None:
        """Drop a chunk that was drawn while an end called CLOSE."""
        self._void(home, home.stream.drop(position), over=False)
        raise CallRefused(Status.PEER_NOT_CONNECTED_GET_KEY, "the peer application is not connected")

    # Ending

    def close(self, home: Home) -> None:
        """Near called CLOSE: what is reserved for far can still be had."""
        home.stream.close_near()
        home.holder = None
        if not home.stream.far_open:
            self.end(home, "closed")

    def sweep(self) -> None:
        """Do what time makes due."""
        now_s = self._clock.now_s()
        for home in self:
            self._end_burned(home)
            expired = home.stream.expire(now_s)
            if expired:
                self._void(home, expired, over=False)
            if home.stream.is_over(now_s, self._limits.peer_wait_s):
                self.end(home, "expired")

    def end(self, home: Home, why: str) -> None:
        """End a stream and erase what it holds."""
        if self._homes.pop(home.stream.ksid, None) is None:
            return
        was_joined = home.stream.far_open
        key_ids = home.stream.end()
        log(
            "etsi004.ended",
            caller=home.opener,
            ksid=str(home.stream.ksid),
            near=home.stream.near,
            far=home.stream.far,
            why=why,
        )
        if key_ids or was_joined:
            self._void(home, key_ids, over=True)

    def wipe(self) -> None:
        """Erase everything."""
        for home in self:
            home.stream.end()
        self._homes.clear()

    def _void(self, home: Home, key_ids: list[str], *, over: bool) -> None:
        stream = home.stream
        self.voids.append(
            (home.far_kme, Void(str(stream.ksid), home.run, stream.near, stream.far, key_ids[:KEY_IDS_MAX], over))
        )


def _word(number: int) -> int:
    """Return what can be said of a number in 32 bits."""
    return max(0, min(number, _WORD_MAX))


def age_ms(chunk: Chunk, now_s: float) -> int:
    """Return how long ago a chunk was made available."""
    return min(_WORD_MAX, int(max(0.0, now_s - chunk.drawn_s) * 1000))
