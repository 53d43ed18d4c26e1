"""Replaying a recorded run: each chunk once, over restarts and lost records."""

from __future__ import annotations

import uuid

import pytest

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.used_tickets import TicketUsed, UsedTickets
from shosoin.base import PeerFault
from shosoin.services.sources.config import ReplaySection
from shosoin.services.sources.recording import RecordingHeader, write_recording
from shosoin.services.sources.replay import Replay
from tests.services.test_key_source_parts import Clock

CHUNKS, SIZE = 40, 512


class Ends:
    """Both ends of a run."""

    def __init__(self, tmp_path, **header):
        self.tmp_path, self.clock = tmp_path, Clock()
        self.header = RecordingHeader(uuid.uuid4().hex, "qkd", CHUNKS, SIZE, **header)
        self.bits = SystemEntropy().random_bytes(CHUNKS * SIZE)
        write_recording(tmp_path / "run", self.header, self.bits)
        self.used = {}

    def end(self, name, *, forget=False):
        if name in self.used:
            self.used.pop(name).close()
        path = self.tmp_path / f"{name}.sqlite"
        if forget:
            path.unlink(missing_ok=True)
        self.used[name] = UsedTickets(path)
        return Replay(ReplaySection(file=self.tmp_path / "run"), self.used[name], self.clock, even=name == "a")

    def close(self):
        for memory in self.used.values():
            memory.close()


@pytest.fixture
def both(tmp_path):
    made = Ends(tmp_path)
    yield made
    made.close()


async def block(here, there, most=4 * SIZE):
    await here.greeted(await there.greet(await here.prepare()))
    material = await here.draw(1024, most)
    if material is None:
        return None
    await here.claim(material.tickets, transmitting=True)
    await there.claim(material.tickets, transmitting=False)
    assert (await there.fetch(material.tickets, material.size_bytes)).pieces == material.pieces
    return [int(ticket.partition("/")[2]) for ticket in material.tickets]


async def test_the_directions_share_no_chunk_and_each_ends(both):
    a, b = both.end("a"), both.end("b")
    seen: dict[str, list[int]] = {"a": [], "b": []}
    for name, here, there in (("a", a, b), ("b", b, a)):
        while (used := await block(here, there)) is not None:
            seen[name] += used
    assert seen["a"] == list(range(0, CHUNKS, 2))
    assert seen["b"] == list(range(1, CHUNKS, 2))


@pytest.mark.parametrize("forgets", ["nobody", "a", "b"])
async def test_a_restart_goes_on_behind_what_was_used_and_an_end_that_forgot_learns_from_the_other(both, forgets):
    a, b = both.end("a"), both.end("b")
    first = await block(a, b) + await block(a, b)
    a, b = both.end("a", forget=forgets == "a"), both.end("b", forget=forgets == "b")
    second = await block(a, b)
    assert min(second) == max(first) + 2


async def test_an_old_offer_is_refused(both):
    a, b = both.end("a"), both.end("b")
    await block(a, b)
    with pytest.raises(TicketUsed):
        await b.claim([f"{both.header.run}/2"], transmitting=False)
    with pytest.raises(PeerFault):  # the other direction's
        await b.claim([f"{both.header.run}/9"], transmitting=False)
    for ticket in ("x", f"{'0' * 32}/8", f"{both.header.run}/08", f"{both.header.run}/-8"):
        with pytest.raises(PeerFault):
            await b.claim([ticket], transmitting=False)


async def test_two_runs_do_not_go_together(both):
    with pytest.raises(PeerFault, match="different runs"):
        await both.end("a").greet("0" * 32)
    for answer in ("", "-1", "x", "9" * 30):
        with pytest.raises(PeerFault):
            await both.end("a").greeted(answer)


async def test_a_run_has_its_pace(tmp_path):
    made = Ends(tmp_path, secret_key_rate_bps=16.0 * SIZE)  # a chunk a second
    a, b = made.end("a"), made.end("b")
    assert await block(a, b) is None
    made.clock.now += 2
    assert await block(a, b) == [0, 2]
    assert await block(a, b) is None
    made.clock.now += 3600  # what found no room does not come later
    assert len(await block(a, b)) == 4
    assert await block(a, b) is None
    made.close()
