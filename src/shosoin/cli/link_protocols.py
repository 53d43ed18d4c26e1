"""``shosoin link protocols``: what rates can be computed, and with which parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base.messages import text
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.rates.registry import ProtocolEntry

__all__ = ["complete_protocol", "protocols"]


def complete_protocol(incomplete: str) -> list[tuple[str, str]]:
    """Return the protocols whose names begin like this, for a shell."""
    from shosoin.link.rates.registry import PROTOCOLS

    return [(name, entry.about) for name, entry in PROTOCOLS.items() if name.startswith(incomplete)]


def protocols(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="Show this one's parameters; list all if left out.", autocompletion=complete_protocol
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the protocols that `shosoin link rate` knows, or the parameters of one with their defaults."""
    from shosoin.link.rates.registry import PROTOCOLS, protocol

    entries = list(PROTOCOLS.values()) if name is None else [protocol(name)]
    if as_json:
        print_json({"protocols": [_json(entry) for entry in entries]})
    elif name is None:
        print_lines(_table(entries))
    else:
        print_lines(_lines(entries[0]))


def _json(entry: ProtocolEntry) -> dict[str, Any]:
    model = entry.model()
    return {
        "name": entry.name,
        "about": entry.about,
        "source": entry.source,
        "asymptotic": not entry.is_finite,
        "block_bits": entry.block_bits,
        "can_optimise": entry.can_optimise,
        "bits_per": entry.unit,
        "parameters": model.known(model.parameters),
    }


def _table(entries: list[ProtocolEntry]) -> list[str]:
    headings = [text(f"link.{heading}") for heading in ("protocol", "key", "about")]
    return columns(
        headings,
        [(entry.name, text("link.finite" if entry.is_finite else "link.asymptotic"), entry.about) for entry in entries],
    )


def _lines(entry: ProtocolEntry) -> list[str]:
    model = entry.model()
    block = [] if entry.block_bits is None else [text("link.default_block", bits=f"{entry.block_bits:.3g}")]
    known = model.known(model.parameters)
    rows = [(name, text("link.searched") if value is None else f"{value}") for name, value in known.items()]
    return [
        f"{entry.name}: {entry.about}",
        text("link.source", source=entry.source),
        *block,
        "",
        *columns((text("link.parameter"), text("link.default")), rows),
    ]
