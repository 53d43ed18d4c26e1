"""The site's half of the catalog register: promises, acceptances, commits.

One register per object, with ballots (round, proposer). A site accepts a value only if it holds the staged share that
the value counts on, and pins that share in the same transaction; so a slow writer never loses its share to orphan
collection. Round 1 belongs to the creator of a random register ID; everyone else starts at round 2 with a prepare.

What this does not do yet: sites may crash but are believed not to lie about the register (answers are unsigned).

Source: Lamport, "Paxos made simple" (2001); one register per object as in Rystsov, "CASPaxos" (arXiv 1802.07000).
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from shosoin.base import ObjectId, OwnerId, Rejected, SiteId
from shosoin.vault.ports import RegisterRow, ShareState, SiteTransaction
from shosoin.vault.values import RegisterValue, read_value

__all__ = ["Ballot", "accept", "accepted", "commit", "prepare", "read_register"]

Ballot = tuple[int, str]
_ROUND_MAX = 1 << 40
_JUMP_MAX = 1 << 16


def parse_ballot(raw: Any) -> Ballot:
    """Read a ballot from outside."""
    if (
        isinstance(raw, list)
        and len(raw) == 2
        and type(raw[0]) is int
        and 1 <= raw[0] <= _ROUND_MAX
        and isinstance(raw[1], str)
        and 1 <= len(raw[1]) <= 64
    ):
        return raw[0], raw[1]
    raise Rejected("a ballot that cannot be read", code="vault.bad_ballot")


def _check_jump(row: RegisterRow, ballot: Ballot) -> None:
    """Refuse a ballot far beyond all others: near the end of the numbers it would block the register for ever."""
    if ballot[0] > max(row.promised[0], row.committed_ballot[0]) + _JUMP_MAX:
        raise Rejected(f"ballot {ballot[0]} jumps by more than {_JUMP_MAX}", code="vault.bad_ballot")


def _counter(row: RegisterRow) -> int:
    """Return the version counter of the committed value, 0 if there is none."""
    return read_value(row.committed_value).counter if row.committed_value is not None else 0


def _state(row: RegisterRow) -> dict[str, Any]:
    """Return a register as an answer: an accepted value only where it says more than the committed one."""
    return {
        "promised": list(row.promised),
        "accepted_ballot": list(row.accepted_ballot),
        "accepted": row.accepted_value if row.accepted_value != row.committed_value else None,
        "committed_ballot": list(row.committed_ballot),
        "committed": row.committed_value,
        "certificate": row.certificate,
    }


def read_register(tx: SiteTransaction, owner: OwnerId, register_id: ObjectId) -> dict[str, Any]:
    """Return what this site knows of a register."""
    return _state(tx.register(owner, register_id) or RegisterRow())


def prepare(tx: SiteTransaction, owner: OwnerId, register_id: ObjectId, ballot: Ballot) -> dict[str, Any]:
    """Promise to accept nothing older than ``ballot``; say what was accepted before."""
    row = tx.register(owner, register_id) or RegisterRow()
    _check_jump(row, ballot)
    if ballot <= row.promised:
        return {**_state(row), "granted": False}
    row = replace(row, promised=ballot)
    tx.put_register(owner, register_id, row)
    return {**_state(row), "granted": True}


def accept(
    tx: SiteTransaction, site: SiteId, owner: OwnerId, register_id: ObjectId, ballot: Ballot, value: RegisterValue
) -> dict[str, Any]:
    """Accept a value under a ballot and pin the shares it counts on.

    Raises:
        Rejected: code ``vault.no_share`` when the value counts on a share that this site does not hold.
    """
    row = tx.register(owner, register_id) or RegisterRow()
    _check_jump(row, ballot)
    if _counter(row) > value.counter:
        return {**_state(row), "granted": False}
    if ballot < row.promised or (ballot == row.promised == row.accepted_ballot and row.accepted_value != value.text):
        return {**_state(row), "granted": False}
    added = {body.version for body in value.added_bodies}
    for key in value.share_keys(owner, site):
        share = tx.share(key)
        # an older body may be missing here (a replaced disk); only what this value adds has to be held
        if share is None and key.version in added:
            raise Rejected(f"{site} holds no sealed share of version {key.version}", code="vault.no_share")
        if share is not None and share.state is ShareState.STAGED:
            tx.put_share(share.with_state(ShareState.PINNED))
    row = replace(row, promised=ballot, accepted_ballot=ballot, accepted_value=value.text)
    tx.put_register(owner, register_id, row)
    return {"granted": True}


def accepted(tx: SiteTransaction, owner: OwnerId, register_id: ObjectId, ballot: Ballot, version: str) -> RegisterValue:
    """Return the value of a version that this site accepted under a ballot, or under a later one.

    Raises:
        Rejected: code ``vault.value_unknown`` when it did not.
    """
    row = tx.register(owner, register_id) or RegisterRow()
    value = read_value(row.accepted_value) if row.accepted_value is not None else None
    if value is None or value.version != version or row.accepted_ballot < ballot:
        raise Rejected("this site did not accept that version", code="vault.value_unknown")
    return value


def commit(
    tx: SiteTransaction,
    site: SiteId,
    owner: OwnerId,
    register_id: ObjectId,
    ballot: Ballot,
    value: RegisterValue,
    *,
    certificate: list[str],
) -> dict[str, Any]:
    """Learn that a value was chosen; idempotent, and never goes back to an older ballot."""
    row = tx.register(owner, register_id) or RegisterRow()
    _check_jump(row, ballot)
    if (value.counter, ballot) < (_counter(row), row.committed_ballot):
        return {"granted": True, "newer": True}  # whatever its ballot, an older version never comes back
    if len(set(certificate)) < value.quorum:
        raise Rejected(
            f"a certificate of {len(set(certificate))} sites, expected {value.quorum}",
            code="vault.bad_certificate",
        )
    for key in value.share_keys(owner, site):
        share = tx.share(key)
        if share is not None and share.state is not ShareState.COMMITTED:
            tx.put_share(share.with_state(ShareState.COMMITTED))
    row = replace(
        row,
        promised=max(row.promised, ballot),
        committed_ballot=ballot,
        committed_value=value.text,
        certificate=json.dumps(sorted(set(certificate))),
    )
    tx.put_register(owner, register_id, row)
    return {"granted": True}
