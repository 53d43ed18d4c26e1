"""The owner's channel to one share node: exchange operations under a transfer class.

An exchange sends a list of operations with a payload and returns a list of results with a payload. The channel adds
the seal of its class; retries, hedging and quorums are decided above it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shosoin.base import Denied, OwnerId, PeerFault, SaeId, SiteId
from shosoin.base.foreign_text import printable_text
from shosoin.base.ports import KeySource, KeySourceFacts
from shosoin.vault.envelope import cut, join, parse_json, request_header
from shosoin.vault.pads import Pad, PadSource
from shosoin.vault.ports import Buffer, NodeLink
from shosoin.vault.sealing import MAC_KEY_BYTES, TAG_BYTES, AeadSeal, LocalSeal, OneTimeSeal, Seal
from shosoin.vault.session import QKD_KEY_BYTES, SessionKeys, SessionOffer

__all__ = ["Answer", "Channel", "open_channel", "told_error"]

EXCHANGE_PATH = "/v1/exchange"
SESSION_PATH = "/v1/session"
_RESULTS_BYTES_MAX = 4 << 20
TIMEOUT_S = 15.0
"""For an exchange that moves little; long ones add to it."""
_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
_CODE_CHARACTERS_MAX = 64


@dataclass(slots=True)
class Answer:
    """What a node answered: one result per operation and the payload they refer to."""

    results: list[dict[str, Any]]
    payload: memoryview
    header: Mapping[str, Any] = field(default_factory=dict)
    """What else the answer's header says: signatures that results refer to."""


