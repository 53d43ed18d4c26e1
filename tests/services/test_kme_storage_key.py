"""KMEs whose storage key comes from a file, a passphrase or a token: they start, start again, and refuse."""

import asyncio
import subprocess
import sys

import pytest

from shosoin.base import Rejected, ShosoinError
from shosoin.cli.common import exit_code_of
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from tests.support.kme import KmePair, ServerProcess, until_stock
from tests.support.softhsm import softhsm_at

pytestmark = pytest.mark.processes

PASSPHRASE = "correct horse battery staple"
TOKEN = '[kme.storage_key]\nsource = "pkcs11"\nmodule = "m"\ntoken = "t"\nkey = "k"\npin_file = "p"'


@pytest.fixture
def pair(tmp_path):
    (tmp_path / "kmes").mkdir()
    pair = KmePair(tmp_path / "kmes", stock_bits=1 << 16)
    path = tmp_path / "kmes" / "kme-b" / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    path.chmod(0o600)
    return pair


@pytest.fixture
def hsm(tmp_path):
    pytest.importorskip("pkcs11")
    with softhsm_at(tmp_path / "hsm") as hsm:
        hsm.init()
        hsm.make_key()
        yield hsm


def configure(pair, table, kme="kme-b"):
    path = pair.config(kme)
    text = path.read_text()
    start = text.index("storage_key_file" if "storage_key_file" in text else "[kme.storage_key]")
    path.write_text(f"{text[:start]}\n{table}\n\n{text[text.index('[kme.sae_api]') :]}")


def table(source, hsm=None):
    passphrase = '[kme.storage_key]\nsource = "passphrase"\nscrypt_log2_n = 14\n'
    return {
        "file": '[kme.storage_key]\nsource = "file"\nkey_file = "kek"',
        "passphrase": f'{passphrase}passphrase_file = "passphrase"',
        "environment": f'{passphrase}passphrase_env = "KME_PASSPHRASE"',
        "pkcs11": hsm.table() if hsm is not None else "",
    }[source]


