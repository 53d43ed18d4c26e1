"""``shosoin kme admin``: what administrators ask of a KME, here or elsewhere, under their own certificate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from shosoin.base import Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.kme_identity import certificate_lines, require_taken
from shosoin.cli.kme_secrets import confirm
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.adapters.admin_client import AdminClient

__all__ = ["app"]

app = typer.Typer(help="Administer a KME.", rich_markup_mode=None)


@app.callback()
def group(
    context: typer.Context,
    certificate: Annotated[
        Path,
        typer.Option("--certificate", metavar="FILE", envvar="SHOSOIN_ADMIN_CERTIFICATE", help="Yours, in PEM."),
    ],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", envvar="SHOSOIN_ADMIN_KEY", help="Its private key.")],
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="The KME's config.toml, if it is here.", exists=True),
    ] = None,
    url: Annotated[str | None, typer.Option("--url", metavar="URL", help="Else https://HOST:PORT of the KME.")] = None,
    kme: Annotated[str | None, typer.Option("--kme", metavar="ID", help="With --url: the KME's id.")] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="With --url: the administrators' authority.")
    ] = None,
) -> None:
    """Administer a KME over its [admin] interface."""
    context.obj = lambda: _client(certificate, key, config, url, kme, ca)


@app.command()
def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show whether the KME is of use."""
    answer = _ask(context, "GET", "status")
    words = [f"{name}: {value}" for name, value in answer.items() if not isinstance(value, dict | list)]
    reasons = [f"{each['code']}: {each['message']}" for each in answer["reasons"]]
    _print(answer, [*words, *reasons], as_json)


