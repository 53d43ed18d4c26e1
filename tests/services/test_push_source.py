"""QKD modules that push: who may, what is taken, what a restart remembers."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import ssl
import uuid
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest

from shosoin.adapters import used_tickets
from shosoin.adapters.tls import client_context
from shosoin.adapters.used_tickets import TicketUsed, UsedTickets
from shosoin.base import PeerFault, Rejected, Unavailable
from shosoin.services.kme_config import load_kme_config
from shosoin.services.sources import held_keys
from shosoin.services.sources.push import Pushed
from shosoin.services.sources.push_http import read_pushed
from tests.services.test_key_source_parts import Clock
from tests.support.key_sources import PushRig, plane_for
from tests.support.kme import KmePair

SITES = ("kme-a", "kme-b")


class Ends:
    """The supplies of both ends with their ports, and a session of the devices."""

    def __init__(self, tmp_path):
        (tmp_path / "rig").mkdir()
        self.rig, self.tmp_path = PushRig(tmp_path / "rig"), tmp_path
        pair = KmePair(tmp_path, source=self.rig.link)
        self.section: dict[str, Any] = {
            name: next(iter(load_kme_config(pair.config(name)).sources.values())) for name in SITES
        }
        self.clock = Clock()

    async def start(self, name):
        used = UsedTickets(self.tmp_path / f"{name}.sqlite")
        supply = Pushed(self.section[name], plane_for(self.section[name]), used, self.clock, even=name == "kme-a")
        await supply.start()
        return supply, used

    async def __aenter__(self):
        self.stack = AsyncExitStack()
        self.session = await self.stack.enter_async_context(aiohttp.ClientSession())
        self.at = {}
        for name in SITES:
            self.at[name] = await self.start(name)
        return self

    async def __aexit__(self, *_):
        for supply, used in self.at.values():
            await supply.stop()
            used.close()
        await self.stack.aclose()

    async def restart(self, name):
        supply, used = self.at[name]
        await supply.stop()
        used.close()
        self.at[name] = await self.start(name)

    async def push(self, name, keys, **options):
        return await self.rig.deliver(self.session, name, keys, **options)

    async def block(self, sender="kme-a", receiver="kme-b"):
        """Agree on a block, claim it at both ends, and return the material of both."""
        here, there = self.at[sender][0], self.at[receiver][0]
        note = await here.prepare()
        await here.greeted(await there.greet(note))
        material = await here.draw(1024, 8192)
        if material is None:
            return None
        await here.claim(material.tickets, transmitting=True)
        await there.claim(material.tickets, transmitting=False)
        return material, await there.fetch(material.tickets, material.size_bytes)


@asynccontextmanager
async def ends(tmp_path):
    async with Ends(tmp_path) as made:
        yield made


def keys_of(first, count, size=256):
    return [(first + number, os.urandom(size)) for number in range(count)]


async def test_what_both_ends_have_becomes_a_block_in_either_direction(tmp_path):
    async with ends(tmp_path) as both:
        keys = keys_of(0, 40)
        assert await both.push("kme-a", keys) == (200, {"taken": 40, "refused": []})
        await both.push("kme-b", keys[5:])
        for sender, receiver, parity in (("kme-a", "kme-b", 0), ("kme-b", "kme-a", 1)):
            sent, received = await both.block(sender, receiver)
            assert sent.pieces == received.pieces
            assert sent.pieces == [bits for index, bits in keys[5:] if index % 2 == parity]
            assert await both.block(sender, receiver) is None


async def test_an_index_is_taken_once_in_memory_and_over_restarts(tmp_path):
    async with ends(tmp_path) as both:
        keys = keys_of(0, 40)
        for name in SITES:
            await both.push(name, keys)
        _, again = await both.push("kme-a", keys[:3])
        assert [item["reason"] for item in again["refused"]] == ["duplicate"] * 3
        assert await both.block()
        for name in SITES:
            await both.restart(name)
            status, answer = await both.push(name, keys)
            assert status == 200
            refused = {item["index"]: item["reason"] for item in answer["refused"]}
            assert refused == dict.fromkeys(range(0, 40, 2), "used")  # the odd ones were in memory only
        sent, _ = await both.block("kme-b", "kme-a")
        assert len(sent.tickets) == 20
        assert await both.block() is None


async def test_whatever_lies_below_what_was_used_is_burned(tmp_path):
    async with ends(tmp_path) as both:
        keys = keys_of(0, 60)
        for name in SITES:
            await both.push(name, keys[20:])
        assert await both.block()
        _, answer = await both.push("kme-a", keys[:20])
        assert [item["reason"] for item in answer["refused"]] == ["used"] * 10


async def test_an_offer_of_what_was_used_is_refused(tmp_path):
    async with ends(tmp_path) as both:
        keys = keys_of(0, 40)
        for name in SITES:
            await both.push(name, keys)
        sent, _ = await both.block()
        with pytest.raises(TicketUsed):
            await both.at["kme-b"][0].claim(sent.tickets, transmitting=False)


@pytest.mark.parametrize(
    "tickets",
    [
        ["x/0"],
        ["11111111-1111-4111-8111-111111111111/00"],
        ["11111111-1111-4111-8111-111111111111/2", "11111111-1111-4111-8111-111111111111/0"],
        ["11111111-1111-4111-8111-111111111111/1"],
        ["11111111-1111-4111-8111-111111111111/0", "11111111-1111-4111-8111-111111111112/2"],
        ["11111111-1111-4111-8111-111111111111/²"],
        ["{11111111-1111-4111-8111-111111111111}/0"],
        ["11111111-1111-4111-8111-111111111111/-2"],
    ],
)
async def test_offers_that_cannot_be_are_refused(tmp_path, tickets):
    async with ends(tmp_path) as both:
        with pytest.raises(PeerFault):
            await both.at["kme-b"][0].claim(tickets, transmitting=False)


async def test_pieces_that_are_not_here_are_named_as_missing(tmp_path):
    async with ends(tmp_path) as both:
        tickets = [f"{both.rig.stream}/{index}" for index in (0, 2, 4)]
        supply = both.at["kme-b"][0]
        await both.push("kme-b", keys_of(2, 1))
        await supply.claim(tickets, transmitting=False)
        with pytest.raises(Unavailable, match="2 of 3 pieces"):
            await supply.fetch(tickets, 768)


async def test_a_peer_that_makes_up_streams_leaves_nothing_on_record(tmp_path):
    async with ends(tmp_path) as both:
        supply, used = both.at["kme-b"]
        for _ in range(20):
            stream = uuid.uuid4()
            with pytest.raises(Unavailable, match="none of 1 pieces is here"):
                await supply.claim([f"{stream}/0"], transmitting=False)
            assert await used.mark(f"{stream}/0") == 0


async def test_a_device_may_begin_any_number_of_streams_and_none_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(used_tickets, "MARKS_MAX", 4)
    monkeypatch.setattr(held_keys, "_MARKS_MAX", 4)
    async with ends(tmp_path) as both:
        streams, keys = [str(uuid.uuid4()) for _ in range(20)], keys_of(0, 16)
        for stream in streams:
            for name in SITES:
                assert await both.push(name, keys, stream=stream) == (200, {"taken": 16, "refused": []})
            for sender, receiver in (SITES, SITES[::-1]):
                assert await both.block(sender, receiver)
        for _ in range(2):
            for name in SITES:
                for stream in streams:
                    status, answer = await both.push(name, keys, stream=stream)
                    assert (status, answer["taken"]) == (200, 0)
                    assert {item["reason"] for item in answer["refused"]} == {"used"}
                await both.restart(name)


@pytest.mark.parametrize("note", ["x", "[1]", '[1,"s",[0]]', '[1,"{}",[-1]]', "[" * 9999])
async def test_notes_that_cannot_be_are_refused(tmp_path, note):
    async with ends(tmp_path) as both:
        with pytest.raises(PeerFault):
            await both.at["kme-b"][0].greet(note.replace("{}", str(uuid.uuid4())))


async def test_only_the_device_may_push(tmp_path):
    async with ends(tmp_path) as both:
        both.rig.device["kme-a"] = both.rig.authority.issue("device", "module-x")
        status, answer = await both.push("kme-a", keys_of(0, 1))
        assert (status, answer["code"]) == (401, "push.unknown_device")
        strangers = PushRig(_made(tmp_path / "others"))
        stranger = strangers.device["kme-a"]
        for context in (
            client_context(stranger.certificate, stranger.key, both.rig.authority.certificate),
            ssl.create_default_context(cafile=str(both.rig.authority.certificate)),
        ):
            with pytest.raises((aiohttp.ClientError, OSError)):
                await both.session.post(
                    f"https://127.0.0.1:{both.rig.port['kme-a']}/api/v1/push_keys",
                    json={},
                    ssl=context,
                    server_hostname="kme-a",
                )


def _made(path):
    path.mkdir()
    return path


async def test_a_device_may_be_named_by_its_subject(tmp_path):
    made = Ends(tmp_path)
    object.__setattr__(made.section["kme-a"], "device", "CN=module-kme-a")
    async with made as both:
        assert (await both.push("kme-a", keys_of(0, 1)))[0] == 200


async def test_wrong_requests_are_answered_and_cut_off(tmp_path):
    async with ends(tmp_path) as both:
        url, tls = f"https://127.0.0.1:{both.rig.port['kme-a']}", both.rig.context("kme-a")
        options = {"ssl": tls, "server_hostname": "kme-a"}
        for method, path, body in (
            ("GET", "/api/v1/push_keys", b""),
            ("POST", "/api/v1/other", b"{}"),
            ("POST", "/api/v1/push_keys", b"{}"),
            ("POST", "/api/v1/push_keys", b"\xff"),
            ("POST", "/api/v1/push_keys", b"[" * 100_000),
            ("POST", "/api/v1/push_keys", b" " * ((1 << 20) + 1)),
        ):
            async with both.session.request(method, url + path, data=io.BytesIO(body), **options) as response:
                assert response.status == 400
                assert "message" in await response.json()
        status, answer = await both.push("kme-a", keys_of(0, 3))
        assert (status, answer["taken"]) == (200, 3)


async def test_no_device_fills_the_memory(tmp_path):
    async with ends(tmp_path) as both:
        taken = 0
        for start in range(64):
            _, answer = await both.push("kme-a", [(start, os.urandom(65536))])
            taken += answer["taken"]
        assert taken == both.section["kme-a"].max_held_bits // 8 // 65536
        assert answer["refused"][0]["reason"] == "full"
        both.clock.now += 30  # the other end never had it
        _, answer = await both.push("kme-a", [(99, os.urandom(65536))])
        assert answer["taken"] == 1


STREAM = str(uuid.uuid4())


@pytest.mark.parametrize(
    "change",
    [
        {"Key_stream_ID": "x"},
        {"Key_stream_ID": None},
        {"Key_stream_ID": "0" * 32},
        {"keys": []},
        {"keys": {}},
        {"keys": [{"index": 0}]},
        {"keys": [{"index": True, "Key_buffer": "A" * 24}]},
        {"keys": [{"index": -1, "Key_buffer": "A" * 24}]},
        {"keys": [{"index": 1 << 60, "Key_buffer": "A" * 24}]},
        {"keys": [{"index": 0, "Key_buffer": "A" * 4}]},
        {"keys": [{"index": 0, "Key_buffer": "A" * 21 + "B=="}]},
        {"keys": [{"index": 0, "Key_buffer": "A" * 23 + "!"}]},
        {"keys": [{"index": 0, "Key_buffer": "A" * 24}] * 2},
        {"keys": [{"index": n, "Key_buffer": "A" * 24} for n in range(4097)]},
    ],
)
def test_a_body_that_is_no_delivery_is_refused(change):
    body = {"Key_stream_ID": STREAM, "keys": [{"index": 0, "Key_buffer": "A" * 24}], **change}
    with pytest.raises(Rejected) as refused:
        read_pushed(json.dumps(body).encode())
    assert "AAAA" not in refused.value.message
    assert refused.value.__cause__ is None  # it might quote keys


def test_members_that_are_not_known_are_ignored_and_bits_are_not_shown():
    key = {"index": 7, "Key_buffer": base64.b64encode(b"secret bits of 24 bytes.").decode(), "age": 3}
    stream, (found,) = read_pushed(json.dumps({"Key_stream_ID": STREAM, "keys": [key], "qos": {}}).encode())
    assert str(stream) == STREAM
    assert (found.index, bytes(found.bits)) == (7, b"secret bits of 24 bytes.")
    assert "secret" not in repr(found)


async def test_a_port_that_is_taken_is_told_and_tried_again(tmp_path):
    async with ends(tmp_path) as both:
        second = Pushed(
            both.section["kme-a"], plane_for(both.section["kme-a"]), both.at["kme-a"][1], both.clock, even=True
        )
        with pytest.raises(Rejected, match="cannot listen"):
            await second.start()
        await second.stop()
        await both.at["kme-a"][0].stop()
        await asyncio.sleep(0)
        await second.start()
        await second.stop()
