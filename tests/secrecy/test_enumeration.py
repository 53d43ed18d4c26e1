"""2-of-3 over GF(4): all is tried, ranks must agree with counting, and mistakes that are not linear are counted."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import combinations, product

import numpy as np
import pytest

from shosoin.kernels import reference
from shosoin.kernels.fields import SmallField
from shosoin.testing.symbolic import Basis, Transcript, leaked
from shosoin.testing.symbolic.forms import joined
from shosoin.testing.symbolic.protocols import audit, share_by_keys
from shosoin.testing.symbolic.transcript import WIRE, at_link, at_site
from shosoin.vault import Scheme

GF4 = SmallField(2, 0b111)
TIMES = np.array([[GF4.multiply(a, b) for b in range(4)] for a in range(4)], np.uint8)
SCHEME = Scheme(2, 3)


def run_on_gf4(masks, elements=1):
    run = Transcript(base=GF4, element_bits=2)
    body = joined([run.fresh("mask", masks), run.secrets("secret", elements)])
    return run, share_by_keys(run, SCHEME, "object", body)


def forms_at(run, places):
    return [form for place in places for form in run.rows.get(place, ())]


def views(run, forms):
    """The view under every assignment, counted for every value of the secret."""
    unknowns = len(run.symbols.names)
    every = np.indices((4,) * unknowns, np.uint8).reshape(unknowns, -1)
    secret = [next(iter(form.terms)) for form in run.secret]
    label = sum(every[unknown].astype(np.int64) * 4**at for at, unknown in enumerate(secret))
    code = np.zeros(every.shape[1], np.int64)
    for form in forms:
        value = np.zeros(every.shape[1], np.uint8)
        for unknown, factor in form.terms.items():
            value ^= TIMES[factor][every[unknown]]
        code = code * 4 + value
    return [Counter(code[label == value].tolist()) for value in range(4 ** len(secret))]


def agree(run, places):
    """Whether the view tells something, by ranks and by counting; both must say the same."""
    forms = forms_at(run, places)
    counted = views(run, forms)
    basis = Basis(run.symbols)
    basis.add_all(forms)
    by_rank = leaked(basis, run.secret) > 0
    assert by_rank == any(one != counted[0] for one in counted)
    return by_rank


def members(site):
    return [at_site(site, "0"), at_link((-1, site), "0")]


def everyone(run, shared):
    """Let every site know its share."""
    for site, share in shared.shares.items():
        run.reveal(at_site(site, "0"), share)


def test_a_share_tells_nothing_and_two_tell_all():
    run, shared = run_on_gf4(0, elements=2)
    everyone(run, shared)
    for site in range(3):
        assert not agree(run, members(site))
    for pair in combinations(range(3), 2):
        assert agree(run, [place for site in pair for place in members(site)])


@pytest.mark.parametrize("masks", [0, 1, 2])
def test_audits_with_every_choice_of_challenges(masks):
    """T = 1 and U = n-k+1 = 2 suffice for all 64 choices; one mask does for equal challenges alone, no mask never."""
    for asked in product(range(4), repeat=3):
        run, shared = run_on_gf4(masks)
        everyone(run, shared)
        audit(run, shared, {site: [r] for site, r in enumerate(asked)}, overheard=True)
        leaks = [agree_without_pads(run, [WIRE, *members(site)]) for site in range(3)]
        if masks == 2:
            assert leaks == [False] * 3
        elif masks == 1:
            assert any(leaks) == (len(set(asked)) > 1)
        else:
            assert all(leaks)


def is_key(run, form):
    """Whether a form holds a pad or a MAC key: they stand nowhere else and hide what they hide."""
    return any("exchange" in repr(run.symbols.names[unknown]) for unknown in form.terms)


def agree_without_pads(run, places):
    """As ``agree``, over the unknowns that are no pad: 4^8 assignments are too many to try 64 times."""
    kept = [name for name in run.symbols.names if "exchange" not in repr(name)]
    numbers = {run.symbols.names.index(name): at for at, name in enumerate(kept)}
    smaller = Transcript(base=GF4, element_bits=2)
    for name in kept:
        smaller.symbols.unknown(name)
    renamed = type(run.secret[0])
    smaller.secret = [renamed({numbers[u]: c for u, c in form.terms.items()}) for form in run.secret]
    for place in places:
        forms = [form for form in run.rows.get(place, ()) if not is_key(run, form)]
        smaller.rows[place] = [renamed({numbers[u]: c for u, c in form.terms.items()}) for form in forms]
    return agree(smaller, places)


def test_a_pad_hides_a_share_and_a_second_use_of_it_does_not():
    for reused in (False, True):
        run = Transcript(base=GF4, element_bits=2)
        for index in range(2):
            shared = share_by_keys(run, SCHEME, index, run.secrets(index, 1))
            pad = run.key((-1, 2), ("pad", 0 if reused else index), 1)
            run.reveal(WIRE, run.symbols.add(shared.shares[2], pad))
        assert agree(run, [WIRE]) is False
        assert agree(run, [WIRE, *members(0)]) is reused


def shares_of(secret, coefficient):
    split = reference.split(GF4, np.array([secret], np.uint8), [np.array([coefficient], np.uint8)], (1, 2, 3))
    return [int(share[0]) for share in split]


def distributions(see, coefficients=range(4)):
    """What is seen, counted for every secret."""
    return [Counter(see(secret, shares_of(secret, a)) for a in coefficients) for secret in range(4)]


def share_at(site, secret, shares):
    return shares[site]


def test_a_leading_coefficient_that_is_never_zero_tells():
    for site in range(3):
        see = partial(share_at, site)
        assert len(set(map(frozenset, distributions(see)))) == 1
        told = distributions(see, coefficients=range(1, 4))
        assert [sorted(set(range(4)) - set(one)) for one in told] == [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    "hashed", [lambda x: x * 7 % 5, lambda x: x & 1, lambda x: x >> 1], ids=["injective", "low", "high"]
)
def test_any_hash_of_another_share_or_of_the_secret_tells_who_holds_k_minus_1(hashed):
    """Whatever function it is, unless it is constant: with k-1 shares, secret and k-th share are in bijection."""
    of_share = distributions(lambda _, shares: (shares[0], hashed(shares[1])))
    of_secret = distributions(lambda secret, shares: (shares[0], hashed(secret)))
    assert any(one != of_share[0] for one in of_share)
    assert any(one != of_secret[0] for one in of_secret)
