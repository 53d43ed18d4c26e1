"""Rotation of a KME's storage key: killed at every durable step and called again, on the state of KMEs that ran."""

import asyncio
import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from shosoin.adapters.storage_envelope import EnvelopeFile
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.base import Rejected, ShosoinError, Unavailable
from shosoin.keys.errors import StreamRefused
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_rotation import Rotation
from shosoin.services.storage_key import existing_storage_key, storage_key
from shosoin.services.storage_key_config import FileSection, PassphraseSection, PlainKeyFile, source_of
from tests.support.kme import KmePair, until_stock

pytestmark = pytest.mark.processes

STEPS = ("fsync", "fdatasync", "link", "rename", "unlink", "rmdir")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Two KMEs that ran, drew keys that nobody has fetched yet, and stopped; and those keys."""
    pair = KmePair(tmp_path_factory.mktemp("ran"), stock_bits=1 << 16)
    return pair, asyncio.run(_run(pair))


async def _run(pair):
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 4)
        await until_stock(b, "sae-a1", 4)
        keys = await a.enc_keys("sae-b1", number=3, size_bits=256)
        await b.dec_keys("sae-a1", [keys[0].key_id])
        return {key.key_id: key.material.take() for key in keys[1:]}


class Home:
    """A copy of one KME's files."""

    def __init__(self, original: Path, root: Path) -> None:
        shutil.copytree(original, root)
        self.root, self.config_file = root, root / "config.toml"

    @property
    def config(self):
        return load_kme_config(self.config_file)

    def configure(self, table: str) -> None:
        """Replace what the configuration says about the storage key."""
        text = self.config_file.read_text()
        start = text.index("storage_key_file" if "storage_key_file" in text else "[kme.storage_key]")
        end = text.index("[kme.sae_api]")
        self.config_file.write_text(f"{text[:start]}\n{table}\n\n{text[end:]}")

    def stored(self, key: bytes) -> dict:
        """Return all that is stored of all pairs, decrypted."""
        found = {}
        for place in (self.root / "state" / "links").iterdir():
            with closing(FileStreamStore(place, key)) as store:
                records = store.load()
                blocks = [name.removeprefix("block/") for name in records if name.startswith("block/")]
                found[place.name] = records, {name: store.read_block(name) for name in blocks}
        return found

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.root)): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def home(ran, tmp_path):
    return Home(ran[0].root / "kme-b", tmp_path / "kme-b")


def rotate(home, new=None, *, reencrypt=False):
    with Rotation(home.config, new, reencrypt=reencrypt) as rotation:
        return rotation.run(lambda _: None)


def key_file(home, name="kek"):
    return FileSection("file", home.root / name)


def passphrase(home, content="correct horse battery staple", name="passphrase"):
    path = home.root / name
    path.write_text(content)
    path.chmod(0o600)
    return PassphraseSection("passphrase", passphrase_file=path, scrypt_log2_n=14)


def opened(home, choice):
    envelope = EnvelopeFile(home.root / "state", "kme-b")
    found = envelope.open(source_of(choice, "kme-b"))
    assert found.is_settled
    return found.keys[0]


def assert_nothing_is_left(home, old_keys, names=("storage.key",)):
    for path, content in home.files().items():
        for key in old_keys:
            assert key not in content, f"an old key is in {path}"
            assert key.hex().encode() not in content, f"an old key is in {path}"
    assert not [name for name in names if (home.root / name).exists()]
    assert not (home.root / "state" / "rotation").exists()
    assert not [path for path in home.root.rglob("*") if path.suffix in {".old", ".part", ".new"}]


# What can be rotated to what


def test_a_plain_key_file_moves_into_an_envelope_and_is_overwritten(home):
    key = existing_storage_key(home.config)
    before = home.stored(key)
    witness = home.root / "witness"
    os.link(home.root / "storage.key", witness)
    done = rotate(home, passphrase(home))
    assert (done.source_before, done.source, done.reencrypts) == ("storage_key_file", "passphrase", False)
    assert done.retires == (str(home.root / "storage.key"),)
    assert opened(home, passphrase(home)) == key
    assert witness.read_bytes() == bytes(32)
    assert home.stored(key) == before
    assert_nothing_is_left(home, [key])


