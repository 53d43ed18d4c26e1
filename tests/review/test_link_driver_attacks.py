"""Channels that outlive the driver they came to, or another channel: they end, and say nothing about the pair."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from shosoin.base import PeerFault
from shosoin.keys.errors import StoreUnavailable
from shosoin.keys.messages import MESSAGE_BYTES_MAX, BlockState, BlockView, encode_message
from shosoin.keys.store import Commit, Send
from shosoin.services.link_driver import LinkDriver
from shosoin.services.link_keeping import serve_until_lost
from tests.keys.world import World


class Line:
    """A channel on which a peer has said something, and is silent then until somebody closes it."""

    peer = "b"
    group = None

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)
        self.go = asyncio.Event()
        self.closed = asyncio.Event()

    async def receive(self) -> bytes:
        await self.go.wait()
        if self.frames:
            return self.frames.pop(0)
        await self.closed.wait()
        raise PeerFault("the channel ended")

    async def send(self, *_: bytes) -> None:
        pass

    def close(self) -> None:
        self.closed.set()


def long_hello(world: World) -> bytes:
    """Return the hello of a peer with much stock."""
    (hello,) = (effect.message for effect in world.ends["b"].pair.connected() if isinstance(effect, Send))
    blocks = tuple(BlockView(number, 2 * number, 2, BlockState.READY) for number in range(5000))
    raw = encode_message(replace(hello, incoming=replace(hello.incoming, blocks=blocks)))
    assert len(raw) > MESSAGE_BYTES_MAX
    return raw


def driver_of(world: World) -> LinkDriver:
    end = world.ends["a"]
    events: Any = SimpleNamespace(emit=world.events.append)
    clock: Any = SimpleNamespace(now_s=lambda: 0.0)
    return LinkDriver(end.pair, end.disk, clock, events)


async def test_a_channel_that_came_as_the_store_was_lost_ends():
    """Else the peer, which dials, keeps it for ever and no other is ever opened: its hello was long."""
    world = World()
    world.heal()
    driver = driver_of(world)
    line: Any = Line(long_hello(world))

    def lost():
        yield Commit(SimpleNamespace())
        raise StoreUnavailable("the disk is gone")

    driver._store = SimpleNamespace(commit=lambda _: None, close=lambda: None)
    working = asyncio.create_task(serve_until_lost(driver, [driver.run()]))
    await asyncio.sleep(0)
    handling = asyncio.create_task(driver.handle_classical(line))
    await driver.do(lost)
    await working
    line.go.set()  # now it says hello
    done, _ = await asyncio.wait([handling], timeout=5.0)
    handling.cancel()
    driver.release()
    assert done


async def test_what_another_channel_said_before_does_not_shut_an_open_pair():
    """A process of an earlier version said hello and was replaced; the channel with the new one counts."""
    world = World()
    world.heal()
    driver = driver_of(world)
    old: Any = Line(json.dumps({"type": "hello", "version": 1}).encode())
    new: Any = Line()
    handling = [asyncio.create_task(driver.handle_classical(line)) for line in (old, new)]
    await asyncio.sleep(0)
    old.go.set()
    await handling[0]
    refusal = driver.pair.refusal
    new.go.set()
    new.close()
    await handling[1]
    driver.release()
    assert not refusal
