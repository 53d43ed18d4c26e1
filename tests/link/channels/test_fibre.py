"""Loss of fibre against the limits of its standard, and how a cable adds it up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.channels import G652B, G652D, Fibre, FlatLoss, SilicaLoss


def test_modern_fibre_keeps_the_limits_of_the_standard_and_is_no_better_than_what_is_sold():
    # ITU-T G.652 (2016), table 4 (G.652.D cable): 0.40 dB/km from 1310 to 1625 nm and at the water peak, 0.30 at
    # 1530 to 1565 nm. Data sheets promise no less than 0.31 and 0.17.
    bands = np.linspace(1310, 1625, 200)
    assert np.all(G652D.db_per_km(bands) <= 0.40)
    assert np.all(G652D.db_per_km(np.linspace(1530, 1565, 30)) <= 0.30)
    assert 0.31 <= G652D.db_per_km(1310.0) <= 0.35
    assert 0.17 <= G652D.db_per_km(1550.0) <= 0.21


def test_the_valley_is_at_1550_nm_and_water_closes_the_e_band_of_old_fibre():
    wavelengths = np.linspace(1260, 1675, 416)
    assert 1530 < wavelengths[np.argmin(G652D.db_per_km(wavelengths))] < 1580
    assert G652B.db_per_km(1383.0) > 3 * G652D.db_per_km(1383.0)
    np.testing.assert_allclose(G652B.db_per_km(1550.0), G652D.db_per_km(1550.0), rtol=0.05)


def test_pure_rayleigh_scattering_falls_with_the_fourth_power():
    only = SilicaLoss(imperfection_db_per_km=0.0, oh_peak_db_per_km=0.0)
    # At 1300 nm the infrared edge is below a ten-thousandth of a decibel.
    assert only.db_per_km(1270.0) / only.db_per_km(1300.0) == pytest.approx((1300 / 1270) ** 4, rel=1e-3)


def test_a_wavelength_without_a_fit_is_refused():
    with pytest.raises(ValueError, match="1260 to 1675"):
        G652D.db_per_km(850.0)


@given(st.floats(0, 500), st.floats(0, 500), st.integers(0, 50), st.floats(0, 1))
def test_cables_in_a_row_lose_what_each_loses(first_km, second_km, splices, splice_db):
    both = Fibre(first_km + second_km, splices=splices, splice_loss_db=splice_db).attenuation_db(1550.0)
    apart = Fibre(first_km).attenuation_db(1550.0) + Fibre(second_km).attenuation_db(1550.0)
    assert both == pytest.approx(apart + splices * splice_db, abs=1e-9)


def test_no_fibre_loses_nothing_and_endless_fibre_everything():
    assert Fibre(0.0).transmittance(1550.0) == 1.0
    assert Fibre(1e6).transmittance(1550.0) == 0.0


def test_a_flat_loss_is_what_papers_take():
    fibre = Fibre(100.0, loss=FlatLoss(0.2))
    np.testing.assert_allclose(fibre.attenuation_db(np.array([1310.0, 1550.0])), 20.0)
    assert np.exp(-fibre.nepers_per_km(1550.0) * 100.0) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Fibre(-1.0),
        lambda: Fibre(1.0, splices=-1),
        lambda: Fibre(1.0, splice_loss_db=-0.1),
        lambda: Fibre(float("nan")),
        lambda: FlatLoss(-0.1),
        lambda: SilicaLoss(oh_half_width_nm=0.0),
        lambda: SilicaLoss(rayleigh_db_um4_per_km=-1.0),
    ],
)
def test_impossible_fibre_is_refused(wrong):
    with pytest.raises(ValueError, match=r"got|amplify"):
        wrong()
