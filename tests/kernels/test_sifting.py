"""Sifting on every path: what is done to detections one by one, and the specification's octets at every length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.kernels import paths, sifting
from shosoin.kernels.reference_sifting import ReferenceSifting
from tests.kernels.support import NATIVE_PATHS, PATHS, at_offset, each_path, using

# Nothing, one, around the pieces of 64 that paths work in, and whatever hypothesis finds.
sizes = st.one_of(st.sampled_from([0, 1, 7, 8, 9, 63, 64, 65, 127, 128, 129, 1000]), st.integers(0, 400))
shares = st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0])
seeds = st.integers(0, 2**32 - 1)
WIDTHS = {1: 1 << 8, 2: 1 << 16, 4: 1 << 32, 8: 1 << 40}


def same(one, other):
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def on_all_paths(function):
    """What a public function returns on each path, the specification's last."""
    results = []
    for path in PATHS:
        with using(path):
            results.append(function())
    return results


@given(size=sizes, share=shares, seed=seeds)
def test_places_are_where_the_mask_is_true(size, share, seed):
    mask = np.random.default_rng(seed).random(size) < share
    expected = [i for i, is_set in enumerate(mask.tolist()) if is_set]
    for places in on_all_paths(lambda: sifting.places_of(mask)):
        assert places.dtype == np.int64
        assert places.tolist() == expected


@given(size=sizes, kept=shares, tested=shares, seed=seeds)
def test_what_is_kept_in_the_key_basis_stays_in_order(size, kept, tested, seed):
    rng = np.random.default_rng(seed)
    is_kept, is_test = rng.random(size) < kept, rng.random(size) < tested
    values = rng.integers(0, 256, size, dtype=np.uint8)
    chosen = [bool(a) and not b for a, b in zip(is_kept, is_test, strict=True)]
    expected = [value for value, is_key in zip(values.tolist(), chosen, strict=True) if is_key]
    for is_key, keys in on_all_paths(lambda: sifting.keep(is_kept, is_test, values)):
        assert is_key.dtype == np.bool_
        assert is_key.view(np.uint8).tolist() == [int(one) for one in chosen]
        assert keys.tolist() == expected


