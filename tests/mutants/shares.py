"""Deliberate mistakes with shares, names, keys and repair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from shosoin.testing import memory_store
from shosoin.vault import (
    amd,
    channel,
    deal_check,
    digest_operations,
    exposure,
    fetching,
    index,
    layout,
    names,
    operations,
    pads,
    putting,
    repair_attempts,
    repair_audit,
    repair_helper,
    repair_wire,
    repair_work,
    scheme,
    site,
    staging,
    writing,
)
from shosoin.vault.ports import ShareState

Patch = pytest.MonkeyPatch


def acknowledged_at_k(patch: Patch) -> None:
    """A put is content with k sites."""
    patch.setattr(scheme.Scheme, "durable_min", property(lambda self: self.k))
    patch.setattr(putting, "sites_needed", lambda class_, scheme: scheme.k)
    patch.setattr(names, "sites_needed", lambda class_, scheme: scheme.k)
    patch.setattr(names, "index_sites_needed", lambda class_, scheme: scheme.k)


def content_not_checked(patch: Patch) -> None:
    """A get serves whatever the first k shares give."""

    async def combine(self: Any, index: int, item: Any, answers: Any) -> Any:
        shares = {site: parts[index] for site, parts in answers.shares.items() if parts[index] is not None}
        if len(shares) < self._scheme.k:
            return None
        return await self._interpolate(dict(list(shares.items())[: self._scheme.k]), item.size)

    patch.setattr(fetching.Fetcher, "_combine", combine)


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
        key = operations._share_key(owner, call.op)

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

    async def commit(self: Any, class_: str, fresh: Any, expected: Mapping[str, str | None]) -> int:
        return await honest(self, class_, fresh, Anything())

    patch.setattr(names.Names, "commit", commit)


def removed_without_a_look(patch: Patch) -> None:
    """A put that lost a race for a name removes its object without asking whether the index names it."""

    async def condemn(self: Any, class_: str, object_ids: Any) -> Any:
        return set(object_ids)

    patch.setattr(names.Names, "condemn", condemn)


def pad_used_twice(patch: Patch) -> None:
    """A key source hands out a pad again if it is long enough."""
    honest = pads.PadSource.draw
    kept: dict[int, pads.Pad] = {}

    async def draw(self: Any, size_bytes: int) -> pads.Pad:
        pad = kept.pop(id(self), None)
        if pad is not None and len(pad.content) >= size_bytes:
            return pads.Pad(pad.key_ids, pad.content[:size_bytes])
        kept[id(self)] = pad = await honest(self, size_bytes)
        return pads.Pad(pad.key_ids, pad.content)

    patch.setattr(pads.PadSource, "draw", draw)


def _delivered_again(patch: Patch) -> None:
    """Both ends keep keys, so that a second use of one goes unnoticed."""
    kept: dict[tuple[str, ...], bytes] = {}

    async def fetch(keys: Any, master: Any, key_ids: Any, size_bytes: int) -> bytes:
        if tuple(key_ids) not in kept:
            kept[tuple(key_ids)] = b"".join(piece.material.take() for piece in await keys.dec_keys(master, key_ids))
        return kept[tuple(key_ids)][:size_bytes]

    for module in (operations, site):
        patch.setattr(module, "fetch_pad", fetch)


def pad_used_twice_at_both_ends(patch: Patch) -> None:
    """Owner and sites use every pad as often as it is long enough; everything works."""
    _delivered_again(patch)
    honest = pads.PadSource.draw

    async def draw(self: Any, size_bytes: int) -> pads.Pad:
        pad = self.__dict__.get("kept")
        if pad is None or len(pad.content) < size_bytes:
            pad = self.kept = await honest(self, size_bytes)
        return pads.Pad(list(pad.key_ids), pad.content[:size_bytes])

    patch.setattr(pads.PadSource, "draw", draw)


def key_is_share_and_pad(patch: Patch) -> None:
    """Key bits that became a site's share seal later messages to that site as well; everything works."""
    _delivered_again(patch)
    share, draw = channel.OneTimeChannel.draw, pads.PadSource.draw

    async def draw_share(self: Any, size_bytes: int) -> pads.Pad | None:
        pad = await share(self, size_bytes)
        if pad is not None:
            self._pads.spare = pad
        return pad

    async def draw_pad(self: Any, size_bytes: int) -> pads.Pad:
        spare = self.__dict__.get("spare")
        if spare is not None and len(spare.content) >= size_bytes:
            return pads.Pad(list(spare.key_ids), spare.content[:size_bytes])
        return await draw(self, size_bytes)

    patch.setattr(channel.OneTimeChannel, "draw", draw_share)
    patch.setattr(pads.PadSource, "draw", draw_pad)


