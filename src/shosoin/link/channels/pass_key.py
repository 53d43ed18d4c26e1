"""The secret key of a whole pass: one block, counted over all its slots, worth what a finite-key proof says.

A pass is short, so its counts are few and go into one block; slots low in the sky add detections but also errors. The
window is therefore chosen: all slots above the elevation that makes the longest key. The choice uses expected counts,
never observed ones, so it is made before the pass and costs no security.

The proof is an argument, any function that takes integer counts: this module knows geometry and light, no proof.
Counts are expectations of a simulated pass, detections rounded down and errors up.

Source: J. S. Sidhu, T. Brougham, D. McArthur, R. G. Pousa, D. K. L. Oi, "Finite key effects in satellite quantum key
distribution", npj Quantum Inf. 8, 18 (2022): one block per pass and its window. There errors of a slot are shared out
over the intensities by their detections; here each intensity has its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from shosoin.link.channels import units
from shosoin.link.channels.coexistence import background_yield
from shosoin.link.channels.satellite_pass import SatellitePass
from shosoin.link.counts import DecoyCounts
from shosoin.link.detector import Detector
from shosoin.link.information import Array, binary_entropy

__all__ = ["DecoySource", "PassKey", "SecretLengthOf", "expected_counts", "pass_key"]


class _Length(Protocol):
    @property
    def secret_bits(self) -> int: ...


Length = TypeVar("Length", bound=_Length)
Length_co = TypeVar("Length_co", bound=_Length, covariant=True)


class SecretLengthOf(Protocol[Length_co]):
    """A finite-key proof: ``shosoin.link.rates.two_decoys.secret_length`` and its like."""

    def __call__(
        self, counts: DecoyCounts, intensities: npt.ArrayLike, probabilities: npt.ArrayLike, *, leak_ec_bits: int
    ) -> Length_co:
        """Return how long a key the counts of one block allow."""


@dataclass(frozen=True, slots=True)
class DecoySource:
    """A source of weak pulses with decoys, and how the two users choose bases.

    Raises:
        ValueError: a probability out of range, or as many intensities as probabilities are not given.
    """

    pulse_rate_hz: float
    intensities: tuple[float, ...]
    """Mean photon numbers as they leave, from bright to dim."""
    probabilities: tuple[float, ...]
    key_basis_probability: float
    """That one user picks the key basis; both alike."""
    misalignment_error: float
    """Probability that a detected photon takes the wrong detector."""
    reconciliation_efficiency: float = 1.16
    """f: disclosed bits over the Shannon limit."""

    def __post_init__(self) -> None:
        if len(self.intensities) != len(self.probabilities) or abs(sum(self.probabilities) - 1.0) > 1e-14:
            raise ValueError("every intensity needs a probability, and they sum to 1")
        if not 0.0 < self.key_basis_probability < 1.0 or not 0.0 <= self.misalignment_error <= 0.5:
            raise ValueError("key_basis_probability must be within (0, 1) and misalignment_error within [0, 0.5]")
        if not self.pulse_rate_hz > 0.0 or not self.reconciliation_efficiency >= 1.0:
            raise ValueError("pulse_rate_hz must be positive and reconciliation_efficiency at least 1")


@dataclass(frozen=True, slots=True)
class PassKey(Generic[Length]):
    """What a pass is worth. Simulated."""

    length: Length
    """Answer of the proof for the chosen window."""
    counts: DecoyCounts
    """Expected counts that it was given, as integers."""
    elevation_min_deg: float
    """Lower edge of the window."""
    duration_s: float
    """Time in the window."""
    qber: float
    """Error rate in the key basis; NaN without detections."""


def expected_counts(
    satellite_pass: SatellitePass, source: DecoySource, detector: Detector, *, detectors: int = 2
) -> DecoyCounts:
    """Return what both ends expect to count in each slot; arrays of shape (slots, intensities).

    A gate without photon clicks with Y0 = 1 - ((1 - dark) exp(-efficiency light gate / 2))^2 and errs half the time;
    a detected photon errs with the misalignment. Afterpulses add the detector's share of clicks, half of them errors.
    Dead time is not modelled: at a click in ten thousand gates it takes less than it costs to say.
    """
    eta = detector.gated_efficiency * units.transmittance(satellite_pass.attenuation_db)[:, None]
    quiet = background_yield(detector, satellite_pass.background_hz, detectors=detectors)[:, None]
    photon = -np.expm1(-eta * np.asarray(source.intensities))
    click = photon + quiet * (1.0 - photon)  # the union, without cancellation
    error = 0.5 * quiet * (1.0 - photon) + source.misalignment_error * photon
    # An afterpulse may fall into a gate that clicks anyhow, so it is united, not added.
    after = detector.afterpulse_probability * click * (1.0 - click)
    pulses = source.pulse_rate_hz * satellite_pass.slot_s * np.asarray(source.probabilities)
    pulses = pulses * (satellite_pass.elevation_deg >= 0.0)[:, None]
    key, test = source.key_basis_probability**2, (1.0 - source.key_basis_probability) ** 2
    clicks, errors = pulses * (click + after), pulses * (error + after / 2.0)
    return DecoyCounts(
        key_detections=key * clicks, key_errors=key * errors, test_detections=test * clicks, test_errors=test * errors
    )


def pass_key(
    satellite_pass: SatellitePass,
    source: DecoySource,
    detector: Detector,
    secret_length: SecretLengthOf[Length],
    *,
    elevations_min_deg: npt.ArrayLike | None = None,
    detectors: int = 2,
) -> PassKey[Length]:
    """Return the longest key of a pass over the choice of the window's lower edge.

    Args:
        elevations_min_deg: edges to try, in degrees; by default some forty between the horizon and the highest point.
            Edges below the horizon count as the horizon.

    Raises:
        ValueError: no edge to try; or what the proof refuses.
    """
    counts = expected_counts(satellite_pass, source, detector, detectors=detectors)
    edges = _edges(satellite_pass) if elevations_min_deg is None else np.atleast_1d(np.asarray(elevations_min_deg))
    if not edges.size:
        raise ValueError("elevations_min_deg must have an edge to try")
    tried = [_in_window(satellite_pass, counts, source, float(edge), secret_length) for edge in edges]
    return max(tried, key=lambda found: found.length.secret_bits)


def _edges(satellite_pass: SatellitePass) -> Array:
    highest = float(satellite_pass.elevation_deg.max(initial=0.0))
    return np.linspace(0.0, max(highest, 0.0), 40, endpoint=False)


def _in_window(
    satellite_pass: SatellitePass,
    counts: DecoyCounts,
    source: DecoySource,
    edge_deg: float,
    secret_length: SecretLengthOf[Length],
) -> PassKey[Length]:
    window = satellite_pass.within(elevation_min_deg=edge_deg)
    block = _block(counts, window)
    detections, errors = int(block.key_detections.sum()), int(block.key_errors.sum())
    qber = errors / detections if detections else float("nan")
    leak = source.reconciliation_efficiency * detections * float(binary_entropy(min(qber, 0.5))) if detections else 0.0
    return PassKey(
        length=secret_length(block, source.intensities, source.probabilities, leak_ec_bits=int(np.ceil(leak))),
        counts=block,
        elevation_min_deg=max(edge_deg, 0.0),
        duration_s=float(window.sum()) * satellite_pass.slot_s,
        qber=qber,
    )


def _block(counts: DecoyCounts, window: npt.NDArray[np.bool_]) -> DecoyCounts:
    """Add up slots; detections rounded down, errors up, but never more errors than detections."""
    key, test = (
        np.floor(array[window].sum(axis=0)).astype(np.int64)
        for array in (counts.key_detections, counts.test_detections)
    )
    key_errors, test_errors = (
        np.ceil(array[window].sum(axis=0)).astype(np.int64) for array in (counts.key_errors, counts.test_errors)
    )
    return DecoyCounts(
        key_detections=key,
        key_errors=np.minimum(key_errors, key),
        test_detections=test,
        test_errors=np.minimum(test_errors, test),
    )
