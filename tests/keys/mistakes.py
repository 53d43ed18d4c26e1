"""Deliberate mistakes in the key streams, as changes of a line or two of their source.

Each names what must catch it: the simulation of both ends, or a test that makes the one situation that shows it. Some
mistakes need the recognition of old copies switched off (``unrecognized``): one-time use must not rest on it, but it
burns so much that it would hide them. ``python -m tests.keys.mistakes`` runs the tests against those that tests catch.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest

from shosoin.keys import (
    burning,
    cache,
    intervals,
    key_id,
    kme,
    local,
    multicast,
    pair,
    pool,
    quota,
    reading,
    receiver,
    reconcile,
    sender,
    worker_grants,
    worker_stock,
)
from shosoin.testing.key_simulation import operators

__all__ = ["MISTAKES", "Edit", "Mistake", "applied"]


_SOURCES: dict[Any, str] = {}
"""Of functions that were changed once already."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the source of one function."""

    owner: Any
    """Module or class."""
    name: str
    old: str
    new: str
    also: tuple[Any, ...] = ()
    """Other modules that have imported it."""

    def function(self) -> Any:
        """Return the changed function.

        Raises:
            LookupError: if the source is no longer what this mistake changes.
        """
        present = inspect.getattr_static(self.owner, self.name)
        plain: Any = present.fget if isinstance(present, property) else present
        source = _SOURCES.get(plain) or textwrap.dedent(inspect.getsource(plain))
        if self.old not in source:
            raise LookupError(f"{self.name} has no {self.old!r} any more: write this mistake anew")
        changed: dict[str, Any] = {}
        source = source.replace(self.old, self.new)
        exec("from __future__ import annotations\n" + source, plain.__globals__, changed)
        function = changed[self.name]
        _SOURCES[function.fget if isinstance(function, property) else function] = source
        return function


@dataclass(frozen=True, slots=True)
class Mistake:
    """A deliberate mistake."""

    says: str
    edits: tuple[Edit, ...]
    caught_by: str = "simulation"
    """Or the name of a test of ``tests/keys``."""
    unrecognized: bool = False
    seed: int = 1
    """Of the simulation, that finds it; the others are tried if it no longer does."""


@contextmanager
def applied(mistake: Mistake) -> Iterator[None]:
    """The key streams with a mistake in them."""
    with ExitStack() as stack:
        for edit in mistake.edits:
            function = edit.function()
            for owner in (edit.owner, *edit.also):
                stack.enter_context(mock.patch.object(owner, edit.name, function))
        if mistake.unrecognized:
            for name in ("_sender_forgot", "_receiver_forgot"):
                stack.enter_context(mock.patch.object(reconcile, name, return_value=False))
        yield


SENDER, RECEIVER, PAIR, KME = sender.SendingEnd, receiver.ReceivingEnd, pair.PairEnd, kme.Kme
POOL, LOCAL, INTERVALS = pool.VerificationPool, local.LocalKeys, intervals.IntervalSet
PLAN = (reconcile, "plan_stream")
PLANNED = (pair,)
BURNED = (operators,)
NOT_NOTED = Edit(burning, "burn_batch", 'pair["owes_copies"] = pair["owes_plan"]', 'pair["owes_plan"]', BURNED)
BURNED_AT_ONE_END = Edit(
    PAIR, "_on_hello", "takes_copies = theirs.burns > mine.seen_burns or", "takes_copies = False and"
)
"""Copies are burned at both ends, and with either half of them the other half is of no use: that hides mistakes."""

