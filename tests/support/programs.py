"""Programs that we did not write and that tests talk to: found where Debian puts them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PLACES = (
    "/usr/sbin",
    "/sbin",
    "/usr/lib/ipsec",
    *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
)


def program(name: str) -> str:
    """Return the path of a program.

    Where it is missing the test is skipped, except in CI, which installs it (scripts/system_packages.sh): there its
    absence is a failure.
    """
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))
    if found is None:
        _missing(name)
    return str(found)


def library(*candidates: str) -> Path:
    """Return the first of these shared libraries that is there; see ``program``."""
    for candidate in candidates:
        if Path(candidate).exists():
            return Path(candidate)
    _missing(candidates[0])
    raise AssertionError


def _missing(name: str) -> None:
    if os.environ.get("SHOSOIN_REQUIRE_PROGRAMS") == "1":
        pytest.fail(f"{name} is missing: scripts/system_packages.sh installs it")
    pytest.skip(f"{name} is not installed (scripts/system_packages.sh installs it)")
