"""TOML tables read into frozen dataclasses: every key known, typed and in range, every mistake named.

>>> from dataclasses import dataclass
>>> from pathlib import Path
>>> @dataclass(frozen=True)
... class Api:
...     host: str
...     port: int = 443
>>> Sections(Path("node.toml")).read(Api, "node.api", {"host": "127.0.0.1"})
Api(host='127.0.0.1', port=443)
>>> Sections(Path("node.toml")).read(Api, "node.api", {"hots": "127.0.0.1"})
Traceback (most recent call last):
...
shosoin.base.errors.Rejected: node.toml: unknown key 'hots' in [node.api]; did you mean 'host'?

Fields may be ``str``, ``bool``, ``int``, ``float`` (also written as a whole number) or ``Path`` (relative to the file);
``None`` beside one of them means that it need not be there.
Numbers are never negative. A subclass of ``str`` that checks itself (``SiteId``) may be a field too.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from shosoin.base import Rejected
from shosoin.base.foreign_text import printable_text

__all__ = ["Sections", "load_toml"]

T = TypeVar("T")
_FILE_BYTES_MAX = 1 << 20
_NUMBER_MAX = (1 << 63) - 1


def load_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        Rejected: it cannot be read or is not TOML.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_FILE_BYTES_MAX + 1)
        if len(raw) > _FILE_BYTES_MAX:
            raise Rejected(f"{path} is longer than {_FILE_BYTES_MAX} bytes", code="config.unreadable")
        return tomllib.loads(raw.decode())
    except OSError as err:
        raise Rejected(f"cannot read {path}: {err.strerror}", code="config.unreadable") from err
    except (ValueError, RecursionError) as err:  # a number of thousands of digits is a plain ValueError
        raise Rejected(f"{path} is not TOML: {printable_text(str(err))}", code="config.unreadable") from err


@dataclass(frozen=True, slots=True)
class Sections:
    """Reads the tables of one file."""

    origin: Path

    def table(self, parent: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
        """Return a table that must be there."""
        value = parent.get(name)
        if not isinstance(value, dict):
            raise self.wrong(f"[{where}] is missing or not a table")
        return value

    def tables(self, parent: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        """Return an array of tables, empty if it is absent."""
        value = parent.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(f"[[{name}]] must be an array of tables")
        return value

    def only(self, found: Mapping[str, Any], known: Collection[str], where: str) -> None:
        """Refuse keys that mean nothing here."""
        for name in found:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
                raise self.wrong(f"unknown key {name!r} in {where}; {meant}")

    def read(self, kind: type[T], name: str, found: Mapping[str, Any]) -> T:
        """Read a table into its dataclass.

        Raises:
            Rejected: a key is unknown, missing, or has the wrong type.
        """
        declared = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
        types = get_type_hints(kind)
        self.only(found, declared, f"[{name}]")
        values = {}
        for key, item in declared.items():
            if key in found:
                values[key] = self._value(f"[{name}] {key}", _present(types[key]), found[key])
            elif item.default is MISSING and item.default_factory is MISSING:
                raise self.wrong(f"[{name}] lacks {key!r}")
        return kind(**values)

    def _value(self, where: str, declared: type[Any], value: Any) -> Any:
        if declared is Path and isinstance(value, str) and "\0" not in value:
            return (self.origin.parent / value).resolve()
        if declared in {int, float} and type(value) in {int, declared}:
            if not 0 <= value <= _NUMBER_MAX:
                raise self.wrong(f"{where} must be zero or more, got {str(value)[:40]}")
            return declared(value)
        if declared is bool and isinstance(value, bool):
            return value
        if declared not in {bool, int, float, Path} and isinstance(value, str):
            try:
                return declared(value)
            except Rejected as err:
                raise self.wrong(f"{where}: {err.message}") from err
        raise self.wrong(f"{where} must be {_WORDS.get(declared, 'text')}, got {repr(value)[:80]}")

    def wrong(self, message: str) -> Rejected:
        """Return an error that names the file."""
        return Rejected(f"{self.origin}: {message}", code="config.bad_value")


def _present(declared: Any) -> type[Any]:
    """Return the type of a value that is there."""
    kinds = [each for each in get_args(declared) if each is not NoneType]
    return kinds[0] if kinds else declared  # type: ignore[no-any-return]  # no union


_WORDS: dict[type[Any], str] = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}
