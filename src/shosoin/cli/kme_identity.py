"""``shosoin kme reload`` and ``shosoin kme audit-log``: a KME on this machine, by its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

__all__ = ["audit_log", "certificate_lines", "reload", "require_taken"]

KmeConfigOption = Annotated[Path, typer.Option("--config", metavar="FILE", help="Its config.toml.", exists=True)]


def reload(
    config: KmeConfigOption,
    timeout_s: Annotated[float, typer.Option("--timeout", metavar="S", help="How long to wait for its answer.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Have a running KME read certificates, keys and revocation lists now.

    Exits 2 if it goes on with old files because the new ones are wrong.
    """
    from shosoin.services.kme_reload import reload_kme

    answer = reload_kme(config, timeout_s)
    if as_json:
        print_json(answer)
    else:
        print_lines(certificate_lines(answer))
    require_taken(answer)


def audit_log(
    config: KmeConfigOption,
    verify: Annotated[bool, typer.Option("--verify", help="Check the whole chain, and print no entries.")] = False,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HASH", help="Check that an entry with this hash is there.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print what administrators did, or check that the record is whole.

    Exits 6 if it is not. A record that was cut short or written anew shows with a head that was kept elsewhere.
    """
    from shosoin.adapters.admin_log import read_entries, verify_log
    from shosoin.services.admin_api import ADMIN_LOG_FOLDER
    from shosoin.services.kme_config import load_kme_config

    folder = load_kme_config(config).kme.directory / ADMIN_LOG_FOLDER
    if verify or head is not None:
        report = verify_log(folder, head=head or "")
        answer: dict[str, Any] = {"first": report.first, "last": report.last, "head": report.head}
        words = text("kme.log_whole" if report.last else "kme.log_empty", **answer)
        print_json({"whole": True, **answer}) if as_json else print_lines([words])
    elif as_json:
        print_json({"entries": list(read_entries(folder))})
    else:
        print_lines(_entry_line(entry) for entry in read_entries(folder))


def certificate_lines(answer: Mapping[str, Any]) -> list[str]:
    """Return what a KME uses, for people."""
    titles = [text("kme.endpoint"), text("kme.valid_until"), text("kme.revocation_list")]
    rows = [[name, each["valid_until"], _listed(each)] for name, each in answer["endpoints"].items()]
    return [*columns(titles, rows), *_warnings(answer)]


def require_taken(answer: Mapping[str, Any]) -> None:
    """Check that a KME took what it found.

    Raises:
        Rejected: it goes on with something old.
    """
    refused = list(_warnings(answer))
    if refused:
        raise Rejected(f"{len(refused)} things on disk are not in use", code="kme.files_refused", hint="see above")


def _listed(endpoint: Mapping[str, Any]) -> str:
    if not endpoint["crl"]:
        return text("kme.no_list")
    count, soonest = (
        sum(each["revoked"] for each in endpoint["crl"]),
        min(each["next_update"] for each in endpoint["crl"]),
    )
    return text("kme.listed", count=count, next_update=soonest)


def _warnings(answer: Mapping[str, Any]) -> Iterator[str]:
    for name, each in answer["endpoints"].items():
        if each["refused_files"]:
            yield text("kme.refused_files", endpoint=name, reason=each["refused_files"])
        for reason in each["refused_crl"]:
            yield text("kme.refused_list", endpoint=name, reason=reason)
    if answer["revoked"]["refused_file"]:
        yield text("kme.refused_names", reason=answer["revoked"]["refused_file"])


def _entry_line(entry: Mapping[str, Any]) -> str:
    from shosoin.base.foreign_text import printable_text

    parts = (entry.get(name, "") for name in ("number", "time", "who", "call", "on", "result", "code"))
    return "  ".join(printable_text(str(part)) for part in parts if part != "")
