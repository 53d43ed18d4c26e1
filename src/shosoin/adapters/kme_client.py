"""Client of any vendor's KME through ETSI GS QKD 014.

Nothing here depends on the KME being ours: sizes, counts, identifiers and order of every answer are checked, and an
answer that does not add up is a ``PeerFault``. Calls are never repeated here: a lost reply to ``enc_keys`` or
``dec_keys`` has burned the keys, and only the caller knows whether to draw others. If the KME declares the source of
its bits (``shosoin_source``), the keys carry it; otherwise their source is *undeclared*.

Use::

    async with KmeClient(url, server_name="kme-a", identity="kme-a", certificate=cert, key=key, ca=ca) as kme:
        keys = await kme.enc_keys(SaeId("sae-b"), number=2, size_bits=256)
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import re
import ssl
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import aiohttp

from shosoin.adapters.key_exchange import KeyExchange, client_context_by
from shosoin.adapters.tls import Identity, certificate_alert, describe, reason_of, require_peer
from shosoin.base import Denied, KeyMaterial, PeerFault, Rejected, SaeId, ShosoinError, Unavailable
from shosoin.base.foreign_text import printable_text
from shosoin.base.ports import UNDECLARED, DeliveredKey, KeySourceFacts, KeyStatus

__all__ = ["KmeClient"]

_KEY_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_KIND = re.compile(r"[\x20-\x7e]{1,64}")
"""It goes into labels, which people read."""
_ANSWER_BYTES_SPARE = 1 << 16
_NO_FILE = Path()


class KmeClient:
    """``KeySource`` over HTTPS with mutual TLS; keeps its connections while the context is open.

    Args:
        url: ``https://host:port`` of the KME.
        server_name: DNS name that the KME's certificate must carry.
        identity: KME id that the certificate must carry as well (``urn:shosoin:kme:<id>``); ``None`` for KMEs of
            others, whose certificates do not know our names.
        key_exchange: of the TLS connections; ``tls["group"]`` tells what came of it.
        context: of TLS, made elsewhere; else certificate, key and authorities are read from files.
        admit: asked of each new connection, before anything is sent on it, whether it may be used.
    """

    def __init__(
        self,
        url: str,
        *,
        server_name: str,
        certificate: Path = _NO_FILE,
        key: Path = _NO_FILE,
        ca: Path = _NO_FILE,
        identity: str | None = None,
        timeout_s: float = 30.0,
        key_exchange: KeyExchange = KeyExchange.CLASSICAL,
        context: ssl.SSLContext | None = None,
        admit: Callable[[asyncio.BaseTransport], bool] = lambda _: True,
    ) -> None:
        if urlsplit(url).scheme != "https":
            raise Rejected(f"KME address must start with https://, got {url!r}", code="kme_client.bad_url")
        self._base = f"{url.rstrip('/')}/api/v1/keys"
        self._server_name = server_name
        self._identity = identity
        self._context = context or client_context_by(key_exchange, certificate, key, ca)
        self._admit = admit
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=min(10.0, timeout_s))
        self._session: aiohttp.ClientSession | None = None
        self.tls: dict[str, Any] = {}
        """Protocol version, cipher and group of the latest connection."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=_CheckedConnector(self._check_server, ssl=self._context, limit=32),
            timeout=self._timeout,
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def status(self, slave: SaeId) -> KeyStatus:
        """Return what the KME holds for keys shared with ``slave``."""
        answer = await self._call("GET", slave, "status", None, _ANSWER_BYTES_SPARE)
        try:
            return KeyStatus(
                source_kme_id=_text(answer, "source_KME_ID"),
                target_kme_id=_text(answer, "target_KME_ID"),
                master_sae_id=_text(answer, "master_SAE_ID"),
                slave_sae_id=_text(answer, "slave_SAE_ID"),
                key_size_bits=_count(answer, "key_size"),
                stored_key_count=_count(answer, "stored_key_count"),
                max_key_count=_count(answer, "max_key_count"),
                max_key_per_request=_count(answer, "max_key_per_request"),
                max_key_size_bits=_count(answer, "max_key_size"),
                min_key_size_bits=_count(answer, "min_key_size"),
                max_sae_id_count=_count(answer, "max_SAE_ID_count"),
                extension=_object(answer.get("status_extension") or {}),
            )
        except (KeyError, TypeError) as err:
            raise PeerFault("the KME's status lacks a member or has one of the wrong type") from err

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        """Draw ``number`` fresh keys of ``size_bits`` shared with ``slave``."""
        request = {"number": number, "size": size_bits}
        most = _ANSWER_BYTES_SPARE + number * (size_bits // 4 + 1024)
        keys = self._keys(await self._call("POST", slave, "enc_keys", request, most))
        if len(keys) != number or any(key.material.size_bytes * 8 != size_bits for key in keys):
            raise PeerFault(f"asked for {number} keys of {size_bits} bits, the KME delivered something else")
        if len({key.key_id for key in keys}) < number:
            raise PeerFault("the KME delivered one key_ID twice")
        return keys

    async def dec_keys(
        self, master: SaeId, key_ids: Sequence[str], *, size_bits: int | None = None
    ) -> list[DeliveredKey]:
        """Fetch the keys that ``master`` drew for us, in the order of ``key_ids``, of ``size_bits`` if given."""
        request = {"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}
        most = _ANSWER_BYTES_SPARE + len(key_ids) * (4 << 20 if size_bits is None else size_bits // 4 + 1024)
        delivered = self._keys(await self._call("POST", master, "dec_keys", request, most))
        keys = {key.key_id.lower(): key for key in delivered}
        if set(keys) != {key_id.lower() for key_id in key_ids} or len(keys) != len(key_ids):
            raise PeerFault("the KME delivered other keys than asked for")
        if size_bits is not None and any(key.material.size_bytes * 8 != size_bits for key in delivered):
            raise PeerFault(f"asked for keys of {size_bits} bits, the KME delivered others")
        return [keys[key_id.lower()] for key_id in key_ids]

    async def _call(self, method: str, sae: SaeId, call: str, body: Any, most: int) -> Mapping[str, Any]:
        if self._session is None:
            raise RuntimeError("KmeClient is used outside its context")
        url = f"{self._base}/{quote(sae, safe='')}/{call}"
        try:
            async with self._session.request(
                method, url, json=body, server_hostname=self._server_name, allow_redirects=False
            ) as response:
                raw = await _read(response, most)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as err:
            raise self._meaning(err) from err
        if status != 200:
            raise _error(status, raw)
        return _parsed(raw)

    def _meaning(self, err: Exception) -> ShosoinError:
        """Return what a failed request means."""
        refused = certificate_alert(err)
        if refused:
            message = f"the KME at {self._base} refused our certificate: {refused}"
            return Denied(message, code="kme_client.certificate_refused")
        match err:
            case TimeoutError():
                return Unavailable(f"the KME at {self._base} did not answer in time", code="kme_client.timeout")
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError() | ssl.SSLError():
                return PeerFault(f"TLS with the KME at {self._base} failed: {err}", code="kme_client.tls")
            case aiohttp.ClientConnectorError():
                message = f"the KME at {self._base} is unreachable: {reason_of(err.os_error)}"
                return Unavailable(message, code="kme_client.unreachable")
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():  # asyncio's TLS server drops the alert
                message = f"the KME at {self._base} closed the connection; perhaps it refuses our certificate"
                return Unavailable(message, code="kme_client.unreachable")
            case _:
                message = f"the KME at {self._base} cannot be reached: {type(err).__name__}"
                return Unavailable(message, code="kme_client.unreachable")

    def _check_server(self, transport: asyncio.BaseTransport) -> None:
        if not self._admit(transport):
            raise PeerFault(f"the certificate of the KME at {self._base} is not admitted", code="tls.not_admitted")
        tls = transport.get_extra_info("ssl_object")
        if self._identity is not None:
            require_peer(tls, Identity("kme", self._identity))
        self.tls = describe(tls)

    def _keys(self, answer: Mapping[str, Any]) -> list[DeliveredKey]:
        facts = _facts(answer.get("key_container_extension"))
        items = answer.get("keys")
        if not isinstance(items, list):
            raise PeerFault("the KME's key container has no keys")
        return [_key(item, facts) for item in items]


class _CheckedConnector(aiohttp.TCPConnector):
    """Looks at the server's certificate before anything is asked on a new connection."""

    def __init__(self, check: Callable[[asyncio.BaseTransport], None], **options: Any) -> None:
        super().__init__(**options)
        self._check = check
        self._checked: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        """Return a connection whose server is the expected one."""
        connection = await super().connect(*arguments, **options)
        if connection.protocol not in self._checked:
            try:
                self._check(connection.transport)  # type: ignore[arg-type]  # there is one: it is new
            except PeerFault:
                connection.close()
                raise
            self._checked.add(connection.protocol)
        return connection


async def _read(response: aiohttp.ClientResponse, most: int) -> bytearray:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > most:
            response.close()
            raise PeerFault(f"the KME answers with more than {most} bytes")
    return content


def _error(status: int, raw: bytes | bytearray) -> Rejected | Denied | Unavailable | PeerFault:
    message, retry_after_s = f"HTTP {status}", None
    try:
        loaded = _object(json.loads(raw))
        message = printable_text(loaded.get("message")) or message
        for item in loaded.get("details") or []:
            if isinstance(item, dict) and (seconds := _number(item.get("retry_after_s"), 1e9)) is not None:
                retry_after_s = seconds
    except (ValueError, PeerFault, RecursionError, TypeError):
        pass  # some KMEs send no body or no JSON with an error
    if status == 400:
        return Rejected(f"KME: {message}", code="kme_client.rejected")
    if status == 401:
        return Denied(f"KME: {message}", code="kme_client.denied")
    if status == 503:
        return Unavailable(f"KME: {message}", code="kme_client.unavailable", retry_after_s=retry_after_s)
    return PeerFault(f"KME answered {status}, which ETSI GS QKD 014 does not define", code="kme_client.bad_status")


def _parsed(raw: bytes | bytearray) -> Mapping[str, Any]:
    try:
        text = raw.decode()  # json.loads would guess at UTF-16 and let half surrogate pairs through
        answer = _object(json.loads(text, parse_constant=_no_constant, parse_float=_finite))
        if "\\u" in text:
            json.dumps(answer, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise PeerFault("the KME's answer is not JSON") from None  # the cause would quote keys
    return answer


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PeerFault("the KME's answer is not a JSON object")
    return value


def _text(answer: Mapping[str, Any], name: str) -> str:
    value = answer[name]
    if not isinstance(value, str):
        raise TypeError(name)
    return value


def _count(answer: Mapping[str, Any], name: str) -> int:
    value = answer[name]
    if type(value) is not int or value < 0:
        raise TypeError(name)
    return value


def _key(item: Any, facts: KeySourceFacts) -> DeliveredKey:
    fields = _object(item)
    key_id, encoded = fields.get("key_ID"), fields.get("key")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id) or not isinstance(encoded, str):
        raise PeerFault("the KME delivered a key without a proper key_ID or key")
    try:
        bits = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as err:
        raise PeerFault("the KME delivered a key that is not base64") from err
    if base64.b64encode(bits) != encoded.encode():
        raise PeerFault("the KME delivered a key with bits in the padding of its base64")
    return DeliveredKey(key_id, KeyMaterial(bits), facts)


def _facts(extension: Any) -> KeySourceFacts:
    source = extension.get("shosoin_source") if isinstance(extension, dict) else None
    kind = source.get("kind") if isinstance(source, dict) else None
    if not isinstance(source, dict) or not isinstance(kind, str) or not _KIND.fullmatch(kind):
        return UNDECLARED
    epsilon = _number(source.get("epsilon"), 1.0)
    return KeySourceFacts(kind, source.get("simulated") is not False, epsilon)


def _number(value: Any, high: float) -> float | None:
    """Return a number of 0 to ``high``; JSON from outside also brings infinities, NaN and thousands of digits."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and 0 <= value <= high else None
