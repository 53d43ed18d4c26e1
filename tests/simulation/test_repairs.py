"""The simulation with repairs: damage is mended, liars get nowhere, and deliberate mistakes in repair are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shosoin.testing.simulation import Liars, Outcome, make_plan, simulate
from shosoin.testing.simulation.__main__ import main
from shosoin.testing.simulation.plan import Deed, Mishap, MishapKind, Plan
from shosoin.testing.simulation.repair_plans import REPAIR_LIES
from shosoin.testing.simulation.repairs import repair_all
from shosoin.testing.simulation.share_faults import hurt_all
from shosoin.testing.simulation.truth import committed, good_sites
from shosoin.testing.simulation.world import World
from shosoin.vault import repair_keys
from shosoin.vault.pads import Pad
from shosoin.vault.repair import Repairer
from shosoin.vault.repair_order import Party
from tests.mutants.secrecy import good_without_an_audit, orders_not_compared
from tests.simulation import scenarios

REPAIRS = (Deed.REPAIR, Deed.REPAIR_ALL)
Mistake = Callable[[pytest.MonkeyPatch], None]


def plan_of(seed: int, liars: Liars = Liars.ALL) -> Plan:
    return make_plan(seed, liars, repairs=True)


def told(seed: int, outcome: Outcome) -> str:
    more = f"--seed {seed} --liars all --repairs --shrink"
    return f"{outcome.violations[:1]}\nreplay: python -m shosoin.testing.simulation {more}"


@pytest.mark.parametrize("seed", [8, 11, 29])
def test_seeds_with_repairs_keep_every_promise(seed: int) -> None:
    outcome = simulate(plan_of(seed))
    assert outcome.violations == (), told(seed, outcome)
    assert outcome.counts["shares hurt"] > 0
    assert outcome.counts["shares rebuilt"] > 0
    assert outcome.counts["repair"] + outcome.counts["repair_all"] > 0


def test_sites_lie_about_repair_and_clients_repair_all_the_same() -> None:
    outcomes = [simulate(plan_of(seed)) for seed in (11, 29)]
    assert all(outcome.counts["lies about repair"] > 0 for outcome in outcomes)
    assert all(outcome.counts["repair attempts"] > outcome.counts["shares rebuilt"] for outcome in outcomes)


def test_a_seed_with_repairs_gives_the_same_run_twice() -> None:
    first, second = simulate(plan_of(29)), simulate(plan_of(29))
    assert first.lines == second.lines
    assert first.digest == second.digest != simulate(plan_of(30)).digest


def test_an_object_whose_removal_stopped_half_way_stops_no_repair_of_everything() -> None:
    assert simulate(make_plan(226, Liars.ALL, class_changes=True, repairs=True)).violations == ()


def test_every_kind_of_damage_is_mended() -> None:
    """One site after the other has what it holds lost or damaged, each in its own way, and nobody lies."""
    work = [scenarios.deed(Deed.PUT, "anna1"), scenarios.deed(Deed.GET, "anna2", 5.0)]
    for kind in (each for each in MishapKind if each is not MishapKind.LINK_DRY):
        mishap = Mishap(kind, "otemachi", at_s=1.0, pick=7)
        whole = scenarios.plan("3-of-5", {"anna": work})
        outcome = simulate(replace(whole, mishaps=(mishap,), repairs=True))
        assert outcome.violations == (), kind
        assert outcome.counts["shares hurt"] >= 2, kind
        assert outcome.counts["shares rebuilt"] >= 2, kind


def pads_of_sites_used_twice(patch: pytest.MonkeyPatch) -> None:
    """A site draws a pad for another site once, and uses it as long as it is long enough."""
    kept: dict[str, Pad] = {}
    draw = repair_keys.OneTimeSecrets.give

    async def give(self: repair_keys.OneTimeSecrets, peer: Party, use: str, size_bytes: int) -> Pad:
        pad = kept.get(peer.node)
        if pad is None or len(pad.content) < size_bytes:
            pad = kept[peer.node] = await draw(self, peer, use, size_bytes)
        return Pad(pad.key_ids, pad.content[:size_bytes])

    patch.setattr(repair_keys.OneTimeSecrets, "give", give)


def index_left_alone(patch: pytest.MonkeyPatch) -> None:
    """A repair after a check by keys does not check the shares of the index."""

    async def nothing(*_: object) -> dict[str, object]:
        return {}

    patch.setattr(Repairer, "_index_states", nothing)


@pytest.mark.parametrize(
    ("mistake", "seeds", "said"),
    [
        (good_without_an_audit, (11, 12), "does not hold the right share"),
        (orders_not_compared, (29,), "on different orders"),
        (pads_of_sites_used_twice, (29,), "was used twice"),
        (index_left_alone, (8,), "lacks its share of the index"),
    ],
)
def test_a_deliberate_mistake_in_repair_is_found(mistake: Mistake, seeds: tuple[int, ...], said: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        found = [violation for seed in seeds for violation in simulate(plan_of(seed)).violations]
    assert any(said in violation for violation in found), found


def test_without_the_option_plans_are_what_they_were() -> None:
    for seed in range(60):
        plain, more = (
            make_plan(seed, Liars.ALL, class_changes=True),
            make_plan(seed, Liars.ALL, class_changes=True, repairs=True),
        )
        assert (plain.mishaps, plain.repairs) == ((), False)
        assert not any(each.deed in REPAIRS for client in plain.clients for each in client.operations)
        assert (more.seed, more.scheme, more.latency_s, more.orphan_age_s) == (
            plain.seed,
            plain.scheme,
            plain.latency_s,
            plain.orphan_age_s,
        )
        assert more.faults[: len(plain.faults)] == plain.faults
        for before, after in zip(plain.clients, more.clients, strict=False):
            assert before.operations == tuple(each for each in after.operations if each.deed not in REPAIRS)


def test_plans_with_repairs_have_all_mishaps_and_lies_and_bounded_liars() -> None:
    plans = [plan_of(seed) for seed in range(400)]
    assert {mishap.kind for plan in plans for mishap in plan.mishaps} == set(MishapKind)
    assert {lie.kind for plan in plans for lie in plan.lies} >= set(REPAIR_LIES)
    assert {each.deed for plan in plans for client in plan.clients for each in client.operations} == set(Deed)
    for plan in plans:
        k, n = (int(part) for part in plan.scheme.split("-of-"))
        assert len(plan.liars) <= min((n - k) // 2, (n - 1) // 3)
        assert plan.sites[0] not in plan.liars
    assert not any(lie for seed in range(40) for lie in plan_of(seed, Liars.NONE).lies)


@pytest.mark.parametrize("seed", [8, 29])
def test_damage_leaves_every_object_readable(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """However much is asked for, k sites keep good shares, and no more than f lack one or lie."""
    fewest: list[int] = []

    def hurt(world: World, kinds: tuple[MishapKind, ...]) -> None:
        for _ in range(3):
            hurt_all(world, kinds)
        keys = {key for _, key in world.hurt}
        counted = {(value.register_id, body.version) for value in committed(world).values() for body in value.bodies}
        left = [len(good_sites(world, key)) - world.scheme.k for key in keys if (key.object_id, key.version) in counted]
        fewest.append(min(left))

    monkeypatch.setattr(repair_all.__module__ + ".hurt_all", hurt)
    assert simulate(plan_of(seed)).violations == ()
    assert fewest
    assert min(fewest) >= 0


def test_the_command_repeats_the_option_in_what_it_says_to_replay(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        pads_of_sites_used_twice(patch)
        patch.setattr("shosoin.testing.simulation.__main__.shrink", lambda outcome: outcome)
        assert main(["--seeds", "1", "--start", "29", "--repairs"]) == 1
    told_last = capsys.readouterr().out.splitlines()[-1]
    assert "--seed 29" in told_last
    assert told_last.endswith("--repairs")
