"""The tables of the package: what the recipes give, free of short cycles, and never changed in silence."""

import hashlib
from importlib.resources import files

import pytest

from shosoin.link.reconciliation.code import code_from_text, code_named, code_to_text
from shosoin.link.reconciliation.construct import Recipe, build, four_cycles
from shosoin.link.reconciliation.recipes import RECIPES

# A table that changes makes two versions of the package disagree about every frame.
DIGEST = "666c2b19a253d6f806c686206d12a4a2bc6fb2f8c10adb44207962a277229ffe"

each_code = pytest.mark.parametrize("name", RECIPES)


def text_of(name: str) -> str:
    return files("shosoin.link.reconciliation.codes").joinpath(f"{name}.txt").read_text("ascii")


def test_the_tables_are_those_of_this_version_of_the_format():
    digest = hashlib.sha256()
    for name in sorted(RECIPES):
        digest.update(text_of(name).encode())
    assert digest.hexdigest() == DIGEST


@pytest.mark.parametrize("name", ["short-008", "short-014", "short-033", "short-076", "long-045"])
def test_the_recipe_gives_the_table(name):
    assert code_to_text(build(RECIPES[name])) == text_of(name)


@each_code
def test_a_table_has_the_degrees_of_its_recipe_even_rows_and_no_4_cycle(name):
    code, recipe = code_named(name), RECIPES[name]
    assert (code.name, code.rows, code.columns, code.lifting) == (name, recipe.rows, recipe.columns, recipe.lifting)
    columns, rows = [0] * code.columns, [0] * code.rows
    for row, column, _ in code.edges:
        columns[column] += 1
        rows[row] += 1
    assert {degree: columns.count(degree) for degree in set(columns)} == dict(recipe.degrees)
    assert max(rows) - min(rows) <= 1
    assert four_cycles(code) == 0


@pytest.mark.parametrize("name", ["short-008", "long-104", "long-240"])
def test_light_columns_form_one_cycle_through_the_whole_frame(name):
    code, pairs = code_named(name), RECIPES[name].degrees[2]
    of: dict[int, list[tuple[int, int]]] = {}
    for row, column, shift in code.edges:
        of.setdefault(column, []).append((row, shift))
    light = {column: edges for column, edges in of.items() if len(edges) == 2}
    at_row: dict[int, list[int]] = {}
    for column, edges in light.items():
        for row, _ in edges:
            at_row.setdefault(row, []).append(column)
    column = next(iter(light))
    (row, shift), _ = light[column]
    start, steps = (row, -shift % code.lifting), 0
    check = start
    while steps == 0 or check != start:
        (row_a, shift_a), (row_b, shift_b) = light[column]
        bit = (check[1] + (shift_a if row_a == check[0] else shift_b)) % code.lifting
        row, shift = (row_b, shift_b) if row_a == check[0] else (row_a, shift_a)
        check = (row, (bit - shift) % code.lifting)
        column = next(other for other in at_row[row] if other != column)
        steps += 1
    assert steps == pairs * code.lifting


@each_code
def test_no_two_untainted_columns_share_a_row_and_frames_end_without_light_columns(name):
    code = code_named(name)
    rows: dict[int, set[int]] = {column: set() for column in range(code.columns)}
    for row, column, _ in code.edges:
        rows[column].add(row)
    untainted = code.untainted_columns()
    assert sum(len(rows[column]) for column in untainted) == len(set().union(*(rows[c] for c in untainted)))
    assert all(len(rows[column]) > 2 for column in range(code.columns * 17 // 20, code.columns))


def test_four_cycles_are_found():
    code = code_from_text("shosoin-qc-ldpc-1 square 2 3 8\n0:1 1:3\n0:4 1:6\n0:2 1:3\n")
    assert four_cycles(code) == 1


def test_a_recipe_too_dense_for_its_lifting_is_refused():
    with pytest.raises(ValueError, match="no shift without"):
        build(Recipe("dense", 3, 4, {3: 9}))
    with pytest.raises(ValueError, match="more columns with two edges"):
        build(Recipe("chained", 3, 64, {2: 4, 3: 2}))


@pytest.mark.parametrize(
    "text",
    [
        "another-format x 1 1 8\n0:0\n",
        "shosoin-qc-ldpc-1 x 1 2 8\n0:0\n",
        "shosoin-qc-ldpc-1 x 1 1 8\n0:8\n",
        "shosoin-qc-ldpc-1 x 1 1 8\n1:0\n",
        "shosoin-qc-ldpc-1 x 1 1 8\n0:0 0:1\n",
    ],
)
def test_what_is_no_table_is_refused(text):
    with pytest.raises(ValueError, match=r"format|edge"):
        code_from_text(text)
