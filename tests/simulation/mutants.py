"""Deliberate mistakes, each of which the simulation must find."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.vault import acceptor, fetching, names, operations, pads, putting, scheme
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
    patch.setattr(names, "sites_needed", lambda class_, scheme: scheme.k)
    patch.setattr(names, "index_sites_needed", lambda class_, scheme: scheme.k)


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
