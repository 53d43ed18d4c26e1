"""Attacks on the link's commands, on lists of time tags, and on what amplification and searches are given."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from shosoin.base import Rejected, SimulationRng
from shosoin.cli import run
from shosoin.kernels import arrays
from shosoin.link.amplification import amplify
from shosoin.link.channels.pass_key import DecoySource
from shosoin.link.detector import Detector
from shosoin.link.events import timetags
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.optics import Line
from shosoin.link.events.records import Detections, SentPulses, Settings
from shosoin.link.events.tails import confidence_interval
from shosoin.link.rates import optimise
from shosoin.link.rates.decoy_bounds import DecoySettings
from shosoin.link.rates.expected_counts import DecoyLink
from shosoin.link.rates.finite_key import Block, FiniteProof


def refused(capfd, *arguments) -> str:
    code = run(["link", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert code == 2, err
    assert out == ""
    assert "Warning" not in err
    return str(err)


@pytest.mark.parametrize("value", ["nan", "1e300"])
@pytest.mark.parametrize(
    "option",
    [
        "pass --altitude-km",
        "pass --wavelength-nm",
        "pass --divergence-urad",
        "pass --aperture-m",
        "coexist --wavelengths",
    ],
)
def test_what_no_model_is_for_is_refused_by_the_name_of_the_option(capfd, option, value):
    command, name = option.split()
    assert name in refused(capfd, command, f"{name}={value}")


@pytest.mark.parametrize("option", ["jitter-urad", "optics-db", "background-hz", "pulse-rate", "zenith-transmittance"])
@pytest.mark.parametrize("value", ["inf"])
def test_an_infinite_pass_is_refused_and_not_printed_as_what_json_lacks(capfd, option, value):
    assert option in refused(capfd, "pass", f"--{option}={value}", "--json")


@pytest.mark.parametrize("traffic", ["nan:0", "1550:inf", "1550:0,3"])
def test_traffic_that_cannot_be_is_no_defect(capfd, traffic):
    refused(capfd, "coexist", "--traffic", traffic)


def test_traffic_without_end_is_refused_before_it_fills_memory(capfd):
    refused(capfd, "coexist", *["--traffic=1550:0"] * 1000)
    refused(capfd, "coexist", "--wavelengths", ",".join(["1550"] * 5000))


def test_a_passband_without_end_is_refused(capfd):
    assert "--passband-nm" in refused(capfd, "coexist", "--passband-nm=inf", "--json")


@pytest.mark.parametrize(
    "parameter",
    [
        "receiver_efficiency=1e300",
        "reconciliation_efficiency=0.5",
        "sifting_factor=2",
        "pulse_rate_hz=inf",
    ],
)
def test_a_rate_of_a_system_that_cannot_be_is_refused_and_not_computed(capfd, parameter):
    assert parameter.partition("=")[0] in refused(capfd, "rate", "--parameters", parameter, "--json")


@pytest.mark.parametrize(
    "parameter",
    [
        "intensities=0.5",
        "intensities=0.1,0.4",
        "key_basis_probability=0",
        "link.reconciliation_efficiency=inf",
    ],
)
def test_settings_that_no_proof_takes_are_refused(capfd, parameter):
    protocol = ("--protocol", "decoy-bb84/wiesemann2024", "--no-optimise", "--length-km", "20")
    refused(capfd, "rate", *protocol, "--parameters", parameter)


def test_a_parameter_that_is_no_number_is_not_made_one(capfd):
    refused(capfd, "rate", "--protocol", "mdi-finite", "--parameters", "block.settings=0.5")


def test_a_number_too_large_for_floating_point_is_refused(capfd, tmp_path):
    large = tmp_path / "large.toml"
    large.write_text(f"pulse_rate_hz = {10**400}")
    assert "pulse_rate_hz" in refused(capfd, "rate", "--parameters", large)
    assert "block" in refused(capfd, "rate", "--protocol", "decoy-bb84/lim2014", "--block-bits=1e300")


def test_a_file_of_parameters_nested_beyond_measure_is_refused(capfd, tmp_path):
    deep, long = tmp_path / "deep.toml", tmp_path / "long.toml"
    deep.write_text("a=" + "[" * 100_000)
    long.write_text("a=" + "1" * 100_000)
    for path in (deep, long):
        assert str(path) in refused(capfd, "rate", "--parameters", path)


@pytest.mark.parametrize("option", ["--offset-ps=nan", "--offset-ps=inf", "--within=-1", f"--within={1 << 70}"])
def test_a_place_that_is_none_is_refused_before_anything_is_read(capfd, tmp_path, option):
    said = refused(capfd, "convert", "x", "--transmitter-file", "y", "--receiver-file", tmp_path / "z", option)
    assert option.partition("=")[0] in said


def test_losses_in_any_order_are_optimised_each_for_itself(monkeypatch):
    asked = []

    def settings(link, *, attenuation_db, start, **_):
        asked.append((attenuation_db, start and start["at"]))
        rate = {0.0: 0.0, 5.0: 2.0}.get(attenuation_db, 0.0)
        return optimise.SettingsOptimum(link, rate, {"at": attenuation_db})

    monkeypatch.setattr(optimise, "optimise_settings", settings)
    link = DecoyLink(Detector(0.2, 1e-6), 0.01)
    losses = [9.0, 0.0, 5.0, 8.0, 7.0]
    found = optimise.optimise_along(
        link, proof=FiniteProof.LIM2014, block=Block(key_detections=1e6), attenuation_db=losses
    )
    # A key behind a first point without one is found; where the key has ended nothing is sought.
    assert asked == [(0.0, None), (0.0, None), (5.0, 0.0), (7.0, 5.0)]
    assert [each.secret_bits_per_pulse for each in found] == [0.0, 0.0, 2.0, 0.0, 0.0]


def test_a_key_at_the_edge_of_the_range_is_found_from_nearer(monkeypatch):
    def settings(link, *, attenuation_db, start, **_):
        # Far out, settings are found only from those of two decibels before.
        near = attenuation_db <= 36.0 or (start is not None and start["at"] >= attenuation_db - 2.0)
        rate = 1.0 if near and attenuation_db <= 42.0 else 0.0
        return optimise.SettingsOptimum(link, rate, {"at": attenuation_db})

    monkeypatch.setattr(optimise, "optimise_settings", settings)
    link, block = DecoyLink(Detector(0.2, 1e-6), 0.01), Block(key_detections=1e6)
    for losses, rates in (([42.0], [1.0]), ([38.0, 42.0, 43.0, 44.0], [1.0, 1.0, 0.0, 0.0]), ([50.0], [0.0])):
        found = optimise.optimise_along(link, proof=FiniteProof.LIM2014, block=block, attenuation_db=losses)
        assert [each.secret_bits_per_pulse for each in found] == rates


def test_the_two_ends_recordings_never_share_a_file(capfd, tmp_path):
    sent, received = tmp_path / "sent", tmp_path / "received"
    received.symlink_to(sent)
    files = ("--transmitter-file", sent, "--receiver-file", received)
    assert "must differ" in refused(capfd, "simulate", "--pulses", "1000", *files)


def test_a_recording_on_a_full_disk_is_told_by_its_name(capfd):
    code = run(["link", "simulate", "--pulses", "2e5", "--transmitter-file", "/dev/full"])
    assert code == 4
    assert "/dev/full" in capfd.readouterr().err


def test_where_standard_output_is_closed_a_command_ends_in_order():
    command = [sys.executable, "-m", "shosoin.cli", "link", "protocols", "plob"]
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_kernels_and_arrays_that_are_not_there_are_the_environments_fault(monkeypatch):
    ended = subprocess.run(
        [sys.executable, "-m", "shosoin.cli", "link", "simulate", "--pulses", "1"],
        env={**os.environ, "SHOSOIN_KERNELS": "avx9000", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "avx9000" in ended.stderr
    monkeypatch.setenv(arrays.VARIABLE, "jax")
    monkeypatch.setattr(arrays, "_in_use", [])
    with pytest.raises(Rejected, match="SHOSOIN_ARRAYS"):
        arrays.arrays_in_use()


def test_a_seed_out_of_the_key_is_refused_and_the_key_left_alone():
    memory = bytearray(b"abcdefgh")
    with pytest.raises(ValueError, match="independent"):
        amplify(memoryview(memory)[:2], 16, memoryview(memory)[1:5], 8)
    with pytest.raises(ValueError, match="contiguous"):
        amplify(memoryview(memory)[:2], 16, memoryview(bytes(30))[::2], 8)
    assert memory == b"abcdefgh"


def test_a_line_of_tags_without_end_is_refused_before_anything_copies_it(monkeypatch):
    monkeypatch.setattr(timetags, "_tags_of", lambda text: pytest.fail(f"got {len(text)} bytes to take apart"))
    with pytest.raises(Rejected, match="too long"):
        timetags.parse_time_tags(b"1" * ((2 << 20) + 2))


@pytest.mark.parametrize("first", [0, 1 << 61])
def test_pulse_0_is_sought_only_where_it_can_be_however_far_that_is_allowed(first):
    rng = np.random.default_rng(5)
    bits, bases = (rng.integers(0, 256, 125, dtype=np.uint8) for _ in range(2))
    sent = SentPulses(first, 1000, bits, bases, np.zeros(1000, np.uint8))
    there = np.arange(first + 7, first + 907)
    seen = Detections(0, 900, there - first - 7, sent.bases_at(there), sent.bits_at(there))
    assert timetags.find_pulse_offset(sent, seen, within=1 << 62) == first + 7
    none = Detections(0, 1, np.empty(0, np.int64), np.empty(0, np.uint8), np.empty(0, np.uint8))
    with pytest.raises(Rejected):
        timetags.find_pulse_offset(sent, none, within=1 << 62)


@pytest.mark.parametrize("margins", [{"drift_db": np.nan}, {"drift_db": -1.0}, {"qber_margin": np.nan}])
def test_a_margin_that_is_no_number_calibrates_nothing(margins):
    detector = Detector(0.2, 1e-6)
    settings = Settings((0.4, 0.1), (0.6, 0.4), 0.7, 0.7, 1e9)
    with pytest.raises(ValueError, match="margins"):
        calibration_of(settings, Line(10.0, (detector, detector), 0.01), **margins)


def test_probabilities_that_miss_1_by_more_than_rounding_are_refused_wherever_a_bound_takes_them():
    off = (0.67 - 9e-10, 0.33)
    for made in (
        lambda: DecoySettings(np.array([0.4, 0.12]), np.array(off)),
        lambda: Settings((0.4, 0.12), off, 0.7, 0.7, 1e9),
        lambda: DecoySource(1e9, (0.4, 0.12), off, 0.7, 0.01),
    ):
        with pytest.raises(ValueError, match="sum to 1"):
            made()


@pytest.mark.parametrize("miss", [0.0, 1e-300, np.nan, 1.0])
def test_an_interval_that_never_misses_is_refused_and_not_sought_for_ever(miss):
    with pytest.raises(ValueError, match="probability"):
        confidence_interval(5, 10, miss)


def test_the_farthest_pass_is_all_numbers(capfd):
    far = ("--altitude-km=50000", "--divergence-urad=1e5", "--aperture-m=0.001", "--optics-db=200", "--max-elevation=5")
    assert run(["link", "pass", *far, "--jitter-urad=1e5", "--zenith-transmittance=1e-9", "--json"]) == 0
    json.loads(capfd.readouterr().out, parse_constant=pytest.fail)


def test_a_list_with_random_bits_for_double_clicks_is_one_of_the_pulses_sent():
    rng = SimulationRng(3)
    tags = timetags.TimeTags(np.array([5, 5, 1000, 1000, 1000], np.int64), np.array([0, 1, 0, 2, 3], np.uint8))
    channels = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (1, 1)}
    made = timetags.convert(tags, timetags.Clock(0.0, 1000.0), channels, gate_ps=100.0, first=0, count=2, random=rng)
    assert made.detections.pulses.tolist() == [0, 1]
    assert (made.detections.double_clicks, made.both_bases) == (2, 1)
