"""Connections to an operator's PostgreSQL: over TLS that checks the server, durable, and bounded in time.

What libpq reads besides the connection string (service file, password file, ``PG*`` variables) counts as usual. A
server that is not on this machine must show a certificate for its name: ``sslmode=verify-full`` is what is asked for if
nothing else is said, and anything less than ``verify-ca`` is refused. Nothing here ever tells a password.

Security: whoever runs the database sees what is stored, and may put back old copies of it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shosoin.base import Rejected
from shosoin.keys.errors import StoreUnavailable

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["PostgresDatabase", "reason_of", "within"]

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TLS_MODES = {"verify-ca", "verify-full"}
_CONNECT_S = 5
_SETTINGS = {"default_transaction_isolation": "read committed", "idle_session_timeout": "0"}
_USUAL = (
    "SELECT set_config(name, wanted, false) FROM unnest(%s::text[], %s::text[]) AS setting (name, wanted)"
    " JOIN pg_settings USING (name)"  # an older server does not know them all
)
_DEFAULTS = {
    "connect_timeout": str(_CONNECT_S),
    "target_session_attrs": "read-write",  # a standby would refuse every commit
    "application_name": "shosoin-kme",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "client_encoding": "UTF8",
}


@dataclass(frozen=True, slots=True)
class PostgresDatabase:
    """Where an operator wants streams to be kept.

    Raises:
        Rejected: the schema is no plain name, the connection string does not parse, or psycopg is not installed.
    """

    conninfo: str = field(repr=False)
    schema: str = "shosoin"

    def __post_init__(self) -> None:
        if not _SCHEMA.fullmatch(self.schema):
            message = f"schema {self.schema[:80]!r} is no name of lower-case letters, digits and underscores"
            raise Rejected(message, code="store.bad_schema")
        self.parameters()

    @property
    def has_password(self) -> bool:
        """Whether the connection string itself holds a password."""
        return "password" in self._given()

    def parameters(self) -> dict[str, Any]:
        """Return what libpq is told; it may hold a password.

        Raises:
            Rejected: a server elsewhere would not be asked who it is.
        """
        given = self._given()
        hosts = (given.get(name) or os.environ.get(f"PG{name.upper()}", "") for name in ("host", "hostaddr"))
        host = ",".join(map(str, hosts))  # with both, hostaddr is where it connects
        mode = given.get("sslmode") or os.environ.get("PGSSLMODE")
        if mode is None and "service" not in given and not _is_near(host):
            given["sslmode"] = mode = "verify-full"
        if mode is not None:
            _check_mode(str(mode), host)
        return {**_DEFAULTS, **given}

    def connect(self) -> Connection[Any]:
        """Return a connection in autocommit mode whose commits are durable.

        Raises:
            StoreUnavailable: the server cannot be reached or refuses.
            Rejected: it could, but not safely.
        """
        psycopg = _psycopg()
        try:
            connection: Connection[Any] = psycopg.connect(**self.parameters(), autocommit=True)
        except psycopg.Error as err:
            raise StoreUnavailable(f"no connection to the database: {reason_of(err)}") from None  # may quote its words
        try:
            with within(connection, _CONNECT_S):
                _check_connection(connection)
                _make_durable(connection)
                _make_usual(connection)
        except psycopg.Error as err:
            connection.close()
            raise StoreUnavailable(f"the database failed: {reason_of(err)}") from err
        except BaseException:
            connection.close()
            raise
        return connection

    def _given(self) -> dict[str, Any]:
        psycopg = _psycopg()
        try:
            return dict(psycopg.conninfo.conninfo_to_dict(self.conninfo))
        except psycopg.Error:  # its message quotes the string, password and all
            message = "the connection string of the database is neither 'name=value ...' nor a postgresql:// address"
            raise Rejected(message, code="store.bad_dsn") from None


@contextlib.contextmanager
def within(connection: Connection[Any], seconds: float) -> Iterator[None]:
    """Hang up if the body takes longer, so that a server that answers nothing holds up nobody for ever.

    The connection is of no use afterwards; the body fails as if the server had hung up.
    """
    lock, over = threading.Lock(), False

    def hang_up() -> None:
        with lock:
            if over or connection.closed:
                return
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()


def reason_of(err: Exception) -> str:
    """Return what a database said, in one line; libpq never quotes a password."""
    said = getattr(getattr(err, "diag", None), "message_primary", None) or str(err) or type(err).__name__
    return " ".join(said.split())[:300]


def _psycopg() -> Any:
    try:
        import psycopg  # noqa: PLC0415  # an extra
    except ImportError as err:
        message, hint = "PostgreSQL needs psycopg, which is not installed", "pip install 'shosoin[postgres]'"
        raise Rejected(message, code="store.psycopg_missing", hint=hint) from err
    return psycopg


def _is_near(hosts: str) -> bool:
    """Whether all named hosts are this machine: Unix sockets or loopback.

    >>> [_is_near(host) for host in ("", "/run/postgresql", "localhost", "127.0.0.1,::1")]
    [True, True, True, True]
    >>> [_is_near(host) for host in ("localhost.example", "127.example", "::1:2", "localhost,192.0.2.1")]
    [False, False, False, False]
    """
    return all(not name or name.startswith(("/", "@")) or _is_loopback(name) for name in hosts.split(","))


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _check_mode(mode: str, host: str) -> None:
    if mode not in _TLS_MODES and not _is_near(host):
        message = f"sslmode={mode} does not make sure which server answers, expected verify-full"
        raise Rejected(message, code="store.tls_too_weak", hint="give sslmode=verify-full and sslrootcert")


def _check_connection(connection: Connection[Any]) -> None:
    """Check what came of the connection string, a service file and the environment together."""
    info = connection.info
    mode = str(info.get_parameters().get("sslmode", "prefer"))
    _check_mode(mode, f"{info.host or ''},{info.hostaddr or ''}")


def _make_durable(connection: Connection[Any]) -> None:
    """Have every commit wait for the disk, and for the standbys that the operator made synchronous."""
    row = connection.execute("SELECT current_setting('synchronous_commit')").fetchone()
    if row is None or row[0] != "remote_apply":  # which is stronger still
        connection.execute("SET synchronous_commit = on")


def _make_usual(connection: Connection[Any]) -> None:
    """Undo defaults of a server that what works here cannot live with.

    Two processes that start at once see what the other has made only where each statement looks anew, and a session
    that reads once an hour must still be there then.
    """
    connection.execute(_USUAL, [list(_SETTINGS), list(_SETTINGS.values())])
