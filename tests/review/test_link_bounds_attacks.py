"""Attacks on the finite-key bounds by numbers: rounding, cancellation, extremes. The judge computes with 50 digits."""

import math
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
from scipy import stats

from shosoin.link.counts import DecoyCounts
from shosoin.link.information import union
from shosoin.link.rates import gaussian_cv, gaussian_cv_finite, one_decoy, plob, two_decoys
from shosoin.link.rates.decoy import METRO, secret_key_rate_per_pulse
from shosoin.link.rates.sampling import Sampling, phase_error_rate_max

D = Decimal
HALF = D("0.5")


def log2(x):
    return x.ln() / D(2).ln()


def entropy(p):
    return -p * log2(p) - (1 - p) * log2(1 - p) if 0 < p < 1 else D(0)


def cut(value, most):
    return max(D(0), min(D(most), value))


class Exact:
    """Both proofs, from their equations, in decimal arithmetic."""

    def __init__(self, mu, p, epsilon):
        self.mu, self.p = [D(float(x)) for x in mu], [D(float(x)) for x in p]
        self.nats = -D(epsilon).ln()
        self.scale = [m.exp() / q for m, q in zip(self.mu, self.p, strict=True)]
        self.tau = [self._tau(n) for n in (0, 1)]

    def _tau(self, n):
        return sum(q * (-m).exp() * (m if n else D(1)) for q, m in zip(self.p, self.mu, strict=True))

    def deviation(self, counts):
        return (D(sum(counts)) * self.nats / 2).sqrt()

    def range(self, counts, *, possible):
        total, off = sum(counts), self.deviation(counts)
        low, high = [n - off for n in counts], [n + off for n in counts]
        if possible:
            low, high = [cut(n, total) for n in low], [cut(n, total) for n in high]
        return [s * n for s, n in zip(self.scale, low, strict=True)], [
            s * n for s, n in zip(self.scale, high, strict=True)
        ]

    def single_of_two_intensities(self, detections, errors):
        (mu1, mu2), (tau0, tau1) = self.mu, self.tau
        low, high = self.range(detections, possible=True)
        most = min(self.range(errors, possible=True)[1])
        empty = cut(2 * (tau0 * most + self.deviation(detections)), sum(detections))
        seen = low[1] - (mu2 / mu1) ** 2 * high[0] - (mu1**2 - mu2**2) / mu1**2 * empty / tau0
        return cut(mu1 * tau1 / (mu2 * (mu1 - mu2)) * seen, sum(detections))

    def wiesemann(self, key, key_errors, test, test_errors):
        single, tested = (
            self.single_of_two_intensities(key, key_errors),
            self.single_of_two_intensities(test, test_errors),
        )
        low, high = self.range(test_errors, possible=True)
        wrong = max(D(0), self.tau[1] * (high[0] - low[1]) / (self.mu[0] - self.mu[1]))
        if single < 1 or tested < 1:
            return D(0)
        # Serfling with the square of epsilon.
        gap = ((single + tested) * (tested + 1) * self.nats / (single * tested**2)).sqrt()
        return single * (1 - entropy(min(HALF, wrong / tested + gap)))

    def photons_of_three_intensities(self, detections):
        (mu1, mu2, mu3), (tau0, tau1), total = self.mu, self.tau, sum(detections)
        low, high = self.range(detections, possible=False)
        empty = cut(tau0 * (mu2 * low[2] - mu3 * high[1]) / (mu2 - mu3), total)
        seen = low[1] - high[2] - (mu2**2 - mu3**2) / mu1**2 * (high[0] - empty / tau0)
        return empty, cut(tau1 * mu1 * seen / (mu1 * (mu2 - mu3) - mu2**2 + mu3**2), total - empty)

    def lim(self, key, _, test, test_errors):
        (empty, single), (_, tested) = self.photons_of_three_intensities(key), self.photons_of_three_intensities(test)
        low, high = self.range(test_errors, possible=False)
        wrong = max(D(0), self.tau[1] * (high[1] - low[2]) / (self.mu[1] - self.mu[2]))
        if single < 1 or tested < 1 or wrong >= tested / 2:
            return empty
        rate = wrong / tested
        if not wrong:
            return empty + single * (1 - entropy(chvatal(wrong, tested, single, 2 * self.nats)))
        sizes, spread, ln2 = (single + tested) / (single * tested), rate * (1 - rate), D(2).ln()
        gauss = rate + (sizes * spread / ln2 * max(D(0), log2(sizes / spread) + 2 * self.nats / ln2)).sqrt()
        return empty + single * (1 - entropy(min(HALF, max(gauss, chvatal(wrong, tested, single, 2 * self.nats)))))


