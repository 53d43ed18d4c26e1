"""What metrics and health read of a running KME; they change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from shosoin.base import KmeId
from shosoin.services.etsi014 import Etsi014Service
from shosoin.services.kme_config import KmeConfig
from shosoin.services.link_driver import LinkDriver

__all__ = ["KmeView"]


class KmeView(Protocol):
    """A KME process as its operators see it (``shosoin.services.kme.KmeProcess``)."""

    @property
    def config(self) -> KmeConfig:
        """What it was told."""
        ...

    @property
    def drivers(self) -> Mapping[KmeId, LinkDriver]:
        """Links whose stored state could be used when the process started."""
        ...

    @property
    def service(self) -> Etsi014Service | None:
        """The side of the SAEs, once it is there."""
        ...

    @property
    def defect(self) -> BaseException | None:
        """Why a part of the process ended by itself."""
        ...

    @property
    def is_listening(self) -> bool:
        """Whether every listener accepts connections."""
        ...

    def link_states(self) -> dict[str, Any]:
        """Return the state of every configured link."""
        ...
