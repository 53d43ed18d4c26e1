"""Parameters of rate models as users give them: each that is offered can be set, and does what its name says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from shosoin.base import Rejected
from shosoin.base.messages_en import ENGLISH
from shosoin.base.messages_ja import JAPANESE
from shosoin.link.detector import Detector
from shosoin.link.rates.expected_counts import DecoyLink, clicks
from shosoin.link.rates.registry import PROTOCOLS, Request, protocol

LOSS = np.array([5.0])


def test_jitter_costs_the_finite_models_what_it_costs_the_simulated_detectors():
    detector = Detector(efficiency=0.2, dark_count_probability=1e-7, jitter_s=4e-10, gate_s=1e-9)
    share = math.erf(0.5 / 0.4 / math.sqrt(2))
    assert detector.gated_efficiency == pytest.approx(0.2 * share)
    assert share < 0.8
    jittery = DecoyLink(detector, misalignment_error=0.01)
    dimmer = replace(jittery, detector=Detector(efficiency=0.2 * share, dark_count_probability=1e-7))
    asked = {"intensity": 0.4, "attenuation_db": 10.0}
    np.testing.assert_allclose(clicks(jittery, **asked), clicks(dimmer, **asked), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("bbm92", {"mean_pairs": "0.05"}),
        ("twin-field-sns", {"active_pairing": "false"}),
        ("twin-field-sns", {"mean_photons": 0.3, "sending_probability": "0.2"}),
        ("cv-homodyne", {"trusted_detector": False}),
        ("cv-heterodyne-finite", {"system.modulation_variance": 4}),
    ],
)
def test_what_is_searched_or_true_can_be_given(name, given):
    model = protocol(name).model()
    changed = model.changed(given)
    assert model.known(changed) != model.known(model.parameters)
    usual, other = (model.rate(each, Request(LOSS)).secret_bits_per_pulse[0] for each in (model.parameters, changed))
    assert 0 < other < usual, "a searched setting or a trusted detector is no worse"


@pytest.mark.parametrize("value", ["maybe", "", 2.0, None, "0.5"])
def test_what_is_no_truth_is_refused(value):
    with pytest.raises(Rejected, match="wants a value like True"):
        protocol("cv-homodyne").model().changed({"trusted_detector": value})


@pytest.mark.parametrize("value", ["many", True, float("nan"), [1.0], "None"])
def test_what_is_searched_takes_numbers_only(value):
    with pytest.raises(Rejected, match="wants a number"):
        protocol("bbm92").model().changed({"mean_pairs": value})


@pytest.mark.parametrize("entry", PROTOCOLS.values(), ids=lambda entry: entry.name)
def test_what_a_model_does_not_use_is_neither_offered_nor_taken(entry):
    model = entry.model()
    assert not model.known(model.parameters).keys() & model.without_effect
    for name in model.without_effect:
        with pytest.raises(Rejected, match="takes no"):
            model.changed({name: 0.5})
    assert {f"link.per_{entry.unit}", "link.searched"} <= ENGLISH.keys() & JAPANESE.keys()


def test_a_protocol_is_computed_as_what_it_is_called():
    for name in ("cv-homodyne", "cv-heterodyne", "cv-homodyne-finite", "cv-heterodyne-finite"):
        model = protocol(name).model()
        assert model.rate(model.parameters, Request(LOSS)).protocol == name
