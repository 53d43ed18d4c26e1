"""The journal of key routes on a disk, and what an owner's configuration says of policies and relays."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shosoin.adapters.owner_policies import declared_relays, read_policies, read_relays
from shosoin.adapters.route_journal import FileRouteJournal
from shosoin.base import Rejected, SiteId, Unavailable
from shosoin.vault.coalitions import SiteDomains
from shosoin.vault.policy import BadPolicy

OBJECT = "0" * 32


def test_lines_come_back_in_order_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    journal = FileRouteJournal(tmp_path / "routes")
    assert journal.lines(OBJECT) == ()
    journal.append(OBJECT, b"one")
    journal.append(OBJECT, b"two")
    assert list(FileRouteJournal(tmp_path / "routes").lines(OBJECT)) == [b"one", b"two"]
    assert stat.S_IMODE((tmp_path / "routes" / OBJECT).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "routes").stat().st_mode) == 0o700


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    journal = FileRouteJournal(tmp_path)
    journal.append(OBJECT, b'{"whole":1}')
    with (tmp_path / OBJECT).open("ab") as file:
        file.write(b'\n{"to')
    journal.append(OBJECT, b'{"later":1}')
    assert list(journal.lines(OBJECT)) == [b'{"whole":1}', b'{"to', b'{"later":1}']


def test_two_writers_at_once_lose_no_line(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from shosoin.adapters.route_journal import FileRouteJournal\n"
        "journal = FileRouteJournal(Path(sys.argv[1]))\n"
        f"for number in range(40): journal.append('{OBJECT}', f'{{sys.argv[2]}}-{{number}}'.encode())"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in ("a", "b")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    lines = {line.decode() for line in FileRouteJournal(tmp_path).lines(OBJECT)}
    assert lines == {f"{name}-{number}" for name in ("a", "b") for number in range(40)}


def test_what_cannot_be_written_down_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "routes").write_text("in the way")
    journal = FileRouteJournal(tmp_path / "routes")
    with pytest.raises(Unavailable) as failed:
        journal.append(OBJECT, b"line")
    assert failed.value.hint
    with pytest.raises(Unavailable):
        journal.lines(OBJECT)


def test_policies_and_relays_are_read() -> None:
    raw = {
        "policy": [{"require": "durable = n"}, {"prefix": "patients/", "require": ["collusion >= 3", "everlasting"]}],
        "relay": [{"name": "relay-1", "domain": "Carrier", "vendor": "Maker"}, {"name": "relay-2", "domain": "Other"}],
    }
    policies = read_policies(raw)
    assert {str(each.clause) for each in policies.in_force("patients/a")} == {
        "durable = n",
        "collusion >= 3",
        "everlasting",
    }
    assert read_relays(raw) == {"relay-1": SiteDomains("Carrier", "Maker"), "relay-2": SiteDomains("Other")}
    assert read_policies({}).policies == ()
    assert read_relays({}) == {}
    assert declared_relays({}) is None
    assert declared_relays({"relays": []}) == ()
    assert declared_relays({"relays": ["relay-1"]}) == (SiteId("relay-1"),)


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({"prefx": "a/", "require": ["everlasting"]}, "`prefix`"),
        ({"require": []}, ""),
        ({"require": [3]}, ""),
        ({"require": 3}, ""),
        ({}, ""),
        ({"prefix": 3, "require": ["everlasting"]}, ""),
        ({"require": ["colusion >= 3"]}, "`collusion`"),
    ],
)
def test_a_policy_with_a_mistake_is_refused(table: dict[str, object], hint: str) -> None:
    with pytest.raises(Rejected) as refused:
        read_policies({"policy": [table]})
    assert hint in refused.value.hint
    assert refused.value.code in {"adapters.bad_owner_config", BadPolicy.code}


@pytest.mark.parametrize(
    "table",
    [
        {"name": "relay-1"},
        {"name": "relay-1", "domain": ""},
        {"name": "relay-1", "domain": "Carrier", "vendor": 3},
        {"name": "relay 1", "domain": "Carrier"},
        {"name": 1, "domain": "Carrier"},
        {"name": "relay-1", "domain": "Carrier", "maker": "x"},
    ],
)
def test_a_relay_with_a_mistake_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(Rejected):
        read_relays({"relay": [table]})
    with pytest.raises(Rejected):
        read_relays({"relay": table})
    good = {"name": "relay-9", "domain": "Carrier"}
    with pytest.raises(Rejected, match="twice"):
        read_relays({"relay": [good, good]})


@pytest.mark.parametrize("named", ["relay-1", [1], {"relay-1": 1}, ["relay 1"]])
def test_relays_of_a_site_that_cannot_be_read_are_not_taken_for_none(named: object) -> None:
    with pytest.raises(Rejected):
        declared_relays({"relays": named})
