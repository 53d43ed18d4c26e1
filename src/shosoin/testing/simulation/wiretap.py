"""Everything that passes between clients and sites, for those who attack and for those who judge.

Real attackers see less: the wires are under TLS, and only the ends see headers. Attackers here get the worst case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shosoin.base import OwnerId, SiteId
from shosoin.vault.envelope import MalformedEnvelope, cut, parse_json

__all__ = ["Exchanged", "Request", "Wiretap"]

_RECORDED_MAX = 600
_EXCHANGE = "/v1/exchange"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent to a site."""

    number: int
    client: str
    owner: OwnerId
    site: SiteId
    path: str
    raw: bytes

    @property
    def header(self) -> dict[str, Any]:
        """The header of the envelope; empty for anything else."""
        return _header(self.raw) if self.path == _EXCHANGE else {}


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One operation and the result that a site gave."""

    request: Request
    op: dict[str, Any]
    result: dict[str, Any]
    answer: dict[str, Any]
    """The whole header of the answer."""


class Wiretap:
    """Remembers requests, and tells listeners of every operation that was answered."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.open: dict[int, Request] = {}
        """Requests without an answer yet."""
        self.done: set[tuple[SiteId, bytes]] = set()
        """Requests that a site answered."""
        self.asked: Callable[[Request], None] = lambda _: None
        self.told: Callable[[Exchanged], None] = lambda _: None

    def sent(self, request: Request) -> None:
        """Note a request."""
        self.open[request.number] = request
        if len(self.requests) < _RECORDED_MAX:
            self.requests.append(request)
        self.asked(request)

    def ended(self, number: int) -> None:
        """Note that a client waits no longer."""
        self.open.pop(number, None)

    def answered(self, request: Request, raw: bytes) -> None:
        """Note an answer on its way."""
        self.ended(request.number)
        self.done.add((request.site, request.raw))
        operations, answer = request.header.get("ops"), _header(raw)
        results = answer.get("results")
        if not isinstance(operations, list) or not isinstance(results, list):
            return
        for op, result in zip(operations, results, strict=False):
            if isinstance(op, dict) and isinstance(result, dict):
                self.told(Exchanged(request, op, result, answer))

    def waits(self, client: str, besides: frozenset[str]) -> bool:
        """Whether a client waits for any site but some."""
        return any(each.client == client and each.site not in besides for each in self.open.values())


def _header(raw: bytes) -> dict[str, Any]:
    try:
        return parse_json(cut(raw).header)
    except MalformedEnvelope:
        return {}
