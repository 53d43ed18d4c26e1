"""``shosoin kme``: run a key management entity, and look after its secrets while it stands still."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shosoin.cli import kme_admin, kme_identity
from shosoin.cli.kme_rotation import new_token_key, rotate_storage_key
from shosoin.cli.kme_secrets import add_secret_commands

__all__ = ["app"]

app = typer.Typer(help="Run a key management entity, look after its secrets.", rich_markup_mode=None)
app.command("reload")(kme_identity.reload)
app.command("audit-log")(kme_identity.audit_log)
app.add_typer(kme_admin.app, name="admin")
add_secret_commands(app)
app.command("rotate-storage-key")(rotate_storage_key)
app.command("new-token-key")(new_token_key)


@app.callback()
def group() -> None:
    """Run a key management entity (ETSI GS QKD 014), and look after its secrets while it stands still."""


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="Its config.toml.", exists=True)],
) -> None:
    """Run a KME until it is told to stop (SIGTERM or Ctrl-C)."""
    from shosoin.services.kme import run as run_service

    run_service(config)