@given(size=st.integers(1, 500), share=shares, first=st.sampled_from([0, 5, (1 << 62) - 600]), seed=seeds)
def test_a_record_is_looked_up_pulse_by_pulse(size, share, first, seed):
    rng = np.random.default_rng(seed)
    bits, bases = (rng.integers(0, 256, (size + 7) // 8, dtype=np.uint8) for _ in range(2))
    levels = rng.integers(0, 256, size, dtype=np.uint8)
    pulses = first + np.flatnonzero(rng.random(size) < share)
    offsets = [int(pulse) - first for pulse in pulses]
    expected = (
        [int(bits[at // 8]) >> at % 8 & 1 for at in offsets],
        [bool(int(bases[at // 8]) >> at % 8 & 1) for at in offsets],
        [int(levels[at]) for at in offsets],
    )
    for found in on_all_paths(lambda: sifting.look_up(pulses, first, bits, bases, levels)):
        assert tuple(each.tolist() for each in found) == expected


@each_path
@pytest.mark.parametrize("pulse", [9, 14, -(1 << 62), (1 << 63) - 1])
def test_a_pulse_that_is_not_of_the_record_is_refused(path, pulse):
    record = (10, np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.zeros(4, np.uint8))
    with using(path):
        assert len(sifting.look_up(np.array([10, 13]), *record)[0]) == 2
        with pytest.raises(ValueError, match="not of the record"):
            sifting.look_up(np.array([10, pulse]), *record)


@given(count=st.integers(1, 300), width=st.sampled_from(sorted(WIDTHS)), seed=seeds, first=st.integers(0, 1 << 60))
def test_pulses_come_back_from_their_steps(count, width, seed, first):
    drawn = np.random.default_rng(seed).integers(0, WIDTHS[width], count - 1)
    pulses = first + np.concatenate(([0], np.cumsum(drawn + 1)))
    needed = next(each for each in (1, 2, 4, 8) if int(drawn.max(initial=0)) < 1 << 8 * each)
    expected = b"".join(int(one).to_bytes(needed, "little") for one in drawn)
    for steps in on_all_paths(lambda: sifting.steps_of(pulses)):
        assert steps[0] == needed
        assert steps[1].tobytes() == expected
    for back in on_all_paths(lambda: sifting.pulses_of(first, expected, needed)):
        assert back.dtype == np.int64
        assert np.array_equal(back, pulses)


def test_the_widest_steps_are_at_the_edges_of_their_widths():
    for width, edge in WIDTHS.items():
        for path in PATHS:
            with using(path):
                assert sifting.steps_of(np.array([3, 3 + edge]))[0] == width
                if width < 8:
                    assert sifting.steps_of(np.array([3, 4 + edge]))[0] == 2 * width


@each_path
def test_no_pulse_and_one_have_no_steps(path):
    with using(path):
        for pulses in (np.empty(0, np.int64), np.array([7])):
            width, steps = sifting.steps_of(pulses)
            assert (width, steps.size) == (1, 0)
        assert sifting.pulses_of(7, b"", 4).tolist() == [7]


@given(size=sizes, intensities=st.integers(1, 4), seed=seeds)
def test_codes_are_packed_into_bits_and_masks(size, intensities, seed):
    codes = np.random.default_rng(seed).integers(0, 16, size, dtype=np.uint8)
    rows = [codes & 1, *((codes >> 1 == level).astype(np.uint8) for level in range(intensities))]
    expected = [sum(int(one) << i for i, one in enumerate(row)).to_bytes((size + 7) // 8, "little") for row in rows]
    for bits, masks in on_all_paths(lambda: sifting.pack(codes, intensities)):
        assert [part.tobytes() for part in (bits, *masks)] == expected


@settings(max_examples=30)
@given(size=sizes, offset=st.integers(0, 63), seed=seeds)
def test_any_octet_but_zero_is_true_wherever_it_lies(size, offset, seed):
    rng = np.random.default_rng(seed)
    kept, test, values = (
        at_offset(rng.choice(np.array([0, 0, 1, 2, 128, 255], np.uint8), size).tobytes(), offset) for _ in range(3)
    )
    results = []
    for path in PATHS:
        kernels = paths.family("Sifting", ReferenceSifting, path)
        is_key, keys = np.full(size, 9, np.uint8), np.full(size, 9, np.uint8)
        count = kernels.keep_into(kept, test, values, is_key, keys)
        places = np.empty(count, np.int64)
        kernels.places_into(is_key, places)
        results.append((is_key, keys[:count], places))
    assert all(same(result, results[-1]) for result in results)


@each_path
def test_arrays_may_be_slices_with_steps_between(path):
    wide = np.arange(40, dtype=np.uint8).reshape(20, 2) % 3
    mask = wide[:, 0] != 1
    with using(path):
        is_key, keys = sifting.keep(mask[::2], mask[1::2], wide[::2, 1])
        assert keys.tolist() == wide[::2, 1][mask[::2] & ~mask[1::2]].tolist()
        assert np.array_equal(sifting.places_of(mask[::2]), np.flatnonzero(mask[::2]))
        assert is_key.shape == (10,)


def test_sizes_that_do_not_fit_are_refused():
    flags, octets = np.ones(8, np.bool_), np.zeros(8, np.uint8)
    with pytest.raises(ValueError, match="equally many"):
        sifting.keep(flags, flags, octets[:7])
    with pytest.raises(ValueError, match="octets for"):
        sifting.look_up(np.array([0]), 0, octets[:2], octets[:1], octets)
    with pytest.raises(ValueError, match="steps of"):
        sifting.pulses_of(0, bytes(3), 2)
    with pytest.raises(ValueError, match="steps of"):
        sifting.pulses_of(0, bytes(3), 3)
    for count in (0, 5):
        with pytest.raises(ValueError, match="intensities"):
            sifting.pack(octets, count)


@pytest.mark.parametrize("path", NATIVE_PATHS)
def test_native_sifting_refuses_what_would_leave_a_buffer(path):
    kernels = paths.family("Sifting", ReferenceSifting, path)
    ones, numbers = np.ones(70, np.uint8), np.arange(70)
    small, spare = np.empty(69, np.uint8), np.empty(70, np.uint8)
    calls = [
        lambda: kernels.places_into(ones, np.empty(69, np.int64)),
        lambda: kernels.places_into(ones, np.empty(71, np.int64)),
        lambda: kernels.places_into(ones, at_offset(bytes(70 * 8), 1)),
        lambda: kernels.keep_into(ones, ones, ones, spare, small),
        lambda: kernels.keep_into(ones, ones, ones, small, spare),
        lambda: kernels.keep_into(ones, ones[:69], ones, spare, spare.copy()),
        lambda: kernels.look_up_into(numbers, 0, ones[:8], ones[:9], ones, [spare] * 3),
        lambda: kernels.look_up_into(numbers, 0, ones[:9], ones[:9], ones, [spare, spare, small]),
        lambda: kernels.look_up_into(numbers, 0, ones[:9], ones[:9], ones, [spare] * 2),
        lambda: kernels.look_up_into(numbers, 1, ones[:9], ones[:9], ones, [spare] * 3),
        lambda: kernels.steps_into(numbers, 1, spare),
        lambda: kernels.steps_into(numbers, 3, np.empty(69 * 3, np.uint8)),
        lambda: kernels.steps_into(numbers[:0], 1, small),
        lambda: kernels.largest_step(ones[:9]),
        lambda: kernels.pulses_into(0, ones, 1, numbers),
        lambda: kernels.pulses_into(0, ones, 1, numbers[:0]),
        lambda: kernels.pack_into(ones, spare[:8], [spare[:9]]),
        lambda: kernels.pack_into(ones, spare[:9], [spare[:8]]),
        lambda: kernels.pack_into(ones, spare[:9], []),
        lambda: kernels.pack_into(ones, spare[:9], [spare[:9]] * 5),
    ]
    for number, call in enumerate(calls):
        with pytest.raises(ValueError, match=r"fit|aligned|octets|record"):
            pytest.fail(f"call {number} gave {call()}")
