"""What a look at this machine found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    topic: str
    """Message id of its name, without the ``doctor.`` in front."""
    found: str
    means: str
    """Message id of what it means for the label, likewise."""
    good: bool
    """Whether it is as good as software can make it."""
    details: dict[str, Any]
    """The same for programs."""
