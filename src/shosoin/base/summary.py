"""The first sentences of a label, for whoever answers for the records: who could open it, what if sites are lost.

No word of cryptography is needed to read them, and none of them says more than the label does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shosoin.base.messages import retold, text

__all__ = ["SAID", "summary_of"]

SAID = "label.said."
"""Family of the messages that retell what labels say."""
_NUMBERS_SPELT = 10


def summary_of(label: Mapping[str, Any], *, language: str | None = None) -> tuple[str, ...]:
    """Return two to four sentences about a label in its JSON form, in the language in use unless one is given."""
    told = [_parties(label, language), _time(label, language), _loss(label, language)]
    if label.get("freshness", "proven") != "proven":
        told.append(text("summary.unproven", language=language))
    return tuple(told)


def _parties(label: Mapping[str, Any], language: str | None) -> str:
    """Say who would have to act together, and that the home site is trusted."""
    names, number = list(label["collusion_set"]), label["collusion_number"]
    fields = {
        "number": _spelt(number, language),
        "names": _joined(names, language),
        "home": label.get("trusted_home", "?"),
    }
    said = "summary.nobody" if not names else "summary.alone" if number == 1 else "summary.together"
    told = text(said, language=language, **fields)
    if not label.get("collusion_complete", True):
        told += text("summary.gap", language=language)
    return told + text("summary.home", language=language, **fields)


def _time(label: Mapping[str, Any], language: str | None) -> str:
    """Say whether a future computer changes that."""
    if label["simulated"]:
        return text("summary.simulated", language=language)
    if label["everlasting"]:
        return text("summary.everlasting", language=language)
    reasons = [str(reason) for reason in label["reasons"]]
    said = "summary.not_everlasting" if len(reasons) == 1 else "summary.not_everlasting_more"
    first = retold(reasons[0], SAID, language=language) if reasons else ""
    return text(said, language=language, reason=first, more=len(reasons) - 1)


def _loss(label: Mapping[str, Any], language: str | None) -> str:
    """Say how many sites may be lost."""
    k, durable_at = label["scheme"]["k"], label["durable_at"]
    spare = durable_at - k
    said = "summary.lost" if spare < 0 else {0: "summary.no_spare", 1: "summary.spare_one"}.get(spare, "summary.spare")
    return text(said, language=language, durable_at=durable_at, spare=spare, k=k)


def _spelt(number: int, language: str | None) -> str:
    """Return a small number as a word, where the catalogue has one."""
    return text(f"number.{number}", language=language) if 2 <= number <= _NUMBERS_SPELT else str(number)


def _joined(names: list[str], language: str | None) -> str:
    if len(names) < 2:
        return "".join(names)
    comma = text("summary.comma", language=language)
    return text("summary.and", language=language, first=comma.join(names[:-1]), last=names[-1])
