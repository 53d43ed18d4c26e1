"""Exact linear algebra over linear forms, and the criterion for a leak.

What a coalition sees is V = A s + B t: s the secrets, t everything else, uniform and independent. The distribution of V
is the same for every s exactly if no combination of rows has a secret part without a random part; that is, if the space
spanned by the view meets the space spanned by the secrets in 0 alone:

    leaked elements = rank(view) + rank(secret) - rank(view and secret together)

Nothing is approximate and nothing is sampled: ranks are found by elimination with exact constants. The unknown with the
highest number is eliminated first; it is the one made last (a pad, mostly) and stands in the fewest forms.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush

from shosoin.testing.symbolic.forms import Form, Symbols

__all__ = ["Basis", "leaked"]


class Basis:
    """Independent forms in echelon shape."""

    def __init__(self, field: Symbols) -> None:
        self.field = field
        self._rows: dict[int, Form] = {}

    @property
    def rank(self) -> int:
        """Dimension of what the forms span."""
        return len(self._rows)

    def copy(self) -> Basis:
        """Return a copy that can grow by itself."""
        other = Basis(self.field)
        other._rows = dict(self._rows)
        return other

    def add(self, form: Form) -> bool:
        """Take a form; return whether it was independent of those before."""
        rest = dict(form.terms)
        order = [-unknown for unknown in rest]
        heapify(order)
        while rest:
            pivot = -heappop(order)
            if pivot not in rest:
                continue
            row = self._rows.get(pivot)
            if row is None:
                self._rows[pivot] = self._normalised(rest, pivot)
                return True
            self._subtract(rest, rest[pivot], row, order)
        return False

    def add_all(self, forms: Iterable[Form]) -> int:
        """Take forms; return how many were independent."""
        return sum([self.add(form) for form in forms])

    def _normalised(self, terms: dict[int, int], pivot: int) -> Form:
        if terms[pivot] == 1:
            return Form(terms)
        scale = self.field.inverse(terms[pivot])
        return Form({unknown: self.field.multiply(scale, factor) for unknown, factor in terms.items()})

    def _subtract(self, rest: dict[int, int], factor: int, row: Form, order: list[int]) -> None:
        """Take a multiple of a row from what is left of a form; unknowns that come in join the order."""
        multiply = self.field.multiply
        for unknown, constant in row.terms.items():
            product = multiply(factor, constant)
            before = rest.get(unknown)
            if before is None:
                rest[unknown] = product
                heappush(order, -unknown)
            elif before == product:
                del rest[unknown]
            else:
                rest[unknown] = before ^ product


def leaked(view: Basis, secret: Iterable[Form]) -> int:
    """Return how many elements' worth of information about the secret the view gives; 0 says: none at all."""
    secret = list(secret)
    alone = Basis(view.field).add_all(secret)
    together = view.copy()
    together.add_all(secret)
    return view.rank + alone - together.rank
