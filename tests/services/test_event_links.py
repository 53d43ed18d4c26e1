"""Links simulated pulse by pulse: real post-processing between two KMEs, with and without somebody on the line."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AsyncExitStack

import pytest

from shosoin.adapters.admin_log import read_entries
from shosoin.adapters.clock import SystemClock
from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.private_files import create_private
from shosoin.adapters.runtime import AsyncioRuntime
from shosoin.base import KmeId, OwnerId, Rejected, SaeId, SiteId, Unavailable
from shosoin.base.label import AssuranceLabel
from shosoin.cli import run
from shosoin.link.events.attack_names import ATTACKS
from shosoin.services.kme_config import load_kme_config
from shosoin.services.sources.build import facts_of
from shosoin.services.sources.event_journals import open_link_journals
from shosoin.services.sources.event_line import event_line
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.vault import OwnerRecord, Scheme, SiteNode, Vault, VaultContext, VaultSite
from shosoin.vault.assurance import SiteDomains
from shosoin.vault.putting import BytesSource
from shosoin.vault.signing import OwnerSigner, SiteSigner
from tests.support.admin import Administration
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import Scraper, with_operations
from tests.vault.support import DirectLink, ListSink, Recorder

BLOCK_BITS = 1 << 16


def event_pair(tmp_path, lines: str = "", **options) -> KmePair:
    def source(kme: str) -> str:
        return f"""kind = "events"

[link.events]
attenuation_db = 0.5
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


def devices_at(pair: KmePair, kme: str) -> dict:
    (state,) = json.loads((pair.directory(kme) / "links.json").read_text()).values()
    return state["devices"]


async def put_and_got(pair: KmePair, content: bytes) -> tuple[AssuranceLabel, bytes]:
    """Store and read a file at two sites, with keys of the pair; class ``its`` would want those of several blocks."""
    owner, names = OwnerId("sae-a1"), {"a": SaeId("sae-a2"), "b": SaeId("sae-b1")}
    signer, sites = OwnerSigner(os.urandom(32)), []
    signers = {SiteId(name): SiteSigner(os.urandom(32)) for name in names}
    site_keys = {site: each.public_key for site, each in signers.items()}
    entropy, clock, runtime, sink = SystemEntropy(), SystemClock(), AsyncioRuntime(), Recorder()
    async with AsyncExitStack() as stack:
        stack.callback(runtime.close)
        keys = {sae: await stack.enter_async_context(pair.client(sae)) for sae in ("sae-a1", *names.values())}
        for name, sae in names.items():
            node = SiteNode(
                SiteId(name),
                sae,
                {owner: OwnerRecord(owner, SiteId("a"), signer.public_key, 1 << 20)},
                MemorySiteStore(),
                keys[sae],
                entropy=entropy,
                clock=clock,
                sink=sink,
                runtime=runtime,
                signer=signers[SiteId(name)],
                site_keys=site_keys,
            )
            link = DirectLink(SiteId(name), node, owner)
            sites.append(VaultSite(SiteId(name), sae, link, SiteDomains(name), site_keys[SiteId(name)]))
        context = VaultContext(
            owner=owner,
            home=SiteId("a"),
            sites=tuple(sites),
            default_scheme=Scheme.parse("2-of-2"),
            keys=keys["sae-a1"],
            entropy=entropy,
            clock=clock,
            runtime=runtime,
            sink=sink,
            signer=signer,
            memo={},
        )
        vault, got = Vault(context), ListSink()
        receipt = await vault.put(BytesSource(content), "file", class_="qkd")
        await vault.get("file", got)
    return receipt.label, bytes(got.content)


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
            await until_stock(a, SaeId("sae-b1"), 8)
            content = os.urandom(100)
            label, got = await put_and_got(pair, content)
            assert got == content
            assert label.simulated
            assert any("simulated links" in reason for reason in label.reasons)
            keys = (label.epsilon_total or 0.0) / status.extension["shosoin_epsilon"]
            assert round(keys) >= 1
            assert keys == pytest.approx(round(keys), rel=1e-9)
            await until(lambda: devices_at(pair, "kme-a")["sent"]["secret_bits"] > 0)
            assert devices_at(pair, "kme-a")["broken_sessions"] == 0
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
async def test_an_eavesdropper_suspends_the_link_over_kill_9_until_an_administrator_lifts_it_at_both_ends(tmp_path):
    eve = 'eavesdropper = "intercept-resend"\neavesdropper_share = 0.25'
    pair = event_pair(tmp_path, eve)
    admin = Administration(pair)
    with_operations(pair, "kme-a")
    servers = {kme: ServerProcess(pair.config(kme)) for kme in ("kme-a", "kme-b")}
    try:
        await asyncio.gather(*(server.start() for server in servers.values()))
        logs = [tmp_path / kme / "log" for kme in servers]
        await until(lambda: all('"link.suspended"' in log.read_text() for log in logs), timeout_s=60)
    finally:
        await asyncio.gather(*(server.kill() for server in servers.values()))
    async with pair.running() as kmes:
        links = {name: kme.links for name, kme in kmes.items()}

        def states():
            return [state for end in links.values() for state in end.states().values()]

        await until(lambda: all(state["connected"] for state in states()))
        for state in states():
            assert state["suspended"] is True
            assert state["source"].startswith("suspended: link.")
            assert state["outgoing_stock_bits"] == state["incoming_held_bits"] == 0
        async with Scraper(kmes["kme-a"]) as scraper:
            assert (await scraper.samples()).value("link_suspended", peer="kme-b") == 1
            assert (await scraper.health("ready"))[1:] == (False, ["kme.no_stock"], {"kme-b": "suspended"})
        async with pair.client("sae-a1") as master:
            with pytest.raises(Unavailable):
                await master.enc_keys(SaeId("sae-b1"), number=1, size_bits=256)
        lift = ("POST", "/v1/links/kme-b/lift", {"reason": "the splice was ours"})
        assert (await admin.ask("olga", *lift))[0] == 403
        status, answer = await admin.ask("sec", *lift)
        assert (status, answer["was_suspended"]) == (200, True)
        assert answer["code"].startswith("link.")
        await until(lambda: states()[0]["source"] == "waiting: the peer's end is suspended")
        assert [state["suspended"] for state in states()] == [False, True]
        assert await links["kme-b"].lift(KmeId("kme-a")) != ""
        await until(lambda: any(state["source"] == "working" for state in states()))
    told = [(each["call"], each["result"], each.get("with")) for each in read_entries(admin.folder)]
    assert told[1:] == [("lift", "begun", lift[2]), ("lift", "done", None)]


def test_a_link_is_lifted_while_the_kme_stands_still_too(tmp_path, capfd):
    pair = event_pair(tmp_path)
    directory = pair.directory("kme-a") / "sources" / "kme-b"
    directory.mkdir(parents=True)
    (directory / "suspended.json").write_text('{"reason": "link.suspended"}')
    command = ["kme", "lift", "--config", str(pair.config("kme-a")), "--peer", "kme-b", "--json"]
    for was_suspended in (True, False):
        assert run(command) == 0
        assert json.loads(capfd.readouterr().out)["was_suspended"] is was_suspended


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
