from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shosoin.base import ShosoinError
from shosoin.testbed.build import prepare
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import Layout
from shosoin.testbed.scenario import load_scenario
from tests.testbed.support import standin_command


@pytest.fixture
def bed_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory for a testbed; whatever runs in it is ended afterwards, whatever the test did."""
    root = tmp_path / "bed"
    yield root
    try:
        testbed = Testbed.load(root)
    except ShosoinError:
        return
    testbed.down(grace_s=0.5)


@pytest.fixture
def layout(bed_directory: Path) -> Layout:
    return prepare(load_scenario("tiny"), bed_directory)


@pytest.fixture
def standin(layout: Layout) -> Testbed:
    return Testbed(layout, standin_command)


@pytest.fixture
def behave(layout: Layout) -> Callable[[str, str], None]:
    """Tell the stand-ins of a target how to behave at their next start."""

    def tell(target: str, behaviour: str) -> None:
        for process in layout.select(target):
            (process.state / "behaviour").write_text(behaviour)

    return tell
