from __future__ import annotations

import pytest
from tests.support.commands import Answer

from shosoin.base.messages import set_language
from shosoin.cli import run


@pytest.fixture
def shosoin(capfd, monkeypatch):
    """Run a command in this process, as a person with an English terminal would."""
    for name in ("SHOSOIN_LANG", "LC_ALL", "LC_MESSAGES", "SHOSOIN_TESTBED", "SHOSOIN_CONFIG", "SHOSOIN_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C.UTF-8")

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    yield call
    set_language("en")
