"""Which transfer class to use: the one asked for, or by the policy "``its`` if the key stock suffices, else ``qkd``".

``auto`` names its fallback before anything is written, and what was chosen is told before it is used: no object is
ever stored under less than was asked for. What suffices is the caller's to say: a put wants the keys now, a
demonstration may wait for them a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shosoin.vault.client import Vault
    from shosoin.vault.receipts import KeyPlan
    from shosoin.vault.scheme import Scheme

__all__ = ["Choice", "choose", "suffices"]

POLICY = ("its", "qkd")


@dataclass(frozen=True, slots=True)
class Choice:
    """A class with the plan that it was chosen by."""

    plan: KeyPlan
    considered: tuple[KeyPlan, ...]
    """Every plan that was looked at, in the order of preference; the chosen one is the last."""

    @property
    def class_(self) -> str:
        """The chosen class."""
        return self.plan.class_

    @property
    def enough(self) -> bool:
        """Whether the keys for it are there now."""
        return suffices(self.plan)

    @property
    def fell_back(self) -> bool:
        """Whether a better class was passed over because its keys were not there."""
        return len(self.considered) > 1


def suffices(plan: KeyPlan) -> bool:
    """Return whether the keys of a plan are there; a plan that looked at no stock waits for none."""
    return plan.enough or plan.wait_s == 0.0


async def choose(
    vault: Vault,
    size_bytes: int,
    scheme: Scheme | None,
    wanted: str,
    *,
    enough: Callable[[KeyPlan], bool] = suffices,
    order: Sequence[str] | None = None,
) -> Choice:
    """Choose a class for an object of a size.

    Args:
        vault: knows what is in stock.
        size_bytes: size of the object.
        scheme: the owner's default if ``None``.
        wanted: a class, or ``auto``.
        enough: whether a plan may be chosen, the last one of the policy apart.
        order: classes that ``auto`` may choose, the preferred one first; "``its``, else ``qkd``" if ``None`` or empty.
    """
    considered: list[KeyPlan] = []
    for class_ in (order or POLICY) if wanted == "auto" else (wanted,):
        considered.append(await vault.plan(size_bytes, scheme=scheme, class_=class_))
        if enough(considered[-1]):
            break
    return Choice(considered[-1], tuple(considered))
