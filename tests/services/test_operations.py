"""Metrics of real KMEs, read over real HTTP: what moves them, and what they never say."""

import asyncio
import base64
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shosoin.adapters.tls import client_context
from shosoin.base import Denied, Rejected, Unavailable
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from tests.support.kme import KmePair, until_stock
from tests.support.operations import OPEN_METRICS, Scraper, parsed, with_operations

pytestmark = pytest.mark.processes
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "monitoring.md"


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18)


@asynccontextmanager
async def served(pair, **operations):
    with_operations(pair, **operations)
    async with (
        pair.running() as processes,
        pair.client("sae-a1") as master,
        pair.client("sae-b1") as slave,
        Scraper(processes["kme-a"]) as at_a,
        Scraper(processes["kme-b"]) as at_b,
    ):
        await until_stock(master, "sae-b1", 64)
        yield master, slave, at_a, at_b


@pytest.mark.parametrize("open_metrics", [False, True])
async def test_counters_move_as_keys_are_drawn_and_fetched(pair, open_metrics):
    out, inc = {"peer": "kme-b", "direction": "outgoing"}, {"peer": "kme-a", "direction": "incoming"}
    async with served(pair) as (master, slave, at_a, at_b):
        before = await at_a.samples(open_metrics=open_metrics)
        keys = await master.enc_keys("sae-b1", number=3, size_bits=520)
        await slave.dec_keys("sae-a1", [key.key_id for key in keys[:2]])
        a, b = await at_a.samples(open_metrics=open_metrics), await at_b.samples(open_metrics=open_metrics)
    assert before.value("delivered_keys_total", **out) == 0
    assert (a.value("delivered_keys_total", **out), a.value("delivered_bits_total", **out)) == (3, 1560)
    assert (b.value("delivered_keys_total", **inc), b.value("delivered_bits_total", **inc)) == (2, 1040)
    assert before.value("stock_bits", **out) - a.value("stock_bits", **out) == 3 * 3 * 256
    assert a.value("received_bits_total", **out) >= 1 << 18
    assert a.value("burned_bits_total", **out) == 0
    drawn = {"master": "sae-a1", "slave": "sae-b1"}
    assert (a.value("sae_keys_total", operation="drawn", **drawn), a.value("sae_bits_total", **drawn)) == (3, 1560)
    assert (b.value("sae_keys_total", operation="fetched", **drawn), b.value("sae_bits_total", **drawn)) == (2, 1040)
    assert a.value("request_seconds_count", interface="etsi014", method="enc_keys", status="200") == 1
    assert a.value("request_seconds_bucket", interface="etsi014", method="enc_keys", status="200", le="+Inf") == 1
    assert b.value("request_seconds_count", interface="etsi014", method="dec_keys", status="200") == 1
    assert a.value("request_seconds_sum", interface="etsi014", method="enc_keys", status="200") > 0


async def test_the_state_of_a_link_and_its_limits_is_told(pair):
    async with served(pair) as (_, _, at_a, _):
        samples = await at_a.samples()
    link = {"peer": "kme-b"}
    told = {
        name: samples.value(f"link_{name}", **link) for name in ("connected", "stream_open", "refused", "generation")
    }
    assert told == {"connected": 1, "stream_open": 1, "refused": 0, "generation": 1}
    assert samples.value("link_secret_key_rate_bits_per_second", **link) > 0
    assert samples.value("link_source", simulated="true", **link) == 1
    assert samples.value("stock_limit_bits", **link) == 1 << 22
    assert samples.value("memory_limit_bytes", interface="etsi014", budget="answers") == 256 << 20
    assert samples.value("memory_held_bytes", budget="bodies") == 0
    assert samples.value("connections", interface="etsi014") == 1
    assert samples.value("info", kme="kme-a", site="a") == 1
    assert samples[("process_resident_memory_bytes", frozenset())] > 1 << 20


