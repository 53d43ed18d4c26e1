"""Files that hold secrets: whoever else can read one, no program of ours starts with it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from shosoin.adapters.owner import load_owner_config, open_vault
from shosoin.adapters.private_files import require_tls_key
from shosoin.base import Denied, Rejected
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.node_config import load_node_config
from shosoin.testbed.build import prepare
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import parse_scenario
from tests.services.test_kme_identity import QUICK, own
from tests.support.key_sources import RIGS
from tests.support.kme import KmePair, until
from tests.testbed.test_scenario import SMALL

OPEN = (0o644, 0o660)


@pytest.fixture
def pair(tmp_path):
    (tmp_path / "rig").mkdir()
    return KmePair(tmp_path, source=RIGS["push"](tmp_path / "rig").link, extra={"end": QUICK})


SECRETS = {
    r"[[link]] of kme-b: pair_secret_file": lambda pair: pair.root / "kme-a" / "pair.secret",
    r"[kme.sae_api] key": lambda pair: own(pair, "kme-a", "sae").key,
    r"[kme.peer_api] key": lambda pair: own(pair, "kme-a", "kme").key,
    r"[link.push] of kme-b: key": lambda pair: pair.root / "rig" / "pki-device" / "kme-kme-a.key",
    r"[kme] storage_key_file": lambda pair: pair.root / "kme-a" / "storage.key",
}


@pytest.mark.parametrize("name", SECRETS)
async def test_a_kme_does_not_start_with_a_secret_that_others_can_read(pair, name):
    path: Path = SECRETS[name](pair)
    if not path.exists():
        path.write_bytes(os.urandom(32))
    for mode in OPEN:
        path.chmod(mode)
        with pytest.raises(Denied) as refused:
            async with KmeProcess(load_kme_config(pair.config("kme-a"))):
                pass
        assert refused.value.message.startswith(f"{name} {path} can be read or changed by others (mode {mode:o})")
        assert f"chmod 600 {path}" in (refused.value.hint or "")
    path.chmod(0o600)
    async with pair.running("kme-a"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs files of other users")
async def test_nor_with_one_of_another_user(pair):
    path = pair.root / "kme-a" / "pair.secret"
    os.chown(path, 65534, 65534)
    with pytest.raises(Denied, match="belongs to user 65534"):
        async with KmeProcess(load_kme_config(pair.config("kme-a"))):
            pass


async def test_a_key_that_others_can_read_is_no_renewal(pair):
    key = own(pair, "kme-a", "sae").key
    async with pair.running("kme-a") as processes:
        plane = processes["kme-a"].identity.planes["sae_api"]
        key.chmod(0o644)
        await until(lambda: "[kme.sae_api] key" in plane.fault)
        key.chmod(0o600)
        await until(lambda: not plane.fault)


def test_a_group_may_read_a_key_of_tls_that_root_owns_and_change_none(tmp_path):
    key = tmp_path / "key"
    key.touch(0o640)
    key.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(key, 0, 4)
        require_tls_key(key, "key")
        os.chown(key, 65534, 4)
    with pytest.raises(Denied):
        require_tls_key(key, "key")
    with pytest.raises(Rejected, match="is not a file"):
        require_tls_key(tmp_path, "key")


async def test_neither_does_a_share_node_start_nor_a_command_of_an_owner_run(tmp_path):
    layout = prepare(parse_scenario(SMALL), tmp_path / "bed")
    node = layout.process(layout.scenario.sites[0].name, ProcessRole.NODE).config
    owner = layout.owner_config(None)
    run = "import sys, pathlib; from shosoin.services.node import run; run(pathlib.Path(sys.argv[1]))"
    of_node, of_owner = load_node_config(node), load_owner_config(owner)
    for path, name in (
        (of_node.node.signing_key, "[node] signing_key"),
        (of_node.api.key, "[node.api] key"),
        (of_node.kme.key, "[node.kme] key"),
    ):
        path.chmod(0o644)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", run, str(node), stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        assert f"{name} {path} can be read or changed by others (mode 644)" in said.decode()
        path.chmod(0o600)
    for path, name in ((of_owner.signing_key, "[owner] signing_key"), (of_owner.key, "[owner] key")):
        path.chmod(0o644)
        with pytest.raises(Denied, match=re.escape(f"{name} {path} can be read")):
            async with open_vault(of_owner):
                pytest.fail("it opened")
        path.chmod(0o600)
