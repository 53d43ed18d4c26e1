"""The first sentences of a label: what an officer may rely on, in both languages."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.base.summary import summary_of

LABEL: dict[str, Any] = {
    "everlasting": False,
    "reasons": ["The keys for hongo came from simulated links, which protect nothing."],
    "collusion_number": 3,
    "collusion_set": ["A", "B", "C"],
    "collusion_complete": True,
    "trusted_home": "koganei",
    "durable_at": 5,
    "scheme": {"k": 3, "n": 5},
    "simulated": False,
    "freshness": "proven",
}
PLAIN = "The KME did not say where the keys for hongo came from."


def said(language: str = "en", **changed: Any) -> tuple[str, ...]:
    return summary_of(LABEL | changed, language=language)


def test_it_says_who_and_whom_to_trust() -> None:
    assert said()[0] == (
        "At least three parties would have to act together to open it, for example A, B and C."
        " The home site, koganei, saw the content and has to be trusted."
    )


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"collusion_number": 1, "collusion_set": ["vendor maker"]}, "One party alone could open it: vendor maker."),
        ({"collusion_number": 6, "collusion_set": []}, "No set of the parties that keep it could open it."),
        ({"collusion_complete": False}, "It may take fewer,"),
        ({"simulated": True}, "This is a rehearsal: the key links are simulated and protect nothing."),
        ({"everlasting": True, "reasons": []}, "No computer of the future changes that"),
        ({"reasons": [PLAIN]}, f"That is not for ever: {PLAIN}"),
        ({"reasons": [PLAIN, "x", "y"]}, "There are more reasons below (2)."),
        ({"durable_at": 4}, "4 sites hold it, and it comes back even if any one of them is lost."),
        ({"durable_at": 5}, "even if any 2 of them are lost"),
        ({"durable_at": 3}, "if one of them is lost it is lost"),
        ({"durable_at": 2}, "Only 2 sites are known to hold it, 3 are needed: it may be lost."),
        ({"freshness": "unproven"}, "Too few sites answered to be sure that this is the newest version."),
    ],
)
def test_each_fact_has_its_sentence(changed: dict[str, Any], expected: str) -> None:
    assert expected in " ".join(said(**changed))
    assert "for ever" not in " ".join(said(**changed)) or not changed.get("everlasting", False)


def test_a_rehearsal_is_never_called_everlasting() -> None:
    assert "No computer" not in " ".join(said(simulated=True, everlasting=True, reasons=[]))


@pytest.mark.parametrize("freshness", ["proven", "unproven"])
def test_it_is_short(freshness: str) -> None:
    assert 2 <= len(said(freshness=freshness)) <= 4


def test_it_speaks_japanese() -> None:
    parties, forever, loss = said("ja", reasons=[PLAIN])
    assert parties.startswith("これを開くには少なくとも 3 者の結託が必要です")
    assert "A、B、C" in parties
    assert "本拠 koganei は" in parties
    assert forever == "ただし永続的ではありません。KME は hongo への鍵の出所を示しませんでした。"
    assert loss == "5 拠点が保持し、そのうちどの 2 拠点を失っても取り出せます。"
