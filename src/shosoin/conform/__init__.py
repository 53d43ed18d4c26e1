"""A conformance kit for ETSI GS QKD 014 V1.1.1: black-box checks of any vendor's KME, each with its clause.

It calls a KME as SAEs do and knows nothing of what is behind it. It uses keys up: run it between SAEs that are there
for tests. No key that it gets is in any text it makes.
"""

from shosoin.conform.check import Check, Level, Outcome
from shosoin.conform.http import Caller, Identity
from shosoin.conform.run import CHECKS, Finding, Report, chosen, run_checks
from shosoin.conform.session import Session

__all__ = [
    "CHECKS",
    "Caller",
    "Check",
    "Finding",
    "Identity",
    "Level",
    "Outcome",
    "Report",
    "Session",
    "chosen",
    "run_checks",
]
