"""Deliberate mistakes in the key streams, each of which the search for counterexamples must find."""

import dataclasses
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from shosoin.keys import pair, reconcile
from shosoin.keys.messages import Leased
from shosoin.keys.receiver import ReceivingEnd
from shosoin.keys.sender import SendingEnd
from tests.keys.test_stream_faults import PairMachine

SEARCH = settings(
    max_examples=3000,  # a search ends with the first find; what is drawn from the system differs between runs
    stateful_step_count=50,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
PLAN = reconcile.plan_stream
EXTEND = SendingEnd.extend_lease
FETCH = ReceivingEnd.fetch


def plan_with(**changes):
    def plan(sender, receiver):
        right = PLAN(sender, receiver)
        return dataclasses.replace(right, **{name: make(right, sender, receiver) for name, make in changes.items()})

    return mock.patch.object(pair, "plan_stream", plan)


def hands_out_before_the_peer_recorded_the_lease():
    def extend(self, granules):
        yield from EXTEND(self, granules)
        self._leased = self._lease

    return mock.patch.object(SendingEnd, "extend_lease", extend)


def acknowledges_a_lease_it_did_not_make_durable():
    def on_lease(self, message):
        self._lease = max(self._lease, message.upto)
        yield self._say(Leased(self.session, message.upto))

    return mock.patch.object(ReceivingEnd, "on_lease", on_lease)


def forgets_what_was_fetched():
    def fetch(self, addresses):
        contents = FETCH(self, addresses)
        for address in addresses:
            self._fetched.remove(address.offset, address.end)
        return contents

    return mock.patch.object(ReceivingEnd, "fetch", fetch)


def returns_entries_that_may_be_used():
    def returned(out, inc, blocks):
        lost = [block for block in out.blocks if block.index not in blocks]
        return frozenset(entry for block in lost for entry in block.entries) & frozenset(inc.unused_entries)

    return mock.patch.object(reconcile, "_returned_entries", returned)


def keeps_blocks_that_only_share_an_index():
    def agreed(out, inc):
        theirs = {block.index for block in inc.blocks}
        return {block.index: reconcile.Action.KEEP for block in out.blocks if block.index in theirs}

    return mock.patch.object(reconcile, "_agreed_blocks", agreed)


def believes_every_restart_was_clean():
    return mock.patch.object(reconcile, "resumes_cleanly", return_value=True)


def keeps_a_burn_to_itself():
    return mock.patch.object(reconcile, "must_burn", return_value=False)


MUTANTS = {
    "sender forgets the lease at restart": lambda: plan_with(restart_sender=lambda p, s, r: False),
    "sender restarts only for itself": lambda: plan_with(restart_sender=lambda p, s, r: reconcile.is_new(s, r)),
    "receiver serves what it may have served": lambda: plan_with(restart_receiver=lambda p, s, r: False),
    "pool as the sender sees it": lambda: plan_with(
        entries=lambda p, s, r: frozenset(s.outgoing.unused_entries) | p.entries
    ),
    "pool as either end sees it": lambda: plan_with(
        entries=lambda p, s, r: frozenset(s.outgoing.unused_entries) | frozenset(r.incoming.unused_entries)
    ),
    "lease as the sender sees it": lambda: plan_with(lease=lambda p, s, r: s.outgoing.lease),
    "lease as the receiver sees it": lambda: plan_with(lease=lambda p, s, r: r.incoming.lease),
    "addresses as the sender sees them": lambda: plan_with(next_start=lambda p, s, r: s.outgoing.next_start),
    "indexes as the sender sees them": lambda: plan_with(next_index=lambda p, s, r: s.outgoing.next_index),
    "hands out before the lease is recorded": hands_out_before_the_peer_recorded_the_lease,
    "lease not durable at the receiver": acknowledges_a_lease_it_did_not_make_durable,
    "fetched keys forgotten": forgets_what_was_fetched,
    "used entries returned to the pool": returns_entries_that_may_be_used,
    "blocks agreed by index alone": keeps_blocks_that_only_share_an_index,
    "a burn that the other end is not told of": keeps_a_burn_to_itself,
    "every restart taken for a clean one": believes_every_restart_was_clean,
}


@contextmanager
def no_copy_recognized_by_what_it_forgot():
    """Recognizing copies hides some of the mistakes; one-time use must not rest on it."""
    with (
        mock.patch.object(reconcile, "_sender_forgot", return_value=False),
        mock.patch.object(reconcile, "_receiver_forgot", return_value=False),
    ):
        yield


@pytest.mark.parametrize("name", MUTANTS)
def test_the_search_finds(name):
    with (
        no_copy_recognized_by_what_it_forgot(),
        MUTANTS[name](),
        pytest.raises((AssertionError, ExceptionGroup)),
    ):
        run_state_machine_as_test(PairMachine, settings=SEARCH)
