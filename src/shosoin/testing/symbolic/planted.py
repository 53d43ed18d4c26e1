"""Mistakes that the checker must find, each beside the same run without it, in which it must find nothing.

Several were in earlier drafts of the protocols and are real attacks. A mistake that breaks soundness and not secrecy
(the dealer chooses the challenge of the deal check) is no leak; the tests show what it breaks. The first line of each
says what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from shosoin.kernels import reference
from shosoin.testing.symbolic.coalitions import Coalition, Finding, check, check_schedules, coalitions
from shosoin.testing.symbolic.forms import array
from shosoin.testing.symbolic.protocols import (
    Shared,
    audit,
    body_of,
    digest,
    put_by_coefficients,
    put_by_keys,
    repair_messages,
    share_by_keys,
)
from shosoin.testing.symbolic.refresh import at_rest, refresh
from shosoin.testing.symbolic.transcript import OWNER, WIRE, Transcript, at_link, at_site
from shosoin.vault.scheme import Scheme

__all__ = ["PLANTED", "Case"]

_THREE_OF_FIVE, _TWO_OF_THREE = Scheme(3, 5), Scheme(2, 3)


@dataclass(frozen=True, slots=True)
class Case:
    """A run and who looks at it: coalitions, or for several epochs pairs of them."""

    run: Transcript
    n: int
    allowed: Sequence[Coalition] = ()
    schedules: Sequence[Sequence[Coalition]] = ()

    def findings(self) -> list[Finding]:
        """Return everyone who learns something."""
        return check(self.run, self.n, self.allowed) + check_schedules(self.run, self.n, self.schedules)


def _case(run: Transcript, scheme: Scheme) -> Case:
    return Case(run, scheme.n, allowed=list(coalitions(scheme.n, scheme.k - 1)))


def _audited(masks: int, challenges: dict[int, list[int]], scheme: Scheme = _THREE_OF_FIVE) -> Case:
    """Return a put, and an audit whose auditor is the adversary's."""
    run = Transcript()
    shared = put_by_keys(run, scheme, "object", body_of(run, "object", masks, 2))
    audit(run, shared, challenges, overheard=True)
    return _case(run, scheme)


def _challenges(each: int, *, sites: int = 5) -> dict[int, list[int]]:
    """As many challenges for every site, all different."""
    return {site: [1000 + 100 * site + number for number in range(each)] for site in range(sites)}


def one_mask_two_challenges(wrong: bool) -> Case:
    """One mask for one answer of each site, and two sites are asked different things."""
    second = 1001 if wrong else 1000
    return _audited(1, {site: [second if site == 4 else 1000] for site in range(5)})


def too_few_masks(wrong: bool) -> Case:
    """U is one less than (n-k+1) T."""
    return _audited(3 * 2 - wrong, _challenges(2))


def one_answer_too_many(wrong: bool) -> Case:
    """Let a site answer T + 1 challenges."""
    challenges = _challenges(2)
    if wrong:
        challenges[4].append(7)
    return _audited(3 * 2, challenges)


def audit_without_masks(wrong: bool) -> Case:
    """Digest the data alone."""
    return _audited(1 - wrong, {site: [1000] for site in range(5)})


def _two_objects(run: Transcript, scheme: Scheme) -> tuple[Shared, Shared]:
    first, second = (share_by_keys(run, scheme, name, body_of(run, name, 0, 2)) for name in ("one", "two"))
    return first, second


def pad_for_two_shares(wrong: bool) -> Case:
    """Shares of two objects travel to one site under the same pad."""
    run = Transcript()
    for index, shared in enumerate(_two_objects(run, _THREE_OF_FIVE)):
        pad = run.key((OWNER, 4), ("pad", 0 if wrong else index), 2)
        run.send_under((OWNER, 4), index, shared.shares[4], pad)
    return _case(run, _THREE_OF_FIVE)


def key_as_share_and_pad(wrong: bool) -> Case:
    """Key bits that are a site's share of one object are the pad of its share of another."""
    run = Transcript()
    first, second = _two_objects(run, _THREE_OF_FIVE)
    pad = first.shares[1] if wrong else run.key((OWNER, 1), "pad", 2)
    run.send_under((OWNER, 1), "second", second.shares[1], pad)
    return _case(run, _THREE_OF_FIVE)


def pad_of_a_get_used_twice(wrong: bool) -> Case:
    """Send a share and later a multiple of it under the same pad."""
    run = Transcript()
    shared = share_by_keys(run, _THREE_OF_FIVE, "object", body_of(run, "object", 0, 1))
    pad = run.key((OWNER, 4), "pad", 1)
    run.send_under((OWNER, 4), "get", shared.shares[4], pad)
    again = pad if wrong else run.key((OWNER, 4), "another", 1)
    run.send_under((OWNER, 4), "audit", run.symbols.scale(3, shared.shares[4]), again)
    return _case(run, _THREE_OF_FIVE)


