"""Check what prose promises: links resolve, code blocks parse, no file names a machine or a registry.

Looks at every file that git tracks or would track. Links inside the project must lead to a file, and to a heading of
it where they carry an anchor; links to elsewhere are not followed, since a check must not need a network. The index of
the documentation must link to every page beside it, and some page to every picture. ``python`` blocks must parse
(blocks with ``>>>`` are run by the test suite besides); ``console`` blocks must begin with a prompt, and a ``make``
target they call must exist.
"""

from __future__ import annotations

import ast
import doctest
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
CODE_SPAN = re.compile(r"(`+)(?:(?!\1).)+?\1")
EXPLICIT_ANCHOR = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")
TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)

# In pieces, so that this file passes its own check.
_HOSTS = ("pypi org", "pythonhosted org", "npmjs org", "npmjs com", "crates io", "deb debian org", "proxy golang org")
_FOLDERS = ("work", "farm", "root", "tmp", "home")
UNWANTED = {
    "a registry address": re.compile(
        "|".join(r"\b" + r"\.".join(host.split()) + r"\b" for host in _HOSTS), re.IGNORECASE
    ),
    "a path of one machine": re.compile(r"(?<![\w.}])/(?:" + "|".join(_FOLDERS) + r")/(?![$<{])[\w.]+"),
}


def project_files() -> list[Path]:
    """Return every file that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()})


def split_fences(text: str) -> tuple[list[tuple[int, str]], list[tuple[int, str, str]]]:
    """Return the lines of prose as (number, line), and the fenced blocks as (number, info string, body)."""
    prose: list[tuple[int, str]] = []
    blocks: list[tuple[int, str, str]] = []
    fence = info = ""
    start = 0
    body: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if not fence and match:
            fence, info, start, body = match[1], match[2].strip(), number, []
        elif fence and match and match[1].startswith(fence) and not match[2].strip():
            blocks.append((start, info, "\n".join(body) + "\n"))
            fence = ""
        elif fence:
            body.append(line)
        else:
            prose.append((number, line))
    if fence:
        blocks.append((start, "unclosed", ""))
    return prose, blocks


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page, made the way the common forges make them."""
    found: set[str] = set()
    for _, line in split_fences(path.read_text(encoding="utf-8"))[0]:
        found.update(EXPLICIT_ANCHOR.findall(line))
        if match := HEADING.match(line):
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower()
            base = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
            slug, count = base, 0
            while slug in found:
                count += 1
                slug = f"{base}-{count}"
            found.add(slug)
    return found


def bad_links(page: Path, prose: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the links of a page that lead nowhere inside the project."""
    for number, line in prose:
        for target in LINK.findall(CODE_SPAN.sub("", line)):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if not path.is_relative_to(ROOT) or not path.exists():
                yield number, f"link to {target}: no such file"
            elif anchor and path.suffix == ".md" and anchor not in anchors(path):
                yield number, f"link to {target}: no such heading"


def unlisted(index: Path, pages: Iterable[Path]) -> Iterator[Path]:
    """Yield the pages that an index does not link to, itself apart."""
    prose = split_fences(index.read_text(encoding="utf-8"))[0]
    targets = {target.partition("#")[0] for _, line in prose for target in LINK.findall(CODE_SPAN.sub("", line))}
    linked = {(index.parent / target).resolve() for target in targets if target}
    yield from (page for page in pages if page != index and page.resolve() not in linked)


def unshown(pages: Iterable[Path], files: Iterable[Path]) -> Iterator[Path]:
    """Yield the pictures that no page links to."""
    shown = {
        (page.parent / target).resolve()
        for page in pages
        for _, line in split_fences(page.read_text(encoding="utf-8"))[0]
        for target in LINK.findall(CODE_SPAN.sub("", line))
    }
    yield from (path for path in files if path.suffix == ".svg" and path.resolve() not in shown)


def python_fault(body: str) -> str | None:
    """Return why a ``python`` block does not parse, or None."""
    try:
        examples = doctest.DocTestParser().get_examples(body) if ">>>" in body else []
        for source in [example.source for example in examples] or [body]:
            ast.parse(source)
    except (SyntaxError, ValueError) as err:
        return f"python block does not parse: {err}"
    return None


def console_fault(body: str, targets: set[str]) -> str | None:
    """Return what is wrong with a ``console`` block, or None."""
    if not body.startswith(("$ ", "# ")):
        return "console block does not begin with a prompt"
    for line in re.sub(r"\\\n", " ", body).splitlines():
        if line.startswith("$ "):
            try:
                words = shlex.split(line[2:], comments=True)
            except ValueError as err:
                return f"command does not parse: {line}: {err}"
            if words[:1] == ["make"]:
                called = [word for word in words[1:] if "=" not in word and not word.startswith("-")]
                if missing := set(called) - targets:
                    return f"no make target {', '.join(sorted(missing))}"
    return None


def bad_blocks(blocks: list[tuple[int, str, str]], targets: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the fenced blocks that do not parse as what they say they are."""
    for number, info, body in blocks:
        language = info.split(" ", 1)[0]
        fault = None
        if language == "unclosed":
            fault = "fence is never closed"
        elif language == "python":
            fault = python_fault(body)
        elif language == "console":
            fault = console_fault(body, targets)
        if fault is not None:
            yield number, fault


def unwanted(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that name a machine or a registry."""
    for number, line in enumerate(text.splitlines(), 1):
        for what, pattern in UNWANTED.items():
            if match := pattern.search(line):
                yield number, f"{what}: {match[0]}"


def faults() -> Iterator[str]:
    """Yield every fault of the project's text, as ``file:line: what``."""
    targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
    files = project_files()
    index = ROOT / "docs" / "README.md"
    beside = [path for path in files if path.is_relative_to(index.parent)]
    for page in unlisted(index, [path for path in beside if path.suffix != ".svg"]):
        yield f"{index.relative_to(ROOT)}: does not name {page.relative_to(index.parent)}"
    for picture in unshown([path for path in files if path.suffix == ".md"], beside):
        yield f"{picture.relative_to(ROOT)}: no page shows it"
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or another binary; it has no lines to point at
        found = list(unwanted(text))
        if path.suffix == ".md":
            prose, blocks = split_fences(text)
            found += [*bad_links(path, prose), *bad_blocks(blocks, targets)]
        yield from (f"{path.relative_to(ROOT)}:{number}: {what}" for number, what in sorted(found))


def main() -> int:
    """Print every fault; return the exit code."""
    found = list(faults())
    for fault in found:
        print(fault)
    print(f"docs: {len(found)} faults" if found else "docs: links, code blocks and paths are sound")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
