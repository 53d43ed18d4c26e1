"""``shosoin kme rotate-storage-key``: another secret over the storage key, or another storage key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.common import EXIT_INTERRUPTED, talk
from shosoin.cli.kme_secrets import DryRunOption, KmeConfigOption
from shosoin.cli.output import print_json, print_lines, progress, size_text
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.services.kme_config import KmeConfig
    from shosoin.services.kme_rotation import Rotated
    from shosoin.services.storage_key_config import StorageKeyChoice

__all__ = ["new_token_key", "rotate_storage_key"]


def rotate_storage_key(
    config: KmeConfigOption,
    new_config: Annotated[
        Path | None,
        typer.Option(
            "--new-config", metavar="FILE", help="A config.toml with the [kme.storage_key] to come.", exists=True
        ),
    ] = None,
    new_passphrase_file: Annotated[
        Path | None,
        typer.Option("--new-passphrase-file", metavar="FILE", help="Seal it under this passphrase.", exists=True),
    ] = None,
    new_key_file: Annotated[
        Path | None,
        typer.Option("--new-key-file", metavar="FILE", help="Seal it under this file, made if absent."),
    ] = None,
    reencrypt: Annotated[
        bool, typer.Option("--reencrypt", help="Make a new storage key, and re-encrypt everything stored.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Change what seals the storage key of a KME, or with --reencrypt the storage key itself, or both.

    The KME must stand still. It can be stopped at any moment; repeat it to finish. Until then the KME does not start.
    """
    from shosoin.services.kme_config import load_kme_config
    from shosoin.services.kme_rotation import Rotation

    found = load_kme_config(config)
    new = _new_choice(found, new_config, new_passphrase_file, new_key_file)
    with Rotation(found, new, reencrypt=reencrypt) as rotation:
        done = rotation.plan
        if not dry_run:
            _run(rotation, wanted=not as_json)
    if as_json:
        print_json({**_json(done), "dry_run": dry_run})
    else:
        print_lines(_lines(done, dry_run=dry_run, reconfigure=new is not None and new != found.storage_key))


def new_token_key(config: KmeConfigOption, as_json: JsonOption = False) -> None:
    """Make the AES key on the token that [kme.storage_key] names: 256 bits, and the token never gives it away."""
    from shosoin.services.kme_config import load_kme_config
    from shosoin.services.storage_key import make_token_key
    from shosoin.services.storage_key_config import TokenSection

    found = load_kme_config(config)
    make_token_key(found)
    choice = found.storage_key
    if isinstance(choice, TokenSection) and as_json:
        print_json({"token": choice.token, "key": choice.key})
    elif isinstance(choice, TokenSection):
        print_lines([text("kme.token_key_made", token=choice.token, key=choice.key)])


def _run(rotation: Any, *, wanted: bool) -> None:
    try:
        with progress(text("kme.reencrypting"), rotation.plan.block_bytes, wanted=wanted) as told:
            rotation.run(told or _ignore)
    except KeyboardInterrupt:
        talk(text("kme.rotation_stopped"))
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _ignore(_: int) -> None:
    """Tell nobody."""


def _new_choice(
    config: KmeConfig, new_config: Path | None, passphrase_file: Path | None, key_file: Path | None
) -> StorageKeyChoice | None:
    from shosoin.services.storage_key_config import FileSection, PassphraseSection

    if sum(given is not None for given in (new_config, passphrase_file, key_file)) > 1:
        raise Rejected("the --new options exclude each other", code="cli.usage")
    if passphrase_file is not None:
        return PassphraseSection("passphrase", passphrase_file=passphrase_file.resolve())
    if key_file is not None:
        return FileSection("file", key_file.resolve())
    return None if new_config is None else _choice_of(config, new_config)


def _choice_of(config: KmeConfig, path: Path) -> StorageKeyChoice:
    from shosoin.services.kme_config import load_kme_config

    new = load_kme_config(path)
    if (new.kme.id, new.kme.directory) != (config.kme.id, config.kme.directory):
        raise Rejected(
            f"{path} is for {new.kme.id} in {new.kme.directory}, not {config.kme.id} in {config.kme.directory}",
            code="config.other_kme",
        )
    return new.storage_key


def _json(done: Rotated) -> dict[str, Any]:
    return {
        "kme": done.kme,
        "source_before": done.source_before,
        "source": done.source,
        "reencrypted": done.reencrypts,
        "resumed": done.resumes,
        "stores": [
            {"name": name, "records": size.records, "blocks": size.blocks, "block_bytes": size.block_bytes}
            for name, size in done.stores.items()
        ],
        "overwritten": list(done.retires),
    }


def _lines(done: Rotated, *, dry_run: bool, reconfigure: bool) -> list[str]:
    tense = "would" if dry_run else "did"
    lines = [text("kme.rotation_resumed")] if done.resumes else []
    lines.append(text(f"kme.{tense}_seal", before=done.source_before, source=done.source))
    if done.reencrypts:
        lines.append(text(f"kme.{tense}_reencrypt", stores=len(done.stores), size=size_text(done.block_bytes)))
    lines += [text(f"kme.{tense}_overwrite", file=name) for name in done.retires]
    if reconfigure and not dry_run:
        lines.append(text("kme.reconfigure", source=done.source))
    return lines
