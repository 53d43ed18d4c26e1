"""``rekey --discard-damaged``, killed at every step: the pair never opens half gone, and no used secret comes back."""

import fcntl
import os
import shutil
import signal
import sqlite3
import sys
from contextlib import ExitStack, closing, suppress
from unittest.mock import patch

import psycopg
import pytest

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.private_files import create_private, replace_private
from shosoin.base import ShosoinError
from shosoin.keys.blocks import Block
from shosoin.keys.burning import is_installed
from shosoin.keys.errors import PairSecretRejected, StoreUnavailable, StreamRefused
from shosoin.keys.messages import BlockState
from shosoin.keys.pair import PairEnd, PairLimits
from shosoin.keys.store import Batch, Commit
from shosoin.services import kme_pairs
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_pairs import burn, heal, make_secret, rekey
from shosoin.services.kme_stores import open_store, stored_peers
from shosoin.services.storage_key import storage_key
from shosoin.services.storage_key_config import PlainKeyFile
from tests.support.kme import KmePair
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.processes

_STEPS = {"open", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "sqlite3.connect"}


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)


@pytest.fixture
def config(pair):
    return load_kme_config(pair.config("kme-a"))


@pytest.fixture
def secrets(tmp_path, config):
    make_secret(tmp_path / "new.secret")
    create_private(tmp_path / "old.secret", in_place(config))
    return tmp_path / "new.secret", tmp_path / "old.secret"


def in_place(config):
    return config.links[0].pair_secret_file.read_bytes()


def started(config):
    """Start a pair as the KME does, with the secret in place."""
    with closing(open_store(config, "kme-b", storage_key(config))) as store:
        end = PairEnd("kme-a", "kme-b", in_place(config), store, SystemEntropy(), PairLimits())
        for effect in end.start():
            if isinstance(effect, Commit):
                store.commit(effect.batch)
        return end.generation


def filled(config):
    """Make a journal with some blocks, of a pair that has started a few times."""
    for _ in range(3):
        started(config)
    with closing(open_store(config, "kme-b", storage_key(config))) as store:
        blocks = [Block("in", number, 2 * number, 2, BlockState.READY) for number in range(2)]
        store.commit(
            Batch(
                records={block.record_name: block.dump() for block in blocks},
                blocks={block.name: bytes(64) for block in blocks},
            )
        )


def killed_at(step, work):
    """Do some work in a process that kills itself before its n-th step on files; return whether it was killed."""
    pid = os.fork()
    if not pid:
        seen = 0

        def count(event, args):
            nonlocal seen
            if event in _STEPS and "kme-a" in str(args[0]):
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        with suppress(BaseException):
            work()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_leaves_the_pair_shut_and_the_command_finishes_it(pair, config, secrets, tmp_path):
    new, old = secrets
    filled(config)
    journal = config.kme.directory / "links" / "kme-b" / "journal.sqlite"
    journal.write_bytes(journal.read_bytes()[:4096] + os.urandom(8192))
    with pytest.raises(StreamRefused):
        started(config)
    shutil.copytree(pair.root / "kme-a", tmp_path / "template", symlinks=True)
    step, shut = 0, 0
    while True:
        step += 1
        shutil.rmtree(pair.root / "kme-a")
        shutil.copytree(tmp_path / "template", pair.root / "kme-a", symlinks=True)
        killed = killed_at(step, lambda: rekey(config, "kme-b", new, dry_run=False, discard_damaged=True))
        shut += not opens_as_new_only(config, new)
        for discard in (False, True):
            with pytest.raises((PairSecretRejected, StreamRefused)):
                rekey(config, "kme-b", old, dry_run=False, discard_damaged=discard)
        rekey(config, "kme-b", new, dry_run=False, discard_damaged=True)
        assert finished(config, new)
        with pytest.raises(PairSecretRejected, match="used this secret before"):
            rekey(config, "kme-b", old, dry_run=False)
        if not killed:
            break
    assert step > 30
    assert shut > 20


def opens_as_new_only(config, new):
    """Whether the pair opens; if so, then as a new one under the new secret."""
    try:
        generation = started(config)
    except StreamRefused:
        return False
    assert in_place(config) == new.read_bytes()
    assert generation == 1
    return True


