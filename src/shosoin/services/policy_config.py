"""``[[policy]]`` of a KME's configuration: terms for pairs of SAEs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shosoin.base import SaeId
from shosoin.keys.key_id import GRANULE_BYTES, granules_of
from shosoin.keys.policy import PolicyRule
from shosoin.services.toml_sections import Sections

__all__ = ["check_policies", "read_policies"]

_EVERYBODY = "*"


@dataclass(frozen=True, slots=True)
class _PolicySection:
    """``[[policy]]``; zero leaves a term as ``[limits]`` has it."""

    master: str = _EVERYBODY
    slave: str = _EVERYBODY
    key_size_bits: int = 0
    min_key_size_bits: int = 0
    max_key_size_bits: int = 0
    max_key_per_request: int = 0
    max_age_s: float = 0.0
    bits_per_s: float = 0.0
    burst_bits: float = 0.0
    priority: int = 0


def read_policies(sections: Sections, document: Mapping[str, Any], saes: Collection[SaeId]) -> tuple[PolicyRule, ...]:
    """Read all rules, in order.

    Raises:
        Rejected: a rule names an SAE that the directory does not have, or is about sizes that are none.
    """
    return tuple(_rule(sections, item, saes) for item in sections.tables(document, "policy"))


def _rule(sections: Sections, item: Mapping[str, Any], saes: Collection[SaeId]) -> PolicyRule:
    found = sections.read(_PolicySection, "policy", item)
    for name in (found.master, found.slave):
        if name != _EVERYBODY and name not in saes:
            raise sections.wrong(f"[[policy]] names {name[:80]!r}, which is no [[sae]]; {_EVERYBODY!r} means all")
    return PolicyRule(
        master=None if found.master == _EVERYBODY else SaeId(found.master),
        slave=None if found.slave == _EVERYBODY else SaeId(found.slave),
        key_size_bits=found.key_size_bits,
        min_key_size_bits=found.min_key_size_bits,
        max_key_size_bits=found.max_key_size_bits,
        max_key_per_request=found.max_key_per_request,
        max_age_s=found.max_age_s,
        bits_per_s=found.bits_per_s,
        burst_bits=found.burst_bits,
        priority=found.priority,
    )


def check_policies(rules: Sequence[PolicyRule], low: int, default: int, high: int, sections: Sections) -> None:
    """Check that every rule only narrows what the KME allows, and leaves room for a key.

    Raises:
        Rejected: with the rule that does not.
    """
    for rule in rules:
        smallest, largest = rule.min_key_size_bits or low, rule.max_key_size_bits or high
        usual = rule.key_size_bits or smallest
        sizes = (rule.key_size_bits, rule.min_key_size_bits, rule.max_key_size_bits)
        where = f"[[policy]] {rule.master or _EVERYBODY} to {rule.slave or _EVERYBODY}"
        if any(size % 8 for size in sizes):
            raise sections.wrong(f"{where}: key sizes must be multiples of 8")
        if not low <= smallest <= usual <= largest <= high:
            raise sections.wrong(f"{where}: sizes must satisfy {low} <= min <= default <= max <= {high}")
        if rule.burst_bits and not rule.bits_per_s:
            raise sections.wrong(f"{where}: burst_bits means nothing without bits_per_s")
        # Whoever asks for a key and names no size gets this one, of which the stream loses whole granules.
        given = rule.key_size_bits or min(max(default, smallest), largest)
        cost_bits = granules_of(given // 8) * GRANULE_BYTES * 8
        if rule.bits_per_s and (rule.burst_bits or rule.bits_per_s) < cost_bits:
            raise sections.wrong(f"{where}: burst_bits (without it, bits_per_s) must be at least {cost_bits}, one key")
