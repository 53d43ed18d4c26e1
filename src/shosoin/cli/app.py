"""All commands in one tree; each lives in a file of its own and imports what it needs when it is called."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import shosoin
from shosoin.base.messages import language_of, set_language
from shosoin.cli import (
    audit,
    conform,
    demo,
    doctor,
    evidence,
    get,
    kme,
    link,
    ls,
    move,
    node,
    policy,
    put,
    repair,
    rm,
    stat,
    testbed,
    verify,
)

__all__ = ["app", "command"]

app = typer.Typer(
    name="shosoin",
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shosoin {shosoin.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # its callback has answered already
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Quantum-secure storage: files shared over sites that need not trust each other, under keys of a QKD network."""
    set_language(language_of(os.environ))
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("demo")(demo.demo)
app.add_typer(testbed.app, name="testbed")
app.command("put")(put.put)
app.command("get")(get.get)
app.command("ls")(ls.ls)
app.command("stat")(stat.stat)
app.command("rm")(rm.rm)
app.command("verify")(verify.verify)
app.command("audit")(audit.audit)
app.add_typer(evidence.app, name="evidence")
app.add_typer(policy.app, name="policy")
app.command("repair")(repair.repair)
app.command("move")(move.move)
app.command("conform")(conform.conform)
app.command("doctor")(doctor.doctor)
app.add_typer(kme.app, name="kme")
app.add_typer(node.app, name="node")
app.add_typer(link.app, name="link")


def command() -> Any:
    """Return the command object that parses arguments."""
    return typer.main.get_command(app)
