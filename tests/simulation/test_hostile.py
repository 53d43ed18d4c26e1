"""Hostile clients and conspiring liars: every attack is made, none succeeds, and weakened sites are found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from shosoin.testing.simulation import Liars, Plan, make_plan, simulate
from shosoin.testing.simulation.__main__ import main
from shosoin.testing.simulation.attacks import ATTACKS, JOINT_REGISTER_LIES, JOINT_SHARE_LIES, Attack
from shosoin.testing.simulation.plan import Deed, Fault, FaultKind, Lie
from shosoin.vault import acceptor, calls, commitments, digest_operations, operations, proposing, site
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.ports import ShareKey, SiteTransaction
from shosoin.vault.scheme import Scheme
from tests.simulation.scenarios import deed, plan

Patch = pytest.MonkeyPatch
SEEDS = range(201, 209)
BATCH = 4
BOTH = [(client, kind) for client, kinds in ATTACKS.items() for kind in kinds]
JOINT = JOINT_SHARE_LIES + JOINT_REGISTER_LIES


@pytest.mark.parametrize("start", SEEDS[::BATCH])
def test_seeds_with_hostile_clients_keep_every_promise(start: int) -> None:
    attacks = 0
    for seed in range(start, start + BATCH):
        outcome = simulate(make_plan(seed, Liars.ALL, class_changes=True, hostile=True))
        assert outcome.violations == (), f"{seed}: {outcome.violations[0]}"
        attacks += sum(count for what, count in outcome.counts.items() if what.startswith("attack "))
    assert attacks > BATCH


def attacked(client: str, *kinds: str, seed: int = 7, scheme: str = "3-of-5") -> Plan:
    """Two clients at work, and an attacker meanwhile and afterwards."""
    clients = {
        "anna": [
            deed(Deed.PUT, "anna1", class_="its"),
            deed(Deed.PUT, "anna2", 1.0, class_="its"),
            deed(Deed.PUT, "anna3", 1.0, class_="its"),
            deed(Deed.GET, "anna4", 30.0),
        ],
        "bert": [deed(Deed.PUT, "bert1", 0.5, class_="its"), deed(Deed.AUDIT, "bert2", 40.0)],
    }
    attacks = [Attack(client, kind, at_s, 4) for kind in kinds for at_s in (0.6, 8.0)]
    return replace(plan(scheme, clients, seed=seed), attacks=tuple(attacks))


@pytest.mark.parametrize(("client", "kind"), BOTH)
def test_an_attack_is_made_and_harms_nobody(client: str, kind: str) -> None:
    before = ("bad_deal",) if kind == "removal_of_staged" else ()
    lies = (Lie("hongo", "accomplice"),) if kind == "own_electorate" else ()
    outcome = simulate(replace(attacked(client, *before, kind), lies=lies))
    assert outcome.violations == ()
    assert outcome.counts[f"attack {kind}"] > 0
    assert outcome.counts["put"] == 6, "two clients' four puts, and two after the attack"
    assert not outcome.counts["get failed"]


@pytest.mark.parametrize("kind", JOINT)
def test_two_liars_that_conspire_deceive_nobody(kind: str) -> None:
    lies = tuple(Lie(each, kind) for each in ("kawasaki", "otemachi"))
    made = attacked("thief", "two_values", "forged_certificate", "huge_ballots", scheme="3-of-7")
    away = Fault(FaultKind.CUT_PAIR, "hakusan", "anna", at_s=20.0, for_s=60.0)
    outcome = simulate(replace(made, lies=lies, faults=(away,)))
    assert outcome.violations == ()
    assert outcome.counts[f"lie {kind}"] > 1
    if kind in JOINT_SHARE_LIES:
        assert outcome.counts["answers after everybody else's"] > 0


def test_liars_do_not_frame_an_honest_site_while_two_others_are_away() -> None:
    """Their answers fit those of k-1 honest sites; the last honest one looked like the liar."""
    clients = {"anna": [deed(Deed.PUT, "anna1", class_="its"), deed(Deed.AUDIT, "anna2", 20.0)]}
    lies = tuple(Lie(each, "rush_frame", at_s=10.0) for each in ("kawasaki", "tsukuba"))
    away = Fault(FaultKind.CUT_PAIR, "musashino hongo", "anna", at_s=15.0, for_s=100.0)
    made = replace(plan("3-of-7", clients, away, lies=lies), attacks=(Attack("mallory", "junk", 1.0, 1),))
    outcome = simulate(made)
    assert outcome.violations == ()
    assert outcome.counts["lie rush_frame"] >= 4
    assert any("5 doubtful" in line for line in outcome.lines)


def driven_up(seed: int) -> Plan:
    return replace(attacked("thief", "huge_ballots", seed=seed), attacks=(Attack("thief", "huge_ballots", 6.0, 4),))


def test_ballots_that_only_some_sites_followed_block_nobody() -> None:
    for seed in range(4):
        assert simulate(driven_up(seed)).violations == ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proposing, "lagging_sites", lambda _: [])
        assert any("fails" in found for seed in range(4) for found in simulate(driven_up(seed)).violations)


def test_a_liar_whose_grants_do_not_hold_does_not_stop_a_proposer_that_has_to_go_on() -> None:
    for seed in (0, 3, 6):
        made = attacked("thief", "huge_ballots", seed=seed, scheme="2-of-4")
        ahead = (Attack("thief", "huge_ballots", 6.0, 1),)
        assert simulate(replace(made, attacks=ahead, lies=(Lie("hongo", "replay_registers"),))).violations == ()


def test_a_hostile_seed_gives_the_same_run_twice(capsys: pytest.CaptureFixture[str]) -> None:
    made = make_plan(5, Liars.ALL, class_changes=True, hostile=True)
    first, second = simulate(made), simulate(make_plan(5, Liars.ALL, class_changes=True, hostile=True))
    assert first.lines == second.lines
    assert main(["--seed", "5", "--class-changes", "--hostile"]) == 0
    told = capsys.readouterr().out
    assert f"digest {first.digest[:16]}" in told
    assert "attacks: " in told


def test_hostility_adds_to_a_plan_and_changes_nothing_else() -> None:
    attacks, lies = set(), set()
    for seed in range(200):
        calm = make_plan(seed, Liars.ALL, class_changes=True)
        hostile = make_plan(seed, Liars.ALL, class_changes=True, hostile=True)
        assert calm.attacks == ()
        assert (hostile.clients, hostile.faults, hostile.latency_s) == (calm.clients, calm.faults, calm.latency_s)
        assert hostile.lies[: len(calm.lies)] == calm.lies
        assert set(calm.sites) <= set(hostile.sites)
        assert len(hostile.liars) <= Scheme.parse(hostile.scheme).register_liars
        assert hostile.sites[0] not in hostile.liars
        attacks |= {(attack.client, attack.kind) for attack in hostile.attacks}
        lies |= {lie.kind for lie in hostile.lies[len(calm.lies) :]}
    assert attacks == set(BOTH)
    assert lies == set(JOINT)


def no_promises_needed(patch: Patch) -> None:
    """Sites accept whatever its owner signed."""
    patch.setattr(acceptor, "_check_justified", lambda *_: None)


def no_quorum_needed(patch: Patch) -> None:
    """Sites take a certificate with few signatures."""
    patch.setattr(acceptor.Certified, "check", lambda _: None)


def no_limit_of_answers(patch: Patch) -> None:
    """Sites answer any number of challenges."""
    honest = digest_operations.Digests._admit

    def admit(self: Any, asked: Any, tx: SiteTransaction) -> Any:
        row = tx.share(asked.key)
        if row is None:
            return honest(self, asked, tx)
        tx.add_challenge(row.key, asked.challenge)
        return row

    patch.setattr(digest_operations.Digests, "_admit", admit)


def owners_not_told_apart(patch: Patch) -> None:
    """Sites look shares up by their IDs alone."""
    honest = calls.share_key

    def share_key(_: Any, op: dict[str, Any]) -> ShareKey:
        class Owner:
            owner = "owner"

        return honest(Owner, op)  # type: ignore[arg-type]

    patch.setattr(operations, "share_key", share_key)


def names_not_compared(patch: Patch) -> None:
    """Sites believe the name in an envelope more than the certificate of the connection."""
    honest = site.SiteNode.exchange

    async def exchange(self: Any, caller: Any, body: Any) -> Any:
        header = parse_json(cut(body).header)
        return await honest(self, header.get("from", caller), body)

    patch.setattr(site.SiteNode, "exchange", exchange)


def opened_for_anybody(patch: Patch) -> None:
    """Sites open their part of a challenge for every set of commitments."""
    patch.setattr(commitments.Contribution, "open_for", lambda self, *_: self.opening)


def anybody_decides(patch: Patch) -> None:
    """Sites let the owner's key alone say who decides."""
    patch.setattr(acceptor, "_check_vouched", lambda *_: None)