MISTAKES = {
    # Leases
    "lease_not_durable_at_the_sender": Mistake(
        "The sender asks for a lease that it has not written down.",
        (Edit(SENDER, "extend_lease", "yield Commit(Batch(records=self.records()))", "pass"),),
    ),
    "lease_not_durable_at_the_receiver": Mistake(
        "The receiver acknowledges a lease that it has not written down.",
        (Edit(RECEIVER, "on_lease", "yield Commit(Batch(records=self.records()))", "pass"),),
    ),
    "hands_out_before_the_answer": Mistake(
        "The sender hands out as soon as it has asked for a lease.",
        (
            Edit(
                SENDER,
                "extend_lease",
                "yield self._ask_lease(upto)",
                "self._leased = upto; yield self._ask_lease(upto)",
            ),
        ),
    ),
    "lease_off_by_one": Mistake(
        "The last granule of a request may lie above the lease.",
        (Edit(SENDER, "allocate", "if cursor > self._leased:", "if cursor > self._leased + 1:"),),
    ),
    "lease_as_the_sender_sees_it": Mistake(
        "After a handshake the lease is what the sender remembers.",
        (Edit(*PLAN, "lease = max(out.lease, inc.lease)", "lease = out.lease", PLANNED),),
        unrecognized=True,
        seed=23,
    ),
    "lease_as_the_receiver_sees_it": Mistake(
        "After a handshake the lease is what the receiver remembers.",
        (Edit(*PLAN, "lease = max(out.lease, inc.lease)", "lease = inc.lease", PLANNED),),
        unrecognized=True,
        seed=23,
    ),
    "serves_above_the_lease": Mistake(
        "The receiver serves what its sender may not yet have handed out.",
        (Edit(RECEIVER, "_servable", "and high <= self._lease ", ""),),
        "test_an_address_beyond_the_lease_is_not_served",
    ),
    # What is believed
    "believes_what_anybody_says": Mistake(
        "A message of a session counts without its proof.",
        (Edit(PAIR, "_dispatch", "self._check_proof(message)", "pass"),),
        "test_what_the_peer_did_not_say_changes_nothing",
    ),
    "believes_any_number": Mistake(
        "A hello may name numbers that leave nothing above them.",
        (Edit(PAIR, "_on_hello", "if wrong:", "if False:"),),
        "test_a_claim_that_would_leave_nothing_above_it_changes_nothing",
    ),
    "keeps_no_record_of_the_peers_heal": Mistake(
        "An end that hears that the pair awaits another secret does not write it down.",
        (Edit(PAIR, "_on_hello", "self._awaits_rekey = True", "pass"),),
        "test_a_copy_from_before_a_heal_stays_shut_under_the_old_secret",
    ),
    # What may have been handed out
    "sender_goes_on_where_it_was": Mistake(
        "After a restart the sender hands out what it may have handed out before.",
        (Edit(SENDER, "apply", "self._leased = self._cursor = plan.lease", "self._leased = plan.lease"),),
        seed=5,
    ),
    "sender_restarts_for_itself_alone": Mistake(
        "A sender does not begin at the lease when its receiver is new.",
        (Edit(*PLAN, "restart_sender=sender_new or receiver_new", "restart_sender=sender_new", PLANNED),),
        "test_a_sender_begins_at_the_lease_when_its_receiver_is_new",
    ),
    "receiver_serves_below_its_floor": Mistake(
        "The receiver serves again what an earlier run may have served.",
        (Edit(RECEIVER, "apply", "self._floor, self._fetched", "_, self._fetched"),),
        seed=109,
    ),
    "granule_below_the_floor": Mistake(
        "The receiver serves one granule below its floor.",
        (Edit(RECEIVER, "_servable", "self._floor <= low", "self._floor - 1 <= low"),),
        "test_a_killed_receiver_serves_nothing_that_was_leased_before",
    ),
    "every_restart_taken_for_clean": Mistake(
        "A receiver that was killed goes on serving keys under way.",
        (Edit(reconcile, "resumes_cleanly", 'own.resume != "" and own.resume == other.seen_resume', "True"),),
        seed=3,
    ),
    "farewell_without_what_was_fetched": Mistake(
        "A clean stop does not write down what was fetched.",
        (Edit(RECEIVER, "fetched_record", "list(self._fetched)", "[]"),),
        seed=149,
    ),
    "serves_after_its_farewell": Mistake(
        "A receiver serves on after it wrote down what was fetched.",
        (Edit(PAIR, "close", "self._open, True", "self._open, self._fresh"),),
        seed=3,
    ),
    "farewell_that_counts_for_ever": Mistake(
        "A receiver may come back with one farewell again and again.",
        (
            Edit(PAIR, "_on_hello", 'self._resume = self._peer_resume = ""', "pass"),
            Edit(RECEIVER, "apply", "{**batch.records, FETCHED_RECORD: None}", "batch.records"),
        ),
        seed=31,
    ),
    "fetched_is_forgotten": Mistake(
        "The receiver does not remember what it served.",
        (Edit(RECEIVER, "fetch", "self._fetched.add(start, end)", "pass"),),
    ),
    "open_before_the_handshake": Mistake(
        "A process serves what its journal says, before both ends agreed.",
        (Edit(PAIR, "require_open", "if self._fresh or self.refusal:", "if False:"),),
        "test_nothing_is_served_before_the_handshake_of_this_run",
    ),
    # Addresses and indexes
    "addresses_as_the_sender_sees_them": Mistake(
        "After a handshake addresses go on where the sender remembers.",
        (Edit(*PLAN, "max(out.next_start, inc.next_start, lease)", "out.next_start", PLANNED),),
        unrecognized=True,
        seed=3,
    ),
    "cursor_stays": Mistake(
        "The sender does not move past what it handed out.",
        (
            Edit(SENDER, "allocate", "self._available.remove(self._cursor, cursor)", "pass"),
            Edit(SENDER, "allocate", "    self._cursor = cursor\n", "    pass\n"),
        ),
    ),
    "announces_before_it_stores": Mistake(
        "The sender announces a block that it has not stored.",
        (
            Edit(
                SENDER,
                "begin",
                "    yield Commit(Batch(records=records, blocks={block.name: bytes(bits[RESERVE_BYTES:])}))\n",
                "",
            ),
            # what follows would be lost with the first commit, so it comes after the message
        ),
        seed=13,
    ),
    "blocks_agreed_by_index_alone": Mistake(
        "Blocks of one index count as one block, wherever they lie and whatever was compared.",
        (
            Edit(
                reconcile,
                "_agreed_blocks",
                "if other is None or (other.start, other.granules) != (block.start, block.granules):",
                "if other is not None:\n            agreed[block.index] = Action.KEEP\n        if True:",
            ),
        ),
        unrecognized=True,
        seed=7,
    ),
    # Verification
    "tag_over_the_block_not_compared": Mistake(
        "The sender does not compare the receiver's tag with its own block.",
        (Edit(SENDER, "on_stored", "damaged or not _equal(expected, message.tag)", "damaged"),),
        seed=26,
    ),
    "ready_tag_not_compared": Mistake(
        "The receiver believes READY from anybody.",
        (Edit(RECEIVER, "on_ready", "if not hmac.compare_digest(", "if False and not hmac.compare_digest("),),
        "test_a_forged_tag_burns_the_block_at_both_ends_and_raises_an_alarm",
    ),
    "entry_spent_before_it_is_written_down": Mistake(
        "The sender asks for a tag before it wrote down that its entry is spent.",
        (Edit(SENDER, "on_have", "yield Commit(Batch(records={block.record_name: block.dump()}))", "pass"),),
        "test_an_entry_is_written_down_as_spent_before_the_tag_under_it_is_asked_for",
    ),
    "pool_does_not_give_entries_up": Mistake(
        "Entries for a block stay in the pool.",
        (Edit(POOL, "take", "self._entries.pop(number)", "self._entries[number]"),),
    ),
    "pool_as_the_sender_sees_it": Mistake(
        "After a handshake the sender's unused entries count, whatever the receiver remembers.",
        (
            Edit(
                *PLAN,
                "frozenset(out.unused_entries) & frozenset(inc.unused_entries)",
                "frozenset(out.unused_entries)",
                PLANNED,
            ),
        ),
        unrecognized=True,
        seed=552,
    ),
    "pool_not_agreed_at_all": Mistake(
        "The sender keeps its pool as it is over a handshake.",
        (Edit(SENDER, "apply", "self._pool.retain(plan.entries)", "pass"),),
        seed=34,
    ),
    "used_entries_handed_back_after_a_handshake": Mistake(
        "Of a lost block all entries come back, also the first of an offered one.",
        (Edit(reconcile, "_returned_entries", "block.entries[1:] if block.state is BlockState.OFFERED else ", ""),),
        "test_a_restored_receiver_brings_no_spent_entry_back",
    ),
    "used_entries_handed_back_at_a_mismatch": Mistake(
        "A block that does not compare gives all its entries back.",
        (Edit(SENDER, "on_stored", "sorted(block.entries)[1:]", "sorted(block.entries)"),),
        seed=26,
    ),
    "entries_handed_back_by_an_old_copy": Mistake(
        "A sender hands entries back of a block that it did not begin itself.",
        (Edit(SENDER, "on_stored", "if block.index in self._begun else []", "if True else []"),),
        "test_a_restored_sender_hands_no_entry_back_that_it_may_have_spent",
    ),
    "reserve_also_in_the_stream": Mistake(
        "The bytes that pay into the pool are handed out as well.",
        (
            Edit(SENDER, "begin", "bytes(bits[RESERVE_BYTES:])", "bytes(bits[: len(bits) - RESERVE_BYTES])"),
            Edit(RECEIVER, "_store", "bytes(bits[RESERVE_BYTES:])", "bytes(bits[: len(bits) - RESERVE_BYTES])"),
        ),
    ),
    # Restored copies
    "generation_not_raised": Mistake(
        "A start does not raise the generation.",
        (Edit(PAIR, "start", "self._generation += 1", "pass"),),
    ),
    "restored_copies_not_named": Mistake(
        "Nobody notices an old copy.",
        (
            Edit(
                reconcile,
                "was_restored",
                "was_counted_back(own, other) or _sender_forgot(own, other) or",
                "False and",
                (pair,),
            ),
            Edit(reconcile, "was_counted_back", "return True", "return False", (pair,)),
            Edit(reconcile, "was_counted_back", "own.generation == other.seen_generation", "False", (pair,)),
        ),
        "test_a_restored_copy_is_named_and_burns_both_directions",
    ),
    # Operators
    "burn_not_counted": Mistake(
        "A burn is not counted, so that the other end never hears of it.",
        (Edit(burning, "burn_batch", 'pair.get("burns", 0) + 1', 'pair.get("burns", 0)', BURNED),),
        seed=8,
    ),
    "burn_heard_and_not_carried_out": Mistake(
        "An end that hears of a burn writes it down as carried out and burns nothing.",
        (Edit(reconcile, "must_burn", "return one.burns > other.seen_burns or", "return False and", PLANNED),),
        seed=8,
    ),
    "healed_pair_opens_again": Mistake(
        "A healed pair serves under the secret that an intruder may know.",
        (Edit(PAIR, "_on_welcome", "if self._awaits_rekey:", "if False:"),),
        seed=4,
    ),
    "burn_ends_the_wait_for_a_secret": Mistake(
        "A burn after a healing opens the pair under its old secret.",
        (Edit(burning, "burn_batch", 'until_rekeyed or pair.get("awaits_rekey", False)', "until_rekeyed", BURNED),),
        seed=16,
    ),
    "secret_of_before_is_taken": Mistake(
        "A pair takes a secret that it has had before, with all its one-time keys.",
        (Edit(burning, "rekey_batch", "if secret_check_of(secret) in retired:", "if False:"),),
        seed=2,
    ),
    "rekeying_keeps_the_journal": Mistake(
        "Re-keying leaves what the journal says of streams and pools, and changes the secret alone.",
        (Edit(burning, "rekey_batch", "{**gone, **fresh}, drops=blocks", "{PAIR_RECORD: fresh[PAIR_RECORD]}"),),
        seed=14,
    ),
    # Workers
    "stock_gives_a_key_twice": Mistake(
        "A worker forgets how far it has cut a container.",
        (
            Edit(
                worker_stock.Grant,
                "take",
                "    self.text[self._next : high] = bytes(len(items))\n    self._next = high + 1\n",
                "",
            ),
        ),
    ),
    "stock_does_not_age": Mistake(
        "A worker that stood still gives out what it held, however long that was.",
        (Edit(worker_stock.KeyStock, "take", "or now_s >= grant.until_s", ""),),
        seed=4,
    ),
    "used_keys_not_told": Mistake(
        "A worker does not tell its owner which keys SAEs got.",
        (Edit(worker_stock.Grant, "take", "self.used += number", "pass"),),
    ),
    "keys_of_a_dead_worker_not_counted": Mistake(
        "What a worker takes along when it dies counts neither as delivered nor as burned.",
        (Edit(worker_grants.Grants, "all_over", "self.over(number)", "self._held.pop(number)"),),
        seed=2,
    ),
    "keys_ahead_counted_as_delivered": Mistake(
        "Keys drawn ahead of demand count as delivered from the start.",
        (Edit(worker_grants.Grants, "drawing", "self.add(number, master, slave, draw.size_bits, ahead)", "pass"),),
    ),
    "cancelled_grant_is_kept": Mistake(
        "What was drawn for an SAE that has left stays counted as held.",
        (Edit(worker_grants.Grants, "over", "self._held.pop(number, None)", "None"),),
    ),
    # Copies for several slaves
    "claim_leaves_the_row": Mistake(
        "The master's KME lets a copy go and keeps what allows it.",
        (
            Edit(
                multicast.MulticastKeys,
                "serving_claim",
                "table.claim(peer, slave, key_ids)",
                "all((one, slave, peer) in table._rows.sent for one in key_ids)",
            ),
        ),
        seed=88,
    ),
    "copy_served_unclaimed": Mistake(
        "A slave's KME serves a copy without asking the master's.",
        (Edit(multicast.MulticastKeys, "_claim", "if not copies:", "if True:"),),
        seed=3,
    ),
    "pad_for_two_records": Mistake(
        "A pad that was drawn for one record pads the next one too.",
        (
            Edit(
                multicast.MulticastKeys,
                "_send",
                "pad_id, pad = yield DrawPad(peer, size, caller, tuple(slaves))",
                "pads = self.__dict__.setdefault('_pads', {})\n"
                "    if (peer, size) not in pads:\n"
                "        pad_id, pad = yield DrawPad(peer, size, caller, tuple(slaves))\n"
                "        pads[peer, size] = pad_id, bytes(pad)\n"
                "    pad_id, pad = pads[peer, size][0], bytearray(pads[peer, size][1])",
            ),
        ),
        seed=3,
    ),
    "copies_mixed_up": Mistake(
        "The keys of one record are held under each other's key_IDs.",
        (Edit(multicast.MulticastKeys, "serving_copy", "zip(head.key_ids, keys,", "zip(head.key_ids, keys[::-1],"),),
        seed=3,
    ),
    "claim_outlives_a_burn": Mistake(
        "A copy that was claimed before a burn and not served then is served after it.",
        (
            Edit(
                multicast.MulticastKeys,
                "_claim",
                "if self._claimed.get(copy.place) != mark",
                "if copy.place not in self._claimed",
            ),
            BURNED_AT_ONE_END,
        ),
        seed=192,
    ),
    "burn_leaves_the_copies": Mistake(
        "A burn leaves multicast copies, and what allows them.",
        (
            Edit(burning, "burn_steps", ", BurnCopies()]", "]", BURNED),
            NOT_NOTED,
            BURNED_AT_ONE_END,
        ),
        seed=40,
    ),
    "whoever_hears_of_a_burn_keeps_the_copies": Mistake(
        "An end that hears of a burn keeps what it holds for slaves.",
        (BURNED_AT_ONE_END,),
        seed=192,
    ),
    "burn_without_a_note": Mistake(
        "A burn does not note in the journal that the copies are still to be burned.",
        (
            NOT_NOTED,
            BURNED_AT_ONE_END,
        ),
        seed=192,
    ),
    "note_of_a_burn_not_honoured": Mistake(
        "A start does not read that an unfinished burn has left the copies.",
        (Edit(PAIR, "start", "if self._owes_copies:", "if False:"), BURNED_AT_ONE_END),
        seed=192,
    ),
    "note_of_a_burn_cleared_too_early": Mistake(
        "A start clears the note of an unfinished burn before it has burned the copies.",
        (
            Edit(
                PAIR,
                "start",
                "yield BurnCopies()",
                "self._owes_copies = False\n"
                "        yield Commit(self._own_batch(Batch(records=self.outgoing.records())))\n"
                "        yield BurnCopies()",
            ),
        ),
        "test_a_start_that_ends_over_the_copies_of_a_burn_is_made_up_for_by_the_next",
    ),
    "whoever_died_in_a_burn_is_named_an_old_copy": Mistake(
        "An end that is behind a plan of a burn which was not durable there is taken for an old copy by the other one.",
        (Edit(PAIR, "_restored", " and not self._plan_open", ""),),
        "test_an_end_that_dies_in_a_burn_is_taken_for_no_old_copy",
    ),
    "whoever_died_in_a_burn_takes_itself_for_an_old_copy": Mistake(
        "An end that was burned and is behind the other one takes itself for an old copy.",
        (Edit(PAIR, "_restored", "excused = self._owes_plan or theirs", "excused = theirs"),),
        "test_an_end_that_dies_in_a_burn_is_taken_for_no_old_copy",
    ),
    "whoever_heard_of_a_burn_takes_itself_for_an_old_copy": Mistake(
        "An end that has not carried out the other one's burn and is behind it takes itself for an old copy.",
        (Edit(PAIR, "_restored", "self._owes_plan or theirs.burns > mine.seen_burns", "self._owes_plan"),),
        "test_an_end_that_dies_in_a_burn_is_taken_for_no_old_copy",
    ),
    # Old keys and used bits
    "expiry_at_the_sender_only": Mistake(
        "The receiver keeps for ever what nobody fetches.",
        (Edit(RECEIVER, "_finished", "old or excess", "excess"),),
        seed=2,
    ),
    "sender_does_not_overwrite": Mistake(
        "The sender leaves used bits on its disk.",
        (Edit(SENDER, "flush", "if block.end > high", "if False"),),
    ),
    "burned_blocks_stay_on_the_disk": Mistake(
        "The receiver forgets blocks in memory and keeps their bytes.",
        (Edit(RECEIVER, "_drop_batch", "drops=[block.name for block in blocks]", "drops=[]"),),
    ),
    "rotten_bits_are_served": Mistake(
        "What fails its check is served as it is.",
        (Edit(cache.BlockCache, "take", "damaged.overlaps(first, first + count) or ", ""),),
        seed=5,
    ),
    "burned_granules_not_counted": Mistake(
        "What a handshake burns is missing in the tally.",
        (Edit(RECEIVER, "apply", "self.tally.burn(Burned.HANDSHAKE, had - self.left_granules())", "pass"),),
    ),
    # Keys and SAEs
    "keys_of_a_run_cut_in_the_wrong_place": Mistake(
        "Of keys that lie side by side each begins a granule early.",
        (
            Edit(
                reading,
                "read_keys",
                "(offset - start) * GRANULE_BYTES",
                "max(0, offset - start - 1) * GRANULE_BYTES",
                (sender, receiver),
            ),
        ),
    ),
    "key_id_without_the_slave": Mistake(
        "A key_ID opens for every SAE.",
        (Edit(key_id, "_context", '(master, slave, "")', '(master, "")'),),
        seed=3,
    ),
    "key_id_without_the_master": Mistake(
        "A key_ID opens under every master's name.",
        (Edit(key_id, "_context", '(master, slave, "")', '(slave, "")'),),
        seed=16,
    ),
    "overlapping_keys_in_one_request": Mistake(
        "One request may name a key twice.",
        (Edit(RECEIVER, "fetch", "if taken.size() <", "if False and taken.size() <"),),
        seed=3,
    ),
    "intervals_lose_their_tail": Mistake(
        "Adding an interval forgets the end of one that it touches.",
        (Edit(INTERVALS, "add", "end = max(end, self._ends[last - 1])", "pass"),),
        seed=3,
    ),
    "removal_takes_too_much": Mistake(
        "Removing an interval takes what lies behind it along.",
        (Edit(INTERVALS, "remove", "(end, self._ends[last - 1])", "(end, end)"),),
        "test_same_members_in_as_few_intervals_as_possible",
    ),
    "local_key_given_twice": Mistake(
        "A key between two SAEs of one KME can be fetched again.",
        (Edit(LOCAL, "fetch", "self._remove((name, slave)).bits", "bytearray(self._waiting[name, slave].bits)"),),
    ),
    "local_key_under_any_masters_name": Mistake(
        "A key between two SAEs of one KME is given out under every master's name.",
        (Edit(LOCAL, "fetch", "entry.master != master", "False"),),
        seed=9,
    ),
    "dec_keys_for_strangers": Mistake(
        "Whoever holds a certificate may fetch, an SAE of this KME or not.",
        (Edit(KME, "dec_keys", "self.require_own(caller)", "pass"),),
        "test_strangers_and_unknown_slaves_are_told_apart",
    ),
    "quota_never_spent": Mistake(
        "Quotas are checked and never charged.",
        (Edit(quota.Quota, "spend", "if self._rate_bps > 0:", "if False:"),),
        "test_a_quota_says_when_to_come_back",
    ),
}


def _run_tests(name: str) -> bool:
    """Return whether the test of a mistake fails with it, for each such mistake in this process."""
    mistake = MISTAKES[name]
    with applied(mistake):
        status = pytest.main(
            ["-q", "-x", "--no-header", "-p", "no:cacheprovider", "tests/keys", "-k", mistake.caught_by]
        )
    return status is pytest.ExitCode.TESTS_FAILED


if __name__ == "__main__":
    for name in [name for name, mistake in MISTAKES.items() if mistake.caught_by != "simulation"]:
        sys.stdout.write(f"{name} {'is caught' if _run_tests(name) else 'survives'}\n")
