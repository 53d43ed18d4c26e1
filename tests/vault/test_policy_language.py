"""The policy language: what it says is what is read, and what cannot be understood is refused with a way out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shosoin.vault.policies import Policies
from shosoin.vault.policy import BadPolicy, Clause, parse_policy

CLASSES = ["its", "qkd", "pqc"]
counts = st.integers(1, 16).map(str)
schemes = st.integers(2, 16).flatmap(lambda n: st.integers(2, n).map(lambda k: f"{k}-of-{n}"))
sites = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True).filter(
    lambda name: name not in {"and", "else", "in"}
)


def choices(subject: str, values: st.SearchStrategy[str], *relations: str) -> st.SearchStrategy[str]:
    def written(names: list[str], relation: str) -> str:
        if relation == "else" and len(names) > 1:
            return f"{subject} = {', else '.join(names)}"
        return f"{subject} in {', '.join(names)}" if len(names) > 1 else f"{subject} = {names[0]}"

    several = st.lists(values, min_size=1, max_size=3, unique=True)
    return st.builds(written, several, st.sampled_from(relations or ("in",)))


clauses = st.one_of(
    st.builds("collusion >= {}".format, counts),
    st.builds("durable >= {}".format, counts),
    st.just("durable = n"),
    st.builds(
        lambda value: f"epsilon <= {value!r}".replace("e-0", "e-"),
        st.floats(0, 1, exclude_min=True, allow_subnormal=False, allow_nan=False).filter(lambda value: value > 1e-300),
    ),
    st.builds("age <= {}{}".format, st.integers(1, 999_999), st.sampled_from(["s", "min", "h", "d", "w", "y"])),
    choices("class", st.sampled_from(CLASSES), "in", "else"),
    choices("scheme", schemes),
    choices("home", sites),
    st.sampled_from(["everlasting", "simulated = no", "deal checked", "freshness = proven"]),
)


@given(st.lists(clauses, min_size=1, max_size=6), st.booleans())
def test_what_is_read_says_what_was_written(written: list[str], on_one_line: bool) -> None:
    read = parse_policy((" and " if on_one_line else "\n").join(written))
    assert [str(clause) for clause in read] == written
    assert parse_policy("\n".join(map(str, read))) == read


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("collusion>=3", "collusion >= 3"),
        ("  collusion  >= 03 ", "collusion >= 3"),
        ("epsilon <= 1e-9", "epsilon <= 1e-9"),
        ("epsilon <= 0.5", "epsilon <= 0.5"),
        ("everlasting = yes", "everlasting"),
        ("deal checked = yes", "deal checked"),
        ("class = its , else qkd", "class = its, else qkd"),
        ("class in its", "class = its"),
        ("scheme = 3/5", None),
        ("age <= 1.5h", "age <= 1.5h"),
    ],
)
def test_other_spellings_have_one_normal_form(written: str, normal: str | None) -> None:
    if normal is None:
        with pytest.raises(BadPolicy):
            parse_policy(written)
    else:
        assert [str(clause) for clause in parse_policy(written)] == [normal]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("colusion >= 3", "`collusion`"),
        ("durability = n", "`durable`"),
        ("class = itz", "`its`"),
        ("everlasting = no", "`everlasting`"),
        ("simulated = yes", "`simulated = no`"),
        ("simulated", "`simulated = no`"),
        ("collusion = 3", "collusion >= VALUE"),
        ("collusion > 3", "collusion >= VALUE"),
        ("epsilon >= 1e-9", "epsilon <= VALUE"),
        ("class its", "class = A"),
        ("class = its, qkd", "class in A, B"),
        ("class = its else qkd", "class = A, else B"),
        ("collusion ≥ 3", "write >="),
        ("", "collusion >= 3"),
    ],
)
def test_a_mistake_is_answered_with_what_would_be_right(written: str, hint: str) -> None:
    with pytest.raises(BadPolicy) as refused:
        parse_policy(written)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    "written",
    [
        "epsilon <= nan",
        "epsilon <= NaN",
        "epsilon <= inf",
        "epsilon <= -1",
        "epsilon <= 0",
        "epsilon <= 1e-999",
        "epsilon <= 2",
        "epsilon <= 1_0e-9",
        "epsilon <= \u0661e-9",
        "collusion >= 0",
        "collusion >= 17",
        "collusion >= 2.5",
        "collusion >= nan",
        "collusion >= \u0663",
        "collusion >= 99999999999999999999",
        "durable >= -1",
        "durable = 3",
        "age <= 0s",
        "age <= nan",
        "age <= 10",
        "age <= 10 y",
        "age <= 1e9y",
        "class = its, its",
        "class in its,, qkd",
        "class in its,",
        "class in ,its",
        "scheme = 1-of-3",
        "scheme = 5-of-3",
        "home = ../etc",
        "home = in, in",
        "and collusion >= 3",
        "collusion >= 3 and",
        "collusion >= 3 and and everlasting",
        "collusion >= 3 everlasting",
        "not everlasting",
        "everlasting or class = its",
        "# nothing",
        "class = its; class = qkd",
        "collusion >= 3" + "\nclass = its" * 400,
    ],
)
def test_what_cannot_be_a_policy_is_refused(written: str) -> None:
    with pytest.raises(BadPolicy):
        parse_policy(written)


@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                [
                    "collusion",
                    "class",
                    "its",
                    "qkd",
                    "=",
                    ">=",
                    "<=",
                    "<",
                    ",",
                    "else",
                    "in",
                    "and",
                    "n",
                    "3",
                    "1e-9",
                    "nan",
                    "deal",
                    "checked",
                    "everlasting",
                    "durable",
                    "home",
                    "\n",
                    "age",
                    "10y",
                    "yes",
                    "no",
                    "simulated",
                ]
            ),
            max_size=9,
        ).map(" ".join),
    )
)
@example("deal")
@example("class = its, else")
@example("class = else, else its")
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    try:
        read = parse_policy(text)
    except BadPolicy:
        return
    assert read
    assert parse_policy("\n".join(map(str, read))) == read


def texts(policies: Policies, name: str) -> set[str]:
    return {str(each.clause) for each in policies.in_force(name)}


def test_the_owners_policy_is_always_in_force_and_the_longest_prefix_wins() -> None:
    policies = Policies.of(
        [
            ("", ["durable = n"]),
            ("patients/", ["collusion >= 3", "class = its"]),
            ("patients/test/", ["collusion >= 2"]),
        ]
    )
    assert texts(policies, "elsewhere") == {"durable = n"}
    assert texts(policies, "patients/a") == {"durable = n", "collusion >= 3", "class = its"}
    assert texts(policies, "patients/test/a") == {"durable = n", "collusion >= 2"}
    assert texts(policies, "patients") == {"durable = n"}
    assert {each.source for each in policies.in_force("patients/a")} == {"", "patients/"}


@pytest.mark.parametrize("name", ["Patients/a", "PATIENTS/a", "\uff50atients/a", "pat\u0131ents/a", "patient\u017f/a"])
def test_a_name_that_looks_like_one_under_a_prefix_is_bound_too(name: str) -> None:
    policies = Policies.of([("patients/", ["collusion >= 3"])])
    bound = texts(policies, unicodedata.normalize("NFC", name))
    assert bound == ({"collusion >= 3"} if "\u0131" not in name else set())


def test_a_lookalike_prefix_does_not_weaken_what_the_real_one_asks() -> None:
    policies = Policies.of([("patients/", ["collusion >= 3"]), ("Patients/test/", ["collusion >= 2"])])
    assert texts(policies, "patients/test/a") == {"collusion >= 3", "collusion >= 2"}


def test_prefixes_are_compared_in_normal_form() -> None:
    composed, decomposed = "f\u00fcr/", "fu\u0308r/"
    assert texts(Policies.of([(decomposed, ["everlasting"])]), f"{composed}a") == {"everlasting"}
    with pytest.raises(BadPolicy, match="two policies"):
        Policies.of([(composed, ["everlasting"]), (decomposed, ["durable = n"])])


@pytest.mark.parametrize("prefix", ["/abs", "a//b", "../up", "a/./b", "line\n", "\ud800", "x" * 1025, "\u2028"])
def test_a_prefix_that_no_name_can_have_is_refused(prefix: str) -> None:
    with pytest.raises(BadPolicy):
        Policies.of([(prefix, ["everlasting"])])


def test_a_policy_that_requires_nothing_is_a_mistake() -> None:
    with pytest.raises(BadPolicy):
        Policies.of([("a/", [])])


@pytest.mark.parametrize(
    ("required", "classes", "fallback"),
    [
        (["durable = n"], None, False),
        (["class = its"], ("its",), False),
        (["class = its, else qkd"], ("its", "qkd"), True),
        (["class = qkd, else its", "class in its, pqc"], ("its",), True),
        (["class in its, qkd", "class = qkd, else its"], ("qkd", "its"), True),
        (["class = its", "class = pqc"], (), False),
    ],
)
def test_classes_that_every_clause_allows(required: list[str], classes: tuple[str, ...] | None, fallback: bool) -> None:
    policies = Policies.of([("", required)])
    assert policies.classes("name") == classes
    assert policies.names_fallback("name") == fallback


def test_a_clause_compares_with_its_number() -> None:
    assert [clause.number for clause in parse_policy("age <= 2d\nepsilon <= 1e-9\ncollusion >= 3")] == [
        172_800,
        1e-9,
        3,
    ]
    assert Clause("everlasting", "").values == ()