async def test_refusals_are_counted_by_code_and_link(pair):
    async with served(pair) as (master, slave, at_a, at_b), pair.client("sae-b2") as other:
        (key,) = await master.enc_keys("sae-b1", number=1, size_bits=256)
        for _ in range(2):
            with pytest.raises(Rejected):
                await master.enc_keys("sae-b1", number=1, size_bits=13)
        with pytest.raises(Rejected):
            await master.enc_keys("sae-of-nobody", number=1, size_bits=256)
        with pytest.raises(Unavailable):
            await master.enc_keys("sae-b1", number=128, size_bits=1 << 18)
        with pytest.raises(Rejected):
            await slave.dec_keys("sae-a1", ["00000000-0000-8000-8000-000000000000"])
        with pytest.raises(Denied):
            await other.dec_keys("sae-a1", [key.key_id])
        async with pair.client("sae-b1", kme="kme-a") as stranger:
            with pytest.raises(Denied):
                await stranger.status("sae-b1")
        a, b = await at_a.samples(), await at_b.samples()
    out = {"peer": "kme-b", "direction": "outgoing"}
    assert a.value("refusals_total", code="keys.request_invalid", **out) == 2
    assert a.value("refusals_total", code="keys.request_invalid", peer="", direction="outgoing") == 1
    assert a.value("refusals_total", code="keys.stream_dry", **out) == 1
    assert a.value("refusals_total", code="keys.caller_unknown") == 1
    assert b.value("refusals_total", code="keys.not_found", peer="kme-a", direction="incoming") == 1
    assert b.value("refusals_total", code="keys.of_another_sae", peer="kme-a", direction="incoming") == 1
    assert a.value("request_seconds_count", interface="etsi014", method="enc_keys", status="400") == 3
    assert a.value("request_seconds_count", interface="etsi014", method="enc_keys", status="503") == 1


async def test_a_lease_that_is_waited_for_is_no_refusal(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, limits={"lease_bytes": 64})
    async with served(pair) as (master, _, at_a, _):
        for _ in range(5):
            await master.enc_keys("sae-b1", number=4, size_bits=256)
        samples = await at_a.samples()
    assert samples.value("refusals_total") is None
    assert samples.value("request_seconds_count", interface="etsi014", method="enc_keys", status="200") == 5


async def test_what_a_kill_burned_is_told_after_the_restart(pair):
    async with served(pair) as (master, *_):
        await master.enc_keys("sae-b1", number=1, size_bits=256)
        stock_bits = (await master.status("sae-b1")).stored_bits
    for path in pair.directory("kme-b").glob("links/*"):
        path.rename(path.with_name("lost"))  # the peer's memory is gone: nothing of the stock can be agreed on
    async with pair.running() as processes, pair.client("sae-a1") as master, Scraper(processes["kme-a"]) as at_a:
        await until_stock(master, "sae-b1", 1)
        samples = await at_a.samples()
    burned = samples.value("burned_bits_total", peer="kme-b", direction="outgoing", reason="handshake")
    assert burned >= stock_bits
    assert samples.value("link_generation", peer="kme-b") == 2


# What they never say


def spellings(key_id, bits):
    yield from (key_id, key_id.replace("-", ""), key_id.upper())
    yield from (
        bits.hex(),
        bits.hex().upper(),
        base64.b64encode(bits).decode(),
        base64.urlsafe_b64encode(bits).decode(),
    )
    yield str(int.from_bytes(bits, "big"))


async def test_no_key_and_no_key_id_is_ever_told_under_load(pair):
    secrets: list[tuple[str, bytes]] = []
    texts: list[str] = []
    stop = asyncio.Event()

    async def work(master, slave):
        while not stop.is_set():
            keys = await master.enc_keys("sae-b1", number=4, size_bits=256)
            ids = [key.key_id for key in keys]
            secrets.extend((key.key_id, key.material.take()) for key in keys)
            await slave.dec_keys("sae-a1", ids)
            with pytest.raises(Rejected):
                await slave.dec_keys("sae-a1", ids)

    async def scrape(scraper):
        for number in range(20):
            headers = {"Accept": OPEN_METRICS} if number % 2 else {}
            for path in ("/metrics", "/health/ready", "/health/live"):
                status, told, text = await scraper.ask(path, headers=headers)
                assert status == 200
                texts.append(f"{dict(told)}{text}")

    async with served(pair) as (master, slave, at_a, at_b):
        load = [asyncio.create_task(work(master, slave)) for _ in range(3)]
        await asyncio.gather(scrape(at_a), scrape(at_b))
        stop.set()
        await asyncio.gather(*load)
        texts += [(await scraper.ask("/metrics"))[2] for scraper in (at_a, at_b)]
    told = "\n".join(texts)
    certificate = pair.saes["sae-a1"].certificate.read_text().splitlines()[1]
    assert len(secrets) >= 12
    assert 'code="keys.not_found"' in told
    assert "sae_keys_total" in told
    assert certificate not in told
    for key_id, bits in secrets:
        for spelling in spellings(key_id, bits):
            assert spelling not in told


