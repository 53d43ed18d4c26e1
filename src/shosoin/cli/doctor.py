"""``shosoin doctor``: what this machine gives, and what that means for labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shosoin.base.messages import text
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import JsonOption

__all__ = ["doctor"]


def doctor(
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Whose disk to test.", exists=True, file_okay=False)
    ] = Path(),
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Examine the KME of this config.toml.", exists=True)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine, or a KME on it.

    Kernels, randomness, TLS, disk and clock, each with what it means for the assurance label. Of a KME: its files, its
    process, the certificates in use, its port, and its workers.
    """
    from shosoin.testbed.doctor import examine
    from shosoin.testbed.doctor_kme import examine_kme

    findings = examine(directory.resolve()) if config is None else examine_kme(config)
    if as_json:
        print_json(
            {
                finding.topic: {**finding.details, "good": finding.good, "means": text(f"doctor.{finding.means}")}
                for finding in findings
            }
        )
        return
    for finding in findings:
        mark = "ok" if finding.good else "!!"
        print_lines([f"{mark}  {text(f'doctor.{finding.topic}')}: {finding.found}", f"    {_meaning(finding.means)}"])


def _meaning(message_id: str) -> str:
    return text(f"doctor.{message_id}")
