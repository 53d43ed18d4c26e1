"""``shosoin kme burn``, ``heal``, ``rekey``, ``new-secret`` and ``lift``: the life of what two KMEs share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.common import run_whole, talk
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.keys.burning import Holding
    from shosoin.services.kme_config import KmeConfig
    from shosoin.services.kme_pairs import Burned

__all__ = ["add_secret_commands", "confirm"]

KmeConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="Its config.toml.", exists=True)]
PeerOption = Annotated[str, typer.Option("--peer", metavar="KME", help="The KME at the other end.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

_GRANULE_BITS = 256


def add_secret_commands(app: typer.Typer) -> None:
    """Add the commands to those of ``shosoin kme``."""
    app.command()(burn)
    app.command()(heal)
    app.command()(rekey)
    app.command("new-secret")(new_secret)
    app.command()(lift)


def burn(
    config: KmeConfigOption,
    peer: PeerOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Destroy all stock shared with one KME.

    The KME must stand still. Its end is burned at once; the other end burns when the two meet next, whatever happens in
    between. Keys that were drawn and not yet fetched are lost. The pair goes on with new blocks.
    """
    from shosoin.services.kme_pairs import burn as burn_pair

    found = _config(config)
    _burn(found, lambda dry_run: burn_pair(found, peer, dry_run=dry_run), yes=yes, dry_run=dry_run, as_json=as_json)


def heal(
    config: KmeConfigOption,
    keep_secrets: Annotated[
        bool, typer.Option("--keep-secrets", help="Let the pairs open again under their present secrets.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Destroy all stock shared with anyone, after a break-in at this site.

    As `burn` for every pair. Whoever was here knows the pair secrets too: the other ends are told to burn, and apart
    from that a pair stays closed until it is re-keyed at both ends (`rekey`).
    """
    from shosoin.services.kme_pairs import heal as heal_kme

    found = _config(config)
    if not as_json:
        talk(text("kme.rekey_all"))

    def action(dry_run: bool) -> Burned:
        return heal_kme(found, dry_run=dry_run, keep_secrets=keep_secrets)

    _burn(found, action, yes=yes, dry_run=dry_run, as_json=as_json)


def _burn(config: KmeConfig, action: Callable[[bool], Burned], *, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Say what would be burned, ask, and burn.

    Raises:
        StreamRefused: a journal cannot be read; all others are burned then, and told.
    """
    done = action(True)
    if not dry_run:
        confirm(text("kme.burn_ask", peers=", ".join(done.held), bits=_bits(done.held)), yes=yes)
        done = run_whole(lambda: action(False))
    if as_json:
        print_json({"kme": config.kme.id, "dry_run": dry_run, **_burned_json(done)})
    else:
        message = "kme.would_burn" if dry_run else "kme.burned"
        print_lines(text(message, peer=peer, **_holding_json(one)) for peer, one in done.held.items())
    if done.refused:
        raise next(iter(done.refused.values()))


def _burned_json(done: Burned) -> dict[str, Any]:
    pairs = [{"peer": peer, **_holding_json(one)} for peer, one in done.held.items()]
    return {"pairs": pairs, "refused": {peer: err.message for peer, err in done.refused.items()}}


def rekey(
    config: KmeConfigOption,
    peer: PeerOption,
    secret: Annotated[
        Path, typer.Option("--secret", metavar="FILE", help="The new pair secret, made with `new-secret`.", exists=True)
    ],
    discard_damaged: Annotated[
        bool, typer.Option("--discard-damaged", help="Throw the pair's old state away if it cannot be read.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a new pair secret in the place of the old one, and burn all that the old pair had.

    The KME must stand still. Do the same with the same file at the other end; until then the pair refuses. The old
    secret is overwritten, and can never be used for this pair again. Whoever was interrupted repeats the command.
    """
    from shosoin.services.kme_pairs import rekey as rekey_pair

    found = _config(config)
    done = rekey_pair(found, peer, secret, dry_run=True, discard_damaged=discard_damaged)
    if not dry_run:
        bits = _bits({peer: done.held})
        confirm(text("kme.rekey_ask", peer=peer, bits=bits), yes=yes or done.was_installed)
        done = run_whole(lambda: rekey_pair(found, peer, secret, dry_run=False, discard_damaged=discard_damaged))
    if as_json:
        burned = {"burned": {} if done.was_installed else _holding_json(done.held), "discarded": done.discarded}
        state = {"installed_before": done.was_installed, "dry_run": dry_run}
        print_json({"kme": found.kme.id, "peer": peer, **state, **burned})
        return
    message = "kme.rekeyed_before" if done.was_installed else "kme.would_rekey" if dry_run else "kme.rekeyed"
    print_lines([text(message, peer=peer, bits=_bits({peer: done.held}), file=secret)])


def lift(config: KmeConfigOption, peer: PeerOption, as_json: JsonOption = False) -> None:
    """Let a link that an alarm has suspended make keys again.

    The KME must stand still; while it runs, `shosoin kme admin lift` does the same. Find and remove the cause first.
    The other end is lifted there.
    """
    from shosoin.services.kme_pairs import lift as lift_link

    found = _config(config)
    code = lift_link(found, peer)
    if as_json:
        print_json({"kme": found.kme.id, "peer": peer, "was_suspended": bool(code), "code": code})
    else:
        print_lines([text("kme.lifted" if code else "kme.not_suspended", peer=peer, code=code)])


def new_secret(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; nothing is overwritten.")],
    as_json: JsonOption = False,
) -> None:
    """Make a pair secret: 1024 random bytes, in a file that only you can read."""
    from shosoin.services.kme_pairs import make_secret

    make_secret(file)
    if as_json:
        print_json({"file": str(file)})
    else:
        print_lines([text("kme.secret_made", file=file)])


def _config(path: Path) -> KmeConfig:
    from shosoin.services.kme_config import load_kme_config

    return load_kme_config(path)


def _bits(held: Mapping[str, Holding]) -> int:
    return sum(one.granules for one in held.values()) * _GRANULE_BITS


def _holding_json(held: Holding) -> dict[str, Any]:
    return {"blocks": held.blocks, "bits": held.granules * _GRANULE_BITS}


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed.

    Raises:
        Rejected: nobody is there to be asked.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Rejected("this destroys keys, and nobody can be asked", code="cli.usage", hint="add --yes")
    typer.confirm(question, abort=True, err=True)
