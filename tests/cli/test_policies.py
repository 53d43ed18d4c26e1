"""Policies at the command line: shown, checked, enforced at put and get, on a running testbed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import parse_scenario

pytestmark = pytest.mark.processes

POLICIES = """
[[policy]]
require = ["class = its, else qkd"]

[[policy]]
owner = "owner-1"
prefix = "patients/"
require = ["collusion >= 2 and durable = n", "deal checked"]

[[policy]]
prefix = "strict/"
require = ["collusion >= 3"]

[[policy]]
prefix = "real/"
require = ["simulated = no"]

[[policy]]
prefix = "sure/"
require = ["epsilon <= 1e-9"]
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("policies") / "bed"
    tiny = resources.files("shosoin.testbed") / "scenarios" / "tiny.toml"
    testbed = asyncio.run(Testbed.up(parse_scenario(tiny.read_text(encoding="utf-8") + POLICIES), root))
    yield root
    testbed.down(grace_s=2.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3000))
    return path


def test_policies_are_shown(shosoin, bed):
    owner = ("--testbed", bed)
    assert shosoin("policy", *owner).out.splitlines()[:3] == [
        "FROM       REQUIRES",
        "owner      class = its, else qkd",
        "patients/  collusion >= 2",
    ]
    assert shosoin("policy", "patients/a", *owner).out.splitlines() == [
        "FROM       REQUIRES",
        "owner      class = its, else qkd",
        "patients/  collusion >= 2",
        "patients/  deal checked",
        "patients/  durable = n",
    ]
    everything = shosoin("policy", "show", *owner, "--json").json
    assert everything["policies"][0] == {"prefix": "", "require": ["class = its, else qkd"]}
    strict = shosoin("policy", "strict/a", *owner, "--json").json
    assert strict["clauses"][1] == {"source": "strict/", "clause": "collusion >= 3"}
    assert strict["never_met"] == []
    assert strict["classes"] == ["its", "qkd"]
    assert shosoin("policy", "a//b", *owner).code == 2


def test_a_put_is_foreseen_with_its_policy(shosoin, bed, file):
    owner = ("--testbed", bed)
    plan = shosoin("put", file, "patients/a", "--dry-run", *owner, "--json").json
    assert (plan["class"], plan["policy_met"], plan["size_bytes"]) == ("its", None, 3000)
    assert plan["foreseen"]["collusion_number"] == 2
    assert plan["foreseen"]["everlasting"] is False
    assert {each["clause"]: each["met"] for each in plan["policy"]} == {
        "class = its, else qkd": True,
        "collusion >= 2": True,
        "deal checked": True,
        "durable = n": None,
    }
    strict = shosoin("put", file, "strict/a", "--dry-run", *owner)
    assert "collusion >= 3         NOT MET  2: Fictional" in strict.out
    assert strict.code == 2
    assert strict.errors[0].startswith("shosoin: error: a put of 'strict/a' would be refused: the policy requires")
    told = shosoin("put", file, "strict/a", "--dry-run", *owner, "--json")
    assert (told.code, told.json["policy_met"]) == (2, False)
    assert shosoin("ls", *owner).out == ""


@pytest.mark.parametrize(
    ("name", "options", "clause", "found"),
    [
        ("strict/a", (), "collusion >= 3", "2: Fictional Middle Office, Fictional North Office could open it"),
        ("Strict/a", (), "collusion >= 3", "2: Fictional"),
        ("real/a", (), "simulated = no", "simulated links"),
        ("sure/a", (), "epsilon <= 1e-9", "that it is not declared"),
        ("any", ("--class", "pqc"), "class = its, else qkd", "pqc"),
        ("patients/a", ("--class", "qkd"), "deal checked", "that it was not"),
    ],
)
def test_a_put_that_fails_its_policy_exits_2_and_leaves_nothing(shosoin, bed, file, name, options, clause, found):
    owner = ("--testbed", bed)
    refused = shosoin("put", file, name, *options, *owner)
    assert refused.code == 2
    (error,), (hint,) = refused.errors, refused.hints
    assert error.startswith(f"shosoin: error: the policy for '{name}' requires `{clause}` but found {found}")
    assert "nothing was " in hint
    assert name not in shosoin("ls", *owner).out


def test_a_stored_object_shows_its_policy_and_a_stricter_one_stops_its_get(shosoin, bed, file, tmp_path):
    owner = ("--testbed", bed)
    stored = shosoin("put", file, "patients/b", *owner, "--json").json
    assert stored["label"]["policy"] == ["class = its, else qkd", "collusion >= 2", "deal checked", "durable = n"]
    first, *_ = shosoin("stat", "patients/b", *owner).out.splitlines()
    assert first.startswith("At least two parties would have to act together to open it, for example Fictional Middle")
    stat = shosoin("stat", "patients/b", *owner, "--json").json
    assert (stat["policy_met"], stat["label"]["routes"]) == (True, {"kita": [], "naka": [], "minami": []})
    assert stat["label"]["summary"][0] == first
    listed = shosoin("ls", "patients/", "--long", *owner)
    assert listed.out.splitlines()[1].split()[:2] == ["patients/b", "2.9"]
    assert " 3 of 3           2  met " in listed.out
    assert shosoin("ls", "patients/", "--long", *owner, "--json").json["objects"][0]["policy_met"] is True
    assert shosoin("policy", "check", "--all", *owner).code == 0

    config = next((bed / "owners" / "owner-1").glob("owner.toml"))
    stricter = config.with_name("stricter.toml")
    stricter.write_text(config.read_text() + '\n[[policy]]\nprefix = "patients/b"\nrequire = ["home = naka"]\n')
    changed = ("--config", stricter)
    refused = shosoin("get", "patients/b", tmp_path / "copy", *changed)
    assert refused.code == 2
    assert "requires `home = naka` but found kita" in refused.errors[0]
    assert "--despite-policy" in refused.hints[0]
    assert not (tmp_path / "copy").exists()
    checked = shosoin("policy", "check", "--all", *changed)
    assert checked.code == 2
    assert "home = naka" in checked.out
    assert checked.errors == ["shosoin: error: 'patients/b' does not meet the policy"]
    assert shosoin("policy", "patients/b", *changed).out.splitlines()[-1] == (
        "This can never be met: no home is left that every clause allows."
    )
    served = shosoin("get", "patients/b", tmp_path / "copy", *changed, "--despite-policy", "--json")
    assert served.code == 0
    assert [each["clause"] for each in served.json["warnings"]] == ["home = naka"]
    assert "warning: read despite the policy: `home = naka`" in served.err
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    answer = json.loads(shosoin("policy", "check", "patients/b", *changed, "--json").out)
    assert (answer["ok"], answer["objects"][0]["met"]) == (False, False)
    assert shosoin("rm", "patients/b", *changed).code == 0


def test_policy_check_takes_names_or_all(shosoin, bed):
    assert shosoin("policy", "check", "--testbed", bed).code == 2
    assert shosoin("policy", "check", "--all", "name", "--testbed", bed).code == 2
    assert shosoin("policy", "check", "nowhere", "--testbed", bed).code == 2


def test_a_configuration_with_a_mistake_is_refused_with_the_right_word(shosoin, bed):
    config = next((bed / "owners" / "owner-1").glob("owner.toml"))
    wrong = config.with_name("wrong.toml")
    wrong.write_text(config.read_text() + '\n[[policy]]\nprefix = "x/"\nrequire = ["colusion >= 3"]\n')
    refused = shosoin("policy", "--config", wrong)
    assert refused.code == 2
    assert refused.hints == ["shosoin: hint: did you mean `collusion`?"]
