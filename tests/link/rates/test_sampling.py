"""Random sampling, against the exact hypergeometric tail."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from shosoin.link.rates.sampling import Sampling, phase_error_rate_max

PROVEN = [Sampling.SERFLING, Sampling.CHERNOFF, Sampling.GUARDED]
CASES = [(v, d, c) for v in (0, 3, 10, 40, 150) for d, c in ((400, 4000), (1000, 1000), (4000, 400))]


def _chance_of_so_few(errors, tested, untested, rate):
    """Return the chance of so few errors in the sample if the rest had just more than the bound allows."""
    hidden = int(np.floor(rate * untested)) + 1
    return hypergeom.cdf(errors, tested + untested, errors + hidden, tested)


@pytest.mark.parametrize("method", PROVEN)
@pytest.mark.parametrize(("errors", "tested", "untested"), CASES)
def test_a_proven_bound_fails_no_more_often_than_promised(method, errors, tested, untested):
    for promised in (1e-3, 1e-10, 1e-20):
        rate = float(phase_error_rate_max(errors, tested, untested, failure_probability=promised, method=method))
        if rate < 0.5:
            assert _chance_of_so_few(errors, tested, untested, rate) <= promised


def test_the_printed_closed_form_fails_far_more_often_than_promised_when_errors_are_few():
    # Why blocks take the guarded bound: ten errors in a thousand, a promise of 1e-20, a chance of 1e-8.
    rate = float(phase_error_rate_max(10, 1000, 1000, failure_probability=1e-20, method=Sampling.GAUSSIAN))
    assert _chance_of_so_few(10, 1000, 1000, rate) > 1e-10
    nothing = phase_error_rate_max(0, 1000, 1000, failure_probability=1e-20, method=Sampling.GAUSSIAN)
    assert float(nothing) < 1e-12


def test_in_large_blocks_all_bounds_come_to_the_rate_that_was_seen():
    for method in Sampling:
        rate = phase_error_rate_max(2e10, 1e12, 1e12, failure_probability=1e-20, method=method)
        assert float(rate) == pytest.approx(0.02, rel=1e-3)


@given(st.floats(0, 500), st.floats(1, 1e6), st.floats(1, 1e6), st.floats(-60, -1), st.sampled_from(list(Sampling)))
def test_worse_evidence_never_gives_a_better_bound(errors, tested, untested, exponent, method):
    def bound(v, d, c, log_failure):
        return float(phase_error_rate_max(v, d, c, failure_probability=10.0**log_failure, method=method))

    here = bound(errors, tested, untested, exponent)
    assert 0.0 <= here <= 0.5
    slack = 1e-9
    assert bound(errors * 1.1 + 1, tested, untested, exponent) >= here - slack
    assert bound(errors, tested * 0.9, untested, exponent) >= here - slack
    assert bound(errors, tested, untested * 0.9, exponent) >= here - slack
    assert bound(errors, tested, untested, exponent - 2) >= here - slack


@pytest.mark.parametrize(("errors", "tested", "untested"), [(0, 0, 10), (0, 10, 0), (6, 10, 10), (0, 0.5, 10)])
@pytest.mark.parametrize("method", list(Sampling))
def test_without_evidence_nothing_is_known(errors, tested, untested, method):
    assert phase_error_rate_max(errors, tested, untested, failure_probability=1e-9, method=method) == 0.5