def finished(config, new):
    with closing(open_store(config, "kme-b", storage_key(config))) as store:
        records = store.load()
    left = [path.name for path in config.kme.directory.rglob("*") if path.suffix in {".part", ".old", ".json"}]
    blocks = list((config.kme.directory / "links" / "kme-b" / "blocks").iterdir())
    names = {"storage-key.json", "links.json"}
    return (
        is_installed(records, new.read_bytes())
        and in_place(config) == new.read_bytes()
        and not blocks
        and set(left) <= names
    )


def test_what_is_half_gone_is_named_and_left_alone_by_other_commands(config, secrets):
    filled(config)
    links = config.kme.directory / "links" / "kme-b"
    (links / "journal.sqlite").write_bytes(b"damaged" * 1000)
    step = 1
    while (links / "journal.sqlite").exists():
        assert killed_at(step, lambda: rekey(config, "kme-b", secrets[0], dry_run=False, discard_damaged=True))
        step += 1
    assert stored_peers(config) == ["kme-b"]
    for done in (burn(config, "kme-b", dry_run=False), heal(config, dry_run=False)):
        assert "was being thrown away" in done.refused["kme-b"].message
    with pytest.raises(ShosoinError) as told:
        started(config)
    assert "--discard-damaged" in told.value.hint


def test_what_is_half_gone_in_a_database_opens_on_no_other_machine(tmp_path, secrets):
    """The mark lies on the disk of the one that was discarding, and ended before it made a new journal."""
    new, old = secrets
    with running_postgres() as server:
        store = f'kind = "postgresql"\ndsn = "{server.dsn}"\nschema = "halves"'
        machines = [KmePair(root, stock_bits=1 << 17, store=store) for root in (tmp_path / "one", tmp_path / "two")]
        here, there = (load_kme_config(machine.config("kme-a")) for machine in machines)
        for config in (here, there):  # one KME on two machines: both have its storage key and its pair secret
            assert isinstance(config.storage_key, PlainKeyFile)
            create_private(config.storage_key.path, bytes(range(32)))
            replace_private(config.links[0].pair_secret_file, old.read_bytes())
        filled(here)
        with psycopg.connect(server.dsn, autocommit=True) as outside:
            outside.execute("UPDATE halves.record SET value = 'damaged'")
        pid = os.fork()
        if not pid:
            with patch.object(kme_pairs, "rekey_batch", side_effect=lambda *_, **__: os._exit(9)):
                rekey(here, "kme-b", new, dry_run=False, discard_damaged=True)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        assert stored_peers(there) == ["kme-b"]
        for config in (here, there):
            with pytest.raises(StreamRefused):
                started(config)
        with pytest.raises(PairSecretRejected):
            rekey(there, "kme-b", old, dry_run=False, discard_damaged=True)
        rekey(there, "kme-b", new, dry_run=False, discard_damaged=True)
        assert started(there) == 1
        with pytest.raises(PairSecretRejected, match="used this secret before"):
            rekey(there, "kme-b", old, dry_run=False)


def everything(root):
    return {path: path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


@pytest.mark.parametrize("state", ["none", "empty", "filled", "damaged"])
def test_a_dry_run_of_rekeying_writes_nothing(pair, config, secrets, state):
    if state == "empty":
        config.kme.directory.mkdir()
    if state in {"filled", "damaged"}:
        filled(config)
        rekey(config, "kme-b", secrets[1], dry_run=False)  # installed already; makes the lock, as a KME that runs does
    if state == "damaged":
        (config.kme.directory / "links" / "kme-b" / "journal.sqlite").write_bytes(b"damaged" * 1000)
    before = everything(pair.root)
    for discard in (False, True):
        with suppress(StreamRefused):
            rekey(config, "kme-b", secrets[0], dry_run=True, discard_damaged=discard)
        assert everything(pair.root) == before


@pytest.mark.parametrize("why", ["in use", "locked"])
def test_a_sound_journal_that_is_out_of_reach_is_not_thrown_away(config, secrets, why):
    """Somebody else looks at it just now; whoever asks to discard what is damaged does not mean that."""
    filled(config)
    place = config.kme.directory / "links" / "kme-b"
    with ExitStack() as stack:
        if why == "in use":
            fcntl.flock(stack.enter_context((place / "lock").open("w")), fcntl.LOCK_EX)
        else:
            other = stack.enter_context(closing(sqlite3.connect(place / "journal.sqlite", isolation_level=None)))
            other.execute("PRAGMA locking_mode=EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable):
            rekey(config, "kme-b", secrets[0], dry_run=False, discard_damaged=True)
    assert in_place(config) == secrets[1].read_bytes()
    assert started(config) == 4
