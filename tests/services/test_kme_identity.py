"""Certificates renewed and revoked while KMEs run: what is served, what is refused, and whose connections end."""

import asyncio
import contextlib
import json
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from shosoin.adapters.tls import Identity, client_context
from shosoin.base import Rejected, SaeId, ShosoinError, Unavailable
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_reload import reload_kme
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import Scraper, with_operations
from tests.support.pki import Files, TestAuthority

pytestmark = pytest.mark.processes
QUICK = "[identity]\npoll_interval_s = 0.05"


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, extra={"end": QUICK}, stock_bits=1 << 20)


def serial_of(files):
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number


def own(pair, kme, plane):
    """The certificate and key that a KME uses on a plane."""
    authority = pair.sae_plane if plane == "sae" else pair.kme_plane
    return Files(authority.directory / f"kme-{kme}.crt", authority.directory / f"kme-{kme}.key")


def put(new, place):
    """Put a pair of files in the place of another, each in one step, the key first."""
    for source, target in ((new.key, place.key), (new.certificate, place.certificate)):
        part = target.with_name(f".{target.name}.part")
        shutil.copy(source, part)  # with its mode
        part.replace(target)


@contextlib.asynccontextmanager
async def connected(pair, kme, files, ca, *, port=None):
    """An open TLS connection to a KME that says nothing yet."""
    context = client_context(files.certificate, files.key, ca)
    where = port or pair.sae_port[kme]
    reader, writer = await asyncio.open_connection("127.0.0.1", where, ssl=context, server_hostname=kme)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_ended(reader):
    """Wait until the other side has ended a connection."""
    async with asyncio.timeout(20):
        try:
            return await reader.read(1) == b""
        except (ConnectionError, ssl.SSLError):
            return True


async def is_refused(pair, kme, files, ca, *, port=None):
    try:
        async with connected(pair, kme, files, ca, port=port) as (reader, writer):
            writer.write(b"GET /api/v1/keys/sae-b1/status HTTP/1.1\r\nHost: kme\r\n\r\n")
            return await is_ended(reader)
    except (ConnectionError, ssl.SSLError):
        return True


async def served_serial(pair, kme):
    files = pair.saes["sae-a1"]
    async with connected(pair, kme, files, pair.sae_plane.certificate) as (_, writer):
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der).serial_number


# Two planes


async def test_a_certificate_of_one_plane_opens_nothing_on_the_other(pair):
    sae_ca, kme_ca = pair.sae_plane.certificate, pair.kme_plane.certificate
    async with pair.running():
        port = pair.peer_port["kme-a"]
        for role, name in (("kme", "kme-b"), ("sae", "sae-a1")):
            files = pair.sae_plane.issue(role, name, stem="tried")
            assert await is_refused(pair, "kme-a", files, kme_ca, port=port)
            files = pair.kme_plane.issue(role, name, stem="tried")
            assert await is_refused(pair, "kme-a", files, sae_ca)


async def test_a_certificate_with_both_roles_is_nobodys(pair):
    uris = ["urn:shosoin:sae:sae-a1", "urn:shosoin:kme:kme-b"]
    async with pair.running("kme-a"):
        both = pair.sae_plane.issue("sae", "sae-a1", uris=uris, stem="both")
        async with connected(pair, "kme-a", both, pair.sae_plane.certificate) as (reader, writer):
            writer.write(b"GET /api/v1/keys/sae-b1/status HTTP/1.1\r\nHost: kme\r\n\r\n")
            assert b" 401 " in await reader.readline()
        both = pair.kme_plane.issue("kme", "kme-b", uris=uris, stem="both")
        port = pair.peer_port["kme-a"]
        assert await is_refused(pair, "kme-a", both, pair.kme_plane.certificate, port=port)


