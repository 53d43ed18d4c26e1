"""A token (PKCS#11) as the source of the wrapping key: the key-encryption key never leaves it.

The token holds an AES key. It wraps 32 random bytes, the wrapping key, once; what it wrapped lies in the envelope,
and at each start the token unwraps it again. Of three mechanisms the first that the token offers is used, and the
envelope says which: AES-GCM, AES key wrap (RFC 3394), AES-CBC with padding. Only the first two authenticate by
themselves; the envelope authenticates in every case.

Security: whoever has the token, its PIN and the envelope has the storage key, and a running KME holds the storage key
in memory. Taken alone, the disk is worth nothing. A key that the token would give away is not accepted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from shosoin.adapters.private_files import read_private
from shosoin.adapters.storage_keys import KEY_BYTES, BadStorageKey
from shosoin.base import Denied, Rejected, ShosoinError, Unavailable

__all__ = ["MECHANISMS", "TokenKey"]

MECHANISMS = ("aes-gcm", "aes-key-wrap", "aes-cbc-pad")
"""In order of preference."""
_IV_BYTES = {"aes-gcm": 12, "aes-key-wrap": 0, "aes-cbc-pad": 16}
_TAG_BITS = 128
_PIN_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class TokenKey:
    """An AES key of a token.

    Args:
        module: the PKCS#11 library of the token's maker.
        token: label of the token.
        serial: its serial number, where labels are not unique; else empty.
        key: label of the AES key.
        pin_file: private file with the user PIN.
        mechanism: one of ``MECHANISMS``, or empty for the first that the token offers.
        context: what the wrapped bytes belong to; authenticated by the token where its mechanism can.
    """

    module: Path
    token: str
    key: str
    pin_file: Path
    context: bytes
    serial: str = ""
    mechanism: str = ""
    source: str = "pkcs11"

    def new(self) -> tuple[dict[str, Any], bytes]:
        """Return what the token wrapped, and the wrapping key."""
        secret = os.urandom(KEY_BYTES)
        with self._key() as (key, offered):
            mechanism = self.mechanism or next(iter(offered), "")
            if mechanism not in offered:
                wanted = mechanism or " or ".join(MECHANISMS)
                raise Rejected(f"token {self.token} does not offer {wanted}", code="store.no_mechanism")
            iv = os.urandom(_IV_BYTES[mechanism])
            wrapped = _wrap(key, mechanism, iv, self.context, secret)
        return {"mechanism": mechanism, "iv": iv.hex(), "wrapped": wrapped.hex()}, secret

    def again(self, parameters: Mapping[str, Any]) -> bytes:
        """Return the wrapping key that the token wrapped."""
        mechanism, iv, wrapped = _read(parameters)
        with self._key() as (key, offered):
            if mechanism not in offered:
                raise Rejected(f"token {self.token} does not offer {mechanism}", code="store.no_mechanism")
            try:
                secret = _unwrap(key, mechanism, iv, self.context, wrapped)
            except _pkcs11().PKCS11Error as err:
                _reraise_if_gone(err)
                raise BadStorageKey(f"key {self.key} of token {self.token} does not open the envelope") from err
        if len(secret) != KEY_BYTES:
            raise BadStorageKey(f"key {self.key} of token {self.token} does not open the envelope")
        return secret

    def make_key(self) -> None:
        """Make the AES key on the token: 256 bits, sensitive, not extractable.

        Raises:
            Rejected: there is one with that label, or the token makes no such keys.
        """
        pkcs11 = _pkcs11()
        attribute = pkcs11.Attribute
        template = {attribute.EXTRACTABLE: False, attribute.SENSITIVE: True}
        with _told(self.token), self._token(pkcs11).open(rw=True, user_pin=self._pin()) as session:
            if self._keys(pkcs11, session):
                raise Rejected(f"token {self.token} has a key {self.key!r} already", code="store.token_key_exists")
            session.generate_key(pkcs11.KeyType.AES, 8 * KEY_BYTES, label=self.key, store=True, template=template)

    @contextlib.contextmanager
    def _key(self) -> Iterator[tuple[Any, list[str]]]:
        """Log in, find the key, and log out after; yield the key and the mechanisms that the token offers."""
        pkcs11 = _pkcs11()
        with _told(self.token):
            token = self._token(pkcs11)
            offered = [name for name in MECHANISMS if _mechanism(name) in token.slot.get_mechanisms()]
            with token.open(user_pin=self._pin()) as session:
                key = self._only_key(pkcs11, session)
                self._check_strong(pkcs11, key)
                yield key, offered

    def _check_strong(self, pkcs11: ModuleType, key: Any) -> None:
        bits = 8 * key[pkcs11.Attribute.VALUE_LEN]
        leaves = key[pkcs11.Attribute.EXTRACTABLE] or not key[pkcs11.Attribute.SENSITIVE]
        if leaves or bits != 8 * KEY_BYTES:
            what = f"would give key {self.key} away" if leaves else f"has key {self.key} of {bits} bits"
            raise Rejected(
                f"token {self.token} {what}",
                code="store.token_key_unsafe",
                hint="make it anew: AES of 256 bits, sensitive, not extractable",
            )

    def _only_key(self, pkcs11: ModuleType, session: Any) -> Any:
        found = self._keys(pkcs11, session)
        if len(found) != 1:
            code = "store.token_key_ambiguous" if found else "store.no_token_key"
            raise Rejected(f"token {self.token} has {len(found)} AES keys labelled {self.key!r}, expected 1", code=code)
        return found[0]

    def _keys(self, pkcs11: ModuleType, session: Any) -> list[Any]:
        attribute = pkcs11.Attribute
        marks = {
            attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY,
            attribute.KEY_TYPE: pkcs11.KeyType.AES,
            attribute.LABEL: self.key,
        }
        return list(session.get_objects(marks))

    def _token(self, pkcs11: ModuleType) -> Any:
        marks = {"token_label": self.token, **({"token_serial": self.serial.encode()} if self.serial else {})}
        return self._library(pkcs11).get_token(**marks)

    def _library(self, pkcs11: ModuleType) -> Any:
        try:
            return pkcs11.lib(str(self.module))
        except (RuntimeError, OSError) as err:
            raise Rejected(f"{self.module} is no PKCS#11 module that can be loaded", code="store.bad_module") from err

    def _pin(self) -> str:
        pin = read_private(self.pin_file, "[kme.storage_key] pin_file", bytes_max=_PIN_BYTES_MAX).strip()
        try:
            return pin.decode()
        except UnicodeDecodeError as err:
            raise Rejected(f"the PIN in {self.pin_file} is not text", code="store.bad_pin") from err


def _pkcs11() -> ModuleType:
    try:
        import pkcs11  # noqa: PLC0415  # an extra: most operators have no token
    except ImportError as err:
        raise Rejected(
            "a storage key on a token needs python-pkcs11",
            code="store.extra_missing",
            hint="pip install 'shosoin[pkcs11]'",
        ) from err
    return pkcs11


def _mechanism(name: str) -> Any:
    mechanism = _pkcs11().Mechanism
    return {
        "aes-gcm": mechanism.AES_GCM,
        "aes-key-wrap": mechanism.AES_KEY_WRAP,
        "aes-cbc-pad": mechanism.AES_CBC_PAD,
    }[name]


def _parameter(mechanism: str, iv: bytes, context: bytes) -> Any:
    return _pkcs11().GCMParams(iv, context, _TAG_BITS) if mechanism == "aes-gcm" else iv


def _wrap(key: Any, mechanism: str, iv: bytes, context: bytes, secret: bytes) -> bytes:
    if mechanism != "aes-key-wrap":
        parameter = _parameter(mechanism, iv, context)
        return bytes(key.encrypt(secret, mechanism=_mechanism(mechanism), mechanism_param=parameter))
    # Key wrap works on objects of the token only: one that lives as long as the session.
    pkcs11 = _pkcs11()
    what = {pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY, pkcs11.Attribute.VALUE: secret}
    return bytes(key.wrap_key(key.session.create_object({**what, **_passing(pkcs11)}), mechanism=_mechanism(mechanism)))


def _unwrap(key: Any, mechanism: str, iv: bytes, context: bytes, wrapped: bytes) -> bytes:
    if mechanism != "aes-key-wrap":
        parameter = _parameter(mechanism, iv, context)
        return bytes(key.decrypt(wrapped, mechanism=_mechanism(mechanism), mechanism_param=parameter))
    pkcs11 = _pkcs11()
    passing = _passing(pkcs11)
    unwrapped = key.unwrap_key(
        pkcs11.ObjectClass.SECRET_KEY,
        passing.pop(pkcs11.Attribute.KEY_TYPE),
        wrapped,
        mechanism=_mechanism(mechanism),
        store=False,
        template=passing,
    )
    return bytes(unwrapped[pkcs11.Attribute.VALUE])


def _passing(pkcs11: ModuleType) -> dict[Any, Any]:
    """Return the attributes of an object that only passes through the token."""
    attribute = pkcs11.Attribute
    return {
        attribute.KEY_TYPE: pkcs11.KeyType.GENERIC_SECRET,
        attribute.TOKEN: False,
        attribute.EXTRACTABLE: True,
        attribute.SENSITIVE: False,
    }


def _read(parameters: Mapping[str, Any]) -> tuple[str, bytes, bytes]:
    try:
        mechanism = parameters["mechanism"]
        iv, wrapped = bytes.fromhex(parameters["iv"]), bytes.fromhex(parameters["wrapped"])
        if len(parameters) != 3 or len(iv) != _IV_BYTES[mechanism]:
            raise ValueError("other names or lengths")
    except (KeyError, TypeError, ValueError) as err:
        raise BadStorageKey("the envelope's parameters belong to another source of keys") from err
    return mechanism, iv, wrapped


@contextlib.contextmanager
def _told(token: str) -> Iterator[None]:
    """Say what a token's errors mean; nothing is tried twice, since tokens count wrong PINs."""
    try:
        yield
    except ShosoinError:
        raise
    except _pkcs11().PKCS11Error as err:
        raise _meaning(err, token) from err


