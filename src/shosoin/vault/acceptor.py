"""The site's half of the catalog register: promises, acceptances, commits.

One register per object, with ballots (round, proposer). A value counts only with its *certificate*, the signed
acceptances of a quorum, and a change is done when a quorum holds the certificate. Whoever proposes under a ballot must
show signed promises of a quorum for it, and may only follow the newest certified value among them; or the certificate
of the ballot right before, and follow that value, for nothing can have come in between. So up to f_r sites may lie,
forget, fork or roll back: two quorums meet in a truthful site, which accepts one value under a ballot, and which told
of the certificate that it held.

A site accepts a value only if it holds the staged share that the value adds, and pins it in the same transaction; so a
slow writer never loses its share to orphan collection. Round 1 belongs to the creator of a random register ID and needs
no promises; a site accepts it only where nothing else was promised or accepted.

Source: the three phases and their quorums as in Castro and Liskov, "Practical Byzantine fault tolerance" (OSDI 1999),
with the proposer in the place of the primary; one register per object as in Rystsov, "CASPaxos" (arXiv 1802.07000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shosoin.base import ObjectId, OwnerId, Rejected, SiteId
from shosoin.vault import attestations
from shosoin.vault.attestations import BadCertificate, Certificate, Promise, SignatureSet
from shosoin.vault.ballots import FIRST_ROUND, JUMP_MAX, NO_BALLOT, Ballot, ballot_after
from shosoin.vault.electorate import decided_by
from shosoin.vault.ports import RegisterRow, ShareState, SiteTransaction
from shosoin.vault.values import RegisterValue, read_value

__all__ = ["Certified", "Justification", "accept", "accepted", "commit", "prepare", "read_register"]


@dataclass(frozen=True, slots=True)
class Certified:
    """A value with its certificate, whose signatures were checked: ``signers`` accepted it under ``ballot``."""

    ballot: Ballot
    value: RegisterValue
    certificate: Certificate
    signatures: SignatureSet
    signers: tuple[SiteId, ...]

    def check(self) -> None:
        """Refuse a certificate without a quorum.

        Raises:
            BadCertificate: too few of those who decide about the value signed.
        """
        if not decided_by(self.value.electorates, self.signers):
            raise BadCertificate(f"a certificate with {len(self.signers)} signatures that hold is no quorum")


@dataclass(frozen=True, slots=True)
class Justification:
    """Promises for a ballot, whose signatures were checked, and the newest certified value among them.

    Without promises: the value that was certified under the ballot right before.
    """

    promises: Sequence[Promise]
    top: Certified | None
    """``None`` where the site that is asked holds that value itself, or no promise names one."""


def _check_jump(row: RegisterRow, ballot: Ballot) -> None:
    """Refuse to promise far beyond what is known; a quorum that promised or accepted a ballot is reason enough."""
    if ballot[0] > max(row.promised[0], row.committed_ballot[0]) + JUMP_MAX:
        raise Rejected(f"ballot {ballot[0]} jumps by more than {JUMP_MAX}", code="vault.bad_ballot")


def _refused(row: RegisterRow) -> dict[str, Any]:
    return {"granted": False, "promised": list(row.promised)}


def _state(row: RegisterRow) -> dict[str, Any]:
    """Return a register as an answer."""
    return {
        "promised": list(row.promised),
        "accepted_ballot": list(row.accepted_ballot),
        "committed_ballot": list(row.committed_ballot),
        "committed": row.committed_value,
        "certificate": row.certificate,
        "set": row.signature_set,
    }


def read_register(tx: SiteTransaction, owner: OwnerId, register_id: ObjectId) -> dict[str, Any]:
    """Return what this site knows of a register."""
    return _state(tx.register(owner, register_id) or RegisterRow())


def prepare(
    tx: SiteTransaction, owner: OwnerId, register_id: ObjectId, ballot: Ballot
) -> tuple[dict[str, Any], bytes | None]:
    """Promise to take nothing older than ``ballot``; return the answer and what the site has to sign for it."""
    row = tx.register(owner, register_id) or RegisterRow()
    _check_jump(row, ballot)
    if ballot <= row.promised:
        return _refused(row), None
    row = replace(row, promised=ballot)
    tx.put_register(owner, register_id, row)
    digest = attestations.digest_of(row.committed_value) if row.committed_value is not None else None
    statement = attestations.promise(owner, register_id, ballot, row.committed_ballot, digest)
    return {**_state(row), "granted": True}, statement


def accept(
    tx: SiteTransaction,
    site: SiteId,
    owner: OwnerId,
    register_id: ObjectId,
    ballot: Ballot,
    value: RegisterValue,
    *,
    justification: Justification | None = None,
) -> tuple[dict[str, Any], bytes | None]:
    """Accept a value under a ballot and pin the shares it adds; return the answer and what the site has to sign.

    Raises:
        Rejected: code ``vault.no_share`` when the value adds a share that this site should hold and does not;
            ``vault.not_justified`` when the promises do not allow this value.
    """
    row = tx.register(owner, register_id) or RegisterRow()
    repeated = row.accepted_ballot == ballot and _accepted_digest(row) == value.digest
    if ballot < row.promised or (row.accepted_ballot == ballot and not repeated):
        return _refused(row), None
    if not repeated:
        _check_justified(row, ballot, value, justification)
        if _holds_other(row, ballot, value):
            return _refused(row), None
    _pin(tx, site, owner, value)
    row = replace(row, promised=ballot, accepted_ballot=ballot, accepted_value=value.text)
    tx.put_register(owner, register_id, row)
    return {"granted": True}, attestations.acceptance(owner, register_id, ballot, value.digest)


def _holds_other(row: RegisterRow, ballot: Ballot, value: RegisterValue) -> bool:
    """Whether another value is certified under this ballot: two may go on after one, and this one came too late."""
    return ballot == row.committed_ballot and row.committed_value not in {None, value.text}


def _accepted_digest(row: RegisterRow) -> str | None:
    text = row.accepted_value
    if text is None and row.accepted_ballot == row.committed_ballot:
        text = row.committed_value  # the commit of what was accepted leaves one copy
    return attestations.digest_of(text) if text is not None else None


def _check_justified(row: RegisterRow, ballot: Ballot, value: RegisterValue, given: Justification | None) -> None:
    """Refuse a value that may not come under this ballot."""
    if _goes_on(row, ballot, value, given):
        return
    if given is None:
        if ballot[0] != FIRST_ROUND or row.promised != NO_BALLOT or value.parent is not None or value.revision:
            raise _not_justified("promises are needed unless a new register is created")
        return
    top = _top(row, given)
    electorates = [*value.electorates, *((top.electorate,) if top is not None else ())]
    if not decided_by(electorates, [one.site for one in given.promises]):
        raise _not_justified(f"{len(given.promises)} promises that hold are no quorum")
    if top is None:
        if value.parent is not None or value.revision:
            raise _not_justified("the value it replaces is not the current one")
    elif value.text != top.text and not value.follows(top):
        raise _not_justified("the value it replaces is not the current one")


def _goes_on(row: RegisterRow, ballot: Ballot, value: RegisterValue, given: Justification | None) -> bool:
    """Whether the value follows the one that was certified under the ballot right before, and the same sites decide.

    No promises are needed then: whatever was acknowledged under an older ballot came before that value.
    """
    before: RegisterValue | None = None
    if given is not None and given.top is not None and not given.promises and ballot == ballot_after(given.top.ballot):
        given.top.check()
        _check_vouched(row, given.top)
        before = given.top.value
    elif row.committed_value is not None and ballot == ballot_after(row.committed_ballot):
        before = read_value(row.committed_value)
    return before is not None and before.former is None and value.former is None and value.follows(before)


def _top(row: RegisterRow, given: Justification) -> RegisterValue | None:
    """Return the newest certified value that the promises name; it must be shown, unless the site holds it."""
    claimed = attestations.newest(given.promises)
    if claimed is None:
        return None
    top = given.top
    if top is not None and (top.ballot, top.value.digest) == (claimed.committed_ballot, claimed.committed_digest):
        top.check()
        _check_vouched(row, top)
        return top.value
    if row.committed_value is not None and row.committed_ballot == claimed.committed_ballot:
        known = read_value(row.committed_value)
        if known.digest == claimed.committed_digest:
            return known
    raise _not_justified("the newest certified value of the promises is not shown")


def _check_vouched(row: RegisterRow, certified: Certified) -> None:
    """Refuse a certificate without a signature of anybody whom this site knows to be truthful.

    A value names those who decide about it, and its owner signs that. Whoever has the owner's key could name one lying
    site alone. More than f_r of the members known here must have signed: one of them accepted it as justified.
    """
    if row.committed_value is None:
        return
    known = read_value(row.committed_value).electorate
    if len(set(certified.signers).intersection(known.members)) <= known.liars:
        raise BadCertificate("too few of those who decided before signed the certificate")


def _not_justified(why: str) -> Rejected:
    return Rejected(f"this value may not come under this ballot: {why}", code="vault.not_justified")


def _pin(tx: SiteTransaction, site: SiteId, owner: OwnerId, value: RegisterValue) -> None:
    """Pin what the value counts on here. What it adds must be held; older bodies may be missing (a replaced disk)."""
    added = {body.version for body in value.added_bodies}
    for key in value.share_keys(owner, site):
        share = tx.share(key)
        if share is None and key.version in added:
            raise Rejected(f"{site} holds no sealed share of version {key.version}", code="vault.no_share")
        if share is not None and share.state is ShareState.STAGED:
            tx.put_share(share.with_state(ShareState.PINNED))


def accepted(tx: SiteTransaction, owner: OwnerId, register_id: ObjectId, ballot: Ballot, digest: str) -> RegisterValue:
    """Return the value with a digest that this site accepted or committed under a ballot.

    Raises:
        Rejected: code ``vault.value_unknown`` when it did not.
    """
    row = tx.register(owner, register_id) or RegisterRow()
    known = ((row.accepted_ballot, row.accepted_value), (row.committed_ballot, row.committed_value))
    for held, text in known:
        if held == ballot and text is not None and (value := read_value(text)).digest == digest:
            return value
    raise Rejected("this site did not accept that value", code="vault.value_unknown")


def commit(
    tx: SiteTransaction, site: SiteId, owner: OwnerId, register_id: ObjectId, certified: Certified
) -> dict[str, Any]:
    """Take a value with its certificate, and hold it from now on.

    Refused once a newer ballot was promised: that promise said what this site held, and must stay true. A site that
    does not decide about the value takes it all the same: nobody counts it among those that hold it, and a site that
    was replaced must learn of it, or it would keep its old share for ever.
    """
    row = tx.register(owner, register_id) or RegisterRow()
    ballot, value = certified.ballot, certified.value
    if ballot == row.committed_ballot and row.committed_value == value.text:
        return {"granted": True}
    decides = any(site in electorate.members for electorate in value.electorates)
    if (decides and ballot < row.promised) or ballot <= row.committed_ballot:
        return _refused(row)
    certified.check()
    _check_vouched(row, certified)
    for key in value.share_keys(owner, site):
        share = tx.share(key)
        if share is not None and share.state is not ShareState.COMMITTED:
            tx.put_share(share.with_state(ShareState.COMMITTED))
    row = replace(
        row,
        promised=max(row.promised, ballot),
        accepted_value=None if row.accepted_ballot <= ballot else row.accepted_value,
        committed_ballot=ballot,
        committed_value=value.text,
        certificate=certified.certificate.text,
        signature_set=certified.signatures.name,
    )
    tx.put_signatures(certified.signatures.name, certified.signatures.text)
    tx.put_register(owner, register_id, row)
    return {"granted": True}
