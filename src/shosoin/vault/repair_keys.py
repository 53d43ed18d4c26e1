"""Secrets that two nodes share during a repair, and the one-time MACs under them.

The owner relays everything between nodes and sees none of it. Class ``its``: secrets are key-stream bits of the pair.
The node that comes first draws them (``enc_keys``), the other fetches them by their IDs (``dec_keys``), which travel
through the owner in clear; a KME hands out every key once, so no secret is used twice whatever the owner relays.
Classes ``qkd`` and ``pqc``: secrets are AES-256 key streams, one for each use, under what the nodes agreed on with
ML-KEM-768, X25519 and, in ``qkd``, a fresh QKD key, over offers that the owner relays too.

Security: ``its`` rests on the keys alone. ``qkd`` and ``pqc`` rest on computation, and in ``pqc`` the relaying owner is
trusted not to stand in the middle, as it is with the content. Tags: Poly1305 with a fresh key each; forging succeeds
with probability at most 8*ceil(L/16)/2^106 (Bernstein 2005, theorem 3.3).
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.poly1305 import Poly1305

from shosoin.base import Alarm, Entropy, SaeId, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import KeySource, KeySourceFacts
from shosoin.vault.pads import Pad, PadSource, fetch_pad
from shosoin.vault.ports import Buffer
from shosoin.vault.repair_order import MalformedOrder, Party, RepairOrder
from shosoin.vault.session import QKD_KEY_BYTES, SessionOffer, accept_offer, read_offer

__all__ = [
    "TAG_KEY_BYTES",
    "OneTimeSecrets",
    "RepairForged",
    "SessionSecrets",
    "check_tag",
    "open_secrets",
    "tag_of",
]

TAG_KEY_BYTES = 32


class RepairForged(Alarm):
    """What another node is said to have sent fails its one-time MAC: it was altered, or its order is another one."""

    code = "vault.repair_forged"


def tag_of(key: Buffer, *parts: Buffer) -> str:
    """Return the one-time tag of a sequence of texts, as hexadecimal digits."""
    mac = Poly1305(bytes(key))
    for part in parts:
        mac.update(len(part).to_bytes(8, "little"))
        mac.update(part)
    return mac.finalize().hex()


def check_tag(key: Buffer, tag: Any, *parts: Buffer) -> None:
    """Check a one-time tag.

    Raises:
        RepairForged: it does not hold.
    """
    if not hmac.compare_digest(tag_of(key, *parts).encode(), str(tag).encode()):
        raise RepairForged("a message between two nodes failed its authentication")


class OneTimeSecrets:
    """Class ``its``: key-stream bits."""

    def __init__(self, keys: KeySource) -> None:
        self._keys = keys
        self._sources: dict[SaeId, PadSource] = {}

    @property
    def facts(self) -> Counter[KeySourceFacts]:
        """Origins of the keys drawn."""
        return sum((source.facts for source in self._sources.values()), Counter())

    async def give(self, peer: Party, use: str, size_bytes: int) -> Pad:  # every key is fresh
        """Draw keys."""
        source = self._sources.setdefault(peer.node, PadSource(self._keys, peer.node))
        try:
            return await source.draw(size_bytes)
        except Unavailable as error:
            raise _no_keys(peer, error) from error

    async def take(self, peer: Party, use: str, key_ids: list[str], size_bytes: int) -> bytes:
        """Fetch keys; which end is at fault when there are none, the peer or a KME, is not known."""
        try:
            return await fetch_pad(self._keys, peer.node, key_ids, size_bytes)
        except ShosoinError as error:
            raise _no_keys(peer, error) from error


class SessionSecrets:
    """Classes ``qkd`` and ``pqc``: key streams of AES-256 in counter mode, one for each use.

    The node that comes first makes an offer to each of its peers; ``agreed`` and ``accepted`` finish both ends.
    """

    def __init__(self, keys: KeySource, order: RepairOrder, me: Party, entropy: Entropy) -> None:
        self._keys = keys
        self._order = order
        self._me = me
        self._entropy = entropy
        self._offers: dict[SiteId, SessionOffer] = {}
        self._secrets: dict[SiteId, bytes] = {}
        self.facts: Counter[KeySourceFacts] = Counter()

    async def offer(self, peer: Party) -> str:
        """Return an offer to a peer."""
        pad = Pad([], b"")
        if self._order.class_ == "qkd":
            source = PadSource(self._keys, peer.node)
            try:
                pad = await source.draw(QKD_KEY_BYTES)
            except Unavailable as error:
                raise _no_keys(peer, error) from error
            self.facts += source.facts
        offer = SessionOffer(self._order.class_, self._me.node, peer.node, pad.key_ids, pad.content)
        self._offers[peer.site] = offer
        return offer.body.decode()

    async def accepted(self, peer: Party, body: str) -> str:
        """Answer a peer's offer.

        Raises:
            RepairForged: it is no offer of that peer's for this repair.
        """
        if peer.site in self._secrets:
            raise MalformedOrder("a session offer that is not for this repair")
        with _said_by(peer):
            text = body.encode()
            offer = read_offer(text)
        if (offer.get("class"), offer.get("from"), offer.get("to")) != (
            self._order.class_,
            peer.node,
            self._me.node,
        ):
            raise RepairForged(f"{peer.site} is said to have made a session offer that is not for this repair")
        try:
            qkd_key = await fetch_pad(self._keys, peer.node, offer["keys"], QKD_KEY_BYTES) if offer["keys"] else b""
        except ShosoinError as error:
            raise _no_keys(peer, error) from error
        with _said_by(peer):
            keys, answer = accept_offer(text, offer, qkd_key, self._entropy.random_bytes(16).hex())
        self._secrets[peer.site] = keys.exporter
        return answer.decode()

    def agreed(self, peer: Party, answer: str) -> None:
        """Take a peer's answer to our offer."""
        offer = self._offers.pop(peer.site, None)
        if offer is None:
            raise MalformedOrder("an answer to no offer")
        with _said_by(peer):
            self._secrets[peer.site] = offer.finish(answer.encode()).exporter

    async def give(self, peer: Party, use: str, size_bytes: int) -> Pad:
        """Return a key stream; the peer makes the same."""
        return Pad([], self._stream(peer, f"{self._me.site}>{peer.site} {use}", size_bytes))

    async def take(self, peer: Party, use: str, key_ids: list[str], size_bytes: int) -> bytes:
        """Return a key stream."""
        return self._stream(peer, f"{peer.site}>{self._me.site} {use}", size_bytes)

    def _stream(self, peer: Party, use: str, size_bytes: int) -> bytes:
        secret = self._secrets.get(peer.site)
        if secret is None:
            raise Unavailable(f"no secret was agreed on with {peer.site}", code="vault.repair_no_session")
        key = HKDFExpand(SHA384(), 32, f"shosoin repair v1 {use}".encode()).derive(secret)
        return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(size_bytes))


def open_secrets(keys: KeySource, order: RepairOrder, me: Party, entropy: Entropy) -> OneTimeSecrets | SessionSecrets:
    """Return the secrets of a repair by its class."""
    return OneTimeSecrets(keys) if order.class_ == "its" else SessionSecrets(keys, order, me, entropy)


def _no_keys(peer: Party, error: ShosoinError) -> Unavailable:
    retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
    return Unavailable(
        f"no key for {peer.site} ({error.message})", code="vault.repair_no_key", retry_after_s=retry_after_s
    )


@contextmanager
def _said_by(peer: Party) -> Iterator[None]:
    """Take what cannot be read in a peer's words, which somebody else relayed, for a forgery."""
    try:
        yield
    except (ShosoinError, ValueError) as error:
        told = error.message if isinstance(error, ShosoinError) else "it cannot be read"
        raise RepairForged(f"what {peer.site} is said to have sent is no part of this repair ({told})") from None
