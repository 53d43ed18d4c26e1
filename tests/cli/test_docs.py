"""The console sessions in the documentation, run word for word; the reference page and the index, kept fresh."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripts.check_docs import unlisted, unshown

from shosoin.testbed.control import Testbed

ROOT = Path(__file__).parents[2]
PAGES = [
    "docs/start.md",
    "docs/guides/storing.md",
    "docs/guides/testbed.md",
    "docs/guides/labels.md",
    "docs/guides/link.md",
    "docs/guides/auditing.md",
    "docs/guides/conformance.md",
    "docs/guides/policies.md",
    "docs/guides/replacing-a-site.md",
]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
RULES = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
"""``...`` stands for anything, and columns may be wider than on the page."""
MARK = "--- the command above has ended ---"


@dataclass(frozen=True)
class Step:
    command: str
    expected: str


def steps_of(page: str) -> Iterator[Step]:
    """Yield the commands of a page with what it says that they print; ``> `` continues a command."""
    for block in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            command = [lines.pop(0)]
            while lines and (lines[0].startswith("> ") or lines[0] == ">"):
                command.append(lines.pop(0)[2:])
            yield Step("\n".join(command), "".join(f"{line}\n" for line in lines))


class Shell:
    """A shell that remembers its variables and the last exit code, as a terminal does."""

    def __init__(self, directory: Path) -> None:
        folder = directory / "bin"
        folder.mkdir()
        program = folder / "shosoin"
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m shosoin.cli "$@"\n')
        program.chmod(0o755)
        (folder / "python3").symlink_to(sys.executable)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SHOSOIN_", "LC_"))},
            "PATH": f"{folder}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "TMPDIR": str(directory),
        }
        self.process = subprocess.Popen(
            ["/bin/bash", "--noprofile", "--norc"],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\nlast=$?; echo; echo '{MARK}'; (exit $last)\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line.rstrip("\n") == MARK:
                break
            lines.append(line)
        said = "".join(lines)
        return said.removesuffix("\n") if said.endswith("\n\n") or said == "\n" else said

    def close(self) -> None:
        self.process.communicate(timeout=10)


@pytest.fixture
def shell(tmp_path):
    shell = Shell(tmp_path)
    yield shell
    shell.close()
    for made in tmp_path.glob("*/ports.json"):
        Testbed.load(made.parent).down(grace_s=1.0)


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_what_happens(shell, page):
    checker = doctest.OutputChecker()
    steps = list(steps_of(page))
    assert len(steps) >= 4
    for step in steps:
        said = shell.run(re.sub(r"^make demo$", "shosoin demo", step.command))
        example = doctest.Example(step.command, step.expected)
        if not checker.check_output(step.expected, said, RULES):
            pytest.fail(f"$ {step.command}\n{checker.output_difference(example, said, RULES)}")


def test_the_reference_page_is_fresh():
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "gen_cli_reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_index_that_forgets_a_page_is_noticed(tmp_path):
    index, named, forgotten = (tmp_path / name for name in ("README.md", "named.md", "forgotten.md"))
    for page in (named, forgotten):
        page.write_text("# Page\n")
    index.write_text("[a page](named.md#page), [elsewhere](https://example.org/forgotten.md), `[code](forgotten.md)`\n")
    assert list(unlisted(index, [index, named, forgotten])) == [forgotten]


def test_a_picture_that_no_page_shows_is_noticed(tmp_path):
    page, shown, forgotten = (tmp_path / name for name in ("page.md", "shown.svg", "forgotten.svg"))
    page.write_text("![a picture](shown.svg)\n")
    assert list(unshown([page], [page, shown, forgotten])) == [forgotten]