def chvatal(seen, tested, untested, nats):
    """Solve K KL(seen/K || tested/all) = nats for the rate of the untested by halving."""

    def exponent(rate):
        missed, share = rate * untested, tested / (tested + untested)
        total = seen + missed
        return (seen * (seen / total / share).ln() if seen else 0) + missed * (missed / total / (1 - share)).ln()

    low, high = max(seen / tested, D("1e-40")), HALF
    if exponent(high) <= nats:
        return HALF
    for _ in range(170):
        middle = (low + high) / 2
        low, high = (low, middle) if exponent(middle) > nats else (middle, high)
    return low


def plain(array):
    return [int(n) for n in array]


def expected_block(mu, p, size, *, error):
    """Return counts as a lossy channel with a few dark counts makes them, a fifth as many in the test basis."""
    light = 1e-6 + 1.0 - np.exp(-0.01 * np.asarray(mu))
    share = np.asarray(p) * light / np.sum(np.asarray(p) * light)
    key, test = (size * share).astype(np.int64), (size / 5 * share).astype(np.int64)
    return DecoyCounts(key, (error * key).astype(np.int64), test, (error * test).astype(np.int64))


# Close intensities lose digits. Lim's proof has two close pairs: mu2 and mu3, and mu1 and mu2 + mu3.
ONE = [
    ([0.5, 0.1], [0.7, 0.3]),
    ([0.5, 0.4999], [0.5, 0.5]),
    ([0.1744, 0.17439], [0.41, 0.59]),
    ([0.6, 1e-5], [0.5, 0.5]),
]
TWO = [
    ([0.5, 0.15, 2e-4], [0.4, 0.4, 0.2]),
    ([0.1071, 0.0295, 0.0247], [0.64, 0.30, 0.06]),
    ([0.14590, 0.07307, 0.03688], [0.36, 0.37, 0.27]),
    ([0.789626, 0.394814, 0.0], [0.29, 0.29, 0.42]),
    ([0.011651, 0.0058257, 0.0058], [0.36, 0.41, 0.23]),
]


@pytest.mark.parametrize("error", [0.0, 0.01])
@pytest.mark.parametrize("size", [1e6, 1e9, 1.1e12, 3.3e15])
def test_rounding_never_makes_a_key_longer(size, error):
    made = 0
    for mu, shares in ONE + TWO:
        p = np.array(shares) / sum(shares)
        counts, spent = (
            expected_block(mu, p, size, error=error),
            {"epsilon_secrecy": 1e-10, "epsilon_correctness": 1e-15},
        )
        with localcontext(prec=50):
            if len(mu) == 2:
                exact, proof = Exact(mu, p, D(1e-10) / 15), one_decoy.secret_length
                secret, cost = exact.wiesemann, 4 * log2(15 / D(1e-10)) - 1
            else:
                exact, proof = Exact(mu, p, D(1e-10) / 21), two_decoys.secret_length
                secret, cost = exact.lim, 6 * log2(21 / D(1e-10))
            parts = (counts.key_detections, counts.key_errors, counts.test_detections, counts.test_errors)
            most = secret(*map(plain, parts)) - cost - log2(2 / D(1e-15)) - 7
        found = proof(counts, mu, p, leak_ec_bits=7, **spent).secret_bits
        assert found <= max(0, math.floor(most)), (mu, p)
        made += found > 0
    assert made >= 1


def test_rounding_costs_next_to_nothing():
    mu, p = ONE[0]
    counts = expected_block(mu, p, 1e9, error=0.01)
    with localcontext(prec=50):
        exact = Exact(mu, p, D(1e-10) / 15)
        parts = (counts.key_detections, counts.key_errors, counts.test_detections, counts.test_errors)
        most = exact.wiesemann(*map(plain, parts)) - 4 * log2(15 / D(1e-10)) + 1 - log2(2 / D(1e-15))
    assert one_decoy.secret_length(counts, mu, p, leak_ec_bits=0, epsilon_secrecy=1e-10).secret_bits >= float(most) - 2


