"""Pulling by ETSI GS QKD 004 from key managers that misbehave; the client alone, and the supply."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from shosoin.adapters.etsi004_client import Etsi004Client
from shosoin.adapters.tls import client_context
from shosoin.adapters.used_tickets import UsedTickets
from shosoin.base import Denied, PeerFault, ShosoinError, Unavailable
from shosoin.keys.wire004 import (
    CloseResponse,
    GetKeyResponse,
    OpenConnectResponse,
    Qos,
    Status,
    encode_frame,
)
from shosoin.services.kme_config import load_kme_config
from shosoin.services.sources.pull004 import Pull004
from tests.services.test_key_sources_contract import Watched
from tests.support.key_sources import PACE, Pull004Rig, plane_for
from tests.support.kme import KmePair, until

SITES = ("kme-a", "kme-b")


@pytest.fixture
async def rig(tmp_path):
    root = tmp_path / "rig"
    root.mkdir()
    rig = Pull004Rig(root)
    await rig.start()
    yield rig
    await rig.stop()


@asynccontextmanager
async def ends(tmp_path, rig):
    pair = KmePair(tmp_path, source=rig.link)
    used = {name: UsedTickets(tmp_path / f"{name}.sqlite") for name in SITES}
    sources: list[Any] = [next(iter(load_kme_config(pair.config(name)).sources.values())) for name in SITES]
    supplies = [Pull004(each, plane_for(each), used[name]) for each, name in zip(sources, SITES, strict=True)]
    try:
        yield supplies
    finally:
        for supply, memory in zip(supplies, used.values(), strict=True):
            await supply.stop()
            memory.close()


async def works(here, there):
    await there.greet(await here.prepare())
    material = await here.draw(1024, 4096)
    fetched = await there.fetch(material.tickets, material.size_bytes)
    assert fetched.pieces == material.pieces
    return material


def twisting(rig, change, *, at="kme-a", call="GetKeyRequest"):
    async def twist(site, called, answer):
        return change(answer) if (site, called) == (at, call) else answer

    rig.vendor.twist = twist


MISBEHAVIOURS = {
    "no connection": lambda _: GetKeyResponse(Status.NO_QKD_CONNECTION),
    "an unknown status": lambda _: GetKeyResponse(77),
    "another index": lambda answer: replace(answer, index=answer.index + 1),
    "a shorter chunk": lambda answer: replace(answer, key=answer.key[:-1]),
    "a longer chunk": lambda answer: replace(answer, key=bytes(answer.key) + b"x"),
    "no chunk": lambda answer: replace(answer, key=b""),
    "another answer": lambda _: CloseResponse(0),
    "metadata without end": lambda _: GetKeyResponse(8, metadata_size_needed=(1 << 32) - 1),
    "HTTP": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a huge frame": lambda _: b"\x01\0\x01\x05\xff\xff\xff\xff",
    "half a frame": lambda answer: encode_frame(answer)[:100] + b"\x01" * 500,
}


async def test_a_wrong_answer_gives_no_material_and_the_next_stream_does(tmp_path, rig):
    async with ends(tmp_path, rig) as (here, there):
        for how, change in MISBEHAVIOURS.items():
            await works(here, there)
            await there.greet(await here.prepare())
            twisting(rig, change)
            with pytest.raises(ShosoinError):
                pytest.fail(f"{how}: {await here.draw(1024, 4096)}")
            rig.heal()
            await here.forget(transmitting=True)


async def test_a_wrong_answer_at_the_other_end_likewise(tmp_path, rig):
    async with ends(tmp_path, rig) as (here, there):
        for how, change in MISBEHAVIOURS.items():
            await there.greet(await here.prepare())
            material = await here.draw(1024, 4096)
            twisting(rig, change, at="kme-b")
            with pytest.raises(ShosoinError):
                pytest.fail(f"{how}: {await there.fetch(material.tickets, material.size_bytes)}")
            rig.heal()
            await here.forget(transmitting=True)
            await there.forget(transmitting=False)
            await works(here, there)


@pytest.mark.parametrize(
    "answer",
    [
        OpenConnectResponse(Status.NO_QKD_CONNECTION),
        OpenConnectResponse(Status.KSID_IN_USE),
        OpenConnectResponse(Status.QOS_NOT_MET),
        OpenConnectResponse(Status.QOS_NOT_MET, Qos(32), uuid.uuid4()),
        OpenConnectResponse(Status.SUCCESS, Qos(512), uuid.UUID(int=0)),
        OpenConnectResponse(Status.SUCCESS, Qos(256), uuid.uuid4()),
        GetKeyResponse(0, 0, b"x" * 512),
    ],
)
async def test_a_stream_that_does_not_open_is_no_stream(tmp_path, rig, answer):
    twisting(rig, lambda _: answer, call="OpenConnectRequest")
    async with ends(tmp_path, rig) as (here, there):
        with pytest.raises(ShosoinError):
            await here.prepare()
        rig.heal()
        await here.forget(transmitting=True)
        await works(here, there)


async def test_a_counter_proposal_with_chunks_of_our_size_is_taken(tmp_path, rig):
    proposed: list[int] = []

    def once(answer):
        if not proposed:
            proposed.append(1)
            return OpenConnectResponse(Status.QOS_NOT_MET, replace(answer.qos, max_bps=7), answer.key_stream_id)
        return answer

    twisting(rig, once, call="OpenConnectRequest")
    async with ends(tmp_path, rig) as (here, there):
        await works(here, there)
    assert {known[0].max_bps for known in rig.vendor.streams.values()} >= {7}


async def test_a_key_manager_that_insists_on_metadata_gets_room_for_them(tmp_path, rig):
    """As QUBIP's server does, and the chunk is not lost."""
    asked = []

    async def twist(site, call, answer):
        if isinstance(answer, GetKeyResponse) and answer.key:
            asked.append(answer)
            rig.vendor.given[site, next(iter(rig.vendor.streams))].discard(answer.index)
            return GetKeyResponse(8, metadata_size_needed=20) if len(asked) % 2 else replace(answer, metadata=b"{}")
        return answer

    rig.vendor.twist = twist
    async with ends(tmp_path, rig) as (here, there):
        await there.greet(await here.prepare())
        assert (await here.draw(512, 512)).size_bytes == 512


