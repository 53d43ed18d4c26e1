"""``shosoin link``: what a QKD link yields, by which model, and how far that model is to be believed."""

from __future__ import annotations

import typer

from shosoin.cli.link_coexist import coexist
from shosoin.cli.link_convert import convert
from shosoin.cli.link_pass import satellite_pass
from shosoin.cli.link_postprocess import postprocess
from shosoin.cli.link_protocols import protocols
from shosoin.cli.link_rate import rate
from shosoin.cli.link_simulate import simulate
from shosoin.cli.link_validate import validate

__all__ = ["app"]

app = typer.Typer(help="What a QKD link yields, by which model.", rich_markup_mode=None)
app.command("rate")(rate)
app.command("protocols")(protocols)
app.command("coexist")(coexist)
app.command("pass")(satellite_pass)
app.command("simulate")(simulate)
app.command("convert")(convert)
app.command("postprocess")(postprocess)
app.command("validate")(validate)


@app.callback()
def group() -> None:
    """Compute or simulate what a QKD link yields, and compare the models with what others published."""
