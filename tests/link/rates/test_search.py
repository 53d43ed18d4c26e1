import numpy as np
import pytest

from shosoin.link.rates.search import best_settings


def test_the_top_of_a_hill_is_found_for_every_element_at_once():
    tops = np.array([0.02, 0.3, 4.0])
    found = best_settings(lambda at: -(np.log(at["x"] / tops) ** 2), {"x": (1e-3, 10.0)})
    assert found["x"] == pytest.approx(tops, rel=0.01)


def test_settings_that_depend_on_each_other_take_turns():
    def hill(at):
        x, y = np.log(at["x"]), np.log(at["y"])
        return -((x - 0.5 * y) ** 2) - (y + 1.0) ** 2

    found = best_settings(hill, {"x": (1e-2, 10.0), "y": (1e-2, 10.0)}, rounds=8)
    assert float(found["y"]) == pytest.approx(np.exp(-1.0), rel=0.02)
    assert float(found["x"]) == pytest.approx(np.exp(-0.5), rel=0.02)


def test_settings_stay_within_their_range_and_what_is_not_a_number_is_never_best():
    found = best_settings(lambda at: np.where(at["x"] > 0.5, np.nan, at["x"]), {"x": (0.01, 1.0)})
    assert 0.45 < float(found["x"]) <= 0.5
    assert float(best_settings(lambda at: at["x"], {"x": (0.01, 1.0)})["x"]) == pytest.approx(1.0)