def coefficients_used_twice(wrong: bool) -> Case:
    """Two objects are split with the same coefficients."""
    run, points = Transcript(), _THREE_OF_FIVE.points()
    for index, name in enumerate(("one", "two")):
        secret = run.secrets(name, 2)
        coefficients = [run.fresh(("coefficient", 0 if wrong else index, j), 2) for j in range(2)]
        for site, share in enumerate(reference.split(run.symbols, secret, coefficients, points)):
            run.reveal(at_site(site, "0"), share)
    return _case(run, _THREE_OF_FIVE)


def hash_of_share_in_clear(wrong: bool) -> Case:
    """Publish a checksum of a share: with k-1 other shares it tests guesses."""
    run = Transcript()
    shared = put_by_coefficients(run, _THREE_OF_FIVE, "object", body_of(run, "object", 0, 2))
    if wrong:
        run.reveal(WIRE, digest(run, shared.shares[4], run.public("checksum")))
    return _case(run, _THREE_OF_FIVE)


def mac_of_plaintext_in_clear(wrong: bool) -> Case:
    """Publish a tag of the plaintext under a key of the link: the site at its end knows that key."""
    run = Transcript()
    secret = run.secrets("object", 2)
    mask = run.key((OWNER, 1), "mac", 1)
    run.reveal(WIRE, run.tag(mask if wrong else run.fresh("kept by the owner", 1), "r", secret))
    return _case(run, _TWO_OF_THREE)


def mac_key_used_twice(wrong: bool) -> Case:
    """Tags of two plaintexts under one key of the owner's are public: their difference has no mask."""
    run = Transcript()
    for index in range(2):
        mask = run.fresh(("mask", 0 if wrong else index), 1)
        run.reveal(WIRE, run.tag(mask, ("r", 0 if wrong else index), run.secrets(index, 2)))
    return _case(run, _TWO_OF_THREE)


def relays_not_counted(wrong: bool) -> Case:
    """k-1 sites and a relay on the only path to another: k members, let in because the relay is no site."""
    run = Transcript()
    put_by_keys(run, _THREE_OF_FIVE, "object", body_of(run, "object", 0, 2))
    allowed = list(coalitions(5, 2))
    if wrong:
        allowed += [Coalition(one.held, frozenset({4})) for one in allowed if len(one.held) == 2 and 4 not in one.held]
    return Case(run, 5, allowed)


def _object_for_repair(run: Transcript, scheme: Scheme = _THREE_OF_FIVE) -> Shared:
    shared = put_by_coefficients(run, scheme, "object", body_of(run, "object", 0, 2))
    at_rest(run, shared, 0)
    return shared


def repair_without_link_pads(wrong: bool) -> Case:
    """Helpers send their messages in clear: their sum is the share."""
    run = Transcript()
    shared = _object_for_repair(run)
    for site, message in repair_messages(run, shared, dict.fromkeys((1, 2, 3), 4), 0).items():
        if wrong:
            run.reveal(WIRE, message)
        else:
            run.send((site, 4), ("repair", site), message)
    return _case(run, _THREE_OF_FIVE)


def repair_without_pairwise_pads(wrong: bool) -> Case:
    """Helpers send lambda_i y_i: the target learns every helper's share."""
    run = Transcript()
    shared = _object_for_repair(run)
    messages = repair_messages(run, shared, dict.fromkeys((1, 2, 3), 4), 0)
    for site, message in messages.items():
        run.send((site, 4), ("repair", site), shared.shares[site] if wrong else message)
    return _case(run, _THREE_OF_FIVE)


def repair_orders_differ(wrong: bool) -> Case:
    """Helpers are told different targets, and nobody compares: two sites get another combination than their shares."""
    run = Transcript()
    shared = _object_for_repair(run)
    told = {1: 4, 2: 0 if wrong else 4, 3: 4}
    for site, message in repair_messages(run, shared, told, 0).items():
        run.send((site, told[site]), ("repair", site), message)
    return _case(run, _THREE_OF_FIVE)


def repair_attempt_reuses_pads(wrong: bool) -> Case:
    """Use the pairwise pads of a first attempt in a second one with another helper.

    Who holds the target and both helpers that changed sees what another sent differ by a multiple of its share alone.
    """
    run, scheme = Transcript(), Scheme(4, 7)
    shared = _object_for_repair(run, scheme)
    for index, helpers in enumerate(((0, 1, 2, 3), (0, 1, 2, 5))):
        attempt = 0 if wrong else index
        for site, message in repair_messages(run, shared, dict.fromkeys(helpers, 6), attempt).items():
            run.send((site, 6), ("repair", index, site), message)
    return _case(run, scheme)


