"""The example of TLS with quantum keys: its real processes, two KMEs, and clients that do not hold the key."""

import asyncio
import ssl
import sys
import uuid
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from shosoin.adapters.openssl_binding import binding
from shosoin.adapters.pq_tls import HYBRID_GROUP
from shosoin.adapters.tls import describe
from shosoin.adapters.tls_psk import PskHello, psk_client_context, psk_server_context
from shosoin.base import PeerFault, Rejected, SaeId
from tests.support.kme import SAES, KmePair, until_stock

EXAMPLE = Path(__file__).parents[2] / "examples" / "tls_psk"
A1, B1 = SaeId("sae-a1"), SaeId("sae-b1")
KEY_ID = str(uuid.UUID(int=1, version=4))


def arguments(pair, sae, peer):
    files = pair.saes[sae]
    return [
        "--peer", peer, "--kme", f"https://127.0.0.1:{pair.sae_port[SAES[sae]]}", "--kme-name", SAES[sae],
        "--certificate", str(files.certificate), "--key", str(files.key), "--ca", str(pair.sae_plane.certificate),
        "--key-exchange", pair.key_exchange.get("sae_api", "classical"),
    ]  # fmt: skip


@asynccontextmanager
async def started(script, *given):
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE / script), *given, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def serving(pair):
    """The example's server; yields its port and its output."""
    async with started("server.py", *arguments(pair, "sae-b1", "sae-a1")) as process:
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode()
        if not first.startswith("port "):
            raise AssertionError((await process.communicate())[1].decode()[-2000:])
        yield int(first.split()[1]), process.stdout


async def said(pair, port, line, *, sae="sae-a1", peer="sae-b1"):
    """The example's client; returns exit status, output and errors."""
    given = ["--connect", f"127.0.0.1:{port}", "--say", line, *arguments(pair, sae, peer)]
    async with started("client.py", *given) as process:
        out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture(params=[False, True], ids=["ecdsa", "ml-dsa"])
def pair(request, tmp_path):
    hybrid = {"sae_api": "require-hybrid", "peer_api": "require-hybrid"}
    return KmePair(tmp_path, key_exchange=hybrid if request.param else {}, ml_dsa=request.param)


@pytest.mark.processes
async def test_the_example_talks_over_a_key_of_both_kmes(pair):
    async with pair.running(), pair.client("sae-a1") as kme, serving(pair) as (port, told):
        await until_stock(kme, "sae-b1", 8)
        for line in ("hello", "again"):
            code, out, err = await said(pair, port, line)
            assert (code, err) == (0, "")
            assert out == f"you said {line!r} over {HYBRID_GROUP}\n"
            assert (await told.readline()).decode() == f"serving sae-a1 over {HYBRID_GROUP}\n"


async def connected(port, key_id, key):
    """Whether the example's server completes a handshake; a TLS 1.3 client learns of a refusal by reading."""
    with suppress(OSError, ssl.SSLError):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=psk_client_context(key_id, bytearray(key))
        )
        try:
            return bool(await reader.read(1))
        finally:
            writer.close()
    return False


@pytest.mark.processes
async def test_who_does_not_hold_the_key_is_refused_and_the_key_is_gone(tmp_path):
    pair = KmePair(tmp_path)
    async with pair.running(), pair.client("sae-a1") as kme, serving(pair) as (port, told):
        await until_stock(kme, "sae-b1", 8)
        drawn, good = await kme.enc_keys(B1, number=2, size_bits=384)
        secret = drawn.material.take()
        wrong = bytes([secret[0] ^ 1]) + secret[1:]
        assert not await connected(port, drawn.key_id, wrong)
        assert "binder does not verify" in (await told.readline()).decode()
        assert not await connected(port, drawn.key_id, secret)  # each key_ID can be fetched once
        assert "not found" in (await told.readline()).decode()
        for offered in (str(uuid.uuid4()), "no-key-id", good.key_id.upper() + "x"):
            assert not await connected(port, offered, bytes(range(48)))
            assert (await told.readline()).decode().startswith("refused")
        code, out, _ = await said(pair, port, "still here")
        assert (code, out) == (0, f"you said 'still here' over {HYBRID_GROUP}\n")


