"""Plans: what a frame leaks, who decides it, and when there is none."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import Rejected
from shosoin.link.information import binary_entropy
from shosoin.link.reconciliation import FramePlan, plan_block, plan_frame
from shosoin.link.reconciliation.catalogue import FAMILIES

MEASURED = Path(__file__).parents[3] / "docs/data/reconciliation.json"
qbers = st.floats(0.0, 0.11)
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.frame_bits))


@each_family
@given(lower=qbers, higher=qbers)
def test_the_share_that_a_frame_leaks_grows_with_the_qber(family, lower, higher):
    lower, higher = sorted((max(lower, 0.005), max(higher, 0.005)))
    assert family.leak_share(lower) <= family.leak_share(higher)


@each_family
@given(qber=qbers, margin=st.sampled_from([0.0, 0.02, 0.1]))
def test_a_plan_leaks_the_measured_share_rounded_up_by_at_most_a_block(family, qber, margin):
    plan = plan_frame(qber, frame_bits=family.frame_bits, margin=margin)
    share = family.leak_share(max(qber, 0.005)) * (1 + margin)
    assert share <= plan.leak_bits / plan.payload_bits * (1 + 1e-12)
    if plan.shortened_bits:
        assert plan.leak_bits / (plan.payload_bits + family.lifting) < share
    assert plan.payload_bits + plan.shortened_bits == family.frame_bits
    assert plan.payload_bits >= 0.8 * family.frame_bits


def test_efficiency_is_the_leak_over_the_entropy():
    plan = plan_frame(0.045)
    assert plan.efficiency == plan.leak_bits / (plan.payload_bits * float(binary_entropy(0.045)))
    assert plan.efficiency < 1.10
    assert plan.leak_bits == plan.matrix().syndrome_bits


def test_equal_numbers_give_equal_plans_that_can_be_compared_as_json():
    first, second = plan_frame(0.031, margin=0.01), plan_frame(0.031, margin=0.01)
    assert first == second
    assert json.loads(json.dumps(first.to_json())) == second.to_json()
    assert FramePlan(**{k: v for k, v in first.to_json().items() if k not in {"leak_bits", "f_ec"}}) == first


@pytest.mark.parametrize("frame_bits", [None, 65536])
def test_a_qber_above_what_the_codes_correct_is_rejected(frame_bits):
    with pytest.raises(Rejected) as refused:
        plan_frame(0.1101, frame_bits=frame_bits)
    assert refused.value.code == "link.qber_above_limit"
    with pytest.raises(Rejected) as refused:
        plan_frame(0.11, frame_bits=frame_bits, margin=1.0)
    assert refused.value.code == "link.qber_above_limit"


@pytest.mark.parametrize(("qber", "margin"), [(-0.01, 0), (0.6, 0), (float("nan"), 0), (0.03, -0.1)])
def test_what_is_no_qber_or_margin_is_a_mistake(qber, margin):
    with pytest.raises(ValueError, match="QBER"):
        plan_frame(qber, margin=margin)


@given(qber=qbers, payload_bits=st.integers(20_000, 65_536) | st.integers(300_000, 819_200))
def test_a_given_payload_is_planned_exactly(qber, payload_bits):
    plan = plan_frame(qber, payload_bits=payload_bits)
    assert plan.payload_bits == payload_bits
    assert float(binary_entropy(qber)) * payload_bits < plan.leak_bits < payload_bits


def test_a_payload_that_is_cheaper_to_disclose_is_rejected():
    with pytest.raises(Rejected) as refused:
        plan_frame(0.03, payload_bits=3000)
    assert refused.value.code == "link.block_too_short"


@pytest.mark.parametrize("payload_bits", [0, -1, 819_201])
def test_a_payload_that_fits_no_frame_is_rejected(payload_bits):
    with pytest.raises(Rejected) as refused:
        plan_frame(0.03, payload_bits=payload_bits)
    assert refused.value.code == "link.bad_plan"


@given(qber=qbers, block_bits=st.integers(0, 5_000_000))
def test_the_frames_of_a_block_cover_it_but_for_a_rest_too_short_to_correct(qber, block_bits):
    plans = plan_block(qber, block_bits)
    left = block_bits - sum(plan.payload_bits for plan in plans)
    assert 0 <= left < 20_000
    assert [plan.payload_bits for plan in plans[:-1]] == sorted((p.payload_bits for p in plans[:-1]), reverse=True)


@pytest.mark.parametrize(
    "change",
    [
        {"shortened_bits": 1},
        {"shortened_bits": -2048},
        {"payload_bits": 737_281},
        {"payload_bits": 0},
        {"punctured_bits": 2048},
        {"punctured_bits": 2048 * 399, "shortened_bits": 0, "payload_bits": 2048},
        {"qber": 0.0},
    ],
)
def test_numbers_that_fit_no_frame_are_rejected(change):
    sound: dict[str, Any] = {
        "code": "long-104",
        "payload_bits": 737_280,
        "shortened_bits": 81_920,
        "punctured_bits": 0,
        "qber": 0.045,
    }
    assert FramePlan(**sound) == plan_frame(0.045)
    with pytest.raises(Rejected) as refused:
        FramePlan(**{**sound, **change})
    assert refused.value.code == "link.bad_plan"


@each_family
def test_codes_lie_so_close_that_no_frame_is_shortened_by_more_than_a_fifth(family):
    rows = [member.rows for member in family.members]
    assert all(higher * 0.8 < lower < higher for lower, higher in itertools.pairwise(rows))


def test_an_unknown_code_is_rejected():
    with pytest.raises(Rejected) as refused:
        FramePlan("../secret", 10, 0, 0, 0.03)
    assert refused.value.code == "link.bad_plan"


def test_the_figures_in_the_documentation_are_of_the_plans_that_are_made_today():
    measured = json.loads(MEASURED.read_text())
    for part, frame_bits in (("point", None), ("long", None), ("short", 65536)):
        rows = measured[part]
        assert sum(row["frames"] for row in rows) >= 2000
        for row in rows:
            plan = plan_frame(row["planned_qber"], frame_bits=frame_bits)
            assert (plan.code, plan.payload_bits, plan.leak_bits) == (
                row["code"],
                row["payload_bits"],
                row["leak_bits"],
            )
            assert row["wrong_though_converged"] == 0
    (point,) = measured["point"]
    assert point["frames"] >= 2000
    assert point["failed"] / point["frames"] < 1e-3
    assert point["f_ec"] <= 1.12