def test_with_another_key_everything_is_re_encrypted(home):
    key = existing_storage_key(home.config)
    before = home.stored(key)
    assert any(blocks for _, blocks in before.values()), "there must be something to re-encrypt"
    assert any(damaged for _, blocks in before.values() for _, damaged in blocks.values()), "and something overwritten"
    ciphertexts = {path.name: path.read_bytes() for path in home.root.rglob("in-*")}
    told: list[int] = []
    with Rotation(home.config, key_file(home), reencrypt=True) as rotation:
        done = rotation.run(told.append)
    new_key = opened(home, key_file(home))
    assert new_key != key
    assert home.stored(new_key) == before
    assert told == sorted(told)
    assert told[-1] == done.block_bytes > 0
    with pytest.raises(StreamRefused):
        home.stored(key)
    for path in home.root.rglob("in-*"):
        assert path.read_bytes()[32:] != ciphertexts[path.name][32:]
    assert_nothing_is_left(home, [key])


def test_passphrases_files_and_keys_change_one_after_the_other(home):
    key = existing_storage_key(home.config)
    rotate(home, passphrase(home))
    home.configure('[kme.storage_key]\nsource = "passphrase"\npassphrase_file = "passphrase"\nscrypt_log2_n = 14')
    second = passphrase(home, "another long passphrase", "passphrase-2")
    rotate(home, second)
    assert opened(home, second) == key
    with pytest.raises(Rejected, match="does not open"):
        existing_storage_key(home.config)
    home.configure('[kme.storage_key]\nsource = "passphrase"\npassphrase_file = "passphrase-2"\nscrypt_log2_n = 14')
    assert existing_storage_key(home.config) == key
    rotate(home, key_file(home, "kek-1"), reencrypt=True)
    home.configure('[kme.storage_key]\nsource = "file"\nkey_file = "kek-1"')
    first_kek = (home.root / "kek-1").read_bytes()
    new_key = existing_storage_key(home.config)
    assert new_key != key
    rotate(home, key_file(home, "kek-2"))
    home.configure('[kme.storage_key]\nsource = "file"\nkey_file = "kek-2"')
    assert existing_storage_key(home.config) == new_key
    rotate(home, reencrypt=True)
    assert existing_storage_key(home.config) not in {key, new_key}
    assert_nothing_is_left(home, [key, new_key, first_kek], ("storage.key", "kek-1"))
    assert home.stored(existing_storage_key(home.config))


def test_the_same_command_again_is_fine_once_it_is_done(home):
    key = existing_storage_key(home.config)
    for _ in range(2):
        rotate(home, key_file(home))
    assert opened(home, key_file(home)) == key


# What is refused, with nothing changed


@pytest.mark.parametrize("reencrypt", [False, True])
def test_a_plain_key_file_is_no_target(home, reencrypt):
    for new in (None, PlainKeyFile(home.root / "other.key")):
        with pytest.raises(Rejected, match="cannot be rotated to"):
            rotate(home, new, reencrypt=reencrypt)


def test_a_file_of_the_old_key_cannot_be_that_of_the_new_one(home):
    before = home.files()
    (home.root / "link").symlink_to(home.root / "storage.key")
    for new in (
        FileSection("file", home.root / "storage.key"),
        FileSection("file", home.root / "link"),
        PassphraseSection("passphrase", passphrase_file=home.root / "storage.key"),
    ):
        with pytest.raises(Rejected, match="named for the new one too"):
            rotate(home, new)
    (home.root / "link").unlink()
    assert home.files().keys() - before.keys() <= {"state/state.lock"}
    assert home.files()["storage.key"] == before["storage.key"]


def test_nothing_to_do_is_said(home):
    rotate(home, key_file(home))
    home.configure('[kme.storage_key]\nsource = "file"\nkey_file = "kek"')
    with pytest.raises(Rejected, match="nothing to do"):
        rotate(home)


