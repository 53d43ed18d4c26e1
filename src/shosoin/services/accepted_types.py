"""Which of two media types a client prefers, by its Accept header (RFC 9110, section 12.5.1).

>>> prefers("text/html;version=1.0.0;q=0.5, text/plain;q=0.2", "text/html", "text/plain")
True
>>> prefers("*/*", "text/html", "text/plain")
False
"""

from __future__ import annotations

__all__ = ["prefers"]


def prefers(accept: str, wanted: str, other: str) -> bool:
    """Return whether ``wanted``, in its version 1, is named and not less welcome than ``other``."""
    ranges = [_parsed(part) for part in accept.lower().split(",")]
    weight = max((weight for name, version, weight in ranges if name == wanted and version == "1"), default=0.0)
    return weight > 0 and weight >= max((weight for name, _, weight in ranges if name == other), default=0.0)


def _parsed(media_range: str) -> tuple[str, str, float]:
    """Return the type, its major version (1 where none is said), and its weight."""
    name, *parameters = (part.strip() for part in media_range.split(";"))
    said = dict(parameter.partition("=")[::2] for parameter in parameters)
    try:
        weight = float(said.get("q", "1"))
    except ValueError:
        weight = 0.0
    return name, said.get("version", "1").partition(".")[0], weight if 0 <= weight <= 1 else 0.0
