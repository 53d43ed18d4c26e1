"""Lines, tables and labels for people."""

from __future__ import annotations

import re

import pytest
from tests.vault.support import SITES, make_world, store

from shosoin.adapters.entropy import SystemEntropy
from shosoin.base.messages import retold, set_language
from shosoin.base.ports import KeySourceFacts
from shosoin.cli.get import parse_range
from shosoin.cli.output import columns, label_lines, seconds_text, size_text

LABEL = {
    "class": "its",
    "everlasting": False,
    "reasons": ["The keys came from simulated links, which protect nothing."],
    "collusion_number": 3,
    "collusion_set": ["Fictional A", "Fictional B", "Fictional C"],
    "trusted_home": "koganei",
    "randomness": ["coefficients: key-stream bits"],
    "transfers": {"koganei": "local", "hongo": "one-time pad (simulated-qkd)"},
    "epsilon_total": 4e-10,
    "durable_at": 5,
    "sites": 5,
    "scheme": {"k": 3, "n": 5},
    "epoch": 0,
    "age_s": 1.0,
    "simulated": True,
    "freshness": "proven",
}


def test_a_label_says_who_and_why():
    said = "\n".join(label_lines(LABEL))
    assert "At least 3 parties must act together, for example: Fictional A, Fictional B, Fictional C." in said
    assert "koganei saw the content" in said
    assert "Any 3 of 5 shares give it back, 2 say nothing" in said
    assert "Not everlasting, because:\n  - The keys came from simulated links" in said
    assert "How each share travelled:\n  koganei  local\n  hongo    one-time pad (simulated-qkd)\n" in said
    assert "4.0e-10" in said
    assert said.endswith("SIMULATED: the key links are models on this machine and protect nothing.")


def test_a_label_admits_what_is_not_known():
    said = "\n".join(label_lines(LABEL | {"epsilon_total": None, "freshness": "unproven"}))
    assert "did not declare" in said
    assert "Freshness is unproven" in said


def test_an_everlasting_label_gives_no_excuses():
    said = "\n".join(label_lines(LABEL | {"everlasting": True, "reasons": [], "simulated": False}))
    assert "Everlasting: no step rested on computation" in said
    assert "because" not in said
    assert "SIMULATED" not in said


def test_a_label_speaks_japanese():
    set_language("ja")
    try:
        said = "\n".join(label_lines(LABEL))
    finally:
        set_language("en")
    assert "少なくとも 3 者の結託が必要です" in said
    assert "各シェアの送られ方:\n  koganei  拠点内\n  hongo    ワンタイムパッド (simulated-qkd)\n" in said
    assert "乱数源: 係数は鍵列のビット。" in said


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
@pytest.mark.parametrize("kind", ["simulated-qkd", "undeclared"])
async def test_nothing_that_a_label_says_stays_english(class_, kind):
    """The vault writes the sentences; one that changes there must change in the catalogue too."""
    facts = KeySourceFacts(kind, simulated=kind == "simulated-qkd", epsilon=None)
    world = make_world(entropy=SystemEntropy(), facts=facts)
    label = (await store(world, "object", b"x" * 40, class_)).label.to_json()
    assert label["reasons"]
    for said in [*label["reasons"], *label["randomness"], *label["transfers"].values()]:
        retelling = retold(said, "label.said.", language="ja")
        assert retelling != said
        assert set(re.findall("[a-z]{3,}", retelling)) <= {*SITES, "simulated", "qkd", "undeclared", "node"}


def test_columns_line_up_in_any_script():
    assert columns(("A", "N"), [("x", 1), ("long", 1234)]) == ["A     N   ".rstrip(), "x        1", "long  1234"]
    lines = columns(("拠点", "B"), [("a", "b")])
    assert lines == ["拠点  B", "a     b"]


@pytest.mark.parametrize(
    ("size", "said"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1 << 20, "1.0 MiB"), (5 << 50, "5120.0 TiB")]
)
def test_sizes(size, said):
    assert size_text(size) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "12 ms"), (1.25, "1.2 s"), (600, "10 min"), (9000, "2.5 h"), (185 * 86_400, "185 days")],
)
def test_durations(seconds, said):
    assert seconds_text(seconds) == said


@pytest.mark.parametrize(
    ("written", "wanted"), [(None, (0, None)), ("0-0", (0, 1)), ("10-19", (10, 10)), ("7-", (7, None))]
)
def test_ranges(written, wanted):
    assert parse_range(written) == wanted
