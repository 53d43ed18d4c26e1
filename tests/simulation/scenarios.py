"""Small plans written by hand: each puts the vault where one promise is at stake."""

from __future__ import annotations

from dataclasses import replace

from shosoin.testing.simulation.plan import ClientPlan, Deed, Fault, FaultKind, Lie, Operation, Plan


def deed(kind: Deed, tag: str, wait_s: float = 0.0, *, class_: str = "pqc", size_bytes: int = 40) -> Operation:
    return Operation(kind, ("a",), 1, wait_s, size_bytes, class_, tag)


def plan(scheme: str, clients: dict[str, list[Operation]], *faults: Fault, lies: tuple[Lie, ...] = (), seed: int = 7):
    made = tuple(ClientPlan(name, tuple(operations)) for name, operations in clients.items())
    return Plan(seed, scheme, 0.005, 5.0, made, faults, lies)


def write_past_the_readers() -> Plan:
    """A writer that does not reach the two sites which readers ask first."""
    clients = {
        "anna": [deed(Deed.PUT, "old"), deed(Deed.PUT, "new", 20.0)],
        "bert": [deed(Deed.GET, "early", 10.0), deed(Deed.GET, "late", 200.0)],
    }
    return plan("2-of-5", clients, Fault(FaultKind.CUT_PAIR, "koganei otemachi", "anna", at_s=15.0, for_s=1000.0))


def two_full_disks() -> Plan:
    """Two of five disks take no share, but records still."""
    full = [Fault(FaultKind.DISK_FULL, site, for_s=100.0) for site in ("hongo", "musashino")]
    return plan("3-of-5", {"anna": [deed(Deed.PUT, "anna1")]}, *full)


def lying_reader() -> Plan:
    """A site gives wrong shares, and is asked because another one is away."""
    clients = {"anna": [deed(Deed.PUT, "anna1"), deed(Deed.GET, "anna2", 20.0)]}
    cut = Fault(FaultKind.CUT_PAIR, "hakusan", "anna", at_s=15.0, for_s=1000.0)
    return plan("3-of-5", clients, cut, lies=(Lie("otemachi", "wrong_share"),))


def stalled_writer(number: int) -> Plan:
    """A writer freezes before one of its messages for longer than staged shares are kept."""
    clients = {"anna": [deed(Deed.PUT, "anna1")]}
    return plan("2-of-4", clients, Fault(FaultKind.CLIENT_STALL, "anna", number=number, for_s=30.0))


def dying_writer(number: int) -> Plan:
    """A writer dies before one of its messages; two readers look, one after the other, over different sites."""
    clients = {
        "anna": [deed(Deed.PUT, "old"), deed(Deed.PUT, "new")],
        "bert": [deed(Deed.GET, "first", 50.0)],
        "chie": [deed(Deed.GET, "second", 100.0)],
    }
    cut = Fault(FaultKind.CUT_PAIR, "koganei", "chie", at_s=90.0, for_s=1000.0)
    return plan("2-of-4", clients, Fault(FaultKind.CLIENT_CRASH, "anna", number=number, for_s=2000.0), cut)


def crashing_disk(number: int, phase: str) -> Plan:
    """A node dies at one of the calls of its disk while objects are written and read."""
    clients = {"anna": [deed(Deed.PUT, "old"), deed(Deed.PUT, "new"), deed(Deed.GET, "read")]}
    return plan("2-of-4", clients, Fault(FaultKind.DISK_CRASH, "otemachi", number=number, phase=phase, for_s=0.2))


def forgetful_liar(number: int) -> Plan:
    """One writer freezes in the middle of a put; another meets a liar who forgets, and misses an honest site.

    A third site was down for the first writer alone.
    """
    clients = {
        "anna": [deed(Deed.PUT, "anna1"), deed(Deed.GET, "anna2", 100.0)],
        "bert": [replace(deed(Deed.PUT, "bert1", 10.0), names=("b",))],
    }
    stall = Fault(FaultKind.CLIENT_STALL, "anna", number=number, for_s=60.0)
    cut = Fault(FaultKind.CUT_PAIR, "hakusan", "bert", at_s=5.0, for_s=50.0)
    down = Fault(FaultKind.NODE_CRASH, "hongo", for_s=8.0)
    lies = (Lie("otemachi", "forget_accepts"), Lie("otemachi", "forget_promises"), Lie("otemachi", "grant_all"))
    return replace(plan("3-of-5", clients, stall, cut, down, lies=lies), orphan_age_s=3600.0)


def three_writers(seed: int) -> Plan:
    """Three clients write one name at once, and read it."""
    clients = {name: [deed(Deed.PUT, f"{name}1"), deed(Deed.GET, f"{name}2")] for name in ("anna", "bert", "chie")}
    return plan("2-of-4", clients, seed=seed)


def read_while_the_class_changes(number: int) -> Plan:
    """A reader looks a name up and freezes for a moment, and the name goes to another class."""
    clients = {
        "anna": [deed(Deed.PUT, "anna1"), deed(Deed.PUT, "anna2", 1.0, class_="qkd")],
        "bert": [deed(Deed.GET, "bert1", 1.2)],
    }
    return plan("2-of-4", clients, Fault(FaultKind.CLIENT_STALL, "bert", number=number, for_s=0.6))


def verify_during_removal(wait_s: float) -> Plan:
    """Shares are erased between a node's look at their records and its look at their bytes."""
    clients = {
        "anna": [deed(Deed.PUT, "anna1"), deed(Deed.RM, "anna2", 1.0)],
        "bert": [deed(Deed.LS, "bert1", 0.5), deed(Deed.VERIFY, "bert2", wait_s)],
    }
    return plan("2-of-6", clients)


def full_disk_and_false_receipt(at_s: float) -> Plan:
    """The home disk fills up after the content was stored, and one site only claims to store the name."""
    full = Fault(FaultKind.DISK_FULL, "koganei", at_s=at_s, for_s=10.0)
    return plan("3-of-5", {"anna": [deed(Deed.PUT, "anna1")]}, full, lies=(Lie("musashino", "claim_stored"),), seed=8)


def dead_writer_and_silent_site(number: int, seed: int = 8) -> Plan:
    """A writer dies while it asks for promises; another site never answers."""
    dead = Fault(FaultKind.CLIENT_CRASH, "anna", number=number, for_s=2000.0)
    made = plan("2-of-4", {"anna": [deed(Deed.PUT, "anna1")]}, dead, lies=(Lie("hongo", "silence"),), seed=seed)
    return replace(made, orphan_age_s=3600.0)