def test_planes_that_share_an_authority_must_say_so(pair, tmp_path):
    text = pair.config("kme-a").read_text()
    shared, copy = tmp_path / "shared.toml", tmp_path / "copy.crt"
    for ca in (pair.sae_plane.certificate, copy):
        copy.write_bytes(pair.kme_plane.certificate.read_bytes() + pair.sae_plane.certificate.read_bytes())
        shared.write_text(text.replace(f'ca = "{pair.kme_plane.certificate}"', f'ca = "{ca}"'))
        with pytest.raises(Rejected, match=r"\[kme.sae_api\] and \[kme.peer_api\] trust the same authority"):
            load_kme_config(shared)
        shared.write_text(shared.read_text().replace(QUICK, f"{QUICK}\nallow_shared_ca = true"))
        load_kme_config(shared)


def test_skip_is_of_the_plane_of_saes_and_of_no_other(tmp_path):
    pair = KmePair(tmp_path, skip_systems={})
    path = pair.config("kme-a")
    load_kme_config(path)
    before, _, after = path.read_text().partition("[skip]")
    path.write_text(f"{before}[skip]{after.replace(str(pair.sae_plane.certificate), str(pair.kme_plane.certificate))}")
    with pytest.raises(Rejected, match=r"\[kme.peer_api\] and \[skip\] trust the same authority"):
        load_kme_config(path)


@pytest.mark.parametrize(("plane", "refused"), [("sae_plane", False), ("kme_plane", True)])
def test_so_is_etsi_004(pair, plane, refused):
    server, path = own(pair, "kme-a", "sae"), pair.config("kme-a")
    ca = getattr(pair, plane).certificate
    section = f'host = "127.0.0.1"\nport = 0\ncertificate = "{server.certificate}"\nkey = "{server.key}"'
    path.write_text(f'{path.read_text()}\n[etsi004]\n{section}\nclient_ca = "{ca}"\n')
    expected = pytest.raises(Rejected, match="trust the same") if refused else contextlib.nullcontext()
    with expected:
        assert load_kme_config(path).etsi004 is not None


# Renewal


async def test_a_renewal_under_load_costs_no_request(pair):
    new = [pair.sae_plane.issue("kme", "kme-a", stem=f"new-{number}") for number in range(3)]
    async with pair.running() as processes, pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 64)
        stop, served = asyncio.Event(), []

        async def load(*, keep):
            while not stop.is_set():
                if keep:
                    served.extend(await client.enc_keys("sae-b1", number=1, size_bits=256))
                else:
                    async with pair.client("sae-a1") as fresh:
                        served.extend(await fresh.enc_keys("sae-b2", number=1, size_bits=256))

        async with asyncio.TaskGroup() as tasks:
            for keep in (True, False, False):
                tasks.create_task(load(keep=keep))
            for files in new:
                before = len(served)
                put(files, own(pair, "kme-a", "sae"))
                while await served_serial(pair, "kme-a") != serial_of(files):
                    await asyncio.sleep(0.01)
                await until(lambda: len(served) > before + 5)  # noqa: B023
            stop.set()
    assert processes["kme-a"].identity.planes["sae_api"].tally.loaded == 3


async def test_files_that_are_wrong_change_nothing_and_are_told(pair):
    with_operations(pair)
    place = own(pair, "kme-a", "sae")
    before = serial_of(place)
    good = pair.sae_plane.issue("kme", "kme-a", stem="good")
    wrong = {
        "is not the private key": Files(good.certificate, pair.sae_plane.issue("kme", "kme-a", stem="other").key),
        "expired": pair.sae_plane.issue("kme", "kme-a", stem="old", days=(-3, -2)),
        "not valid before": pair.sae_plane.issue("kme", "kme-a", stem="early", days=(0.5, 1)),
        "names kme kme-c instead": pair.sae_plane.issue("kme", "kme-c", stem="who", names=["kme-a"]),
        "lacks the names kme-a": pair.sae_plane.issue("kme", "kme-a", stem="name", names=["elsewhere"]),
    }
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        plane = processes["kme-a"].identity.planes["sae_api"]
        for number, (words, files) in enumerate(wrong.items(), 1):
            put(files, place)
            await until(lambda: words in plane.fault and plane.tally.refused >= number)  # noqa: B023
            assert await served_serial(pair, "kme-a") == before
        samples = await scraper.samples()
        assert samples.value("certificate_files_refused", endpoint="sae_api") == 1
        assert samples.value("certificate_renewals_total", endpoint="sae_api", result="refused") >= len(wrong)
        place.certificate.write_bytes(b"half a cert")
        report = await processes["kme-a"].identity.reload()
        assert "no certificates" in report["endpoints"]["sae_api"]["refused_files"]
        put(good, place)
        await until(lambda: not plane.fault)
        assert await served_serial(pair, "kme-a") == serial_of(good)
        written = pair.directory("kme-a") / "identity.json"
        await until(lambda: json.loads(written.read_text())["endpoints"]["sae_api"]["serial"] == f"{serial_of(good):x}")


