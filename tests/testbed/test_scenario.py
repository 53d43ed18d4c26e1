"""Scenarios: what is shipped is right, and what is wrong is refused with a useful word."""

from __future__ import annotations

import copy
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import Rejected
from shosoin.testbed.scenario import EventLevel, load_scenario, parse_scenario, shipped_scenarios
from shosoin.testbed.toml import toml_text

SMALL = """
[scenario]
name = "small"

[[site]]
name = "east"
domain = "Fictional East"

[[site]]
name = "west"
domain = "Fictional West"

[[link]]
a = "east"
b = "west"
length_km = 10
attenuation_db_per_km = 0.25

[[owner]]
id = "owner-1"
site = "east"
"""


def changed(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new, 1)


def test_what_is_shipped_parses():
    assert shipped_scenarios() == ["five-sites", "tiny"]
    for name in shipped_scenarios():
        assert load_scenario(name).name == name


def test_five_sites_is_the_agreed_one():
    scenario = load_scenario("five-sites")
    assert [site.name for site in scenario.sites] == ["koganei", "otemachi", "hakusan", "hongo", "musashino"]
    assert len(scenario.links) == 10
    assert len({site.domain for site in scenario.sites}) == 5
    assert {(owner.id, owner.site) for owner in scenario.owners} == {("owner-1", "koganei"), ("owner-2", "otemachi")}
    assert (scenario.scheme_text, scenario.class_) == ("3-of-5", "its")
    link = next(link for link in scenario.links if link.ends == {"koganei", "otemachi"})
    assert (link.length_km, link.attenuation_db) == (45.0, 13.5)
    assert scenario.site("hongo").sae_ids == ("sae-hongo-1", "sae-hongo-2")


def test_defaults_are_filled_in():
    scenario = parse_scenario(SMALL)
    link = scenario.links[0]
    assert link.attenuation_db == 2.5
    assert link.speedup == 1.0
    assert link.stock_bits_at_start <= link.max_stock_bits
    assert scenario.scheme_text == "2-of-2"
    assert scenario.owner(None).id == "owner-1"
    assert link.other("east") == "west"
    assert link.other("west") == "east"


def test_a_link_may_be_simulated_pulse_by_pulse():
    assert parse_scenario(SMALL).links[0].events is None
    lines = 'level = "events"\nblock_bits = 131072\neavesdropper = "time-shift"\neavesdropper_share = 0.5'
    events = parse_scenario(changed("length_km = 10\n", f"length_km = 10\n{lines}\n")).links[0].events
    assert events == EventLevel(131072, 1e7, "time-shift", 0.5)
    everywhere = parse_scenario(changed("[[owner]]", '[link_defaults]\nlevel = "events"\n\n[[owner]]'))
    assert everywhere.links[0].events == EventLevel(1 << 18, 1e7, "none", 1.0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('level = "photons"', "rate, events"),
        ("block_bits = 131072", "unknown key 'block_bits'"),
        ('level = "events"\nblock_bits = 1', "from 65536 to 16777216"),
        ('level = "events"\neavesdropper = "mallory"', "intercept-resend"),
        ('level = "events"\neavesdropper_share = 2', "from 0 to 1"),
    ],
)
def test_a_mistake_about_events_is_refused(lines, message):
    with pytest.raises(Rejected, match=message):
        parse_scenario(changed("length_km = 10\n", f"length_km = 10\n{lines}\n"))


POLICY = """
[[policy]]
require = ["durable = n"]

[[policy]]
owner = "owner-1"
prefix = "fu\u0308r/"
require = ["collusion >= 2"]

[[policy]]
prefix = "f\u00fcr/"
require = ["class = its", "everlasting"]
"""


def test_policies_are_everybodys_or_an_owners():
    scenario = parse_scenario(SMALL + POLICY)
    found = {policy.prefix: policy.require for policy in scenario.policies_of("owner-1")}
    assert found == {"": ("durable = n",), "f\u00fcr/": ("collusion >= 2", "class = its", "everlasting")}
    found = {policy.prefix: policy.require for policy in scenario.policies_of("owner-2")}
    assert found == {"": ("durable = n",), "f\u00fcr/": ("class = its", "everlasting")}
    assert parse_scenario(SMALL).policies_of("owner-1") == ()


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ('owner = "owner-9"\nrequire = ["everlasting"]', "no owner 'owner-9'"),
        ('prefx = "a/"\nrequire = ["everlasting"]', "unknown key 'prefx'"),
        ('prefix = "a/"', "lacks the key 'require'"),
        ("require = []", "a list of 1 to 64 texts"),
        ("require = [1]", "a list of 1 to 64 texts"),
        ('require = "everlasting"', "a list of 1 to 64 texts"),
    ],
)
def test_a_policy_with_a_mistake_is_refused(policy, message):
    with pytest.raises(Rejected, match=message):
        parse_scenario(f"{SMALL}\n[[policy]]\n{policy}\n")


