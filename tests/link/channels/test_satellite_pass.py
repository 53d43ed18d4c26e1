"""The key of a pass: expected counts, windows and blocks, and SatQuMA as an independent program."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.channels.optical_link import OpticalLink
from shosoin.link.channels.orbit import CircularOrbit, GroundStation, overpass, sun_elevation_deg
from shosoin.link.channels.pass_key import DecoySource, expected_counts, pass_key
from shosoin.link.channels.satellite_pass import SatellitePass, SkyBrightness, pass_over, passes
from shosoin.link.channels.sky import NIGHT_MOONLESS, Daylight, SkyReceiver
from shosoin.link.counts import DecoyCounts
from shosoin.link.detector import Detector
from shosoin.link.information import binary_entropy
from shosoin.link.rates import two_decoys
from shosoin.link.rates.sampling import Sampling

LINK = OpticalLink(
    wavelength_nm=850.0, waist_radius_m=0.15, receiver_radius_m=0.5, zenith_transmittance=0.7, fixed_db=8.0
)
SOURCE = DecoySource(
    pulse_rate_hz=1e8,
    intensities=(0.8, 0.15, 0.0),
    probabilities=(0.7, 0.2, 0.1),
    key_basis_probability=0.8,
    misalignment_error=0.005,
)
DETECTOR = Detector(efficiency=0.5, dark_count_probability=1e-7)
RECEIVER = SkyReceiver(aperture_radius_m=0.5, field_of_view_rad=5e-5, passband_nm=0.5, wavelength_nm=850.0)


def satquma_pass(step_s=1.0):
    """500 km over the zenith, 27 dB there and the inverse square elsewhere: an input both programs can be given."""
    seen = overpass(altitude_m=5e5, step_s=step_s)
    none = np.zeros_like(seen.time_s)
    return SatellitePass(
        slot_s=step_s,
        time_s=seen.time_s,
        elevation_deg=seen.elevation_deg,
        range_m=seen.range_m,
        attenuation_db=27.0 + 20.0 * np.log10(seen.range_m / 5e5),
        background_hz=none,
        is_day=none > 0,
        is_in_shadow=none > 0,
    )


def satquma_source(error):
    return DecoySource(1e8, (0.7921, 0.1707, 0.0), (0.7501, 0.1749, 0.075), 0.7611, error)


@dataclass(frozen=True)
class Bits:
    secret_bits: int


def sidhu_length(counts, mu, p, *, leak_ec_bits, epsilon=1e-9, correct=1e-15):
    """Lim et al. 2014 (1)-(5) as Sidhu et al. 2022 take them: single-photon errors capped by all errors there are."""
    mu, p = np.asarray(mu), np.asarray(p)
    tau = [(p * np.exp(-mu) * mu**n).sum() for n in (0, 1)]

    def bounds(n):
        off = np.sqrt(n.sum() / 2 * np.log(21 / epsilon))
        return np.exp(mu) / p * (n - off), np.exp(mu) / p * (n + off)

    def singles(n):
        low, high = bounds(n)
        s0 = max(tau[0] * (mu[1] * low[2] - mu[2] * low[1]) / (mu[1] - mu[2]), 0)
        rest = low[1] - high[2] - (mu[1] ** 2 - mu[2] ** 2) / mu[0] ** 2 * (high[0] - s0 / tau[0])
        return s0, tau[1] * mu[0] * rest / (mu[0] * (mu[1] - mu[2]) - mu[1] ** 2 + mu[2] ** 2)

    s0, s1 = singles(counts.key_detections)
    _, z1 = singles(counts.test_detections)
    low, high = bounds(counts.test_errors)
    b = min(tau[1] * (high[1] - low[2]) / (mu[1] - mu[2]), counts.test_errors.sum()) / z1
    spread = (z1 + s1) * (1 - b) * b / (z1 * s1 * np.log(2))
    phase = b + np.sqrt(spread * np.log2((z1 + s1) / (z1 * s1 * (1 - b) * b) * 21**2 / epsilon**2))
    fixed = 6 * np.log2(21 / epsilon) + np.log2(2 / correct)
    return Bits(max(0, int(s0 + s1 * (1 - binary_entropy(min(phase, 0.5))) - leak_ec_bits - fixed)))


# Output of SatQuMA 2.0.0 (github cnqo-qcomms/SatQuMA, MIT), function key_length, Hoeffding bounds, block leak of
# 1.16 n h(Q), no afterpulses, with the pass and source above: half window in s, extraneous counts, intrinsic error,
# then secret bits, sifted key bits nX, sifted test bits nZ and errors in the key basis.
SATQUMA = [
    (100, 1e-8, 0.001, 3328712.54, 9581547.49, 944027.21, 9697.75),
    (200, 1e-8, 0.001, 4326395.72, 12224272.61, 1204403.15, 12456.10),
    (250, 1e-8, 0.001, 4558098.17, 12837319.80, 1264803.96, 13126.96),
    (100, 5e-7, 0.005, 2484054.60, 9592948.62, 945150.51, 53728.27),
    (200, 5e-7, 0.005, 3204958.37, 12247024.91, 1206644.83, 72733.47),
    (250, 5e-7, 0.005, 3349113.33, 12865748.37, 1267604.90, 78694.49),
]


@pytest.mark.parametrize("row", SATQUMA)
def test_counts_of_a_pass_are_those_of_satquma(row):
    half_s, extraneous, error, _, key, test, errors = row
    counts = expected_counts(satquma_pass(), satquma_source(error), Detector(1.0, extraneous))
    window = np.abs(satquma_pass().time_s) <= half_s
    assert counts.key_detections[window].sum() == pytest.approx(key, rel=1e-6)
    assert counts.test_detections[window].sum() == pytest.approx(test, rel=1e-6)
    # SatQuMA adds dark errors where ours unites them with photons.
    assert counts.key_errors[window].sum() == pytest.approx(errors, rel=2e-4)


def shared_out(counts):
    """Errors of a slot shared over intensities by their detections, as SatQuMA has it."""

    def share(detections, errors):
        return errors.sum(axis=-1, keepdims=True) * detections / detections.sum(axis=-1, keepdims=True)

    return DecoyCounts(
        counts.key_detections,
        share(counts.key_detections, counts.key_errors),
        counts.test_detections,
        share(counts.test_detections, counts.test_errors),
    )


@pytest.mark.parametrize("row", SATQUMA)
def test_the_key_of_a_pass_is_that_of_satquma_under_its_assumptions(row):
    half_s, extraneous, error, bits, *_ = row
    source = satquma_source(error)
    slots = shared_out(expected_counts(satquma_pass(), source, Detector(1.0, extraneous)))
    window = np.abs(satquma_pass().time_s) <= half_s
    block = DecoyCounts(
        slots.key_detections[window].sum(axis=0),
        slots.key_errors[window].sum(axis=0),
        slots.test_detections[window].sum(axis=0),
        slots.test_errors[window].sum(axis=0),
    )
    detections = block.key_detections.sum()
    leak = 1.16 * detections * binary_entropy(block.key_errors.sum() / detections)
    found = sidhu_length(block, source.intensities, source.probabilities, leak_ec_bits=int(leak))
    assert found.secret_bits == pytest.approx(bits, rel=1e-4)


@pytest.mark.parametrize("row", SATQUMA)
def test_the_proof_of_this_package_is_never_longer_than_satquma_and_not_much_shorter(row):
    half_s, extraneous, error, bits, *_ = row
    over = satquma_pass()
    edge = over.elevation_deg[over.time_s == half_s][0] - 1e-6
    proof = partial(two_decoys.secret_length, sampling=Sampling.GAUSSIAN)
    found = pass_key(over, satquma_source(error), Detector(1.0, extraneous), proof, elevations_min_deg=[edge])
    assert found.duration_s == 2 * half_s + 1
    # Single-photon errors are not capped by all errors there are, and dim pulses keep their own errors.
    assert 0.80 * bits < found.length.secret_bits < bits


def test_the_window_is_the_one_with_the_longest_key():
    over = pass_over(LINK, altitude_m=5e5, background_hz=3e4)
    proof = two_decoys.secret_length
    best = pass_key(over, SOURCE, DETECTOR, proof)
    tried = [pass_key(over, SOURCE, DETECTOR, proof, elevations_min_deg=[e]) for e in (0.0, 10.0, 20.0, 40.0, 70.0)]
    assert best.length.secret_bits >= max(one.length.secret_bits for one in tried) > 0
    # With this light the horizon is too bright to be worth its errors.
    assert best.elevation_min_deg > 0
    assert best.qber < tried[0].qber
    assert best.duration_s < tried[0].duration_s


def test_one_block_is_worth_more_than_its_halves():
    whole, half = (
        pass_key(
            satquma_pass(),
            replace(satquma_source(0.001), pulse_rate_hz=rate),
            Detector(1.0, 1e-8),
            two_decoys.secret_length,
            elevations_min_deg=[10.0],
        ).length.secret_bits
        for rate in (1e8, 5e7)
    )
    assert whole > 2.1 * half > 0


def test_finer_slots_change_little():
    coarse, fine = (
        pass_key(
            pass_over(LINK, altitude_m=5e5, slot_s=step),
            SOURCE,
            DETECTOR,
            two_decoys.secret_length,
            elevations_min_deg=[10.0],
        ).length.secret_bits
        for step in (2.0, 0.5)
    )
    assert coarse == pytest.approx(fine, rel=0.01)


@given(st.floats(-90, -0.001), st.floats(0, 60))
def test_no_count_comes_from_below_the_horizon(elevation_deg, loss_db):
    one = np.ones(1)
    below = SatellitePass(1.0, 0 * one, elevation_deg * one, 1e6 * one, loss_db * one, 1e9 * one, one > 0, one < 0)
    counts = expected_counts(below, SOURCE, DETECTOR)
    assert counts.key_detections.sum() == counts.test_detections.sum() == 0
    nothing = pass_key(below, SOURCE, DETECTOR, two_decoys.secret_length, elevations_min_deg=[-90.0])
    assert nothing.length.secret_bits == 0
    assert nothing.elevation_min_deg == nothing.duration_s == 0


@given(st.floats(0, 1e22), st.floats(0, 200), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_counts_never_exceed_pulses_however_bright_the_sky(light_hz, loss_db, efficiency, dark, after, error):
    one = np.ones(1)
    bright = SatellitePass(1.0, 0 * one, 45 * one, 1e6 * one, loss_db * one, light_hz * one, one > 0, one < 0)
    source = replace(SOURCE, misalignment_error=error)
    counts = expected_counts(bright, source, Detector(efficiency, dark, afterpulse_probability=after))
    pulses = 1e8 * np.asarray(SOURCE.probabilities) * 0.8**2
    assert np.all(counts.key_detections <= pulses * (1 + 1e-9))
    assert np.all(counts.key_errors <= 0.5 * counts.key_detections * (1 + 1e-9))


def test_half_of_afterpulses_and_of_background_clicks_err():
    one = np.ones(1)
    faint = SatellitePass(1.0, 0 * one, 45 * one, 1e6 * one, 30 * one, 1e5 * one, one > 0, one < 0)
    source = replace(SOURCE, misalignment_error=0.0)
    clean = expected_counts(faint, source, Detector(0.5, 1e-6))
    after = expected_counts(faint, source, Detector(0.5, 1e-6, afterpulse_probability=0.04))
    more = after.key_detections - clean.key_detections
    np.testing.assert_allclose(after.key_errors - clean.key_errors, more / 2)
    np.testing.assert_allclose(more, 0.04 * clean.key_detections, rtol=1e-3)
    # The vacuum intensity sees nothing but background.
    np.testing.assert_allclose(clean.key_errors[:, -1], clean.key_detections[:, -1] / 2)


def test_the_proof_gets_whole_counts_and_a_leak_that_err_to_the_safe_side():
    over = satquma_pass()
    given: dict = {}

    def proof(counts, intensities, probabilities, *, leak_ec_bits):
        given.update(counts=counts, mu=intensities, p=probabilities)
        return Bits(leak_ec_bits)

    source = replace(SOURCE, reconciliation_efficiency=1.2)
    found = pass_key(over, source, DETECTOR, proof, elevations_min_deg=[30.0])
    exact = expected_counts(over, source, DETECTOR)
    window = over.elevation_deg >= 30.0
    for name, rounded in (("key_detections", np.floor), ("key_errors", np.ceil), ("test_errors", np.ceil)):
        np.testing.assert_array_equal(getattr(given["counts"], name), rounded(getattr(exact, name)[window].sum(axis=0)))
    assert (given["mu"], given["p"]) == (source.intensities, source.probabilities)
    n, m = found.counts.key_detections.sum(), found.counts.key_errors.sum()
    assert found.length.secret_bits == np.ceil(1.2 * n * binary_entropy(m / n))


def test_daylight_kills_what_night_allows():
    night, day = (
        pass_key(
            pass_over(LINK, altitude_m=5e5, background_hz=float(RECEIVER.photons_hz(radiance))),
            SOURCE,
            DETECTOR,
            two_decoys.secret_length,
        ).length.secret_bits
        for radiance in (NIGHT_MOONLESS, Daylight.BRIGHT_SUNSHINE.radiance_w_m2_um_sr(850.0))
    )
    assert night > 1e5
    assert day == 0


def test_more_loss_is_less_key():
    keys = [
        pass_key(
            pass_over(replace(LINK, fixed_db=fixed), altitude_m=5e5), SOURCE, DETECTOR, two_decoys.secret_length
        ).length.secret_bits
        for fixed in (5.0, 10.0, 15.0, 40.0)
    ]
    assert keys == sorted(keys, reverse=True)
    assert keys[-1] == 0


def test_a_day_of_a_polar_orbit_has_passes_by_day_and_by_night():
    found = passes(
        CircularOrbit(500e3, 97.4, 40.0),
        GroundStation(34.69, 135.83),
        LINK,
        sky=SkyBrightness(day_w_m2_um_sr=100.0, night_w_m2_um_sr=1e-5),
        receiver=RECEIVER,
        duration_s=86400.0,
        epoch_days=9667.85,
        slot_s=10.0,
    )
    assert 3 <= len(found) <= 8
    for one in found:
        assert np.all(one.elevation_deg >= 0)
        assert np.all(np.diff(one.time_s) == 10.0)
        assert 100 < one.time_s[-1] - one.time_s[0] < 800
        assert np.all(np.isfinite(one.attenuation_db))
    days = np.concatenate([one.is_day for one in found])
    light = np.concatenate([one.background_hz for one in found])
    assert days.any()
    assert not days.all()
    sun = [sun_elevation_deg(GroundStation(34.69, 135.83), one.time_s, epoch_days=9667.85) for one in found]
    np.testing.assert_array_equal(days, np.concatenate(sun) > -6.0)
    assert light[days].min() > 1e6 * light[~days].max()


def test_a_turning_earth_moves_a_pass_but_little():
    seen = [
        passes(
            CircularOrbit(500e3, 90.0, 280.46061837 + 135.83, -40.0),
            GroundStation(0.0, 135.83),
            LINK,
            sky=SkyBrightness(100.0, 1e-5),
            receiver=RECEIVER,
            duration_s=2000.0,
            epoch_days=0.0,
            earth_rotates=turns,
        )[0]
        for turns in (True, False)
    ]
    assert seen[1].elevation_deg.max() == pytest.approx(90.0, abs=1.0)
    # In the quarter of an hour to the station the Earth turned it away by some 300 km at the equator.
    assert 50 < seen[0].elevation_deg.max() < 80


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: replace(SOURCE, probabilities=(0.5, 0.5)),
        lambda: replace(SOURCE, key_basis_probability=1.0),
        lambda: replace(SOURCE, reconciliation_efficiency=0.9),
        lambda: SkyBrightness(-1.0, 0.0),
        lambda: replace(satquma_pass(), slot_s=0.0),
        lambda: replace(satquma_pass(), background_hz=np.zeros(3)),
        lambda: pass_key(satquma_pass(), SOURCE, DETECTOR, two_decoys.secret_length, elevations_min_deg=[]),
    ],
)
def test_impossible_passes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"[a-z]{3}"):
        wrong()