async def test_a_pair_that_comes_file_by_file_is_taken_without_complaint(pair):
    place, good = own(pair, "kme-a", "sae"), pair.sae_plane.issue("kme", "kme-a", stem="good")
    pair.config("kme-a").write_text(pair.config("kme-a").read_text().replace("0.05", "1.0"))
    async with pair.running("kme-a") as processes:
        plane = processes["kme-a"].identity.planes["sae_api"]
        shutil.copyfile(good.certificate, place.certificate)
        await plane.look(forced=False)
        assert "is not the private key" in plane.fault
        shutil.copyfile(good.key, place.key)
        await plane.look(forced=False)
        assert (plane.fault, plane.tally.refused, plane.tally.loaded) == ("", 0, 1)


# Channels between KMEs


def seen_by(process, peer):
    """Serial numbers in the certificates that a KME has seen on its open channels with a peer."""
    plane = process.identity.planes["peer_api"]
    return {
        each.holder.serial
        for transport, each in plane._open.items()
        if not transport.is_closing() and each.holder.identity.id == peer
    }


@pytest.mark.parametrize("renewed", ["kme-a", "kme-b"])
async def test_channels_are_dialled_anew_after_a_renewal_and_keys_keep_flowing(pair, renewed):
    other = {"kme-a": "kme-b", "kme-b": "kme-a"}[renewed]
    new = pair.kme_plane.issue("kme", renewed, stem="new")
    async with pair.running() as processes, pair.client("sae-a1") as master, pair.client("sae-b1") as slave:
        await until_stock(master, "sae-b1", 64)
        before = processes["kme-a"].drivers["kme-b"].pair.incoming.tally.delivered.keys
        put(new, own(pair, renewed, "kme"))
        served = 0
        while seen_by(processes[other], renewed) != {serial_of(new)}:
            (key,) = await master.enc_keys("sae-b1", number=1, size_bits=256)
            (same,) = await slave.dec_keys("sae-a1", [key.key_id])
            assert key.material.take() == same.material.take()
            served += 1
            await asyncio.sleep(0.02)
        await until(
            lambda: all(
                each.drivers[peer].pair.is_connected
                for each, peer in ((processes["kme-a"], "kme-b"), (processes["kme-b"], "kme-a"))
            )
        )
        assert served > 0
        assert before == 0
        assert len(await master.enc_keys("sae-b1", number=4, size_bits=256)) == 4


async def test_a_certificate_that_the_peer_does_not_take_leaves_the_channels_alone(pair, tmp_path, caplog):
    stranger = TestAuthority(tmp_path / "stranger", "new kme-plane")
    # kme-a trusts both authorities, kme-b has not heard of the new one.
    bundle = tmp_path / "bundle.crt"
    bundle.write_bytes(pair.kme_plane.certificate.read_bytes() + stranger.certificate.read_bytes())
    config = pair.config("kme-a")
    config.write_text(config.read_text().replace(f'\nca = "{pair.kme_plane.certificate}"', f'\nca = "{bundle}"'))
    async with pair.running() as processes, pair.client("sae-a1") as master:
        await until_stock(master, "sae-b1", 8)
        before = seen_by(processes["kme-b"], "kme-a")
        put(stranger.issue("kme", "kme-a"), own(pair, "kme-a", "kme"))
        await until(lambda: "identity.not_redialled" in caplog.messages)
        assert seen_by(processes["kme-b"], "kme-a") == before
        assert processes["kme-a"].drivers["kme-b"].pair.is_connected
        assert len(await master.enc_keys("sae-b1", number=4, size_bits=256)) == 4


