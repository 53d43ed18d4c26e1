"""Which owner a command speaks for: one of a testbed's, or the one in a configuration file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text

if TYPE_CHECKING:
    from shosoin.vault.client import Vault

__all__ = ["AsOption", "ConfigOption", "JsonOption", "TestbedOption", "default_class", "owner_config_path", "vault_of"]

TestbedOption = Annotated[
    Path | None, typer.Option("--testbed", metavar="DIR", help="Use this testbed (or set SHOSOIN_TESTBED).")
]
AsOption = Annotated[
    str | None, typer.Option("--as", metavar="OWNER", help="Which owner of the testbed; the first one by default.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Use this owner.toml (or set SHOSOIN_CONFIG).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON object.")]


def owner_config_path(testbed: Path | None, owner: str | None, config: Path | None) -> Path:
    """Return the owner.toml to use.

    Raises:
        Rejected: nothing or two things were named, or no such testbed or owner.
    """
    if testbed is not None and config is not None:
        raise Rejected("--testbed and --config exclude each other", code="cli.two_owners")
    if testbed is None and config is None:
        testbed, config = _from_environment()
    if config is not None:
        if owner is not None:
            raise Rejected("--as goes with --testbed; a configuration names its owner itself", code="cli.two_owners")
        return config
    if testbed is None:
        raise Rejected("no owner named", code="cli.no_owner", hint=text("cli.no_owner_hint"))
    from shosoin.testbed.layout import Layout

    return Layout.load(testbed).owner_config(owner)


def _from_environment() -> tuple[Path | None, Path | None]:
    config, testbed = os.environ.get("SHOSOIN_CONFIG"), os.environ.get("SHOSOIN_TESTBED")
    if config:
        return None, Path(config)
    return (Path(testbed) if testbed else None), None


@asynccontextmanager
async def vault_of(config_path: Path) -> AsyncIterator[Vault]:
    """Open the vault of an owner."""
    from shosoin.adapters.owner import load_owner_config, open_vault

    async with open_vault(load_owner_config(config_path)) as vault:
        yield vault


def default_class(config_path: Path) -> str:
    """Return the transfer class that an owner's configuration asks for."""
    from shosoin.adapters.owner import load_owner_config

    return load_owner_config(config_path).class_