class Channel(Protocol):
    """One site under one transfer class."""

    @property
    def site(self) -> SiteId:
        """The site."""
        ...

    @property
    def mechanism(self) -> str:
        """How payloads travel, in words for the label."""
        ...

    @property
    def bits_used(self) -> int:
        """Key bits drawn so far."""
        ...

    @property
    def facts(self) -> Counter[KeySourceFacts]:
        """Origins of the keys drawn so far, with how many keys of each."""
        ...

    async def exchange(
        self,
        operations: Sequence[dict[str, Any]],
        payload: Sequence[Buffer] = (),
        *,
        answer_bytes: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Send operations and return the answer.

        ``answer_bytes`` is the payload length that the answer may have at most (a pad is drawn for it in ``its``).

        Raises: ``Unavailable``, ``Denied``, ``PeerFault``, ``Alarm`` for the whole exchange; failures of single
        operations are in their results.
        """
        ...

    async def draw(self, size_bytes: int) -> Pad | None:
        """Draw key bits to serve as a share, or ``None`` where the class cannot."""
        ...


class _Base:
    """What all channels share: counting, framing, reading the answer."""

    mechanism = ""

    def __init__(self, link: NodeLink, owner: OwnerId, node: SaeId, pads: PadSource | None) -> None:
        self._link = link
        self._owner = owner
        self._node = node
        self._pads = pads

    @property
    def site(self) -> SiteId:
        return self._link.site

    @property
    def bits_used(self) -> int:
        return self._pads.bits_used if self._pads else 0

    @property
    def facts(self) -> Counter[KeySourceFacts]:
        return Counter(self._pads.facts) if self._pads else Counter()

    async def draw(self, size_bytes: int) -> Pad | None:
        return None

    def _header(self, class_: str, operations: Sequence[dict[str, Any]], auth: dict[str, Any]) -> bytes:
        return request_header(class_, self._owner, self._node, operations, auth)

    async def _send(
        self, header: bytes, payload: Sequence[Buffer], seals: tuple[Seal, Seal], answer_bytes: int, timeout_s: float
    ) -> Answer:
        sealed, tag = seals[0].close(header, list(payload))
        limit = answer_bytes + _RESULTS_BYTES_MAX + TAG_BYTES
        raw = await self._link.exchange(
            EXCHANGE_PATH, join(header, sealed, tag), response_bytes_max=limit, timeout_s=timeout_s
        )
        parts = cut(raw)
        clear = seals[1].open(parts.header, parts.sealed)
        head = parse_json(parts.header)
        results = head.get("results")
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise PeerFault(f"{self.site} answered without results", code="vault.malformed_answer")
        if len(clear) > answer_bytes:
            raise PeerFault(f"{self.site} answered {len(clear)} bytes, expected at most {answer_bytes}")
        return Answer(results, clear, head)


class LocalChannel(_Base):
    """To the node of the owner's own site; rests on the site's perimeter."""

    mechanism = "local"

    async def exchange(
        self,
        operations: Sequence[dict[str, Any]],
        payload: Sequence[Buffer] = (),
        *,
        answer_bytes: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Send without a further seal."""
        header = self._header("local", operations, {})
        return await self._send(header, payload, (LocalSeal(), LocalSeal()), answer_bytes, timeout_s)


class OneTimeChannel(_Base):
    """Class ``its``: every exchange under its own one-time keys."""

    mechanism = "one-time pad"

    async def exchange(
        self,
        operations: Sequence[dict[str, Any]],
        payload: Sequence[Buffer] = (),
        *,
        answer_bytes: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Draw one-time keys, send, verify the answer under them."""
        assert self._pads is not None  # noqa: S101  # fixed at construction
        request_bytes = sum(len(part) for part in payload)
        pad = await self._pads.draw(2 * MAC_KEY_BYTES + request_bytes + answer_bytes)
        content = memoryview(pad.content)
        request = OneTimeSeal(
            bytes(content[:MAC_KEY_BYTES]), bytes(content[2 * MAC_KEY_BYTES : 2 * MAC_KEY_BYTES + request_bytes])
        )
        answer = OneTimeSeal(
            bytes(content[MAC_KEY_BYTES : 2 * MAC_KEY_BYTES]), bytes(content[2 * MAC_KEY_BYTES + request_bytes :])
        )
        auth = {"keys": pad.key_ids, "request": request_bytes, "answer": answer_bytes}
        header = self._header("its", operations, auth)
        return await self._send(header, payload, (request, answer), answer_bytes, timeout_s)

    async def draw(self, size_bytes: int) -> Pad | None:
        """Draw key bits that become a share."""
        assert self._pads is not None  # noqa: S101  # fixed at construction
        return await self._pads.draw(size_bytes)


class SessionChannel(_Base):
    """Classes ``qkd`` and ``pqc``: AES-256-GCM under a session agreed on first use."""

    def __init__(self, class_: str, link: NodeLink, owner: OwnerId, node: SaeId, pads: PadSource | None) -> None:
        super().__init__(link, owner, node, pads)
        self._class = class_
        self._keys: SessionKeys | None = None
        self._number = 0
        self.mechanism = (
            "AES-256-GCM under a QKD key with ML-KEM-768 and X25519"
            if class_ == "qkd"
            else "AES-256-GCM under ML-KEM-768 and X25519"
        )

    async def exchange(
        self,
        operations: Sequence[dict[str, Any]],
        payload: Sequence[Buffer] = (),
        *,
        answer_bytes: int = 0,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Send under the session; agree on a new one if the node forgot it (restart)."""
        try:
            return await self._attempt(operations, payload, answer_bytes, timeout_s)
        except Denied as denied:
            if denied.code != "vault.session_unknown":
                raise
            self._keys = None
            return await self._attempt(operations, payload, answer_bytes, timeout_s)

    async def _attempt(
        self, operations: Sequence[dict[str, Any]], payload: Sequence[Buffer], answer_bytes: int, timeout_s: float
    ) -> Answer:
        keys = self._keys or await self._agree(timeout_s)
        self._number += 1
        seals = AeadSeal(keys.to_node, self._number), AeadSeal(keys.to_owner, self._number)
        auth = {"session": keys.session_id, "number": self._number, "answer": answer_bytes}
        return await self._send(self._header(self._class, operations, auth), payload, seals, answer_bytes, timeout_s)

    async def _agree(self, timeout_s: float) -> SessionKeys:
        pad = await self._pads.draw(QKD_KEY_BYTES) if self._pads else None
        offer = SessionOffer(
            self._class, self._owner, self._node, pad.key_ids if pad else [], pad.content if pad else b""
        )
        raw = await self._link.exchange(SESSION_PATH, [offer.body], response_bytes_max=16384, timeout_s=timeout_s)
        keys = offer.finish(raw)
        self._keys, self._number = keys, 0
        return keys


def told_error(raw: Any) -> tuple[str, str]:
    """Return code and message of an error that a site put into a result, fit to be shown."""
    told = raw if isinstance(raw, dict) else {}
    code = told.get("code")
    known = isinstance(code, str) and len(code) <= _CODE_CHARACTERS_MAX and _CODE.fullmatch(code)
    return str(code) if known else "vault.site_error", printable_text(told.get("message"))


def open_channel(class_: str, link: NodeLink, *, owner: OwnerId, node: SaeId, home: SiteId, keys: KeySource) -> Channel:
    """Return the channel of a class to a site; the owner's home site is always ``local``."""
    if link.site == home:
        return LocalChannel(link, owner, node, None)
    if class_ == "its":
        return OneTimeChannel(link, owner, node, PadSource(keys, node))
    return SessionChannel(class_, link, owner, node, PadSource(keys, node) if class_ == "qkd" else None)
