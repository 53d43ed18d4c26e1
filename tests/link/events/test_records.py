"""The values that both ends hold: what they refuse, and that they keep key out of what is printed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.events.records import Detections, SentPulses, Settings
from tests.link.events.support import SETTINGS

SENT = SentPulses(5, 9, np.array([0b10000001, 1], np.uint8), np.array([2, 0], np.uint8), np.zeros(9, np.uint8))
DETECTED = Detections(
    5, 9, np.array([5, 7, 13], np.int64), np.array([0, 1, 0], np.uint8), np.array([1, 0, 1], np.uint8), 1
)


def test_bits_and_bases_are_found_by_the_number_of_the_pulse():
    numbers = np.array([5, 6, 12, 13], np.int64)
    assert SENT.bits_at(numbers).tolist() == [1, 0, 1, 1]
    assert SENT.bases_at(numbers).tolist() == [0, 1, 0, 0]
    for foreign in (4, 14):
        with pytest.raises(ValueError, match="asked for"):
            SENT.bits_at(np.array([foreign], np.int64))


def test_what_becomes_key_is_not_printed():
    for value in (SENT, DETECTED):
        assert "bits" not in repr(value)
        assert "array" not in repr(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 8},
        {"first": -1},
        {"pulses": np.array([5, 5, 13], np.int64)},
        {"pulses": np.array([4, 7, 13], np.int64)},
        {"pulses": np.array([5, 7, 14], np.int64)},
        {"pulses": np.array([5, 7, 13], np.int32)},
        {"bases": np.array([0, 2, 0], np.uint8)},
        {"bits": np.array([0, 1], np.uint8)},
        {"double_clicks": 4},
    ],
)
def test_detections_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=r"must|rise|numbered|double"):
        replace(DETECTED, **changes)


@pytest.mark.parametrize("changes", [{"count": 17}, {"first": -1}, {"bits": np.zeros(1, np.uint8)}])
def test_sent_pulses_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=r"must"):
        replace(SENT, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"intensities": (0.1, 0.5, 0.001)},
        {"intensities": (0.5, 0.5, 0.001)},
        {"intensities": (0.5, 0.1)},
        {"intensities": (5.0, 0.1, 0.0)},
        {"intensities": (0.5, 0.1, -0.1)},
        {"probabilities": (0.7, 0.2, 0.2)},
        {"probabilities": (0.8, 0.2, 0.0)},
        {"transmitter_key_basis_probability": 1.0},
        {"receiver_key_basis_probability": float("nan")},
        {"pulse_rate_hz": 0.0},
        {"intensities": (), "probabilities": ()},
    ],
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=r"must|want"):
        replace(SETTINGS, **changes)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=4), st.floats(1e-6, 1 - 1e-6))
def test_quantised_probabilities_are_what_is_drawn_and_never_vanish(weights, basis):
    levels = tuple(1.0 - index / 4 for index in range(len(weights)))
    given_settings = Settings(levels, tuple(weight / sum(weights) for weight in weights), basis, basis, 1e9)
    drawn = given_settings.quantised()
    assert drawn.quantised() == drawn
    assert sum(drawn.probabilities) == 1.0
    assert all(share > 0 and (share * 65536).is_integer() for share in drawn.probabilities)
    near = zip(drawn.probabilities, given_settings.probabilities, strict=True)
    assert all(abs(one - other) <= 4 / 65536 for one, other in near)
    assert abs(drawn.transmitter_key_basis_probability - basis) <= 1 / 32768
