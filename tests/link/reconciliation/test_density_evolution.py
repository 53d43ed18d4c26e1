"""Density evolution against published thresholds, against drawn messages without any grid, and against its laws."""

from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation.catalogue import FAMILIES
from shosoin.link.reconciliation.density_evolution import (
    Ensemble,
    evolution,
    rounds_to_correct,
    stability_limit,
    threshold,
)
from shosoin.link.reconciliation.published_degrees import ELKOUSS_2009
from shosoin.link.reconciliation.recipes import RECIPES

MIXED = Ensemble({2: 0.3, 3: 0.4, 9: 0.3}, {7: 0.6, 8: 0.4})


@pytest.mark.parametrize(
    ("column", "check", "published"),
    [(3, 6, 0.084), (3, 5, 0.113)],
)
def test_regular_ensembles_have_the_thresholds_of_richardson_and_urbanke(column, check, published):
    # IEEE Trans. Inf. Theory 47, 599, table II, three digits.
    found = threshold(Ensemble({column: 1.0}, {check: 1.0}), step=0.1)
    assert found == pytest.approx(published, abs=0.001)


def drawn_errors(ensemble: Ensemble, qber: float, rounds: int, size: int) -> list[float]:
    """Return the share of wrong messages by round, of messages that are drawn and never rounded."""
    rng = np.random.default_rng(7)

    def heard() -> np.ndarray:
        return np.where(rng.random(size) < qber, -1, 1) * np.log((1 - qber) / qber)

    def degrees(shares) -> np.ndarray:
        return rng.choice(list(shares), size, p=list(shares.values()))

    sent = heard()
    errors = [float(np.mean(sent < 0))]
    for _ in range(rounds):
        answered, wanted = np.ones(size), degrees(ensemble.checks)
        for used in range(1, max(ensemble.checks)):
            answered *= np.where(used < wanted, np.tanh(rng.choice(sent, size) / 2), 1)
        answered = 2 * np.arctanh(np.clip(answered, -1 + 1e-15, 1 - 1e-15))
        sent, wanted = heard(), degrees(ensemble.columns)
        for used in range(1, max(ensemble.columns)):
            sent += np.where(used < wanted, rng.choice(answered, size), 0)
        errors.append(float(np.mean(sent < -1e-9) + np.mean(np.abs(sent) <= 1e-9) / 2))
    return errors


def test_errors_by_round_are_those_of_drawn_messages():
    expected = drawn_errors(MIXED, 0.05, 6, 400_000)
    found = [error for error, _ in islice(evolution(MIXED, 0.05, step=0.1), 7)]
    assert found == pytest.approx(expected, rel=0.05)
    assert found[-1] < found[0] / 2


@settings(max_examples=12, deadline=None)
@given(light=st.floats(0.05, 0.5), heavy=st.integers(4, 20), check=st.integers(4, 16), qber=st.floats(0.01, 0.2))
def test_no_round_adds_entropy_or_takes_it_below_zero(light, heavy, check, qber):
    ensemble = Ensemble({2: light, heavy: 1 - light}, {check: 1.0})
    entropies = [entropy for _, entropy in islice(evolution(ensemble, qber, step=0.1), 6)]
    # Rounding to the grid may add a little where nothing else happens.
    assert all(0 <= after <= before + 0.005 for before, after in pairwise(entropies))


def test_fewer_errors_take_fewer_rounds_and_too_many_are_never_corrected():
    found = [rounds_to_correct(MIXED, qber, step=0.2) or 0 for qber in (0.02, 0.04, 0.05)]
    assert 0 < found[0] < found[1] < found[2]
    limit = np.interp(1 - MIXED.rate, binary_entropy(np.linspace(0.001, 0.4, 4000)), np.linspace(0.001, 0.4, 4000))
    assert rounds_to_correct(MIXED, float(limit), step=0.2) is None


def test_the_published_rates_follow_from_the_published_degrees():
    for row in ELKOUSS_2009:
        assert row.ensemble.rate == pytest.approx(row.rate, abs=0.001)


def test_one_published_row_of_shares_does_not_add_up():
    sums = {row.rate: sum(row.ensemble.columns.values()) for row in ELKOUSS_2009}
    assert [rate for rate, total in sums.items() if abs(total - 1) > 5e-5] == [0.85]
    assert all(sum(row.ensemble.checks.values()) == pytest.approx(1, abs=5e-5) for row in ELKOUSS_2009)


def test_one_published_threshold_lies_above_the_papers_own_stability_condition():
    assert [row.rate for row in ELKOUSS_2009 if stability_limit(row.ensemble) < row.threshold] == [0.75]


@pytest.mark.parametrize("name", ["long-045", "long-104", "long-240"])
def test_our_codes_are_planned_for_fewer_errors_than_endless_frames_correct(name):
    member = next(member for member in FAMILIES[0].members if member.code == name)
    recipe = RECIPES[name]
    rates = np.linspace(1e-4, 0.2, 20_000)
    planned = float(np.interp(recipe.rows / recipe.columns / member.f_ec, binary_entropy(rates), rates))
    assert rounds_to_correct(Ensemble.of_columns(recipe.degrees, recipe.rows), planned, step=0.2) is not None


def test_columns_of_each_degree_add_up_and_give_the_rate_back():
    for row in ELKOUSS_2009:
        counts = row.ensemble.column_counts(400)
        assert sum(counts.values()) == 400
        rows = round((1 - row.rate) * 400)
        assert Ensemble.of_columns(counts, rows).rate == pytest.approx(1 - rows / 400)


@pytest.mark.parametrize("shares", [{}, {1: 1.0}, {3: 0.5}, {3: 1.2, 4: -0.2}])
def test_shares_that_are_no_distribution_are_refused(shares):
    with pytest.raises(ValueError, match="add up to 1"):
        Ensemble(shares, {6: 1.0})
