"""Carries out the steps of one pair, one after the other: disk work in a thread, messages on the classical channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, TypeVar

from shosoin.base import ShosoinError
from shosoin.base.ports import Clock, EventSink
from shosoin.kernels import polynomial_mac
from shosoin.keys.errors import PairProtocolError, StoreUnavailable, StreamNotReady, StreamRefused
from shosoin.keys.messages import (
    HELLO_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    OTHER_VERSION,
    Closed,
    Leased,
    Message,
    decode_message,
    encode_message,
)
from shosoin.keys.pair import PairEnd
from shosoin.keys.store import Batch, BurnCopies, Commit, Effect, Emit, Mac, ReadBlock, Send, Steps, StreamStore
from shosoin.services.json_log import described, log
from shosoin.services.peer_channel import Channel

__all__ = ["LinkDriver"]

T = TypeVar("T")
_QUEUE_MAX = 64
_TICK_S = 0.25
_TICKS_PER_SIGN = 8
"""How often the store is told that its owner is there, and asked whether it still is the owner: every 2 s."""
_ANSWER_S = 5.0
"""A peer that leaves a lease unanswered for longer does not count as there, whatever its connection says."""


@dataclass(frozen=True, slots=True)
class _OnStore:
    """An effect of this module's own: something done in the store's thread."""

    work: Callable[[], None]


_Steps = Generator[Effect | _OnStore, Any, None]


@dataclass(frozen=True, slots=True)
class _Item:
    make: Callable[[], _Steps] = field(repr=False)  # may hold key bits
    channel: Channel | None = None
    """Where the event came from; it is void when that channel is no longer the pair's."""
    done: asyncio.Event | None = None


async def _no_copies() -> None:
    raise StreamRefused("the multicast copies of a burned pair cannot be reached from here")


