"""The whole post-processing of a link, both ends in one thread: sifted bits a second, and what each part takes.

``python bench/_link_pipeline.py`` runs it alone; ``SHOSOIN_BENCH_SHORT=1`` takes blocks of a tenth and one round.
Records are made here, one detection in eight pulses, nine of ten in the key basis at either end; errors are
independent. Journals are in memory: what durable commits cost follows from their number. Time is the thread's own.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from _common import Median, Report, median_of
from shosoin.kernels import active_path
from shosoin.link.events.records import Detections, SentPulses, Settings
from shosoin.link.postprocessing import (
    KeyReady,
    Receiver,
    SessionParameters,
    Transmitter,
    authentication,
    install_start_key,
    messages,
    receiver,
    reconciling,
    sifting,
    transmitter,
)

__all__ = ["report"]

SHORT = bool(os.environ.get("SHOSOIN_BENCH_SHORT"))
BLOCK_BITS = 1_000_000 if SHORT else 10_000_000
ROUNDS = 1 if SHORT else 3
BLOCKS = 2
WANTED_MBPS = 15.0
QBERS = (0.02, 0.03) if SHORT else (0.01, 0.02, 0.03, 0.045, 0.06)
OTHER_BLOCKS = {} if SHORT else {"10^6": 1_000_000, "3*10^6": 3_000_000, "3*10^7": 30_000_000}
KEY_BASIS = 0.9
PULSES_PER_DETECTION = 8
PART_DETECTIONS = 1 << 20
SETTINGS = Settings((0.5, 0.15), (0.7, 0.3), KEY_BASIS, KEY_BASIS, 1e9)

Owner = Any
PARTS: tuple[tuple[str, Owner, str], ...] = (
    ("sifting", transmitter, "look_up"),
    ("sifting", transmitter, "sift"),
    ("sifting", receiver, "announcement"),
    ("sifting", receiver, "kept_of_receiver"),
    ("sifting", sifting.Accumulator, "add"),
    ("messages", messages.Detected, "encode"),
    ("messages", messages.Sifted, "encode"),
    ("messages", transmitter.Transmitter, "_decode"),
    ("messages", receiver.Receiver, "_decode"),
    ("disclosing", reconciling, "disclose"),
    ("correcting", reconciling, "correct_many"),
    ("verification", transmitter, "hash_block"),
    ("verification", receiver, "hash_block"),
    ("amplification", transmitter, "amplify"),
    ("amplification", receiver, "amplify"),
    ("authentication", authentication, "polynomial_mac"),
)


class _Entropy:
    source, physical = "operating system", False

    def random_bytes(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)


class _Journal:
    def __init__(self) -> None:
        self._records: dict[str, bytes] = {}
        self.commits = 0
        install_start_key(self, bytes(1 << 16))

    def load(self) -> dict[str, bytes]:
        return dict(self._records)

    def commit(self, records: Mapping[str, bytes | None]) -> None:
        self.commits += 1
        for name, value in records.items():
            if value is None:
                self._records.pop(name, None)
            else:
                self._records[name] = value


def _records(qber: float, block_bits: int = BLOCK_BITS) -> tuple[list[SentPulses], list[Detections]]:
    """Return records whose detections fill the blocks, part by part."""
    rng = np.random.default_rng(1)
    left = int(BLOCKS * block_bits / KEY_BASIS**2 + 4 * math.sqrt(BLOCKS * block_bits))
    sent, detected, first = [], [], 0
    while left > 0:
        count = min(left, PART_DETECTIONS)
        left -= count
        pulses = first + np.cumsum(rng.integers(1, 2 * PULSES_PER_DETECTION, count)) - 1
        size = int(pulses[-1]) - first + 1
        bits = rng.integers(0, 256, (size + 7) // 8, dtype=np.uint8)
        is_test = rng.random(size) >= KEY_BASIS
        part = SentPulses(
            first, size, bits, np.packbits(is_test, bitorder="little"), (rng.random(size) < 0.3).astype(np.uint8)
        )
        bases = (rng.random(count) >= KEY_BASIS).astype(np.uint8)
        seen = part.bits_at(pulses) ^ (rng.random(count) < qber).astype(np.uint8)
        differ = bases != part.bases_at(pulses)
        seen[differ] = rng.integers(0, 2, int(differ.sum()), dtype=np.uint8)
        sent.append(part)
        detected.append(Detections(first, size, pulses, bases, seen))
        first += size
    return sent, detected


def _run(
    sent: list[SentPulses], detected: list[Detections], block_bits: int = BLOCK_BITS
) -> tuple[dict[int, Mapping[str, Any]], int, int]:
    """Hold one session; return the figures of the blocks, the commits of an end, and the bytes that passed."""
    parameters = SessionParameters(SETTINGS, block_bits=block_bits, qber_max=0.1)
    journals = _Journal(), _Journal()
    there = Transmitter(parameters, journals[0], _Entropy())
    here = Receiver(parameters, journals[1], _Entropy())
    to_feed, to_announce, passed = iter(sent), iter(detected), 0
    keys: tuple[dict[int, bytes], dict[int, bytes]] = ({}, {})
    reports: dict[int, Mapping[str, Any]] = {}
    here.start()
    while not (there.is_finished and here.is_finished):
        for source, target in ((here, there), (there, here)):
            for raw in source.outgoing():
                passed += len(raw)
                target.receive(raw)
        for mine, end in zip(keys, (there, here), strict=True):
            for told in end.outcomes():
                if isinstance(told, KeyReady):
                    mine[told.block], reports[told.block] = told.key.take(), told.report
                    end.stored(told.block)
        if there.wants_pulses:
            there.feed(next(to_feed))
        elif here.wants_detections:
            part = next(to_announce, None)
            if part is None:
                here.feed_end()
            else:
                here.feed(part)
    assert keys[0] == keys[1]
    assert len(keys[0]) == BLOCKS
    return reports, journals[0].commits, passed


def _sifted_bits(figures: Mapping[int, Mapping[str, Any]]) -> int:
    return sum(int(told["key_basis_bits"]) for told in figures.values())


@contextmanager
def _timed(spent: Counter[str]) -> Iterator[None]:
    """Let the parts add up their own time while the block runs."""
    originals = [(owner, name, getattr(owner, name)) for _, owner, name in PARTS]

    def timing(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*arguments, **named)
            finally:
                spent[part] += time.thread_time() - start  # type: ignore[assignment]  # seconds, not a count

        return timed

    for (part, _, _), (owner, name, function) in zip(PARTS, originals, strict=True):
        setattr(owner, name, timing(part, function))
    try:
        yield
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def report(report: Report) -> None:
    """Measure and report."""
    for name, block_bits in OTHER_BLOCKS.items():
        sent, detected = _records(0.03, block_bits)
        start = time.thread_time()
        figures, _, _ = _run(sent, detected, block_bits)
        took = median_of([time.thread_time() - start])
        case = f"pipeline, both ends, blocks of {name}, QBER 3 %"
        report.emit(case, active_path(), took.per(_sifted_bits(figures) / 1e6), "Mb/s sifted")
    for qber in QBERS:
        sent, detected = _records(qber)
        whole: list[float] = []
        parts: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            start = time.thread_time()
            figures, commits, passed = _run(sent, detected)
            whole.append(time.thread_time() - start)
            spent: Counter[str] = Counter()
            with _timed(spent):
                _run(sent, detected)
            for part, seconds in spent.items():
                parts.setdefault(part, []).append(seconds)
        case = f"pipeline, both ends, QBER {100 * qber:g} %"
        bits = _sifted_bits(figures) / 1e6  # a block has about BLOCK_BITS
        rate = median_of(whole).per(bits)
        report.emit(
            case, active_path(), rate, "Mb/s sifted",
            ratio=rate.value / WANTED_MBPS, ratio_to=f"{WANTED_MBPS:g} Mb/s", wanted=None if SHORT else 1.0,
        )  # fmt: skip
        for part, samples in parts.items():
            report.emit(f"  {part}", active_path(), median_of(samples).per(bits), "Mb/s sifted")
        secret = sum(told["secret_bits"] for told in figures.values()) / _sifted_bits(figures)
        efficiency = sum(told["f_ec"] for told in figures.values()) / BLOCKS
        report.emit("  secret bits a sifted bit", active_path(), Median(secret, secret, secret), "")
        report.note(
            f"QBER {100 * qber:g} %: f {efficiency:.3f}, {commits} commits an end, "
            f"{passed / BLOCKS / BLOCK_BITS:.2f} bytes on the classical channel a sifted bit"
        )


def main() -> None:
    """Run alone."""
    mine = Report("link-pipeline")
    report(mine)
    mine.close()


if __name__ == "__main__":
    main()
