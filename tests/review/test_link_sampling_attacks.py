"""An eavesdropper who hears the basis of each detection before the next, and chooses then what to disturb."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shosoin.link.rates.deviations import sampling_gap
from shosoin.link.rates.sampling import Sampling, phase_error_rate_max

KEYS = 20


def chance_to_hide(test_share: float, failure: float) -> float:
    """Return the best chance, over all strategies, to have more errors in 20 key detections than the bound says.

    A detection is of the test basis with one probability whatever came before, and errs if she disturbs it. Runs of
    very many tests are counted as lost for her. By dynamic programming from the last detection back: values over
    (errors in the tests, errors in the key), one table for each number of tests.
    """
    most = round(2.5 * KEYS * test_share / (1 - test_share)) + 6
    seen, hidden = np.arange(most + 1)[:, None], np.arange(KEYS + 1)[None, :]

    def exceeded(tests: int) -> np.ndarray:
        bound = seen / max(tests, 1) + sampling_gap(KEYS, tests, -math.log(failure))
        proven = phase_error_rate_max(seen, tests, KEYS, failure_probability=failure, method=Sampling.SERFLING)
        assert np.allclose(proven[: tests + 1], np.minimum(bound, 0.5)[: tests + 1], rtol=1e-12)
        return ((hidden / KEYS > bound) & (seen <= tests)).astype(float)

    values = [exceeded(tests) for tests in range(most + 1)]
    for _ in range(KEYS):
        before = [np.zeros((most + 1, KEYS + 1))]
        for tests in reversed(range(most)):
            in_test, in_key = before[0], values[tests]
            quiet = test_share * in_test + (1 - test_share) * in_key
            disturbed = np.zeros_like(quiet)
            disturbed[:-1, :-1] = test_share * in_test[1:, :-1] + (1 - test_share) * in_key[:-1, 1:]
            before.insert(0, np.maximum(quiet, disturbed))
        values = before
    return float(values[0][0, 0])


@pytest.mark.parametrize("test_share", [0.25, 0.4])
@pytest.mark.parametrize("failure", [0.3, 1e-2, 1e-5])
def test_who_hears_every_basis_at_once_hides_errors_no_more_often_than_the_bound_grants(test_share, failure):
    assert 0 < chance_to_hide(test_share, failure) <= failure