async def test_too_few_chunks_wait_for_more(tmp_path, rig):
    rig.vendor.chunks = 1
    async with ends(tmp_path, rig) as (here, there):
        await there.greet(await here.prepare())
        assert await here.draw(1024, 4096) is None
        assert await here.draw(1024, 4096) is None
        rig.vendor.chunks = 3
        material = await here.draw(1024, 4096)
        assert [ticket.partition("/")[2] for ticket in material.tickets] == ["0", "1", "2"]
        assert (await there.fetch(material.tickets, material.size_bytes)).pieces == material.pieces


async def test_a_key_manager_that_forgot_the_stream_is_left_for_a_new_one(tmp_path, rig):
    async with ends(tmp_path, rig) as (here, there):
        await works(here, there)
        await rig.restart("kme-b")  # kme-a's manager says from now on that the peer has not joined
        for _ in range(4):
            assert await here.draw(1024, 4096) is None
        with pytest.raises(Unavailable, match="status 3"):
            await here.draw(1024, 4096)
        await here.forget(transmitting=True)
        await there.forget(transmitting=False)
        await works(here, there)


@pytest.mark.parametrize(
    "ticket",
    ["", "x/1", "{}", "{}/", "{}/-1", "{}/01", "{}/4294967296", "{}/²", "00000000-0000-0000-0000-000000000000/1"],
)
async def test_offers_that_cannot_be_are_refused(tmp_path, rig, ticket):
    async with ends(tmp_path, rig) as (_, there):
        with pytest.raises(PeerFault):
            await there.fetch([ticket.replace("{}", str(uuid.uuid4()))], 512)


def client_of(rig, **options):
    files = options.pop("files", rig.planes.client["kme-a"])
    context = client_context(files.certificate, files.key, rig.planes.authority.certificate)
    options = {"server_name": "vendor-kme-a", "timeout_s": 2.0, **options}
    return Etsi004Client("127.0.0.1", rig.vendor.port["kme-a"], context=lambda: context, **options)


async def test_the_client_checks_the_server_and_tells_what_is_wrong(rig, tmp_path):
    with pytest.raises(PeerFault, match="TLS"):
        await client_of(rig, server_name="another").open_connect("a", "b", Qos(32))
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    stranger = Pull004Rig(strangers).planes.client["kme-a"]
    with pytest.raises((Denied, Unavailable)):
        await client_of(rig, files=stranger).open_connect("a", "b", Qos(32))
    await rig.vendor.stop("kme-a")
    with pytest.raises(Unavailable, match="unreachable"):
        await client_of(rig).open_connect("a", "b", Qos(32))


async def test_the_client_gives_up_and_begins_anew_after_a_slow_answer_or_a_cancelled_call(rig):
    client = client_of(rig, timeout_s=0.5)
    opened = await client.open_connect("a", "b", Qos(32))
    rig.stall("kme-a")
    with pytest.raises(Unavailable, match="in time"):
        await client.close_stream(opened.key_stream_id)
    asked = len(rig.vendor.calls)
    task = asyncio.create_task(client.close_stream(opened.key_stream_id))
    await until(lambda: task.done() or len(rig.vendor.calls) > asked)
    assert task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert client._connection is None
    rig.heal()
    assert (await client.close_stream(opened.key_stream_id)).status == 0
    client.drop()


@pytest.mark.processes
async def test_our_own_kmes_as_the_vendor_beneath_others(tmp_path):
    """The lower pair serves ETSI GS QKD 004; what the upper pair says of its bits is what it was told."""
    (tmp_path / "below").mkdir()
    (tmp_path / "above").mkdir()
    below = KmePair(tmp_path / "below", stock_bits=1 << 22, etsi004={})

    def link(kme):
        own, peer = ("sae-a1", "sae-b1") if kme == "kme-a" else ("sae-b1", "sae-a1")
        files = below.saes[own]
        return f"""kind = "etsi004"
[link.etsi004]
{PACE}
host = "127.0.0.1"
port = {below.etsi004_port[kme]}
server_name = "{kme}"
source = "qkd://{own}"
destination = "qkd://{peer}"
certificate = "{files.certificate}"
key = "{files.key}"
ca = "{below.sae_plane.certificate}"
chunk_bytes = 512
timeout_s = 4
simulated = true
"""

    above = KmePair(tmp_path / "above", stock_bits=1 << 20, source=link)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(below.running())
        processes = await stack.enter_async_context(above.running())
        clients = {name: await stack.enter_async_context(above.client(name)) for name in ("sae-a1", "sae-b1")}
        kmes = Watched(processes, clients)
        await kmes.works()
        await kmes.drain()
        await kmes.works()
        state = processes["kme-a"].link_states()["kme-b"]
        assert (state["kind"], state["simulated"]) == ("simulated-qkd", True)
