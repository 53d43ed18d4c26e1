"""The list of deliberate mistakes in the vault, and what catches each.

Where a plan of the simulation can, a plan does: one of a seed, or one written by hand with its seed. Otherwise it is a
named attack, which is seeded as well, or the symbolic checker on a real run. Every catcher finds nothing in the code as
it is, and something with the mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from shosoin.testing.simulation import Liars, make_plan, simulate
from shosoin.testing.simulation.plan import Plan
from tests.mutants import (
    attacks_names,
    attacks_proposals,
    attacks_register,
    attacks_repair,
    attacks_secrecy,
    attacks_shares,
    attacks_shortcut,
    register,
    scenarios,
    secrecy,
    shares,
    statements,
)
from tests.mutants.attacks_register import SEED
from tests.simulation import scenarios as simulated

__all__ = ["MUTANTS", "Catcher", "Mutant", "applied", "table"]

_ATTACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Catcher:
    """Something that finds what a mistake breaks."""

    name: str
    run: Callable[[], str | None]
    """What was found, or ``None``."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A deliberate mistake; the first line of ``apply`` says what is wrong."""

    apply: Callable[[pytest.MonkeyPatch], None]
    caught_by: tuple[Catcher, ...]

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return self.apply.__name__

    @property
    def says(self) -> str:
        """What is wrong, in one sentence."""
        return (self.apply.__doc__ or "").strip().splitlines()[0]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The vault with a mistake in it."""
    with pytest.MonkeyPatch.context() as patch:
        mutant.apply(patch)
        yield


def _of_plan(name: str, plan: Plan) -> Catcher:
    return Catcher(name, lambda: next(iter(simulate(plan).violations), None))


def seed(number: int, liars: Liars = Liars.SHARES) -> Catcher:
    """The plan of a seed, as ``make soak SEED=...`` runs it."""
    shown = f"seed {number}" + (f", liars {liars.value}" if liars is not Liars.SHARES else "")
    return _of_plan(shown, make_plan(number, liars))


def scenario(make: Callable[..., Plan], *arguments: int | str) -> Catcher:
    """A plan that was written by hand."""
    plan = make(*arguments)
    shown = f"({', '.join(map(str, arguments))})" if arguments else ""
    return _of_plan(f"plan {make.__name__}{shown}, seed {plan.seed}", plan)


def attack(work: Callable[[], Awaitable[str | None]]) -> Catcher:
    """A seeded attack on a vault in one process."""

    async def run() -> str | None:
        return await asyncio.wait_for(work(), _ATTACK_S)

    kind = "checker" if work.__module__ == attacks_secrecy.__name__ else "attack"
    return Catcher(f"{kind} {work.__name__}, seed {SEED}", lambda: asyncio.run(run()))


def _caught(apply: Callable[[pytest.MonkeyPatch], None], *by: Catcher) -> Mutant:
    return Mutant(apply, by)


MUTANTS = (
    # Quorums and durability.
    _caught(register.quorum_as_for_crashes, attack(attacks_register.rolled_back_site), seed(9, Liars.REGISTERS)),
    _caught(register.read_quorum_too_small, scenario(scenarios.patient_write_past_the_readers)),
    _caught(register.fsync_dropped, scenario(simulated.crashing_disk, 14, "during")),
    _caught(shares.acknowledged_at_k, scenario(simulated.two_full_disks)),
    _caught(register.certificate_held_by_nobody, seed(33, Liars.REGISTERS)),
    _caught(register.accept_without_pin, scenario(simulated.stalled_writer, 38)),
    _caught(register.accept_without_share, scenario(simulated.stalled_writer, 14)),
    _caught(shares.offered_shares_withdrawn, attack(attacks_shares.commit_that_reaches_one_site)),
    _caught(shares.erased_before_commit, seed(3)),
    # Promises, acceptances and certificates.
    _caught(statements.promises_not_bound, attack(attacks_proposals.older_ballot_after_a_newer_promise)),
    _caught(statements.accepts_older_than_promised, attack(attacks_proposals.older_ballot_after_a_newer_promise)),
    _caught(statements.accepts_two_values_under_one_ballot, attack(attacks_proposals.two_values_under_one_ballot)),
    _caught(statements.owner_signature_not_checked, attack(attacks_proposals.value_that_the_owner_never_signed)),
    _caught(statements.any_register_will_do, attack(attacks_proposals.value_of_another_register)),
    _caught(statements.accepts_without_justification, attack(attacks_register.old_value_without_promises)),
    _caught(statements.goes_on_under_any_ballot, attack(attacks_shortcut.old_value_as_the_one_before)),
    _caught(statements.next_ballot_leaves_room, attack(attacks_shortcut.ballot_in_between)),
    _caught(statements.promises_of_few_justify, attack(attacks_register.old_value_on_few_promises)),
    _caught(statements.any_top_will_do, attack(attacks_register.old_value_on_an_old_top)),
    _caught(statements.site_checks_no_signatures, attack(attacks_register.made_up_certificate)),
    _caught(statements.reader_checks_no_signatures, seed(43, Liars.REGISTERS)),
    _caught(statements.certificate_of_few, attack(attacks_register.certificate_of_one_liar)),
    _caught(statements.certificate_names_another_value, attack(attacks_register.other_value_under_the_same_signatures)),
    _caught(statements.commit_after_a_newer_promise, attack(attacks_register.two_writers_of_one_version)),
    _caught(register.reads_do_not_settle, scenario(simulated.dying_writer, 68)),
    # What may follow what.
    _caught(register.parent_not_compared, scenario(scenarios.three_names_at_once, 7)),
    _caught(register.tombstone_followed, attack(attacks_proposals.version_after_a_removal)),
    _caught(register.revision_ignored, attack(attacks_register.two_changes_of_one_version)),
    _caught(register.one_membership_decides, attack(attacks_register.new_members_alone)),
    # Contents and names.
    _caught(shares.content_not_checked, scenario(scenarios.shifting_reader)),
    _caught(shares.code_word_not_checked, attack(attacks_names.shifted_name), scenario(simulated.lying_reader)),
    _caught(shares.versions_mixed, seed(6)),
    _caught(secrecy.epoch_ignored, attack(attacks_shares.two_epochs_of_one_version)),
    _caught(shares.older_entry_counts, scenario(scenarios.name_goes_through_the_classes)),
    _caught(shares.sequence_not_raised, scenario(scenarios.name_goes_through_the_classes)),
    _caught(shares.names_taken_over, attack(attacks_names.two_new_names)),
    _caught(shares.removed_without_a_look, attack(attacks_names.conflict_after_the_name_was_entered)),
    # Keys and secrecy.
    _caught(secrecy.pad_used_twice, seed(3)),
    _caught(secrecy.pad_used_twice_at_both_ends, attack(attacks_secrecy.life_on_the_wire)),
    _caught(secrecy.key_is_share_and_pad, attack(attacks_secrecy.life_on_the_wire)),
    _caught(secrecy.masks_for_one_site, attack(attacks_secrecy.auditor_that_asks_on)),
    _caught(secrecy.masks_reused, attack(attacks_secrecy.many_objects_audited)),
    _caught(secrecy.answers_without_limit, attack(attacks_secrecy.auditor_that_asks_on)),
    _caught(secrecy.challenge_not_written_down, attack(attacks_secrecy.auditor_that_asks_on)),
    _caught(secrecy.relays_not_counted, attack(attacks_shares.relay_that_sees_two_links)),
    _caught(secrecy.class_not_bound, attack(attacks_shares.share_read_under_another_class)),
    # Deals and policies.
    _caught(secrecy.deal_not_checked, attack(attacks_shares.wrong_share_at_a_put)),
    _caught(secrecy.openings_not_checked, attack(attacks_shares.chosen_challenge)),
    _caught(secrecy.dealer_chooses_the_challenge, attack(attacks_shares.deal_that_fits_one_challenge)),
    _caught(shares.policy_not_enforced, attack(attacks_shares.put_below_its_policy)),
    # Repair.
    _caught(secrecy.orders_not_compared, attack(attacks_repair.two_targets_at_once)),
    _caught(secrecy.attempt_not_written_down, attack(attacks_repair.one_attempt_twice)),
    _caught(secrecy.range_used_again, attack(attacks_repair.one_range_twice)),
    _caught(secrecy.answers_begin_anew, attack(attacks_repair.answers_after_lost_records)),
    _caught(secrecy.good_without_an_audit, attack(attacks_repair.helper_that_lies)),
)


def table() -> str:
    """The table of the documentation: each mistake in a sentence, and what catches it."""
    rows = [f"| {mutant.says} | {'; '.join(each.name for each in mutant.caught_by)} |" for mutant in MUTANTS]
    return "\n".join(["| mistake | caught by |", "| --- | --- |", *rows])
