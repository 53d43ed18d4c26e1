"""Pulling from vendors' KMEs by ETSI GS QKD 014: our own, and one that misbehaves in every way we know."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from shosoin.adapters.used_tickets import TicketUsed, UsedTickets
from shosoin.base import PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.services.kme_config import load_kme_config
from shosoin.services.sources.port import UndeclaredSimulation
from shosoin.services.sources.pull014 import Pull014
from tests.services.test_key_sources_contract import Watched, watched
from tests.support.key_sources import PACE, Pull014Rig, plane_for
from tests.support.kme import KmePair, until


@pytest.fixture
async def rig(tmp_path):
    root = tmp_path / "rig"
    root.mkdir()
    rig = Pull014Rig(root)
    await rig.start()
    yield rig
    await rig.stop()


def section_of(tmp_path, rig, kme, **values):
    """The table that a configuration with these values has."""
    root = tmp_path / f"pair-{uuid.uuid4()}"
    root.mkdir()
    path = KmePair(root, source=rig.link).config(kme)
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items())
    path.write_text(path.read_text().replace("[link.etsi014]", f"[link.etsi014]\n{lines}\n"))
    return next(iter(load_kme_config(path).sources.values()))


class Ends:
    """The supplies of both ends, without KMEs around them."""

    def __init__(self, tmp_path, rig, **values):
        self.used = {kme: UsedTickets(tmp_path / f"{uuid.uuid4()}.sqlite") for kme in ("kme-a", "kme-b")}
        sections = {kme: section_of(tmp_path, rig, kme, **values) for kme in ("kme-a", "kme-b")}
        self.at = {kme: Pull014(each, plane_for(each), self.used[kme]) for kme, each in sections.items()}

    async def __aenter__(self):
        return self.at["kme-a"], self.at["kme-b"]

    async def __aexit__(self, *_):
        for kme, supply in self.at.items():
            await supply.stop()
            self.used[kme].close()


def twisting(rig, change, *, at="kme-a", call="enc_keys"):
    """Change what the vendor answers; return the answers that were to be changed, as they come."""
    changed: list = []

    async def twist(site, called, answer):
        if (site, called) != (at, call):
            return answer
        changed.append(answer)
        return change(answer)

    rig.vendor.twist = twist
    return changed


def http(status, text, **headers):
    return lambda answer: web.Response(status=status, text=text, headers=headers)


def each_key(change):
    def changed(answer):
        return {"keys": [change(dict(item)) for item in answer["keys"]]}

    return changed


def with_padding_bits(item):
    """One more in the unused bits of the last letter: the same bytes, not the same text."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = item["key"]
    last = text.rstrip("=")[-1]
    return {**item, "key": text.rstrip("=")[:-1] + letters[letters.index(last) + 1] + "="}


MISBEHAVIOURS = {
    "an HTML page": http(200, "<html>Welcome</html>", **{"Content-Type": "text/html"}),
    "404": http(404, "{}"),
    "500 with HTML": http(500, "<html>"),
    "503": http(503, '{"message":"dry"}'),
    "a redirect": http(302, "", Location="https://elsewhere.example/"),
    "no keys": lambda answer: {"keys": []},
    "one key less": lambda answer: {"keys": answer["keys"][1:]},
    "one key twice": lambda answer: {"keys": [*answer["keys"][1:], answer["keys"][-1]]},
    "longer keys": each_key(lambda item: {**item, "key": base64.b64encode(bytes(64)).decode()}),
    "shorter keys": each_key(lambda item: {**item, "key": base64.b64encode(bytes(31)).decode()}),
    "keys that are no base64": each_key(lambda item: {**item, "key": "!" + item["key"][1:]}),
    "keys in URL-safe base64 without padding": each_key(lambda item: {**item, "key": "-_" + item["key"][2:-1]}),
    "bits in the padding": each_key(with_padding_bits),
    "other names": each_key(lambda item: {"id": item["key_ID"], "value": item["key"]}),
    "IDs that are no UUIDs": each_key(lambda item: {**item, "key_ID": "key-1"}),
    "JSON of the wrong shape": lambda answer: ["keys"],
    "deep JSON": http(200, "[" * 100_000),
    "numbers that are none": http(200, '{"keys": NaN}'),
    "an endless answer": http(200, " " * (1 << 20)),
}


async def _works(here, there):
    await here.prepare()
    material = await here.draw(1024, 2048)
    fetched = await there.fetch(material.tickets, material.size_bytes)
    assert fetched.pieces == material.pieces
    assert fetched.tickets == material.tickets


async def test_a_wrong_answer_gives_no_material_and_the_next_right_one_does(tmp_path, rig):
    async with Ends(tmp_path, rig) as (here, there):
        for how, change in MISBEHAVIOURS.items():
            await here.prepare()
            twisting(rig, change)
            with pytest.raises(ShosoinError):
                pytest.fail(f"{how}: {await here.draw(1024, 2048)}")
            rig.heal()
            await _works(here, there)