@pytest.mark.parametrize(("here", "there"), [("kme-a", "kme-b"), ("kme-b", "kme-a")])
async def test_a_revoked_peer_is_cut_and_stays_away_until_it_has_another_certificate(tmp_path, here, there):
    crl = tmp_path / "kme.crl"
    pair = KmePair(tmp_path, extra={"end": QUICK, "peer_api": f'crl = "{crl}"'})
    pair.kme_plane.revoke(path=crl)
    async with pair.running() as processes, pair.client("sae-a1") as master:
        await until_stock(master, "sae-b1", 4)
        kme = processes[here]
        pair.kme_plane.revoke(own(pair, there, "kme"), path=crl)
        await until(lambda: not kme.drivers[there].pair.is_connected and not seen_by(kme, there))
        turned_away = kme.identity.planes["peer_api"].tally.turned_away
        await until(lambda: kme.identity.planes["peer_api"].tally.turned_away > turned_away)
        assert not kme.drivers[there].pair.is_connected
        put(pair.kme_plane.issue("kme", there, stem="new"), own(pair, there, "kme"))
        await until(lambda: kme.drivers[there].pair.is_connected)


# Revocation


@pytest.mark.parametrize("how", ["pem", "der", "name", "serial"])
async def test_who_is_revoked_loses_the_open_connection_and_gets_no_other(tmp_path, how):
    crl = tmp_path / "sae.crl"
    pair = KmePair(tmp_path, extra={"end": QUICK, "sae_api": f'crl = "{crl}"'}, skip_systems={})
    config = pair.config("kme-a")
    config.write_text(config.read_text().replace("[skip]", f'[skip]\ncrl = "{crl}"'))
    pair.sae_plane.revoke(path=crl)
    gone, stays = pair.saes["sae-a1"], pair.saes["sae-a2"]
    ca, skip = pair.sae_plane.certificate, pair.skip_port["kme-a"]
    request = b"GET /api/v1/keys/sae-b1/status HTTP/1.1\r\nHost: kme\r\n\r\n"
    async with (
        pair.running("kme-a"),
        connected(pair, "kme-a", gone, ca) as (reader, writer),
        connected(pair, "kme-a", gone, ca, port=skip) as (skip_reader, _),
        connected(pair, "kme-a", stays, ca) as (other_reader, other_writer),
    ):
        writer.write(request)
        assert b" 200 " in await reader.readline()
        if how in {"pem", "der"}:
            pair.sae_plane.revoke(gone, path=crl, der=how == "der")
        else:
            entry = "sae:sae-a1" if how == "name" else f"serial:{serial_of(gone):X}"
            (pair.directory("kme-a") / "revoked").write_text(f"# who left\n{entry}  # lost\n")
        assert await is_ended_after_the_answer(reader)
        assert await is_ended(skip_reader)
        assert await is_refused(pair, "kme-a", gone, ca)
        assert await is_refused(pair, "kme-a", gone, ca, port=skip)
        other_writer.write(request)
        assert b" 200 " in await other_reader.readline()


async def is_ended_after_the_answer(reader):
    async with asyncio.timeout(20):
        try:
            while await reader.read(4096):
                pass
        except (ConnectionError, ssl.SSLError):
            pass
    return True


