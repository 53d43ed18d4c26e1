"""Links simulated pulse by pulse: real post-processing between two KMEs, with and without somebody on the line."""

from __future__ import annotations

import asyncio
import json
import os

import pytest

from shosoin.adapters.private_files import create_private
from shosoin.base import Rejected, SaeId, Unavailable
from shosoin.link.events.catalogue import ATTACKS
from shosoin.services.kme_config import load_kme_config
from shosoin.services.sources.build import facts_of
from shosoin.services.sources.event_journals import open_link_journals
from shosoin.services.sources.event_line import event_line
from tests.support.kme import KmePair, ServerProcess, until, until_stock

BLOCK_BITS = 1 << 17


def event_pair(tmp_path, lines: str = "", *, loss_db: float = 0.5, **options) -> KmePair:
    def source(kme: str) -> str:
        return f"""kind = "events"

[link.events]
attenuation_db = {loss_db}
authentication_key_file = "authentication.key"
block_bits = {BLOCK_BITS}
pulses_per_s = 2e7
{lines}
"""

    pair = KmePair(tmp_path, stock_bits=1 << 18, source=source, **options)
    start_key = os.urandom(1 << 16)
    for kme in ("kme-a", "kme-b"):
        create_private(tmp_path / kme / "authentication.key", start_key)
    return pair


def logged(pair: KmePair, kme: str) -> list[dict]:
    return [json.loads(line) for line in (pair.root / kme / "log").read_text().splitlines() if line.startswith("{")]


async def drawn_and_fetched(master, master_id: SaeId, slave, slave_id: SaeId) -> None:
    await until_stock(master, slave_id, 8)
    sent = await master.enc_keys(slave_id, number=8, size_bits=256)
    got = await slave.dec_keys(master_id, [key.key_id for key in sent])
    assert [key.material.take() for key in sent] == [key.material.take() for key in got]


@pytest.mark.processes
@pytest.mark.timeout(120)
async def test_keys_of_an_event_link_are_equal_at_both_ends_labelled_and_outlive_a_kill(tmp_path):
    pair = event_pair(tmp_path)
    servers = {kme: ServerProcess(pair.config(kme)) for kme in ("kme-a", "kme-b")}
    try:
        await asyncio.gather(*(server.start() for server in servers.values()))
        async with pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await drawn_and_fetched(a, SaeId("sae-a1"), b, SaeId("sae-b1"))
            status = await a.status(SaeId("sae-b1"))
            assert status.extension["shosoin_simulated"] is True
            assert 1e-9 < status.extension["shosoin_epsilon"] < 1.1e-9
            await servers["kme-b"].kill()
            await servers["kme-b"].start()
        async with pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await drawn_and_fetched(b, SaeId("sae-b1"), a, SaeId("sae-a1"))
    finally:
        await asyncio.gather(*(server.stop() for server in servers.values()))
    alarms = [line for kme in servers for line in logged(pair, kme) if line.get("severity") == "alarm"]
    assert alarms == []


@pytest.mark.processes
@pytest.mark.timeout(120)
async def test_an_eavesdropper_on_a_quarter_of_the_pulses_suspends_the_link_and_no_bit_leaves(tmp_path):
    pair = event_pair(tmp_path, 'eavesdropper = "intercept-resend"\neavesdropper_share = 0.25')
    async with pair.running() as kmes:
        links = {name: kme.links for name, kme in kmes.items()}

        def sources():
            return [state["source"] for end in links.values() for state in end.states().values()]

        await until(lambda: all(source.startswith("suspended") for source in sources()), timeout_s=60)
        for end in links.values():
            (state,) = end.states().values()
            assert state["outgoing_stock_bits"] == state["incoming_held_bits"] == 0
            assert state["devices"]["sent"]["secret_bits"] == state["devices"]["received"]["secret_bits"] == 0
        async with pair.client("sae-a1") as master:
            with pytest.raises(Unavailable):
                await master.enc_keys(SaeId("sae-b1"), number=1, size_bits=256)


def test_facts_of_an_event_link_say_simulated_and_carry_the_epsilons_of_its_bound(tmp_path):
    config = load_kme_config(event_pair(tmp_path).config("kme-a"))
    (section,) = config.sources.values()
    facts = facts_of(config.links[0], section)
    assert facts.kind == "simulated-qkd"
    assert facts.simulated
    assert facts.epsilon == pytest.approx(1e-9 + 1e-15, rel=1e-9)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('eavesdropper = "mallory"', "intercept-resend"),
        ("eavesdropper_share = 1.5", "eavesdropper_share"),
        ("epsilon_secrecy = 0", "epsilon_secrecy"),
        ("epsilon_correctness = 0.5", "epsilon_correctness"),
        ("speedup = 2.0", "unknown key 'speedup'"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path, lines, said):
    with pytest.raises(Rejected, match=said):
        load_kme_config(event_pair(tmp_path, lines).config("kme-a"))


@pytest.mark.parametrize("lines", ["block_bits = 1000", "pulses_per_s = 1e12"])
def test_blocks_and_pace_have_limits(tmp_path, lines):
    name = lines.split(" ", maxsplit=1)[0]
    text = event_pair(tmp_path).config("kme-a").read_text().splitlines()
    changed = [lines if line.startswith(f"{name} =") else line for line in text]
    (tmp_path / "kme-a" / "config.toml").write_text("\n".join(changed))
    with pytest.raises(Rejected, match="block_bits"):
        load_kme_config(tmp_path / "kme-a" / "config.toml")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_eavesdropper_that_can_be_configured_is_there(tmp_path, name):
    config = load_kme_config(event_pair(tmp_path, f'eavesdropper = "{name}"').config("kme-a"))
    (section,) = config.sources.values()
    line = event_line(section)  # type: ignore[arg-type]
    assert line.eavesdropper is not None
    assert line.eavesdropper.name == name


def test_the_two_ends_take_opposite_halves_of_the_start_key_and_a_new_key_begins_new_journals(tmp_path):
    start_key, secret = os.urandom(4096), os.urandom(1024)
    ours = open_link_journals(tmp_path / "a", secret, True, start_key)
    theirs = open_link_journals(tmp_path / "b", secret, False, start_key)
    assert ours[0].load() == theirs[1].load()
    assert ours[1].load() == theirs[0].load()
    assert not set(ours[0].load().values()) & set(ours[1].load().values())
    ours[0].commit({"next/block": b"\x05"})
    for journal in (*ours, *theirs):
        journal.close()
    again = open_link_journals(tmp_path / "a", secret, True, start_key)
    assert again[0].load()["next/block"] == b"\x05"
    fresh = open_link_journals(tmp_path / "a", secret, True, os.urandom(4096))
    assert "next/block" not in fresh[0].load()
    for journal in (*again, *fresh):
        journal.close()


def test_a_start_key_of_a_wrong_length_is_rejected(tmp_path):
    with pytest.raises(Rejected, match="multiple"):
        open_link_journals(tmp_path, os.urandom(1024), True, os.urandom(1000))
