"""``shosoin evidence``: the owner's signed log of audits, deal checks and keyed checks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base import Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["app"]

app = typer.Typer(help="Check and show the owner's signed log of audits and checks.", no_args_is_help=True)
LogOption = Annotated[Path | None, typer.Option("--log", metavar="FILE", help="Use this log, not the owner's.")]
_SHOWN_KINDS = ("audit", "deal", "keyed check")


@app.command("verify")
def verify(
    log: LogOption = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="HEX", help="The owner's ML-DSA-65 public key, from elsewhere.")
    ] = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="N:HASH", help="A head noted earlier, which must be in the log.")
    ] = None,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that the log is whole: nothing changed, removed, added or moved.

    With --log and --key it needs nothing of the owner's. Prints the head: whoever notes it down can tell later whether
    the log was cut since. Exits 6 if the log is not what was written, 4 if its end is not signed.
    """
    from shosoin.vault.evidence import EvidenceHead, verify_lines

    path, known = (log, None) if log is not None else _of_owner(owner_config_path(testbed, owner, config))
    public_key = known if key is None else _bytes(key)
    try:
        wanted = None if head is None else EvidenceHead.parse(head)
    except ValueError as error:
        raise Rejected(str(error), code="cli.usage") from None
    with path.open("rb") as file:
        report = verify_lines(file, public_key, wanted)
    fingerprint = sha256(report.public_key).hexdigest()
    if as_json:
        print_json(
            {
                "owner": report.owner,
                "lines": report.lines,
                "head": str(report.head),
                "unsigned": report.unsigned,
                "key_sha256": fingerprint,
                "key_checked": public_key is not None,
                "first_wall_s": report.first_wall_s,
                "last_wall_s": report.last_wall_s,
            }
        )
    else:
        print_lines(
            [
                text("evidence.whole", lines=report.lines, owner=report.owner, first=_time(report.first_wall_s),
                     last=_time(report.last_wall_s)),
                text("evidence.key" if public_key is not None else "evidence.key_unchecked", fingerprint=fingerprint),
                text("evidence.head", head=report.head),
            ]
        )  # fmt: skip
    if report.unsigned:
        raise Unavailable(
            f"the last {report.unsigned} lines are not signed",
            code="cli.evidence_unsigned",
            hint="a crash while writing leaves this, and the next entry signs them; else somebody cut the log there",
        )


@app.command("show")
def show(
    name: Annotated[str | None, typer.Option("--object", metavar="NAME", help="Only what concerns this name.")] = None,
    log: LogOption = None,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what was checked, when and with what result. Run `evidence verify` first."""
    needs_owner = log is None or name is not None
    config = owner_config_path(testbed, owner, config) if needs_owner else None
    path = log if log is not None or config is None else _of_owner(config)[0]
    object_id = run_async(_object_id(config, name)) if name is not None and config is not None else None
    if path is None:
        raise Rejected("no log named", code="cli.usage")
    for told in _entries(path):
        if told["kind"] == "signature" or (object_id is not None and object_id not in json.dumps(told)):
            continue
        shown = told if object_id is None else _only(told, object_id)
        if as_json:
            print_json(shown)
        else:
            print_lines(_lines(shown))


async def _object_id(config: Path, name: str) -> str:
    async with vault_of(config) as vault:
        return str((await vault.stat(name)).listing.object_id)


def _of_owner(config: Path) -> tuple[Path, bytes]:
    """Return an owner's log and public key."""
    from shosoin.adapters.owner import EVIDENCE_NAME, load_owner_config
    from shosoin.vault.signing import OwnerSigner

    owner = load_owner_config(config)
    return owner.state / EVIDENCE_NAME, OwnerSigner(owner.signing_key.read_bytes()).public_key


def _bytes(given: str) -> bytes:
    try:
        return bytes.fromhex(given)
    except ValueError:
        raise Rejected("the key is not hexadecimal", code="cli.usage") from None


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    from shosoin.vault.evidence import read_line

    with path.open("rb") as file:
        for line in file:
            yield read_line(line.rstrip(b"\n"))[0]


def _only(told: dict[str, Any], object_id: str) -> dict[str, Any]:
    """Leave out the other objects of a batch."""
    if told["kind"] not in _SHOWN_KINDS:
        return told
    return told | {"objects": [row for row in told["objects"] if row[0] == object_id]}


def _lines(told: dict[str, Any]) -> list[str]:
    """Return an entry as lines: one for each object of a batch."""
    when, kind = _time(told["at"]), told["kind"]
    if kind not in _SHOWN_KINDS:
        rest = {name: value for name, value in told.items() if name not in {"v", "n", "prev", "at", "kind"}}
        return [f"{told['n']}  {when}  {kind}  {json.dumps(rest, ensure_ascii=False)[:200]}"]
    return [f"{told['n']}  {when}  {kind}  {row[0]} epoch {row[2]}  {_verdict(told, row)}" for row in told["objects"]]


def _verdict(told: dict[str, Any], row: list[Any]) -> str:
    from shosoin.vault.audit_batch import state_of

    if told["kind"] == "audit":
        states = {site: state_of(letter) for site, letter in zip(told["sites"], row[5], strict=True)}
    elif told["kind"] == "deal":
        states = {site: "ok" if site in row[4] else "left out" for site in told["sites"]}
    else:
        states = row[3]
    return ", ".join(f"{site} {state}" for site, state in states.items())


def _time(wall_s: float) -> str:
    return datetime.fromtimestamp(wall_s, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
