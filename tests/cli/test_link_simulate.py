"""Transcripts of ``shosoin link simulate``: everything says that it is simulated."""

import json
import stat

import pytest
import typer
from typer.testing import CliRunner

from shosoin.base import Rejected
from shosoin.base.messages import set_language
from shosoin.cli.link_simulate import simulate
from shosoin.link.events.calibration_files import decode_calibration
from shosoin.link.events.recording import Part, decode_recording

APP = typer.Typer()
APP.command()(simulate)
SHORT = ("--pulses", "3e5", "--attenuation-db", "3")


def run(*arguments):
    set_language("en")
    return CliRunner().invoke(APP, [*SHORT, *map(str, arguments)])


def test_an_honest_link_is_told_as_a_table_and_called_simulated():
    answer = run("--seed", 4)
    assert answer.exit_code == 0
    assert answer.output.startswith("SIMULATED: 300,000 pulses of decoy BB84 over 3 dB\nnobody between the two ends")
    assert "INTENSITY" in answer.output
    assert "the monitor saw nothing that an honest link would not show" in answer.output


def test_json_has_counts_the_truth_and_the_first_alarm():
    told = json.loads(run("--attack", "intercept-resend", "--json").output)
    assert (told["simulated"], told["attack"], told["pulses"]) == (True, "intercept-resend", 300_000)
    assert sum(level["pulses"] for level in told["intensities"]) == 300_000
    assert told["intensities"][0]["qber"] > 0.2 > told["intensities"][0]["qber_honest"]
    assert told["blocks"] == {"continue": 0, "discard-block": 0, "suspend-link": 1}
    assert told["first_alarm"]["findings"][0]["kind"] == "qber-high"
    assert 0 < told["truth"]["eve_right_bits"] <= told["sifted_key_bits"]


def test_the_same_seed_gives_the_same_answer_and_another_another():
    one, again, other = (json.loads(run("--seed", seed, "--json").output) for seed in (1, 1, 2))
    assert one == again
    assert one["sifted_key_bits"] != other["sifted_key_bits"]


def test_an_attack_is_told_with_what_was_learned():
    answer = run("--attack", "trojan-horse", "--fraction", "0.5")
    assert "attack: trojan-horse, on 50% of the pulses" in answer.output
    assert "the eavesdropper holds" in answer.output
    assert "first alarm at block 0: light-into-transmitter" in answer.output


def test_recordings_are_private_files_that_hold_each_end_alone(tmp_path):
    sent, received = tmp_path / "sent", tmp_path / "received"
    answer = run("--transmitter-file", sent, "--receiver-file", received)
    assert answer.exit_code == 0
    for path, part in ((sent, Part.TRANSMITTER), (received, Part.RECEIVER)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        read = decode_recording(path.read_bytes())
        assert (read.header.part, read.header.simulated) == (part, True)
        assert "simulated" in read.header.origin
        assert sum(batch.count for batch in read.sent) + sum(batch.count for batch in read.detected) == 300_000


def test_limits_of_an_honest_link_do_not_depend_on_who_is_on_the_line(tmp_path):
    written = []
    for name, attack in (("one", ()), ("two", ("--attack", "intercept-resend"))):
        assert run("--pulses", "1e4", "--calibration-file", tmp_path / name, *attack).exit_code in {0, 6}
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    read = decode_calibration(written[0])
    assert read.simulated
    assert read.calibration.intensities == (0.4, 0.12)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--pulses", "0.5"),
        ("--pulses", "1e20"),
        ("--length-km", "3"),
        ("--attack", "magic"),
        ("--fraction", "1.5", "--attack", "time-shift"),
        ("--intensities", "0.1,0.5,0.2"),
        ("--intensities", "a,b,c"),
        ("--efficiency", "2"),
        ("--pulse-rate", "0"),
        ("--attenuation-db", "nan"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments):
    answer = run(*arguments)
    assert isinstance(answer.exception, Rejected)
    assert answer.output == ""