@pytest.mark.processes
async def test_another_sae_that_holds_a_key_is_not_taken_for_the_expected_one(tmp_path):
    """It steals key and key_ID of sae-a1, and can complete the handshake; it cannot sign as sae-a1."""
    pair = KmePair(tmp_path)
    async with pair.running(), pair.client("sae-a1") as kme, serving(pair) as (port, told):
        await until_stock(kme, "sae-b1", 8)
        (stolen,) = await kme.enc_keys(B1, number=1, size_bits=384)
        thief = pair.saes["sae-a2"]
        context = psk_client_context(stolen.key_id, bytearray(stolen.material.take()))
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        sys.path.insert(0, str(EXAMPLE))
        try:
            import peers  # type: ignore[import-not-found]
        finally:
            sys.path.remove(str(EXAMPLE))
        classical = peers.KeyExchange.CLASSICAL
        sae = peers.Sae(thief.certificate, thief.key, pair.sae_plane.certificate, "", "", "sae-b1", classical)
        with suppress(peers.Denied, OSError):
            await sae.prove(peers.Stream(reader, writer), is_client=True)
            with pytest.raises(peers.Denied):
                await peers.Stream(reader, writer).receive()
        writer.close()
        assert (await told.readline()).decode() == "refused: the other end is sae sae-a2, expected sae-a1\n"


@pytest.mark.processes
@pytest.mark.parametrize("raw", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x40\x00" + bytes(20_000)])
async def test_what_is_no_hello_is_refused_and_the_next_client_served(tmp_path, raw):
    pair = KmePair(tmp_path)
    async with pair.running(), pair.client("sae-a1") as kme, serving(pair) as (port, told):
        await until_stock(kme, "sae-b1", 8)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            writer.write(raw)
            writer.write_eof()
            await reader.read()
        writer.close()
        assert (await told.readline()).decode().startswith("refused")
        assert (await said(pair, port, "hello"))[0] == 0


# The adapter alone


def shaken(near, far):
    """Shake hands in memory; returns both ends."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = psk_client_context(KEY_ID, near).wrap_bio(to_client, to_server, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = PskHello()
    found = None
    while found is None:
        found = hello.feed(to_server.read(100))
    assert found == KEY_ID
    server = psk_server_context(KEY_ID, far, hello.heard).wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        server.do_handshake()
    client.do_handshake()
    server.do_handshake()
    return client, server


def test_one_key_at_both_ends_makes_a_hybrid_connection_with_one_suite():
    key = bytes(range(48))
    client, server = shaken(bytearray(key), bytearray(key))
    for end in (client, server):
        assert describe(end) == {
            "version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "secret_bits": 256, "group": HYBRID_GROUP,
        }  # fmt: skip
        assert end.is_resumed()
    assert client.export_keying_material(b"x", 32) == server.export_keying_material(b"x", 32)


@pytest.mark.parametrize("far", [bytes(range(1, 49)), bytes(range(47)), bytes(48)])
def test_another_key_or_a_zeroed_one_is_refused(far):
    with pytest.raises(ssl.SSLError, match=r"binder does not verify|no suitable signature|no shared"):
        shaken(bytearray(range(48)), bytearray(far))


def test_a_zeroed_key_is_not_offered():
    """Nobody may get in with zeros after the key was used up."""
    to_server = ssl.MemoryBIO()
    client = psk_client_context(KEY_ID, bytearray(48)).wrap_bio(ssl.MemoryBIO(), to_server, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(PeerFault, match="offers no key"):
        PskHello().feed(to_server.read())


def test_a_server_with_a_certificate_but_without_the_key_is_refused(tmp_path):
    pair = KmePair(tmp_path)
    library, files = binding(), pair.saes["sae-b1"]
    context = library.ssl.Context(library.ssl.TLS_SERVER_METHOD)
    context.use_certificate_chain_file(str(files.certificate))
    context.use_privatekey_file(str(files.key))
    server = library.ssl.Connection(context, None)
    server.set_accept_state()
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = psk_client_context(KEY_ID, bytearray(range(48))).wrap_bio(to_client, to_server, server_hostname="sae-b1")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    server.bio_write(to_server.read())
    with suppress(library.ssl.WantReadError):
        server.do_handshake()
    to_client.write(server.bio_read(1 << 20))
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        client.do_handshake()


def test_what_is_no_key_is_rejected():
    with pytest.raises(Rejected, match="at least 32"):
        psk_client_context(KEY_ID, bytearray(range(31)))
    with pytest.raises(Rejected, match="identity"):
        psk_client_context("x" * 129, bytearray(range(48)))


def test_endless_hellos_end():
    hello = PskHello()
    part = b"\x16\x03\x01\x04\x04" + b"\x01\x00\xff\xff" + bytes(1024)
    assert hello.feed(part) is None
    with pytest.raises(PeerFault):
        hello.feed(part * 20)