async def test_nothing_that_a_client_sends_becomes_a_label(pair):
    files = pair.saes["sae-a1"]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    heads = [
        b"GET /api/v1/keys/evil-sae/enc_keys HTTP/1.1",
        b"GET /api/v1/keys/sae-b1/evil-call HTTP/1.1",
        b"EVIL /api/v1/keys/sae-b1/status HTTP/1.1",
        b"DELETE /api/v1/keys/sae-b1/status?evil HTTP/1.1",
        b"GET /evil?evil=evil HTTP/1.1",
        b"GET /api/v1/keys/sae-b1/dec_keys?key_ID=evil HTTP/1.1",
        b"GET /api/v1/keys/sae-b1/enc_keys?size=evil HTTP/1.1",
        b"\x16evil",
    ]
    async with served(pair) as (_, _, at_a, _):
        for head in heads:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", pair.sae_port["kme-a"], ssl=context, server_hostname="kme-a"
            )
            writer.write(head + b"\r\nHost: evil\r\nX-Evil: evil\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.")
            writer.close()
        text = (await at_a.ask("/metrics?name[]=evil", headers={"X-Evil": "evil"}))[2]
    samples = parsed(text)
    assert "evil" not in text.lower()
    assert samples.value("refusals_total") == len(heads)
    assert samples.value("refusals_total", code="etsi014.malformed", peer="") == 2
    assert samples.value("request_seconds_count", interface="etsi014", method="status", status="400") == 1
    assert samples.value("request_seconds_count", interface="etsi014", method="other", status="400") == 4
    assert samples.value("request_seconds_count", status="400") == len(heads)


async def test_pairs_of_saes_beyond_the_bound_are_counted_together(pair):
    async with served(pair, max_sae_pairs=1) as (master, _, at_a, _):
        await master.enc_keys("sae-b1", number=1, size_bits=256)
        await master.enc_keys("sae-b2", number=2, size_bits=256)
        await master.enc_keys("sae-a2", number=3, size_bits=256)
        samples = await at_a.samples()
    assert samples.value("sae_keys_total", master="sae-a1", slave="sae-b1") == 1
    assert samples.value("sae_keys_total", master="", slave="", operation="drawn") == 5
    assert samples.value("sae_keys_total") == 6


# The endpoint


async def test_the_format_is_the_one_asked_for(pair):
    async with served(pair) as (_, _, at_a, _):
        for accept, kind in [
            ("", "text/plain; version=0.0.4"),
            ("*/*", "text/plain; version=0.0.4"),
            ("text/plain;version=1.0.0;escaping=allow-utf-8", "text/plain; version=0.0.4"),
            (OPEN_METRICS, "application/openmetrics-text; version=1.0.0"),
            (f"{OPEN_METRICS};version=1.0.0;q=0.5,text/plain;q=0.2", "application/openmetrics-text; version=1.0.0"),
            (f"{OPEN_METRICS};version=1.0.0;q=0.1,text/plain;q=0.2", "text/plain; version=0.0.4"),
            (f"{OPEN_METRICS};version=0.0.1", "text/plain; version=0.0.4"),
            (f"{OPEN_METRICS};q=0", "text/plain; version=0.0.4"),
            (f"{OPEN_METRICS};q=nan;version=;;=,,;", "text/plain; version=0.0.4"),
        ]:
            status, headers, text = await at_a.ask("/metrics", headers={"Accept": accept})
            assert (status, headers["Content-Type"].startswith(kind)) == (200, True), accept
            assert text.endswith("# EOF\n") == kind.startswith("application")


async def test_other_paths_and_methods_are_refused(pair):
    async with served(pair) as (_, _, at_a, _):
        assert (await at_a.ask("/"))[0] == 404
        assert (await at_a.ask("/metrics/../links.json"))[0] == 404
        assert (await at_a.ask("/health/ready/"))[0] == 404
        status, headers, _ = await at_a.ask("/metrics", "POST", data=b"x" * 100_000)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert (await at_a.ask("/metrics", "HEAD"))[::2] == (200, "")


async def test_whoever_asks_too_often_gets_the_last_text_again(pair):
    async with served(pair, min_scrape_interval_s=3600) as (master, _, at_a, _):
        first = await at_a.ask("/metrics")
        await master.enc_keys("sae-b1", number=1, size_bits=256)
        assert (await at_a.ask("/metrics"))[2] == first[2]
        assert (await at_a.samples(open_metrics=True)).value("delivered_keys_total", direction="outgoing") == 1


async def raw(scraper):
    return await asyncio.open_connection("127.0.0.1", int(scraper.base.rpartition(":")[2]))


