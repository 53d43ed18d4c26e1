"""Deliberate mistakes with keys, deals, audits, classes and repair."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.testing import memory_store
from shosoin.vault import (
    calls,
    channel,
    deal_check,
    digest_operations,
    exposure,
    layout,
    operations,
    pads,
    repair_attempts,
    repair_audit,
    repair_helper,
    repair_target,
    repair_wire,
    repair_work,
    site,
    writing,
)

Patch = pytest.MonkeyPatch


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


def relays_not_counted(patch: Patch) -> None:
    """Who sees the keys of a link does not count."""
    patch.setattr(exposure, "check_exposure", lambda *_: None)


def class_not_bound(patch: Patch) -> None:
    """A site serves what belongs to another class than the request came under."""
    patch.setattr(calls.Call, "require", lambda self, bound: None)


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


def answers_begin_anew(patch: Patch) -> None:
    """A rebuilt share counts its audit answers from zero."""
    patch.setattr(repair_target, "_inherit", lambda tx, attempt: None)


def masks_reused(patch: Patch) -> None:
    """Every body gets the masks of the first one."""
    honest = writing.BodyWriter.add
    kept: dict[int, bytes] = {}
    begun: set[Any] = set()

    async def add(self: Any, part: Any) -> None:
        key = self._key
        if key not in begun:
            begun.add(key)
            part = kept.setdefault(len(part), bytes(part))
        await honest(self, part)

    patch.setattr(writing.BodyWriter, "add", add)


def epoch_ignored(patch: Patch) -> None:
    """A site keeps and gives one share of a version, whatever epoch is asked for."""
    honest = calls.share_key
    patch.setattr(operations, "share_key", lambda owner, op: honest(owner, {**op, "epoch": 0}))
