"""Plans of the simulation where one of the mistakes is at stake; others are in ``tests.simulation.scenarios``."""

from __future__ import annotations

from dataclasses import replace

from shosoin.testing.simulation.plan import Deed, Lie, Operation, Plan
from tests.simulation.scenarios import deed, lying_reader, plan, write_past_the_readers


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


def shifting_reader() -> Plan:
    """A site shifts its share by one bit at the start of the content, and is asked because another one is away."""
    return replace(lying_reader(), lies=(Lie("otemachi", "shifted_share", at_s=15.0),))


def patient_write_past_the_readers() -> Plan:
    """A writer reaches the sites that readers ask last, and its staged shares are kept meanwhile."""
    return replace(write_past_the_readers(), orphan_age_s=3600.0)
