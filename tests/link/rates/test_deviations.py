import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom, poisson

from shosoin.link.rates.deviations import count_min, mean_max, mean_min, sampling_gap

nats = st.floats(1.0, 40.0)


@settings(max_examples=40)
@given(st.floats(1e-2, 1e6), nats)
def test_a_count_leaves_the_interval_of_its_mean_no_more_often_than_said(mean, nats):
    """Poisson counts, the limit of many indicators, against their exact distribution."""
    allowed = np.exp(-nats)
    # The mean is missed from above when the count is so low that even the largest plausible mean is smaller.
    counts = np.arange(0, int(mean + 50 * np.sqrt(mean) + 200))
    too_low = counts[mean_max(counts, nats) < mean]
    too_high = counts[mean_min(counts, nats) > mean]
    assert (poisson.cdf(too_low[-1], mean) if len(too_low) else 0.0) <= allowed
    assert (poisson.sf(too_high[0] - 1, mean) if len(too_high) else 0.0) <= allowed
    assert poisson.cdf(np.ceil(count_min(mean, nats)) - 1, mean) <= allowed


def test_a_binomial_count_is_covered_as_well():
    tries, chance, nats = 1000, 0.3, 5.0
    counts = np.arange(tries + 1)
    missed = (mean_max(counts, nats) < tries * chance) | (mean_min(counts, nats) > tries * chance)
    assert 0.0 < binom.pmf(counts[missed], tries, chance).sum() <= 2 * np.exp(-nats)


@pytest.mark.parametrize("bad", [5, 40, 200])
def test_the_rest_of_a_sampled_whole_is_rarely_worse_than_said(bad):
    rest, sample, nats = 300, 200, 3.0
    seen = np.arange(0, min(bad, sample) + 1)
    exceeded = (bad - seen) / rest > seen / sample + sampling_gap(rest, sample, nats)
    assert hypergeom.pmf(seen[exceeded], rest + sample, bad, sample).sum() <= np.exp(-nats)


def test_a_sample_of_nothing_says_nothing():
    assert sampling_gap(10.0, 0.0, 1.0) == np.inf
