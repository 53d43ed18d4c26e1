"""Whether a KME lives and whether it is of use to its SAEs, with the reasons in words.

*Live* means that its event loop answers and no part of it has failed: else restart it. *Ready* means that a request
can succeed: every listener serves with a certificate that is valid, the storage takes what is written, and at least one
link works. A link that is down
does not make a KME unready as long as another works, for then it would be taken out of service for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shosoin.services.kme_view import KmeView
from shosoin.services.storage_probe import StorageProbe

__all__ = ["Health", "live", "ready"]


@dataclass(slots=True)
class Health:
    """An answer and why it is not yes."""

    name: str
    reasons: list[dict[str, str]] = field(default_factory=list)
    links: dict[str, str] | None = None
    certificates: dict[str, str] | None = None
    """When the certificate of each TLS endpoint expires."""

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons

    def against(self, code: str, message: str) -> None:
        """Add a reason."""
        self.reasons.append({"code": code, "message": message})

    def to_json(self, kme: str) -> dict[str, Any]:
        """Return what is served."""
        value: dict[str, Any] = {"kme": kme, self.name: self.is_good, "reasons": self.reasons}
        parts = {"links": self.links, "certificates": self.certificates}
        return {**value, **{name: part for name, part in parts.items() if part is not None}}


def live(view: KmeView) -> Health:
    """Return whether the process works at all."""
    health = Health("live")
    if view.defect is not None:
        health.against("kme.defect", "a part of the process has failed; it is about to end")
    return health


async def ready(view: KmeView, storage: StorageProbe) -> Health:
    """Return whether requests can succeed."""
    health = Health("ready")
    if view.defect is not None:
        health.against("kme.defect", "a part of the process has failed; it is about to end")
    if view.is_draining:
        health.against("kme.draining", "an operator has asked the KME to stop soon")
    if not view.is_listening:
        health.against("kme.not_listening", "the KME starts or stops: not every listener serves")
    if view.identity.is_loaded:
        for code, message in view.identity.faults():
            health.against(code, message)
        health.certificates = view.identity.ends()
    fault = await storage.fault()
    if fault:
        health.against("kme.storage", f"the KME's directory cannot be written to: {fault}")
    states = health.links = _link_states(view)
    served = view.kme is not None and any(_serves(state) for state in view.link_states().values())
    if states and not served:
        words = ", ".join(f"{peer} {state}" for peer, state in states.items())
        if {"dry", "suspended"} & set(states.values()):
            health.against("kme.no_stock", f"no link has keys: {words}")
        else:
            health.against("kme.no_link", f"no link works: {words}")
    return health


def _link_states(view: KmeView) -> dict[str, str]:
    return {peer: _word(state, known=view.kme is not None) for peer, state in view.link_states().items()}


def _word(state: dict[str, Any], *, known: bool) -> str:
    if not known:
        return "starting"
    if state["refused"]:
        return "refused"
    if not state["connected"]:
        return "down"
    if state["suspended"]:
        return "suspended"
    return "up" if _serves(state) else "dry"


def _serves(state: dict[str, Any]) -> bool:
    """Whether a link has keys; those from before an alarm are there even while it is suspended."""
    is_there = not state["refused"] and state["connected"]
    return is_there and bool(state["outgoing_stock_bits"] or state["incoming_held_bits"])
