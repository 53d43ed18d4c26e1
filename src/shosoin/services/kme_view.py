"""What metrics and health read of a running KME; they change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shosoin.base import KmeId
from shosoin.keys.kme import Kme
from shosoin.services.kme_config import KmeConfig
from shosoin.services.kme_identity import KmeIdentity
from shosoin.services.link_driver import LinkDriver
from shosoin.services.memory_budget import Budget
from shosoin.services.request_tally import RequestTally
from shosoin.services.worker_pool import WorkerPool

__all__ = ["Connections", "KmeView", "SaeService"]


class Connections(Protocol):
    """Connections of clients."""

    @property
    def open(self) -> int:
        """How many there are."""
        ...

    @property
    def connections_max(self) -> int:
        """How many there may be."""
        ...

    @property
    def refused(self) -> int:
        """How many were too many."""
        ...

    async def end_all(self) -> None:
        """End all that are left."""
        ...


class SaeService(Protocol):
    """An interface by which SAEs reach the KME."""

    @property
    def tally(self) -> RequestTally:
        """What it answered."""
        ...

    @property
    def guard(self) -> Connections | None:
        """Its connections, once it listens."""
        ...

    @property
    def memory(self) -> Mapping[str, Budget]:
        """What requests may hold at once, by name."""
        ...


class KmeView(Protocol):
    """A KME process as its operators see it (``shosoin.services.kme.KmeProcess``)."""

    @property
    def config(self) -> KmeConfig:
        """What it was told."""
        ...

    @property
    def drivers(self) -> Mapping[KmeId, LinkDriver]:
        """Links whose stored state can be used."""
        ...

    @property
    def kme(self) -> Kme | None:
        """What serves the SAEs, once every link was looked at."""
        ...

    @property
    def services(self) -> Mapping[str, SaeService]:
        """How SAEs reach it, by the name of the interface."""
        ...

    @property
    def identity(self) -> KmeIdentity:
        """Certificates and who is revoked."""
        ...

    @property
    def workers(self) -> WorkerPool | None:
        """The processes that SAEs talk to, where it is not this one."""
        ...

    @property
    def peer_groups(self) -> Mapping[str, int]:
        """Connections with peer KMEs since the start, by key-exchange group, empty where that is unknown."""
        ...

    @property
    def defect(self) -> BaseException | None:
        """Why a part of the process ended by itself."""
        ...

    @property
    def is_draining(self) -> bool:
        """Whether it is about to stop and should get no new work."""
        ...

    @property
    def is_listening(self) -> bool:
        """Whether every listener accepts connections."""
        ...

    def link_states(self) -> dict[str, Any]:
        """Return the state of every configured link."""
        ...