async def test_connections_are_few_and_those_turned_away_are_counted(pair):
    async with served(pair, max_connections=2) as (master, _, at_a, _):
        await at_a.ask("/metrics")  # its connection stays open
        _, second = await raw(at_a)
        await at_a.ask("/metrics")
        reader, third = await raw(at_a)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        samples = await at_a.samples()
        assert samples.value("connections", interface="operations") == 2
        assert samples.value("connections_refused_total", interface="operations") == 1
        await master.enc_keys("sae-b1", number=1, size_bits=256)
        for writer in (second, third):
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"POST /metrics HTTP/1.1\r\n"])
async def test_a_scraper_that_stalls_loses_its_connection(pair, sent):
    async with served(pair, idle_timeout_s=0.3) as (*_, at_a, _):
        reader, writer = await raw(at_a)
        writer.write(sent)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()
        assert (await at_a.ask("/metrics"))[0] == 200


async def ask_for_ever(writer):
    while True:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        await writer.drain()


async def test_a_scraper_that_does_not_read_loses_its_connection(pair):
    async with served(pair, idle_timeout_s=0.3, min_scrape_interval_s=3600) as (master, _, at_a, _):
        _, writer = await raw(at_a)
        writer.transport.pause_reading()
        with pytest.raises(ConnectionError):
            await ask_for_ever(writer)
        assert (await at_a.ask("/metrics"))[0] == 200
        await master.enc_keys("sae-b1", number=1, size_bits=256)


async def test_connections_of_a_greedy_sae_are_counted_as_refused(tmp_path):
    pair = KmePair(tmp_path, limits={"max_connections": 8})
    files = pair.saes["sae-a2"]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    async with served(pair) as (*_, at_a, _):
        streams = [
            await asyncio.open_connection("127.0.0.1", pair.sae_port["kme-a"], ssl=context, server_hostname="kme-a")
            for _ in range(5)
        ]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await streams[4][0].readexactly(1)
        samples = await at_a.samples()
        for _, writer in streams:
            writer.transport.abort()
    assert samples.value("connections_refused_total", interface="etsi014") == 1


async def test_without_its_section_nothing_is_served(pair):
    async with pair.running() as processes:
        assert processes["kme-a"].operations is None


async def test_a_port_that_is_taken_stops_the_start_and_leaves_nothing_open(pair):
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    good = pair.config("kme-a").read_text()
    with_operations(pair, "kme-a", port=server.sockets[0].getsockname()[1])
    with pytest.raises(Rejected, match=r"\[operations\] cannot listen"):
        await KmeProcess(load_kme_config(pair.config("kme-a"))).__aenter__()
    server.close()
    pair.config("kme-a").write_text(good)
    async with pair.running("kme-a"):
        pass


async def test_the_guide_lists_every_metric_with_its_labels(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, etsi004={})
    rows = re.findall(r"^\| `(shosoin_kme_\w+)` \| ([^|]+) \|", GUIDE.read_text(), re.MULTILINE)
    listed = {name: frozenset(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    pair.sae_plane.revoke(path=pair.root / "sae.crl")
    config = pair.config("kme-b")
    config.write_text(config.read_text().replace("[kme.sae_api]", f'[kme.sae_api]\ncrl = "{pair.root / "sae.crl"}"'))
    async with served(pair) as (master, slave, _, at_b):
        stock = (await master.status("sae-b1")).stored_key_count
        while stock:  # until a block is handed out whole and waits
            keys = await master.enc_keys("sae-b1", number=min(128, stock), size_bits=256)
            stock -= len(keys)
        with pytest.raises(Rejected):
            await slave.dec_keys("sae-a1", ["no-key"])
        await slave.dec_keys("sae-a1", [keys[0].key_id])
        async with asyncio.timeout(30):
            while (samples := await at_b.samples()).value("oldest_unfetched_seconds") is None:
                await asyncio.sleep(0.02)
    found = {
        re.sub("_(bucket|sum|count)$", "", name): frozenset(dict(labels)) - {"le"}
        for name, labels in samples
        if name.startswith("shosoin")
    }
    assert found == listed


def test_the_rules_of_the_guide_use_metrics_that_exist():
    text = GUIDE.read_text()
    table, rules = text.split("## Alerts")
    used = set(re.findall(r"shosoin_kme_\w+", rules))
    assert len(used) == 7
    assert used <= set(re.findall(r"^\| `(shosoin_kme_\w+)`", table, re.MULTILINE))
