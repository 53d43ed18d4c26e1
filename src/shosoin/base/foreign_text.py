r"""Text that others sent, made fit for a log line or a terminal.

A message of a peer may hold anything: escape sequences that a terminal obeys, marks that turn the reading direction,
line ends that forge a second log line, megabytes. What is left here is printable ASCII in one line.

>>> printable_text("refused\x1b[2J: no\nroom")
'refused [2J: no room'
"""

from __future__ import annotations

import re
from typing import Any

__all__ = ["printable_text"]

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


def printable_text(text: Any, characters_max: int = 200) -> str:
    """Return a peer's text as printable ASCII of at most ``characters_max`` characters; empty if it is no text."""
    if not isinstance(text, str):
        return ""
    return _UNPRINTABLE.sub(" ", text[: 2 * characters_max])[:characters_max].strip()
