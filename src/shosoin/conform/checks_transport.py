"""Transport and identity: clauses 4 and 5.1, and what a key server must withstand."""

from __future__ import annotations

import datetime
import ssl
import tempfile
import warnings
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shosoin.base import PeerFault, ShosoinError, Unavailable
from shosoin.conform.check import Failed, Group, Level, NotApplicable, expect, expect_error, expect_ok
from shosoin.conform.http import Answer, Caller, Identity, tls_context
from shosoin.conform.session import Session

__all__ = ["CHECKS"]

_check = Group("transport")
CHECKS = _check.checks
_SLOW_S = 45.0
_NAMING_HEADERS = ("ssl-client-cert", "X-SSL-Client-S-DN-CN", "X-SAE-ID", "X-Forwarded-Client-Cert", "SAE-ID")


@_check("4, 5.1", "TLS 1.1 is refused")
def refuses_old_tls(session: Session) -> None:
    try:
        old = tls_context(session.master.ca, session.master.identity)
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # old versions are what is asked for
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    except (ValueError, ssl.SSLError):
        raise NotApplicable("the TLS library of this machine has no TLS 1.1") from None
    caller = session.master.as_another(None, old)
    try:
        answer = caller.ask("GET", session.path("status"))
    except ShosoinError:
        return
    finally:
        caller.close()
    raise Failed(f"it was answered with {answer.status}")


@_check("5.1", "a caller without a certificate is refused")
def needs_a_certificate(session: Session) -> None:
    _nothing_for(session.master.as_another(None), session)


@_check("5.1", "a caller whose certificate is from another authority is refused")
def needs_its_authority(session: Session) -> None:
    with tempfile.TemporaryDirectory() as directory:
        _nothing_for(session.master.as_another(_self_signed(Path(directory), session.master_sae)), session)


@_check("5.1 table 1", "a 200 has the content type application/json")
def says_json(session: Session) -> None:
    _is_json(session.get_status())


@_check("5.1 table 1", "an Error has the content type application/json")
def says_json_in_errors(session: Session) -> None:
    _is_json(session.master.ask("GET", session.path("status", "no-such-sae-of-any-kme")))


@_check("5.1 table 1", "bodies are UTF-8 without a byte order mark")
def speaks_utf8(session: Session) -> None:
    body = session.get_status().body
    expect(not body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")), "a byte order mark")
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise Failed("a body that is not UTF-8") from None


@_check("4", "a connection carries more than one request", Level.FIELD)
def keeps_connections(session: Session) -> None:
    session.master.close()
    expect_ok(session.get_status())
    kept = session.master.is_open
    expect(kept, "the KME closes the connection after each answer: every request costs a handshake")


@_check("4", "no header names the caller: the certificate does", Level.SAFE)
def believes_no_headers(session: Session) -> None:
    headers = dict.fromkeys(_NAMING_HEADERS, session.slave_sae)
    answer = session.master.ask("GET", session.path("status"), headers=headers)
    expect(answer.status == 200, f"a header that names an SAE changed the answer to {answer.status}")
    found = answer.json.get("master_SAE_ID") if isinstance(answer.json, dict) else None
    expect(found == session.master_sae, f"a header made the caller {found!r}")


@_check("5.2 table 4", "a 401 carries an Error body, for clients that read every body as JSON", Level.FIELD)
def explains_401(session: Session) -> None:
    if session.stranger is None:
        raise NotApplicable("no certificate of a third SAE was given")
    (key,) = session.draw()
    answer = session.dec_ids(key.key_id, caller=session.stranger)
    if answer.status != 401:
        raise NotApplicable(f"the third SAE was answered with {answer.status}")
    expect_error(answer, codes=(401,))


@_check("", "headers of a mebibyte are refused, and the KME goes on", Level.SAFE)
def survives_long_headers(session: Session) -> None:
    request = f"GET {session.path('status')} HTTP/1.1\r\nHost: kme\r\nX-Long: {'a' * (1 << 20)}\r\n\r\n"
    try:
        said = session.master.raw(request.encode(), wait_s=session.master.timeout_s)
    except Unavailable as err:
        raise Failed(err.message) from None
    expect(b" 200 " not in said[:32], "it was answered with 200")
    session.master.close()
    expect_ok(session.get_status())


@_check("", "what is no HTTP is refused, and the KME goes on", Level.SAFE)
def survives_garbage(session: Session) -> None:
    try:
        session.master.raw(b"\x00\x01\x02 garbage\r\n\r\n" * 8, wait_s=session.master.timeout_s)
    except Unavailable as err:
        raise Failed(err.message) from None
    session.master.close()
    expect_ok(session.get_status())


@_check("", "a client that stops in the middle of a request is cut off", Level.SAFE)
def cuts_slow_clients_off(session: Session) -> None:
    if not session.slow:
        raise NotApplicable(f"it takes up to {_SLOW_S:g} s: --slow runs it")
    head = f"POST {session.path('enc_keys')} HTTP/1.1\r\nHost: kme\r\nContent-Length: 100\r\n\r\n{{"
    try:
        session.master.raw(head.encode(), wait_s=_SLOW_S)
    except Unavailable as err:
        raise Failed(err.message) from None


def _is_json(answer: Answer) -> None:
    kind = answer.content_type.partition(";")[0].strip().lower()
    expect(kind == "application/json", f"it is {answer.content_type!r}")


def _nothing_for(caller: Caller, session: Session) -> None:
    """Expect no service for a caller that cannot show who it is."""
    try:
        answer = caller.ask("GET", session.path("status"))
    except PeerFault:
        return  # the handshake failed, as the text wants: the connection is rejected
    finally:
        caller.close()
    expect(answer.status == 401, f"it was answered with {answer.status}")


def _self_signed(directory: Path, name: str) -> Identity:
    """Make a certificate that nobody issued, in the caller's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64] or "sae")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    identity = Identity(directory / "forged.crt", directory / "forged.key")
    identity.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    identity.key.touch(mode=0o600)
    identity.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return identity
