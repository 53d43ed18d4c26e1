"""A real PostgreSQL server for tests: Debian's programs, files of its own, ended by its pids.

It listens on a Unix socket in its directory, and on a loopback port where a test wants passwords or TLS. Root may not
run it, so then it runs as an unprivileged user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.support.pki import Files
from tests.support.programs import program

USER = "shosoin"


class PostgresServer:
    """One server; ``dsn`` reaches it as its superuser without a password."""

    def __init__(self, *, port: int | None = None, tls: Files | None = None, fsync: bool = True) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="shosoin-pg-"))
        self.data = self.directory / "data"
        self.port, self._tls, self._fsync = port, tls, fsync
        self._process: subprocess.Popen[bytes] | None = None
        self._prefix: list[str] = []
        if os.getuid() == 0:
            name = next(name for name in ("postgres", "nobody") if _is_user(name))
            user = pwd.getpwnam(name)
            self._prefix = [
                program("setpriv"), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"
            ]  # fmt: skip
            os.chown(self.directory, user.pw_uid, user.pw_gid)
        options = ["--no-sync", "--auth-local=trust", "--auth-host=scram-sha-256", f"--username={USER}"]
        self._run(program("initdb"), "-D", str(self.data), "-E", "UTF8", "--locale=C", *options)
        if tls is not None:
            self._install(tls)

    @property
    def dsn(self) -> str:
        return f"host={self.directory} port={self.port or 5432} user={USER} dbname=postgres"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers; after a kill the first try may find its memory still in use."""
        for _ in range(50):
            self._process = self._popen()
            while self._process.poll() is None:
                try:
                    psycopg.connect(self.dsn, connect_timeout=2).close()
                except psycopg.Error:
                    time.sleep(0.02)
                else:
                    return
            time.sleep(0.2)
        raise AssertionError((self.directory / "log").read_text()[-2000:])

    def stop(self) -> None:
        """Stop it without waiting for clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        """SIGKILL the server and every process it has started."""
        if self._process is not None:
            victims = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
            for victim in victims:
                with_suppressed(victim.kill)
            self._process.wait()
            psutil.wait_procs(victims[1:], timeout=30)
            self._process = None

    def copy(self, name: str) -> None:
        """Keep a copy of its files, while it does not run."""
        assert self._process is None
        shutil.copytree(self.data, self.directory / name, copy_function=shutil.copy2)

    def put_back(self, name: str) -> None:
        """Have the files of a copy instead of its own."""
        assert self._process is None
        owner = _owner(self.data)
        shutil.rmtree(self.data)
        shutil.copytree(self.directory / name, self.data)
        self.data.chmod(0o700)
        for path in (self.data, *self.data.rglob("*")):
            os.chown(path, *owner)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.directory)

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def stored_bytes(self) -> bytes:
        """Return every file of the server, its log of changes included."""
        self.execute("CHECKPOINT")
        return b"".join(path.read_bytes() for path in sorted(self.data.rglob("*")) if path.is_file())

    def _popen(self) -> subprocess.Popen[bytes]:
        settings = {
            "unix_socket_directories": str(self.directory),
            "listen_addresses": "127.0.0.1" if self.port else "",
            "port": "5432",
            "fsync": "on" if self._fsync else "off",
            "shared_buffers": "16MB",
            "max_connections": "40",
            "ssl": "on" if self._tls else "off",
        }
        if self.port:
            settings["port"] = str(self.port)
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            command = [*self._prefix, program("postgres"), "-D", str(self.data), *arguments]
            return subprocess.Popen(command, stdout=log, stderr=log, cwd="/")

    def _run(self, *command: str) -> None:
        done = subprocess.run([*self._prefix, *command], capture_output=True, cwd="/", check=False)
        assert done.returncode == 0, done.stderr.decode()

    def _install(self, tls: Files) -> None:
        for name, source in (("server.crt", tls.certificate), ("server.key", tls.key)):
            target = self.data / name
            target.write_bytes(source.read_bytes())
            target.chmod(0o600)
            shutil.chown(target, *_owner(self.data))


def with_suppressed(kill) -> None:
    try:
        kill()
    except psutil.NoSuchProcess:
        return


@contextmanager
def running_postgres(**options: Any) -> Iterator[PostgresServer]:
    server = PostgresServer(**options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def _owner(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_uid, facts.st_gid


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
