"""Both ends together: honest runs, their accounts, and when there must be no key."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from shosoin.base import Rejected
from shosoin.link.counts import DecoyCounts
from shosoin.link.events.records import Detections, SentPulses, Settings
from shosoin.link.postprocessing import VoidReason, install_start_key
from shosoin.link.postprocessing.authentication import HEADER_BYTES, MESSAGE_BYTES_MAX, SESSION_BYTES
from shosoin.link.postprocessing.errors import (
    JournalRefused,
    MessageForged,
    ParametersDiffer,
    PeerBrokeProtocol,
    RecordRejected,
)
from shosoin.link.postprocessing.messages import (
    Amplify,
    Decoded,
    Detected,
    Frames,
    Hello,
    Opened,
    Parities,
    Sifted,
    Verified,
    Verify,
)
from shosoin.link.postprocessing.parameters import secret_length
from shosoin.link.postprocessing.reconciling import _FrameCorrector
from shosoin.link.rates.one_decoy import secret_length as one_decoy_length
from tests.link.postprocessing.world import SETTINGS, SMALL, MemoryJournal, Records, World, made_records, with_codes


@pytest.fixture(scope="module")
def honest() -> World:
    """Three blocks by Cascade, and what is left."""
    return World(with_codes("cascade")).run().check()


@pytest.fixture(scope="module")
def framed() -> World:
    """One block in LDPC frames, large enough for them."""
    parameters = replace(with_codes("ldpc"), block_bits=160_000, epsilon_correctness=1e-9)
    return World(parameters, made_records(4_000_000, parts=4, qber=0.02)).run().check()


def test_both_ends_report_the_same_figures(honest):
    assert honest.reports[0] == honest.reports[1]


def test_keys_differ_between_blocks_and_hold_no_long_run_of_one_byte(honest):
    keys = list(honest.keys[0].values())
    assert len({key[:16] for key in keys}) == len(keys)
    assert all(len(set(key)) > len(key) / 8 for key in keys)


def test_frames_give_a_key_and_cost_less_than_parities_that_count_both_ways(framed, honest):
    assert len(framed.keys[0]) == 1
    assert framed.reports[0][0]["f_ec"] < 2.0 < honest.reports[0][0]["f_ec"]


@pytest.mark.parametrize("codes", ["honest", "framed"])
def test_the_leak_is_what_the_transcript_shows_to_the_bit(codes, request):
    world = request.getfixturevalue(codes)
    for block, report in world.reports[0].items():
        shown = 0
        for passed in world.wire:
            message = passed.message
            if passed.header.number != block:
                continue
            match message:
                case Frames(_, messages, bits):
                    shown += sum(bits)
                    assert [len(one) for one in messages] == [(size + 7) // 8 for size in bits]
                case Decoded():
                    shown += len(message.is_decoded)
                case Parities(count, parities):
                    shown += count
                    assert len(parities) == (count + 7) // 8
                case Opened(_, bits):
                    shown += sum(bits)
                case Verified(_, _, widths):
                    shown += 1 + sum(widths)
        assert report["leak_ec_bits"] == shown > 0


def test_the_hash_is_not_longer_than_what_the_proof_subtracts_for_it(honest):
    for verify in honest.messages(Verify):
        assert verify.hash_bits <= np.log2(2 / SMALL.epsilon_correctness)


def test_no_key_is_longer_than_the_bound_for_the_counts_that_were_announced(honest):
    for block, report in honest.reports[0].items():
        counts = DecoyCounts(
            *(np.array(report[name]) for name in ("key_detections", "key_errors", "test_detections", "test_errors"))
        )
        allowed = one_decoy_length(
            counts,
            SETTINGS.intensities,
            SETTINGS.probabilities,
            leak_ec_bits=report["leak_ec_bits"],
            epsilon_secrecy=SMALL.epsilon_secrecy,
            epsilon_correctness=SMALL.epsilon_correctness,
        ).secret_bits
        assert 8 * len(honest.keys[0][block]) + report["authentication_bits"] <= allowed
        assert report["key_bits"] == 8 * len(honest.keys[0][block])


def test_the_counts_are_those_of_the_two_records_up_to_where_the_block_ends(honest):
    sent, detections = honest.records.sent, honest.records.detections
    pulses = np.concatenate([part.pulses for part in detections])
    bases = np.concatenate([part.bases for part in detections])
    bits = np.concatenate([part.bits for part in detections])
    kept = np.unpackbits(sent.bases, count=sent.count, bitorder="little")[pulses] == bases
    is_key = kept & (bases == 0)
    end = SMALL.block_detections
    wrong = np.unpackbits(sent.bits, count=sent.count, bitorder="little")[pulses] != bits
    intensity = sent.intensity[pulses]
    report = honest.reports[1][0]
    assert report["pulses"] == pulses[end - 1] + 1
    for index in range(2):
        of_it = (intensity == index) & (np.arange(len(pulses)) < end)
        assert report["key_detections"][index] == np.count_nonzero(of_it & is_key)
        assert report["key_errors"][index] == np.count_nonzero(of_it & is_key & wrong)
        assert report["test_detections"][index] == np.count_nonzero(of_it & kept & (bases == 1))
        assert report["test_errors"][index] == np.count_nonzero(of_it & kept & (bases == 1) & wrong)


def test_the_epsilon_of_authentication_is_the_sum_over_the_messages_of_the_block(honest):
    report = honest.reports[0][0]
    about = [passed for passed in honest.wire if passed.header.number == 0 or isinstance(passed.message, Hello)]
    of_block = [
        passed for passed in about if not isinstance(passed.message, Sifted) and type(passed.message).__name__ not in
        {"Detected", "End"}
    ]  # fmt: skip
    assert {"Done", "Settled"} <= {type(passed.message).__name__ for passed in of_block}
    announced = [passed.message for passed in honest.wire if isinstance(passed.message, Detected)]
    batches = [batch for batch in announced if batch.pulses[0] < report["pulses"]]  # each was answered
    longest = (HEADER_BYTES + SESSION_BYTES + 2 * MESSAGE_BYTES_MAX) // 16
    told = report["epsilons"]["authentication"] * 2.0**128 / longest
    assert round(told) == len(of_block) + 2 * len(batches)
    assert report["epsilons"]["total"] >= SMALL.epsilon_secrecy


def test_a_share_of_the_key_fills_both_key_streams_up_again(honest):
    assert any(report["authentication_bits"] for report in honest.reports[0].values()) is False
    thirsty = World(replace(SMALL, block_bits=32_768, authentication_stock_bytes=2048 + 256)).run().check()
    assert sum(report["authentication_bits"] for report in thirsty.reports[0].values()) >= 2 * 8 * 256
    names = [
        {name for name in journal.records if name.startswith("auth/key/")} for journal in thirsty.journals
    ]  # fmt: skip
    assert any(int(name.rsplit("/", 1)[1]) >= 2048 for name in names[0])


def test_authentication_takes_half_of_a_key_at_most_and_more_only_while_it_is_nearly_dry():
    blocks = replace(SMALL, block_bits=20_480, authentication_stock_bytes=8192)
    shares = []
    for start_bytes in (4096, 1024):
        start = bytes(range(256)) * (start_bytes // 256)
        world = World(blocks, made_records(), journals=(MemoryJournal(start), MemoryJournal(start))).run().check()
        report = world.reports[0][0]
        shares.append(report["authentication_bits"] / report["secret_bits"])
    ample, scarce = shares
    assert 0.3 < ample <= 0.5 < scarce <= 0.75


def test_ends_that_are_configured_differently_stop_before_a_detection_is_announced():
    for change in (
        {"epsilon_secrecy": 1e-4},
        {"block_bits": 8192},
        {"codes": "cascade"},
        {"qber_max": 0.05},
        {"settings": replace(SETTINGS, probabilities=(0.5, 0.5))},
        {"proof": "rusca2018"},
        {"record": "another"},
    ):
        world = World(receiver_parameters=replace(SMALL, **change))
        with pytest.raises(ParametersDiffer) as told:
            world.session()
        assert next(iter(change)) in told.value.message
        assert [type(passed.message) for passed in world.wire] in ([Hello], [Hello, Hello])
        assert world.keys == ({}, {})


def test_an_eavesdropper_on_a_quarter_of_the_pulses_raises_an_alarm_and_gets_nobody_a_bit():
    parameters = replace(SMALL, qber_max=0.05)
    world = World(parameters, made_records(qber=0.01, intercepted=0.25)).run().check()
    assert world.keys == ({}, {})
    assert world.voids[0] == world.voids[1]
    assert VoidReason.QBER_ABOVE_LIMIT in world.voids[0].values()
    assert all(reason.is_alarm or reason is VoidReason.TOO_SHORT for reason in world.voids[0].values())
    assert not list(world.messages(Frames))


def test_the_key_shrinks_with_the_error_rate_and_is_gone_before_eleven_per_cent():
    lengths = []
    for qber in (0.0025, 0.02, 0.04, 0.08, 0.12):
        counts = DecoyCounts(*(np.array(part) for part in expected_counts(10_000_000, qber)))
        leak = int(1.1 * 10_000_000 * -(qber * np.log2(qber) + (1 - qber) * np.log2(1 - qber)))
        _, bits = secret_length(
            replace(SMALL, epsilon_secrecy=1e-9, block_bits=10_000_000), counts, leak_bits=leak, block_bits=10_000_000
        )
        lengths.append(bits)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[2] > 0 == lengths[-1]


def expected_counts(total: int, qber: float) -> tuple[list[int], ...]:
    share = np.array(SETTINGS.intensities) * np.array(SETTINGS.probabilities)
    detected = [int(part) for part in np.round(total * share / share.sum())]
    wrong = [int(part * qber) for part in detected]
    return detected, wrong, detected, wrong


@pytest.mark.parametrize("qber", [0.03, 0.07, 0.12])
def test_at_any_error_rate_both_ends_agree_whether_there_is_a_key_and_which(qber):
    parameters = replace(with_codes("cascade"), qber_max=0.4)
    world = World(parameters, made_records(600_000, qber=qber)).run().check()
    assert world.voids[0] == world.voids[1]
    assert (qber == 0.03) or not world.keys[0]


def noisier_in_the_key_basis(records: Records, share: float) -> Records:
    rng = np.random.default_rng(7)
    parts = []
    for part in records.detections:
        flips = ((rng.random(len(part.bits)) < share) & (part.bases == 0)).astype(np.uint8)
        parts.append(replace(part, bits=part.bits ^ flips))
    return replace(records, detections=parts)


def test_frames_that_do_not_converge_are_disclosed_in_full_and_are_no_key():
    parameters = replace(SMALL, qber_max=0.3, block_bits=40_960)
    world = World(parameters, noisier_in_the_key_basis(made_records(2_200_000), 0.08)).run().check()
    opened = list(world.messages(Opened))
    assert opened
    assert all(verified.is_equal for verified in world.messages(Verified))
    frames = list(world.messages(Frames))
    assert sum(sum(message.frame_bits) for message in opened) <= 1.05 * parameters.block_bits * len(frames)
    assert not world.keys[0]
    assert set(world.voids[0].values()) <= {VoidReason.NO_SECRET_LENGTH, VoidReason.TOO_SHORT}


def test_a_block_that_differs_after_correction_is_void_at_both_ends_and_an_alarm(monkeypatch):
    finish = _FrameCorrector._finish

    def with_a_wrong_bit(self):
        finish(self)
        self.corrected[100] ^= 1

    monkeypatch.setattr(_FrameCorrector, "_finish", with_a_wrong_bit)
    world = World().run().check()
    assert world.keys == ({}, {})
    assert world.voids[0] == world.voids[1]
    assert VoidReason.NOT_EQUAL in world.voids[0].values()
    assert VoidReason.NOT_EQUAL.is_alarm
    assert not list(world.messages(Amplify))


def test_three_intensities_give_keys_under_the_two_decoy_proof():
    settings = Settings((0.6, 0.15, 0.0002), (0.4, 0.4, 0.2), 0.5, 0.5, 1e9)
    parameters = replace(SMALL, settings=settings, proof="lim2014", block_bits=40_960)
    world = World(parameters, made_records(1_200_000, settings=settings, parts=4)).run().check()
    assert world.keys[0]
    assert all(report["proof"] == "lim2014" for report in world.reports[0].values())
    assert all(len(report["key_detections"]) == 3 for report in world.reports[1].values())
    with pytest.raises(RecordRejected):
        replace(parameters, proof="wiesemann2024")


def test_a_record_in_one_basis_gives_no_key():
    records = made_records(400_000)
    only_key = [
        Detections(part.first, part.count, *(a[part.bases == 0] for a in (part.pulses, part.bases, part.bits)))
        for part in records.detections
    ]
    world = World(records=replace(records, detections=only_key)).run().check()
    assert set(world.voids[0].values()) == {VoidReason.ONE_BASIS}
    assert world.voids[0] == world.voids[1]
    only_test = [
        Detections(part.first, part.count, *(a[part.bases == 1] for a in (part.pulses, part.bases, part.bits)))
        for part in records.detections
    ]
    world = World(records=replace(records, detections=only_test)).run().check()
    assert world.keys == ({}, {})
    assert set(world.voids[0].values()) == {VoidReason.ONE_BASIS}
    assert world.voids[0] == world.voids[1]


def test_a_record_that_ends_early_gives_no_key_and_says_that_it_is_too_short():
    world = World(records=made_records(20_000)).run().check()
    assert set(world.voids[0].values()) == {VoidReason.TOO_SHORT}
    assert world.voids[0] == world.voids[1]


def test_a_fixed_length_is_that_length_or_nothing():
    world = World(replace(SMALL, fixed_secret_bits=800)).run().check()
    assert {len(key) for key in world.keys[0].values()} == {100}
    world = World(replace(SMALL, fixed_secret_bits=40_000)).run().check()
    assert not world.keys[0]


def test_detections_of_pulses_that_were_never_sent_are_refused():
    records = made_records(100_000)
    sent = records.sent
    half = SentPulses(50_000, 50_000, sent.bits[6250:], sent.bases[6250:], sent.intensity[50_000:])
    with pytest.raises(PeerBrokeProtocol):
        World(records=replace(records, sent=half)).session()
    world = World(records=records)
    transmitter, receiver = world.ends()
    receiver.start()
    world._pass_on(receiver, transmitter)
    world._pass_on(transmitter, receiver)
    for part in records.detections[:1]:
        receiver.feed(part)
    receiver.feed_end()
    world._pass_on(receiver, transmitter)
    with pytest.raises(RecordRejected):
        transmitter.feed_end()


def test_a_restored_backup_of_the_receiver_is_found_out_before_a_pulse_is_announced_again():
    world = World()
    old = dict(world.journals[1].records)
    world.run()
    world.journals[1].records = old
    with pytest.raises(MessageForged) as told:
        world.session()
    assert told.value.code == "link.authentication_reused"
    marks = {name: value for name, value in world.journals[1].records.items() if name.startswith("auth/")}
    world.journals[1].records = {**marks, "auth/mark/1": world.journals[0].records["auth/mark/1"]}
    with pytest.raises(JournalRefused):
        world.session()


def test_a_start_key_is_installed_once():
    journal = MemoryJournal()
    with pytest.raises(Rejected) as told:
        install_start_key(journal, bytes(512))
    assert told.value.code == "link.start_key_exists"


def test_no_key_bit_shows_in_a_representation_or_a_log(honest, caplog):
    caplog.set_level(logging.DEBUG)
    transmitter, receiver = honest.ends()
    amplify = next(iter(honest.messages(Amplify)))
    shown = " ".join(map(repr, (transmitter, receiver, transmitter._streams, honest.reports[0], transmitter._kept)))
    shown += caplog.text
    for key in honest.keys[0].values():
        assert key[:8].hex() not in shown
        assert repr(key[:8])[2:-1] not in shown
    assert amplify.seed[:8].hex() not in shown
