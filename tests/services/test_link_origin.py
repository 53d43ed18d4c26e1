"""What a key is called follows from what made it, whatever the configuration says by now."""

from __future__ import annotations

import os

import pytest

from shosoin.adapters.private_files import create_private
from shosoin.base import KmeId
from shosoin.keys.errors import StoreUnavailable
from shosoin.link.port import LinkFacts
from shosoin.services.link_origin import origin_of_stock
from tests.support.kme import KmePair, until

SIMULATED = LinkFacts("simulated-qkd", True, None, 5.0)
REAL = LinkFacts("qkd", False, 1e-10, 7.0)


def test_bits_of_a_simulation_are_simulated_after_devices_took_its_place_until_they_are_gone(tmp_path):
    where = tmp_path / "sources" / "kme-b"
    assert origin_of_stock(where, SIMULATED, has_stock=False) == SIMULATED
    for _ in range(2):
        found = origin_of_stock(where, REAL, has_stock=True)
        assert (found.kind, found.simulated, found.epsilon) == ("simulated-qkd", True, None)
        assert found.secret_key_rate_bps == REAL.secret_key_rate_bps
    assert origin_of_stock(where, REAL, has_stock=False) == REAL
    assert origin_of_stock(where, REAL, has_stock=True) == REAL


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        (LinkFacts("qkd", False, 1e-3, 0.0), REAL, ("qkd", False, 1e-3)),
        (REAL, LinkFacts("qkd", False, 1e-3, 0.0), ("qkd", False, 1e-3)),
        (LinkFacts("undeclared", False, 1e-12, 0.0), REAL, ("undeclared", False, 1e-10)),
        (LinkFacts("qkd", False, None, 0.0), REAL, ("qkd", False, None)),
        (REAL, SIMULATED, ("simulated-qkd", True, None)),
    ],
)
def test_the_least_that_was_declared_for_what_is_in_stock_counts(tmp_path, first, then, expected):
    origin_of_stock(tmp_path, first, has_stock=False)
    found = origin_of_stock(tmp_path, then, has_stock=True)
    assert (found.kind, found.simulated, found.epsilon) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 4000,
        b'{"kind": "qkd", "simulated": 0, "epsilon": 1e-9}',
        b'{"kind": "qkd", "simulated": false, "epsilon": NaN}',
        b'{"kind": "qkd", "simulated": false, "epsilon": true}',
    ],
)
def test_what_cannot_be_read_of_an_origin_counts_as_simulated(tmp_path, content):
    (tmp_path / "origin.json").write_bytes(content)
    assert origin_of_stock(tmp_path, REAL, has_stock=True).simulated


@pytest.mark.parametrize(
    "put_there",
    [lambda path: path.symlink_to(path.with_name("nowhere")), os.mkfifo],
    ids=["a link to nowhere", "a pipe"],
)
def test_what_is_no_file_where_an_origin_would_be_counts_as_simulated_and_holds_nobody_up(tmp_path, put_there):
    put_there(tmp_path / "origin.json")
    assert origin_of_stock(tmp_path, REAL, has_stock=True).simulated
    assert origin_of_stock(tmp_path, REAL, has_stock=True).simulated
    assert origin_of_stock(tmp_path, REAL, has_stock=False) == REAL


def test_an_origin_that_cannot_be_kept_is_a_failure_of_the_store(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable):
        origin_of_stock(tmp_path / "file", REAL, has_stock=False)


async def test_stock_keeps_its_epsilon_over_a_change_of_the_table_until_the_pair_is_burned(tmp_path):
    def source(_: str) -> str:
        table = "attenuation_db = 3.0\nstock_bits_at_start = 65536\nepsilon_secrecy = 1e-3\npulses_per_s = 1e3"
        return f'kind = "events"\n\n[link.events]\nauthentication_key_file = "authentication.key"\n{table}\n'

    pair, start_key, peer = KmePair(tmp_path, source=source), os.urandom(1 << 16), KmeId("kme-b")
    for kme in ("kme-a", "kme-b"):
        create_private(tmp_path / kme / "authentication.key", start_key)
    async with pair.running() as kmes:
        await until(lambda: kmes["kme-a"].links.states()[peer]["outgoing_stock_bits"] > 0)
    text = pair.config("kme-a").read_text()
    pair.config("kme-a").write_text(text.replace("epsilon_secrecy = 1e-3", "epsilon_secrecy = 1e-9"))
    async with pair.running("kme-a") as kmes:
        kme = kmes["kme-a"]
        assert kme.links.facts[peer].epsilon == pytest.approx(1e-3)
        assert kme.kme is not None
        await kme.links.burn(peer, dry_run=False)
        assert kme.kme._facts[peer].epsilon == kme.links.facts[peer].epsilon == pytest.approx(1e-9, rel=1e-3)
