"""Plans of the simulation where one of the mistakes is at stake; others are in ``tests.simulation.scenarios``."""

from __future__ import annotations

from dataclasses import replace

from shosoin.testing.simulation.plan import Deed, Operation, Plan
from tests.simulation.scenarios import deed, plan


def name_goes_through_the_classes() -> Plan:
    """One client puts a name in one class after another, and reads it each time."""
    classes = ("pqc", "qkd", "its", "pqc")
    puts = [deed(Deed.PUT, f"put{number}", 1.0, class_=class_) for number, class_ in enumerate(classes)]
    gets = [deed(Deed.GET, f"get{number}", 1.0) for number in range(len(classes))]
    return plan("2-of-4", {"anna": [each for pair in zip(puts, gets, strict=True) for each in pair]})


def three_names_at_once(seed: int) -> Plan:
    """Three clients put a name each at once, and read it."""

    def both(client: str) -> list[Operation]:
        work = [deed(Deed.PUT, f"{client}1"), deed(Deed.GET, f"{client}2", 1.0)]
        return [replace(each, names=(client[0],)) for each in work]

    return plan("2-of-4", {client: both(client) for client in ("anna", "bert", "chie")}, seed=seed)