def two_values_accepted(patch: Patch) -> None:
    """Sites forget which value they accepted under a ballot."""
    honest = acceptor.accept

    def accept(tx: SiteTransaction, site: Any, owner: Any, register_id: Any, *rest: Any, **more: Any) -> Any:
        row = tx.register(owner, register_id)
        if row is not None and row.accepted_ballot == rest[0]:
            tx.put_register(owner, register_id, replace(row, accepted_ballot=(0, ""), accepted_value=None))
        return honest(tx, site, owner, register_id, *rest, **more)

    patch.setattr(acceptor, "accept", accept)


WEAKENED: list[tuple[Callable[[Patch], None], str, str]] = [
    (no_promises_needed, "unjustified", "justify|justifies"),
    (no_quorum_needed, "forged_certificate", "no quorum accepted"),
    (no_limit_of_answers, "curious_auditor", "challenges"),
    (owners_not_told_apart, "theft", "another owner's share"),
    (names_not_compared, "replays", "another owner's"),
    (opened_for_anybody, "two_openings", "opened"),
    (two_values_accepted, "two_values", "two values"),
    (anybody_decides, "own_electorate", "liars alone"),
]


@pytest.mark.parametrize(("weaken", "kind", "words"), WEAKENED, ids=[each[0].__name__ for each in WEAKENED])
def test_a_weakened_site_is_found_out(weaken: Callable[[Patch], None], kind: str, words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        weaken(patch)
        found = next((each for each in _violations(kind) if any(word in each for word in words.split("|"))), None)
    assert found is not None


def _violations(kind: str) -> Iterator[str]:
    """Yield what the first seeds that make an attack report."""
    plans = (make_plan(seed, Liars.ALL, class_changes=True, hostile=True) for seed in range(1, 200))
    client = "mallory" if kind in {"theft", "replays"} else "thief"
    fitting = [made for made in plans if any((each.client, each.kind) == (client, kind) for each in made.attacks)]
    for made in fitting[:8]:
        yield from simulate(made).violations
