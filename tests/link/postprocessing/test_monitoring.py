"""A simulated link that is watched: what a monitor finds suspicious becomes no key at either end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shosoin.link.detector import Detector
from shosoin.link.events.attacks import DetectorBlinding, InterceptResend, PhotonNumberSplitting, TrojanHorse
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.optics import Eavesdropper, Line
from shosoin.link.events.records import Settings
from shosoin.link.events.study import Batch, SimulatedStudy
from shosoin.link.postprocessing import BlockVoid, KeyReady, Outcome, Receiver, Transmitter, VoidReason
from shosoin.link.postprocessing.watching import readings_of
from shosoin.services.link_told import ToldBlocks
from tests.link.postprocessing.world import SMALL, MemoryJournal, SeededEntropy

SETTINGS = Settings((0.4, 0.1), (0.4, 0.6), 0.5, 0.5, 1e9).quantised()
LINE = Line(3.0, (Detector(0.6, 1e-6), Detector(0.6, 1e-6)), misalignment_error=0.005)
PULSES = 800_000


def recorded(eavesdropper: Eavesdropper | None, fraction: float) -> list[Batch]:
    study = SimulatedStudy(SETTINGS, LINE, 3, eavesdropper=eavesdropper, fraction=fraction)
    return list(study.batches(PULSES, batch_pulses=PULSES // 8))


def post_processed(
    batches: Sequence[Batch], *, watched: bool = True, with_devices: bool = True, **changed: Any
) -> tuple[list[Outcome], list[Outcome]]:
    """Run both ends on a study; return what became of the blocks at either.

    Args:
        with_devices: whether monitors see what devices read, or only what recordings tell.
        changed: parameters that are not the usual ones.
    """
    parameters = replace(SMALL, **{"settings": SETTINGS, "qber_max": 0.2, **changed})
    calibration = calibration_of(SETTINGS, LINE)
    monitors = [LinkMonitor(calibration) if watched else None for _ in range(2)]
    transmitter = Transmitter(parameters, MemoryJournal(), SeededEntropy(1), monitor=monitors[0])
    receiver = Receiver(parameters, MemoryJournal(), SeededEntropy(2), monitor=monitors[1])
    told: tuple[list[Outcome], list[Outcome]] = ([], [])
    sent, detected = list(batches), list(batches)
    receiver.start()
    while not (transmitter.is_finished and receiver.is_finished):
        for message in receiver.outgoing():
            transmitter.receive(message)
        for message in transmitter.outgoing():
            receiver.receive(message)
        told[0].extend(transmitter.outcomes())
        told[1].extend(receiver.outcomes())
        if transmitter.wants_pulses and sent:
            batch = sent.pop(0)
            transmitter.feed(batch.sent, batch.transmitter if with_devices else None)
        elif receiver.wants_detections and detected:
            batch = detected.pop(0)
            receiver.feed(batch.detected, batch.receiver if with_devices else readings_of(batch.detected))
        elif receiver.wants_detections:
            receiver.feed_end()
    return told


def voids(outcomes: Sequence[Outcome]) -> dict[int, VoidReason]:
    return {told.block: told.reason for told in outcomes if isinstance(told, BlockVoid)}


def test_an_honest_link_that_is_watched_gives_the_keys_that_it_gives_unwatched():
    batches = recorded(None, 1.0)
    watched, unwatched = post_processed(batches), post_processed(batches, watched=False)
    by_record = post_processed(batches, with_devices=False)
    keys = [
        {told.block: told.report["key_bits"] for told in end if isinstance(told, KeyReady)}
        for end in (*watched, *by_record, *unwatched)
    ]
    assert all(each == keys[0] for each in keys)
    assert keys[0]
    assert voids(watched[0]) == voids(watched[1]) == voids(unwatched[0])


def test_a_record_tells_of_clicks_what_the_devices_read():
    clicks = np.zeros((2, 2), np.int64)
    for batch in recorded(None, 1.0):
        told = readings_of(batch.detected)
        assert told.double_clicks == batch.receiver.double_clicks > 0
        assert (told.windows, told.timed) == (0, 0)  # nothing of these is recorded
        assert sum(told.clicks) == sum(batch.receiver.clicks)
        clicks += (told.clicks, batch.receiver.clicks)
    # A double click has a random bit: what is told of either detector strays by half the root of their number.
    assert abs(clicks[0, 0] - clicks[1, 0]) < 4 * np.sqrt(clicks.sum() / 2) * 0.5


ATTACKED = pytest.mark.parametrize(
    ("eavesdropper", "fraction", "found"),
    [
        (InterceptResend(), 0.25, "qber-high"),
        (PhotonNumberSplitting(blocked=1.0, transmittance=1.0), 0.5, "yields-inconsistent"),
        (DetectorBlinding(resent=0.3), 1.0, "photocurrent-high"),
        (TrojanHorse(), 1.0, "light-into-transmitter"),
    ],
    ids=["a quarter intercepted", "photon numbers split", "detectors blinded", "a Trojan horse"],
)


@ATTACKED
def test_no_block_of_a_link_that_is_attacked_has_a_key(eavesdropper, fraction, found):
    told = post_processed(recorded(eavesdropper, fraction))
    assert not any(isinstance(outcome, KeyReady) for end in told for outcome in end)
    assert voids(told[0]).keys() == voids(told[1]).keys()
    assert any(reason.is_alarm for reason in voids(told[0]).values())
    findings = [
        finding["kind"]
        for end in told
        for outcome in end
        if isinstance(outcome, BlockVoid)
        for finding in outcome.figures.get("findings", ())
    ]
    assert found in findings


@ATTACKED
def test_an_attack_on_a_link_whose_blocks_never_have_a_key_is_found_too(eavesdropper, fraction, found):
    told = post_processed(recorded(eavesdropper, fraction), fixed_secret_bits=1 << 20)
    void = [each for end in told for each in end if isinstance(each, BlockVoid)]
    findings = [finding["kind"] for each in void for finding in each.figures.get("findings", ())]
    assert found in findings
    assert not any(isinstance(outcome, KeyReady) for end in told for outcome in end)
    assert voids(told[0]).keys() == voids(told[1]).keys()
    assert all(each.reason.is_alarm for each in void if each.figures.get("findings"))


def test_a_link_that_was_suspended_over_its_limit_stays_so_in_later_sessions():
    for end in post_processed(recorded(InterceptResend(), 1.0), qber_max=0.06):
        first = next(each for each in end if isinstance(each, BlockVoid))
        assert first.reason is VoidReason.QBER_ABOVE_LIMIT
        journal = MemoryJournal()
        ToldBlocks(journal).add(first.block, {"reason": first.reason.code, "figures": dict(first.figures)})
        assert ToldBlocks(journal).is_suspended


def test_honest_blocks_without_a_key_are_not_suspicious():
    told = post_processed(recorded(None, 1.0), fixed_secret_bits=1 << 20)
    reasons = {reason for end in told for reason in voids(end).values()}
    assert VoidReason.NO_SECRET_LENGTH in reasons <= {VoidReason.NO_SECRET_LENGTH, VoidReason.TOO_SHORT}
