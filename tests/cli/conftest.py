from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from shosoin.base.messages import set_language
from shosoin.cli import run


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("shosoin: error: ")]

    @property
    def hints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("shosoin: hint: ")]


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
