"""Attacks on audits: what people are told when something vanishes meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shosoin.base import SiteId
from shosoin.cli.audit import _Run
from shosoin.vault.audit import ShareFound
from shosoin.vault.audit_round import AuditOptions, AuditRound


@pytest.mark.parametrize("left", ["b", None])
async def test_object_that_vanishes_during_an_audit_of_named_ones_is_no_crash(
    left: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FakeVault:
        async def audit_round(self, names: Any, *, on_found: Any, **_: Any) -> AuditRound:
            result = AuditRound(started_wall_s=0.0)
            if left is not None:
                states = {SiteId("koganei"): ShareFound.OK}
                on_found(left, states)
                result.count(left, "0" * 32, states)  # type: ignore[arg-type]
            return result

    @asynccontextmanager
    async def vault_of(_: Path) -> AsyncIterator[FakeVault]:
        yield FakeVault()

    monkeypatch.setattr("shosoin.cli.audit.vault_of", vault_of)
    await _Run(["a", "b"], "", AuditOptions(), False).once(Path("unused"))
    assert ("koganei" in capsys.readouterr().out) == (left is not None)
