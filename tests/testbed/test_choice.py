"""The policy ``its, else qkd``: what was asked for is what is used, and a fallback only where it was named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest

from shosoin.base import SiteId
from shosoin.testbed.choice import choose
from shosoin.vault.client import Vault
from shosoin.vault.receipts import KeyPlan

SITE = SiteId("naka")


@dataclass
class Stock:
    """A vault that only plans."""

    bits: int
    asked: int = 0

    async def plan(self, size_bytes, *, scheme=None, class_="its"):
        self.asked += 1
        if class_ == "its":
            return KeyPlan("its", {SITE: 8 * size_bytes}, {SITE: self.bits}, None)
        return KeyPlan(class_, {SITE: 256}, {}, 0.0)


@pytest.mark.parametrize(
    ("bits", "wanted", "chosen", "fell_back", "enough"),
    [
        (8000, "its", "its", False, True),
        (7999, "its", "its", False, False),
        (8000, "auto", "its", False, True),
        (7999, "auto", "qkd", True, True),
        (8000, "qkd", "qkd", False, True),
        (0, "pqc", "pqc", False, True),
    ],
)
async def test_a_class_is_chosen_by_the_stock_only_when_asked_to(bits, wanted, chosen, fell_back, enough):
    choice = await choose(cast(Vault, Stock(bits)), 1000, None, wanted)
    assert (choice.class_, choice.fell_back, choice.enough) == (chosen, fell_back, enough)
    assert [plan.class_ for plan in choice.considered] == (["its", "qkd"] if fell_back else [chosen])


@pytest.mark.parametrize(("bits", "patient", "chosen"), [(0, True, "its"), (8000, False, "qkd")])
async def test_what_suffices_is_the_callers_to_say(bits, patient, chosen):
    choice = await choose(cast(Vault, Stock(bits)), 1000, None, "auto", enough=lambda plan: patient)
    assert choice.class_ == chosen


@pytest.mark.parametrize(
    ("order", "chosen"), [(("pqc", "its"), "pqc"), (("its", "pqc"), "pqc"), ((), "qkd"), (None, "qkd")]
)
async def test_a_policy_may_name_another_order(order, chosen):
    choice = await choose(cast(Vault, Stock(0)), 1000, None, "auto", order=order)
    assert choice.class_ == chosen
    strict = await choose(cast(Vault, Stock(0)), 1000, None, "its", order=order)
    assert strict.class_ == "its"
