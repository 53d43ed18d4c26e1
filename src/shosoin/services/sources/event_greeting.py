"""The first frame of each end on the channel of an event-level link: what it is set to, and whether it is suspended.

It comes before any message that costs authentication key, so that two ends that cannot work together find that out for
nothing, and both say so. Nothing rests on it: it is not authenticated but by TLS, and what the ends must have in common
for a key they compare again in the first authenticated messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shosoin.base import PeerFault
from shosoin.link.postprocessing.errors import ParametersDiffer

__all__ = ["Greeting", "read_greeting"]

_KIND = b"G"
_BYTES_MAX = 1 << 14


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an end says of itself."""

    line: Mapping[str, Any]
    """See ``EventLine.to_json``."""
    is_suspended: bool

    def encode(self) -> bytes:
        """Return the frame."""
        return _KIND + json.dumps({"line": dict(self.line), "suspended": self.is_suspended}, sort_keys=True).encode()

    def require_same(self, theirs: Greeting) -> None:
        """Check that both ends are set alike.

        Raises:
            ParametersDiffer: they are not; it names what differs, and no value of the peer.
        """
        differing = sorted(name for name in self.line if self.line[name] != theirs.line.get(name, ...))
        if differing or self.line.keys() != theirs.line.keys():
            names = ", ".join(differing) or "format"
            raise ParametersDiffer(f"the two ends of the link differ in: {names}")


def read_greeting(frame: bytes) -> Greeting:
    """Return what a peer's first frame says.

    Raises:
        PeerFault: it is no greeting.
    """
    try:
        if frame[:1] != _KIND or len(frame) > _BYTES_MAX:
            raise ValueError("no greeting")
        found = json.loads(frame[1:])
        line, is_suspended = found["line"], found["suspended"]
        if not isinstance(line, dict) or not isinstance(is_suspended, bool):
            raise TypeError("no greeting")
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise PeerFault(
            "the peer's devices did not say what they are set to",
            code="source.wrong_frame",
            hint="both ends must run the same version, with kind = 'events'",
        ) from err
    return Greeting(line, is_suspended)
