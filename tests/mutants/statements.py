"""Deliberate mistakes with what sites and owners sign: promises, acceptances, certificates, values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shosoin.vault import acceptor, attestations, catalog_answers, register_operations
from shosoin.vault.attestations import acceptance, promise
from shosoin.vault.ports import RegisterRow
from shosoin.vault.values import RegisterValue, read_value

Patch = pytest.MonkeyPatch


def promises_not_bound(patch: Patch) -> None:
    """A site promises every ballot, and takes what is older than its promise."""

    def prepare(tx: Any, owner: Any, register_id: Any, ballot: Any) -> Any:
        row = tx.register(owner, register_id) or RegisterRow()
        tx.put_register(owner, register_id, replace(row, promised=ballot))
        state = {**acceptor._state(replace(row, promised=ballot)), "granted": True}
        digest = attestations.digest_of(row.committed_value) if row.committed_value else None
        return state, promise(owner, register_id, ballot, row.committed_ballot, digest)

    _taking_older(patch)
    patch.setattr(acceptor, "prepare", prepare)


def _taking_older(patch: Patch) -> None:
    honest = acceptor.accept

    def accept(tx: Any, site: Any, owner: Any, register_id: Any, ballot: Any, value: Any, **options: Any) -> Any:
        row = tx.register(owner, register_id)
        if row is not None and ballot < row.promised:
            tx.put_register(owner, register_id, replace(row, promised=ballot))
        return honest(tx, site, owner, register_id, ballot, value, **options)

    patch.setattr(acceptor, "accept", accept)


def accepts_older_than_promised(patch: Patch) -> None:
    """A site keeps no promise when it is asked to accept."""
    _taking_older(patch)


def accepts_two_values_under_one_ballot(patch: Patch) -> None:
    """A site accepts another value under a ballot under which it accepted one."""
    honest = acceptor.accept

    def accept(tx: Any, site: Any, owner: Any, register_id: Any, ballot: Any, value: Any, **options: Any) -> Any:
        row = tx.register(owner, register_id)
        if row is not None and row.accepted_ballot == ballot:
            tx.put_register(owner, register_id, replace(row, accepted_ballot=(0, ""), accepted_value=None))
        return honest(tx, site, owner, register_id, ballot, value, **options)

    patch.setattr(acceptor, "accept", accept)


def accepts_without_justification(patch: Patch) -> None:
    """A site accepts any value that its owner signed, without promises."""
    patch.setattr(acceptor, "_check_justified", lambda *_: None)


def goes_on_under_any_ballot(patch: Patch) -> None:
    """A value may follow whatever certified value is shown, under any ballot and without promises."""

    def goes_on(row: Any, ballot: Any, value: RegisterValue, given: Any) -> bool:
        return given is not None and given.top is not None and not given.promises and value.follows(given.top.value)

    patch.setattr(acceptor, "_goes_on", goes_on)


def next_ballot_leaves_room(patch: Patch) -> None:
    """The ballot after a ballot is not the next one: others lie between."""
    patch.setattr(acceptor, "ballot_after", lambda ballot: (ballot[0], f"{ballot[1]}z"))


def promises_of_few_justify(patch: Patch) -> None:
    """A site is content with the promises of less than a quorum."""
    patch.setattr(acceptor, "decided_by", lambda electorates, sites: bool(set(sites)))


def site_checks_no_signatures(patch: Patch) -> None:
    """A site takes a certificate for what it claims."""
    honest = register_operations.RegisterOperations._accepting

    def accepting(self: Any, call: Any, *rest: Any) -> Any:
        certificate, _ = honest(self, call, *rest)
        return certificate, certificate.sites

    patch.setattr(register_operations.RegisterOperations, "_accepting", accepting)


def reader_checks_no_signatures(patch: Patch) -> None:
    """The owner's client takes a certificate for what it claims."""
    honest = catalog_answers.AnswerReader._certify

    def certify(self: Any, *given: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(attestations.Certificate, "signers", lambda certificate, *_: certificate.sites)
            return honest(self, *given)

    patch.setattr(catalog_answers.AnswerReader, "_certify", certify)


def certificate_of_few(patch: Patch) -> None:
    """Nobody counts how many sites signed a certificate, nor asks for one among them that cannot be a liar."""
    patch.setattr(acceptor.Certified, "check", lambda self: None)
    for module in (acceptor, catalog_answers):
        patch.setattr(module, "_check_vouched", lambda *_: None)


def certificate_names_another_value(patch: Patch) -> None:
    """What a site signs when it accepts does not say which value."""

    def vague(owner: Any, register_id: Any, ballot: Any, digest: str) -> bytes:
        return acceptance(owner, register_id, ballot, "")

    patch.setattr(attestations, "acceptance", vague)


def commit_after_a_newer_promise(patch: Patch) -> None:
    """A site takes a certificate although it promised something newer, and accepts on what it did not tell.

    Without the second half a site that took such a commit still refuses what its own register contradicts.
    """
    honest = acceptor.commit

    def commit(tx: Any, site: Any, owner: Any, register_id: Any, certified: Any) -> Any:
        row = tx.register(owner, register_id) or RegisterRow()
        tx.put_register(owner, register_id, replace(row, promised=min(row.promised, certified.ballot)))
        return honest(tx, site, owner, register_id, certified)

    patch.setattr(acceptor, "_check_justified", lambda *_: None)
    patch.setattr(acceptor, "commit", commit)


def any_top_will_do(patch: Patch) -> None:
    """A site builds on any certified value that it is shown, not on the newest that the promises name."""
    honest = acceptor._top

    def top(row: Any, given: Any) -> Any:
        return given.top.value if given.top is not None else honest(row, given)

    patch.setattr(acceptor, "_top", top)


def owner_signature_not_checked(patch: Patch) -> None:
    """Sites and readers take a value without its owner's signature."""
    patch.setattr(RegisterValue, "verify", lambda self, public_key: None)


def any_register_will_do(patch: Patch) -> None:
    """A reader does not ask which register a certified value is of."""
    honest = catalog_answers.AnswerReader.committed

    def committed(self: Any, register_id: Any, answer: Any, sets: Any) -> Any:
        text = answer.get("committed")
        return honest(self, read_value(str(text)).register_id if text else register_id, answer, sets)

    patch.setattr(catalog_answers.AnswerReader, "committed", committed)