def _meaning(err: Exception, token: str) -> ShosoinError:
    name = type(err).__name__
    if name in {"PinIncorrect", "PinInvalid", "PinLenRange", "PinExpired", "UserPinNotInitialized"}:
        hint = "correct the PIN file before another start: tokens lock themselves after a few wrong PINs"
        return Denied(f"token {token} does not accept the PIN", code="store.bad_pin", hint=hint)
    if name == "PinLocked":
        return Denied(f"token {token} is locked after too many wrong PINs", code="store.pin_locked")
    if name == "MultipleTokensReturned":
        hint = "name its serial number: token_serial in [kme.storage_key]"
        return Rejected(f"several tokens are labelled {token!r}", code="store.token_ambiguous", hint=hint)
    if name == "NoSuchToken":
        return Unavailable(f"there is no token labelled {token!r}", code="store.no_token", hint="is it plugged in?")
    return Unavailable(f"token {token} failed: {name}", code="store.token_failed")


_GONE = {"DeviceError", "DeviceRemoved", "TokenNotPresent", "SessionHandleInvalid", "SessionClosed", "DeviceMemory"}


def _reraise_if_gone(err: Exception) -> None:
    """Let a token that went away be told from one that refuses."""
    if type(err).__name__ in _GONE:
        raise err
