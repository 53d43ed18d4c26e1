"""A client that attacks a node, as a process: ``attacker.py OWNER_CONFIG SITE VICTIM OBJECT VERSION``.

It holds the certificate of a real owner (or none) and knows another owner's object. It says on standard output, in
JSON, what came of each attack: a list of outcomes, where ``closed`` means that the node ended the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shosoin.adapters.node_link import HttpsNodeLink, NodeSession
from shosoin.adapters.owner import OwnerConfig, load_owner_config, open_vault
from shosoin.adapters.tls import client_context
from shosoin.base import OwnerId, SaeId, ShosoinError, SiteId
from shosoin.vault import Vault
from shosoin.vault.channel import Channel, open_channel
from shosoin.vault.envelope import canonical_json, join
from shosoin.vault.ports import Buffer
from shosoin.vault.putting import BytesSource

IDLE = 700
LORIS = 60
HOLD_S = 6.0
MIB = 1 << 20


class RecordingLink:
    """The real link; keeps what it sent, for sending it again."""

    def __init__(self, link: HttpsNodeLink) -> None:
        self._link = link
        self.site = link.site
        self.sent: list[tuple[str, bytes]] = []

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        """Send and remember."""
        raw = b"".join(bytes(part) for part in body)
        self.sent.append((path, raw))
        return await self._link.exchange(path, [raw], response_bytes_max=response_bytes_max, timeout_s=timeout_s)


@dataclass
class Attacker:
    """Everything that an attacker has."""

    config: OwnerConfig
    site: SiteId
    victim: OwnerId
    object_id: str
    version: str
    link: RecordingLink
    channel: Channel
    vault: Vault
    told: dict[str, list[str]] = field(default_factory=dict)

    @property
    def _entry(self) -> Any:
        return next(site for site in self.config.sites if site.name == self.site)

    @property
    def node(self) -> SaeId:
        """The node that is attacked."""
        node: SaeId = self._entry.node
        return node

    def say(self, attack: str, outcome: str) -> None:
        """Note an outcome."""
        self.told.setdefault(attack, []).append(outcome)

    # ------------------------------------------------------------------------------------------------ connections

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a TLS connection with the owner's certificate."""
        context = client_context(self.config.certificate, self.config.key, self.config.node_ca)
        url = urlsplit(self._entry.url)
        reader, writer = await asyncio.open_connection(
            url.hostname, url.port, ssl=context, server_hostname=self._entry.server_name
        )
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def spoken(self, attack: str, *pieces: bytes, eof: bool = False) -> None:
        """Send bytes over a connection of its own and note the status line, or the end."""
        try:
            async with asyncio.timeout(60), self.connected() as (reader, writer):
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                if eof:
                    writer.transport.abort() if not writer.can_write_eof() else writer.write_eof()
                line = await reader.readline()
                self.say(attack, line.decode("latin-1").split(" ")[1] if line.count(b" ") > 1 else "closed")
        except TimeoutError:
            self.say(attack, "no answer")
        except (OSError, asyncio.IncompleteReadError):
            self.say(attack, "closed")

    async def junk_http(self) -> None:
        """Requests that two parsers could read differently, and such as no parser should read."""
        host = b"Host: x\r\n"
        post = b"POST /v1/exchange HTTP/1.1\r\n" + host
        for pieces in (
            (post + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",),
            (post + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",),
            (post + b"Transfer-Encoding: chunked\r\n\r\n5;x\r\nabcde\r\n0\r\n\r\n",),
            (post + b"Content-Length: +4\r\n\r\nabcd",),
            (post + b"Content-Length: 99999999999999999999\r\n\r\n",),
            (post + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n", b"abcd"),
            (post + b"Content-Length : 4\r\n\r\nabcd",),
            (b"POST /v1/exchange HTTP/1.1\nHost: x\nContent-Length: 0\n\n",),
            (b"GET http://elsewhere/v1/info HTTP/1.1\r\n" + host + b"\r\n",),
            (b"GET /v1/info HTTP/9.9\r\n" + host + b"\r\n",),
            (b"GET /v1/../v1/info%00 HTTP/1.1\r\n" + host + b"\r\n",),
            (b"GET /v1/info HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",),
            (b"\x16\x03\x01" + b"\0" * 500,),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",),
        ):
            await self.spoken("junk http", *pieces)
        await self.spoken("pipelined", (b"GET /v1/info HTTP/1.1\r\n" + host + b"\r\n") * 1000)

    async def half_closed(self) -> None:
        """Announce a body, send half of it, and leave."""
        for _ in range(20):
            await self.spoken(
                "half closed", b"POST /v1/exchange HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", eof=True
            )

    async def slow_loris(self) -> None:
        """Heads and bodies that come byte by byte, many at once."""

        async def one(number: int) -> None:
            head = b"POST /v1/exchange HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
            start = head if number % 2 else head + b"\r\n"
            with contextlib.suppress(OSError):
                async with asyncio.timeout(120), self.connected() as (_, writer):
                    writer.write(start)
                    for _ in range(int(HOLD_S / 0.5)):
                        writer.write(b"a")
                        await writer.drain()
                        await asyncio.sleep(0.5)

        await asyncio.gather(*(one(number) for number in range(LORIS)))
        self.say("slow loris", "held")

    async def idle(self) -> None:
        """More connections than a node takes, doing nothing."""
        async with contextlib.AsyncExitStack() as stack:
            held = []
            for _ in range(IDLE):
                try:
                    async with asyncio.timeout(20):
                        held.append(await stack.enter_async_context(self.connected()))
                except (OSError, TimeoutError):
                    self.say("idle", "refused")
            await asyncio.sleep(HOLD_S)
            for reader, writer in held:  # a node ends a connection that is too much after the handshake
                self.say("idle", "closed" if reader.at_eof() or writer.is_closing() else "open")

    async def bare(self) -> None:
        """Connections without TLS, and with TLS but no certificate."""
        url = urlsplit(self._entry.url)
        assert url.hostname is not None
        held = [socket.create_connection((url.hostname, url.port)) for _ in range(200)]
        for each in held[:50]:
            each.sendall(b"GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.sleep(HOLD_S)
        for each in held:
            each.close()
        context = ssl.create_default_context(cafile=str(self.config.node_ca))
        for _ in range(20):
            try:
                reader, writer = await asyncio.open_connection(
                    url.hostname, url.port, ssl=context, server_hostname=self._entry.server_name
                )
                writer.write(b"GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n")
                self.say("no certificate", "answered" if await reader.readline() else "closed")
                writer.transport.abort()
            except (OSError, asyncio.IncompleteReadError):
                self.say("no certificate", "closed")

    # -------------------------------------------------------------------------------------------------- envelopes

    async def raw(self, attack: str, body: bytes, path: str = "/v1/exchange") -> None:
        """Send an envelope and note how it was refused."""
        try:
            await self.link._link.exchange(path, [body], response_bytes_max=64 * MIB, timeout_s=60)
        except ShosoinError as error:
            self.say(attack, error.code)
        else:
            self.say(attack, "answered")

    async def giant(self) -> None:
        """Envelopes as long as they may be, and JSON of every kind of size."""
        for header in (
            b"[" * (4 * MIB),
            b'{"a":' * 500_000 + b"1" + b"}" * 500_000,
            b'{"a":' + b"9" * (4 * MIB - 10) + b"}",
            b'{"v":1,"v":1,"ops":[' + b"{}," * 1_000_000 + b"{}]}",
            b'{"a":"' + b"\\ud800" * 600_000 + b'"}',
            b"\xed\xa0\x80" * 1_000_000,
        ):
            await self.raw("giant", len(header).to_bytes(4, "little") + header + bytes(MIB))
        await self.raw("giant", (0xFFFFFFFF).to_bytes(4, "little") + bytes(13 * MIB - 4))
        await self.raw("too long", bytes(14 * MIB))
        await self.raw("giant offer", b'{"keys":["' + b"x" * 16_000 + b'"]}', "/v1/session")

    async def replays(self) -> None:
        """Envelopes of its own and the offer of a session, sent again."""
        await self.channel.exchange([{"op": "inventory", "after": "", "limit": 1}], answer_bytes=0, timeout_s=60)
        for path, body in list(self.link.sent):
            if path == "/v1/exchange":
                await self.raw("replay", body)
                changed = bytearray(body)
                changed[-1] ^= 1
                await self.raw("altered", bytes(changed))

    async def pretends(self) -> None:
        """Envelopes in another owner's name, to another node, of classes that are not its own."""
        ops = [{"op": "inventory", "after": "", "limit": 5}]
        me, node = self.config.owner, self.node
        for class_, from_, to in (
            ("local", self.victim, node),
            ("local", me, node),
            ("its", self.victim, node),
            ("pqc", me, "node-elsewhere"),
            ("none", me, node),
        ):
            header = {"v": 1, "class": class_, "from": from_, "to": to, "ops": ops, "auth": {}}
            await self.raw("pretends", b"".join(join(canonical_json(header), [], b"")))

    # ------------------------------------------------------------------------------------------------- operations

    async def op(self, attack: str, op: dict[str, Any], payload: bytes = b"", answer_bytes: int = 0) -> dict[str, Any]:
        """Run one operation of its own session and note its error."""
        try:
            answer = await self.channel.exchange(
                [op], [payload] if payload else [], answer_bytes=answer_bytes, timeout_s=60
            )
        except ShosoinError as error:
            self.say(attack, error.code)
            return {}
        told = answer.results[0].get("error")
        self.say(attack, told["code"] if told else "done")
        return answer.results[0]

    async def others_objects(self) -> None:
        """Another owner's share, register and names."""
        share = {"object": self.object_id, "version": self.version, "epoch": 0}
        await self.op("others", {"op": "read", **share, "offset": 0, "size": 64}, answer_bytes=64)
        await self.op("others", {"op": "digest", **share, "r": "1" * 32}, answer_bytes=16)
        found = await self.op("others register", {"op": "register", "register": self.object_id})
        if any(found.get(name) for name in ("committed", "accepted")):
            self.say("others register", "leaked")
        listed = await self.op("others listed", {"op": "inventory", "after": "", "limit": 1000})
        if self.object_id in json.dumps(listed):
            self.say("others listed", "leaked")
        erased = await self.op("others erased", {"op": "erase", "object": self.object_id})
        if erased.get("erased"):
            self.say("others erased", "erased")
        await self.op("others", {"op": "abort", **share})

    async def forged(self) -> None:
        """Values nobody signed, certificates of nobody, ballots at the end of the numbers."""
        register = "9" * 32
        await self.op(
            "forged", {"op": "commit", "register": register, "ballot": [1, "x"], "version": "8" * 32, "certificate": []}
        )
        await self.op("forged", {"op": "accept", "register": register, "ballot": [1, "x"], "value": "{}"})
        for ballot in (
            [1 << 40, "x"],
            [(1 << 40) + 1, "x"],
            [0, "x"],
            [1 << 17, "x"],
            [1, ""],
            [1, "x" * 65],
            [1.5, "x"],
            "2",
        ):
            await self.op("ballot", {"op": "prepare", "register": register, "ballot": ballot})
        for digest in ("ab" * 48, "", None):
            op = {"op": "commit", "register": register, "ballot": [1, "x"], "digest": digest}
            await self.op("forged", {**op, "certificate": '{"paths":[],"set":""}'})
        value = await self._own_value()
        for name in ("owner", "signature", "site"):
            outer = json.loads(value)
            outer[name] = outer[name][::-1] if isinstance(outer[name], str) else {"bodies": []}
            op = {"op": "commit", "register": self._own, "ballot": [2, "x"], "value": json.dumps(outer)}
            await self.op("forged", {**op, "certificate": [str(site.name) for site in self.config.sites]})

    async def _own_value(self) -> str:
        answer = await self.channel.exchange([{"op": "register", "register": self._own}], answer_bytes=0, timeout_s=60)
        return str(answer.results[0]["committed"])

    async def prepare(self) -> None:
        """Store an object of its own."""
        receipt = await self.vault.put(BytesSource(b"mine"), "mine", class_="pqc")
        self._own, self._own_version = receipt.object_id, receipt.version

    async def quotas(self) -> None:
        """More bytes than it may have, more unfinished shares, more answers to an audit."""
        share = {"object": "7" * 32, "version": "6" * 32, "epoch": 0}
        await self.op("quota", {"op": "write", **share, "offset": 1 << 45, "size": 16}, bytes(16))
        await self.op("quota", {"op": "write", **share, "offset": 1 << 60, "size": 16}, bytes(16))
        for number in range(17):
            share = {"object": self._own, "version": self._own_version, "epoch": 0}
            await self.op("audits", {"op": "digest", **share, "r": f"{number + 1:032x}"}, answer_bytes=16)
        many = [
            {"op": "write", "object": f"{number:032x}", "version": "5" * 32, "epoch": 0, "offset": 0, "size": 1}
            for number in range(4096)
        ]
        for turn in range(2):
            changed = [{**op, "epoch": turn} for op in many]
            answer = await self.channel.exchange(changed, [bytes(4096)], answer_bytes=0, timeout_s=120)
            codes = {str(result["error"]["code"]) if "error" in result else "done" for result in answer.results}
            self.told.setdefault("stages", []).extend(sorted(codes))


ATTACKS: tuple[Callable[[Attacker], Awaitable[None]], ...] = (
    Attacker.junk_http,
    Attacker.half_closed,
    Attacker.giant,
    Attacker.replays,
    Attacker.pretends,
    Attacker.others_objects,
    Attacker.forged,
    Attacker.quotas,
    Attacker.bare,
    Attacker.slow_loris,
    Attacker.idle,
)


async def attack(config: OwnerConfig, site: str, victim: str, object_id: str, version: str) -> dict[str, list[str]]:
    """Attack one node with everything, one thing after the other."""
    entry = next(each for each in config.sites if each.name == site)
    async with NodeSession(config.certificate, config.key, config.node_ca) as session, open_vault(config) as vault:
        link = RecordingLink(HttpsNodeLink(session, entry.name, entry.node, entry.url, entry.server_name))
        nobody: Any = None  # class pqc draws no keys
        channel = open_channel("pqc", link, owner=config.owner, node=entry.node, home=SiteId("elsewhere"), keys=nobody)
        attacker = Attacker(config, entry.name, OwnerId(victim), object_id, version, link, channel, vault)
        await attacker.prepare()
        for each in ATTACKS:
            await each(attacker)
            sys.stderr.write(f"{each.__name__} is over\n")
        return attacker.told


if __name__ == "__main__":
    made = load_owner_config(Path(sys.argv[1]))
    sys.stdout.write(json.dumps(asyncio.run(attack(made, *sys.argv[2:]))) + "\n")
