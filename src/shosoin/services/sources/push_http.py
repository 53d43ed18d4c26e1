"""The port at which a QKD module delivers key material to a KME: HTTPS with mutual TLS, one device.

``POST /api/v1/push_keys`` with names of ETSI GS QKD 004::

    {"Key_stream_ID": "<UUID>", "keys": [{"index": 0, "Key_buffer": "<base64>"}, ...]}

The answer, 200, says what was not taken and why, one by one; everything else of the request was::

    {"taken": 3, "refused": [{"index": 7, "reason": "duplicate"}]}

The device has a certificate of an authority of its own and is who its certificate says. Bodies, connections and time
are bounded; a device that stops half way is cut off.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from aiohttp import web
from cryptography import x509

from shosoin.base import Denied, PeerFault, Rejected, ShosoinError
from shosoin.services.http_answers import json_response, refusal
from shosoin.services.small_http import SmallHttp
from shosoin.services.sources.config import PushSection
from shosoin.services.tls_listener import TlsListener, listen_tls
from shosoin.services.tls_plane import TlsPlane

__all__ = ["PATH", "PushServer", "PushedKey", "certificate_names", "read_pushed"]

PATH = "/api/v1/push_keys"
_BODY_BYTES_MAX = 1 << 20
_KEYS_MAX = 4096
_KEY_BYTES_MIN, _KEY_BYTES_MAX = 16, 1 << 16
_INDEX_MAX = (1 << 53) - 1
_CONNECTIONS_MAX = 8
_IDLE_S = 30.0
_BODY_S = 10.0


@dataclass(frozen=True, slots=True)
class PushedKey:
    """One piece of key material."""

    index: int
    bits: bytearray = field(repr=False)


Take = Callable[[UUID, Sequence[PushedKey]], Awaitable[list[tuple[int, str]]]]


class PushServer:
    """Listens for one device, on a TLS endpoint that looks after certificates and revocation."""

    def __init__(self, section: PushSection, plane: TlsPlane, take: Take) -> None:
        self._section, self._plane, self._take = section, plane, take
        http = SmallHttp("push", self._told, connections_max=_CONNECTIONS_MAX, idle_s=_IDLE_S, allowed=plane.admit)
        self._guard = http.guard
        self._listener: TlsListener | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            Rejected: the address cannot be used.
        """
        place = self._section
        try:
            listener = await listen_tls(self._guard, self._plane.server_context, place.host, place.port)
        except OSError as err:
            reason = err.strerror or str(err)
            raise Rejected(f"[link.push] cannot listen: {reason}", code="source.cannot_listen") from err
        self._listener = listener

    async def stop(self) -> None:
        """Listen no longer and end every connection."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        await self._guard.end_all()

    async def _told(self, request: web.BaseRequest) -> web.Response:
        try:
            return await self._answer(request)
        except ShosoinError as err:
            status = 401 if isinstance(err, Denied) else 400 if isinstance(err, Rejected | PeerFault) else 503
            return refusal(status, {"message": err.message, "code": err.code})

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        self._check_device(request)
        if (request.method, request.path) != ("POST", PATH):
            raise Rejected(f"only POST {PATH} is defined", code="push.bad_request")
        stream, keys = read_pushed(await _body(request))
        refused = await self._take(stream, keys)
        told = [{"index": index, "reason": reason} for index, reason in refused]
        return json_response(200, {"taken": len(keys) - len(refused), "refused": told})

    def _check_device(self, request: web.BaseRequest) -> None:
        tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
        der = tls.getpeercert(binary_form=True) if tls is not None else None
        if der is None or self._section.device not in certificate_names(der):
            raise Denied("the certificate is not that of the device", code="push.unknown_device")


def certificate_names(der: bytes) -> set[str]:
    """Return the URIs and the subject (RFC 4514) of a certificate, nothing if it does not parse."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = {certificate.subject.rfc4514_string()}
        with suppress(x509.ExtensionNotFound):
            alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            names |= set(alternative.get_values_for_type(x509.UniformResourceIdentifier))
    except (ValueError, x509.InvalidVersion, x509.DuplicateExtension):
        return set()
    return names


def read_pushed(raw: bytes) -> tuple[UUID, list[PushedKey]]:
    """Read the body of a delivery.

    Raises:
        Rejected: it is none, or an index comes twice.
    """
    try:
        loaded = json.loads(raw.decode())
        stream = UUID(loaded["Key_stream_ID"])
        keys = [_key(item) for item in loaded["keys"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _bad("body shall be a JSON object with Key_stream_ID and keys of index and Key_buffer") from None
    if not 1 <= len(keys) <= _KEYS_MAX or not stream.int:
        raise _bad(f"1 to {_KEYS_MAX} keys of a stream, please")
    if len({key.index for key in keys}) < len(keys):
        raise _bad("an index comes twice")
    return stream, keys


def _key(item: Any) -> PushedKey:
    index, encoded = item["index"], item["Key_buffer"]
    if type(index) is not int or not 0 <= index <= _INDEX_MAX or not isinstance(encoded, str):
        raise ValueError("wrong type")
    try:
        bits = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise _bad("Key_buffer shall be base64") from None
    if base64.b64encode(bits) != encoded.encode() or not _KEY_BYTES_MIN <= len(bits) <= _KEY_BYTES_MAX:
        raise _bad(f"Key_buffer shall be whole bytes, {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} of them")
    return PushedKey(index, bytearray(bits))


async def _body(request: web.BaseRequest) -> bytes:
    content = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for chunk in request.content.iter_any():
                content += chunk
                if len(content) > _BODY_BYTES_MAX:
                    raise _bad(f"body shall have at most {_BODY_BYTES_MAX} bytes")
    except TimeoutError:
        raise _bad("the body did not come in time") from None
    except (OSError, web.HTTPException) as err:
        raise _bad("the body broke off") from err
    return bytes(content)


def _bad(message: str) -> Rejected:
    return Rejected(message, code="push.bad_request")
