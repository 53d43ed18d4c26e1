import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.counts import DecoyCounts
from shosoin.link.detector import Detector
from shosoin.link.epsilons import Epsilons
from shosoin.link.information import binary_entropy, union

probabilities = st.floats(0, 1)


def test_entropy_is_zero_at_certainty_and_one_at_a_fair_coin():
    assert binary_entropy([0.0, 0.5, 1.0]).tolist() == [0.0, 1.0, 0.0]
    assert binary_entropy(0.11) == pytest.approx(0.499916, abs=1e-6)


@given(probabilities)
def test_entropy_is_symmetric_and_within_a_bit(p):
    assert 0.0 <= binary_entropy(p) <= 1.0
    assert binary_entropy(p) == pytest.approx(float(binary_entropy(1 - p)), abs=1e-9)


@given(st.lists(probabilities, min_size=1, max_size=5))
def test_a_union_is_a_probability_no_smaller_than_any_part_and_no_larger_than_the_sum(parts):
    whole = float(union(*parts))
    assert max(parts) - 1e-12 <= whole <= min(1.0, sum(parts)) + 1e-12


def test_epsilons_add_up_by_name_and_never_pass_one():
    total = Epsilons({"correctness": 1e-15, "secrecy": 1e-9}) + Epsilons({"authentication": 1e-12, "secrecy": 1e-9})
    assert total.parts == {"correctness": 1e-15, "secrecy": 2e-9, "authentication": 1e-12}
    assert total.total == pytest.approx(2.001001e-9)
    assert (Epsilons({"a": 0.7}) + Epsilons({"b": 0.7})).total == 1.0


@pytest.mark.parametrize("value", [-1e-9, 1.1, float("nan")])
def test_an_epsilon_is_a_probability(value):
    with pytest.raises(ValueError, match="epsilon secrecy"):
        Epsilons({"secrecy": value})


def test_counts_want_one_shape_and_no_more_errors_than_detections():
    ten, one = np.array([10, 10]), np.array([1, 1])
    DecoyCounts(ten, one, ten, one)
    with pytest.raises(ValueError, match="one shape"):
        DecoyCounts(ten, one, ten, np.array([1]))
    with pytest.raises(ValueError, match="errors"):
        DecoyCounts(one, ten, ten, one)
    with pytest.raises(ValueError, match="errors"):
        DecoyCounts(ten * np.nan, one, ten, one)


def test_a_detector_refuses_what_is_no_probability_or_no_time():
    Detector(0.1, 1e-6)
    with pytest.raises(ValueError, match="efficiency"):
        Detector(1.5, 1e-6)
    with pytest.raises(ValueError, match="dead_time_s"):
        Detector(0.1, 1e-6, dead_time_s=2)
