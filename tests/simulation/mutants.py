"""Deliberate mistakes, each of which the simulation must find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.vault import acceptor, catalog, fetching, names, operations, pads, putting, scheme
from shosoin.vault.catalog import Catalog
from shosoin.vault.ports import ShareState

Patch = pytest.MonkeyPatch


def commits_are_not_durable(patch: Patch) -> None:
    """A node answers before its records are on the disk."""

    async def sync(self) -> None:
        self._perhaps_crash("during")
        await self._pause()
        self._perhaps_crash("after")

    patch.setattr(SimulatedDisk, "_sync", sync)


def read_quorum_too_small(patch: Patch) -> None:
    """A read may miss every site that took part in a write."""
    patch.setattr(scheme.Scheme, "write_quorum", property(lambda self: self.n // 2 + 1))
    patch.setattr(scheme.Scheme, "read_quorum", property(lambda self: self.n - self.write_quorum))


def acknowledged_at_k(patch: Patch) -> None:
    """A put is content with k sites."""
    patch.setattr(scheme.Scheme, "durable_min", property(lambda self: self.k))
    patch.setattr(putting, "sites_needed", lambda class_, scheme: scheme.k)


def content_is_not_checked(patch: Patch) -> None:
    """A get serves whatever the first k shares give."""

    async def combine(self, index, item, answers):
        shares = {site: parts[index] for site, parts in answers.shares.items() if parts[index] is not None}
        if len(shares) < self._scheme.k:
            return None
        return await self._interpolate(dict(list(shares.items())[: self._scheme.k]), item.size)

    patch.setattr(fetching.Fetcher, "_combine", combine)


def accept_does_not_pin(patch: Patch) -> None:
    """A site accepts a value and lets its share be collected."""
    honest = acceptor.accept

    def accept(tx, site, owner, register_id, ballot, value):
        class Unpinned:
            def __getattr__(self, name: str) -> Any:
                return getattr(tx, name)

            def put_share(self, row) -> None:
                tx.put_share(row if row.state is not ShareState.PINNED else row.with_state(ShareState.STAGED))

        return honest(Unpinned(), site, owner, register_id, ballot, value)

    patch.setattr(acceptor, "accept", accept)


def reads_do_not_write_back(patch: Patch) -> None:
    """A read returns what only some sites know, and the next read may not see it."""

    async def nothing(*_: Any) -> None:
        pass

    patch.setattr(Catalog, "_write_back", nothing)


def unfinished_values_are_dropped(patch: Patch) -> None:
    """A writer overwrites a value that may have been chosen already."""
    patch.setattr(Catalog, "_maybe_chosen", lambda *_: None)


def pads_are_used_twice(patch: Patch) -> None:
    """A key source hands out a pad again if it is long enough."""
    honest = pads.PadSource.draw
    kept: dict[int, pads.Pad] = {}

    async def draw(self, size_bytes):
        pad = kept.pop(id(self), None)
        if pad is not None and len(pad.content) >= size_bytes:
            return pads.Pad(pad.key_ids, pad.content[:size_bytes])
        kept[id(self)] = pad = await honest(self, size_bytes)
        return pads.Pad(pad.key_ids, pad.content)

    patch.setattr(pads.PadSource, "draw", draw)


def names_are_overwritten(patch: Patch) -> None:
    """A writer does not notice that a name went to another object meanwhile."""
    honest = names.Names.commit

    async def commit(self, class_, fresh, expected):
        known = self.entries()
        now = {entry.name: known[entry.name].object_id if entry.name in known else None for entry in fresh}
        return await honest(self, class_, fresh, {**expected, **now})

    patch.setattr(names.Names, "commit", commit)


def erased_before_commit(patch: Patch) -> None:
    """A put erases all older shares of an object once its own are there, not once they count."""
    honest = operations.SiteOperations._erase

    def erase(self, owner, call):
        step = honest(self, owner, call)

        def all_of_it(tx):
            for share in tx.shares_of(owner.owner, call.op["object"]):
                if share.state is ShareState.COMMITTED:
                    tx.delete_share(share.key)
            return step(tx)

        return all_of_it

    patch.setattr(operations.SiteOperations, "_erase", erase)


def conflicts_are_ignored(patch: Patch) -> None:
    """A writer's value replaces another one than its parent."""
    honest = Catalog._adopt

    def adopt(self, attempt, index, asked):
        honest(self, attempt, index, asked)
        if isinstance(attempt.outcome.error, catalog.Conflict):
            attempt.outcome.error = None

    patch.setattr(Catalog, "_adopt", adopt)


MUTANTS: dict[str, Callable[[Patch], None]] = {
    each.__name__: each
    for each in (
        commits_are_not_durable,
        read_quorum_too_small,
        acknowledged_at_k,
        content_is_not_checked,
        accept_does_not_pin,
        reads_do_not_write_back,
        unfinished_values_are_dropped,
        pads_are_used_twice,
        names_are_overwritten,
        erased_before_commit,
        conflicts_are_ignored,
    )
}