class LinkDriver:
    """Runs one ``PairEnd``: its queue of events, its store's thread, its classical channel.

    Args:
        burn_copies: removes the multicast copies of the pair, wherever they are, durably.
    """

    def __init__(
        self,
        pair: PairEnd,
        store: StreamStore,
        clock: Clock,
        events: EventSink,
        burn_copies: Callable[[], Awaitable[None]] = _no_copies,
    ) -> None:
        self.pair = pair
        self.progress = asyncio.Event()
        self.failed = False
        self.lost = asyncio.Event()
        """Set when the store failed in a way that may pass: whoever opens the pair anew may go on."""
        self.is_changed = False
        """Whether it was lost because what is stored was changed, so that nothing speaks against opening it at once."""
        self.replaced = asyncio.Event()
        """For whoever opens the pair anew to set once that was tried."""
        self._store, self._clock, self._events = store, clock, events
        self._burn_copies = burn_copies
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"store-{pair.peer}")
        self._queue: asyncio.Queue[_Item] = asyncio.Queue(_QUEUE_MAX)
        self._channel: Channel | None = None
        """Where messages are sent; follows ``_latest`` in turn."""
        self._latest: Channel | None = None
        self._leased = asyncio.Event()
        self._closed = asyncio.Event()
        self._lease_asked = False
        self._lease_asked_s = 0.0
        self._over = False

    async def start(self) -> None:
        """Load the journal.

        Raises:
            StreamRefused: if it cannot be used.
        """
        await self._carry_out(self.pair.start())

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work())
                tasks.create_task(self._tick())
        finally:
            self._over = True
            while not self._queue.empty():  # whoever waits, for room or an end, must not wait for ever
                left = self._queue.get_nowait()
                if left.done is not None:
                    left.done.set()

    async def handle_classical(self, channel: Channel) -> None:
        """Exchange messages on a channel until it ends."""
        # At once, not in turn: the turn may never come while something is being sent to a peer that does not read.
        if self._latest is not None:
            self._latest.close()
        self._latest = channel
        await self._queue.put(_Item(lambda: self._attach(channel)))
        try:
            bytes_max = HELLO_BYTES_MAX  # a hello comes first, and no other message is so long
            while not self.failed:
                raw = await channel.receive()
                message = await _decoded(raw, bytes_max)
                # A long one waits for its turn outside the queue, so that not 64 of them are in memory.
                done = asyncio.Event() if len(raw) > MESSAGE_BYTES_MAX else None
                await self._queue.put(_Item(partial(self._receive, message), channel, done))
                bytes_max = MESSAGE_BYTES_MAX
                if done is not None and not self._over:
                    await done.wait()
        except ShosoinError as err:
            if err.code == OTHER_VERSION and channel is self._latest:
                self.pair.refusal = err.message  # nothing opens before that is mended: whoever asks is told why
            log("peer.channel_ended", peer=self.pair.peer, reason=err.message)
        finally:
            if not self._over:
                await self._queue.put(_Item(lambda: self._detach(channel)))

    async def do(self, steps: Callable[[], _Steps]) -> None:
        """Queue steps and wait until they are done, or nobody does them any more."""
        done = asyncio.Event()
        await self._queue.put(_Item(steps, done=done))
        if not self._over:
            await done.wait()

    async def on_store(self, work: Callable[[StreamStore], T], *, and_open_anew: bool) -> T:
        """Have something done to the store itself, in turn.

        Args:
            and_open_anew: whether the pair hands out nothing from here on, until it is opened anew.

        Raises:
            StreamNotReady: the pair is not in use.
        """
        result: Future[T] = Future()

        def attempt() -> None:
            try:
                result.set_result(work(self._store))
            except Exception as err:  # noqa: BLE001  # told to whoever waits for the result
                result.set_exception(err)

        def steps() -> _Steps:
            if and_open_anew:
                self.pair.abandon()
            yield _OnStore(attempt)
            if and_open_anew:
                self.is_changed = True
                raise StoreUnavailable("what is stored was changed, and is read anew")

        await self.do(steps)
        if not result.done():
            raise StreamNotReady(f"the stream with {self.pair.peer} is not in use now", retry_after_s=1.0)
        return result.result()

    def ask_lease(self, granules: int = 0) -> None:
        """Ask the peer for a higher lease, unless that is under way."""
        if self._lease_asked or self._queue.full() or not self.pair.is_connected:
            return
        self._lease_asked, self._lease_asked_s = True, self._clock.now_s()
        self._leased.clear()
        self._queue.put_nowait(_Item(lambda: self._extend_lease(granules)))

    @property
    def is_answered(self) -> bool:
        """Whether the peer is connected and, as far as it was asked, answers."""
        waited_s = self._clock.now_s() - self._lease_asked_s if self._lease_asked else 0.0
        return self.pair.is_connected and waited_s <= _ANSWER_S

    @property
    def key_exchange_group(self) -> str | None:
        """The TLS group of the classical channel; None without one, or where the TLS library cannot tell."""
        return self._channel.group if self._channel is not None else None

    async def wait_lease(self, granules: int) -> None:
        """Wait for the next lease.

        Raises:
            StreamNotReady: if the peer cannot be asked.
        """
        if not self.pair.is_connected:
            raise StreamNotReady(f"{self.pair.peer} cannot be asked for a lease now", retry_after_s=1.0)
        self.ask_lease(granules)
        if self._lease_asked:
            await self._leased.wait()
        else:
            await asyncio.sleep(0.01)

    async def stop(self, timeout_s: float) -> None:
        """Overwrite what was consumed, leave word with the peer, and let go of the store."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.do(lambda: self.pair.tick(self._clock.now_s()))
                connected = self.pair.is_connected
                await self.do(self.pair.close)
                if connected and not self.failed:
                    await self._closed.wait()
        except TimeoutError:
            log("peer.no_farewell", peer=self.pair.peer)

    def release(self) -> None:
        """Let go of the store, after ``run`` has ended."""
        self.pair.wipe()
        self._thread.shutdown(wait=True)
        self._store.close()

    def _receive(self, message: Message) -> Steps:
        is_answer = isinstance(message, Leased | Closed) and self.pair.concerns(message)
        yield from self.pair.receive(message, self._clock.now_s())
        if is_answer and isinstance(message, Leased):
            self._lease_over()
        elif is_answer:
            self._closed.set()

    def _extend_lease(self, granules: int) -> Steps:
        sent = False
        for effect in self.pair.extend_lease(granules):
            sent = sent or isinstance(effect, Send)
            yield effect
        if not sent:
            self._lease_over()

    def _lease_over(self) -> None:
        self._lease_asked = False
        self._leased.set()

    def _attach(self, channel: Channel) -> Steps:
        self._channel = channel
        self._lease_over()
        yield from self.pair.connected()

    def _detach(self, channel: Channel) -> Steps:
        if self._channel is channel:
            self._channel = None
            self._lease_over()
            self.pair.disconnected()
        yield from ()

    async def _tick(self) -> None:
        for number in count():
            await asyncio.sleep(_TICK_S)
            await self.do(lambda: self.pair.tick(self._clock.now_s()))
            if number % _TICKS_PER_SIGN == 0:
                await self.do(_sign_of_life)

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            stale = item.channel is not None and item.channel is not self._channel
            try:
                if not self.failed and not stale:
                    await self._carry_out(item.make())
            except StreamRefused as err:
                self._give_up(err)
            except ShosoinError as err:
                log("peer.protocol_error", peer=self.pair.peer, reason=err.message)
                self._drop_channel()
            except Exception as err:  # noqa: BLE001  # whatever one peer provokes must not end the other pairs
                log("stream.defect", peer=self.pair.peer, **described(err))
                self._give_up(StreamRefused("a defect of this program"))
            finally:  # also where this is cancelled: whoever waits must not wait for ever
                if item.done is not None:
                    item.done.set()
            self.progress.set()

    async def _carry_out(self, steps: _Steps) -> None:
        answer: Any = None
        try:
            while True:
                answer = await self._effect(steps.send(answer))
        except StopIteration:
            return
        finally:
            steps.close()

    async def _effect(self, effect: Effect | _OnStore) -> Any:
        loop = asyncio.get_running_loop()
        match effect:
            case Commit(batch):
                return await loop.run_in_executor(self._thread, self._store.commit, batch)
            case ReadBlock(name):
                return await loop.run_in_executor(self._thread, self._store.read_block, name)
            case Mac(key, parts):
                return await loop.run_in_executor(self._thread, _mac, key, parts)
            case Send(message):
                if self._channel is not None:
                    await self._channel.send(encode_message(message))
            case Emit(event):
                self._events.emit(event)
            case BurnCopies():
                await self._burn_copies()
            case _OnStore(work):
                return await loop.run_in_executor(self._thread, work)
        return None

    def _drop_channel(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._lease_over()
        self.pair.disconnected()

    def _give_up(self, err: StreamRefused) -> None:
        self.failed = True
        self.pair.abandon()
        self._drop_channel()
        log("stream.failed", peer=self.pair.peer, reason=err.message)
        if isinstance(err, StoreUnavailable):
            self.lost.set()


async def _decoded(raw: bytes, bytes_max: int) -> Message:
    if len(raw) <= MESSAGE_BYTES_MAX:
        return decode_message(raw)
    if len(raw) > bytes_max:
        raise PairProtocolError(f"message of {len(raw)} bytes, expected at most {bytes_max}")
    return await asyncio.get_running_loop().run_in_executor(None, decode_message, raw)


def _sign_of_life() -> Steps:
    """Commit nothing: a store that has lost its owner, or its owner the store, says so."""
    yield Commit(Batch())


def _mac(key: bytes, parts: tuple[bytes | bytearray, ...]) -> bytes:
    return polynomial_mac(key, b"".join(parts))
