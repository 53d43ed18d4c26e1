import numpy as np
import pytest

from shosoin.link.rates import plob


@pytest.mark.parametrize(
    ("length_km", "published"),
    [(50, 0.15200), (100, 0.014500), (200, 1.44277e-4), (300, 1.44270e-6), (400, 1.4427e-8), (500, 1.4427e-10)],
)
def test_the_bound_at_0_2_db_per_km(length_km, published):
    assert plob.capacity_bits_per_mode(0.2 * length_km) == pytest.approx(published, rel=3e-5)


def test_the_bound_falls_with_loss_from_infinity_and_keeps_its_digits_at_both_ends():
    loss = np.array([0.0, 1e-9, 1.0, 10.0, 100.0, 300.0])
    bound = plob.capacity_bits_per_mode(loss)
    assert bound[0] == np.inf
    assert np.all(np.diff(bound) < 0)
    assert bound[-1] == pytest.approx(1e-30 / np.log(2), rel=1e-12)
    assert bound[1] == pytest.approx(-np.log2(1e-9 * np.log(10) / 10), rel=1e-9)
    assert plob.rate(attenuation_db=loss).protocol == "plob"
