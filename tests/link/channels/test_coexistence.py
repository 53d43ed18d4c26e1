"""A quantum channel beside traffic: noise by its sources, what it does to a detector, and the best wavelength."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.channels import Fibre, FlatLoss
from shosoin.link.channels.coexistence import (
    Coexistence,
    Direction,
    ReceiverFilter,
    Traffic,
    background_yield,
    best_wavelength,
    lit,
)
from shosoin.link.channels.raman import RamanScattering
from shosoin.link.channels.units import LIGHT_M_PER_S, photon_energy_j, watts
from shosoin.link.detector import Detector
from shosoin.link.information import union

FIBRE = Fibre(50.0, loss=FlatLoss(0.2))
ALONG = Traffic(1550.0, 0.0)
AGAINST = Traffic(1550.0, 0.0, Direction.AGAINST)
DETECTOR = Detector(efficiency=0.2, dark_count_probability=1e-6, gate_s=1e-10)


def noise(*traffic, fibre=FIBRE, at_nm=1531.0, **more):
    return Coexistence(fibre, traffic, **more).noise_photons(at_nm)


def test_the_reference_values_of_raman_noise():
    # 0 dBm, 50 km of 0.2 dB/km, beta = 3e-9 /(km nm), 0.2 nm: 3.00e-12 W along and 6.45e-12 W against.
    both = Coexistence(FIBRE, [ALONG, AGAINST], raman=RamanScattering(anchor_per_km_nm=3e-9))
    assert both.raman_w(ALONG, 1531.0) == pytest.approx(3.00e-12, rel=2e-3)
    assert both.raman_w(AGAINST, 1531.0) == pytest.approx(6.45e-12, rel=2e-3)
    # In photons of 1550 nm.
    assert both.raman_w(ALONG, 1531.0) / photon_energy_j(1550.0) == pytest.approx(2.34e7, rel=2e-3)
    assert both.raman_w(AGAINST, 1531.0) / photon_energy_j(1550.0) == pytest.approx(5.03e7, rel=2e-3)


def test_against_light_equals_the_form_in_received_power():
    # Eraerds et al. 2010 (3): P_out beta dlambda sinh(alpha L) / alpha.
    alpha = 0.2 * np.log(10) / 10
    form = watts(-10.0) * 3e-9 * 0.2 * np.sinh(alpha * 50) / alpha
    assert Coexistence(FIBRE, [], raman=RamanScattering(anchor_per_km_nm=3e-9)).raman_w(
        AGAINST, 1531.0
    ) == pytest.approx(form)


@given(st.lists(st.floats(-30, 10), min_size=1, max_size=5), st.floats(0, 150))
def test_raman_noise_adds_up_over_channels_and_is_linear_in_power(powers, length_km):
    fibre = Fibre(length_km)
    traffic = [Traffic(1540.0 + 3 * n, power, list(Direction)[n % 2]) for n, power in enumerate(powers)]
    together = noise(*traffic, fibre=fibre, at_nm=1310.0)
    alone = [noise(channel, fibre=fibre, at_nm=1310.0) for channel in traffic]
    total = together.raman_along_hz + together.raman_against_hz
    assert total == pytest.approx(sum(float(a.raman_along_hz + a.raman_against_hz) for a in alone))
    louder = noise(*(replace(t, launch_dbm=t.launch_dbm + 10) for t in traffic), fibre=fibre, at_nm=1310.0)
    assert louder.raman_along_hz + louder.raman_against_hz == pytest.approx(10 * total)


def test_no_fibre_makes_no_light_of_its_own_and_leaks_by_the_isolation():
    filtered = ReceiverFilter(isolation_db=100.0, insertion_loss_db=3.0)
    none = noise(ALONG, AGAINST, fibre=Fibre(0.0), receiver_filter=filtered)
    assert none.raman_along_hz == none.raman_against_hz == none.rayleigh_hz == 0.0
    assert none.leakage_hz == pytest.approx(1e-3 * 1e-10 / photon_energy_j(1531.0))
    assert none.total_hz == none.leakage_hz


def test_in_a_long_fibre_only_light_from_the_far_end_stays():
    end = noise(ALONG, AGAINST, fibre=Fibre(3000.0, loss=FlatLoss(0.2)))
    assert end.raman_along_hz < 1e-30
    assert end.raman_against_hz > 1e6
    assert end.rayleigh_hz > 1.0


def test_backscattered_light_is_some_32_decibels_below_the_launch():
    # The return loss of a long fibre, 31 to 33 dB at 1550 nm.
    open_filter = ReceiverFilter(isolation_db=0.0, adjacent_isolation_db=0.0)
    back = Coexistence(Fibre(300.0), [], receiver_filter=open_filter).leakage_w(AGAINST, 1531.0)
    assert 31.0 < -10 * np.log10(back / 1e-3) < 33.0


def test_a_neighbour_leaks_more_than_a_distant_channel():
    grid = [LIGHT_M_PER_S / ((193.1 + 0.1 * n) * 1e12) * 1e9 for n in (0, 1, 2)]
    near, far = (noise(Traffic(wavelength, 0.0), at_nm=grid[0]).leakage_hz for wavelength in grid[1:])
    assert near / far == pytest.approx(10 ** ((120 - 80) / 10), rel=0.01)


def test_only_channels_along_mix_into_the_quantum_channel():
    grid = [LIGHT_M_PER_S / ((193.1 + 0.1 * n) * 1e12) * 1e9 for n in (-2, -1, 0, 1, 2)]
    quantum = grid.pop(2)
    along = noise(*(Traffic(wavelength, 0.0) for wavelength in grid), at_nm=quantum)
    against = noise(*(Traffic(wavelength, 0.0, Direction.AGAINST) for wavelength in grid), at_nm=quantum)
    assert along.four_wave_mixing_hz > 0
    assert against.four_wave_mixing_hz == 0
    half = noise(*(Traffic(wavelength, -10.0) for wavelength in grid), at_nm=quantum)
    assert along.four_wave_mixing_hz == pytest.approx(1e3 * half.four_wave_mixing_hz)


@pytest.mark.parametrize(("off_nm", "passes"), [(0.0, True), (0.09, True), (0.11, False)])
def test_a_product_counts_when_it_is_within_the_passband(off_nm, passes):
    wavelengths = [LIGHT_M_PER_S / ((193.1 + 0.1 * n) * 1e12) * 1e9 for n in (1, 2)]
    product_nm = LIGHT_M_PER_S / 193.1e12 * 1e9
    mixed = noise(*(Traffic(w, 0.0) for w in wavelengths), at_nm=product_nm + off_nm).four_wave_mixing_hz
    assert (mixed > 0) == passes


def test_shorter_wavelengths_come_back_stronger():
    beside = Coexistence(FIBRE, [], receiver_filter=ReceiverFilter(isolation_db=100.0))
    short, long = (beside.leakage_w(Traffic(w, 0.0, Direction.AGAINST), 1450.0) for w in (1310.0, 1550.0))
    assert short / long == pytest.approx((1550 / 1310) ** 4)


def test_splices_weaken_noise_as_they_weaken_the_signal():
    spliced = replace(FIBRE, connector_loss_db=3.0)
    ratio = noise(ALONG, fibre=spliced).raman_along_hz / noise(ALONG).raman_along_hz
    assert ratio == pytest.approx(10**-0.3)


@given(st.floats(0, 1e30), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.99), st.integers(1, 8))
def test_background_is_a_probability_however_bright(photons_hz, efficiency, dark, gate_s, detectors):
    detector = Detector(efficiency, dark, gate_s=gate_s)
    in_light = lit(detector, photons_hz, detectors=detectors)
    assert dark <= in_light.dark_count_probability + 1e-15 <= 1.0 + 1e-15
    total = background_yield(detector, photons_hz, detectors=detectors)
    assert 0.0 <= total <= 1.0
    assert total == pytest.approx(float(union(*[in_light.dark_count_probability] * detectors)), abs=1e-12)


def test_in_the_dark_only_dark_counts_are_left_and_faint_light_adds():
    assert lit(DETECTOR, 0.0).dark_count_probability == pytest.approx(1e-6)
    faint = background_yield(DETECTOR, 1e3)
    assert faint == pytest.approx(2e-6 + 0.2 * 1e3 * 1e-10, rel=1e-5)


@pytest.mark.parametrize(("photons_hz", "detectors"), [(-1.0, 2), (float("nan"), 2), (1.0, 0)])
def test_negative_light_is_refused(photons_hz, detectors):
    with pytest.raises(ValueError, match="background"):
        background_yield(DETECTOR, photons_hz, detectors=detectors)


def test_the_scan_finds_the_wavelength_of_the_highest_rate_and_says_when_there_is_none():
    beside = Coexistence(Fibre(50.0), [Traffic(1550.0, 10.0)])
    candidates = np.arange(1270.0, 1640.0, 10.0)
    scan = best_wavelength(beside, DETECTOR, candidates, lambda loss_db, quiet: 10 ** (-loss_db / 10) - 3 * quiet)
    assert scan.best_nm == candidates[np.argmax(scan.key_rate)]
    assert scan.background_yield[candidates == 1540.0] > 100 * scan.background_yield[candidates == 1310.0]
    lossy = replace(beside, receiver_filter=ReceiverFilter(insertion_loss_db=2.0))
    weaker = best_wavelength(lossy, DETECTOR, candidates, lambda loss_db, quiet: 10 ** (-loss_db / 10) - 3 * quiet)
    np.testing.assert_allclose(weaker.attenuation_db, scan.attenuation_db + 2.0)
    assert np.all(weaker.background_yield < scan.background_yield)
    nothing = best_wavelength(beside, DETECTOR, candidates, lambda loss_db, quiet: 0 * loss_db)
    assert np.isnan(nothing.best_nm)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Traffic(0.0, 0.0),
        lambda: Traffic(1550.0, float("nan")),
        lambda: ReceiverFilter(passband_nm=0.0),
        lambda: ReceiverFilter(isolation_db=-1.0),
    ],
)
def test_impossible_traffic_is_refused(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()
