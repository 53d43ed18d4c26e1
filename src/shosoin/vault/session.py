"""Agreeing on a session key between an owner and a share node (classes ``qkd`` and ``pqc``).

One round: the owner sends a fresh ML-KEM-768 key, a fresh X25519 key and, in class ``qkd``, the IDs of freshly drawn
QKD keys; the node answers with a ciphertext and its own X25519 key. All secrets are concatenated, each with its
length, and go through HKDF-SHA384 over the transcript: the result stays secret while any one of them does. Mutual TLS
outside authenticates both ends; the ephemeral keys give forward secrecy.

Source: concatenation combiner as in ETSI TS 103 744 (CatKDF), with our own labels; FIPS 203; RFC 7748; RFC 5869.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from hashlib import sha384
from typing import Any

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shosoin.vault.envelope import MalformedEnvelope, canonical_json, parse_json
from shosoin.vault.sealing import SealBroken

__all__ = ["QKD_KEY_BYTES", "SessionKeys", "SessionOffer", "accept_offer", "read_offer"]

QKD_KEY_BYTES = 32
_LABEL = b"shosoin vault session v1"


@dataclass(slots=True)
class SessionKeys:
    """AES-256-GCM keys of one session, one per direction."""

    session_id: str
    to_node: AESGCM
    to_owner: AESGCM
    exporter: bytes
    """32 more secret bytes, for other uses than messages of the session (see ``repair_keys``)."""

    def __repr__(self) -> str:
        return f"SessionKeys({self.session_id}, redacted)"


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(value: Any, size_bytes: int) -> bytes:
    try:
        raw = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        raw = b""
    if len(raw) != size_bytes:
        raise MalformedEnvelope(f"a session field does not hold {size_bytes} bytes")
    return raw


def _derive(secrets: list[bytes], transcript: bytes, session_id: str) -> tuple[SessionKeys, bytes]:
    material = b"".join(len(secret).to_bytes(4, "little") + secret for secret in secrets)
    okm = HKDF(SHA384(), 128, salt=sha384(transcript).digest(), info=_LABEL).derive(material)
    return SessionKeys(session_id, AESGCM(okm[:32]), AESGCM(okm[32:64]), okm[96:]), okm[64:96]


def _confirmation(key: bytes, transcript: bytes) -> bytes:
    return hmac.digest(key, transcript, "sha384")


class SessionOffer:
    """The owner's half: make an offer, then finish with the node's answer."""

    def __init__(self, class_: str, owner: str, node: str, key_ids: list[str], qkd_key: bytes) -> None:
        self._kem = MLKEM768PrivateKey.generate()
        self._dh = X25519PrivateKey.generate()
        self._qkd_key = qkd_key
        self.body = canonical_json(
            {
                "v": 1,
                "class": class_,
                "from": owner,
                "to": node,
                "keys": key_ids,
                "mlkem": _b64(self._kem.public_key().public_bytes_raw()),
                "x25519": _b64(self._dh.public_key().public_bytes_raw()),
            }
        )

    def finish(self, answer: bytes) -> SessionKeys:
        """Return the session keys.

        Raises:
            SealBroken: the node did not derive the same keys.
            MalformedEnvelope: the answer cannot be read.
        """
        value = parse_json(answer)
        session_id = value.get("session")
        if not isinstance(session_id, str) or len(session_id) != 32:
            raise MalformedEnvelope("a session answer without an identifier")
        ciphertext, peer = _unb64(value.get("mlkem"), 1088), _unb64(value.get("x25519"), 32)
        transcript = _transcript(self.body, session_id, ciphertext, peer)
        try:
            exchanged = self._dh.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError:  # a point of low order
            raise MalformedEnvelope("an X25519 key that cannot be used") from None
        secrets = [self._qkd_key, self._kem.decapsulate(ciphertext), exchanged]
        keys, confirm_key = _derive(secrets, transcript, session_id)
        if not hmac.compare_digest(_confirmation(confirm_key, transcript), _unb64(value.get("confirm"), 48)):
            raise SealBroken("the node did not confirm the session key")
        return keys


def _transcript(offer: bytes, session_id: str, ciphertext: bytes, public: bytes) -> bytes:
    return len(offer).to_bytes(8, "little") + offer + session_id.encode() + ciphertext + public


def read_offer(body: bytes) -> dict[str, Any]:
    """Read an offer at the node: class, names and key_IDs. Key shares are checked by ``accept_offer``."""
    value = parse_json(body)
    ids = value.get("keys")
    if value.get("v") != 1 or value.get("class") not in ("qkd", "pqc") or not isinstance(ids, list):
        raise MalformedEnvelope("a session offer of an unknown form")
    if not all(isinstance(key_id, str) and len(key_id) <= 64 for key_id in ids) or len(ids) > 64:
        raise MalformedEnvelope("a session offer with unreadable key_IDs")
    if bool(ids) != (value["class"] == "qkd"):
        raise MalformedEnvelope("class qkd takes QKD keys, class pqc takes none")
    return value


def accept_offer(body: bytes, offer: dict[str, Any], qkd_key: bytes, session_id: str) -> tuple[SessionKeys, bytes]:
    """Return the session keys and the answer to send (node's half)."""
    encapsulation_key, peer = _unb64(offer.get("mlkem"), 1184), _unb64(offer.get("x25519"), 32)
    private = X25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    try:
        shared, ciphertext = MLKEM768PublicKey.from_public_bytes(encapsulation_key).encapsulate()
        exchanged = private.exchange(X25519PublicKey.from_public_bytes(peer))
    except ValueError:
        raise MalformedEnvelope("a session offer with keys that cannot be used") from None
    transcript = _transcript(body, session_id, ciphertext, public)
    keys, confirm_key = _derive([qkd_key, shared, exchanged], transcript, session_id)
    answer = canonical_json(
        {
            "session": session_id,
            "mlkem": _b64(ciphertext),
            "x25519": _b64(public),
            "confirm": _b64(_confirmation(confirm_key, transcript)),
        }
    )
    return keys, answer
