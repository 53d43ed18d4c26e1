"""The share node's logic: one site's answers to owners, without sockets or files.

Every request names its owner by the TLS client certificate and, in class ``its``, proves it by a one-time MAC under
keys that only the owner's KME and this site's KME hold. Operations on shares and registers run against the store port;
each answers for itself, so one failing operation does not spoil the others of a batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Denied, Entropy, OwnerId, SaeId, SiteId
from shosoin.base.ports import Clock, Event, EventSink, KeySource, Runtime
from shosoin.vault.attestations import SiteKeys
from shosoin.vault.envelope import MalformedEnvelope, canonical_json, cut, join, parse_json
from shosoin.vault.operations import SiteOperations
from shosoin.vault.pads import fetch_pad
from shosoin.vault.ports import Buffer, SiteStore
from shosoin.vault.quotas import OwnerRecord
from shosoin.vault.sealing import MAC_KEY_BYTES, AeadSeal, LocalSeal, OneTimeSeal, Seal, SealBroken
from shosoin.vault.session import QKD_KEY_BYTES, SessionKeys, accept_offer, read_offer
from shosoin.vault.signing import SiteSigner

__all__ = ["OwnerRecord", "SiteNode"]

_SESSIONS_PER_OWNER_MAX = 64
_WINDOW = 1 << 16
_PAYLOAD_BYTES_MAX = 8 << 20
_KEY_IDS_MAX = 1 << 17


class SessionUnknown(Denied):
    """The session was never agreed here, or the node restarted since."""

    code = "vault.session_unknown"


@dataclass(slots=True)
class _Session:
    keys: SessionKeys
    class_: str
    owner: OwnerId
    highest: int = 0
    seen: set[int] = field(default_factory=set)

    def check(self, number: Any) -> int:
        """Return a message number that may be used; numbers may come out of order within a wide window."""
        if type(number) is not int or not 0 < number < 1 << 62:
            raise MalformedEnvelope("a message number that cannot be read")
        if number in self.seen or number <= self.highest - _WINDOW:
            raise Denied("a message number was used before", code="vault.replay")
        return number

    def use(self, number: int) -> None:
        """Spend a number, once the message under it proved genuine."""
        self.seen.add(number)
        self.highest = max(self.highest, number)
        if len(self.seen) > 2 * _WINDOW:
            self.seen = {kept for kept in self.seen if kept > self.highest - _WINDOW}


class SiteNode:
    """One site's share node."""

    def __init__(
        self,
        site: SiteId,
        node_sae: SaeId,
        owners: Mapping[OwnerId, OwnerRecord],
        store: SiteStore,
        keys: KeySource,
        *,
        entropy: Entropy,
        clock: Clock,
        sink: EventSink,
        runtime: Runtime,
        signer: SiteSigner,
        site_keys: SiteKeys,
    ) -> None:
        self._site = site
        self._sae = node_sae
        self._owners = owners
        self._keys = keys
        self._entropy = entropy
        self._sink = sink
        self._sessions: OrderedDict[str, _Session] = OrderedDict()
        """All sessions, least recently used first; at most 64 of one owner."""
        self._operations = SiteOperations(
            site, store, keys, entropy, clock, runtime, signer=signer, site_keys=site_keys
        )

    def info(self) -> dict[str, Any]:
        """Return what anyone with a certificate may know of this node."""
        return {"site": self._site, "node": self._sae, "protocol": 1}

    async def exchange(self, caller: OwnerId, body: Buffer) -> list[Buffer]:
        """Answer one envelope.

        Raises: ``Denied``, ``Rejected``, ``PeerFault``, ``Alarm`` (``SealBroken``), ``Unavailable`` for the whole
        envelope.
        """
        owner = self._owner(caller)
        parts = cut(body)
        header = parse_json(parts.header)
        if header.get("v") != 1 or header.get("from") != caller or header.get("to") != self._sae:
            raise Denied("the envelope names another owner or another node", code="vault.wrong_party")
        class_, auth = header.get("class"), header.get("auth")
        if not isinstance(class_, str) or not isinstance(auth, dict):
            raise MalformedEnvelope("an envelope without class or auth")
        answer_bytes = _bounded(auth.get("answer", _PAYLOAD_BYTES_MAX), "answer")
        request, answer = await self._seals(owner, class_, auth)
        try:
            payload = request.open(parts.header, parts.sealed)
        except SealBroken:
            self._sink.emit(Event("vault.seal_broken", "alarm", {"site": self._site, "owner": caller}))
            raise
        if class_ in {"qkd", "pqc"}:
            self._sessions[str(auth["session"])].use(auth["number"])
        content, out = await self._operations.run(owner, class_, header.get("ops"), payload, answer_bytes)
        head = canonical_json(content)
        sealed, tag = answer.close(head, out)
        return join(head, sealed, tag)

    async def session(self, caller: OwnerId, body: bytes) -> bytes:
        """Answer a session offer (classes ``qkd`` and ``pqc``)."""
        self._owner(caller)
        offer = read_offer(body)
        if offer.get("from") != caller or offer.get("to") != self._sae:
            raise Denied("the offer names another owner or another node", code="vault.wrong_party")
        qkd_key = await fetch_pad(self._keys, SaeId(caller), offer["keys"], QKD_KEY_BYTES) if offer["keys"] else b""
        keys, answer = accept_offer(body, offer, qkd_key, self._entropy.random_bytes(16).hex())
        self._sessions[keys.session_id] = _Session(keys, offer["class"], caller)
        theirs = [name for name, session in self._sessions.items() if session.owner == caller]
        for name in theirs[:-_SESSIONS_PER_OWNER_MAX]:
            del self._sessions[name]
        return answer

    def _owner(self, caller: OwnerId) -> OwnerRecord:
        try:
            return self._owners[caller]
        except KeyError:
            raise Denied(f"{caller} owns nothing at {self._site}", code="vault.unknown_owner") from None

    async def _seals(self, owner: OwnerRecord, class_: str, auth: dict[str, Any]) -> tuple[Seal, Seal]:
        if class_ == "its":
            return await self._one_time_seals(owner, auth)
        if class_ in {"qkd", "pqc"}:
            return self._session_seals(owner, class_, auth)
        if class_ == "local" and owner.home_site == self._site:
            return LocalSeal(), LocalSeal()
        raise Denied("class local is for the owner's home site alone", code="vault.class_refused")

    async def _one_time_seals(self, owner: OwnerRecord, auth: dict[str, Any]) -> tuple[Seal, Seal]:
        key_ids = auth.get("keys")
        request, answer = _bounded(auth.get("request"), "request"), _bounded(auth.get("answer"), "answer")
        if not isinstance(key_ids, list) or not 0 < len(key_ids) <= _KEY_IDS_MAX:
            raise MalformedEnvelope("an envelope without key_IDs")
        if not all(isinstance(key_id, str) for key_id in key_ids):
            raise MalformedEnvelope("a key_ID that is not text")
        pad = await fetch_pad(self._keys, SaeId(owner.owner), key_ids, 2 * MAC_KEY_BYTES + request + answer)
        cut_at = 2 * MAC_KEY_BYTES + request
        return (
            OneTimeSeal(pad[:MAC_KEY_BYTES], pad[2 * MAC_KEY_BYTES : cut_at]),
            OneTimeSeal(pad[MAC_KEY_BYTES : 2 * MAC_KEY_BYTES], pad[cut_at:]),
        )

    def _session_seals(self, owner: OwnerRecord, class_: str, auth: dict[str, Any]) -> tuple[Seal, Seal]:
        session = self._sessions.get(str(auth.get("session")))
        if session is None or session.owner != owner.owner or session.class_ != class_:
            raise SessionUnknown("no such session at this node")
        self._sessions.move_to_end(session.keys.session_id)
        number = session.check(auth.get("number"))
        return AeadSeal(session.keys.to_node, number), AeadSeal(session.keys.to_owner, number)


def _bounded(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value <= _PAYLOAD_BYTES_MAX:
        raise MalformedEnvelope(f"the {what} length must be 0 to {_PAYLOAD_BYTES_MAX}")
    return value