@pytest.mark.parametrize("seen", [0.0, 1e-3, 0.3])
@pytest.mark.parametrize(
    ("tested", "untested"), [(1e3, 1e9), (1e6, 1e7), (1e9, 1e3), (1e10, 1e11), (1e15, 1e16), (1e17, 1e17)]
)
def test_the_proven_sampling_bound_has_all_its_digits(tested, untested, seen):
    errors = float(round(seen * tested))
    found = phase_error_rate_max(errors, tested, untested, failure_probability=1e-20, method=Sampling.CHERNOFF)
    with localcontext(prec=50):
        exact = chvatal(D(errors), D(tested), D(untested), -D(1e-20).ln())
    assert float(found) == pytest.approx(float(exact), rel=1e-13)


def test_a_failure_probability_that_underflows_leaves_nothing_known():
    for method in Sampling:
        assert phase_error_rate_max(0.0, 1e6, 1e6, failure_probability=0.0, method=method) == 0.5


@pytest.mark.parametrize("epsilon", [5e-324, 1e-310, 1e-170, 0.0, 1.0, math.nan])
@pytest.mark.parametrize("name", ["epsilon_secrecy", "epsilon_correctness"])
def test_an_epsilon_beyond_floating_point_is_refused(name, epsilon):
    counts = expected_block(*ONE[0], 1e6, error=0.01)
    with pytest.raises(ValueError, match=name):
        one_decoy.secret_length(counts, *ONE[0], leak_ec_bits=0, **{name: epsilon})
    with pytest.raises(ValueError, match=name):
        two_decoys.secret_length(expected_block(*TWO[0], 1e6, error=0.01), *TWO[0], leak_ec_bits=0, **{name: epsilon})


@pytest.mark.parametrize("epsilon", [1e-100, 0.999])
def test_extreme_epsilons_give_a_length(epsilon):
    for counts in (expected_block(*ONE[0], 1e8, error=0.01), expected_block(*ONE[0], 0, error=0.0)):
        spent = {"epsilon_secrecy": epsilon, "epsilon_correctness": epsilon}
        assert one_decoy.secret_length(counts, *ONE[0], leak_ec_bits=0, **spent).secret_bits >= 0


@pytest.mark.parametrize("leak", [10.5, math.inf, math.nan, -1])
def test_a_leak_is_a_count(leak):
    with pytest.raises(ValueError, match="leak_ec_bits"):
        one_decoy.secret_length(expected_block(*ONE[0], 1e6, error=0.01), *ONE[0], leak_ec_bits=leak)


@pytest.mark.parametrize("detection", ["homodyne", "heterodyne"])
@pytest.mark.parametrize("excess", [0.0, 0.05])
def test_no_gaussian_rate_revives_on_long_lines_or_passes_the_repeaterless_bound(detection, excess):
    losses = np.arange(0.5, 300.0, 0.5)
    parameters = gaussian_cv.GaussianParameters(excess, 0.9, 0.0, 1.0, detection=detection)
    rate = gaussian_cv.rate(parameters, attenuation_db=losses).secret_bits_per_pulse
    assert np.all(rate <= plob.capacity_bits_per_mode(losses))
    alive = int(np.count_nonzero(rate))
    assert 0 < alive < rate.size
    assert np.all(rate[:alive] > 0.0)


def test_a_line_without_dark_counts_has_a_rate_at_any_loss():
    quiet = replace(METRO, background_yield=0.0)
    losses = np.array([0.0, 20.0, 100.0, 200.0])
    rate = secret_key_rate_per_pulse(quiet, attenuation_db=losses)
    assert rate[1:] == pytest.approx(rate[1] * 10.0 ** (-(losses[1:] - 20.0) / 10.0), rel=0.01)


@pytest.mark.parametrize("samples", [1e2, 1e3, 1e4, 1e6])
def test_the_worst_noise_of_few_symbols_fails_no_more_often_than_said(samples):
    epsilon, parameters = 1e-11, gaussian_cv.GaussianParameters(0.0, 1.0, 0.0, 1.0)
    channel, noise = gaussian_cv_finite.worst_channel(
        parameters, transmittance=1.0, variance=np.array(1e9), samples=np.array(samples), epsilon=epsilon
    )
    if channel > 0.0:  # else nothing is claimed
        true_variance = 1.0 + float(noise * channel)
        # The chance that a variance so large is estimated at 1 or less.
        assert stats.chi2.cdf(samples / true_variance, samples) <= epsilon
    assert (channel > 0.0) == (samples > 1e2)


def test_a_union_keeps_probabilities_far_below_rounding():
    assert union(1e-20, 2e-25) == pytest.approx(1e-20 + 2e-25, rel=1e-15)
    assert union(1.0, 0.3, 1.0) == 1.0
    assert union() == 0.0
