"""Parameters of a link: from a TOML file, whose tables become dotted names, and numbers within what a model is for."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from shosoin.base import Rejected

__all__ = ["check_range", "parameters_in"]

_SIZE_BYTES_MAX = 1 << 20


def check_range(option: str, values: Iterable[float], low: float, high: float) -> None:
    """Check that the values of an option are numbers from one to another.

    Raises:
        Rejected: one is not; NaN never is.
    """
    for value in values:
        if not low <= value <= high:
            raise Rejected(f"{option} must be from {low:g} to {high:g}, got {value:g}", code="cli.usage")


def parameters_in(path: Path) -> dict[str, Any]:
    """Return the parameters of a file by dotted names.

    Raises:
        Rejected: it cannot be read, or is not TOML.
    """
    try:
        with path.open("rb") as file:
            written = file.read(_SIZE_BYTES_MAX + 1)
        if len(written) > _SIZE_BYTES_MAX:
            raise Rejected(f"{path} is larger than 1 MiB", code="link.bad_parameters")
        return dict(_flat(tomllib.loads(written.decode("utf-8")), ""))
    except FileNotFoundError:
        raise Rejected(
            f"no file {path}", code="link.bad_parameters", hint="give a TOML file, or KEY=VALUE for one parameter"
        ) from None
    except OSError as err:
        raise Rejected(f"cannot read {path}: {(err.strerror or str(err)).lower()}", code="link.bad_parameters") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise Rejected(f"{path} is not TOML: {err}", code="link.bad_parameters") from err
    except (RecursionError, ValueError) as err:  # the parser's own limits: depth, and digits of a number
        raise Rejected(f"{path} is nested too deep, or has too long a number", code="link.bad_parameters") from err


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
