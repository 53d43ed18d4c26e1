"""Deliberate mistakes in registers: quorums, promises, certificates, what may follow what, and what a read settles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.vault import acceptor, attestations, catalog_answers, electorate, proposing, register_operations, scheme
from shosoin.vault.attestations import acceptance, promise
from shosoin.vault.catalog import Catalog
from shosoin.vault.ports import RegisterRow, ShareState
from shosoin.vault.values import RegisterValue

Patch = pytest.MonkeyPatch


def quorum_as_for_crashes(patch: Patch) -> None:
    """A majority decides, so that two quorums may meet in the liar alone."""
    patch.setattr(scheme.Scheme, "register_liars", property(lambda self: 0))


def read_quorum_too_small(patch: Patch) -> None:
    """A majority writes, and a read may miss every site that took part.

    Settling covers for it: who finds a value at fewer sites than a quorum asks the others; so that goes as well.
    """
    honest = Catalog._ask_some

    async def ask_some(self: Any, channels: Any, operations: Any, count: int) -> Any:
        return await honest(self, channels, operations, self._scheme.read_quorum)

    reads_do_not_settle(patch)
    quorum_as_for_crashes(patch)
    patch.setattr(scheme.Scheme, "read_quorum", property(lambda self: self.n - self.write_quorum))
    patch.setattr(
        electorate.Electorate, "can_read", lambda self, sites: len(set(sites)) >= len(self.members) - self.quorum
    )
    patch.setattr(Catalog, "_ask_some", ask_some)


def fsync_dropped(patch: Patch) -> None:
    """A node answers before its records are on the disk."""

    async def sync(self: Any) -> None:
        self._perhaps_crash("during")
        await self._pause()
        self._perhaps_crash("after")

    patch.setattr(SimulatedDisk, "_sync", sync)


def certificate_held_by_nobody(patch: Patch) -> None:
    """A put returns when its value is certified, before a quorum holds the certificate."""
    honest = proposing.Proposer._commit

    async def commit(self: Any, channels: Any, attempts: Any) -> None:
        await honest(self, channels, attempts)
        for attempt in attempts:
            attempt.outcome.done = True

    patch.setattr(proposing.Proposer, "_commit", commit)


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
    """Nobody counts how many sites signed a certificate."""
    patch.setattr(acceptor.Certified, "check", lambda self: None)


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


def reads_do_not_settle(patch: Patch) -> None:
    """A read serves as proven what it found, whoever else holds it."""

    async def settle(self: Any, *_: Any) -> None:
        return None

    def is_settled(self: Any, found: Any, vouched: Any) -> bool:
        best = found.best
        return bool((best.value.electorate if best is not None else self._electorate).can_read(found.held))

    patch.setattr(Catalog, "_settle", settle)
    patch.setattr(Catalog, "_is_settled", is_settled)


def any_top_will_do(patch: Patch) -> None:
    """A site builds on any certified value that it is shown, not on the newest that the promises name."""
    honest = acceptor._top

    def top(row: Any, given: Any) -> Any:
        return given.top.value if given.top is not None else honest(row, given)

    patch.setattr(acceptor, "_top", top)


def parent_not_compared(patch: Patch) -> None:
    """Any value may follow any other."""
    patch.setattr(RegisterValue, "follows", lambda self, other: True)


def _follows_but(patch: Patch, blind: Any) -> None:
    honest = RegisterValue.follows
    patch.setattr(RegisterValue, "follows", lambda self, other: honest(*blind(self, other)))


def tombstone_followed(patch: Patch) -> None:
    """A version may follow the removal of its object."""
    _follows_but(patch, lambda self, other: (self, replace(other, kind="object")))


def revision_ignored(patch: Patch) -> None:
    """A new version, or another site part, may build on an older site part."""

    def blind(value: RegisterValue, other: RegisterValue) -> tuple[RegisterValue, RegisterValue]:
        if value.version == other.version:
            return replace(value, revision=other.revision + 1), other
        return replace(value, parent_revision=other.revision), other

    _follows_but(patch, blind)


def one_membership_decides(patch: Patch) -> None:
    """Where members change, a quorum of the new ones decides alone."""
    patch.setattr(RegisterValue, "electorates", property(lambda self: (self.electorate,)))
    patch.setattr(acceptor, "decided_by", lambda electorates, sites: electorates[0].has_quorum(sites))
    patch.setattr(proposing, "decided_by", lambda electorates, sites: electorates[0].has_quorum(sites))


def accept_without_pin(patch: Patch) -> None:
    """A site accepts a value and lets its share be collected."""
    honest = acceptor.accept

    def accept(tx: Any, *given: Any, **options: Any) -> Any:
        class Unpinned:
            def __getattr__(self, name: str) -> Any:
                return getattr(tx, name)

            def put_share(self, row: Any) -> None:
                tx.put_share(row if row.state is not ShareState.PINNED else row.with_state(ShareState.STAGED))

        return honest(Unpinned(), *given, **options)

    patch.setattr(acceptor, "accept", accept)


def accept_without_share(patch: Patch) -> None:
    """A site accepts a value whose share it does not hold."""
    honest = acceptor._pin

    def pin(tx: Any, site: Any, owner: Any, value: Any) -> None:
        honest(tx, site, owner, replace(value, added=0))

    patch.setattr(acceptor, "_pin", pin)