async def test_a_wrong_answer_at_the_other_end_likewise(tmp_path, rig):
    async with Ends(tmp_path, rig) as (here, there):
        for how, change in MISBEHAVIOURS.items():
            await here.prepare()
            material = await here.draw(1024, 2048)
            twisting(rig, change, at="kme-b", call="dec_keys")
            with pytest.raises(ShosoinError):
                pytest.fail(f"{how}: {await there.fetch(material.tickets, material.size_bytes)}")
            rig.heal()
            await _works(here, there)


async def test_other_keys_than_asked_for_are_refused(tmp_path, rig):
    async with Ends(tmp_path, rig) as (here, there):
        await here.prepare()
        material = await here.draw(1024, 4096)
        change = each_key(lambda item: {**item, "key_ID": str(uuid.uuid4())})
        twisting(rig, change, at="kme-b", call="dec_keys")
        with pytest.raises(PeerFault, match="other keys"):
            await there.fetch(material.tickets, material.size_bytes)


async def test_keys_in_another_order_are_put_in_ours(tmp_path, rig):
    async with Ends(tmp_path, rig) as (here, there):
        await here.prepare()
        material = await here.draw(1024, 4096)
        twisting(rig, lambda answer: {"keys": answer["keys"][::-1]}, at="kme-b", call="dec_keys")
        assert (await there.fetch(material.tickets, material.size_bytes)).pieces == material.pieces


async def test_the_vendors_limits_are_kept(tmp_path, rig):
    rig.vendor.per_request = 7
    async with Ends(tmp_path, rig) as (here, there):
        await here.prepare()
        material = await here.draw(1024, 4096)
        assert len(material.tickets) == 128
        assert (await there.fetch(material.tickets, material.size_bytes)).pieces == material.pieces
        assert rig.vendor.calls.count(("kme-a", "enc_keys")) == 19
        assert rig.vendor.calls.count(("kme-b", "dec_keys")) == 19


async def test_a_vendor_that_delivers_fewer_keys_than_it_says_is_asked_for_less(tmp_path, rig):
    """Its limit is 10, it advertises 128, and gives 10 whatever it is asked for."""
    twisting(rig, lambda answer: {"keys": answer["keys"][:10]})
    async with Ends(tmp_path, rig) as (here, _):
        for _ in range(20):
            await here.prepare()
            try:
                material = await here.draw(1024, 4096)
            except PeerFault:
                await here.forget(transmitting=True)
            else:
                break
        assert len(material.tickets) == 128


@pytest.mark.parametrize(
    ("status", "values", "error"),
    [
        ({"key_size": 350}, {}, Unavailable),
        ({"key_size": 8}, {}, Unavailable),
        ({"key_size": 0}, {}, Unavailable),
        ({"key_size": 10**12}, {}, Unavailable),
        ({"key_size": "256"}, {}, PeerFault),
        ({"key_size": 2048}, {}, Unavailable),
        ({"max_key_per_request": 10**9}, {}, None),
        ({"max_key_per_request": 0}, {}, None),
        ({"stored_key_count": -5}, {}, PeerFault),
        ({"stored_key_count": 10**15}, {}, None),
        ({"key_size": 350}, {"key_size_bits": 256}, None),
        ({"key_size": None}, {"key_size_bits": 256}, PeerFault),
        ({"key_size": None}, {"key_size_bits": 256, "keys_per_request": 16}, None),
    ],
)
async def test_what_a_status_says_is_a_hint(tmp_path, rig, status, values, error):
    twisting(rig, lambda answer: {**answer, **status}, call="status")
    async with Ends(tmp_path, rig, **values) as (here, _):
        if error is None:
            await here.prepare()
            if status.get("max_key_per_request") != 10**9:
                assert (await here.draw(1024, 2048)).size_bytes == 2048
        else:
            with pytest.raises(error):
                await here.prepare()


async def test_a_stock_of_nothing_is_believed_most_of_the_time(tmp_path, rig):
    rig.vendor.claimed = 0
    async with Ends(tmp_path, rig) as (here, _):
        found = []
        for _ in range(8):
            await here.prepare()
            found.append(await here.draw(1024, 2048))
        assert found[:7] == [None] * 7
        assert found[7].size_bytes == 1024
        assert rig.vendor.calls.count(("kme-a", "enc_keys")) == 1


async def test_a_slow_answer_is_given_up(tmp_path, rig):
    rig.stall("kme-a")
    async with Ends(tmp_path, rig) as (here, _):
        with pytest.raises(Unavailable, match="in time"):
            await here.prepare()


async def test_simulated_keys_need_a_table_that_says_so(tmp_path, rig):
    rig.vendor.extension = {"shosoin_source": {"kind": "simulated-qkd", "simulated": True, "epsilon": None}}
    async with Ends(tmp_path, rig) as (here, _):
        await here.prepare()
        with pytest.raises(UndeclaredSimulation):
            await here.draw(1024, 4096)
    async with Ends(tmp_path, rig, simulated=True) as (here, _):
        await here.prepare()
        assert (await here.draw(1024, 4096)).size_bytes == 4096


