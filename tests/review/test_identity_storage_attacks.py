"""What a hostile review of identity, storage keys, burning and re-keying found: each of these must hold."""

import asyncio
import contextlib
import datetime
import errno
import os
import shutil
import signal
import socket
import ssl
import stat
import threading

import pytest

from shosoin.adapters import private_files
from shosoin.adapters.admin_log import AdminLog, AdminLogUnwritable, read_entries, verify_log
from shosoin.adapters.clock import SystemClock
from shosoin.adapters.private_files import create_private
from shosoin.adapters.revocation_lists import merged, read_lists
from shosoin.adapters.tls_files import issuer_id
from shosoin.base import Rejected, SaeId, Unavailable
from shosoin.services.kme_pairs import burn, heal, make_secret, rekey
from shosoin.services.kme_reload import reload_kme
from shosoin.services.kme_rotation import Rotation
from shosoin.services.storage_key_config import FileSection
from shosoin.services.tls_plane import TlsPlane
from tests.adapters.test_revocation_lists import certificate
from tests.services.test_kme_identity import (
    QUICK,
    connected,
    is_ended_after_the_answer,
    is_refused,
    own,
    put,
    serial_of,
)
from tests.services.test_kme_pairs import before, config, events
from tests.support.admin import Administration
from tests.support.kme import KmePair, until
from tests.support.pki import TestAuthority

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)


def secret_in(path):
    make_secret(path)
    return path


# Pairs


async def test_healing_closes_a_pair_that_has_a_secret_and_no_journal_yet(pair):
    await before(pair)
    shutil.rmtree(pair.directory("kme-a") / "links")  # as if the link had been configured, and the KME not started
    heal(config(pair, "kme-a"), dry_run=True)
    assert not (pair.directory("kme-a") / "links").exists()
    heal(config(pair, "kme-a"), dry_run=False)
    burn(config(pair, "kme-a"), "kme-b", dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a:
        await until(lambda: "awaits another pair secret" in events(pair, "kme-a")["kme-b"].get("reason", ""))
        with pytest.raises(Unavailable, match="awaits another pair secret"):
            await a.enc_keys("sae-b1", number=1, size_bits=256)
    secret = secret_in(pair.root / "new.secret")
    for kme, peer in (("kme-a", "kme-b"), ("kme-b", "kme-a")):
        rekey(config(pair, kme), peer, secret, dry_run=False)
    async with pair.running() as processes:
        await until(lambda: processes["kme-a"].link_states()["kme-b"]["connected"])
        assert "reason" not in processes["kme-a"].link_states()["kme-b"]


async def test_rekeying_repeated_after_a_crash_leaves_no_old_secret(pair, monkeypatch):
    await before(pair)
    old = (pair.root / "kme-a" / "pair.secret").read_bytes()
    secret = secret_in(pair.root / "new.secret")
    real = private_files.destroy

    def die_before_the_old_one_goes(path):
        if path.name == "pair.secret.old":
            raise KeyboardInterrupt
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(private_files, "destroy", die_before_the_old_one_goes)
        with pytest.raises(KeyboardInterrupt):
            rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)
    assert rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False).was_installed
    left = [path.name for path in (pair.root / "kme-a").rglob("*") if path.is_file() and old in path.read_bytes()]
    assert left == []


async def test_a_used_secret_stays_refused_when_only_the_copies_are_damaged(pair):
    await before(pair)
    used = pair.root / "used.secret"
    create_private(used, (pair.root / "kme-a" / "pair.secret").read_bytes())
    rekey(config(pair, "kme-a"), "kme-b", secret_in(pair.root / "2.secret"), dry_run=False)
    for path in pair.directory("kme-a").glob("copies.sqlite*"):
        path.unlink()
    (pair.directory("kme-a") / "copies.sqlite").write_bytes(os.urandom(8192))
    with pytest.raises(Rejected, match="used this secret before"):
        rekey(config(pair, "kme-a"), "kme-b", used, dry_run=False, discard_damaged=True)
    third = secret_in(pair.root / "3.secret")
    with pytest.raises(Unavailable):
        rekey(config(pair, "kme-a"), "kme-b", third, dry_run=False)
    rekey(config(pair, "kme-a"), "kme-b", third, dry_run=False, discard_damaged=True)
    with pytest.raises(Rejected, match="used this secret before"):
        rekey(config(pair, "kme-a"), "kme-b", used, dry_run=False)


async def test_a_healed_pair_cannot_be_rekeyed_with_the_secret_that_it_had(pair):
    await before(pair)
    known = pair.root / "known.secret"
    create_private(known, (pair.root / "kme-a" / "pair.secret").read_bytes())
    heal(config(pair, "kme-a"), dry_run=False)
    for secret in (known, pair.root / "kme-a" / "pair.secret"):
        secret.chmod(0o600)
        with pytest.raises(Rejected, match="used this secret before"):
            rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)


