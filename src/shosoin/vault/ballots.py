"""Ballots: (round, proposer), compared in this order. A proposer's name is fresh and random for every proposal.

Names are made of ``- . 0-9 A-Z _ a-z``. A name with one more ``-``, the least of these, comes next in the order: no
ballot lies between the two, so whoever had a value certified under the first may go on with the second as if it were
the same.
"""

from __future__ import annotations

import re
from typing import Any

from shosoin.base import Rejected

__all__ = ["FIRST_ROUND", "JUMP_MAX", "NO_BALLOT", "ROUND_MAX", "Ballot", "ballot_after", "parse_ballot", "round_of"]

Ballot = tuple[int, str]
NO_BALLOT: Ballot = (0, "")
FIRST_ROUND = 1
"""The round of the creator of a register whose ID is random and new; it needs no promises."""
ROUND_MAX = 1 << 40
JUMP_MAX = 1 << 16
"""How far a ballot may be beyond all others: near the end of the numbers it would block the register for ever."""
_PROPOSER_MAX = 64
_NAME = re.compile(rf"[-.0-9A-Z_a-z]{{1,{_PROPOSER_MAX}}}")
_LEAST = "-"


def parse_ballot(raw: Any, *, none_too: bool = False) -> Ballot:
    """Read a ballot from outside; ``none_too`` lets "no ballot yet" in.

    Raises:
        Rejected: it is none.
    """
    if isinstance(raw, list) and len(raw) == 2 and type(raw[0]) is int and isinstance(raw[1], str):
        if FIRST_ROUND <= raw[0] <= ROUND_MAX and _NAME.fullmatch(raw[1]):
            return raw[0], raw[1]
        if none_too and (raw[0], raw[1]) == NO_BALLOT:
            return NO_BALLOT
    raise Rejected("a ballot that cannot be read", code="vault.bad_ballot")


def round_of(promised: Any) -> int:
    """Return the round of a promise that a site reports, 0 if it is junk."""
    known = isinstance(promised, list) and promised and type(promised[0]) is int
    return promised[0] if known and 0 <= promised[0] < ROUND_MAX else 0


def ballot_after(ballot: Ballot) -> Ballot | None:
    """Return the ballot with none between it and this one; ``None`` when the name would be too long."""
    name = ballot[1] + _LEAST
    return (ballot[0], name) if len(name) <= _PROPOSER_MAX else None
