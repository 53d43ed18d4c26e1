"""The Python examples of the guide, run as they stand there."""

from __future__ import annotations

import doctest
from pathlib import Path

from scripts.check_docs import split_fences

PAGE = Path(__file__).parents[3] / "docs" / "guides" / "link.md"


def test_the_python_examples_of_the_guide_give_what_they_show():
    blocks = [body for _, info, body in split_fences(PAGE.read_text())[1] if info == "python"]
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 10
    told: list[str] = []
    results = doctest.DocTestRunner().run(test, out=told.append)
    assert results.failed == 0, "".join(told)
