"""What a demonstration is asked to show, who hears of it, and what it showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

__all__ = ["DEFAULT_SCENARIO", "SMALL_FILE_BYTES_MAX", "DemoOptions", "DemoResult", "Reporter", "SiteOutcome"]

DEFAULT_SCENARIO = "five-sites"
SMALL_FILE_BYTES_MAX = 64 << 10
"""What the key stock of any sensible scenario pays for; for a larger file the policy names a fallback."""


class Reporter(Protocol):
    """Hears what happens, as it happens."""

    def say(self, message_id: str, **fields: Any) -> None:
        """Tell a step; the id is one of the message catalogue."""
        ...


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to demonstrate."""

    file: Path | None = None
    """What to store; a small file of the package when ``None``."""
    scenario: str = DEFAULT_SCENARIO
    class_: str | None = None
    """Transfer class ``its``, ``qkd`` or ``auto``.

    When ``None`` the scenario's; but ``auto`` where that is ``its`` and the given file is above
    ``SMALL_FILE_BYTES_MAX``.
    """
    lose: int | None = None
    """How many sites to kill; n - k when ``None``."""
    directory: Path | None = None
    """Where the testbed lives; a temporary directory when ``None``."""
    keep: bool = False
    """Keep a temporary directory."""


@dataclass(frozen=True, slots=True)
class SiteOutcome:
    """What became of one site."""

    name: str
    domain: str
    outcome: str
    """``home``, ``ok``, ``lost`` or ``lied``."""


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration showed; every field is measured or compared, none is assumed."""

    file: str
    file_bytes: int
    scheme: tuple[int, int]
    sites: tuple[SiteOutcome, ...]
    identical: bool
    """Both copies, the one fetched with sites lost and the one fetched past the liar, equal the file."""
    altered: str
    """The site whose share was altered."""
    liar_named: str | None
    """The site that the system named as liar."""
    durable_at: int
    key_bits_by_link: Mapping[str, int]
    """Key bits used between the home site and each other site, by the put and both gets."""
    put_seconds: float
    get_seconds: float
    """The get with sites lost."""
    get_past_liar_seconds: float
    up_seconds: float
    label: Mapping[str, Any]
    directory: Path | None
    """Where the testbed was kept, ``None`` when it was removed."""

    @property
    def lost(self) -> list[str]:
        """Sites that were killed."""
        return [site.name for site in self.sites if site.outcome == "lost"]

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``shosoin demo --json`` prints."""
        return {
            "file": self.file,
            "file_bytes": self.file_bytes,
            "scheme": {"k": self.scheme[0], "n": self.scheme[1]},
            "sites": [site.name for site in self.sites],
            "lost": self.lost,
            "identical": self.identical,
            "liar_altered": self.altered,
            "liar_named": self.liar_named,
            "durable_at": self.durable_at,
            "key_bits_used": sum(self.key_bits_by_link.values()),
            "key_bits_by_link": dict(self.key_bits_by_link),
            "put_seconds": round(self.put_seconds, 6),
            "get_seconds": round(self.get_seconds, 6),
            "get_past_liar_seconds": round(self.get_past_liar_seconds, 6),
            "up_seconds": round(self.up_seconds, 6),
            "simulated": bool(self.label["simulated"]),
            "label": dict(self.label),
            "directory": None if self.directory is None else str(self.directory),
        }
