"""Pulses on every path: the same as the specification bit for bit, however they are cut into batches."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.kernels import pulses
from shosoin.kernels.reference_pulses import ROWS, philox
from tests.kernels.support import PATHS, each_path

LIMITS = (30_000, 40_000, 60_000, 65_536)
DELAYS = tuple(1 + index // 8 for index in range(256))


def table_of(chance: float, *, rng=None) -> pulses.ArrivalTable:
    """Outcomes of random probabilities, up to this much together, and random codes."""
    rng = rng or np.random.default_rng(5)
    shares = rng.dirichlet(np.ones(7), ROWS) * chance
    thresholds = (np.cumsum(shares, axis=1) * 2.0**64).clip(0, 2.0**64 - 2048).astype(np.uint64)
    codes = (rng.integers(0, 1 << 26, (ROWS, 7), dtype=np.uint32) << np.uint32(2)) | rng.integers(
        1, 4, (ROWS, 7), dtype=np.uint32
    )
    return pulses.ArrivalTable(thresholds, codes)


DYNAMICS = {
    "without memory": pulses.DetectorDynamics(),
    "dead and after-pulsing": pulses.DetectorDynamics((3, 40), False, (1 << 30, 1 << 28), 31 << 2, DELAYS),
    "blind together": pulses.DetectorDynamics((7, 2), True, ((1 << 32) - 1, 0), 31 << 2, DELAYS),
}


def run(path, cuts, *, chance, dynamics, seed=7, first=3):
    """All that comes of pulses cut like this: choices, clicks, and the state of the detectors."""
    table, state = table_of(chance), pulses.new_state()
    parts, at = [], first
    for size in cuts:
        made = pulses.choose(seed, at, size, LIMITS, path=path)
        clicks = pulses.detect(
            made.states, table, dynamics, state, seed=seed + 1, first=at, basis_threshold=3 << 30, path=path
        )
        unpacked = [np.unpackbits(each, count=size, bitorder="little") for each in (made.bits, made.bases)]
        parts.append([*unpacked, made.intensity, made.states, clicks.pulses, clicks.codes])
        at += size
    return [*(np.concatenate(each) for each in zip(*parts, strict=True)), state]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_generator_gives_the_known_answers_of_its_authors():
    """philox4x32-10 of kat_vectors in Random123, the library of Salmon et al."""
    full = 0xFFFFFFFF
    for block, stream, domain, seed, words in (
        (0, 0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, full, full, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x85A308D3243F6A88,
            0x13198A2E,
            0x03707344,
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):
        assert tuple(philox(seed, stream, domain, np.array([block], np.uint64))[0]) == words


@each_path
@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=DYNAMICS.keys())
@pytest.mark.parametrize("chance", [0.9, 0.02])
def test_every_path_gives_what_the_specification_gives(path, dynamics, chance):
    cuts = [1, 2, 15, 16, 17, 4095, 4096, 4097, 1, 9000]
    specified = run("reference", [sum(cuts)], chance=chance, dynamics=dynamics)
    assert specified[4].size > 100
    assert same(run(path, [sum(cuts)], chance=chance, dynamics=dynamics), specified)
    assert same(run(path, cuts, chance=chance, dynamics=dynamics), specified)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 700), min_size=1, max_size=6),
    st.sampled_from(sorted(DYNAMICS)),
    st.integers(0, 2**61),
    st.integers(0, 2**63),
)
def test_batches_may_be_cut_anywhere_and_numbers_may_be_large(cuts, name, first, seed):
    whole = run("reference", [sum(cuts)], chance=0.3, dynamics=DYNAMICS[name], first=first, seed=seed)
    for path in PATHS:
        assert same(run(path, cuts, chance=0.3, dynamics=DYNAMICS[name], first=first, seed=seed), whole)


@each_path
@given(st.binary(max_size=900), st.tuples(st.integers(0, 1 << 15), *[st.integers(0, 1 << 16)] * 3))
@settings(max_examples=30, deadline=None)
def test_choices_from_given_words_are_read_off_their_bits(path, data, limits):
    data = data[: len(data) // 4 * 4]
    words = np.frombuffer(data, "<u4")
    made = pulses.choose(data, 0, words.size, limits, path=path)
    bit, basis = words & 1, (words >> 1 & 0x7FFF) >= limits[0]
    level = sum(((words >> 16) >= limit).astype(np.uint8) for limit in limits[1:])
    assert np.array_equal(made.bits, np.packbits(bit.astype(np.uint8), bitorder="little"))
    assert np.array_equal(made.bases, np.packbits(basis, bitorder="little"))
    assert np.array_equal(made.intensity, level)
    assert np.array_equal(made.states, level << 2 | basis << 1 | bit)


@each_path
def test_outputs_that_fill_up_lose_nothing(path, monkeypatch):
    """The door asks for room by expectation; here it always asks for too little."""
    monkeypatch.setattr(pulses, "min", lambda *_: 40, raising=False)
    cuts = [3000]
    for dynamics in DYNAMICS.values():
        short = run(path, cuts, chance=0.5, dynamics=dynamics)
        monkeypatch.undo()
        assert same(short, run("reference", cuts, chance=0.5, dynamics=dynamics))
        monkeypatch.setattr(pulses, "min", lambda *_: 40, raising=False)


@each_path
def test_more_after_pulses_than_can_wait_are_counted_and_dropped(path):
    dynamics = pulses.DetectorDynamics((1, 1), False, ((1 << 32) - 1,) * 2, 31 << 2, (5000,) * 256)
    specified = run("reference", [4000], chance=0.9, dynamics=dynamics)
    assert specified[-1][2] == 16
    assert specified[-1][4] > 1000
    assert same(run(path, [4000], chance=0.9, dynamics=dynamics), specified)


@each_path
def test_a_click_is_followed_by_nothing_until_the_dead_time_is_over(path):
    dynamics = pulses.DetectorDynamics((9, 9), True)
    numbers = run(path, [20_000], chance=0.9, dynamics=dynamics)[4]
    assert np.diff(numbers).min() == 9


def test_what_kernels_must_not_be_given_is_refused():
    table, state = table_of(0.1), pulses.new_state()
    states = np.zeros(8, np.uint8)

    def detect(**changes):
        arguments = {"seed": 1, "first": 0, "basis_threshold": 1 << 31} | changes
        return pulses.detect(states, table, pulses.DetectorDynamics(), state, **arguments)

    for changes in ({"seed": -1}, {"seed": 1 << 64}, {"first": -1}, {"first": 1 << 62}, {"basis_threshold": 1 << 33}):
        with pytest.raises(ValueError, match=r"want|numbered"):
            detect(**changes)
    with pytest.raises(ValueError, match="new_state"):
        pulses.detect(states, table, pulses.DetectorDynamics(), state[:5], seed=1, first=0, basis_threshold=1)
    falling = table.thresholds[:, ::-1].copy()
    for thresholds, codes in ((falling, table.codes), (table.thresholds, table.codes & ~np.uint32(3))):
        with pytest.raises(ValueError, match="must"):
            pulses.ArrivalTable(thresholds, codes)
    wrong: list[dict[str, Any]] = [
        {"dead_gates": (0, 1)},
        {"delays": (0,) * 256},
        {"delays": (1,)},
        {"after_pulse_code": 1},
    ]
    for values in wrong:
        with pytest.raises(ValueError, match=r"want|bits"):
            pulses.DetectorDynamics(**values)
    for source, limits in ((b"123", LIMITS), (-1, LIMITS), (1, (1 << 16, 0, 0, 0))):
        with pytest.raises(ValueError, match=r"random bytes|seed|limits"):
            pulses.choose(source, 0, 1, limits)


@pytest.mark.parametrize("path", [path for path in PATHS if path != "reference"])
def test_native_kernels_refuse_buffers_of_the_wrong_size_themselves(path):
    from shosoin.kernels import _native

    kernels = _native.Pulses(path)
    table, state, dynamics = table_of(0.1), pulses.new_state(), pulses.DetectorDynamics().words()
    good: dict[str, Any] = {
        "states": np.zeros(8, np.uint8),
        "thresholds": table.thresholds,
        "codes": table.codes,
        "dynamics": dynamics,
        "state": state,
        "pulses": np.empty(8, np.int64),
        "found": np.empty(8, np.uint32),
    }
    numbers: dict[str, Any] = {"seed": 1, "domain": 0, "first": 0, "basis_threshold": 5}
    assert kernels.detect(**numbers, **good)[0] == 8
    damaged = state.copy()
    damaged[2] = 17
    for name, wrong in (
        ("thresholds", table.thresholds[:31]),
        ("codes", table.codes[:, :3].copy()),
        ("dynamics", dynamics[:-1]),
        ("state", state[:-1]),
        ("state", damaged),
        ("found", np.empty(7, np.uint32)),
        ("pulses", np.empty(0, np.int64)),
    ):
        with pytest.raises(ValueError, match=r"must|wrong|damaged"):
            kernels.detect(**numbers, **(good | {name: wrong}))
    outputs: list[Any] = [np.empty(size, np.uint8) for size in (1, 1, 8, 8)]
    limits = np.array(LIMITS, np.uint32)
    kernels.choose_from_words(bytes(32), limits, outputs)
    for words, bad_limits, bad_outputs in (
        (bytes(31), limits, outputs),
        (bytes(32), limits[:3], outputs),
        (bytes(32), limits, outputs[:3]),
        (bytes(32), limits, [outputs[0][:0], *outputs[1:]]),
    ):
        with pytest.raises(ValueError, match=r"want|must"):
            kernels.choose_from_words(words, bad_limits, bad_outputs)
