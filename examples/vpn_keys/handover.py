"""Two SAEs agree on a fresh key again and again: one draws it, the other fetches it, and both use it or neither does.

Over plain TCP, one JSON object a line. The one that *leads* draws 512 bits from its KME: the first half is the key, the
second half proves, by keyed hashes, that whoever answers holds the same bits::

    lead                                    follow
    {"offer": KEY_ID}                 ->    fetches the key at its own KME
                                      <-    {"have": KEY_ID, "proof": ...}
    {"use": KEY_ID, "proof": ...}     ->    puts it into service
                                      <-    {"used": KEY_ID, "proof": ...}
    puts it into service

A key_ID says nothing about its key, so that who listens learns nothing; who interferes can only keep a key from being
used. Where a new key does not come for ``give_up_s``, the old one is put out of service: a tunnel that stays up under a
key of yesterday would be a silent downgrade.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shosoin.adapters.kme_client import KmeClient
from shosoin.base import SaeId, ShosoinError

KEY_BYTES = 32
PATIENCE_S = 10.0
LINE_BYTES_MAX = 4096
WAITING_MAX = 4
"""Connections that the follower keeps: one leader needs one, and whoever else connects shall not fill our memory."""
RETRY_S = 5.0
"""After a round that failed; a key that is drawn in vain is burned, so not at once."""

NOBODYS = "none-"
"""How the ID of a key begins that the other side never gets: it only puts the last one out of service."""

Apply = Callable[[str, bytes], Awaitable[None]]
"""Puts a key into service: its key_ID and 32 bytes."""


class HandoverError(Exception):
    """The other side did not do what was agreed, or is somebody else."""


@dataclass(frozen=True)
class Terms:
    """How often keys change, and how long one may serve."""

    interval_s: float
    give_up_s: float
    rounds: int
    """Keys to agree on before the program ends, 0 for no end."""


class Line:
    """A connection that carries JSON objects."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, **members: str) -> None:
        """Send one object."""
        self.writer.write(json.dumps(members).encode() + b"\n")

    async def hear(self, member: str) -> dict[str, Any]:
        """Return the next object, which must have a text under that name."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await self.reader.readline()
            found = json.loads(line)
        except (OSError, ValueError, TimeoutError, RecursionError) as err:
            raise HandoverError("the other side does not answer") from err
        if not isinstance(found, dict) or not isinstance(found.get(member), str):
            raise HandoverError(f"the other side says no {member!r}")
        return found


class Agreed:
    """The bits behind one key_ID at this side."""

    def __init__(self, key_id: str, bits: bytes) -> None:
        if len(bits) != 2 * KEY_BYTES:
            raise HandoverError(f"the KME gave {len(bits)} bytes, expected {2 * KEY_BYTES}")
        self.key_id, self.key, self._proof_key = key_id, bits[:KEY_BYTES], bits[KEY_BYTES:]

    def proof(self, word: str) -> str:
        """Return what only the holders of these bits can say."""
        content = f"{word} {self.key_id}".encode()
        return blake2b(content, key=self._proof_key, digest_size=16, person=b"handover proof").hexdigest()

    def check(self, said: dict[str, Any], word: str) -> None:
        """Check that the other side holds them, too."""
        proof = said.get("proof")
        right = isinstance(proof, str) and hmac.compare_digest(proof.encode(), self.proof(word).encode())
        if said[word] != self.key_id or not right:
            raise HandoverError("the other side holds another key")


async def lead_once(kme: KmeClient, peer: SaeId, line: Line, apply: Apply) -> str:
    """Agree on one key and put it into service; returns its key_ID."""
    (drawn,) = await kme.enc_keys(peer, number=1, size_bits=16 * KEY_BYTES)
    agreed = Agreed(drawn.key_id, drawn.material.take())
    line.say(offer=agreed.key_id)
    agreed.check(await line.hear("have"), "have")
    line.say(use=agreed.key_id, proof=agreed.proof("use"))
    agreed.check(await line.hear("used"), "used")
    await apply(agreed.key_id, agreed.key)
    return agreed.key_id


async def follow_once(kme: KmeClient, peer: SaeId, line: Line, apply: Apply) -> str:
    """Do the other side's part of one key."""
    key_id = str((await line.hear("offer"))["offer"])
    (fetched,) = await kme.dec_keys(peer, [key_id])
    agreed = Agreed(key_id, fetched.material.take())
    line.say(have=key_id, proof=agreed.proof("have"))
    agreed.check(await line.hear("use"), "use")
    await apply(key_id, agreed.key)
    line.say(used=key_id, proof=agreed.proof("used"))
    return key_id