# Revocation


async def test_of_two_lists_of_one_second_neither_takes_a_revocation_back(tmp_path):
    plane = TestAuthority(tmp_path / "pki", "plane")
    known = (certificate(plane.certificate),)
    one, two = plane.issue("sae", "one"), plane.issue("sae", "two")
    now = datetime.datetime.now(datetime.UTC)
    folder = tmp_path / "lists"
    folder.mkdir()
    for _ in range(10):
        plane.revoke(one, path=folder / "z-first.crl")
        plane.revoke(one, two, path=folder / "a-second.crl")
        made = [read_lists(folder / name, known, now) for name in ("z-first.crl", "a-second.crl")]
        first, second = (each.lists[issuer_id(known[0])] for each in made)
        if first.made == second.made:
            break
    assert first.made == second.made
    both = read_lists(folder, known, now).lists[issuer_id(known[0])]
    assert both.serials == {certificate(each.certificate).serial_number for each in (one, two)}
    key = issuer_id(known[0])
    lists, _ = merged({key: second}, {key: first}, [key])
    assert lists[key].serials == second.serials


def test_a_pipe_among_the_lists_holds_nobody_up(tmp_path):
    plane = TestAuthority(tmp_path / "pki", "plane")
    folder = tmp_path / "lists"
    folder.mkdir()
    os.mkfifo(folder / "a.crl")
    plane.revoke(path=folder / "b.crl")
    known = (certificate(plane.certificate),)
    rescue = threading.Timer(5, lambda: os.close(os.open(folder / "a.crl", os.O_WRONLY | os.O_NONBLOCK)))
    rescue.start()
    try:
        reading = read_lists(folder, known, datetime.datetime.now(datetime.UTC))
    finally:
        rescue.cancel()
    assert len(reading.lists) == 1
    assert "is not a file" in reading.faults[0]


async def test_a_file_of_revoked_names_that_cannot_be_looked_at_ends_nothing(tmp_path):
    pair = KmePair(tmp_path, extra={"end": QUICK})
    path = pair.directory("kme-a") / "revoked"
    path.parent.mkdir()
    path.write_text("sae:sae-a1\n")
    async with pair.running("kme-a") as processes:
        identity = processes["kme-a"].identity
        path.unlink()
        path.symlink_to("x" * 300)  # a name too long to be looked at; as bad: no right to the directory, a stale mount
        await until(lambda: identity.revoked_fault or processes["kme-a"].stop_wanted.is_set())
        assert not processes["kme-a"].stop_wanted.is_set()
        assert await is_refused(pair, "kme-a", pair.saes["sae-a1"], pair.sae_plane.certificate)


async def test_a_renewal_does_not_make_two_planes_trust_one_authority(tmp_path):
    pair = KmePair(tmp_path, extra={"end": QUICK})
    forged = pair.sae_plane.issue("kme", "kme-b", stem="forged")
    async with pair.running("kme-a") as processes:
        bundle = pair.kme_plane.certificate.read_bytes() + pair.sae_plane.certificate.read_bytes()
        pair.kme_plane.certificate.write_bytes(bundle)
        report = await processes["kme-a"].identity.reload()
        assert "same authority" in (report["endpoints"]["peer_api"]["refused_files"] or "")
        port = pair.peer_port["kme-a"]
        assert await is_refused(pair, "kme-a", forged, pair.kme_plane.certificate, port=port)


async def test_whose_certificate_expires_loses_the_open_connection(tmp_path):
    pair = KmePair(tmp_path, extra={"end": QUICK})
    soon = pair.sae_plane.issue("sae", "sae-a1", stem="soon", days=(-1, 6 / 86400))
    async with (
        pair.running("kme-a"),
        connected(pair, "kme-a", soon, pair.sae_plane.certificate) as (reader, writer),
    ):
        writer.write(b"GET /api/v1/keys/sae-a2/status HTTP/1.1\r\nHost: kme\r\n\r\n")
        assert b" 200 " in await reader.readline()
        assert await is_ended_after_the_answer(reader)


async def test_who_asks_for_a_reload_hears_of_a_look_that_began_after(tmp_path, monkeypatch):
    pair = KmePair(tmp_path, extra={"end": "[identity]\npoll_interval_s = 60"})
    async with pair.running("kme-a") as processes:
        identity = processes["kme-a"].identity
        asked, looked, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

        def ask():
            identity.reload_soon()
            asked.set()

        real = TlsPlane.look

        async def look(self, *, forced):
            if go.is_set():
                await asyncio.sleep(0.3)  # long enough for the answer of the look before to be seen
            changed = await real(self, forced=forced)
            looked.set()
            await go.wait()
            return changed

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, ask)
        try:
            monkeypatch.setattr(TlsPlane, "look", look)
            earlier = asyncio.create_task(identity.reload())
            await looked.wait()
            new = pair.sae_plane.issue("kme", "kme-a", stem="new")
            put(new, own(pair, "kme-a", "sae"))
            answer = asyncio.create_task(asyncio.to_thread(reload_kme, pair.config("kme-a"), 20.0))
            await asked.wait()
            go.set()
            assert (await answer)["endpoints"]["sae_api"]["serial"] == f"{serial_of(new):x}"
            await earlier
        finally:
            go.set()
            loop.remove_signal_handler(signal.SIGHUP)