def test_a_scenario_is_found_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(SMALL)
    assert load_scenario(str(path)) == parse_scenario(SMALL)


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ('name = "small"', 'nam = "small"', "lacks the key 'name'", "'nam'"),
        ("length_km = 10", "lenght_km = 10", "lacks the key 'length_km'", "'lenght_km'"),
        ('site = "east"', 'site = "eastt"', "no site 'eastt'", "'east'"),
        ('b = "west"', 'b = "wesst"', "no site 'wesst'", "'west'"),
        ('b = "west"', 'b = "east"', "to itself", ""),
        ('domain = "Fictional West"', 'domain = "Fictional West"\nvendr = "x"', "unknown key 'vendr'", "'vendor'"),
        ('name = "west"', 'name = "east"', "named twice", ""),
        ('name = "west"', 'name = "West"', "lower-case letters", ""),
        ('name = "west"', 'name = "../../etc"', "lower-case letters", ""),
        ("length_km = 10", "length_km = -1", "from 0 to", ""),
        ("length_km = 10", "length_km = nan", "from 0 to", ""),
        ("length_km = 10", 'length_km = "far"', "expected a number", ""),
        ("length_km = 10", "length_km = true", "expected a number", ""),
        ("attenuation_db_per_km = 0.25", "", "exactly one of", ""),
        ("attenuation_db_per_km = 0.25", "attenuation_db = 1\nattenuation_db_per_km = 1", "exactly one of", ""),
        ("attenuation_db_per_km = 0.25", "attenuation_db_per_km = 90", "loss of 900 dB", ""),
        ("attenuation_db_per_km = 0.25", "attenuation_db = 1\nmax_stock_bits = 1", "is above max_stock_bits", ""),
        ('id = "owner-1"', 'id = "node-east"', "named twice", ""),
        ('name = "small"', 'name = "small"\ntitle = "a\\u0007"', "line of at most", ""),
        ("[[owner]]", '[defaults]\nscheme = "3-of-5"\n[[owner]]', "needs 5 sites", "relay|link"),
        ("[[owner]]", '[defaults]\nscheme = "1-of-2"\n[[owner]]', "2 <= K", "3-of-5"),
        ("[[owner]]", '[defaults]\nclass = "aes"\n[[owner]]', "one of its, qkd, pqc, auto", ""),
        ("[[owner]]", "[[owners]]", "1 to 64 owners|unknown key 'owners'", ""),
        ("[[link]]", "[link]", "tables \\[\\[link\\]\\]", ""),
    ],
)
def test_a_mistake_is_refused_and_the_right_word_named(old, new, message, hint):
    with pytest.raises(Rejected, match=message) as caught:
        parse_scenario(changed(old, new))
    if hint:
        assert any(word in caught.value.hint for word in hint.split("|"))


def test_one_site_is_not_a_system():
    with pytest.raises(Rejected, match="2 to 16 sites, got 0"):
        parse_scenario('[scenario]\nname = "x"\n')


def test_a_scheme_beyond_the_links_is_refused():
    written = SMALL + '\n[[site]]\nname = "lonely"\ndomain = "Fictional Island"\n[defaults]\nscheme = "2-of-3"\n'
    with pytest.raises(Rejected, match="has links to 1 others"):
        parse_scenario(written)


def test_unknown_scenarios_name_the_shipped_ones(tmp_path):
    with pytest.raises(Rejected) as caught:
        load_scenario("five-site")
    assert "five-sites" in caught.value.hint
    with pytest.raises(Rejected):
        load_scenario(str(tmp_path))
    (tmp_path / "large.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(Rejected, match="larger than"):
        load_scenario(str(tmp_path / "large.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Rejected, match="cannot read"):
        load_scenario(str(tmp_path / "binary.toml"))


def rejected_with_reason(action):
    """Whether an action succeeds or is rejected in words; anything else it raises is passed on."""
    try:
        action()
    except Rejected as err:
        return bool(str(err) and err.code)
    return True


@given(st.text(max_size=300))
def test_any_text_parses_or_is_rejected(written):
    assert rejected_with_reason(lambda: parse_scenario(written))


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TOML_VALUES = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=60)


@given(st.data())
def test_any_value_anywhere_parses_or_is_rejected(data):
    document = tomllib.loads(SMALL)
    table = data.draw(st.sampled_from(["scenario", "site", "link", "owner"]))
    section = document[table] if table == "scenario" else data.draw(st.sampled_from(document[table]))
    section[data.draw(st.sampled_from([*section, "speedup", "saes", "vendor", "quota_bytes"]))] = data.draw(TOML_VALUES)
    written = toml_text(document)
    assert tomllib.loads(written) == document
    assert rejected_with_reason(lambda: parse_scenario(written))


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,10}", fullmatch=True), TOML_VALUES, min_size=1, max_size=6))
def test_what_we_write_reads_back(section):
    written = toml_text({"one": section, "many": [section, copy.copy(section)]})
    assert tomllib.loads(written) == {"one": section, "many": [section, section]}
