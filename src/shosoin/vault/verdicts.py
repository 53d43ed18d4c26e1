"""Judging a policy: each clause against what is known of an object, or of a put that is only planned.

``Findings`` say what is known; what cannot be known yet is *pending*, and only pending things may stay undecided. Once
facts are there nothing is pending, and what is unknown fails: a policy asks for assurance, not for hope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import AssuranceLabel, Rejected
from shosoin.vault.policies import InForce
from shosoin.vault.policy import Clause

__all__ = ["Findings", "PolicyRefused", "Verdict", "judge", "refuse_failed"]


class PolicyRefused(Rejected):
    """A policy in force is not met."""

    code = "vault.policy_refused"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of an object; ``None`` is unknown."""

    class_: str
    scheme: tuple[int, int]
    home: str | None
    collusion: int
    collusion_set: tuple[str, ...]
    collusion_gap: str
    """Why fewer may suffice; empty if the number is complete."""
    durable: int
    epsilon: float | None
    age_s: float
    everlasting: bool | None
    reasons: tuple[str, ...]
    simulated: bool | None
    deal_checked: bool | None
    fresh: bool | None
    pending: frozenset[str] = field(default_factory=frozenset)
    """Subjects on which the last word is not spoken: they fail now only if they must fail."""

    @classmethod
    def of_label(cls, label: AssuranceLabel) -> Findings:
        """Return what a label says; what could not be read of its facts is unknown."""
        lost = set(label.unreadable)
        return cls(
            class_=label.class_,
            scheme=label.scheme,
            home=None if "home" in lost else label.trusted_home,
            collusion=label.collusion_number,
            collusion_set=label.collusion_set,
            collusion_gap="" if label.collusion_complete else next(iter(label.unknown), "not all is recorded"),
            durable=label.durable_at,
            epsilon=label.epsilon_total,
            age_s=label.age_s,
            everlasting=label.everlasting,
            reasons=label.reasons,
            simulated=True if label.simulated else None if "transfers" in lost else False,
            deal_checked=label.deal_checked,
            fresh=label.freshness == "proven",
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one clause fares."""

    source: str
    clause: Clause
    met: bool | None
    """``None``: not known before the keys are drawn."""
    found: str
    """What was found, in words."""
    hint: str

    def to_json(self) -> dict[str, Any]:
        """Return it as outside programs read it."""
        return {
            "clause": str(self.clause),
            "source": self.source,
            "met": self.met,
            "found": self.found,
            "hint": "" if self.met else self.hint,
        }


def judge(clauses: Iterable[InForce], findings: Findings) -> tuple[Verdict, ...]:
    """Return the verdict on every clause."""
    return tuple(_verdict(each, findings) for each in clauses)


def refuse_failed(name: str, verdicts: Sequence[Verdict], *, undone: str) -> None:
    """Refuse if a clause is not met.

    Raises:
        PolicyRefused: names every failing clause with what was found; ``undone`` says what has not happened.
    """
    failed = [verdict for verdict in verdicts if verdict.met is False]
    if failed:
        said = "; ".join(f"`{verdict.clause}` but found {verdict.found}" for verdict in failed)
        hints = dict.fromkeys(verdict.hint for verdict in failed)
        raise PolicyRefused(f"the policy for {name!r} requires {said}", hint=f"{undone}; {'; '.join(hints)}")


_Judged = tuple[bool | None, str, str]
"""Met or not, what was found, and what would help."""


def _verdict(each: InForce, findings: Findings) -> Verdict:
    clause = each.clause
    met, found, hint = _JUDGES[clause.subject](clause, findings)
    if clause.subject in findings.pending and met is not False:
        met = None
    elif met is None:
        met = False
    return Verdict(each.source, clause, met, found, hint)


def _collusion(clause: Clause, findings: Findings) -> _Judged:
    number, names = findings.collusion, ", ".join(findings.collusion_set)
    found = f"{number}: {names or 'no set of them'} could open it"
    if findings.collusion_gap:
        found += f" ({findings.collusion_gap})"
    hint = "place shares with other operators and makers, raise k, or declare routes and relays"
    return number >= clause.number and not findings.collusion_gap, found, hint


def _one_of(value: Callable[[Findings], str | None], hint: str) -> Callable[[Clause, Findings], _Judged]:
    def judged(clause: Clause, findings: Findings) -> _Judged:
        found = value(findings)
        return found in clause.values, found or "unknown", hint.format(clause.values[0])

    return judged


def _durable(clause: Clause, findings: Findings) -> _Judged:
    n = findings.scheme[1]
    wanted = n if clause.values == ("n",) else clause.number
    return findings.durable >= wanted, f"{findings.durable} of {n} sites", "start the missing sites"


def _epsilon(clause: Clause, findings: Findings) -> _Judged:
    found = findings.epsilon
    hint = "use links that declare a smaller failure probability, or a smaller object"
    if found is None or math.isnan(found):
        return None, "that it is not declared", hint
    return found <= clause.number, f"{found:.1e}", hint


def _age(clause: Clause, findings: Findings) -> _Judged:
    found = f"{findings.age_s / 86_400:.1f} days"
    return findings.age_s <= clause.number, found, "put it again, which makes new shares under fresh keys"


def _everlasting(_: Clause, findings: Findings) -> _Judged:
    hint = "use class its, declared key links that are not simulated, and a physical random generator"
    found = "that it is" if findings.everlasting else f"that it is not ({next(iter(findings.reasons), 'not known')})"
    return findings.everlasting, found, hint


def _simulated(_: Clause, findings: Findings) -> _Judged:
    hint = "use key links that are not simulated"
    if findings.simulated is None:
        return None, "that it is not known", hint
    return not findings.simulated, "simulated links" if findings.simulated else "none simulated", hint


def _deal(_: Clause, findings: Findings) -> _Judged:
    hint = "use class its and a scheme with n above k"
    return findings.deal_checked is True, "that it was" if findings.deal_checked else "that it was not", hint


def _fresh(_: Clause, findings: Findings) -> _Judged:
    hint = "start the missing sites: too few answered to rule out a newer version"
    return findings.fresh is True, "proven" if findings.fresh else "unproven", hint


_JUDGES: Mapping[str, Callable[[Clause, Findings], _Judged]] = {
    "collusion": _collusion,
    "class": _one_of(lambda findings: findings.class_, "use --class {}"),
    "durable": _durable,
    "epsilon": _epsilon,
    "age": _age,
    "scheme": _one_of(lambda findings: "{}-of-{}".format(*findings.scheme), "use --scheme {}"),
    "home": _one_of(lambda findings: findings.home, "store from site {}"),
    "everlasting": _everlasting,
    "simulated": _simulated,
    "deal checked": _deal,
    "freshness": _fresh,
}
