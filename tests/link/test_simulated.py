"""The simulated link's schedule."""

import pytest

from shosoin.base import Rejected, SimulationRng
from shosoin.link import SimulatedLink

PLENTY = 1 << 40


def blocks(link, until_s, *, step_s=0.05, room=PLENTY):
    found, now_s = [], 0.0
    while now_s <= until_s:
        while (block := link.due(now_s, room_bytes=room)) is not None:
            found.append(block)
        now_s += step_s
    return found


def test_half_of_the_rate_goes_each_way():
    link = SimulatedLink(attenuation_db=13.5, length_km=45.0)
    assert 0.45e6 < link.facts.secret_key_rate_bps < 0.55e6
    made = sum(block.size_bytes for block in blocks(link, 100.0)) * 8
    assert made == pytest.approx(link.facts.secret_key_rate_bps * 100, rel=0.02)


def test_everything_says_simulated():
    facts = SimulatedLink(attenuation_db=13.5, length_km=45.0, speedup=3.0).facts
    assert facts.simulated
    assert facts.kind == "simulated-qkd"
    assert facts.epsilon is None
    assert facts.speedup == 3.0


def test_the_initial_stock_comes_first_and_once():
    link = SimulatedLink(attenuation_db=90.0, length_km=None, stock_bits_at_start=1 << 25)
    made = blocks(link, 50.0)
    assert [block.number for block in made] == list(range(len(made)))
    assert sum(block.size_bytes for block in made) * 8 == 1 << 25


def test_bits_without_room_are_lost_and_do_not_queue_up():
    link = SimulatedLink(attenuation_db=13.5, length_km=45.0)
    assert blocks(link, 100.0, room=0) == []
    later = [link.due(100.0, room_bytes=PLENTY) for _ in range(5)]
    assert [block is None for block in later] == [False, True, True, True, True]


def test_jitter_replays_from_its_seed():
    runs = [
        [
            (block.number, block.size_bytes)
            for block in blocks(SimulatedLink(attenuation_db=13.5, length_km=45.0, timing=SimulationRng(7)), 20.0)
        ]
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("wrong", [{"attenuation_db": -1.0}, {"speedup": 0.0}, {"stock_bits_at_start": -1}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(Rejected):
        SimulatedLink(**{"attenuation_db": 1.0, "length_km": 1.0, **wrong})


def test_a_full_stock_is_not_looked_at_all_the_time() -> None:
    link = SimulatedLink(attenuation_db=13.5, length_km=45.0)
    elapsed_s = 100.0
    while link.due(elapsed_s, room_bytes=1 << 30) is not None:
        pass
    assert link.wait_s(elapsed_s) <= 1.0
    for _ in range(5):
        elapsed_s += 0.001
        assert link.due(elapsed_s, room_bytes=0) is None
        assert link.wait_s(elapsed_s) >= 0.1
    elapsed_s += 100.0
    assert link.due(elapsed_s, room_bytes=1 << 30) is not None
