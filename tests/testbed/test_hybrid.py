"""A testbed in which nothing asks a KME but over the hybrid group: nodes and owners included."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from shosoin.adapters.owner import BadOwnerConfig, load_owner_config, open_vault
from shosoin.base import Rejected, Unavailable
from shosoin.testbed.build import prepare
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import parse_scenario
from tests.testbed.test_scenario import SMALL

LINE = 'key_exchange = "require-hybrid"\n'


def require_hybrid(path, section):
    """Write the key into a section of a configuration."""
    heading = rf"(?m)^\[{re.escape(section)}\]\n"
    text, count = re.subn(heading, lambda found: found[0] + LINE, path.read_text())
    assert count == 1
    path.write_text(text)


async def put_once_there_are_keys(vault):
    while True:
        try:
            return await vault.put_many({"a name": b"kept"})
        except Unavailable:
            await asyncio.sleep(0.1)


@pytest.mark.processes
async def test_an_owner_stores_and_fetches_where_every_kme_requires_the_hybrid_group(tmp_path):
    scenario = parse_scenario(SMALL + f"[network]\n{LINE}")
    layout = prepare(scenario, tmp_path / "bed")
    for site in layout.scenario.sites:
        require_hybrid(layout.process(site.name, ProcessRole.KME).config, "kme.sae_api")
        require_hybrid(layout.process(site.name, ProcessRole.NODE).config, "node.kme")
    owner = layout.owner_config("owner-1")
    require_hybrid(owner, "kme")
    bed = await Testbed.up(None, tmp_path / "bed")
    try:
        async with asyncio.timeout(60), open_vault(load_owner_config(owner)) as vault:
            await put_once_there_are_keys(vault)
            assert await vault.get_many(["a name"]) == {"a name": b"kept"}
    finally:
        bed.down()
    lines = [line for site in layout.scenario.sites for line in logged(layout.process(site.name, ProcessRole.KME))]
    groups = {line["group"] for line in lines if line["event"] in {"peer.connected", "sae.connected"}}
    assert groups == {"X25519MLKEM768"}
    assert {line["caller"] for line in lines if line["event"] == "sae.connected"} == {"owner-1", "node-west"}


def logged(process):
    return [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]


def test_a_key_exchange_that_does_not_exist_is_refused_in_an_owner_s_file(tmp_path):
    layout = prepare(parse_scenario(SMALL), tmp_path / "bed")
    path = layout.owner_config("owner-1")
    path.write_text(path.read_text().replace("[kme]\n", '[kme]\nkey_exchange = "hybrid"\n'))
    with pytest.raises(Rejected, match="unknown key exchange"):
        load_owner_config(path)
    path.write_text(path.read_text().replace('"hybrid"', "1"))
    with pytest.raises(BadOwnerConfig, match="key_exchange"):
        load_owner_config(path)
