"""Who calls which KME in a run of the checks, and the few requests that many checks need."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from shosoin.base import PeerFault, Unavailable
from shosoin.conform.http import Answer, Caller

__all__ = ["JSON", "Key", "Session"]

JSON = {"Content-Type": "application/json"}
_STOCK_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a container: its ID, and its base64 text, which stays out of every text."""

    key_id: str
    text: str = field(repr=False)


@dataclass(slots=True)
class Session:
    """A master SAE, and where given the slave at the other end and a third SAE that has no part in their keys."""

    master: Caller
    slave_sae: str
    slave: Caller | None = None
    stranger: Caller | None = None
    master_sae: str = ""
    wait_s: float = 10.0
    """How long to wait for keys while the KME says 503."""
    slow: bool = False
    """Whether checks that wait for half a minute are run."""
    _status: Mapping[str, Any] = field(default_factory=dict)

    def path(self, call: str, sae: str | None = None) -> str:
        """Return the path of a call."""
        return f"/api/v1/keys/{quote(self.slave_sae if sae is None else sae, safe='')}/{call}"

    def get_status(self) -> Answer:
        """Ask for the status."""
        return self.master.ask("GET", self.path("status"))

    @property
    def status(self) -> Mapping[str, Any]:
        """The first status of this run.

        Raises:
            PeerFault: the KME gives none, so that nothing else can be asked.
        """
        if not self._status:
            answer = self.get_status()
            body = answer.json
            if answer.status != 200 or not isinstance(body, dict):
                raise PeerFault(
                    f"the KME gives no status for {self.slave_sae!r}: {answer.status} {answer.message or ''}".rstrip(),
                    code="conform.no_status",
                    hint="check --slave, and that the KME knows the SAE of --cert",
                )
            self._status = body
            self.master_sae = self.master_sae or str(body.get("master_SAE_ID", ""))
        return self._status

    def limit(self, name: str, fallback: int) -> int:
        """Return an integer that the status advertises, or what is taken for it where that is none."""
        value = self.status.get(name)
        return value if type(value) is int and value >= 0 else fallback

    def enc(self, body: Any = None, *, sae: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """POST a Key request; a value is sent as JSON, bytes as they are. Waits while the KME is out of keys."""
        content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        wanted = JSON if headers is None else headers
        return self._waited(lambda: self.master.ask("POST", self.path("enc_keys", sae), content, wanted))

    def enc_get(self, query: Mapping[str, str] | str = "") -> Answer:
        """GET keys."""
        text = query if isinstance(query, str) else urlencode(query)
        return self._waited(lambda: self.master.ask("GET", self.path("enc_keys") + (f"?{text}" if text else "")))

    def _waited(self, ask: Any) -> Answer:
        deadline_s = time.monotonic() + self.wait_s
        while True:
            answer: Answer = ask()
            if answer.status != 503 or time.monotonic() > deadline_s:
                return answer
            time.sleep(_STOCK_PAUSE_S)

    def draw(self, number: int = 1, size: int | None = None) -> list[Key]:
        """Draw keys for a check that is about something else.

        Raises:
            Unavailable: the KME gives none.
        """
        answer = self.enc({"number": number} | ({} if size is None else {"size": size}))
        found = keys_of(answer)
        if answer.status != 200 or len(found) != number:
            raise Unavailable(f"the KME gave no keys: {answer.status} {answer.message or ''}", code="conform.no_keys")
        return found

    def dec(self, body: Any, *, caller: Caller | None = None, master: str | None = None) -> Answer:
        """POST Key IDs as the slave, or as another caller."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        who = caller or self.slave or self.master
        return who.ask("POST", self.path("dec_keys", master or self.master_sae), content, JSON)

    def dec_ids(self, *key_ids: str, caller: Caller | None = None, master: str | None = None) -> Answer:
        """POST key_IDs."""
        return self.dec({"key_IDs": [{"key_ID": key_id} for key_id in key_ids]}, caller=caller, master=master)

    def close(self) -> None:
        """Close all connections."""
        for caller in (self.master, self.slave, self.stranger):
            if caller is not None:
                caller.close()


def keys_of(answer: Answer) -> list[Key]:
    """Return the keys of a container as far as they can be read."""
    body = answer.json
    items = body.get("keys") if isinstance(body, dict) else None
    if not isinstance(items, list):
        return []
    return [
        Key(item["key_ID"], item["key"])
        for item in items
        if isinstance(item, dict) and isinstance(item.get("key_ID"), str) and isinstance(item.get("key"), str)
    ]
