"""Rates against published and declared figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link import GYS, METRO, cutoff_km, secret_key_rate_bps, secret_key_rate_per_pulse


def test_gys_ends_at_142_km():
    # Ma, Qi, Zhao, Lo 2005 (quant-ph/0503005), infinite decoy states.
    assert cutoff_km(GYS) == pytest.approx(142.0, abs=0.2)


@pytest.mark.parametrize(("attenuation_db", "low", "high"), [(6.0, 5e6, 7e6), (13.5, 0.9e6, 1.1e6), (40.0, 1e3, 1e4)])
def test_the_metro_preset_gives_what_the_documents_say(attenuation_db, low, high):
    assert low < secret_key_rate_bps(METRO, attenuation_db=attenuation_db) < high


def test_nothing_at_300_km():
    assert secret_key_rate_bps(METRO, attenuation_db=60.0) == 0


def test_it_works_on_arrays():
    losses = np.linspace(0, 50, 11)
    rates = secret_key_rate_per_pulse(METRO, attenuation_db=losses)
    each = [secret_key_rate_per_pulse(METRO, attenuation_db=loss) for loss in losses]
    np.testing.assert_allclose(rates, each)
    assert np.all(np.diff(rates) <= 0)


@given(st.floats(0, 100), st.sampled_from([GYS, METRO]))
def test_below_the_repeaterless_bound(attenuation_db, system):
    # Pirandola, Laurenza, Ottaviani, Banchi 2017: no protocol exceeds -log2(1 - eta) per use of the channel.
    eta = 10 ** (-attenuation_db / 10)
    bound = -np.log2(1 - eta) if eta < 1 else np.inf
    assert 0 <= secret_key_rate_per_pulse(system, attenuation_db=attenuation_db) <= bound