def test_a_damaged_pair_stops_a_rotation_before_it_begins(home):
    (journal,) = home.root.rglob("journal.sqlite")
    raw = bytearray(journal.read_bytes())
    raw[len(raw) // 2 :] = bytes(len(raw) - len(raw) // 2)
    journal.write_bytes(raw)
    with pytest.raises(StreamRefused):
        rotate(home, key_file(home), reencrypt=True)
    assert (home.root / "storage.key").exists()
    assert not (home.root / "state" / "storage-key.json").exists()
    assert not (home.root / "kek").exists()


def test_too_little_space_stops_a_rotation_before_it_begins(home, monkeypatch):
    full = shutil.disk_usage(home.root)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(Unavailable, match="bytes free"):
        rotate(home, key_file(home), reencrypt=True)
    assert not (home.root / "state" / "storage-key.json").exists()
    rotate(home, key_file(home))


def test_a_dry_run_changes_nothing(home):
    with Rotation(home.config, key_file(home), reencrypt=True) as rotation:
        assert rotation.plan.stores["kme-a"].blocks > 0
    before = home.files()
    with Rotation(home.config, key_file(home), reencrypt=True):
        pass
    assert home.files() == before
    assert not (home.root / "kek").exists()


async def test_a_running_kme_is_not_touched(ran, tmp_path):
    pair = KmePair(tmp_path, stock_bits=0)
    async with pair.running("kme-a"):
        config = load_kme_config(pair.config("kme-a"))
        with pytest.raises(Unavailable, match="in use by a running KME"):
            Rotation(config, FileSection("file", tmp_path / "kek"), reencrypt=False).__enter__()
    with Rotation(config, FileSection("file", tmp_path / "kek"), reencrypt=False):
        with pytest.raises(Unavailable, match="a maintenance command works"):
            await KmeProcess(config).__aenter__()
        assert not (tmp_path / "kme-a" / "state" / "ready").exists()


# Killed at every step


@pytest.fixture
def in_memory():
    """A directory that need not wait for a disk: a killed process loses nothing that it wrote, synced or not."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as directory:
        yield Path(directory)


def counted(home, new, reencrypt, crash_at):
    """Rotate in a process of its own that dies before durable step number ``crash_at``; return its exit code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 70
    try:
        done = 0

        def before_each(real):
            def call(*arguments, **options):
                nonlocal done
                if done == crash_at:
                    os._exit(9)
                done += 1
                return real(*arguments, **options)

            return call

        for name in STEPS:
            setattr(os, name, before_each(getattr(os, name)))
        setattr(FileStreamStore, "commit", before_each(FileStreamStore.commit))  # noqa: B010  # mypy knows better
        rotate(home, new, reencrypt=reencrypt)
        code = 0
    except ShosoinError as err:
        code = 100 + len(err.code) % 20
    finally:
        os._exit(code)


@pytest.mark.parametrize("kind", ["plain to file", "file to file", "plain to file, new key"])
def test_killed_at_any_step_and_called_again_loses_nothing(ran, in_memory, kind):
    prepared = Home(ran[0].root / "kme-b", in_memory / "prepared")
    _thin_out(prepared)
    key = old_key = existing_storage_key(prepared.config)
    old_names, reencrypt = ["storage.key"], kind.endswith("new key")
    if kind == "file to file":
        rotate(prepared, key_file(prepared, "kek-1"))
        prepared.configure('[kme.storage_key]\nsource = "file"\nkey_file = "kek-1"')
        old_names = ["kek-1"]
        old_key = (prepared.root / "kek-1").read_bytes()
    before, step, code = prepared.stored(key), 0, 9
    while code == 9:
        home = Home(prepared.root, in_memory / f"step-{step}")
        new = key_file(home, "kek-2")
        code = counted(home, new, reencrypt, step)
        assert code in {0, 9}
        if code == 9:
            _assert_no_start_in_between(home, new, key)
            if step % 3 == 0:
                counted(home, new, reencrypt, step % 7)  # the next call may die as well
            rotate(home, new, reencrypt=reencrypt)
        found = opened(home, new)
        assert (found != key) == reencrypt
        assert home.stored(found) == before
        assert_nothing_is_left(home, [old_key], old_names)
        shutil.rmtree(home.root)
        step += 1
    assert step > (40 if reencrypt else 10), "there are more steps than that"


def _thin_out(home):
    """Leave two blocks of the many, so that there are not more steps than needed."""
    with closing(FileStreamStore(home.root / "state" / "links" / "kme-a", existing_storage_key(home.config))) as store:
        from shosoin.keys.store import Batch

        extra = [name for name in store.load() if name.startswith("block/")][2:]
        store.commit(Batch(records=dict.fromkeys(extra), drops=[name.removeprefix("block/") for name in extra]))


def _assert_no_start_in_between(home, new, key):
    """A KME started now either has its state as it was, or refuses as a whole; it never makes another key."""
    try:
        found = storage_key(home.config)
    except (Rejected, Unavailable):
        return
    assert found == key
    assert home.stored(found)
