"""``shosoin node``: run a share node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="Run a share node.", rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Run a share node."""


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="Its config.toml.", exists=True)],
) -> None:
    """Run a share node until it is told to stop (SIGTERM or Ctrl-C)."""
    from shosoin.services.node import run as run_service

    run_service(config)