async def test_lists_that_cannot_be_used_keep_the_last_good_one(tmp_path):
    crl = tmp_path / "sae.crl"
    pair = KmePair(tmp_path, extra={"end": QUICK, "sae_api": f'crl = "{crl}"'})
    gone, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    pair.sae_plane.revoke(gone, path=crl)
    forger = TestAuthority(tmp_path / "forger", "sae-plane")
    async with pair.running("kme-a") as processes:
        identity = processes["kme-a"].identity
        worse = {
            "is no revocation list": lambda: crl.write_bytes(b"\0" * 100),
            "no authority that is trusted here signed": lambda: forger.revoke(path=crl),
            "older than the one in use": lambda: pair.sae_plane.revoke(path=crl, days=(-0.5, 1)),
            "cannot read": crl.unlink,
        }
        for words, worsen in worse.items():
            worsen()
            report = await identity.reload()
            assert words in report["endpoints"]["sae_api"]["refused_crl"][0]
            assert report["endpoints"]["sae_api"]["crl"][0]["revoked"] == 1
            assert await is_refused(pair, "kme-a", gone, ca)
            assert not await is_refused_at_all(pair)
        pair.sae_plane.revoke(path=crl, days=(-0.001, 1))
        await identity.reload()
        assert identity.planes["sae_api"].list_faults == ()
        async with pair.client("sae-a1") as client:
            await client.status(SaeId("sae-a2"))


async def is_refused_at_all(pair):
    """Whether an SAE that nobody revoked is refused as well."""
    try:
        async with pair.client("sae-a2") as client:
            await client.status(SaeId("sae-a1"))
    except ShosoinError:
        return True
    return False


async def test_without_a_required_list_nobody_is_admitted(tmp_path):
    crl = tmp_path / "sae.crl"
    lines = f'crl = "{crl}"\ncrl_required = true'
    pair = KmePair(tmp_path, extra={"end": QUICK, "sae_api": lines})
    with_operations(pair)
    files, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        identity = processes["kme-a"].identity
        assert await is_refused(pair, "kme-a", files, ca)  # there is none yet
        assert "kme.crl" in (await scraper.health("ready"))[2]
        pair.sae_plane.revoke(path=crl)
        await identity.reload()
        async with connected(pair, "kme-a", files, ca) as (reader, writer):
            writer.write(b"GET /api/v1/keys/sae-a2/status HTTP/1.1\r\nHost: kme\r\n\r\n")
            assert b" 200 " in await reader.readline()
            assert "kme.crl" not in (await scraper.health("ready"))[2]
            pair.sae_plane.revoke(path=crl, days=(-0.005, -0.001))  # newer, and outdated already
            assert await is_ended_after_the_answer(reader)
        assert await is_refused(pair, "kme-a", files, ca)
        assert (await scraper.samples()).value("crl_current", endpoint="sae_api") == 0


async def test_an_outdated_list_revokes_and_refuses_nobody_else_where_none_is_required(tmp_path, caplog):
    crl = tmp_path / "sae.crl"
    pair = KmePair(tmp_path, extra={"end": QUICK, "sae_api": f'crl = "{crl}"'})
    pair.sae_plane.revoke(pair.saes["sae-a1"], path=crl, days=(-2, -1))
    async with pair.running("kme-a"):
        assert "tls.crl_outdated" in caplog.messages
        assert await is_refused(pair, "kme-a", pair.saes["sae-a1"], pair.sae_plane.certificate)
        assert not await is_refused_at_all(pair)


async def test_an_authority_that_is_not_trusted_any_more_takes_its_holders_along(pair, tmp_path):
    old = TestAuthority(tmp_path / "old", "old sae-plane")
    bundle, config = tmp_path / "bundle.crt", pair.config("kme-a")
    bundle.write_bytes(pair.sae_plane.certificate.read_bytes() + old.certificate.read_bytes())
    text = config.read_text().replace(f'client_ca = "{pair.sae_plane.certificate}"', f'client_ca = "{bundle}"')
    config.write_text(text)
    files = old.issue("sae", "sae-a2")
    async with (
        pair.running("kme-a"),
        connected(pair, "kme-a", files, pair.sae_plane.certificate) as (reader, _),
        connected(pair, "kme-a", pair.saes["sae-a1"], pair.sae_plane.certificate) as (other, writer),
    ):
        bundle.write_bytes(pair.sae_plane.certificate.read_bytes())
        assert await is_ended(reader)
        assert await is_refused(pair, "kme-a", files, pair.sae_plane.certificate)
        writer.write(b"GET /api/v1/keys/sae-a2/status HTTP/1.1\r\nHost: kme\r\n\r\n")
        assert b" 200 " in await other.readline()


