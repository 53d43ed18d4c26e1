"""``shosoin kme burn``, ``heal``, ``rekey``, ``new-secret`` and ``rotate-storage-key`` as an operator calls them."""

from __future__ import annotations

import asyncio
import os
import pty
import shutil
import subprocess
import sys

import pytest
from tests.support.kme import KmePair, until_stock

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 17)
    asyncio.run(_ran(pair))
    return pair


async def _ran(pair):
    async with pair.running(), pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 4)


def blocks(pair, kme="kme-a"):
    return list(pair.directory(kme).glob("links/*/blocks/*"))


def answered(answers, *arguments):
    """Run a command on a terminal of its own, whose user types ``answers``; return its exit code and what it said."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "shosoin.cli", *map(str, arguments)]
    environment = {**os.environ, "SHOSOIN_LANG": "en"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        os.write(ours, answers.encode())
        try:
            code = process.wait(timeout=60)
        finally:
            process.kill()
    said = os.read(ours, 65536).decode()
    os.close(ours)
    return code, said


def test_a_burn_tells_what_it_destroyed(shosoin, pair):
    command = ("kme", "burn", "--config", pair.config("kme-a"), "--peer", "kme-b")
    count = len(blocks(pair))
    foreseen = shosoin(*command, "--dry-run", "--json")
    assert (foreseen.code, foreseen.json["dry_run"]) == (0, True)
    (told,) = foreseen.json["pairs"]
    assert (told["peer"], told["blocks"]) == ("kme-b", count)
    assert told["bits"] > 0
    assert "would destroy" in shosoin(*command, "--dry-run").out
    assert len(blocks(pair)) == count > 0
    done = shosoin(*command, "--yes", "--json")
    assert done.json == {"kme": "kme-a", "dry_run": False, "pairs": [told], "refused": {}}
    assert not blocks(pair)
    again = shosoin(*command, "--yes")
    assert again.code == 0
    assert "kme-b: 0 blocks (0 bits) destroyed" in again.out


def test_nothing_is_destroyed_unless_somebody_agrees(shosoin, pair):
    command = ("kme", "burn", "--config", pair.config("kme-a"), "--peer", "kme-b")
    refused = shosoin(*command)
    assert refused.code == 2
    assert refused.hints == ["shosoin: hint: add --yes"]
    code, said = answered("n\n", *command)
    assert code == 130
    assert "Destroy all stock shared with kme-b" in said
    assert blocks(pair)
    assert answered("y\n", *command)[0] == 0
    assert not blocks(pair)


def test_healing_burns_all_and_says_what_comes_next(shosoin, pair):
    done = shosoin("kme", "heal", "--config", pair.config("kme-a"), "--yes")
    assert done.code == 0
    assert "re-key with every peer" in done.err
    assert "kme-b: " in done.out
    assert not blocks(pair)
    assert shosoin("kme", "heal", "--config", pair.config("kme-a"), "--yes", "--json").json["pairs"][0]["blocks"] == 0


def test_healing_with_a_damaged_pair_burns_the_others_and_exits_4(shosoin, pair):
    shutil.copytree(pair.directory("kme-a") / "links" / "kme-b", pair.directory("kme-a") / "links" / "kme-0")
    for journal in pair.directory("kme-a").glob("links/kme-0/journal.sqlite*"):
        journal.unlink()
    done = shosoin("kme", "heal", "--config", pair.config("kme-a"), "--yes", "--json")
    assert done.code == 4
    assert set(done.json["refused"]) == {"kme-0"}
    assert not list(pair.directory("kme-a").glob("links/kme-b/blocks/*"))
    assert "shosoin kme rekey" in done.hints[0]


def test_a_pair_is_rekeyed(shosoin, pair, tmp_path):
    secret = tmp_path / "new.secret"
    assert shosoin("kme", "new-secret", secret).code == 0
    assert shosoin("kme", "new-secret", secret).code == 2
    command = ("kme", "rekey", "--config", pair.config("kme-a"), "--peer", "kme-b", "--secret", secret)
    assert shosoin(*command, "--dry-run", "--json").json["dry_run"] is True
    assert blocks(pair)
    assert shosoin(*command).code == 2
    done = shosoin(*command, "--yes", "--json")
    assert done.json["installed_before"] is False
    assert done.json["burned"]["bits"] > 0
    assert not blocks(pair)
    assert (tmp_path / "kme-a" / "pair.secret").read_bytes() == secret.read_bytes()
    again = shosoin(*command)
    assert (again.code, again.out) == (0, "kme-b: this secret is in place at this end\n")
    for answer in (done, again):
        assert secret.read_bytes().hex() not in answer.out + answer.err


@pytest.mark.parametrize("command", ["burn", "rekey", "heal", "rotate-storage-key"])
def test_a_running_kme_is_left_alone(shosoin, pair, tmp_path, command):
    shosoin("kme", "new-secret", tmp_path / "s")
    options = {
        "burn": ["--peer", "kme-b", "--yes"],
        "rekey": ["--peer", "kme-b", "--secret", tmp_path / "s", "--yes"],
        "heal": ["--yes"],
        "rotate-storage-key": ["--new-key-file", tmp_path / "kek"],
    }[command]

    async def while_it_runs():
        async with pair.running("kme-a"):
            arguments = [str(item) for item in ("kme", command, "--config", pair.config("kme-a"), *options)]
            return await asyncio.to_thread(lambda: shosoin(*arguments))

    answer = asyncio.run(while_it_runs())
    assert answer.code == 4
    assert "in use by a running KME" in answer.err
    assert blocks(pair)


def test_a_storage_key_is_rotated(shosoin, pair, tmp_path):
    command = ("kme", "rotate-storage-key", "--config", pair.config("kme-a"), "--new-key-file", tmp_path / "kek")
    foreseen = shosoin(*command, "--reencrypt", "--dry-run")
    assert "would be re-encrypted under a new storage key: 2 stores" in foreseen.out
    assert "would be overwritten and removed: " in foreseen.out
    assert not (tmp_path / "kek").exists()
    done = shosoin(*command, "--reencrypt", "--json")
    assert done.code == 0
    assert (done.json["source_before"], done.json["source"]) == ("storage_key_file", "file")
    assert (done.json["reencrypted"], done.json["resumed"], done.json["dry_run"]) == (True, False, False)
    assert done.json["stores"][0]["blocks"] == len(blocks(pair)) > 0
    assert done.json["overwritten"] == [str(tmp_path / "kme-a" / "storage.key")]
    assert done.err == ""
    again = shosoin(*command)
    assert again.code == 0
    assert "write the new [kme.storage_key] (source file)" in again.out


def test_what_makes_no_sense_is_rejected(shosoin, pair, tmp_path):
    (tmp_path / "p").write_text("correct horse battery staple")
    base = ("kme", "rotate-storage-key", "--config", pair.config("kme-a"))
    both = shosoin(*base, "--new-key-file", tmp_path / "k", "--new-passphrase-file", tmp_path / "p")
    other = shosoin(*base, "--new-config", pair.config("kme-b"))
    plain = shosoin(*base, "--reencrypt")
    assert [both.code, other.code, plain.code] == [2, 2, 2]
    assert "exclude each other" in both.err
    assert "is for kme-b" in other.err
    assert "--new-config FILE" in plain.err
