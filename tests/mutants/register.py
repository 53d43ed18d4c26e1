"""Deliberate mistakes in registers: quorums, what a read settles, what may follow what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.vault import acceptor, electorate, proposing, scheme
from shosoin.vault.catalog import Catalog
from shosoin.vault.ports import ShareState
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


def reads_do_not_settle(patch: Patch) -> None:
    """A read serves as proven what it found, whoever else holds it."""

    async def settle(self: Any, *_: Any) -> None:
        return None

    def is_settled(self: Any, found: Any, vouched: Any) -> bool:
        best = found.best
        return bool((best.value.electorate if best is not None else self._electorate).can_read(found.held))

    patch.setattr(Catalog, "_settle", settle)
    patch.setattr(Catalog, "_is_settled", is_settled)


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
