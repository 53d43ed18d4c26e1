"""The list of deliberate mistakes in the vault, and what catches each.

Where a plan of the simulation can, a plan does: one of a seed, or one written by hand with its seed. Otherwise it is a
named attack, which is seeded as well, or the symbolic checker on a real run. Every catcher finds nothing in the code as
it is, and something with the mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from shosoin.testing.simulation import Liars, make_plan, simulate
from shosoin.testing.simulation.plan import Plan
from tests.mutants import attacks_register, attacks_secrecy, attacks_shares, register, scenarios, shares
from tests.simulation import scenarios as simulated

__all__ = ["MUTANTS", "Catcher", "Mutant", "applied"]

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
    return Catcher(f"{kind} {work.__name__}", lambda: asyncio.run(run()))


def patient_write_past_the_readers() -> Plan:
    """A writer reaches the sites that readers ask last, and its staged shares are kept meanwhile."""
    return replace(simulated.write_past_the_readers(), orphan_age_s=3600.0)


def _table() -> Iterator[Mutant]:
    def caught(apply: Callable[[pytest.MonkeyPatch], None], *by: Catcher) -> Mutant:
        return Mutant(apply, by)

    registers, on_registers, on_shares, on_wire = register, attacks_register, attacks_shares, attacks_secrecy
    # Quorums and durability.
    yield caught(registers.quorum_as_for_crashes, attack(on_registers.rolled_back_site), seed(27, Liars.REGISTERS))
    yield caught(registers.read_quorum_too_small, scenario(patient_write_past_the_readers))
    yield caught(registers.fsync_dropped, scenario(simulated.crashing_disk, 13, "during"))
    yield caught(shares.acknowledged_at_k, scenario(simulated.two_full_disks))
    yield caught(registers.certificate_held_by_nobody, seed(33, Liars.REGISTERS))
    yield caught(registers.accept_without_pin, scenario(simulated.stalled_writer, 22))
    yield caught(registers.accept_without_share, scenario(simulated.stalled_writer, 14))
    yield caught(shares.offered_shares_withdrawn, attack(on_shares.commit_that_reaches_one_site))
    yield caught(shares.erased_before_commit, seed(3))
    # Promises, acceptances and certificates.
    yield caught(registers.promises_not_bound, seed(23, Liars.REGISTERS))
    yield caught(registers.accepts_without_justification, attack(on_registers.old_value_without_promises))
    yield caught(registers.promises_of_few_justify, attack(on_registers.old_value_on_few_promises))
    yield caught(registers.any_top_will_do, attack(on_registers.old_value_on_an_old_top))
    yield caught(registers.site_checks_no_signatures, attack(on_registers.made_up_certificate))
    yield caught(registers.reader_checks_no_signatures, seed(23, Liars.REGISTERS))
    yield caught(registers.certificate_of_few, attack(on_registers.certificate_of_one_liar))
    yield caught(registers.certificate_names_another_value, attack(on_registers.other_value_under_the_same_signatures))
    yield caught(registers.commit_after_a_newer_promise, attack(on_registers.two_writers_of_one_version))
    yield caught(registers.reads_do_not_settle, scenario(simulated.dying_writer, 68))
    # What may follow what.
    yield caught(registers.parent_not_compared, scenario(scenarios.three_names_at_once, 7))
    yield caught(registers.revision_ignored, attack(on_registers.two_changes_of_one_version))
    yield caught(registers.one_membership_decides, attack(on_registers.new_members_alone))
    # Contents and names.
    yield caught(shares.content_not_checked, scenario(simulated.lying_reader))
    yield caught(shares.code_word_not_checked, scenario(simulated.lying_reader))
    yield caught(shares.versions_mixed, seed(3))
    yield caught(shares.older_entry_counts, scenario(scenarios.name_goes_through_the_classes))
    yield caught(shares.sequence_not_raised, scenario(scenarios.name_goes_through_the_classes))
    yield caught(shares.names_taken_over, attack(on_shares.two_new_names))
    # Keys and secrecy.
    yield caught(shares.pad_used_twice, seed(3))
    yield caught(shares.pad_used_twice_at_both_ends, attack(on_wire.life_on_the_wire))
    yield caught(shares.key_is_share_and_pad, attack(on_wire.life_on_the_wire))
    yield caught(shares.masks_for_one_site, attack(on_wire.auditor_that_asks_on))
    yield caught(shares.answers_without_limit, attack(on_wire.auditor_that_asks_on))
    yield caught(shares.challenge_not_written_down, attack(on_wire.auditor_that_asks_on))
    yield caught(shares.relays_not_counted, attack(on_shares.relay_that_sees_two_links))
    yield caught(shares.class_not_bound, attack(on_shares.share_read_under_another_class))
    # Deals and policies.
    yield caught(shares.deal_not_checked, attack(on_shares.wrong_share_at_a_put))
    yield caught(shares.openings_not_checked, attack(on_shares.chosen_challenge))
    yield caught(shares.dealer_chooses_the_challenge, attack(on_shares.deal_that_fits_one_challenge))
    yield caught(shares.policy_not_enforced, attack(on_shares.put_below_its_policy))
    # Repair.
    yield caught(shares.orders_not_compared, attack(on_shares.two_targets_at_once))
    yield caught(shares.attempt_not_written_down, attack(on_shares.one_attempt_twice))
    yield caught(shares.range_used_again, attack(on_shares.one_range_twice))
    yield caught(shares.good_without_an_audit, attack(on_shares.helper_that_lies))


MUTANTS = tuple(_table())
