"""Terms that would make a KME useless are refused when it starts; a damaged file of copies costs the copies alone."""

from __future__ import annotations

import pytest

from shosoin.base import Rejected
from shosoin.services.kme_config import load_kme_config
from tests.review.test_keys_multicast_attacks import configured
from tests.services.test_etsi014 import Raw
from tests.services.test_multicast import MANY, drawn, served
from tests.support.kme import KmePair, until_stock


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 20, speedup=50.0)


@pytest.mark.parametrize(
    "terms",
    [
        "bits_per_s = 100.0",  # and as much at once, which is less than the smallest key takes from the stream
        "bits_per_s = 1000.0\nburst_bits = 255.0",
        "bits_per_s = 1000.0\nkey_size_bits = 2048",
    ],
)
def test_a_pair_whose_burst_is_less_than_a_key_could_never_draw(pair, terms):
    configured(pair, f'[[policy]]\nmaster = "sae-a1"\n{terms}')
    with pytest.raises(Rejected, match="burst_bits"):
        load_kme_config(pair.config("kme-a"))


def test_a_burst_of_one_key_is_enough(pair):
    configured(pair, '[[policy]]\nmaster = "sae-a1"\nbits_per_s = 1.0\nburst_bits = 256.0')
    load_kme_config(pair.config("kme-a"))


async def test_a_damaged_file_of_copies_does_not_stop_the_kme(pair):
    async with served(pair) as (_, raws):
        await drawn(raws)
    (pair.directory("kme-b") / "copies.sqlite").write_bytes(b"rotten" * 1000)
    async with pair.running(), pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 8)
        (key,) = await client.enc_keys("sae-b1", number=1, size_bits=256)
        async with pair.client("sae-b1") as slave:
            assert await slave.dec_keys("sae-a1", [key.key_id])
        async with Raw(pair, "sae-a1") as raw:
            status, _ = await raw.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
            assert status in {200, 503}
