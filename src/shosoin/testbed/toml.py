"""Writing the small part of TOML that configuration files need (the standard library only reads it)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

__all__ = ["toml_text"]

Value = str | int | float | bool | Sequence[str] | Mapping[str, "str | int | float | bool"]
Section = Mapping[str, Value]


def toml_text(tables: Mapping[str, Section | Sequence[Section]]) -> str:
    """Return a document of tables and arrays of tables, in the order given.

    Args:
        tables: ``{"kme": {...}}`` becomes ``[kme]``; a list of mappings becomes ``[[name]]`` once each.
    """
    blocks: list[str] = []
    for name, content in tables.items():
        if isinstance(content, Mapping):
            blocks.append(_block(f"[{name}]", content))
        else:
            blocks.extend(_block(f"[[{name}]]", section) for section in content)
    return "\n".join(blocks)


def _block(heading: str, section: Section) -> str:
    lines = [heading, *(f"{key} = {_value(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _value(value: Value) -> str:
    """Write one value; JSON's strings, numbers, booleans and lists of them are TOML's too, but for a raw DEL."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
