"""``shosoin audit``: have the sites prove that they still hold good shares, without reading any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of
from shosoin.cli.quantities import duration_s, rate_bytes_per_s
from shosoin.cli.tallies import counting, found_json, judge_tally, plain, site_lines, tally_lines

if TYPE_CHECKING:
    from shosoin.vault.audit_round import AuditOptions, AuditRound
    from shosoin.vault.client import Vault

__all__ = ["audit"]

_SLOT = "28d"


def audit(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names in the vault.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Audit every object, and the index.")] = False,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="Audit the objects whose names begin so.")
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", metavar="DURATION", help="Again and again, for example 6h, until stopped.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Spend a new challenge of each object now; 16 answers last an epoch.")
    ] = False,
    slot: Annotated[
        str, typer.Option("--slot", metavar="DURATION", help="Spend a new challenge only when the last one is so old.")
    ] = _SLOT,
    limit_rate: Annotated[
        str | None, typer.Option("--limit-rate", metavar="BYTES", help="Bytes of shares checked per second at most.")
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, though a stopped audit could be gone on with.")
    ] = False,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have every site prove that it still holds a good share, without reading it.

    Exits 6 if a share is wrong, damaged, doubtful or refused, else 4 if one is missing or could not be checked. When a
    site is named here, `shosoin verify` reads the shares and proves it. An audit that was stopped goes on where it was.
    """
    if [everything, bool(names), prefix is not None].count(True) != 1:
        raise Rejected(
            "audit takes names, or --all, or --prefix",
            code="cli.usage",
            hint="for example: shosoin audit clinic/records.csv",
        )
    from shosoin.vault.audit_round import AuditOptions

    options = AuditOptions(
        slot_s=duration_s(slot),
        fresh=fresh,
        resume=not restart,
        bytes_per_s_max=None if limit_rate is None else rate_bytes_per_s(limit_rate),
    )
    run = _Run(names or None, prefix or "", options, as_json)
    path = owner_config_path(testbed, owner, config)
    run_async(run.once(path) if every is None else run.every(path, duration_s(every)))


class _Run:
    """One call of the command."""

    def __init__(self, names: list[str] | None, prefix: str, options: AuditOptions, as_json: bool) -> None:
        self._names = names
        self._prefix = prefix
        self._options = options
        self._json = as_json

    async def once(self, config: Path) -> None:
        """Audit once; the exit code tells the result."""
        found: dict[str, dict[str, str]] = {}
        async with vault_of(config) as vault:
            with counting(text("audit.title")) as progress:
                result = await vault.audit_round(
                    self._names,
                    prefix=self._prefix,
                    options=self._options,
                    progress=progress,
                    on_found=lambda name, states: found.__setitem__(name, plain(states)),
                )
        found = dict(sorted(found.items()))
        if self._json:
            print_json(_round_json(result) | {"objects": found})
        else:
            single = found.get(self._names[0]) if self._names is not None and len(self._names) == 1 else None
            print_lines(tally_lines(result) if single is None else site_lines(single))
            print_lines(_remarks(result))
        judge_tally(result, failed="cli.audit_failed", partial="cli.audit_partial", hint=text("audit.verify_hint"))

    async def every(self, config: Path, every_s: float) -> None:
        """Audit until stopped; each round is told at once."""
        from shosoin.adapters.runtime import AsyncioRuntime
        from shosoin.vault.audit_watch import audit_every

        async with vault_of(config) as vault:
            await audit_every(lambda: self._round(vault), self._tell, every_s=every_s, runtime=AsyncioRuntime())

    async def _round(self, vault: Vault) -> AuditRound:
        return await vault.audit_round(self._names, prefix=self._prefix, options=self._options)

    def _tell(self, result: AuditRound | Unavailable) -> None:
        """Say what a round found: one JSON line, or lines for people."""
        if isinstance(result, Unavailable):
            if self._json:
                print_json({"ok": False, "error": {"code": result.code, "message": result.message}})
            talk(f"error: {result}")
            return
        if self._json:
            objects = {each.label: plain(each.states) for each in result.findings}
            print_json(_round_json(result) | {"objects": objects, "started_wall_s": result.started_wall_s})
        else:
            print_lines([*tally_lines(result), *_remarks(result)])


def _round_json(result: AuditRound) -> dict[str, Any]:
    return found_json(result) | {
        "index": {label: plain(states) for label, states in result.index.items()},
        "new": result.new,
        "repeated": result.repeated,
        "spent": result.spent,
        "resumed": result.resumed,
        "share_bytes": result.share_bytes,
        "in_a_row": {str(site): counts for site, counts in result.in_a_row.items() if any(counts.values())},
    }


def _remarks(result: AuditRound) -> list[str]:
    """Return what one should know beside the states."""
    lines = [text("audit.resumed", count=result.resumed)] if result.resumed else []
    if result.repeated:
        lines.append(text("audit.repeated", count=result.repeated))
    if result.spent:
        lines.append(text("audit.spent", count=result.spent))
    for site, counts in result.in_a_row.items():
        lines += [
            text(f"audit.in_a_row_{what}", site=site, rounds=rounds) for what, rounds in counts.items() if rounds > 1
        ]
    return lines
