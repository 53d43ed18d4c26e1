"""What administrators may ask of a KME and which role it takes: one table, from which all else follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Rejected
from shosoin.services.admin_config import AdminRole

__all__ = ["CALLS", "AdminCall", "BadMethod", "NotThere", "find_call"]

PREFIX = "/v1/"
Schema = Mapping[str, Any]


class NotThere(Rejected):
    """No such path, pair or SAE."""

    code = "admin.not_there"


class BadMethod(Rejected):
    """The path is for another method."""

    code = "admin.bad_method"
    allowed = ""


@dataclass(frozen=True, slots=True)
class AdminCall:
    """One call."""

    name: str
    method: str
    path: str
    """After ``/v1/``; ``{id}`` is what it is about."""
    role: AdminRole
    summary: str
    target: str = ""
    """What ``{id}`` names."""
    body: Mapping[str, Schema] = field(default_factory=dict)
    """Members of the JSON body, none of which has to be there."""

    @property
    def changes(self) -> bool:
        """Whether anything is different after it."""
        return self.method == "POST"


_DRAIN = {"type": "number", "minimum": 0, "maximum": 3600, "description": "seconds in which SAEs are still served"}
_LINE = r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\uffff]*$"
"""Neither ends a line nor hides or turns round what stands beside it, wherever the record is read."""
_REASON = {"type": "string", "maxLength": 200, "pattern": _LINE, "description": "for the record"}
_DRY_RUN = {"type": "boolean", "description": "only say what would be destroyed"}
_VIEWER, _OPERATOR, _SECURITY = AdminRole.VIEWER, AdminRole.OPERATOR, AdminRole.SECURITY
CALLS = (
    AdminCall("status", "GET", "status", _VIEWER, "Whether the KME is of use, and who is asking."),
    AdminCall("links", "GET", "links", _VIEWER, "The state of every link."),
    AdminCall("pairs", "GET", "pairs", _VIEWER, "The stock of every pair of KMEs, and whether it is paused."),
    AdminCall("saes", "GET", "saes", _VIEWER, "Every SAE, its KME, and whether it is revoked."),
    AdminCall("interfaces", "GET", "interfaces", _VIEWER, "Connections, answers and refusals, and the workers."),
    AdminCall("certificates", "GET", "certificates", _VIEWER, "Certificates and revocation lists in use."),
    AdminCall("openapi", "GET", "openapi.json", _VIEWER, "This document."),
    AdminCall("reload", "POST", "reload", _OPERATOR, "Look at certificates, keys and revocation lists now."),
    AdminCall("stop", "POST", "stop", _OPERATOR, "Be unready at once, and stop later.", body={"drain_s": _DRAIN}),
    AdminCall("pause", "POST", "pairs/{id}/pause", _OPERATOR, "Hand out no key of a pair until resumed.", "peer KME"),
    AdminCall("resume", "POST", "pairs/{id}/resume", _OPERATOR, "Hand out keys of a pair again.", "peer KME"),
    AdminCall(
        "revoke",
        "POST",
        "saes/{id}/revoke",
        _SECURITY,
        "Refuse an SAE from now on, and end its connections.",
        "SAE",
        body={"reason": _REASON},
    ),
    AdminCall(
        "burn",
        "POST",
        "pairs/{id}/burn",
        _SECURITY,
        "Destroy all stock shared with a KME; the other end does likewise when the two meet.",
        "peer KME",
        body={"dry_run": _DRY_RUN, "reason": _REASON},
    ),
    AdminCall(
        "lift",
        "POST",
        "links/{id}/lift",
        _SECURITY,
        "Let a link that an alarm has suspended make keys again, at this end.",
        "peer KME",
        body={"reason": _REASON},
    ),
)


def find_call(method: str, path: str) -> tuple[AdminCall, str]:
    """Return the call that a request makes, and what it is about.

    Raises:
        NotThere: there is no such path.
        BadMethod: it is for another one.
    """
    parts = path.removeprefix(PREFIX).split("/") if path.startswith(PREFIX) else []
    fitting = [call for call in CALLS if _fits(call, parts)]
    if not fitting:
        raise NotThere("no such path", hint="see /v1/openapi.json")
    for call in fitting:
        if method == call.method:
            return call, parts[1] if call.target else ""
    refused = BadMethod(f"only {fitting[0].method} is defined here")
    refused.allowed = fitting[0].method
    raise refused


def _fits(call: AdminCall, parts: list[str]) -> bool:
    wanted = call.path.split("/")
    return len(wanted) == len(parts) and all(one in {"{id}", other} for one, other in zip(wanted, parts, strict=True))
