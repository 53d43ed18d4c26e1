"""A field whose values are linear forms in unknowns, for the reference kernels to compute with.

An unknown is one element that somebody chose uniformly: a secret, a coefficient, a piece of key, a mask. A form is
``sum_v a_v v`` with constants a_v of a base field: GF(2^128), or a small field in which everything can be tried. Public
summands are left out: whoever knows a form plus a public constant knows the form.

>>> from shosoin.kernels.reference import split
>>> field = Symbols(GF2_128_FAST)
>>> secret, coefficient = field.unknowns("secret", 1), field.unknowns("coefficient", 1)
>>> [sorted(share[0].terms.items()) for share in split(field, secret, [coefficient], (1, 2))]
[[(0, 1), (1, 1)], [(0, 1), (1, 2)]]
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shosoin.kernels import active_path, element_mul
from shosoin.kernels.fields import Constants, Values

__all__ = ["GF2_128_FAST", "Form", "Symbols", "forms_of"]


_MODULUS = (1 << 128) | 0x87


class _Fast128:
    """GF(2^128) for public constants: native products where there are any, else by windows of four bits."""

    def multiply(self, a: int, b: int) -> int:
        """Return a * b."""
        return windowed_product(a, b) if active_path() == "reference" else element_mul(a, b)

    def inverse(self, a: int) -> int:
        """Return 1 / a by Euclid's algorithm on polynomials."""
        if a == 0:
            raise ZeroDivisionError("0 has no inverse")
        u, v, x, y = a, _MODULUS, 1, 0
        while u != 1:
            shift = u.bit_length() - v.bit_length()
            if shift < 0:
                u, v, x, y, shift = v, u, y, x, -shift
            u ^= v << shift
            x ^= y << shift
        return x


GF2_128_FAST: Constants = _Fast128()
"""GF(2^128) for many products of single constants; equal to ``GF2_128``, which is for secrets and long arrays."""


def windowed_product(a: int, b: int) -> int:
    """Return a * b in GF(2^128), fast for an interpreter and not in constant time."""
    multiples = [0, a]
    for half in range(1, 8):
        multiples += [multiples[half] << 1, (multiples[half] << 1) ^ a]
    product = 0
    for digit in range(124, -1, -4):
        product = (product << 4) ^ multiples[b >> digit & 15]
    for _ in range(2):
        high = product >> 128
        product = (product & ((1 << 128) - 1)) ^ high ^ high << 1 ^ high << 2 ^ high << 7
    return product


class Form:
    """A linear form: constants by the number of the unknown; never changed once made."""

    __slots__ = ("terms",)

    def __init__(self, terms: Mapping[int, int]) -> None:
        self.terms = terms

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Form) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def __repr__(self) -> str:
        return f"Form({dict(self.terms)})"


_ZERO = Form({})


def _form(value: object) -> Form:
    """Read an element of an array; NumPy pads with the integer 0."""
    return value if isinstance(value, Form) else _ZERO


def forms_of(values: Values) -> list[Form]:
    """Return the elements of an array as forms."""
    return [_form(value) for value in values]


class Symbols:
    """``Field`` over linear forms; values are object arrays of shape (count,).

    Unknowns are numbered as they are made, and known by a name that a second run can make again.
    """

    def __init__(self, base: Constants) -> None:
        self.base = base
        self.names: list[Hashable] = []
        self._numbers: dict[Hashable, int] = {}

    def unknowns(self, name: Hashable, count: int) -> Values:
        """Return the unknowns ``(name, 0)`` to ``(name, count - 1)``, new ones where there were none."""
        return array([self.unknown((name, index)) for index in range(count)])

    def unknown(self, name: Hashable) -> Form:
        """Return one unknown."""
        return Form({self._number(name): 1})

    def _number(self, name: Hashable) -> int:
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number

    def multiply(self, a: int, b: int) -> int:
        """Return a * b of the base field."""
        if a in {0, 1}:
            return a * b
        return a * b if b in {0, 1} else self.base.multiply(a, b)

    def inverse(self, a: int) -> int:
        """Return 1 / a of the base field."""
        return 1 if a == 1 else self.base.inverse(a)

    def zeros_like(self, values: Values) -> Values:
        """Return as many zeros."""
        return array([_ZERO] * len(values))

    def add(self, a: Values, b: Values) -> Values:
        """Add form by form."""
        return array([_sum(_form(x), _form(y)) for x, y in zip(a, b, strict=True)])

    def scale(self, constant: int, values: Values) -> Values:
        """Multiply every form by a constant."""
        if constant == 1:
            return values
        return array([self._scaled(constant, _form(value)) for value in values])

    def scale_by_secret(self, constant: int, values: Values) -> Values:
        """Multiply; here constants are values that the adversary is given (see ``protocols``)."""
        return self.scale(constant, values)

    def from_blocks(self, blocks: npt.NDArray[np.uint8]) -> Values:
        """Return fresh unknowns: whatever the generator gives is taken for uniform, which is its assumption."""
        return self.unknowns(("block", blocks.tobytes()), len(blocks))

    def _scaled(self, constant: int, form: Form) -> Form:
        if constant == 0:
            return _ZERO
        return Form({unknown: self.multiply(constant, factor) for unknown, factor in form.terms.items()})

    def at(self, form: Form, assignment: Mapping[Hashable, int]) -> int:
        """Return the value of a form when its unknowns have the values given by name."""
        total = 0
        for unknown, factor in form.terms.items():
            total ^= self.multiply(factor, assignment[self.names[unknown]])
        return total


def array(forms: Sequence[Form]) -> Values:
    """Return forms as an array of shape (count,)."""
    values: npt.NDArray[Any] = np.empty(len(forms), object)
    values[:] = forms
    return values


def joined(parts: Iterable[Values]) -> Values:
    """Return arrays one after the other."""
    return array([form for part in parts for form in forms_of(part)])


def _sum(a: Form, b: Form) -> Form:
    if not a.terms or not b.terms:
        return a if a.terms else b
    terms = dict(a.terms)
    for unknown, factor in b.terms.items():
        total = terms.get(unknown, 0) ^ factor
        if total:
            terms[unknown] = total
        else:
            del terms[unknown]
    return Form(terms)