class Service:
    """Keeps time: what is in service, since when, and when to give it up."""

    def __init__(self, apply: Apply, terms: Terms, name: str) -> None:
        self._apply, self._terms, self._name = apply, terms, name
        self._since_s = time.monotonic()
        self._given_up = False
        self._turn = asyncio.Lock()
        """Two calls at once would write the same files, and the older one might come last."""
        self.rounds = 0

    async def put(self, key_id: str, key: bytes) -> None:
        """Put a key into service."""
        async with self._turn:
            await self._apply(key_id, key)
            self._since_s, self._given_up = time.monotonic(), False
        self.rounds += 1
        self.tell("key", key_id=key_id)

    async def watch(self) -> None:
        """Put the key out of service when it has served too long: nobody can know the one that replaces it."""
        while True:
            await asyncio.sleep(min(1.0, self._terms.give_up_s / 4))
            async with self._turn:
                if not self._given_up and time.monotonic() - self._since_s > self._terms.give_up_s:
                    await self._give_up()

    async def _give_up(self) -> None:
        try:
            await self._apply(NOBODYS + secrets.token_hex(8), secrets.token_bytes(KEY_BYTES))
        except OSError as err:  # the old key serves on: try until it does not
            self.tell("failed", reason=str(err) or type(err).__name__)
        else:
            self._given_up = True
            self.tell("gave_up", after_s=self._terms.give_up_s)

    @property
    def is_done(self) -> bool:
        """Whether as many keys as wanted were put into service."""
        return 0 < self._terms.rounds <= self.rounds

    def tell(self, event: str, **members: object) -> None:
        """Write one line of JSON; never a key."""
        sys.stdout.write(json.dumps({"event": event, "side": self._name, **members}) + "\n")
        sys.stdout.flush()


async def lead(kme: KmeClient, peer: SaeId, place: str, service: Service, terms: Terms) -> None:
    """Offer a key every ``interval_s``."""
    host, _, port = place.rpartition(":")
    while not service.is_done:
        began_s, pause_s = time.monotonic(), terms.interval_s
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_connection(host, int(port), limit=LINE_BYTES_MAX)
            try:
                await lead_once(kme, peer, Line(reader, writer), service.put)
            finally:
                writer.close()
        except (OSError, TimeoutError, HandoverError, ShosoinError) as err:
            service.tell("failed", reason=str(err) or type(err).__name__)
            pause_s = min(terms.interval_s, RETRY_S)
        if not service.is_done:
            await asyncio.sleep(max(0.0, began_s + pause_s - time.monotonic()))


class Waiting:
    """How many connections wait for their turn; refusals are told once, and counted until there is room again."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._number = self._refused = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for one connection.

        Raises:
            HandoverError: all are taken.
        """
        if self._number >= WAITING_MAX:
            if not self._refused:
                self._service.tell("busy", waiting=self._number)
            self._refused += 1
            raise HandoverError(f"{self._number} connections wait already")
        self._number += 1
        try:
            yield
        finally:
            self._number -= 1
            if self._refused:
                self._service.tell("refused", connections=self._refused)
                self._refused = 0


async def follow(kme: KmeClient, peer: SaeId, place: str, service: Service) -> None:
    """Answer offers, one at a time; a few may wait, more are refused."""
    host, _, port = place.rpartition(":")
    done, turn, waiting = asyncio.Event(), asyncio.Lock(), Waiting(service)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with waiting.place():
                await in_turn(reader, writer)
        except HandoverError:
            writer.close()

    async def in_turn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with turn:
                await follow_once(kme, peer, Line(reader, writer), service.put)
                await writer.drain()
        except (OSError, HandoverError, ShosoinError) as err:
            service.tell("failed", reason=str(err) or type(err).__name__)
        finally:
            writer.close()
        if service.is_done:
            done.set()

    async with await asyncio.start_server(answer, host, int(port), limit=LINE_BYTES_MAX, backlog=4):
        await done.wait()


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with what every feeder needs."""
    parser = argparse.ArgumentParser(description=description)
    role = parser.add_mutually_exclusive_group(required=True)
    role.add_argument("--lead", metavar="HOST:PORT", help="draw keys, and offer them there")
    role.add_argument("--follow", metavar="HOST:PORT", help="wait there for offers, and fetch the keys")
    parser.add_argument("--peer", required=True, type=SaeId, help="the other side's SAE ID")
    parser.add_argument("--kme", required=True, help="URL of this side's KME")
    parser.add_argument("--kme-name", required=True, help="its id, as in its certificate")
    for name, what in (("certificate", "this SAE's certificate"), ("key", "its key"), ("ca", "authority of the KME")):
        parser.add_argument(f"--{name}", required=True, type=Path, help=what)
    parser.add_argument("--interval", type=float, default=120.0, metavar="S", help="seconds between keys (120)")
    parser.add_argument(
        "--give-up", type=float, default=0.0, metavar="S", help="no new key for so long: stop (3 times)"
    )
    parser.add_argument("--rounds", type=int, default=0, help="end after so many keys (0: never)")
    return parser


async def run(given: argparse.Namespace, apply: Apply) -> None:
    """Lead or follow until the rounds are over."""
    terms = Terms(given.interval, given.give_up or 3 * given.interval, given.rounds)
    service = Service(apply, terms, "lead" if given.lead else "follow")
    if urlsplit(given.kme).scheme != "https":
        raise SystemExit("error: --kme must be an https URL")
    client = KmeClient(
        given.kme,
        server_name=given.kme_name,
        identity=given.kme_name,
        certificate=given.certificate,
        key=given.key,
        ca=given.ca,
    )
    async with client as kme:
        watch = asyncio.create_task(service.watch())
        try:
            if given.lead:
                await lead(kme, given.peer, given.lead, service, terms)
            else:
                await follow(kme, given.peer, given.follow, service)
        finally:
            watch.cancel()
