"""Run checks against a KME and gather what came of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from shosoin.base import Rejected, ShosoinError
from shosoin.conform import checks_dec_keys, checks_enc_keys, checks_status, checks_transport
from shosoin.conform.check import Check, Failed, Level, NotApplicable, Outcome
from shosoin.conform.session import Session

__all__ = ["CHECKS", "Finding", "Report", "chosen", "run_checks"]

CHECKS: tuple[Check, ...] = (
    *checks_transport.CHECKS,
    *checks_status.CHECKS,
    *checks_enc_keys.CHECKS,
    *checks_dec_keys.CHECKS,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    check: Check
    outcome: Outcome
    seen: str = ""
    """What was seen instead, or why it was left out."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        check = self.check
        return {
            "check": check.name,
            "clause": check.clause or None,
            "level": check.level.value,
            "statement": check.statement,
            "outcome": self.outcome.value,
            "seen": self.seen or None,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of a run."""

    findings: tuple[Finding, ...]

    @property
    def counts(self) -> Counter[Outcome]:
        """How often each outcome came."""
        return Counter(finding.outcome for finding in self.findings)

    @property
    def conforms(self) -> bool:
        """Whether nothing failed that the text asks for; what was left out is no failure."""
        return not self.counts[Outcome.FAILED]


def chosen(patterns: Sequence[str]) -> tuple[Check, ...]:
    """Return the checks whose names match one of some patterns; all of them if there is none.

    Raises:
        Rejected: a pattern that matches no check.
    """
    for pattern in patterns:
        if not any(fnmatch(check.name, pattern) for check in CHECKS):
            raise Rejected(
                f"no check matches {pattern!r}", code="conform.unknown_check", hint="shosoin conform --list shows them"
            )
    return tuple(check for check in CHECKS if not patterns or any(fnmatch(check.name, one) for one in patterns))


def run_checks(
    session: Session, checks: Sequence[Check] = CHECKS, tell: Callable[[Finding], None] = lambda _: None
) -> Report:
    """Run checks one after the other; ``tell`` hears each finding as it comes. Uses keys up.

    Raises:
        Unavailable, PeerFault: the KME cannot be asked at all.
    """
    _ = session.status  # who the master is, and whether anything can be asked
    findings = []
    for check in checks:
        finding = _found(check, session)
        findings.append(finding)
        tell(finding)
    return Report(tuple(findings))


def _found(check: Check, session: Session) -> Finding:
    try:
        check.run(session)
    except Failed as err:
        return Finding(check, Outcome.FAILED if check.level is Level.SHALL else Outcome.WARNED, str(err))
    except NotApplicable as err:
        return Finding(check, Outcome.SKIPPED, str(err))
    except ShosoinError as err:
        if err.code == "conform.no_keys":
            return Finding(check, Outcome.SKIPPED, err.message)
        return Finding(check, Outcome.FAILED if check.level is Level.SHALL else Outcome.WARNED, err.message)
    return Finding(check, Outcome.PASSED)