# Administration


@pytest.mark.parametrize("value", [b"1" + b"0" * 3900, b"[" * 900 + b"]" * 900], ids=["huge", "deep"])
async def test_a_call_with_monstrous_values_is_refused_and_the_record_stays_whole(pair, value):
    raw = b'{"drain_s": ' + value + b"}"
    admin = Administration(pair)
    async with pair.running("kme-a"):
        status, answer = await admin.ask("olga", "POST", "/v1/stop", raw=raw)
        assert (status, answer["code"]) == (400, "admin.bad_request")
    entries = list(read_entries(admin.folder))
    assert [entry["result"] for entry in entries if entry["call"] == "stop"] == ["refused"]
    assert max(len(str(entry)) for entry in entries) < 1000
    verify_log(admin.folder)


def test_a_line_whose_file_was_not_made_durable_is_not_in_the_record(tmp_path, monkeypatch):
    record = AdminLog(tmp_path / "log", SystemClock(), file_bytes=600, files=4)
    real = os.fsync

    def no_directories(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    for number in range(4):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", no_directories)
            with contextlib.suppress(AdminLogUnwritable):
                record.append({"call": "tried", "which": number})
        record.append({"call": "status", "which": number})
    record.close()
    verify_log(tmp_path / "log")


# Workers


@pytest.mark.parametrize("gone", ["sae.crl", "revoked"])
async def test_a_worker_that_is_started_again_refuses_whom_the_kme_refuses(tmp_path, gone):
    crl = tmp_path / "sae.crl"
    pair = KmePair(tmp_path, extra={"end": QUICK, "sae_api": f'crl = "{crl}"'}, workers=2)
    files, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    pair.sae_plane.revoke(*([files] if gone == "sae.crl" else []), path=crl)
    revoked = pair.directory("kme-a") / "revoked"
    revoked.parent.mkdir()
    revoked.write_text("sae:sae-a1\n" if gone == "revoked" else "")
    async with pair.running("kme-a") as processes:
        pool = processes["kme-a"].workers
        assert await is_refused(pair, "kme-a", files, ca)
        (crl if gone == "sae.crl" else revoked).unlink()  # changes nothing while the KME runs
        before_it = set(pool.pids)
        for pid in before_it:
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(pool.pids) == 2 and not before_it & set(pool.pids))
        for _ in range(8):  # either worker
            assert await is_refused(pair, "kme-a", files, ca)
        async with pair.client("sae-a2") as client:
            await client.status(SaeId("sae-a1"))


def _status_by(context, port, session):
    """Ask for a status over TLS 1.2, with a session of before if there is one; return the answer and the session."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="kme-a", session=session) as tls,
    ):
        tls.sendall(b"GET /api/v1/keys/sae-a2/status HTTP/1.1\r\nHost: kme\r\nConnection: close\r\n\r\n")
        return tls.recv(64), tls.session


async def test_a_tls_1_2_client_that_offers_its_session_again_is_served_and_revoked_like_any(tmp_path):
    pair = KmePair(tmp_path, extra={"end": QUICK, "sae_api": 'minimum_tls = "1.2"'})
    files = pair.saes["sae-a1"]
    context = ssl.create_default_context(cafile=pair.sae_plane.certificate)
    context.load_cert_chain(files.certificate, files.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with pair.running("kme-a") as processes:
        session = None
        for _ in range(2):
            answer, session = await asyncio.to_thread(_status_by, context, pair.sae_port["kme-a"], session)
            assert b" 200 " in answer
        (pair.directory("kme-a") / "revoked").write_text("sae:sae-a1\n")
        await processes["kme-a"].identity.reload()
        try:
            answer, _ = await asyncio.to_thread(_status_by, context, pair.sae_port["kme-a"], session)
        except OSError:
            answer = b""
        assert answer == b""


# Rotation


async def test_the_old_key_file_under_another_name_is_no_new_one(pair):
    async with pair.running("kme-a"):
        pass
    (old,) = (pair.root / "kme-a").rglob("storage.key")
    new, content = old.with_name("kek"), old.read_bytes()
    os.link(old, new)
    wanted = FileSection("file", new)
    with (
        pytest.raises(Rejected, match="named for the new one too"),
        Rotation(config(pair, "kme-a"), wanted, reencrypt=True) as rotation,
    ):
        rotation.run(lambda _: None)
    assert old.read_bytes() == content
