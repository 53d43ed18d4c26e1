"""No allowed coalition learns anything, for every protocol and scheme, and every k sites learn everything."""

from __future__ import annotations

from math import comb

import pytest

from shosoin.testing.symbolic import Transcript, audit, body_of, check, coalitions, put_by_keys
from shosoin.testing.symbolic.suite import PROTOCOLS, SCHEMES, challenge_patterns, masks_for, results
from shosoin.vault import Scheme
from shosoin.vault.layout import ANSWERS_PER_EPOCH, mask_elements

ONE_EPOCH = [name for name in PROTOCOLS if not name.startswith("refresh")]


def number_of(n, size):
    """Coalitions of at most ``size`` members: each remote site is out, held or tapped, home is out or held."""
    without = sum(comb(n - 1, count) * 2**count for count in range(size + 1))
    return without + sum(comb(n - 1, count) * 2**count for count in range(size))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_coalition_is_tried(scheme):
    tried = list(coalitions(scheme.n, scheme.k - 1))
    assert len(set(tried)) == len(tried) == number_of(scheme.n, scheme.k - 1)
    assert max(len(one.members) for one in tried) == scheme.k - 1


@pytest.mark.parametrize("name", ONE_EPOCH)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_coalition_learns_anything_and_k_sites_learn_all(scheme, name):
    (found,) = results(scheme, answers=1 if scheme.n > 5 else 2, names=[name])
    assert found.findings == ()
    assert found.loose == 0
    n = scheme.k if "n = k" in name else scheme.n
    assert found.views == found.runs * number_of(n, scheme.k - 1)
    assert found.tight == found.runs * comb(n, scheme.k)


@pytest.mark.parametrize("scheme", SCHEMES[:4], ids=str)
def test_no_schedule_of_coalitions_learns_anything_over_refreshes(scheme):
    for found in results(scheme, answers=1, names=["refresh (design)", "refresh, extracted (design)"]):
        assert found.findings == ()
        assert found.views > 20


@pytest.mark.parametrize("scheme", SCHEMES[:4], ids=str)
def test_all_sixteen_answers_of_an_epoch_under_the_masks_that_a_put_deals(scheme):
    run = Transcript()
    masks = mask_elements(scheme)
    assert masks == masks_for(scheme, ANSWERS_PER_EPOCH)
    shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks, 2))
    challenges = challenge_patterns(run, scheme, ANSWERS_PER_EPOCH)["all different"]
    audit(run, shared, challenges, overheard=True)
    assert check(run, scheme.n, list(coalitions(scheme.n, scheme.k - 1))) == []


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_one_mask_less_is_too_few_under_every_scheme(scheme):
    """U is tight: it is not the checker that is blind."""
    run = Transcript()
    shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks_for(scheme, 2) - 1, 2))
    audit(run, shared, challenge_patterns(run, scheme, 2)["all different"], overheard=True)
    largest = list(coalitions(scheme.n, scheme.k - 1, exactly=True, tapping=False))
    assert len(check(run, scheme.n, largest)) == len(largest)


def test_answers_that_the_owner_alone_hears_need_no_mask():
    run, scheme = Transcript(), Scheme(3, 5)
    shared = put_by_keys(run, scheme, "object", body_of(run, "object", 0, 2))
    audit(run, shared, challenge_patterns(run, scheme, 2)["all different"])
    assert check(run, 5, list(coalitions(5, 2))) == []
