"""Texts that people read, kept apart from the code that decides to say them.

A catalogue maps an id to a text with ``{fields}``, once per language; English is complete, other languages may be
partial and fall back to English id by id. Which language speaks is decided once, at the edge (the command line), from
``SHOSOIN_LANG`` or the usual locale variables. Error messages of exceptions are not here: they are for logs and stay
in English; what is here is what a command prints on purpose.

Some sentences are data before they are talk: the reasons of an assurance label are English in every program's hands.
``retold`` says such a sentence in the language in use, by the message whose English text it fits.

>>> from shosoin.base.messages import text
>>> text("demo.stored", name="a.txt", size="2 KiB", seconds="0.1 s", durable_at=5, sites=5)
'Stored a.txt (2 KiB) in 0.1 s: durable at 5 of 5 sites.'
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from functools import cache
from typing import Any

from shosoin.base.messages_en import ENGLISH
from shosoin.base.messages_ja import JAPANESE

__all__ = ["CATALOGUES", "FALLBACK_LANGUAGE", "language_of", "retold", "set_language", "text"]

FALLBACK_LANGUAGE = "en"
CATALOGUES: Mapping[str, Mapping[str, str]] = {"en": ENGLISH, "ja": JAPANESE}

_TERM = "_term"
_VARIABLES = ("SHOSOIN_LANG", "LC_ALL", "LC_MESSAGES", "LANG")


class _Speaker:
    """The language in use by this process."""

    language = FALLBACK_LANGUAGE


def language_of(environment: Mapping[str, str]) -> str:
    """Return the language that an environment asks for, English when it asks for none that we have.

    The first variable that is set decides (``SHOSOIN_LANG``, ``LC_ALL``, ``LC_MESSAGES``, ``LANG``), as in POSIX;
    territory and encoding are ignored (``ja_JP.UTF-8`` is ``ja``).
    """
    for variable in _VARIABLES:
        value = environment.get(variable, "")
        if value:
            language = value.replace("-", "_").split(".")[0].split("_")[0].lower()
            return language if language in CATALOGUES else FALLBACK_LANGUAGE
    return FALLBACK_LANGUAGE


def set_language(language: str) -> None:
    """Choose the language of every later ``text`` of this process; an unknown one means English."""
    _Speaker.language = language if language in CATALOGUES else FALLBACK_LANGUAGE


def text(message_id: str, *, language: str | None = None, **fields: Any) -> str:
    """Return a message with its fields filled in.

    Args:
        message_id: a key of the catalogue.
        language: overrides the language of the process.
        fields: values for the ``{fields}`` of the text; extra ones are ignored.

    Raises:
        KeyError: no such message or a field is missing (a programmer's mistake; a test tries every message).
    """
    template = CATALOGUES.get(language or _Speaker.language, ENGLISH).get(message_id)
    if template is None:
        template = ENGLISH[message_id]
    return template.format_map(fields)


def retold(sentence: str, family: str, *, language: str | None = None) -> str:
    """Return an English sentence in another language, as it is if no message of the family fits it.

    Args:
        sentence: what a program said, for example a reason of an assurance label.
        family: what the ids of the messages to try begin with; the first that fits is taken. A field whose name ends
            in ``_term`` is retold in turn.
        language: overrides the language of the process.
    """
    language = language or _Speaker.language
    catalogue = CATALOGUES.get(language, ENGLISH)
    if catalogue is ENGLISH:
        return sentence
    for message_id, pattern in _patterns(family):
        match = pattern.fullmatch(sentence)
        if match is not None and message_id in catalogue:
            fields = {
                name: retold(value, family, language=language) if name.endswith(_TERM) else value
                for name, value in match.groupdict().items()
            }
            return text(message_id, language=language, **fields)
    return sentence


@cache
def _patterns(family: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return the English texts of a family as patterns, in the order of the catalogue."""
    return tuple((message_id, _pattern(ENGLISH[message_id])) for message_id in ENGLISH if message_id.startswith(family))


def _pattern(template: str) -> re.Pattern[str]:
    parts = [
        re.escape(literal) + (f"(?P<{name}>.+?)" if name else "")
        for literal, name, _, _ in string.Formatter().parse(template)
    ]
    return re.compile("".join(parts))
