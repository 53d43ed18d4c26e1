"""The policy language: what an owner requires of how objects are kept, one clause a line.

::

    collusion >= 3            at least so many parties must act together to open it
    class = its               the transfer class; also `class in its, qkd`, and `class = its, else qkd` names a fallback
    durable = n               every site of the scheme holds its share; also `durable >= 4`
    epsilon <= 1e-9           sum of the failure probabilities of the keys
    age <= 10y                since it was written; units s, min, h, d, w, y (365 days)
    scheme = 3-of-5           also `scheme in 3-of-5, 4-of-7`
    home = koganei            the site that sees the content; also `home in koganei, otemachi`
    everlasting               no step rests on computation, every random bit was physical
    simulated = no            no key came from a simulated link
    deal checked              the sites' shares were checked to fit together
    freshness = proven        on reading: enough sites answered to rule out a newer version

Clauses stand on lines of their own or are joined by ``and``; all must hold. A clause that cannot be understood is an
error, never ignored, and numbers are plain decimal ones: no sign, no NaN, no infinity.

>>> [str(clause) for clause in parse_policy("collusion >= 3 and class = its, else qkd")]
['collusion >= 3', 'class = its, else qkd']
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from shosoin.base import Rejected, SiteId
from shosoin.vault.scheme import BadScheme, Scheme

__all__ = ["BadPolicy", "Clause", "nearest", "parse_policy", "seconds_of"]

POLICY_CHARACTERS_MAX = 4096
SITES_MAX = 16
_TOKEN = re.compile(r"[ \t]*(?:(>=|<=|[=,<>])|([A-Za-z0-9][A-Za-z0-9._+-]*)|(\S))", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_COUNT = re.compile(r"[0-9]{1,3}", re.ASCII)
_AGE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(s|min|h|d|w|y)", re.ASCII)
_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_CLASSES = ("its", "qkd", "pqc")


class BadPolicy(Rejected):
    """A policy that cannot be understood."""

    code = "vault.bad_policy"


@dataclass(frozen=True, slots=True)
class Clause:
    """One requirement; ``str`` gives the text that parses to it."""

    subject: str
    relation: str
    """``>=``, ``<=``, ``=``, ``in``, ``else`` (in order of preference), or nothing for a plain word."""
    values: tuple[str, ...] = ()
    """As they are written in the normal form."""

    def __str__(self) -> str:
        if not self.relation:
            return self.subject
        if self.relation == "else":
            return f"{self.subject} = {', else '.join(self.values)}"
        return f"{self.subject} {self.relation} {', '.join(self.values)}"

    @property
    def number(self) -> float:
        """The number that it compares with (seconds of an age)."""
        return seconds_of(self.values[0]) if self.subject == "age" else float(self.values[0])


def parse_policy(text: str) -> tuple[Clause, ...]:
    """Read clauses.

    Raises:
        BadPolicy: says what was got and expected, with the nearest right word as the hint.
    """
    if len(text) > POLICY_CHARACTERS_MAX:
        raise BadPolicy(f"a policy of {len(text)} characters, at most {POLICY_CHARACTERS_MAX} are allowed")
    clauses: list[Clause] = []
    for line in text.splitlines():
        tokens = _tokens(line)
        if tokens:
            clauses += map(_clause, _statements(tokens, line))
    if not clauses:
        raise BadPolicy("an empty policy", hint="write a clause, for example `collusion >= 3`")
    return tuple(clauses)


def seconds_of(age: str) -> float:
    """Return the seconds of ``10y``, ``30d`` and the like.

    Raises:
        BadPolicy: it is not of that form.
    """
    match = _AGE.fullmatch(age)
    if match is None:
        raise BadPolicy(f"got {age[:40]!r}, expected an age such as 10y, 30d or 12h")
    return float(match[1]) * _UNITS_S[match[2]]


def nearest(written: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest of the known words, or all of them."""
    words = list(known)
    near = difflib.get_close_matches(written, words, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else f"known are: {', '.join(words)}"


def _tokens(line: str) -> list[str]:
    """Cut a line into words and signs."""
    tokens = []
    for match in _TOKEN.finditer(line):
        sign, word, strange = match.groups()
        if strange is not None:
            raise BadPolicy(
                f"{strange!r} in {line.strip()[:80]!r} is not part of the language",
                hint={"≥": "write >=", "≤": "write <=", "#": "a policy has no comments"}.get(strange, ""),
            )
        tokens.append(sign or word)
    return tokens


def _statements(tokens: list[str], line: str) -> list[list[str]]:
    statements: list[list[str]] = [[]]
    for token in tokens:
        if token == "and":  # noqa: S105  # a word of the language
            statements.append([])
        else:
            statements[-1].append(token)
    if not all(statements):
        raise BadPolicy(f"an `and` in {line.strip()[:80]!r} joins nothing")
    return statements


def _clause(tokens: list[str]) -> Clause:
    """Read one clause."""
    written = " ".join(tokens)
    subject, rest = ("deal checked", tokens[2:]) if tokens[:2] == ["deal", "checked"] else (tokens[0], tokens[1:])
    read = _READERS.get(subject)
    if read is None:
        raise BadPolicy(f"{written[:80]!r} begins with no known subject", hint=nearest(subject, _READERS))
    return read(subject, rest, written)


def _at_least(subject: str, rest: list[str], written: str) -> Clause:
    if subject == "durable" and rest == ["=", "n"]:
        return Clause(subject, "=", ("n",))
    value = _compared(rest, ">=", written)
    if not _COUNT.fullmatch(value) or not 1 <= int(value) <= SITES_MAX:
        raise BadPolicy(f"{value[:40]!r} in {written[:80]!r} is not a number of 1 to {SITES_MAX}")
    return Clause(subject, ">=", (str(int(value)),))


def _probability(subject: str, rest: list[str], written: str) -> Clause:
    value = _compared(rest, "<=", written)
    if not _NUMBER.fullmatch(value) or not 0 < float(value) <= 1:
        raise BadPolicy(f"{value[:40]!r} in {written[:80]!r} is not a probability above 0, such as 1e-9")
    return Clause(subject, "<=", (re.sub(r"e([+-])0", r"e\1", repr(float(value))),))


def _age(subject: str, rest: list[str], written: str) -> Clause:
    value = _compared(rest, "<=", written)
    if seconds_of(value) <= 0:
        raise BadPolicy(f"{written[:80]!r} can never hold: nothing is younger than it is")
    return Clause(subject, "<=", (value,))


def _compared(rest: list[str], relation: str, written: str) -> str:
    """Return what a subject is compared with, by the one relation that makes sense for it."""
    if len(rest) != 2 or rest[0] != relation:
        raise BadPolicy(f"cannot read {written[:80]!r}", hint=f"write: {written.split(maxsplit=1)[0]} {relation} VALUE")
    return rest[1]


def _choice(check: Callable[[str], str], *, ordered: bool = False) -> Callable[[str, list[str], str], Clause]:
    """Return a reader of ``= A``, ``in A, B`` and, if ``ordered``, ``= A, else B``."""

    def read(subject: str, rest: list[str], written: str) -> Clause:
        relation, words = (rest[0], rest[1:]) if rest else ("", [])
        fallback = ordered and relation == "=" and "else" in words
        joint = [",", "else"] if fallback else [","]
        parts = _split(words, joint) if relation in {"=", "in"} else []
        if not parts or (relation == "=" and not fallback and len(parts) > 1):
            forms = f"{subject} = A, or {subject} in A, B" + (f", or {subject} = A, else B" if ordered else "")
            raise BadPolicy(f"cannot read {written[:80]!r}", hint=f"write: {forms}")
        values = tuple(map(check, parts))
        if len(set(values)) < len(values):
            raise BadPolicy(f"{written[:80]!r} names one thing twice")
        return Clause(subject, "else" if fallback else "=" if len(values) == 1 else "in", values)

    return read


def _split(words: list[str], joint: list[str]) -> list[str]:
    """Return the words between joints; nothing if they are not words and joints in turn."""
    parts, step = [], len(joint) + 1
    for at in range(0, len(words), step):
        parts.append(words[at])
        between = words[at + 1 : at + step]
        if between and between != joint:
            return []
    ends_well = len(words) % step == 1
    return parts if ends_well and not {",", "else", "=", ">=", "<=", "<", ">"} & set(parts) else []


def _class(word: str) -> str:
    if word not in _CLASSES:
        raise BadPolicy(f"class {word[:40]!r} does not exist", hint=nearest(word, _CLASSES))
    return word


def _scheme(word: str) -> str:
    try:
        return str(Scheme.parse(word))
    except BadScheme as error:
        raise BadPolicy(f"scheme {word[:40]!r} cannot be: {error.message}", hint=error.hint) from None


def _site(word: str) -> str:
    try:
        return str(SiteId(word))
    except Rejected as error:
        raise BadPolicy(error.message) from None


def _flag(wanted: str, *, plain: bool) -> Callable[[str, list[str], str], Clause]:
    """Return a reader of a subject that can be required to have one value only."""

    def read(subject: str, rest: list[str], written: str) -> Clause:
        if rest == ["=", wanted] or (plain and not rest):
            return Clause(subject, "" if plain else "=", () if plain else (wanted,))
        form = subject if plain else f"{subject} = {wanted}"
        raise BadPolicy(f"cannot read {written[:80]!r}", hint=f"all that can be required is `{form}`")

    return read


_READERS: Mapping[str, Callable[[str, list[str], str], Clause]] = {
    "collusion": _at_least,
    "class": _choice(_class, ordered=True),
    "durable": _at_least,
    "epsilon": _probability,
    "age": _age,
    "scheme": _choice(_scheme),
    "home": _choice(_site),
    "everlasting": _flag("yes", plain=True),
    "simulated": _flag("no", plain=False),
    "deal checked": _flag("yes", plain=True),
    "freshness": _flag("proven", plain=False),
}