@app.command()
def links(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show the state of every link."""
    _table(_ask(context, "GET", "links"), "links", as_json)


@app.command()
def pairs(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show the stock of every pair, and whether it is paused."""
    _table(_ask(context, "GET", "pairs"), "pairs", as_json)


@app.command()
def saes(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show every SAE and whether it is revoked."""
    _table(_ask(context, "GET", "saes"), "saes", as_json)


@app.command()
def interfaces(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show connections, answers and refusals of the interfaces for SAEs, and the workers."""
    answer = _ask(context, "GET", "interfaces")
    lines = ["  ".join([name, *_words(state), *_answers(state)]) for name, state in answer["interfaces"].items()]
    lines += ["  ".join(["worker", *_words(each)]) for each in (answer["workers"] or {}).get("each", ())]
    _print(answer, lines, as_json)


@app.command()
def certificates(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show certificates and revocation lists in use."""
    answer = _ask(context, "GET", "certificates")
    _print(answer, certificate_lines(answer), as_json)


@app.command()
def reload(context: typer.Context, as_json: JsonOption = False) -> None:
    """Have the KME read certificates, keys and revocation lists now (operator).

    Exits 2 if it goes on with old files because the new ones are wrong.
    """
    answer = _ask(context, "POST", "reload", {})
    _print(answer, certificate_lines(answer), as_json)
    require_taken(answer)


@app.command()
def stop(
    context: typer.Context,
    drain_s: Annotated[
        float, typer.Option("--drain", metavar="S", min=0, max=3600, help="Seconds in which SAEs are still served.")
    ] = 0.0,
    as_json: JsonOption = False,
) -> None:
    """Make the KME unready at once, and stop it later (operator)."""
    answer = _ask(context, "POST", "stop", {"drain_s": drain_s})
    _print(answer, [text("kme.stops", seconds=f"{answer['stops_in_s']:g}")], as_json)


@app.command()
def pause(context: typer.Context, peer: Annotated[str, typer.Argument()], as_json: JsonOption = False) -> None:
    """Hand out no key of the pair with a peer KME until resumed (operator)."""
    answer = _ask(context, "POST", f"pairs/{_segment(peer)}/pause", {})
    _print(answer, [text("kme.paused", peer=peer)], as_json)


@app.command()
def resume(context: typer.Context, peer: Annotated[str, typer.Argument()], as_json: JsonOption = False) -> None:
    """Hand out keys of the pair with a peer KME again (operator)."""
    answer = _ask(context, "POST", f"pairs/{_segment(peer)}/resume", {})
    _print(answer, [text("kme.resumed", peer=peer)], as_json)


@app.command()
def revoke(
    context: typer.Context,
    sae: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Refuse an SAE from now on, and end its connections (security)."""
    answer = _ask(context, "POST", f"saes/{_segment(sae)}/revoke", {"reason": reason} if reason else {})
    _print(answer, [text("kme.revoked", sae=sae, count=answer["connections_ended"])], as_json)


@app.command()
def burn(
    context: typer.Context,
    peer: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Destroy all stock shared with a peer KME, while this one runs (security).

    As `shosoin kme burn`, which is for a KME that stands still.
    """
    path, more = f"pairs/{_segment(peer)}/burn", {"reason": reason} if reason else {}
    answer = _ask(context, "POST", path, {"dry_run": True, **more})
    if not dry_run:
        confirm(text("kme.burn_ask", peers=peer, bits=answer["bits"]), yes=yes)
        answer = _ask(context, "POST", path, more)
    message = "kme.would_burn" if dry_run else "kme.burned"
    _print(answer, [text(message, peer=peer, blocks=answer["blocks"], bits=answer["bits"])], as_json)


@app.command()
def lift(
    context: typer.Context,
    peer: Annotated[str, typer.Argument()],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="For the record.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Let a link that an alarm has suspended make keys again, at this end (security).

    Find and remove the cause first. The other end is lifted there.
    """
    answer = _ask(context, "POST", f"links/{_segment(peer)}/lift", {"reason": reason} if reason else {})
    message = "kme.lifted" if answer["was_suspended"] else "kme.not_suspended"
    _print(answer, [text(message, peer=peer, code=answer["code"])], as_json)


def _client(
    certificate: Path, key: Path, config: Path | None, url: str | None, kme: str | None, ca: Path | None
) -> AdminClient:
    from shosoin.adapters.admin_client import AdminClient
    from shosoin.services.kme_config import load_kme_config

    if config is not None and url is None:
        found = load_kme_config(config)
        if found.admin is None:
            raise Rejected(f"{config} has no [admin]", code="admin.not_configured")
        port = found.admin.port or _port_in_use(found.kme.directory)
        return AdminClient(found.admin.host, port, found.kme.id, found.admin.client_ca, certificate, key)
    if config is not None or url is None or kme is None or ca is None:
        hint = "give --config FILE, or --url, --kme and --ca"
        raise Rejected("it is not clear which KME is meant", code="admin.no_kme", hint=hint)
    parts = urlsplit(url)
    try:
        port = parts.port or 443
    except ValueError as err:
        raise Rejected(f"{url!r} has no port number", code="admin.bad_url") from err
    if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
        raise Rejected(f"expected https://HOST:PORT, got {url!r}", code="admin.bad_url")
    return AdminClient(parts.hostname, port, kme, ca, certificate, key)


def _port_in_use(directory: Path) -> int:
    """Return the port that a KME took when it was free to choose."""
    try:
        return int(json.loads((directory / "ready").read_bytes())["admin_port"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise Unavailable(f"no KME with administration runs in {directory}", code="kme.not_running") from err


def _ask(context: typer.Context, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    client: AdminClient = context.obj()
    return client.ask(method, f"/v1/{path}", body)


def _segment(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def _table(answer: Mapping[str, Any], member: str, as_json: bool) -> None:
    _print(answer, ["  ".join([name, *_words(state)]) for name, state in answer[member].items()], as_json)


def _words(state: Mapping[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in state.items() if not isinstance(value, dict)]


def _answers(state: Mapping[str, Any]) -> list[str]:
    """Return one word for each method: answers by status, and the mean time."""
    return [
        f"{method}: "
        + ", ".join(f"{count} x {status}" for status, count in sorted(each["answers"].items()))
        + f" ({each['mean_ms']:g} ms)"
        for method, each in state["requests"].items()
    ]


def _print(answer: Mapping[str, Any], lines: list[str], as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        print_lines(lines)
