"""Transcripts of ``shosoin link convert``: from a counter's text to the recording that it stands for."""

import json
import stat

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from shosoin.base import Rejected
from shosoin.base.messages import set_language
from shosoin.cli.link import app
from shosoin.link.events.recording import Part, decode_recording
from shosoin.link.events.records import Detections

PERIOD_PS, START_PS = 1000.0 * (1 + 2e-6), 7_345_000_123.25


@pytest.fixture(scope="module")
def run_of_a_link(tmp_path_factory):
    """A simulated run: the transmitter's recording, the receiver's detections, and the text of a counter with drift."""
    root = tmp_path_factory.mktemp("run")
    sent, received = root / "sent", root / "received"
    run("simulate", "--pulses", "6e5", "--attenuation-db", "6", "--transmitter-file", sent, "--receiver-file", received)
    (seen,) = decode_recording(received.read_bytes()).detected
    rng = np.random.default_rng(2)
    times = np.rint(START_PS + seen.pulses * PERIOD_PS + rng.normal(0, 40, seen.pulses.size)).astype(np.int64)
    channels = seen.bases * 2 + seen.bits
    tags = root / "tags.csv"
    tags.write_text("# time in ps, channel\n" + "".join(f"{t},{c}\n" for t, c in zip(times, channels, strict=True)))
    return sent, tags, seen


def run(*arguments):
    set_language("en")
    return CliRunner().invoke(app, list(map(str, arguments)))


def converted(path) -> Detections:
    recording = decode_recording(path.read_bytes())
    assert recording.header.part is Part.RECEIVER
    assert recording.header.simulated
    (batch,) = recording.detected
    assert isinstance(batch, Detections)
    return batch


def test_time_tags_of_a_drifting_clock_become_the_detections_that_they_are(run_of_a_link, tmp_path):
    sent, tags, seen = run_of_a_link
    made = tmp_path / "made"
    answer = run("convert", tags, "--transmitter-file", sent, "--receiver-file", made)
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("SIMULATED")
    assert "pulses arrive every 1000.002" in answer.output
    found = converted(made)
    late = seen.pulses >= found.first
    assert 0 < found.first == seen.pulses[1999] + 1
    assert np.array_equal(found.pulses, seen.pulses[late])
    assert np.array_equal(found.bases, seen.bases[late])
    assert np.array_equal(found.bits, seen.bits[late])
    assert stat.S_IMODE(made.stat().st_mode) == 0o600


def test_where_pulse_0_is_known_nothing_is_compared_or_left_out(run_of_a_link, tmp_path):
    sent, tags, seen = run_of_a_link
    made = tmp_path / "made"
    answer = run(
        "convert", tags, "--transmitter-file", sent, "--receiver-file", made, "--offset-ps", START_PS, "--json"
    )
    told = json.loads(answer.output)
    assert (told["first_pulse"], told["pulses"], told["detections"]) == (0, 600_000, seen.pulses.size)
    assert told["simulated"] is True
    assert np.array_equal(converted(made).bits, seen.bits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--channels", "0=H"), "N=STATE"),
        (("--channels", "300=key0"), "from 0 to 255"),
        (("--gate-ps", "5000"), "--gate-ps"),
        (("--within", "3", "--channels", "0=key1,1=key0,2=test1,3=test0"), "sample"),
    ],
)
def test_what_cannot_be_is_rejected_and_nothing_is_written(run_of_a_link, tmp_path, options, said):
    sent, tags, _ = run_of_a_link
    answer = run("convert", tags, "--transmitter-file", sent, "--receiver-file", tmp_path / "made", *options)
    assert isinstance(answer.exception, Rejected)
    assert said in answer.exception.message
    assert not (tmp_path / "made").exists()


def test_a_recording_that_is_there_is_not_overwritten(run_of_a_link, tmp_path):
    sent, tags, _ = run_of_a_link
    (tmp_path / "made").write_text("precious")
    answer = run("convert", tags, "--transmitter-file", sent, "--receiver-file", tmp_path / "made")
    assert answer.exception is not None
    assert (tmp_path / "made").read_text() == "precious"


def test_an_app_has_the_command():
    assert "convert" in typer.main.get_command(app).commands  # type: ignore[attr-defined]
