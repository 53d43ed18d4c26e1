"""How post-processing fails, and why a block may end without a key."""

from __future__ import annotations

from enum import IntEnum

from shosoin.base import Alarm, PeerFault, Rejected, ShosoinError, Unavailable

__all__ = [
    "AuthenticationDry",
    "JournalRefused",
    "LinkError",
    "MessageForged",
    "MessageMalformed",
    "ParametersDiffer",
    "PeerBrokeProtocol",
    "RecordRejected",
    "VoidReason",
]


class LinkError(ShosoinError):
    """A failure of the link layer."""

    code = "link.error"


class MessageForged(LinkError, Alarm):
    """A message carries no right tag, or comes out of turn: somebody changed, replayed, dropped or reordered it.

    The session ends with it, and every block in flight with the session. One message is one guess at a tag.
    """

    code = "link.message_forged"
    hint = "somebody may be changing what passes on the classical channel; the session starts anew"


class MessageMalformed(LinkError, PeerFault):
    """A message whose bytes follow no format. With a right tag this is a defect of the peer."""

    code = "link.message_malformed"
    hint = "both ends must run the same version"


class PeerBrokeProtocol(LinkError, PeerFault):
    """An authentic message that no correct peer sends at this point."""

    code = "link.peer_broke_protocol"
    hint = "both ends must run the same version"


class ParametersDiffer(LinkError, Rejected):
    """The two ends were configured differently; no bit was used."""

    code = "link.parameters_differ"
    hint = "give both ends the same settings, bound, epsilons, block size and codes"


class RecordRejected(LinkError, Rejected):
    """What a device recorded cannot be used."""

    code = "link.bad_record"


class AuthenticationDry(LinkError, Unavailable):
    """No key is left to authenticate the next message with."""

    code = "link.authentication_dry"
    hint = "give both ends a new start key"


class JournalRefused(LinkError, Alarm):
    """The journal contradicts the peer: a restored backup, perhaps. Going on might use a key bit twice."""

    code = "link.journal_refused"
    hint = "remove the state of both ends and give them a new start key"


class VoidReason(IntEnum):
    """Why a block ends without a key; the number is what goes over the wire."""

    NO_SECRET_LENGTH = 1
    """The bound gives no secret bit for these counts."""
    QBER_ABOVE_LIMIT = 2
    NOT_EQUAL = 3
    """The verification hashes differ."""
    TOO_SHORT = 4
    """The record ended before the block was worth a key."""
    SUSPENDED = 5
    """A monitor suspended the link."""
    ONE_BASIS = 6
    """No detection in one of the two bases."""
    ABANDONED = 7
    """The session ended while the block was in flight."""
    DISCARDED = 8
    """A monitor found the block suspicious."""
    TOO_LONG = 9
    """More bits in the key basis than the codes take: the devices choose bases otherwise than they are said to."""

    @property
    def code(self) -> str:
        """The reason as an error code spells it."""
        return f"link.{self.name.lower()}"

    @property
    def is_alarm(self) -> bool:
        """Whether an adversary is the likely cause."""
        return self in {VoidReason.QBER_ABOVE_LIMIT, VoidReason.NOT_EQUAL, VoidReason.SUSPENDED, VoidReason.DISCARDED}
