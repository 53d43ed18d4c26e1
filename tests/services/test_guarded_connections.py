"""The deadline on a connection while no handler runs, on a real loop whose clock the test sets."""

import asyncio
import selectors
import socket

import pytest

from shosoin.services.guarded_connections import ConnectionGuard, GuardedConnection

IDLE_S = 10.0


class SetClock(asyncio.SelectorEventLoop):
    """A loop whose time passes when told."""

    def __init__(self):
        self.now_s = 1000.0
        super().__init__(selectors.SelectSelector())

    def time(self):
        return self.now_s

    async def passes(self, seconds):
        self.now_s += seconds
        for _ in range(4):  # timers that are due, what they call, and what that calls
            await asyncio.sleep(0)


class Ended(asyncio.Protocol):
    def __init__(self):
        self.ended = False

    def connection_lost(self, exc):
        self.ended = True


@pytest.fixture
def loop():
    loop = SetClock()
    yield loop
    loop.close()


def guarded(loop, story):
    """Run a story with a guarded connection over a real socket, the web server's protocol, and the loop."""
    inner = Ended()

    async def run():
        near, far = socket.socketpair()
        with far:
            near.setblocking(False)
            guard = ConnectionGuard(lambda: inner, 10, IDLE_S)
            transport, connection = await loop.create_connection(guard, sock=near)
            assert isinstance(connection, GuardedConnection)
            await story(connection, inner)
            transport.abort()
            await loop.passes(0)
            assert guard.open == 0

    loop.run_until_complete(run())


async def ends_in_time(loop, inner):
    await loop.passes(IDLE_S - 0.5)
    assert not inner.ended
    await loop.passes(0.5)
    assert inner.ended


def test_who_says_nothing_is_ended_in_time_and_not_before(loop):
    async def story(_, inner):
        await ends_in_time(loop, inner)

    guarded(loop, story)


def test_every_request_begins_the_time_anew(loop):
    async def story(connection, inner):
        for _ in range(5):
            await loop.passes(IDLE_S - 1)
            assert not inner.ended
            connection.pause_begins()
            connection.pause_ends()
        await ends_in_time(loop, inner)

    guarded(loop, story)


def test_a_handler_may_take_longer(loop):
    async def story(connection, inner):
        connection.pause_begins()
        await loop.passes(3 * IDLE_S)
        assert not inner.ended
        connection.pause_ends()
        await ends_in_time(loop, inner)

    guarded(loop, story)


def test_no_timer_is_left_of_a_connection_that_is_gone_or_busy(loop):
    async def story(connection, inner):
        for _ in range(1000):
            connection.pause_begins()
            connection.pause_ends()
        assert len(loop._scheduled) == 1, "a timer for each request"

    guarded(loop, story)
    assert all(handle.cancelled() for handle in loop._scheduled)
