"""The message catalogue: complete in English, consistent in every other language."""

from __future__ import annotations

import string

import pytest

from shosoin.base.messages import CATALOGUES, language_of, retold, set_language, text

SEEDED = "AES-256 in counter mode, seeded by operating system generator"


def fields_of(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("language", sorted(CATALOGUES))
def test_every_translation_has_an_original_and_no_field_of_its_own(language):
    english = CATALOGUES["en"]
    for message_id, template in CATALOGUES[language].items():
        assert message_id in english
        assert fields_of(template) <= fields_of(english[message_id])


@pytest.mark.parametrize("language", sorted(CATALOGUES))
def test_every_message_can_be_said(language):
    for message_id, template in CATALOGUES["en"].items():
        fields = dict.fromkeys(fields_of(template), "value")
        assert text(message_id, language=language, **fields)


def test_what_japanese_lacks_is_said_in_english():
    assert text("cli.see_help", language="ja") == text("cli.see_help", language="en")
    assert text("demo.class", language="ja", class_="its") == "転送クラス: its。"


@pytest.mark.parametrize(
    ("said", "japanese"),
    [
        ("coefficients: key-stream bits", "係数は鍵列のビット"),
        (
            f"The coefficients came from {SEEDED}, not from a physical source.",
            "係数はOS の乱数生成器を種とするカウンターモードの AES-256から得られ、物理的な乱数源によりません。",
        ),
        ("one-time pad (qkd, simulated-qkd)", "ワンタイムパッド (qkd, simulated-qkd)"),
        (
            "The keys for local came from simulated links, which protect nothing.",
            "local への鍵は模擬リンクから得られ、何も保護しません。",
        ),
        ("coefficients: a generator of another make", "係数はa generator of another make"),
        ("a sentence that nobody translated", "a sentence that nobody translated"),
    ],
)
def test_what_programs_say_in_english_is_retold(said, japanese):
    assert retold(said, "label.said.", language="ja") == japanese
    assert retold(said, "label.said.", language="en") == said


def test_an_unknown_message_or_a_missing_field_is_a_mistake():
    with pytest.raises(KeyError):
        text("no.such.message")
    with pytest.raises(KeyError):
        text("demo.class")


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja"}, "ja"),
        ({"LANG": "xx_YY"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "SHOSOIN_LANG": "ja-JP"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "SHOSOIN_LANG": "en"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "SHOSOIN_LANG": ""}, "ja"),
    ],
)
def test_the_environment_chooses(environment, language):
    assert language_of(environment) == language


def test_the_language_of_the_process_is_used_unless_overridden():
    set_language("ja")
    try:
        assert text("demo.class", class_="its") == "転送クラス: its。"
        assert text("demo.class", language="en", class_="its") == "Transfer class: its."
        set_language("xx")
        assert text("demo.class", class_="its") == "Transfer class: its."
    finally:
        set_language("en")
