"""Transcripts of ``shosoin link``: rates of models that say so, protocols, published figures beside ours."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from shosoin.cli.link_protocols import complete_protocol
from shosoin.link.rates.registry import PROTOCOLS
from shosoin.link.validation import table

ASYMPTOTIC = "decoy-bb84"
FINITE = "decoy-bb84/wiesemann2024"


def test_a_rate_says_that_it_is_a_models_and_asymptotic(shosoin):
    answer = shosoin("link", "rate", "--length-km", "50")
    assert (answer.code, answer.err) == (0, "")
    assert "a model, for infinitely many pulses: no block, no epsilon" in answer.out
    assert "BITS A PULSE" in answer.out
    assert "Mb/s" in answer.out


def test_a_rate_as_json_has_what_it_was_computed_from(shosoin):
    answer = shosoin("link", "rate", "--length-km", "12", "--length-km", "67.5", "--json")
    told = answer.json
    assert (told["protocol"], told["asymptotic"], told["epsilons"], told["model"]) == (ASYMPTOTIC, True, None, True)
    assert [point["attenuation_db"] for point in told["points"]] == [2.4, 13.5]
    assert 0.8e6 < told["points"][1]["secret_key_rate_bps"] < 1.2e6
    assert told["parameters"]["reconciliation_efficiency"] == 1.16


def test_a_finite_rate_names_its_epsilon_and_its_block(shosoin):
    told = shosoin("link", "rate", "--protocol", FINITE, "--length-km", "50", "--block-bits", "1e7", "--json").json
    assert (told["asymptotic"], told["block_bits"]) == (False, 1e7)
    assert 0 < told["epsilons"]["total"] < 1e-8
    said = shosoin("link", "rate", "--protocol", FINITE, "--length-km", "50", "--block-bits", "1e7").out
    assert "blocks of 1e+07 sifted bits; failure probability" in said


def test_a_larger_block_gives_a_higher_rate_and_never_the_asymptotic_one(shosoin):
    def rate(*arguments):
        told = shosoin("link", "rate", "--length-km", "80", "--json", *arguments).json
        return told["points"][0]["secret_bits_per_pulse"]

    small, large = (rate("--protocol", FINITE, "--block-bits", bits) for bits in ("1e6", "1e9"))
    assert 0 < small < large < rate("--protocol", ASYMPTOTIC)


def test_the_bound_without_loss_is_no_number_and_no_defect(shosoin):
    answer = shosoin("link", "rate", "--protocol", "plob", "--from", "0", "--to", "50", "--step", "50")
    assert (answer.code, answer.err) == (0, "")
    assert "no bound" in answer.out
    at_nothing, at_fifty = shosoin(
        "link", "rate", "--protocol", "plob", "--attenuation-db", "0", "--attenuation-db", "10", "--json"
    ).json["points"]
    assert at_nothing["secret_bits_per_pulse"] is None
    assert 0.15 < at_fifty["secret_bits_per_pulse"] < 0.16


@pytest.mark.parametrize("protocol", ["decoy-bb84", "twin-field-sns-finite", "cv-homodyne-finite"])
def test_a_loss_that_leaves_no_light_is_a_rate_of_nothing_without_warnings(shosoin, protocol):
    answer = shosoin("link", "rate", "--protocol", protocol, "--attenuation-db", "1e5")
    assert (answer.code, answer.err) == (0, "")


def test_series_losses_and_lengths_say_the_same(shosoin):
    by_series = shosoin("link", "rate", "--from", "10", "--to", "30", "--step", "10", "--json").json["points"]
    by_length = shosoin("link", "rate", *(part for km in "123" for part in ("--length-km", f"{km}0")), "--json").json
    by_loss = shosoin("link", "rate", *(part for db in "246" for part in ("--attenuation-db", db)), "--json").json
    rates = [[point["secret_bits_per_pulse"] for point in points] for points in (by_series, by_length["points"])]
    assert rates[0] == rates[1] == [point["secret_bits_per_pulse"] for point in by_loss["points"]]
    assert by_loss["points"][0]["length_km"] is None


def test_parameters_come_from_a_file_and_from_the_line_and_the_last_one_counts(shosoin, tmp_path):
    file = tmp_path / "system.toml"
    file.write_text("misalignment_error = 0.01\nmean_photon_number = 0.3\n")
    told = shosoin(
        *("link", "rate", "--length-km", "1", "--json"),
        *("--parameters", file, "--parameters", "mean_photon_number=0.4"),
    ).json
    assert (told["parameters"]["misalignment_error"], told["parameters"]["mean_photon_number"]) == (0.01, 0.4)


def test_parameters_inside_others_have_dotted_names(shosoin, tmp_path):
    file = tmp_path / "system.toml"
    file.write_text("[link.detector]\nefficiency = 0.2\n")
    asked = ("link", "rate", "--protocol", FINITE, "--length-km", "1", "--no-optimise", "--json")
    assert shosoin(*asked, "--parameters", file).json["parameters"]["link.detector.efficiency"] == 0.2


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("--protocol", "decoy-bb85"), "no protocol 'decoy-bb85'", "'decoy-bb84'"),
        (("--parameters", "misalignment_eror=0.1"), "no parameter 'misalignment_eror'", "'misalignment_error'"),
        (("--parameters", "misalignment_error=much"), "misalignment_error wants a value like 0.02, got 'much'", ""),
        (("--parameters", "/nonexistent.toml"), "no file /nonexistent.toml", "KEY=VALUE"),
        (("--length-km", "1", "--attenuation-db", "1"), "exclude each other", ""),
        (("--length-km", "-1"), "must be numbers not below 0", ""),
        (("--length-km", "nan"), "must be numbers not below 0", ""),
        (("--from", "1"), "--from wants --to", "--step"),
        (("--from", "5", "--to", "1"), "from 5 to 1", "--step"),
        (("--from", "0", "--to", "1e9"), "no series", "--step"),
        (("--from", "0", "--to", "5", "--step", "0"), "no series", "--step"),
        (("--db-per-km", "0"), "more than 0 dB a km", ""),
        (("--block-bits", "1e6"), "it is computed for infinitely many pulses", "link protocols decoy-bb84"),
        (("--optimise",), "nothing to optimise", "--optimise"),
        (("--protocol", FINITE, "--block-bits", "0"), "1 to 1e+18 bits", ""),
        (("--plot", "picture.gif"), "neither .svg nor .png", ""),
    ],
)
def test_a_wrong_request_is_refused_with_a_hint(shosoin, arguments, error, hint):
    answer = shosoin("link", "rate", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert error in answer.errors[0]
    assert hint in "\n".join(answer.hints)


def test_a_file_that_is_no_toml_is_refused(shosoin, tmp_path):
    file = tmp_path / "system.toml"
    file.write_bytes(b"\xff = 1")
    answer = shosoin("link", "rate", "--parameters", file)
    assert answer.code == 2
    assert "is not TOML" in answer.errors[0]


def test_a_picture_is_the_same_each_time(shosoin, tmp_path):
    for name in ("one.svg", "two.svg", "three.png"):
        assert shosoin("link", "rate", "--from", "0", "--to", "40", "--plot", tmp_path / name).code == 0
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert b"PLOB bound" in drawn
    assert (tmp_path / "three.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_extra_is_named(shosoin, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    answer = shosoin("link", "rate", "--plot", tmp_path / "picture.svg")
    assert answer.code == 4
    assert "shosoin[plots]" in answer.hints[0]


def test_every_protocol_computes_with_its_defaults(shosoin):
    for name in PROTOCOLS:
        told = shosoin("link", "rate", "--protocol", name, "--length-km", "10", "--no-optimise", "--json").json
        (point,) = told["points"]
        assert 0 < point["secret_bits_per_pulse"] < 2
        assert told["asymptotic"] != PROTOCOLS[name].is_finite


def test_protocols_are_listed_and_one_shows_its_parameters(shosoin):
    listed = shosoin("link", "protocols")
    assert listed.code == 0
    for name, entry in PROTOCOLS.items():
        assert name in listed.out
        assert entry.source
    shown = shosoin("link", "protocols", ASYMPTOTIC).out
    assert "mean_photon_number" in shown
    told = {each["name"]: each for each in shosoin("link", "protocols", "--json").json["protocols"]}
    assert told.keys() == PROTOCOLS.keys()
    assert told[ASYMPTOTIC]["parameters"]["pulse_rate_hz"] == 1e9


def test_a_shell_completes_the_names_of_protocols():
    assert [name for name, _ in complete_protocol("decoy-bb84/w")] == [FINITE]
    assert complete_protocol("nothing") == []


def test_validation_shows_published_and_ours_with_the_source(shosoin):
    answer = shosoin("link", "validate", "--only", "decoy.gys-cutoff")
    assert (answer.code, answer.err) == (0, "")
    assert "reproduced" in answer.out
    assert "quant-ph/0503005" in answer.out


def test_validation_as_json_counts_and_derives(shosoin):
    told = shosoin("link", "validate", "--only", "bounds", "--json").json
    assert sum(told["count"].values()) == len(told["rows"])
    for row in told["rows"]:
        assert row["verdict"] == "reproduced"
        assert math.isclose(row["ours"], row["published"], rel_tol=1e-3)


def test_a_row_that_does_not_exist_is_refused(shosoin):
    answer = shosoin("link", "validate", "--only", "nothing")
    assert answer.code == 2
    assert "subjects are" in answer.hints[0]


def test_a_row_that_fails_without_a_reason_is_an_alarm(shosoin, monkeypatch):
    broken = replace(table.rows()[0], compute=lambda: 1.0)
    monkeypatch.setattr(table, "rows", lambda: (broken,))
    answer = shosoin("link", "validate", "--failed")
    assert answer.code == 6
    assert broken.id in answer.errors[0]
    assert "nobody wrote why" in answer.out
    explained = replace(broken, reason="an older detector")
    monkeypatch.setattr(table, "rows", lambda: (explained,))
    answer = shosoin("link", "validate")
    assert answer.code == 0
    assert f"{broken.id}: an older detector" in answer.out


def test_japanese_is_spoken(shosoin, monkeypatch):
    monkeypatch.setenv("SHOSOIN_LANG", "ja")
    assert "モデル計算です" in shosoin("link", "rate", "--length-km", "50").out
    assert "再現" in shosoin("link", "validate", "--only", "decoy.gys-cutoff").out
    assert "漸近" in shosoin("link", "protocols").out


def test_traffic_makes_noise_and_the_o_band_has_the_least_of_it(shosoin):
    told = shosoin("link", "coexist", "--wavelengths", "1310,1531", "--json").json
    quiet, loud = told["points"]
    assert told["model"]
    assert quiet["total_hz"] < 1e-2 * loud["total_hz"]
    assert quiet["secret_key_rate_bps"] > loud["secret_key_rate_bps"] == 0
    parts = ("raman_along_hz", "raman_against_hz", "four_wave_mixing_hz", "leakage_hz", "rayleigh_hz")
    assert math.isclose(sum(loud[part] for part in parts), loud["total_hz"])
    said = shosoin("link", "coexist", "--traffic", "1550:-20:against", "--wavelengths", "1531")
    assert said.out.startswith("a model; photons per second")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--traffic", "1550"), "'1550' is no channel"),
        (("--traffic", "1550:0:along"), "is no channel"),
        (("--traffic", "1550:zero"), "are no numbers"),
        (("--wavelengths", "1310,"), "are no numbers"),
        (("--wavelengths", "800"), "from 1260 to 1675"),
        (("--length-km", "-1"), "must be from 0"),
        (("--efficiency", "2"), "within [0, 1]"),
    ],
)
def test_impossible_traffic_is_refused(shosoin, arguments, error):
    answer = shosoin("link", "coexist", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert error in answer.errors[0]


def test_a_pass_says_that_it_is_simulated_and_under_which_proof(shosoin):
    told = shosoin("link", "pass", "--json").json
    assert (told["simulated"], told["proof"]) == (True, "lim2014")
    assert 0 < told["secret_bits"] < told["sifted_bits"]
    assert told["epsilons"]["total"] < 2e-9
    heights = [each["elevation_deg"] for each in told["series"]]
    assert math.isclose(max(heights), 80.0, abs_tol=0.1)
    said = shosoin("link", "pass", "--max-elevation", "40").out
    assert said.startswith("SIMULATED: one pass")
    assert "proof lim2014, failure probability 1e-09" in said


def test_a_pass_too_faint_for_a_key_has_none(shosoin):
    told = shosoin("link", "pass", "--optics-db", "40", "--json").json
    assert told["secret_bits"] == 0


@pytest.mark.parametrize("arguments", [("--altitude-km", "-1"), ("--max-elevation", "91"), ("--divergence-urad", "0")])
def test_an_impossible_pass_is_refused(shosoin, arguments):
    answer = shosoin("link", "pass", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert len(answer.errors) == 1
