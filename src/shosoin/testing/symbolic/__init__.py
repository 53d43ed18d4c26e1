"""Secrecy by linear algebra: protocols run on symbols, and every coalition is asked what it learned.

>>> from shosoin.testing.symbolic import Transcript, body_of, check, coalitions, put_by_keys
>>> from shosoin.vault import Scheme
>>> run, scheme = Transcript(), Scheme(2, 3)
>>> shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks=0, elements=4))
>>> check(run, 3, list(coalitions(3, 1)))                    # nobody alone learns anything
[]
>>> print(check(run, 3, list(coalitions(3, 2, exactly=True)))[0])
sites 1,2: 4 element(s)

``forms`` is the field of symbols, ``linear`` the criterion, ``transcript`` who sees what, ``protocols`` and ``refresh``
the protocols, ``coalitions`` the enumeration, ``suite`` all of it, ``planted`` mistakes that must be found, ``trace``
and ``repair_trace`` recorded runs of the real vault read as forms, ``recorded`` what such a run consists of. What is
proven, and what is not, is in ``docs/concepts/secrecy-checker.md``.
"""

from __future__ import annotations

from shosoin.testing.symbolic.coalitions import Coalition, Finding, check, check_schedules, coalitions
from shosoin.testing.symbolic.linear import Basis, leaked
from shosoin.testing.symbolic.protocols import (
    Shared,
    audit,
    body_of,
    deal_check,
    get,
    put_by_coefficients,
    put_by_keys,
    repair,
)
from shosoin.testing.symbolic.trace import Message, Trace, Unexplained
from shosoin.testing.symbolic.transcript import Transcript

__all__ = [
    "Basis",
    "Coalition",
    "Finding",
    "Message",
    "Shared",
    "Trace",
    "Transcript",
    "Unexplained",
    "audit",
    "body_of",
    "check",
    "check_schedules",
    "coalitions",
    "deal_check",
    "get",
    "leaked",
    "put_by_coefficients",
    "put_by_keys",
    "repair",
]
