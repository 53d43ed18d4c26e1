"""A KME's administration in tests: its section, its people, and a plain client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from shosoin.adapters.tls import client_context
from tests.support.pki import Files, TestAuthority

ROLES = {"vic": ["viewer"], "olga": ["operator"], "sec": ["security"], "both": ["operator", "security"]}


class Administration:
    """Gives one KME of a pair an ``[admin]`` section on a free port."""

    def __init__(self, pair: Any, kme: str = "kme-a", **values: Any) -> None:
        self.pair, self.kme = pair, kme
        self.plane = TestAuthority(pair.root / f"pki-admin-{kme}", "admin-plane")
        server = self.plane.issue("kme", kme)
        self.people: dict[str, Files] = {name: self.plane.issue("admin", name) for name in (*ROLES, "nobody", "n" * 64)}
        lines = [f"{name} = {json.dumps(value)}" for name, value in {"port": 0, "calls_per_s": 1000, **values}.items()]
        roles = [f"{name} = {json.dumps(value)}" for name, value in ROLES.items()]
        path = pair.config(kme)
        path.write_text(
            "\n".join(
                [
                    path.read_text(),
                    "[admin]",
                    *lines,
                    f'certificate = "{server.certificate}"',
                    f'key = "{server.key}"',
                    f'client_ca = "{self.plane.certificate}"',
                    "[admin.roles]",
                    *roles,
                ]
            )
        )

    @property
    def port(self) -> int:
        return int(json.loads((self.pair.directory(self.kme) / "ready").read_text())["admin_port"])

    @property
    def folder(self) -> Path:
        return self.pair.directory(self.kme) / "admin-log"

    async def ask(
        self,
        who: str | Files,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        raw: bytes | None = None,
    ) -> tuple[int, Any]:
        """Return status and answer."""
        files = self.people[who] if isinstance(who, str) else who
        context = client_context(files.certificate, files.key, self.plane.certificate)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=self.kme)
        try:
            content = raw if raw is not None else json.dumps(body).encode() if body is not None else b""
            head = [f"{method} {path} HTTP/1.1", "Host: kme", "Connection: close"]
            if method == "POST":
                head += [f"Content-Length: {len(content)}", f"Content-Type: {content_type}"]
            writer.write("\r\n".join([*head, "", ""]).encode() + content)
            answer = await reader.read()
        finally:
            writer.transport.abort()
        status, _, rest = answer.partition(b"\r\n")
        return int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2])