async def test_a_file_of_revoked_names_that_is_broken_or_gone_keeps_who_was_in_it(pair):
    path: Path = pair.directory("kme-a") / "revoked"
    path.parent.mkdir()
    path.write_text("sae:sae-a1\n")
    files, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    async with pair.running("kme-a") as processes:
        identity = processes["kme-a"].identity
        assert await is_refused(pair, "kme-a", files, ca)
        for worsen in (lambda: path.write_text("sae sae-a1\n"), path.unlink):
            worsen()
            report = await identity.reload()
            assert report["revoked"]["refused_file"]
            assert await is_refused(pair, "kme-a", files, ca)
        path.write_text("# nobody\n")
        await identity.reload()
        async with pair.client("sae-a1") as client:
            await client.status(SaeId("sae-a2"))
    path.write_text("who knows\n")
    with pytest.raises(Rejected, match="line 1: expected sae:<id>"):
        await KmeProcess(load_kme_config(pair.config("kme-a"))).__aenter__()


async def test_an_administrators_revocation_waits_for_nothing_and_outlasts_a_full_disk(pair):
    files, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    holder = Identity("sae", "sae-a1")
    async with pair.running("kme-a") as processes, connected(pair, "kme-a", files, ca) as (reader, _):
        identity = processes["kme-a"].identity
        await until(lambda: identity.planes["sae_api"].connections(holder))
        async with identity._turn:  # as if a look at the files hung
            waiting = asyncio.create_task(identity.revoke(holder, "test"))
            assert await is_ended(reader)
            assert await is_refused(pair, "kme-a", files, ca)
        assert await waiting == 1
        path = pair.directory("kme-a") / "revoked"
        path.write_text("# nobody\n")  # an operator's word counts again
        await until(lambda: not identity.revoked.identities)
        path.unlink()
        path.mkdir()
        with pytest.raises(Unavailable):
            await identity.revoke(holder, "test")
        path.rmdir()
        path.write_text("sae:sae-a2\n")
        await identity.reload()
        assert identity.revoked.identities == {holder, Identity("sae", "sae-a2")}


async def test_expiry_is_told_and_makes_a_kme_unready(tmp_path, caplog):
    pair = KmePair(tmp_path, extra={"end": QUICK})
    with_operations(pair)
    put(pair.sae_plane.issue("kme", "kme-a", stem="old", days=(-30, -1)), own(pair, "kme-a", "sae"))
    put(pair.kme_plane.issue("kme", "kme-a", stem="soon", days=(-60, 6)), own(pair, "kme-a", "kme"))
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        status, _, codes, _ = await scraper.health("ready")
        assert (status, "kme.certificate" in codes) == (503, True)
        samples, name = await scraper.samples(), "certificate_expiry_timestamp_seconds"
        old = x509.load_pem_x509_certificate(own(pair, "kme-a", "sae").certificate.read_bytes())
        assert samples.value(name, endpoint="sae_api", certificate="own") == old.not_valid_after_utc.timestamp()
        told = {
            (record.message, record.fields["endpoint"], record.fields["within_days"])
            for record in caplog.records
            if record.message.startswith("tls.certificate_expire")
        }
        assert ("tls.certificate_expired", "sae_api", 0) in told
        assert ("tls.certificate_expires", "peer_api", 7) in told
        put(pair.sae_plane.issue("kme", "kme-a", stem="new"), own(pair, "kme-a", "sae"))
        await until(lambda: processes["kme-a"].identity.planes["sae_api"].tally.loaded)
        assert "kme.certificate" not in (await scraper.health("ready"))[2]


