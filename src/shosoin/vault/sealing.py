"""How an envelope is protected: one module for all transfer classes, used by both ends.

* ``its``: payload under a one-time pad, header and payload under a one-time Poly1305, all keys from the key stream,
  used once. No assumption on computation.
* ``qkd``: AES-256-GCM under a session key made of a fresh QKD key, ML-KEM-768 and X25519.
* ``pqc``: the same without a QKD key.
* ``local``: inside one site; rests on the site's perimeter (and TLS).

One-time keys are laid out as ``request MAC (32) | answer MAC (32) | request pad | answer pad``.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305

from shosoin.base import Alarm
from shosoin.kernels import new_buffer, xor_into
from shosoin.vault.ports import Buffer

__all__ = ["AeadSeal", "LocalSeal", "OneTimeSeal", "Seal", "SealBroken"]

TAG_BYTES = 16
MAC_KEY_BYTES = 32


class SealBroken(Alarm):
    """A message failed its authentication; nothing of it was used."""

    code = "vault.seal_broken"


class Seal(Protocol):
    """Protects one direction of one exchange."""

    def close(self, header: bytes, payload: list[Buffer]) -> tuple[list[Buffer], bytes]:
        """Return the protected payload and the tag."""
        ...

    def open(self, header: Buffer, sealed: memoryview) -> memoryview:
        """Return the payload in clear; ``sealed`` ends with the tag.

        Raises:
            SealBroken: the same error for every cause.
        """
        ...


class LocalSeal:
    """No protection beyond TLS inside one site."""

    def close(self, header: bytes, payload: list[Buffer]) -> tuple[list[Buffer], bytes]:
        """Return the payload as it is."""
        return payload, b""

    def open(self, header: Buffer, sealed: memoryview) -> memoryview:
        """Return the payload as it is."""
        return sealed


@dataclass(slots=True)
class OneTimeSeal:
    """One-time pad and one-time Poly1305. One instance protects one message.

    Security: information-theoretic; forging succeeds with probability at most 8*ceil(L/16)/2^106 (RFC 8439 keys
    clamped; Bernstein 2005, theorem 3.3). ``mac_key`` and ``pad`` must be fresh.
    """

    mac_key: bytes
    pad: bytes

    def __repr__(self) -> str:
        return "OneTimeSeal(redacted)"

    def close(self, header: bytes, payload: list[Buffer]) -> tuple[list[Buffer], bytes]:
        """Encrypt and authenticate."""
        clear = payload[0] if len(payload) == 1 else b"".join(payload)
        sealed = self._xor(clear)
        return [sealed], self._tag(header, sealed)

    def open(self, header: Buffer, sealed: memoryview) -> memoryview:
        """Authenticate, then decrypt."""
        payload, tag = sealed[:-TAG_BYTES], bytes(sealed[-TAG_BYTES:])
        if not hmac.compare_digest(self._tag(header, payload), tag):
            raise SealBroken("a message failed its authentication")
        return self._xor(payload)

    def _xor(self, data: Buffer) -> memoryview:
        if len(data) > len(self.pad):  # what a peer sends may be longer than was agreed
            raise SealBroken("a message failed its authentication")
        out = new_buffer(len(data))
        xor_into(data, memoryview(self.pad)[: len(data)], out)
        return out

    def _tag(self, header: Buffer, sealed: Buffer) -> bytes:
        mac = Poly1305(self.mac_key)
        mac.update(len(header).to_bytes(8, "little"))
        mac.update(header)
        mac.update(sealed)
        return mac.finalize()


@dataclass(slots=True)
class AeadSeal:
    """AES-256-GCM with a number that never repeats under its key.

    Security: computational; nonce = number, unique per key and direction.
    """

    key: AESGCM
    number: int

    def close(self, header: bytes, payload: list[Buffer]) -> tuple[list[Buffer], bytes]:
        """Encrypt and authenticate."""
        clear = payload[0] if len(payload) == 1 else b"".join(payload)
        sealed = memoryview(self.key.encrypt(self._nonce(), clear, header))
        return [sealed[:-TAG_BYTES]], bytes(sealed[-TAG_BYTES:])

    def open(self, header: Buffer, sealed: memoryview) -> memoryview:
        """Authenticate and decrypt."""
        try:
            return memoryview(self.key.decrypt(self._nonce(), sealed, bytes(header)))
        except InvalidTag:
            raise SealBroken("a message failed its authentication") from None

    def _nonce(self) -> bytes:
        return self.number.to_bytes(12, "little")
