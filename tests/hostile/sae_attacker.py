"""An SAE that attacks a KME, as a process: ``sae_attacker.py JOB``, where JOB is JSON.

It holds a real certificate (``sae-b2``) and knows key_IDs that were drawn for another SAE of the same KME. It says on
standard output, in JSON, what came of each attack: a list of outcomes. An answer is its status, with ``!`` behind it
if it is an error without the body that an error must have; ``closed`` means that the KME ended the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import ssl
import struct
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from shosoin.adapters.open_files import allow_many_open_files
from shosoin.adapters.tls import client_context
from tests.hostile.sae_requests import LOOK_ALIKES, METHODS, SMUGGLED, TARGETS, WRONG_BODIES, get, post

CROWD, HOLD_S = 10_000, 10.0
IDLE = 600
LORIS = 40
ANOTHER_ADDRESS = "127.0.0.2"
GUESSES_AT_ONCE = 500
ANSWER_S = 30.0
QUIET_S = 0.3


class Attacker:
    """Where it attacks, and what came of it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.told: dict[str, list[str]] = {}
        self.context = client_context(Path(job["certificate"]), Path(job["key"]), Path(job["ca"]))

    def say(self, attack: str, outcome: str) -> None:
        """Note an outcome."""
        self.told.setdefault(attack, []).append(outcome)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a TLS connection with the certificate."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.job["port"], ssl=self.context, server_hostname=self.job["kme"]
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def answers(
        self, *pieces: bytes, most: int = 1, pause_s: float = 0.0, quiet_s: float = ANSWER_S
    ) -> list[str]:
        """Send bytes over a connection of its own; return what comes back, up to so many answers."""
        try:
            async with asyncio.timeout(ANSWER_S * 2), self.connected() as (reader, writer):
                sending = asyncio.create_task(_send(writer, pieces, pause_s))
                try:
                    return await _answers(reader, most, quiet_s)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
        except TimeoutError:
            return ["no answer"]
        except (OSError, EOFError):
            return ["closed"]

    async def each(self, attack: str, requests: list[bytes]) -> None:
        """Send each over a connection of its own."""
        for request in requests:
            for outcome in await self.answers(request):
                self.say(attack, outcome)

    # What a request says.

    async def bodies(self) -> None:
        """Everything that is no key request, at both calls."""
        for call in ("sae-a1/enc_keys", "sae-a1/dec_keys"):
            await self.each("bodies", [post(call, body) for body in WRONG_BODIES])

    async def key_ids(self) -> None:
        """What looks like a key_ID, others' key_IDs, and others' with something changed."""
        theirs = self.job["key_ids"]
        await self.each("others", [post("sae-a1/dec_keys", _ids(key_id)) for key_id in theirs])
        await self.each("others", [get(f"sae-a1/dec_keys?key_ID={key_id}") for key_id in theirs])
        await self.each("others", [post("sae-a1/dec_keys", _ids(theirs[0].upper()))])
        await self.each("others' of another master", [post("sae-a2/dec_keys", _ids(theirs[0]))])
        await self.each("others", [post("sae-a1/dec_keys", _ids(theirs[0], str(uuid.uuid4())))])
        changed = [change(theirs[0]) for change in LOOK_ALIKES]
        alike = [post("sae-a1/dec_keys", _ids(each)) for each in changed if each != theirs[0]]
        await self.each("look-alikes", alike)
        await self.each("too many", [post("sae-a1/dec_keys", _ids(*[theirs[0]] * 129))])

    async def targets(self) -> None:
        """Paths that two programs could read differently."""
        for target, expected in TARGETS.items():
            outcome = (await self.answers(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n"))[0]
            self.say("targets", "as expected" if outcome == expected else f"{target!r}: {outcome}, not {expected}")

    async def methods(self) -> None:
        """Methods that no clause defines."""
        for method in METHODS:
            await self.each("methods", [method + b" /api/v1/keys/sae-a1/enc_keys HTTP/1.1\r\nHost: x\r\n\r\n"])

    async def compressed(self) -> None:
        """Bodies with a content encoding, a bomb among them."""
        good, bomb = b'{"number": 1}', b"[" * (64 << 20)
        for coding, pack in (("deflate", zlib.compress), ("gzip", _gzip)):
            for body in (good, bomb):
                await self.each("compressed", [post("sae-a1/enc_keys", pack(body), f"Content-Encoding: {coding}")])

    async def long_bodies(self) -> None:
        """Bodies above the limit: announced, in chunks, and after asking whether to go on."""
        head = b"POST /api/v1/keys/sae-a1/enc_keys HTTP/1.1\r\nHost: x\r\n"
        chunks = [b"10000\r\n" + b" " * 65536 + b"\r\n"] * 400
        await self.each("too long", [head + b"Content-Length: 99999999999\r\n\r\n{"])
        self.say("too long", (await self.answers(head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks))[0])
        expecting = head + b"Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n"
        self.say("too long", (await self.answers(expecting))[0])
        for end in (b"", b"0\r\n\r\n"):
            asked = head + b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
            outcomes = await self.answers(asked, b"1\r\n[\r\n" + end, most=2, pause_s=0.2, quiet_s=ANSWER_S)
            self.say("after 100", " ".join(outcomes))

    async def replays(self) -> None:
        """The same fetch again and again, in a row and at once, byte by byte the same."""
        _, body = await self.ask(post("sae-b2/enc_keys", b'{"number": 2}'))
        fetches = [post("sae-b2/dec_keys", _ids(key["key_ID"])) for key in body["keys"]]
        for outcome in await self.answers(fetches[0] * 20, most=20):
            self.say("replays in a row", outcome)
        for outcomes in await asyncio.gather(*(self.answers(fetches[1]) for _ in range(20))):
            self.say("replays at once", outcomes[0])

    async def pipelined(self) -> None:
        """Many requests in one piece, good ones and bad ones in turn."""
        good, bad = get("sae-a1/status"), get("nobody/status")
        self.say("pipelined", " ".join(await self.answers((good + bad) * 200, most=400)))

    async def smuggled(self) -> None:
        """Requests whose length can be read in two ways, with a request for a key inside."""
        for raw in SMUGGLED:
            outcomes = await self.answers(raw, most=3, quiet_s=QUIET_S)
            hidden = [outcome for outcome in outcomes if outcome != "400"]
            self.say("smuggled", "one answer" if outcomes == ["400"] else f"{raw!r}: {outcomes}" if hidden else "400s")

    async def ask(self, request: bytes) -> tuple[int, Any]:
        """Return one whole answer."""
        async with asyncio.timeout(ANSWER_S), self.connected() as (reader, writer):
            writer.write(request)
            return await _answer(reader)

    # Connections.

    async def loris(self) -> None:
        """Heads, bodies, chunks and handshakes that come byte by byte, many at once, until the KME has enough."""
        head = b"POST /api/v1/keys/sae-a1/enc_keys HTTP/1.1\r\nHost: x\r\n"
        slow_head = [head, *([b"X"] * 1000)]
        slow_body = [head + b"Content-Length: 1000\r\n\r\n", *([b" "] * 1000)]
        slow_chunks = [head + b"Transfer-Encoding: chunked\r\n\r\n", *([b"1\r\n \r\n"] * 1000)]
        kinds = {"slow head": slow_head, "slow body": slow_body, "slow chunks": slow_chunks}
        work = [self._slow(name, pieces) for name, pieces in kinds.items() for _ in range(LORIS)]
        await asyncio.gather(*work, *(self._slow_handshake() for _ in range(LORIS)))

    async def _slow(self, attack: str, pieces: list[bytes]) -> None:
        self.say(attack, (await self.answers(*pieces, pause_s=0.25))[0])

    async def _slow_handshake(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.job["port"])
        sending = asyncio.create_task(_send(writer, [b"\x16\x03\x01\x02\x00\x01", *([b"\0"] * 1000)], 0.25))
        try:
            async with asyncio.timeout(ANSWER_S):
                with contextlib.suppress(OSError):
                    await reader.read()
            self.say("slow handshake", "closed")
        except TimeoutError:
            self.say("slow handshake", "held")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.transport.abort()

    async def silent(self) -> None:
        """Thousands of connections, from an address of their own, that never begin their handshake."""
        allow_many_open_files()
        crowd = min(CROWD, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200)
        with contextlib.ExitStack() as stack:
            held = []
            for _ in range(crowd):
                one = stack.enter_context(socket.socket())
                one.setblocking(False)
                one.bind((ANOTHER_ADDRESS, 0))
                with contextlib.suppress(BlockingIOError):
                    one.connect(("127.0.0.1", self.job["port"]))
                held.append(one)
            await asyncio.sleep(HOLD_S)
            for one in held:
                self.say("silent", _state(one))

    async def idle(self) -> None:
        """More connections of one SAE than it may have, their handshakes done, doing nothing."""
        async with contextlib.AsyncExitStack() as stack:
            held = []
            for _ in range(IDLE):
                with contextlib.suppress(OSError):
                    held.append(await stack.enter_async_context(self.connected()))
            await asyncio.sleep(1.0)  # whoever has too many is told after its handshake
            for reader, writer in held:
                self.say("idle", "closed" if reader.at_eof() or writer.is_closing() else "open")

    async def half_closed(self) -> None:
        """Connections of which one direction, or both, ends in the middle of a request."""
        half = post("sae-a1/enc_keys", b'{"number": 1}')[:-4]
        for sent in (b"", half[:20], half):
            for reset in (False, True):
                async with self.connected() as (reader, writer):
                    writer.write(sent)
                    await writer.drain()
                    await asyncio.sleep(0.01)
                    _end_one_direction(writer, reset=reset)
                    async with asyncio.timeout(ANSWER_S):
                        with contextlib.suppress(OSError):
                            await reader.read()
                self.say("half closed", "closed")

    async def leaves_early(self) -> None:
        """Ask for long answers and be gone before, or while, they come."""
        wanted = post("sae-b2/enc_keys", b'{"number": 4, "size": 800000}')
        for number in range(60):
            async with self.connected() as (reader, writer):
                writer.write(wanted)
                await writer.drain()
                if number % 2:
                    with contextlib.suppress(OSError, EOFError):
                        await reader.read(1000 if number % 4 == 1 else 1)
        self.say("leaves early", "left")

    async def strangers(self) -> None:
        """Plain HTTP, noise, and TLS without a certificate."""
        for said in (get("sae-a1/status"), b"\0" * 1000, b"\x16\x03\x01\xff\xff" + b"x" * 70_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.job["port"])
            writer.write(said)
            with contextlib.suppress(OSError):
                answer = await reader.read(4096)
                self.say("strangers", "answered" if b"HTTP/" in answer else "closed")
            writer.transport.abort()
        bare = ssl.create_default_context(cafile=self.job["ca"])
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.job["port"], ssl=bare, server_hostname=self.job["kme"]
            )
            writer.write(get("sae-a1/status"))
            self.say("strangers", "answered" if await reader.read(4096) else "closed")
            writer.transport.abort()
        except (OSError, EOFError):
            self.say("strangers", "closed")

    async def renegotiates(self) -> None:
        """Shake hands again in the middle of a TLS 1.2 connection, which could bring another certificate."""
        self.say("renegotiates", await asyncio.to_thread(_renegotiate, self.job))

    async def guesses(self) -> None:
        """Thousands of made-up key_IDs, as fast as they are answered, until the KME has enough of this SAE."""
        for _ in range(100):
            made_up = b"".join(post("sae-a1/dec_keys", _ids(str(uuid.uuid4()))) for _ in range(GUESSES_AT_ONCE))
            for outcome in await self.answers(made_up, most=GUESSES_AT_ONCE):
                self.say("guesses", outcome)
            if "503" in self.told["guesses"]:
                return


async def _send(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...] | list[bytes], pause_s: float) -> None:
    with contextlib.suppress(OSError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)