async def test_a_key_id_is_good_for_one_use_after_a_restart_too(tmp_path, rig):
    section, key_id = section_of(tmp_path, rig, "kme-a"), str(uuid.uuid4())
    used = UsedTickets(tmp_path / "used.sqlite")
    await Pull014(section, plane_for(section), used).claim([key_id, str(uuid.uuid4())], transmitting=True)
    used.close()
    used = UsedTickets(tmp_path / "used.sqlite")
    with pytest.raises(TicketUsed):
        await Pull014(section, plane_for(section), used).claim([str(uuid.uuid4()), key_id.upper()], transmitting=False)
    used.close()


async def test_offers_that_cannot_be_are_refused(tmp_path, rig):
    async with Ends(tmp_path, rig) as (_, there):
        for tickets, size in ((["a", "b"], 65), (["a"], 1), (["a"], 1 << 24)):
            with pytest.raises(PeerFault):
                await there.fetch(tickets, size)
        assert ("kme-b", "dec_keys") not in rig.vendor.calls


async def test_two_kmes_under_a_parade_of_misbehaviour_stay_in_step(tmp_path, rig):
    async with watched(tmp_path, rig) as kmes:
        await kmes.works()
        for number, change in enumerate(MISBEHAVIOURS.values()):
            at, call = (("kme-a", "enc_keys"), ("kme-b", "dec_keys"))[number % 2]
            met = twisting(rig, change, at=at, call=call)
            async with asyncio.timeout(30):
                while not met:
                    await kmes.drain()  # or there would be nothing to fetch for
                    await asyncio.sleep(0.02)
        assert "source.failed" in kmes.names("kme-a")
        rig.heal()
        await kmes.drain()
        await kmes.works(keys=32)
        for process in kmes.processes.values():
            assert process.defect is None
        assert "source.defect" not in kmes.codes()


async def test_a_vendor_that_gives_one_key_id_twice_raises_an_alarm(tmp_path, rig):
    first: list = []

    def same(answer):
        first.append(answer)
        return {"keys": first[0]["keys"][: len(answer["keys"])]}

    twisting(rig, same)
    async with watched(tmp_path, rig) as kmes:
        await until(lambda: "source.used_before" in kmes.names("kme-a"))
        rig.heal()
        await kmes.works(keys=32)


@pytest.mark.parametrize("declared", [True, False])
async def test_our_own_kmes_as_the_vendor_beneath_others(tmp_path, declared):
    """The lower pair is a simulated network; what the upper one says of its bits must say so too."""
    (tmp_path / "below").mkdir()
    (tmp_path / "above").mkdir()
    below = KmePair(tmp_path / "below", stock_bits=1 << 22)

    def link(kme):
        sae, peer = ("sae-a1", "sae-b1") if kme == "kme-a" else ("sae-b1", "sae-a1")
        files = below.saes[sae]
        return f"""kind = "etsi014"
[link.etsi014]
{PACE}
url = "https://127.0.0.1:{below.sae_port[kme]}"
server_name = "{kme}"
identity = "{kme}"
peer_sae = "{peer}"
certificate = "{files.certificate}"
key = "{files.key}"
ca = "{below.sae_plane.certificate}"
key_size_bits = 4096
simulated = {str(declared).lower()}
"""

    above = KmePair(tmp_path / "above", stock_bits=1 << 21, source=link)
    async with AsyncExitStack() as stack:
        vendors = await stack.enter_async_context(below.running())
        processes = await stack.enter_async_context(above.running())
        clients = {name: await stack.enter_async_context(above.client(name)) for name in ("sae-a1", "sae-b1")}
        kmes = Watched(processes, clients)
        if not declared:
            await until(lambda: "source.undeclared_simulation" in kmes.names("kme-a") | kmes.names("kme-b"))
            assert kmes.taken("kme-a") == 0
            return
        await kmes.works()
        await kmes.drain()
        state = processes["kme-a"].link_states()["kme-b"]
        assert (state["kind"], state["simulated"]) == ("simulated-qkd", True)
        # What was drawn above is gone below, at both ends.
        drawn = vendors["kme-a"].kme.drawn["sae-a1", "sae-b1"].keys
        assert drawn > 0
        await until(lambda: vendors["kme-b"].kme.fetched["sae-a1", "sae-b1"].keys > 0)


def test_a_certificate_that_cannot_be_read_is_told_at_the_start(tmp_path, rig):
    section = section_of(tmp_path, rig, "kme-a")
    section.certificate.unlink()
    with pytest.raises(Rejected, match=r"cannot read .*\.crt"):
        Pull014(section, plane_for(section), UsedTickets(tmp_path / "used.sqlite"))


async def test_a_damaged_record_of_what_was_used_refuses_the_link_and_nothing_else(tmp_path, rig):
    pair = KmePair(tmp_path, source=rig.link)
    record = pair.directory("kme-a") / "sources" / "kme-b" / "used.sqlite"
    record.parent.mkdir(parents=True)
    record.write_bytes(b"no database" * 100)
    async with pair.running() as processes:
        assert processes["kme-a"].link_states()["kme-b"]["refused"] is True
        assert processes["kme-a"].defect is None