def run_command(*arguments):
    """Run the program in a process of its own; return its exit code and what it said."""
    command = [sys.executable, "-m", "shosoin.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


async def start_again_and_fetch(pair, server, key, a, b):
    await server.stop()
    await server.start()
    await until_stock(b, "sae-a1", 1)
    (fetched,) = await b.dec_keys("sae-a1", [key.key_id])
    assert fetched.material == key.material


@pytest.mark.parametrize("source", ["file", "passphrase", "environment", "pkcs11"])
async def test_a_kme_starts_and_starts_again(pair, request, monkeypatch, source):
    configure(pair, table(source, request.getfixturevalue("hsm") if source == "pkcs11" else None))
    monkeypatch.setenv("KME_PASSPHRASE", PASSPHRASE)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    try:
        for server in servers.values():
            await server.start()
        async with pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await until_stock(a, "sae-b1", 4)
            (key,) = await a.enc_keys("sae-b1", number=1, size_bits=256)
            await start_again_and_fetch(pair, servers["kme-b"], key, a, b)
    finally:
        for server in servers.values():
            await server.kill()
    state = pair.directory("kme-b")
    assert (state / "storage-key.json").stat().st_mode & 0o777 == 0o600
    assert PASSPHRASE not in (state.parent / "log").read_text()
    assert not (state.parent / "storage.key").exists()


@pytest.mark.parametrize("source", ["passphrase", "pkcs11"])
async def test_keys_under_way_survive_a_new_storage_key(pair, request, source):
    new = pair.config("kme-b").with_name("new.toml")
    old_text = pair.config("kme-b").read_text()
    configure(pair, table(source, request.getfixturevalue("hsm") if source == "pkcs11" else None))
    pair.config("kme-b").rename(new)
    pair.config("kme-b").write_text(old_text)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    try:
        for server in servers.values():
            await server.start()
        async with pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await until_stock(a, "sae-b1", 4)
            (key,) = await a.enc_keys("sae-b1", number=1, size_bits=256)
            await servers["kme-b"].stop()
            command = ("kme", "rotate-storage-key", "--config", pair.config("kme-b"), "--new-config", new)
            assert (await asyncio.to_thread(run_command, *command, "--reencrypt"))[0] == 0
            code, said = await asyncio.to_thread(run_command, "kme", "run", "--config", pair.config("kme-b"))
            assert code == 2
            assert "names a plain storage_key_file" in said
            new.rename(pair.config("kme-b"))
            await start_again_and_fetch(pair, servers["kme-b"], key, a, b)
    finally:
        for server in servers.values():
            await server.kill()


# Refused before anything is opened


@pytest.fixture
def sealed(pair, request):
    """A KME that ran once under a passphrase."""
    configure(pair, table("passphrase"))
    asyncio.run(start_and_stop(pair, "kme-b"))
    return pair


async def start_and_stop(pair, kme):
    async with KmeProcess(load_kme_config(pair.config(kme))):
        pass


def files(pair, kme):
    found = (path for path in pair.directory(kme).rglob("*") if path.is_file() and path.name != "state.lock")
    return {path: path.read_bytes() for path in found}


def refused(pair, code, message, kme="kme-b"):
    before = files(pair, kme)
    with pytest.raises(ShosoinError, match=message) as raised:
        asyncio.run(start_and_stop(pair, kme))
    assert exit_code_of(raised.value) == code
    assert PASSPHRASE not in str(raised.value) + raised.value.hint
    assert files(pair, kme) == before


def test_a_wrong_passphrase_is_an_error_before_anything_is_opened(sealed):
    (sealed.root / "kme-b" / "passphrase").write_text("correct horse battery stable")
    refused(sealed, 2, "passphrase does not open")


def test_a_missing_passphrase_file_is_named(sealed):
    (sealed.root / "kme-b" / "passphrase").unlink()
    refused(sealed, 2, r"cannot read \[kme.storage_key\] passphrase_file")


def test_a_passphrase_file_for_all_to_read_is_denied(sealed):
    (sealed.root / "kme-b" / "passphrase").chmod(0o644)
    refused(sealed, 3, "can be read or changed by others")


def test_a_missing_envelope_beside_state_is_not_made_anew(sealed):
    (sealed.directory("kme-b") / "storage-key.json").unlink()
    refused(sealed, 2, "no envelope of its key")


def test_a_missing_plain_key_beside_state_is_not_made_anew(pair):
    asyncio.run(start_and_stop(pair, "kme-a"))
    (pair.root / "kme-a" / "storage.key").unlink()
    refused(pair, 2, "no storage key", "kme-a")
    assert not (pair.root / "kme-a" / "storage.key").exists()


def test_another_source_than_the_envelope_has_is_named(sealed):
    configure(sealed, table("file"))
    refused(sealed, 2, "sealed for source 'passphrase', configured is 'file'")


def test_a_damaged_envelope_is_named(sealed):
    envelope = sealed.directory("kme-b") / "storage-key.json"
    envelope.write_text(envelope.read_text()[:-20])
    refused(sealed, 2, "is no envelope of a storage key")


def test_the_envelope_of_another_kme_does_not_open(sealed):
    configure(sealed, table("passphrase"), "kme-a")
    (sealed.root / "kme-a" / "passphrase").write_text(PASSPHRASE)
    (sealed.root / "kme-a" / "passphrase").chmod(0o600)
    sealed.directory("kme-a").mkdir()
    envelope = sealed.directory("kme-a") / "storage-key.json"
    envelope.write_bytes((sealed.directory("kme-b") / "storage-key.json").read_bytes())
    refused(sealed, 2, "belongs to KME 'kme-b'", "kme-a")
    envelope.write_text(envelope.read_text().replace("kme-b", "kme-a"))
    refused(sealed, 2, "passphrase does not open", "kme-a")


def test_a_token_that_is_gone_or_refuses_the_pin_stops_the_start(pair, hsm):
    configure(pair, hsm.table(pin_file=str(hsm.pin_file)))
    hsm.reload()
    hsm.pin_file.write_text("000000")
    refused(pair, 3, "does not accept the PIN")
    hsm.pin_file.write_text("271828")
    configure(pair, hsm.table(token="other"))
    refused(pair, 4, "there is no token labelled 'other'")


def test_a_key_is_made_on_the_token_once(pair, hsm):
    configure(pair, hsm.table(key="made"))
    command = ("kme", "new-token-key", "--config", pair.config("kme-b"))
    assert run_command(*command) == (0, "")
    code, said = run_command(*command)
    assert (code, "has a key 'made' already" in said) == (2, True)
    hsm.reload()
    asyncio.run(start_and_stop(pair, "kme-b"))
    configure(pair, table("passphrase"))
    code, said = run_command(*command)
    assert (code, "no [kme.storage_key] with source" in said) == (2, True)


# Configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither given"),
        ('storage_key_file = "k"\n[kme.storage_key]\nsource = "file"\nkey_file = "k"', "both given"),
        ('[kme.storage_key]\nsource = "hsm"', "source must be one of file, passphrase, pkcs11"),
        ("[kme.storage_key]", "source must be one of"),
        ('[kme.storage_key]\nsource = "file"', "lacks 'key_file'"),
        ('[kme.storage_key]\nsource = "file"\nkey_fil = "k"', "did you mean 'key_file'"),
        ('[kme.storage_key]\nsource = "file"\nkey_file = 5', "must be a path"),
        ('[kme.storage_key]\nsource = "passphrase"', "either 'passphrase_file' or 'passphrase_env'"),
        ('[kme.storage_key]\nsource = "passphrase"\npassphrase = "secret words"', "did you mean 'passphrase_"),
        ('[kme.storage_key]\nsource = "passphrase"\npassphrase_env = "A=B"', "name of an environment variable"),
        ('[kme.storage_key]\nsource = "passphrase"\npassphrase_env = "A"\nscrypt_log2_n = 30', "must be 14 to 20"),
        ('[kme.storage_key]\nsource = "pkcs11"\nmodule = "m"\ntoken = "t"\nkey = "k"', "lacks 'pin_file'"),
        (f'{TOKEN}\nmechanism = "rsa"', "mechanism must be one of aes-gcm"),
    ],
)
def test_a_mistake_in_the_configuration_is_named(pair, text, message):
    configure(pair, text)
    with pytest.raises(Rejected, match=message):
        load_kme_config(pair.config("kme-b"))