def repair_answer_beyond_its_helpers(wrong: bool) -> Case:
    """Let a rebuilt copy answer, beyond its T answers, a challenge that no helper has among its own."""
    challenges = _challenges(2)
    if not wrong:
        for helper in (1, 2, 3):
            challenges[helper][-1] = 7
    challenges[4].append(7)
    return _audited(3 * 2, challenges)


def _refreshed(
    scheme: Scheme, *, blinding: int, common: bool = True, fresh_masks: bool = True, answers: int = 0
) -> tuple[Transcript, Shared, list[tuple[Coalition, ...]]]:
    """Two epochs, with audits in both; the pairs of coalitions that promise 1 allows."""
    run, n = Transcript(), scheme.n
    masks = (n - scheme.k + 1) * answers
    before = put_by_coefficients(run, scheme, "object", body_of(run, "object", masks, 1))
    at_rest(run, before, 0)
    challenges = {site: 500 if common else 500 + site for site in range(n)}
    audit(run, before, _challenges(answers, sites=n), overheard=True)
    after = refresh(
        run,
        before,
        0,
        masks=masks,
        blinding=blinding,
        dealers=range(scheme.k),
        challenges=challenges,
        fresh_masks=fresh_masks,
    )
    again = {site: [r + 50 for r in asked] for site, asked in _challenges(answers, sites=n).items()}
    audit(run, after, again, overheard=True, period="1")
    largest = list(coalitions(n, scheme.k - 1, exactly=True))
    return run, before, list(product(largest, repeat=2))


def refresh_check_without_blinding(wrong: bool) -> Case:
    """Publish the answers by which a deal is checked, with nothing to hide what they say."""
    run, _, schedules = _refreshed(_TWO_OF_THREE, blinding=1 - wrong)
    return Case(run, 3, schedules=schedules)


def refresh_check_with_unequal_coins(wrong: bool) -> Case:
    """Sites are told different challenges, and there are n-k+1 blinding zero-sharings.

    Zero-sharings have one coefficient less than sharings, so n-k+2 are needed then.
    """
    run, _, schedules = _refreshed(_TWO_OF_THREE, blinding=3 - wrong, common=False)
    return Case(run, 3, schedules=schedules)


def refresh_keeps_old_masks(wrong: bool) -> Case:
    """Masks are carried over a refresh, and T more answers are given under them."""
    run, _, schedules = _refreshed(_TWO_OF_THREE, blinding=1, fresh_masks=not wrong, answers=1)
    return Case(run, 3, schedules=schedules)


def too_many_extracted(wrong: bool) -> Case:
    """Take more elements out of one zero-sharing of every dealer than honest dealers add randomness for.

    n'-k+2 are still safe, one more than the design takes: who knows what k-1 sites dealt was there in both epochs.
    """
    run, n = Transcript(), 3
    elements = 4 if wrong else 3
    shared = put_by_coefficients(run, _TWO_OF_THREE, "object", body_of(run, "object", 0, elements))
    at_rest(run, shared, 0)
    coins = dict.fromkeys(range(n), 500)
    refresh(run, shared, 0, masks=0, blinding=1, dealers=range(n), challenges=coins, extracted=elements)
    return Case(run, n, schedules=list(product(coalitions(n, 1, exactly=True), repeat=2)))


def old_share_kept(wrong: bool) -> Case:
    """Let a site keep its share of an older epoch, and be seized later."""
    run, before, schedules = _refreshed(_TWO_OF_THREE, blinding=1)
    if wrong:
        run.reveal(at_site(2, "1"), before.shares[2])
    return Case(run, 3, schedules=schedules)


def stock_kept_over_a_heal(wrong: bool) -> Case:
    """Key stock that was there when a site was seized serves the refresh after it was healed."""
    run, _, schedules = _refreshed(_TWO_OF_THREE, blinding=1)
    if wrong:
        for first, second in ((0, 1), (0, 2), (1, 2)):
            run.reveal(at_link((first, second), "0"), array(run.rows[at_link((first, second), "0>1")]))
    return Case(run, 3, schedules=schedules)


PLANTED: dict[str, Callable[[bool], Case]] = {
    mistake.__name__: mistake
    for mistake in (
        one_mask_two_challenges,
        too_few_masks,
        one_answer_too_many,
        audit_without_masks,
        pad_for_two_shares,
        key_as_share_and_pad,
        pad_of_a_get_used_twice,
        coefficients_used_twice,
        hash_of_share_in_clear,
        mac_of_plaintext_in_clear,
        mac_key_used_twice,
        relays_not_counted,
        repair_without_link_pads,
        repair_without_pairwise_pads,
        repair_orders_differ,
        repair_attempt_reuses_pads,
        repair_answer_beyond_its_helpers,
        refresh_check_without_blinding,
        refresh_check_with_unequal_coins,
        refresh_keeps_old_masks,
        too_many_extracted,
        old_share_kept,
        stock_kept_over_a_heal,
    )
}
"""By name; each is called with True for the mistake and False for the run without it."""
