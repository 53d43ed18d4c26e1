"""``shosoin put``: store a file."""

from __future__ import annotations

import contextlib
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import (
    alarm_line,
    columns,
    label_lines,
    print_json,
    print_lines,
    progress,
    seconds_text,
    size_text,
)
from shosoin.cli.owner import (
    AsOption,
    ConfigOption,
    JsonOption,
    TestbedOption,
    default_class,
    owner_config_path,
    vault_of,
)
from shosoin.cli.policy import verdict_lines

if TYPE_CHECKING:
    from shosoin.testbed.choice import Choice
    from shosoin.vault.client import Vault
    from shosoin.vault.receipts import PolicyInForce
    from shosoin.vault.scheme import Scheme

__all__ = ["TransferClass", "plan_lines", "put"]


class TransferClass(StrEnum):
    """How shares travel to their sites."""

    ITS = "its"
    QKD = "qkd"
    PQC = "pqc"
    AUTO = "auto"


def put(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to store; - is standard input.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name in the vault.")],
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    scheme: Annotated[
        str | None,
        typer.Option(metavar="K-of-N", help="Any K of N sites give it back; the owner's default if left out."),
    ] = None,
    class_: Annotated[
        TransferClass | None,
        typer.Option(
            "--class", help="its: one-time pads. qkd: AES under QKD keys. pqc: post-quantum. auto: its, else qkd."
        ),
    ] = None,
    content_type: Annotated[
        str | None, typer.Option(metavar="TYPE", help="Media type; guessed from FILE if left out.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would cost and be; nothing is sent.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Store a file.

    Returns when enough sites hold it durably. An object of the same name is replaced by a new version. With --dry-run,
    exits 2 if the policy would refuse it.
    """
    from shosoin.vault.naming import checked_type
    from shosoin.vault.scheme import Scheme

    request = _Request(
        file=file,
        name=name,
        config=owner_config_path(testbed, owner, config),
        scheme=None if scheme is None else Scheme.parse(scheme),
        class_=None if class_ is None else class_.value,
        content_type=None if content_type is None else checked_type(content_type),
        as_json=as_json,
    )
    run_async(request.plan() if dry_run else request.put())


class _Request:
    """One put, with its arguments checked."""

    def __init__(
        self,
        *,
        file: str,
        name: str,
        config: Path,
        scheme: Scheme | None,
        class_: str | None,
        content_type: str | None,
        as_json: bool,
    ) -> None:
        self.file = file
        self.name = name
        self.config = config
        self.scheme = scheme
        self.class_ = class_
        self.content_type = content_type
        self.as_json = as_json
        self.size_bytes = None if file == "-" else Path(file).stat().st_size
        if file != "-" and not Path(file).is_file():
            raise Rejected(f"{file} is not a regular file", code="cli.not_a_file", hint=text("cli.put_not_a_file_hint"))

    async def plan(self) -> None:
        """Say what a put would cost, and how its policy would fare."""
        from shosoin.cli.answers import foreseen_json, plan_json

        async with vault_of(self.config) as vault:
            choice = await self._choice(vault)
            foreseen = foreseen_json(await vault.foresee(self.name, scheme=self.scheme, class_=choice.class_))
        if self.as_json:
            print_json(plan_json(choice) | foreseen | {"size_bytes": self.size_bytes})
        else:
            print_lines([*plan_lines(choice), *_foreseen_lines(foreseen)])
        for verdict in foreseen["policy"]:
            if verdict["met"] is False:
                raise Rejected(
                    f"a put of {self.name!r} would be refused: the policy requires `{verdict['clause']}` "
                    f"but found {verdict['found']}",
                    code="vault.policy_refused",
                    hint=verdict["hint"],
                )

    async def put(self) -> None:
        """Store and print the receipt."""
        from shosoin.cli.answers import put_json

        async with vault_of(self.config) as vault:
            class_ = await self._class(vault)
            with (
                contextlib.closing(self._source()) as source,
                progress(text("cli.storing", name=self.name), self.size_bytes) as done,
            ):
                receipt = await vault.put(
                    source,
                    self.name,
                    scheme=self.scheme,
                    class_=class_,
                    content_type=self.content_type,
                    progress=done,
                )
        answer = put_json(receipt)
        for alarm in answer["alarms"]:
            talk(alarm_line(alarm))
        if self.as_json:
            print_json(answer)
        else:
            print_lines(_receipt_lines(answer))

    def _wanted(self, policy: PolicyInForce) -> str:
        """Return the class asked for; if none is, a policy that names a fallback makes it ``auto``."""
        if self.class_ is None and policy.names_fallback and self.size_bytes is not None:
            return "auto"
        return self.class_ or default_class(self.config)

    async def _choice(self, vault: Vault) -> Choice:
        from shosoin.testbed.choice import choose

        policy = vault.policy(self.name)
        return await choose(vault, self._known_size(), self.scheme, self._wanted(policy), order=policy.classes)

    async def _class(self, vault: Vault) -> str:
        wanted = self._wanted(vault.policy(self.name))
        if wanted != "auto":
            return wanted
        choice = await self._choice(vault)
        passed = ", else ".join(plan.class_ for plan in choice.considered)
        said = "put.class_fell_back" if choice.fell_back else "demo.class"
        talk(text(said, class_=choice.class_, order=passed))
        return choice.class_

    def _known_size(self) -> int:
        if self.size_bytes is None:
            raise Rejected(
                "the size of standard input is not known in advance",
                code="cli.unknown_size",
                hint=text("cli.size_hint"),
            )
        return self.size_bytes

    def _source(self) -> Any:
        if self.file == "-":
            from shosoin.cli.streams import StandardInput

            return StandardInput()
        from shosoin.adapters.owner import FileSource

        return FileSource(Path(self.file))


def plan_lines(choice: Choice) -> list[str]:
    """Return a key plan as lines."""
    plan = choice.plan
    rows = [
        (site, f"{needed:,}", f"{plan.stock_bits.get(site, 0):,}") for site, needed in sorted(plan.needed_bits.items())
    ]
    headings = (text("plan.site"), text("plan.needed_bits"), text("plan.stock_bits"))
    wait = text("plan.wait_unknown") if plan.wait_s is None else text("plan.wait", wait=seconds_text(plan.wait_s))
    verdict = text("plan.enough" if choice.enough else "plan.not_enough", class_=plan.class_)
    return [*columns(headings, rows), verdict, *([] if choice.enough else [wait])]


def _foreseen_lines(answer: dict[str, Any]) -> list[str]:
    """Return what a put would be, and how its policy would fare."""
    foreseen = answer["foreseen"]
    gap = foreseen["collusion_gap"]
    lines = [
        text(
            "policy.foreseen",
            class_=foreseen["class"],
            scheme=text("scheme.short", **foreseen["scheme"]),
            durable=foreseen["durable_at_most"],
        ),
        text(
            "policy.foreseen_number",
            number=foreseen["collusion_number"],
            names=", ".join(foreseen["collusion_set"]) or text("label.nobody"),
        ),
    ]
    return [*lines, *([text("policy.foreseen_gap", gap=gap)] if gap else []), *verdict_lines(answer["policy"])]


def _receipt_lines(answer: dict[str, Any]) -> list[str]:
    acknowledged, missing = answer["acknowledged"], answer["missing"]
    lines = [
        text(
            "put.stored",
            name=answer["name"],
            size=size_text(answer["size_bytes"]),
            seconds=seconds_text(answer["seconds"]),
        ),
        text("put.durable", durable_at=answer["durable_at"], sites=", ".join(acknowledged)),
        text("put.key_bits", bits=f"{sum(answer['key_bits_used'].values()):,}"),
    ]
    if missing:
        lines.append(text("put.missing", sites=", ".join(missing)))
        lines.append(text("put.repair", name=shlex.quote(answer["name"])))
    return [*lines, *label_lines(answer["label"])]
