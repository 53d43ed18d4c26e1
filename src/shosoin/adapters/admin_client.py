"""A client of a KME's administration, for one call: connects, makes sure whom it talks to, asks, and is done."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.adapters.private_files import require_tls_key
from shosoin.adapters.tls import Identity, certificate_alert, client_context, reason_of, require_peer
from shosoin.base import Denied, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.base.foreign_text import printable_text

__all__ = ["AdminClient"]

_ANSWER_BYTES_MAX = 16 << 20
_KINDS: dict[int, type[ShosoinError]] = {400: Rejected, 403: Denied, 404: Rejected, 429: Unavailable, 503: Unavailable}


@dataclass(frozen=True, slots=True)
class AdminClient:
    """Where a KME's administration is, and who asks."""

    host: str
    port: int
    kme: str
    """The id that its certificate must carry, as DNS name and as ``urn:shosoin:kme:<id>``."""
    ca: Path
    certificate: Path
    key: Path
    timeout_s: float = 30.0

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make a call and return the answer.

        Raises:
            Denied, Rejected, Unavailable, PeerFault: as the KME says, or as the connection fails.
        """
        require_tls_key(self.key, "--key")
        context = client_context(self.certificate, self.key, self.ca, minimum=ssl.TLSVersion.TLSv1_3)
        raw = None if body is None else json.dumps(body).encode()
        try:
            plain = socket.create_connection((self.host, self.port), timeout=self.timeout_s)
            with plain, context.wrap_socket(plain, server_hostname=self.kme) as tls:
                require_peer(tls, Identity("kme", self.kme))
                status, answer = self._exchange(tls, method, path, raw)
        except (OSError, http.client.HTTPException) as err:
            raise self._meaning(err) from err
        return _read(status, answer)

    def _exchange(self, tls: ssl.SSLSocket, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port)
        connection.sock = tls
        headers = {"Connection": "close", **({"Content-Type": "application/json"} if body is not None else {})}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(_ANSWER_BYTES_MAX)

    def _meaning(self, err: OSError | http.client.HTTPException) -> ShosoinError:
        where = f"the administration of {self.kme} at {self.host}:{self.port}"
        refused = certificate_alert(err)
        if refused:
            return Denied(f"{where} refused our certificate: {refused}", code="admin.certificate_refused")
        if isinstance(err, ssl.SSLError):
            return PeerFault(f"TLS with {where} failed: {printable_text(str(err.reason or err))}", code="admin.tls")
        if isinstance(err, TimeoutError):
            return Unavailable(f"{where} did not answer in time", code="admin.timeout")
        if isinstance(err, http.client.RemoteDisconnected | ConnectionResetError):
            message = f"{where} ended the connection; perhaps our certificate is revoked"
            return Denied(message, code="admin.certificate_refused")
        if isinstance(err, OSError):
            return Unavailable(f"{where} is unreachable: {reason_of(err)}", code="admin.unreachable")
        return PeerFault(f"{where} does not speak HTTP", code="admin.no_http")


def _read(status: int, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw)
        if status == 200:
            return dict(answer)
        code, message, hint = (printable_text(str(answer[name]))[:400] for name in ("code", "message", "hint"))
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise PeerFault(f"the KME answered {status} with what is not of its making", code="admin.bad_answer") from err
    raise _KINDS.get(status, PeerFault)(message, code=code, hint=hint)
