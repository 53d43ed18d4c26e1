"""``shosoin conform``: whether a KME keeps to ETSI GS QKD 014."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from shosoin.base import PeerFault, Rejected
from shosoin.base.messages import text
from shosoin.cli.common import talk
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shosoin.conform import Caller, Check, Finding, Report, Session

__all__ = ["conform"]


def conform(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="The master's KME: https://HOST[:PORT].")] = None,
    slave: Annotated[str | None, typer.Option("--slave", metavar="SAE_ID", help="The SAE at the other end.")] = None,
    certificate: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="The master SAE's certificate (PEM).")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Its private key (PEM).")] = None,
    ca: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="The authority that issued the KMEs' certificates.")
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option("--server-name", metavar="NAME", help="Name in the KME's certificate, if not its host."),
    ] = None,
    slave_url: Annotated[
        str | None, typer.Option("--slave-url", metavar="URL", help="The slave's KME; the same as URL by default.")
    ] = None,
    slave_certificate: Annotated[
        Path | None, typer.Option("--slave-cert", metavar="FILE", help="The slave SAE's certificate: checks dec_keys.")
    ] = None,
    slave_key: Annotated[Path | None, typer.Option("--slave-key", metavar="FILE", help="Its private key.")] = None,
    slave_ca: Annotated[
        Path | None, typer.Option("--slave-ca", metavar="FILE", help="Authority of its KME, if it is another.")
    ] = None,
    slave_server_name: Annotated[
        str | None, typer.Option("--slave-server-name", metavar="NAME", help="As --server-name, for the slave's KME.")
    ] = None,
    stranger_certificate: Annotated[
        Path | None,
        typer.Option(
            "--stranger-cert", metavar="FILE", help="Certificate of a third SAE at the slave's KME: must get nothing."
        ),
    ] = None,
    stranger_key: Annotated[
        Path | None, typer.Option("--stranger-key", metavar="FILE", help="Its private key.")
    ] = None,
    testbed: Annotated[
        Path | None,
        typer.Option("--testbed", metavar="DIR", help="Check the KMEs of this testbed; replaces all of the above."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help="Checks to run, as 'enc_keys.*'; repeatable.")
    ] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Also checks that wait for up to 45 seconds.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="How long to wait for keys at a 503.")
    ] = 10.0,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the checks with their clauses.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check any vendor's KME against ETSI GS QKD 014 V1.1.1, from outside.

    Uses up some hundreds of keys between two SAEs: take SAEs that are there for tests. Every line names the clause
    behind it; what no clause asks for but clients or security need is a warning. Exits 5 if the KME does not conform.
    """
    from shosoin.conform import chosen

    checks = chosen(only or [])
    if list_only:
        _list(checks, as_json)
        return
    if testbed is not None:
        session = _of_testbed(testbed)
    else:
        there = slave_url or url, slave_ca or ca, slave_server_name or (None if slave_url else server_name)
        session = _of_options(
            _Options(url, ca, server_name, certificate, key),
            slave,
            _Options(*there, slave_certificate, slave_key),
            _Options(*there, stranger_certificate, stranger_key),
        )
    session.wait_s, session.slow = wait, slow
    _check(session, checks, as_json)


class _Options(NamedTuple):
    """What the command line says of one caller."""

    url: str | None
    ca: Path | None
    server_name: str | None
    certificate: Path | None
    key: Path | None


def _of_options(master: _Options, slave_sae: str | None, slave: _Options, stranger: _Options) -> Session:
    from shosoin.conform import Session

    caller = _caller(master)
    if caller is None or slave_sae is None:
        raise Rejected(
            "conform takes the URL of a KME, --slave, --cert, --key and --ca",
            code="cli.usage",
            hint=text("conform.usage_hint"),
        )
    return Session(
        master=caller, slave_sae=slave_sae, slave=_maybe(slave, "--slave"), stranger=_maybe(stranger, "--stranger")
    )