async def _answers(reader: asyncio.StreamReader, most: int, quiet_s: float) -> list[str]:
    outcomes: list[str] = []
    try:
        while len(outcomes) < most:
            async with asyncio.timeout(quiet_s if outcomes else ANSWER_S):
                status, body = await _answer(reader)
            fine = status in {100, 200} or (isinstance(body, dict) and set(body) == {"message", "details"})
            outcomes.append(f"{status}" if fine else f"{status}!")
    except TimeoutError:
        return outcomes or ["no answer"]
    except (OSError, EOFError):
        return outcomes or ["closed"]
    return outcomes


async def _answer(reader: asyncio.StreamReader) -> tuple[int, Any]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ")[1])
    length = [line.partition(":")[2] for line in head.split("\r\n") if line.startswith("content-length:")]
    body = await reader.readexactly(int(length[0])) if length else b""
    try:
        return status, json.loads(body)
    except ValueError:
        return status, None


def _state(one: socket.socket) -> str:
    try:
        return "closed" if one.recv(1) == b"" else "answered"
    except BlockingIOError:
        return "waits"
    except OSError:
        return "closed"


def _ids(*key_ids: Any) -> bytes:
    return json.dumps({"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}).encode()


def _gzip(raw: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(raw) + packer.flush()


def _end_one_direction(writer: asyncio.StreamWriter, *, reset: bool) -> None:
    connection = writer.get_extra_info("socket")
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        socket.socket.shutdown(connection._sock, socket.SHUT_WR)  # asyncio hides it: TLS has no half-open state


def _renegotiate(job: dict[str, Any]) -> str:
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.use_certificate_file(job["certificate"])
    context.use_privatekey_file(job["key"])
    with socket.create_connection(("127.0.0.1", job["port"])) as raw:
        connection = SSL.Connection(context, raw)
        connection.set_connect_state()
        connection.set_tlsext_host_name(job["kme"].encode())
        raw.settimeout(None)
        connection.do_handshake()
        if connection.get_protocol_version_name() != "TLSv1.2":
            return "not TLS 1.2"
        try:
            connection.renegotiate()
            connection.do_handshake()
            connection.sendall(get("sae-a1/status"))
            connection.recv(4096)
        except (SSL.Error, OSError):
            return "refused"
        return "refused" if connection.total_renegotiations() == 0 or connection.renegotiate_pending() else "done"


async def attack(job: dict[str, Any]) -> dict[str, list[str]]:
    """Attack, one kind after the other, and return what came of it."""
    attacker = Attacker(job)
    for name in job["attacks"]:
        began_s = time.monotonic()
        await getattr(attacker, name)()
        sys.stderr.write(f"{name}: {time.monotonic() - began_s:.1f} s\n")
    return attacker.told


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(attack(json.loads(sys.argv[1])))))
