from collections.abc import Callable

import numpy as np
import pytest

from shosoin.link.rates import (
    bbm92,
    bbm92_continuous,
    bbm92_finite,
    gaussian_cv,
    gaussian_cv_finite,
    mdi,
    mdi_finite,
    plob,
    twin_field,
    twin_field_sns,
    twin_field_sns_finite,
)
from shosoin.link.rates.result import LinkRate

COLD = twin_field_sns.SendingParameters(0.6, 1e-10, 0.03)
PUMPED = bbm92_continuous.ContinuousPairParameters(1e7, 0.3, 0.3, 300.0, 300.0, 2e-10, 0.8, 0.01)
MODELS: dict[str, Callable[..., LinkRate]] = {
    "plob": plob.rate,
    "bbm92": lambda **at: bbm92.rate(bbm92.MA_FUNG_LO_2007, **at),
    "bbm92-continuous": lambda **at: bbm92_continuous.rate(PUMPED, **at),
    "bbm92-finite": lambda **at: bbm92_finite.rate(bbm92.MA_FUNG_LO_2007, block=bbm92_finite.PairBlock(1e12), **at),
    "mdi": lambda **at: mdi.rate(mdi.LO_CURTY_QI_2012, **at),
    "mdi-finite": lambda **at: mdi_finite.rate(mdi.LO_CURTY_QI_2012, block=mdi_finite.RelayBlock(1e14), **at),
    "twin-field": lambda **at: twin_field.rate(twin_field.CURTY_AZUMA_LO_2019, **at),
    "twin-field-sns": lambda **at: twin_field_sns.rate(COLD, **at),
    "twin-field-sns-finite": lambda **at: twin_field_sns_finite.rate(
        COLD, block=twin_field_sns_finite.SendingBlock(1e12), **at
    ),
    "cv-homodyne": lambda **at: gaussian_cv.rate(gaussian_cv.TYPICAL_CV, **at),
    "cv-homodyne-finite": lambda **at: gaussian_cv_finite.rate(
        gaussian_cv.TYPICAL_CV, block=gaussian_cv_finite.GaussianBlock(1e10), **at
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_answers_in_the_shape_it_was_asked_and_alike_for_one_and_for_many(name):
    many = MODELS[name](attenuation_db=[[1.0, 5.0, 12.0], [20.0, 30.0, 150.0]])
    assert many.protocol == name
    for values in (many.attenuation_db, many.secret_bits_per_pulse, many.qber, *many.details.values()):
        assert isinstance(values, np.ndarray)
        assert values.shape == (2, 3)
    assert np.all(many.secret_bits_per_pulse >= 0.0)
    assert many.is_asymptotic == (not name.endswith("-finite"))
    one = MODELS[name](attenuation_db=5.0)
    assert one.secret_bits_per_pulse.shape == ()
    assert float(one.secret_bits_per_pulse) == pytest.approx(many.secret_bits_per_pulse[0, 1], rel=1e-12)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf")])
def test_an_attenuation_that_cannot_be_is_refused(name, wrong):
    with pytest.raises(ValueError, match="attenuations in dB"):
        MODELS[name](attenuation_db=[1.0, wrong])


@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        (bbm92_finite.PairBlock, {"pulses": 0.0}),
        (bbm92_finite.PairBlock, {"pulses": 1e9, "epsilon_secrecy": 0.0}),
        (bbm92_finite.PairBlock, {"pulses": 1e9, "test_basis_probability": 1.0}),
        (mdi_finite.RelayBlock, {"pulse_pairs": 1e9, "epsilon_correctness": 1.0}),
        (gaussian_cv_finite.GaussianBlock, {"symbols": float("inf")}),
        (gaussian_cv_finite.GaussianBlock, {"symbols": 1e9, "digitisation_bits": 0}),
    ],
)
def test_a_block_that_cannot_be_is_refused(block, wrong):
    with pytest.raises(ValueError, match=r"must|needs"):
        block(**wrong)