def _maybe(options: _Options, who: str) -> Caller | None:
    """Return a caller whom the checks can do without."""
    if (options.certificate is None) != (options.key is None):
        raise Rejected(f"{who}-cert and {who}-key go together", code="cli.usage")
    return _caller(options)


def _caller(options: _Options) -> Caller | None:
    """Return a caller if everything that it takes is given."""
    from shosoin.conform import Caller, Identity

    url, ca, server_name, certificate, key = options
    if url is None or ca is None or certificate is None or key is None:
        return None
    return Caller(url, ca, Identity(certificate, key), server_name=server_name)


def _of_testbed(root: Path) -> Session:
    """Return a session of a testbed's first owner with the node of another site, and of a third one as the stranger."""
    from shosoin.conform import Caller, Identity, Session
    from shosoin.testbed.layout import HOST, Layout, ProcessRole

    layout = Layout.load(root)
    ca, _ = layout.authority("sae")
    owner = layout.scenario.owner(None)
    home, (other, third, *_) = (
        layout.scenario.site(owner.site),
        [site for site in layout.scenario.sites if site.name != owner.site],
    )

    def caller(at: str, kme_id: str, certificate: Path) -> Caller:
        url = f"https://{HOST}:{layout.process(at, ProcessRole.KME).port}"
        return Caller(url, ca, Identity(certificate, certificate.with_suffix(".key")), server_name=kme_id)

    def node(site: str) -> Path:
        return layout.process(site, ProcessRole.NODE).directory / "sae.crt"

    return Session(
        master=caller(home.name, home.kme_id, layout.owner_directory(owner.id) / "owner.crt"),
        slave_sae=other.node_id,
        slave=caller(other.name, other.kme_id, node(other.name)),
        stranger=caller(other.name, other.kme_id, node(third.name)),
    )


def _check(session: Session, checks: Sequence[Check], as_json: bool) -> None:
    """Run the checks and say what came of them.

    Raises:
        PeerFault: the KME does not conform.
    """
    from shosoin.conform import run_checks

    try:
        report = run_checks(session, checks, (lambda _: None) if as_json else _show)
    finally:
        session.close()
    _tell(report, session.master_sae, session.slave_sae, as_json)
    if not report.conforms:
        raise PeerFault("the KME does not conform to ETSI GS QKD 014 V1.1.1", code="conform.not_conforming")


def _list(checks: Sequence[Check], as_json: bool) -> None:
    if as_json:
        names = ("name", "clause", "level", "statement")
        print_json({"checks": [{name: str(getattr(check, name)) for name in names} for check in checks]})
        return
    headings = tuple(text(f"conform.{heading}") for heading in ("check", "clause", "level", "statement"))
    print_lines(columns(headings, [(c.name, c.clause or "-", c.level.value, c.statement) for c in checks]))


def _show(finding: Finding) -> None:
    """Print one finding as it comes."""
    check = finding.check
    print_lines([f"{text(f'conform.{finding.outcome.value}'):<5} {check.name:<44} {check.clause or '-'}"])
    if finding.seen:
        print_lines([f"      {check.statement}", f"      {text('conform.seen', seen=finding.seen)}"])


def _tell(report: Report, master: str, slave: str, as_json: bool) -> None:
    from shosoin.conform import Outcome

    counts = {outcome.value: report.counts[outcome] for outcome in Outcome}
    if as_json:
        print_json(
            {
                "standard": "ETSI GS QKD 014 V1.1.1",
                "master_SAE_ID": master,
                "slave_SAE_ID": slave,
                "conforms": report.conforms,
                "counts": counts,
                "findings": [finding.to_json() for finding in report.findings],
            }
        )
        return
    print_lines([text("conform.summary", **{name: str(count) for name, count in counts.items()})])
    if counts["skipped"]:
        talk(text("conform.skipped_hint"))
