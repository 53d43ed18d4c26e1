"""The simulation: seeds keep every promise, runs repeat, and deliberate mistakes are found."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shosoin.testing.simulation import Liars, Outcome, make_plan, simulate
from shosoin.testing.simulation.__main__ import main
from shosoin.testing.simulation.plan import FaultKind
from shosoin.testing.simulation.shrinking import shrink
from tests.mutants.secrecy import pad_used_twice
from tests.simulation import scenarios

SEEDS = range(1, 17)
BATCH = 8


@pytest.mark.parametrize("start", SEEDS[::BATCH])
def test_seeds_keep_every_promise(start):
    for seed in range(start, start + BATCH):
        outcome = simulate(make_plan(seed))
        assert outcome.violations == (), replay(seed, outcome)


@pytest.mark.parametrize("start", range(101, 111, 5))
def test_seeds_with_sites_that_lie_about_everything_keep_every_promise(start):
    for seed in range(start, start + 5):
        outcome = simulate(make_plan(seed, Liars.ALL, class_changes=True))
        assert outcome.violations == (), replay(seed, outcome)


def replay(seed: int, outcome: Outcome) -> str:
    return f"{outcome.violations[0]}\nreplay: python -m shosoin.testing.simulation --seed {seed} --shrink"


@pytest.mark.parametrize("number", [5, 20, 35, 45, 55, 68, 80, 90])
def test_a_writer_may_die_before_any_message(number):
    assert simulate(scenarios.dying_writer(number)).violations == ()


@pytest.mark.parametrize("number", [5, 23, 38])
def test_a_writer_may_freeze_until_its_shares_are_collected(number):
    outcome = simulate(scenarios.stalled_writer(number))
    assert outcome.violations == ()
    assert outcome.counts["freezes"] == 1


@pytest.mark.parametrize("phase", ["before", "during", "after"])
@pytest.mark.parametrize("number", [4, 13, 17])
def test_a_node_may_die_at_any_call_of_its_disk(number, phase):
    outcome = simulate(scenarios.crashing_disk(number, phase))
    assert outcome.violations == ()
    assert outcome.counts["crashes at a disk call"] == 1


def test_two_full_disks_of_five_are_too_many_to_acknowledge_a_put():
    outcome = simulate(scenarios.two_full_disks())
    assert outcome.violations == ()
    assert outcome.counts["put failed"] == 1


def test_a_liar_is_named_and_the_right_bytes_are_served():
    outcome = simulate(scenarios.lying_reader())
    assert outcome.violations == ()
    assert outcome.counts["lies"] >= 1
    assert outcome.counts["alarms"] >= 1


@pytest.mark.parametrize("number", [42, 46, 47, 48, 50])
def test_a_liar_that_forgets_does_not_make_a_name_vanish(number):
    outcome = simulate(scenarios.forgetful_liar(number))
    assert outcome.violations == ()
    assert outcome.counts["lies"] >= 1


@pytest.mark.parametrize("seed", [3, 17, 35])
def test_a_seed_gives_the_same_run_twice(seed):
    first, second = simulate(make_plan(seed)), simulate(make_plan(seed))
    assert first.lines == second.lines
    assert first.digest == second.digest != simulate(make_plan(seed + 1)).digest


def test_a_seed_gives_the_same_run_in_another_process():
    """The command fixes the order of sets, so that a failure can be replayed anywhere."""
    found = {
        subprocess.run(
            [sys.executable, "-m", "shosoin.testing.simulation", "--seed", "3", "--json"],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_failing_plan_is_made_small():
    with pytest.MonkeyPatch.context() as patch:
        pad_used_twice(patch)
        whole = next(found for seed in range(1, 9) if (found := simulate(make_plan(seed))).violations)
        small = shrink(whole, runs_max=60)
    assert small.violations
    assert small.plan.faults == ()
    assert [len(client.operations) for client in small.plan.clients] == [1]
    assert len(small.lines) < len(whole.lines)


def test_the_command_tells_what_was_exercised_and_how_to_replay(capsys):
    assert main(["--seeds", "4", "--start", "1"]) == 0
    assert "put " in capsys.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        pad_used_twice(patch)
        assert main(["--seeds", "3", "--start", "3", "--json"]) == 1
        assert '"failed": {"3": ' in capsys.readouterr().out
        assert main(["--seed", "3", "--shrink"]) == 1
    told = capsys.readouterr().out
    assert "was used twice" in told
    assert "begins put" in told


def test_plans_have_faults_and_liars_within_bounds():
    plans = [make_plan(seed, Liars.ALL) for seed in range(300)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(FaultKind)
    for plan in plans:
        k, n = (int(part) for part in plan.scheme.split("-of-"))
        assert len(plan.liars) <= min((n - k) // 2, (n - 1) // 3)
        assert plan.sites[0] not in plan.liars
    assert any(len(plan.liars) > 1 for plan in plans)


MENDED = {
    "a reader of a name that changes its class is told that it was removed": [
        scenarios.read_while_the_class_changes(number) for number in range(12, 20)
    ],
    "a new version of an object takes back a name that went to another object meanwhile": [
        make_plan(30630, Liars.ALL, class_changes=True)
    ],
    "a site that claims huge ballots keeps those that lag from ever following": [
        make_plan(867, Liars.ALL, class_changes=True)
    ],
    "a removal in one class hides a name that was put anew in another after it": [
        make_plan(11286, Liars.ALL, class_changes=True)
    ],
    "a site whose share is erased while it is asked for it is accused of damage": [
        scenarios.verify_during_removal(0.64 + number / 250) for number in range(14)
    ],
    "a value that a quorum accepted and too few sites hold blocks its register for good": [
        scenarios.full_disk_and_false_receipt(0.05 + number / 100) for number in range(5)
    ],
    "one high promise of a dead writer and one silent site block a register for good": [
        scenarios.dead_writer_and_silent_site(number, seed) for seed in (11, 14, 20) for number in range(33, 37)
    ],
}


@pytest.mark.parametrize("plans", MENDED.values(), ids=MENDED)
def test_a_defect_that_was_found_here_is_gone(plans):
    for plan in plans:
        assert simulate(plan).violations == ()