async def test_all_of_it_holds_for_hybrid_tls_with_ml_dsa_certificates(tmp_path):
    crls = {plane: tmp_path / f"{plane}.crl" for plane in ("sae", "kme")}
    pair = KmePair(
        tmp_path,
        extra={"end": QUICK, "sae_api": f'crl = "{crls["sae"]}"', "peer_api": f'crl = "{crls["kme"]}"'},
        key_exchange={"sae_api": "require-hybrid", "peer_api": "require-hybrid"},
        ml_dsa=True,
        stock_bits=1 << 20,
    )
    pair.sae_plane.revoke(path=crls["sae"])
    pair.kme_plane.revoke(path=crls["kme"])
    async with pair.running() as processes, pair.client("sae-a1") as gone, pair.client("sae-a2") as stays:
        a, b = processes["kme-a"], processes["kme-b"]
        await until_stock(stays, "sae-b1", 8)
        await gone.status(SaeId("sae-b1"))
        new = pair.kme_plane.issue("kme", "kme-a", stem="new")
        put(new, own(pair, "kme-a", "kme"))
        put(pair.sae_plane.issue("kme", "kme-a", stem="new"), own(pair, "kme-a", "sae"))
        await until(lambda: seen_by(b, "kme-a") == {serial_of(new)} and a.drivers["kme-b"].pair.is_connected)
        await until(lambda: a.identity.planes["sae_api"].tally.loaded == 1)
        async with pair.client("sae-a2") as fresh:
            assert len(await fresh.enc_keys(SaeId("sae-b1"), number=2, size_bits=256)) == 2
        pair.sae_plane.revoke(pair.saes["sae-a1"], path=crls["sae"])
        await until(lambda: a.identity.planes["sae_api"].tally.cut == 1)
        with pytest.raises(ShosoinError):
            await gone.status(SaeId("sae-b1"))
        await stays.status(SaeId("sae-b1"))
        pair.kme_plane.revoke(own(pair, "kme-b", "kme"), path=crls["kme"])
        await until(lambda: not seen_by(a, "kme-b") and not a.drivers["kme-b"].pair.is_connected)


async def test_workers_renew_and_revoke_as_well(tmp_path):
    crl = tmp_path / "sae.crl"
    pair = KmePair(tmp_path, extra={"end": "[identity]\npoll_interval_s = 1", "sae_api": f'crl = "{crl}"'}, workers=2)
    pair.sae_plane.revoke(path=crl)
    gone, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    server = ServerProcess(pair.config("kme-a"))
    try:
        await server.start()
        async with connected(pair, "kme-a", gone, ca) as (reader, _):
            new = pair.sae_plane.issue("kme", "kme-a", stem="new")
            put(new, own(pair, "kme-a", "sae"))
            answer = await asyncio.to_thread(reload_kme, pair.config("kme-a"), 30.0)
            assert answer["endpoints"]["sae_api"]["serial"] == f"{serial_of(new):x}"
            async with asyncio.timeout(20):
                in_a_row = 0
                while in_a_row < 12:  # of both workers
                    in_a_row = in_a_row + 1 if await served_serial(pair, "kme-a") == serial_of(new) else 0
            pair.sae_plane.revoke(gone, path=crl)
            assert await is_ended(reader)
        for _ in range(6):
            assert await is_refused(pair, "kme-a", gone, ca)
        assert not await is_refused_at_all(pair)
        (pair.directory("kme-a") / "revoked").write_text("sae:sae-a2\n")
        await asyncio.to_thread(reload_kme, pair.config("kme-a"), 30.0)
        async with asyncio.timeout(20):
            while not await is_refused(pair, "kme-a", pair.saes["sae-a2"], ca):
                await asyncio.sleep(0.05)
    finally:
        await server.stop()
