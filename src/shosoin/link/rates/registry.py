"""Every protocol that a rate can be asked of, by name; nothing is imported before one is chosen.

An entry says what the protocol is and where its model is. A model has default parameters (a frozen dataclass, possibly
with others inside) and a function from parameters and losses to a ``LinkRate``. Parameters are set by dotted names,
``detector.efficiency``, so that a command line or a TOML file can name them.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shosoin.base import Rejected
from shosoin.link.information import Array
from shosoin.link.rates.result import LinkRate

__all__ = ["PROTOCOLS", "ProtocolEntry", "RateModel", "Request", "parameters_of", "protocol", "with_parameters"]


@dataclass(frozen=True, slots=True)
class Request:
    """What a rate is asked for, beside the parameters of the system."""

    attenuation_db: Array
    """Loss of the whole channel between the two users; one-dimensional."""
    block_bits: float | None = None
    """Sifted bits of the key basis in a block; None for infinitely many."""
    optimise: bool = False
    """Whether to search for the best settings (intensities, bases) at each loss."""


@dataclass(frozen=True, slots=True)
class RateModel:
    """A protocol that can be computed."""

    parameters: Any
    """A frozen dataclass with the defaults."""
    rate: Callable[[Any, Request], LinkRate]
    without_effect: frozenset[str] = frozenset()
    """Dotted names of fields that this model does not use, or that its name fixes: shown to nobody, set by nobody."""

    def known(self, parameters: Any) -> dict[str, Any]:
        """Return the parameters that this model takes, by their dotted names."""
        return {name: value for name, value in parameters_of(parameters).items() if name not in self.without_effect}

    def changed(self, changes: Mapping[str, Any]) -> Any:
        """Return the parameters with some changed, by dotted names.

        Raises:
            Rejected: the model takes no such parameter, or the value is not of its kind or out of its range.
        """
        for name in sorted(self.without_effect & changes.keys()):
            raise Rejected(
                f"this protocol takes no {name!r}",
                code="link.no_such_parameter",
                hint=f"known are {', '.join(self.known(self.parameters))}",
            )
        return with_parameters(self.parameters, changes)


@dataclass(frozen=True, slots=True)
class ProtocolEntry:
    """A protocol as the command line lists it."""

    name: str
    about: str
    source: str
    models: str
    """The module whose ``MODELS`` holds the model under the entry's name."""
    is_finite: bool = False
    """Whether it is computed for blocks; else for infinitely many pulses."""
    block_bits: float | None = None
    """Default size of a block in sifted bits; None where a block is otherwise described, or not at all."""
    can_optimise: bool = False
    """Whether the settings can be chosen or searched; models that always search have nothing to choose."""
    unit: str = "pulse"
    """What its secret bits are counted by, as in ``bits a pulse``."""

    def model(self) -> RateModel:
        """Import the model."""
        models: Mapping[str, RateModel] = importlib.import_module(self.models).MODELS
        return models[self.name]

    def rate(
        self,
        *,
        attenuation_db: npt.ArrayLike,
        block_bits: float | None = None,
        optimise: bool | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> LinkRate:
        """Return the rate over losses, as ``shosoin link rate`` computes it.

        >>> found = protocol("mdi").rate(attenuation_db=[10.0, 20.0], parameters={"efficiency": 0.4})
        >>> bool(found.secret_bits_per_pulse[0] > found.secret_bits_per_pulse[1] > 0)
        True

        Args:
            attenuation_db: of the whole channel between the two users; a number or one-dimensional.
            block_bits: sifted bits of a block; None takes the default, where there is one.
            optimise: whether to search for the best settings; None does where it can be chosen.
            parameters: those that differ from the defaults, by dotted names.

        Raises:
            Rejected: a parameter that the model does not take, or out of its range.
        """
        model = self.model()
        losses = np.atleast_1d(np.asarray(attenuation_db, dtype=np.float64))
        wanted = self.can_optimise if optimise is None else optimise
        request = Request(losses, self.block_bits if block_bits is None else block_bits, wanted)
        return model.rate(model.changed(parameters or {}), request)


_DECOY = "shosoin.link.rates.registry_decoy"
_OTHERS = "shosoin.link.rates.registry_protocols"

PROTOCOLS: Mapping[str, ProtocolEntry] = {
    entry.name: entry
    for entry in (
        ProtocolEntry(
            "decoy-bb84",
            "BB84 with infinitely many decoy intensities and pulses",
            "Ma, Qi, Zhao, Lo, Phys. Rev. A 72, 012326 (2005)",
            _DECOY,
        ),
        ProtocolEntry(
            "decoy-bb84/wiesemann2024",
            "BB84 with one decoy intensity, finite blocks, corrected proof",
            "Wiesemann et al., arXiv 2405.16578v3 (2026)",
            _DECOY,
            is_finite=True,
            block_bits=1e7,
            can_optimise=True,
        ),
        ProtocolEntry(
            "decoy-bb84/rusca2018",
            "BB84 with one decoy intensity, finite blocks, as first published",
            "Rusca et al., Appl. Phys. Lett. 112, 171104 (2018)",
            _DECOY,
            is_finite=True,
            block_bits=1e7,
            can_optimise=True,
        ),
        ProtocolEntry(
            "decoy-bb84/lim2014",
            "BB84 with two decoy intensities, finite blocks",
            "Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014)",
            _DECOY,
            is_finite=True,
            block_bits=1e7,
            can_optimise=True,
        ),
        ProtocolEntry(
            "bbm92",
            "BBM92 with a pulsed pair source between the users",
            "Ma, Fung, Lo, Phys. Rev. A 76, 012307 (2007)",
            _OTHERS,
        ),
        ProtocolEntry(
            "bbm92-continuous",
            "BBM92 with a continuously pumped pair source",
            "Neumann et al., Phys. Rev. A 104, 022406 (2021)",
            _OTHERS,
            unit="window",
        ),
        ProtocolEntry(
            "bbm92-finite",
            "BBM92 with a pulsed pair source, runs of a given number of pulses",
            "Tomamichel, Lim, Gisin, Renner, Nat. Commun. 3, 634 (2012)",
            _OTHERS,
            is_finite=True,
        ),
        ProtocolEntry(
            "mdi",
            "measurement-device-independent QKD with infinitely many decoy intensities",
            "Lo, Curty, Qi, Phys. Rev. Lett. 108, 130503 (2012)",
            _OTHERS,
            unit="pulse_pair",
        ),
        ProtocolEntry(
            "mdi-finite",
            "measurement-device-independent QKD, runs of a given number of pulse pairs",
            "Curty et al., Nat. Commun. 5, 3732 (2014)",
            _OTHERS,
            is_finite=True,
            unit="pulse_pair",
        ),
        ProtocolEntry(
            "twin-field",
            "twin field with coherent key pulses and infinitely many decoy intensities",
            "Curty, Azuma, Lo, npj Quantum Inf. 5, 64 (2019)",
            _OTHERS,
            unit="round",
        ),
        ProtocolEntry(
            "twin-field-sns",
            "twin field by sending or not sending, with active pairing unless it is turned off",
            "Xu, Yu, Jiang, Hu, Wang, Phys. Rev. A 101, 042330 (2020)",
            _OTHERS,
            unit="window",
        ),
        ProtocolEntry(
            "twin-field-sns-finite",
            "twin field by sending or not sending, without pairing, runs of a given number of windows",
            "Jiang, Yu, Hu, Wang, Phys. Rev. Applied 12, 024061 (2019)",
            _OTHERS,
            is_finite=True,
            unit="window",
        ),
        ProtocolEntry(
            "cv-homodyne",
            "Gaussian-modulated coherent states, homodyne detection, collective attacks",
            "Fossier, Diamanti, Debuisschert, Tualle-Brouri, Grangier, J. Phys. B 42, 114014 (2009)",
            _OTHERS,
            unit="symbol",
        ),
        ProtocolEntry(
            "cv-heterodyne",
            "Gaussian-modulated coherent states, heterodyne detection, collective attacks",
            "Fossier, Diamanti, Debuisschert, Tualle-Brouri, Grangier, J. Phys. B 42, 114014 (2009)",
            _OTHERS,
            unit="symbol",
        ),
        ProtocolEntry(
            "cv-homodyne-finite",
            "Gaussian-modulated coherent states, homodyne detection, blocks of a given number of symbols",
            "Pirandola, Papanastasiou, arXiv 2301.10270 (2023)",
            _OTHERS,
            is_finite=True,
            unit="symbol",
        ),
        ProtocolEntry(
            "cv-heterodyne-finite",
            "Gaussian-modulated coherent states, heterodyne detection, blocks of a given number of symbols",
            "Pirandola, Papanastasiou, arXiv 2301.10270 (2023)",
            _OTHERS,
            is_finite=True,
            unit="symbol",
        ),
        ProtocolEntry(
            "plob",
            "the bound that no protocol without a node in between passes",
            "Pirandola, Laurenza, Ottaviani, Banchi, Nat. Commun. 8, 15043 (2017)",
            _OTHERS,
            unit="mode",
        ),
    )
}


def protocol(name: str) -> ProtocolEntry:
    """Return a protocol by its name.

    Raises:
        Rejected: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise Rejected(f"no protocol {name!r}", code="link.no_such_protocol", hint=_suggestion(name, tuple(PROTOCOLS)))
    return PROTOCOLS[name]


def parameters_of(parameters: Any, prefix: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass by their dotted names, in its order."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(parameters):
        value = getattr(parameters, field.name)
        if dataclasses.is_dataclass(value):
            found |= parameters_of(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def with_parameters(parameters: Any, changes: Mapping[str, Any]) -> Any:
    """Return parameters with some changed, by dotted names.

    Raises:
        Rejected: there is no such parameter, or the value is not of its kind or out of its range.
    """
    for name, value in changes.items():
        parameters = _with_parameter(parameters, name, name, value)
    return parameters


def _with_parameter(parameters: Any, name: str, whole: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    known = {field.name: getattr(parameters, field.name) for field in dataclasses.fields(parameters)}
    if first not in known or dataclasses.is_dataclass(known[first]) != bool(rest):
        names = tuple(parameters_of(parameters))
        raise Rejected(f"no parameter {whole!r}", code="link.no_such_parameter", hint=_suggestion(name, names))
    new = _with_parameter(known[first], rest, whole, value) if rest else _like(known[first], value, whole)
    try:
        return dataclasses.replace(parameters, **{first: new})
    except ValueError as err:
        raise Rejected(f"{whole}: {err}", code="link.bad_parameter") from err


def _like(default: Any, value: Any, name: str) -> Any:
    """Return a value of the kind that the parameter has; a number or a truth may be given as text.

    What is searched unless it is given (None) is a number.
    """
    try:
        if isinstance(default, bool):
            return value if isinstance(value, bool) else _TRUTHS[str(value).lower()]
        if isinstance(value, bool) or not isinstance(default, float | int | str | tuple | None):
            raise TypeError
        if isinstance(default, tuple):
            given = value.split(",") if isinstance(value, str) else value
            return tuple(_finite(each) for each in given)
        return type(default)(value) if isinstance(default, str) else _finite(value)
    except (KeyError, TypeError, ValueError, OverflowError):
        like = "a number" if default is None else f"a value like {default!r}"
        raise Rejected(f"{name} wants {like}, got {value!r}", code="link.bad_parameter", hint="") from None


_TRUTHS = {"true": True, "false": False}


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


def _suggestion(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
