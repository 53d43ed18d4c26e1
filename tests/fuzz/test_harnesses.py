"""Every parser of outside bytes: its committed corpus, its seeds, and some hundred changes of them, without atheris."""

from __future__ import annotations

import random

import pytest
from fuzz.catalogue import HARNESSES
from fuzz.harness import Finding, Harness, check_told
from fuzz.mutation import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import corpus
from shosoin.base import Rejected, ShosoinError

MUTATIONS = 150
SLOW = {
    "lying_site": 12,
    "link_conversation": 20,
    "owner_answers": 25,
    "share_store": 20,
    "peer_conversation": 60,
    "stream_store": 60,
}


@pytest.mark.parametrize("name", sorted(HARNESSES))
def test_what_our_encoders_made_and_changes_of_it_are_read_or_refused_by_kind(name: str) -> None:
    harness = HARNESSES[name]
    known = corpus.read(name)
    assert known, "python -m fuzz.corpus writes the corpus"
    seeds = [*known, *harness.seeds()] if name not in SLOW else known
    for raw in seeds:
        harness(raw)
    rng = random.Random(name)
    for _ in range(SLOW.get(name, MUTATIONS)):
        harness(mutated(rng.choice(seeds), rng, harness.size_max))


CHEAP = sorted(set(HARNESSES) - set(SLOW) - {"node_operations", "node_envelope", "manifest_root_signed"})


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(CHEAP), st.binary(max_size=400))
def test_any_bytes_are_read_or_refused_by_kind(name: str, raw: bytes) -> None:
    HARNESSES[name](raw)


@pytest.mark.parametrize(
    "error",
    [
        Rejected("\x1b[2J"),
        Rejected("one\u202e"),
        Rejected("x" * 5000),
        Rejected("m", code="no code"),
        Rejected(f"the key is {bytes(range(40, 56)).hex()}"),
        ShosoinError("no kind"),
    ],
)
def test_the_oracle_finds_what_must_not_be_told(error: ShosoinError) -> None:
    with pytest.raises(Finding):
        check_told(error, [bytes(range(40, 56))])


def test_the_oracle_finds_what_is_no_kind() -> None:
    def parse(raw: bytes) -> None:
        raise KeyError(raw)

    with pytest.raises(KeyError):
        Harness("broken", parse, list)(b"")


def test_mutations_replay_from_their_seed() -> None:
    raw = b'{"a":[1,2,{"b":"{\\"c\\":1}"}]}'
    one, other = ([mutated(raw, random.Random(seed), 500) for seed in range(200)] for _ in range(2))
    assert one == other
    assert len(set(one)) > 100