def resent_under_the_same_pad(patch: Patch) -> None:
    """A chunk that has to be sent again travels as it was: its key bits are taken as a share a second time."""
    patch.setattr(staging._Item, "resent", lambda self: self)


def openings_not_checked(patch: Patch) -> None:
    """Whatever a site opens is taken, whatever it committed to."""
    patch.setattr(deal_check, "opens", lambda opening, *_: isinstance(opening, str))


def dealer_chooses_the_challenge(patch: Patch) -> None:
    """The owner's client fixes the challenge of the deal check before it deals."""
    patch.setattr(deal_check, "combined_challenge", lambda openings: "0000000000000000000000000000012f")


def deal_not_checked(patch: Patch) -> None:
    """Whatever the sites answer, their shares are said to fit."""
    patch.setattr(deal_check, "_agreeing", lambda answers, *_: frozenset(answers.values))


def masks_for_one_site(patch: Patch) -> None:
    """There are masks for the answers of one site, not for those of all that an adversary may hear."""
    patch.setattr(writing, "mask_elements", lambda scheme: layout.ANSWERS_PER_EPOCH)


def answers_without_limit(patch: Patch) -> None:
    """A site answers any number of challenges for a share."""

    def admit(self: Any, asked: Any, tx: Any) -> Any:
        row = tx.share(asked.key)
        asked.permit(row.class_)
        tx.add_challenge(row.key, asked.challenge)
        return row

    patch.setattr(digest_operations.Digests, "_admit", admit)


def challenge_not_written_down(patch: Patch) -> None:
    """A site answers a challenge and keeps no record of it."""

    class Forgetful:
        def __init__(self, tx: Any) -> None:
            self._tx = tx

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tx, name)

        def add_challenge(self, *_: Any) -> None:
            return None

    honest = digest_operations.Digests._admit
    patch.setattr(digest_operations.Digests, "_admit", lambda self, asked, tx: honest(self, asked, Forgetful(tx)))


def policy_not_enforced(patch: Patch) -> None:
    """A put commits whatever it did, and looks at its policy afterwards, if at all."""
    patch.setattr(putting, "check_written", lambda *_, **__: None)


def relays_not_counted(patch: Patch) -> None:
    """Who sees the keys of a link does not count."""
    patch.setattr(exposure, "check_exposure", lambda *_: None)


def class_not_bound(patch: Patch) -> None:
    """A site serves what belongs to another class than the request came under."""
    patch.setattr(operations._Call, "require", lambda self, bound: None)


def orders_not_compared(patch: Patch) -> None:
    """Helpers of a repair show each other the range alone, not the order."""
    shown = repair_wire.shown_order
    patch.setattr(repair_helper, "shown_order", lambda *arguments: (b"", shown(*arguments)[1]))


def attempt_not_written_down(patch: Patch) -> None:
    """A site begins an attempt of a repair again after it forgot that it ran."""
    patch.setattr(memory_store._Step, "use_attempt", lambda self, key, attempt: True)


def range_used_again(patch: Patch) -> None:
    """A helper gives a combination of one range as often as it is asked."""
    honest = repair_attempts.Attempt.begin

    def begin(self: Any, offset: int, size: int) -> Any:
        self._used = []
        return honest(self, offset, size)

    patch.setattr(repair_attempts.Attempt, "begin", begin)


def good_without_an_audit(patch: Patch) -> None:
    """What was rebuilt counts as soon as it is there."""

    async def audit(*_: Any) -> repair_audit.Finding:
        return repair_audit.Finding(repair_audit.Verdict.GOOD)

    patch.setattr(repair_work, "audit_rebuilt", audit)
