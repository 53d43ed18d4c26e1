"""Which policy is in force for a name: the owner's own, and that of the longest prefix.

The owner's policy (prefix ``""``) is always in force; of the others the one with the longest prefix of the name is
added. Names and prefixes are compared in normal form C, as names are kept. A name that only *looks* as if it had a
prefix (other case, full-width letters, compatibility characters) is bound by that policy too: whoever files a record
under ``Patients/`` meant the policy of ``patients/``, and a clause more can only refuse.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shosoin.vault.naming import NAME_BYTES_MAX
from shosoin.vault.policy import BadPolicy, Clause, parse_policy

__all__ = ["InForce", "Policies", "Policy"]

POLICIES_MAX = 256


@dataclass(frozen=True, slots=True)
class Policy:
    """What is required of all names that begin alike."""

    prefix: str
    """In normal form C; empty for the owner's policy."""
    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class InForce:
    """One clause with where it comes from."""

    source: str
    """A prefix; empty for the owner's policy; ``"at put"`` for one under which the object was stored."""
    clause: Clause


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies of an owner."""

    policies: tuple[Policy, ...] = ()

    @classmethod
    def of(cls, written: Iterable[tuple[str, Sequence[str]]]) -> Policies:
        """Read pairs of a prefix and its clauses.

        Raises:
            BadPolicy: a clause or a prefix that cannot be, or a prefix twice.
        """
        found: dict[str, Policy] = {}
        for prefix, texts in written:
            normal = checked_prefix(prefix)
            if normal in found:
                raise BadPolicy(f"the prefix {normal[:80]!r} has two policies", hint="join them into one")
            found[normal] = Policy(normal, tuple(clause for text in texts for clause in parse_policy(text)))
        if len(found) > POLICIES_MAX:
            raise BadPolicy(f"{len(found)} policies, at most {POLICIES_MAX} are allowed")
        empty = next((policy.prefix for policy in found.values() if not policy.clauses), None)
        if empty is not None:
            raise BadPolicy(f"the policy of prefix {empty!r} requires nothing")
        return cls(tuple(found.values()))

    def in_force(self, name: str) -> tuple[InForce, ...]:
        """Return the clauses that bind a name (in normal form C), without repetitions."""
        chosen = [policy for policy in self.policies if not policy.prefix]
        chosen += _longest(policy for policy in self.policies if name.startswith(policy.prefix))
        looks = looks_like(name)
        chosen += _longest(policy for policy in self.policies if looks.startswith(looks_like(policy.prefix)))
        found = {clause: InForce(policy.prefix, clause) for policy in reversed(chosen) for clause in policy.clauses}
        return tuple(sorted(found.values(), key=lambda each: (each.source, str(each.clause))))

    def classes(self, name: str) -> tuple[str, ...] | None:
        """Return the classes that every clause on a name allows, the preferred one first; ``None`` if none is asked."""
        asked = [each.clause for each in self.in_force(name) if each.clause.subject == "class"]
        if not asked:
            return None
        order = max(asked, key=lambda clause: (clause.relation == "else", -len(clause.values))).values
        return tuple(class_ for class_ in order if all(class_ in clause.values for clause in asked))

    def names_fallback(self, name: str) -> bool:
        """Whether a clause on a name says which class to take when keys are short."""
        return any(each.clause.relation == "else" for each in self.in_force(name))


def checked_prefix(prefix: str) -> str:
    """Return a prefix in normal form C.

    Raises:
        BadPolicy: it could not begin a name.
    """
    normal = unicodedata.normalize("NFC", prefix)
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in normal):
        raise BadPolicy("a prefix contains a control character or is not valid Unicode")
    if len(normal.encode()) > NAME_BYTES_MAX:
        raise BadPolicy(f"a prefix of {len(normal.encode())} bytes, names have {NAME_BYTES_MAX} at most")
    if normal.startswith("/") or any(part in {"", ".", ".."} for part in normal.split("/")[:-1]):
        raise BadPolicy(f"no name can begin with {normal[:80]!r}")
    return normal


def looks_like(text: str) -> str:
    """Return a text with case, width and compatibility characters made one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _longest(policies: Iterable[Policy]) -> list[Policy]:
    longest = max(policies, key=lambda policy: len(policy.prefix), default=None)
    return [longest] if longest is not None else []
