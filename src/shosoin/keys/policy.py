"""What each pair of SAEs may draw: sizes, amounts, age, and who may use the last of a stock.

A KME has limits of its own; a rule narrows them for the pairs of SAEs that it names. The first rule that fits a pair
counts, so that exceptions stand above what they are exceptions from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from shosoin.base import SaeId
from shosoin.base.ports import Clock
from shosoin.keys.errors import RequestInvalid
from shosoin.keys.key_id import LENGTH_BYTES_MAX
from shosoin.keys.quota import Quota

__all__ = ["KeyPolicy", "KmeLimits", "PolicyBook", "PolicyRule"]

_PAIRS_MAX = 4096


@dataclass(frozen=True, slots=True)
class KmeLimits:
    """Bounds on one request; sizes in bits as in the standard."""

    key_size_bits: int = 256
    min_key_size_bits: int = 8
    max_key_size_bits: int = LENGTH_BYTES_MAX * 8
    max_key_per_request: int = 128
    max_request_bytes: int = 64 << 20
    max_additional_slaves: int = 16

    def check(self, number: int, size_bits: int) -> None:
        """Check a request.

        Raises:
            RequestInvalid: with what was expected.
        """
        if size_bits % 8:
            raise RequestInvalid("size shall be a multiple of 8")
        if not self.min_key_size_bits <= size_bits <= self.max_key_size_bits:
            raise RequestInvalid(
                f"size shall be {self.min_key_size_bits} to {self.max_key_size_bits} bits, got {size_bits}"
            )
        if not 1 <= number <= self.max_key_per_request:
            raise RequestInvalid(f"number shall be 1 to {self.max_key_per_request}, got {number}")
        if number * size_bits > self.max_request_bytes * 8:
            raise RequestInvalid(f"number times size shall be at most {self.max_request_bytes * 8} bits")


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """Terms for some pairs of SAEs; ``None`` names all of them, zero leaves a term as it is."""

    master: SaeId | None = None
    slave: SaeId | None = None
    key_size_bits: int = 0
    min_key_size_bits: int = 0
    max_key_size_bits: int = 0
    max_key_per_request: int = 0
    max_age_s: float = 0.0
    bits_per_s: float = 0.0
    burst_bits: float = 0.0
    priority: int = 0

    def fits(self, master: SaeId, slave: SaeId) -> bool:
        """Whether the rule is about a pair."""
        return self.master in {None, master} and self.slave in {None, slave}


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """Terms for one pair of SAEs."""

    limits: KmeLimits
    max_age_s: float = 0.0
    """Age of the oldest bits it may be given, counted from when they came from the link; 0 means any."""
    priority: int = 0
    """Whoever has one above 0 may use the reserved share of a stock."""
    quota: Quota | None = field(default=None, repr=False)


class PolicyBook:
    """All rules of a KME, and the pairs they were asked for."""

    def __init__(self, limits: KmeLimits, rules: Sequence[PolicyRule], clock: Clock) -> None:
        self.limits = limits
        self._rules = tuple(rules)
        self._clock = clock
        self._quotas = [_quota(rule, clock) for rule in self._rules]
        self._plain = KeyPolicy(limits)
        self._known: dict[tuple[SaeId, SaeId], KeyPolicy] = {}

    def of(self, master: SaeId, slave: SaeId) -> KeyPolicy:
        """Return the terms for keys from ``master`` to ``slave``."""
        policy = self._known.get((master, slave))
        if policy is None:
            if len(self._known) >= _PAIRS_MAX:
                self._known.clear()
            policy = self._known[master, slave] = self._find(master, slave)
        return policy

    def _find(self, master: SaeId, slave: SaeId) -> KeyPolicy:
        for rule, quota in zip(self._rules, self._quotas, strict=True):
            if rule.fits(master, slave):
                return KeyPolicy(_narrowed(self.limits, rule), rule.max_age_s, rule.priority, quota)
        return self._plain


def _quota(rule: PolicyRule, clock: Clock) -> Quota | None:
    if not rule.bits_per_s:
        return None
    return Quota(clock, rate_bps=rule.bits_per_s, burst_bits=rule.burst_bits or rule.bits_per_s)


def _narrowed(limits: KmeLimits, rule: PolicyRule) -> KmeLimits:
    smallest = max(limits.min_key_size_bits, rule.min_key_size_bits)
    largest = min(limits.max_key_size_bits, rule.max_key_size_bits or limits.max_key_size_bits)
    usual = rule.key_size_bits or limits.key_size_bits
    return KmeLimits(
        key_size_bits=min(max(usual, smallest), largest),
        min_key_size_bits=smallest,
        max_key_size_bits=largest,
        max_key_per_request=min(limits.max_key_per_request, rule.max_key_per_request or limits.max_key_per_request),
        max_request_bytes=limits.max_request_bytes,
        max_additional_slaves=limits.max_additional_slaves,
    )
