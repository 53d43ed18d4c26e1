"""Deliberate mistakes with shares, contents, names and policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shosoin.vault import (
    amd,
    calls,
    index,
    index_parts,
    manifest,
    names,
    operations,
    proposing,
    putting,
    scheme,
)
from shosoin.vault.ports import ShareState

Patch = pytest.MonkeyPatch


def acknowledged_at_k(patch: Patch) -> None:
    """A put is content with k sites."""
    patch.setattr(scheme.Scheme, "durable_min", property(lambda self: self.k))
    patch.setattr(putting, "sites_needed", lambda class_, scheme: scheme.k)
    patch.setattr(index_parts, "sites_needed", lambda class_, scheme: scheme.k)
    patch.setattr(index_parts, "index_sites_needed", lambda class_, scheme: scheme.k)


def content_not_checked(patch: Patch) -> None:
    """A get serves bytes whatever their authenticator says."""
    patch.setattr(manifest.SegmentEntry, "holds", lambda self, content: True)


def code_word_not_checked(patch: Patch) -> None:
    """Names are taken from whatever the first k shares of an index give."""

    def decode(coded: Any) -> bytes | None:
        view = memoryview(coded)
        return bytes(view[: -amd.OVERHEAD_BYTES]) if len(view) >= amd.OVERHEAD_BYTES else None

    patch.setattr(index, "amd_decode", decode)


def erased_before_commit(patch: Patch) -> None:
    """A put erases all older shares of an object once its own are there, not once they count."""
    honest = operations.SiteOperations._erase

    def erase(self: Any, owner: Any, call: Any) -> Any:
        step = honest(self, owner, call)

        def all_of_it(tx: Any) -> Any:
            for share in tx.shares_of(owner.owner, call.op["object"]):
                if share.state is ShareState.COMMITTED:
                    tx.delete_share(share.key)
            return step(tx)

        return all_of_it

    patch.setattr(operations.SiteOperations, "_erase", erase)


def offered_shares_withdrawn(patch: Patch) -> None:
    """A put that fails withdraws its shares, although a site may have accepted the value that counts on them."""

    honest = putting.Putter._propose

    async def propose(self: Any, items: Any, stager: Any) -> Any:
        outcomes = await honest(self, items, stager)
        if any(outcome.error is not None for outcome in outcomes):
            await stager.abort([item.key for item in items])
        return outcomes

    def drop(self: Any, owner: Any, call: Any) -> Any:
        key = calls.share_key(owner, call.op)

        def step(tx: Any) -> dict[str, Any]:
            row = tx.share(key)
            if row is not None and row.state is not ShareState.COMMITTED:
                tx.delete_share(key)
            return {}

        return step

    patch.setattr(putting.Putter, "_propose", propose)
    patch.setattr(operations.SiteOperations, "_abort_step", drop)


def versions_mixed(patch: Patch) -> None:
    """A site gives its newest share of an object, whatever version was asked for."""

    async def rows(self: Any, owner: Any, calls: Any) -> Any:
        found = []
        for call, key in self._keyed(owner, calls):
            held = await self._store.transact(lambda tx, key=key: tx.shares_of(owner.owner, key.object_id))
            rows = [row for row in held if row.key.epoch == key.epoch]
            exact = [row for row in rows if row.key == key]
            asks = call.op.get("op") == "read"
            found.append(
                (call, max(rows, key=lambda row: row.created_wall_s) if asks and rows else next(iter(exact), None))
            )
        return found

    patch.setattr(operations.SiteOperations, "_rows", rows)


def older_entry_counts(patch: Patch) -> None:
    """Of two entries for one name the one that was read first counts, whatever its sequence number."""

    def newest(states: Any) -> Any:
        merged: dict[str, Any] = {}
        for state in states.values():
            for name, entry in state.entries().items():
                merged.setdefault(name, entry)
        return {name: entry for name, entry in merged.items() if not entry.deleted}

    patch.setattr(index, "newest", newest)


def sequence_not_raised(patch: Patch) -> None:
    """Entries of all indexes get the same sequence number."""
    patch.setattr(names.Names, "_next_sequence", lambda self: 1)


def names_taken_over(patch: Patch) -> None:
    """A name goes to whoever commits last, without a conflict."""
    honest = names.Names.commit

    class Anything(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            return self

        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = None

    async def commit(self: Any, class_: str, fresh: Any, expected: Mapping[str, str | None], *ahead: Any) -> int:
        return await honest(self, class_, fresh, Anything(), *ahead)

    patch.setattr(names.Names, "commit", commit)


def removed_without_a_look(patch: Patch) -> None:
    """A put that lost a race for a name removes its object without asking whether the index names it.

    A proposer sees in the ancestors that its value came to be and was replaced, which spares most such conflicts; so
    that goes as well.
    """

    async def condemn(self: Any, class_: str, object_ids: Any) -> Any:
        return set(object_ids)

    patch.setattr(proposing, "_was_replaced", lambda *_: False)
    patch.setattr(names.Names, "condemn", condemn)


def policy_not_enforced(patch: Patch) -> None:
    """A put commits whatever it did, and looks at its policy afterwards, if at all."""
    patch.setattr(putting, "check_written", lambda *_, **__: None)
