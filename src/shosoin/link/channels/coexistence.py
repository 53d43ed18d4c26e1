"""A quantum channel in a fibre that carries traffic: how many photons arrive that nobody sent.

Light of the traffic reaches the quantum receiver in four ways: Raman scattering, along with the traffic and against
it; four-wave mixing of channels that run along; what the receiver's filter lets through of the traffic itself; and
Rayleigh scattering of traffic from the other end, which the same filter must stop. All four add up to a rate of
photons, uncorrelated with the gates, hence to a yield without signal that joins the detector's dark counts by the exact
union. Everything is time-averaged, and a channel is a line: the width of its modulation, light that its laser and
amplifiers emit beside it, and near-end reflections of traffic that starts at the receiver are not in the model.

Sources: as in ``raman`` and ``four_wave_mixing``; T. Ferreira da Silva, G. B. Xavier, G. P. Temporão, J. P. von der
Weid, J. Lightwave Technol. 32, 2332 (2014), arXiv 1410.0656, for many channels; L. A. Zischler, A. Ghazisaeidi,
A. Mecozzi, C. Antonelli, arXiv 2602.21671 (2026), for the choice of the band. Rayleigh backscattering: -82 dB for a
pulse of 1 ns at 1550 nm, the usual figure of data sheets, is 6.3e-5 per km; it scales with the Rayleigh loss.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from shosoin.link.channels import four_wave_mixing, units
from shosoin.link.channels.fibre import Fibre
from shosoin.link.channels.four_wave_mixing import G652_DISPERSION, Dispersion
from shosoin.link.channels.raman import RamanScattering, backward_length_km, forward_length_km
from shosoin.link.detector import Detector
from shosoin.link.information import Array, union

__all__ = [
    "BandScan",
    "Coexistence",
    "Direction",
    "NoisePhotons",
    "ReceiverFilter",
    "Traffic",
    "background_yield",
    "best_wavelength",
    "lit",
]

_BACKSCATTER_PER_KM = 6.3e-5
_BACKSCATTER_NM = 1550.0


class Direction(enum.Enum):
    """Where traffic runs, seen from the quantum signal."""

    ALONG = "along"
    AGAINST = "against"


@dataclass(frozen=True, slots=True)
class Traffic:
    """One classical channel.

    Raises:
        ValueError: wavelength not positive or power not a number.
    """

    wavelength_nm: float
    launch_dbm: float
    """Power that enters the fibre."""
    direction: Direction = Direction.ALONG

    def __post_init__(self) -> None:
        if not self.wavelength_nm > 0.0 or np.isnan(self.launch_dbm):
            raise ValueError(f"a channel has a wavelength and a power, got {self}")


@dataclass(frozen=True, slots=True)
class ReceiverFilter:
    """What stands between fibre and detectors.

    Raises:
        ValueError: passband not positive, or a loss or isolation negative.
    """

    passband_nm: float = 0.2
    """Width of the band that passes, taken as a rectangle."""
    insertion_loss_db: float = 0.0
    """Leave 0 when the detector's efficiency has it."""
    adjacent_isolation_db: float = 80.0
    """For a channel within ``adjacent_nm`` of the quantum channel."""
    isolation_db: float = 120.0
    """For every other channel. Traffic at 0 dBm is 7.8e15 photons/s, so 100 dB are not enough."""
    adjacent_nm: float = 0.9
    """Slightly more than a grid of 100 GHz at 1550 nm."""

    def __post_init__(self) -> None:
        losses = (self.insertion_loss_db, self.adjacent_isolation_db, self.isolation_db, self.adjacent_nm)
        if not self.passband_nm > 0.0 or not min(losses) >= 0.0:
            raise ValueError(f"a filter has a passband and does not amplify, got {self}")

    def rejection_db(self, detuning_nm: npt.ArrayLike) -> Array:
        """Return the isolation from light so far away."""
        adjacent = np.abs(np.asarray(detuning_nm, dtype=np.float64)) <= self.adjacent_nm
        return np.asarray(np.where(adjacent, self.adjacent_isolation_db, self.isolation_db))


@dataclass(frozen=True, slots=True)
class NoisePhotons:
    """Photons per second behind the receiver's filter, by where they come from; scalars or arrays of one shape."""

    raman_along_hz: Array
    raman_against_hz: Array
    four_wave_mixing_hz: Array
    leakage_hz: Array
    rayleigh_hz: Array

    @property
    def total_hz(self) -> Array:
        """All of them."""
        parts = (
            self.raman_along_hz,
            self.raman_against_hz,
            self.four_wave_mixing_hz,
            self.leakage_hz,
            self.rayleigh_hz,
        )
        return np.asarray(sum(np.asarray(part, dtype=np.float64) for part in parts))


@dataclass(frozen=True, slots=True)
class Coexistence:
    """A fibre with its traffic."""

    fibre: Fibre
    traffic: Sequence[Traffic]
    receiver_filter: ReceiverFilter = field(default_factory=ReceiverFilter)
    raman: RamanScattering = field(default_factory=RamanScattering)
    dispersion: Dispersion = G652_DISPERSION

    def raman_w(self, channel: Traffic, quantum_nm: npt.ArrayLike) -> Array:
        """Return the Raman power of one channel within the passband, at the receiver's end of the fibre.

        Losses of splices and connectors are taken in front of the receiver, where they weaken signal and noise alike.
        """
        span = forward_length_km if channel.direction is Direction.ALONG else backward_length_km
        length_km = span(
            self.fibre.length_km,
            float(self.fibre.nepers_per_km(channel.wavelength_nm)),
            self.fibre.nepers_per_km(quantum_nm),
        )
        density = self.raman.per_km_nm(channel.wavelength_nm, quantum_nm) * self.receiver_filter.passband_nm
        arrives = units.transmittance(self.fibre.fixed_loss_db)
        return np.asarray(units.watts(channel.launch_dbm) * density * length_km * arrives)

    def four_wave_mixing_w(self, quantum_nm: float) -> float:
        """Return the power of all products of channels along that fall into the passband, at the end of the fibre."""
        along = [channel for channel in self.traffic if channel.direction is Direction.ALONG]
        wavelengths = np.array([channel.wavelength_nm for channel in along])
        launch_w = units.watts([channel.launch_dbm for channel in along])
        width_hz = float(units.frequency_hz(quantum_nm)) / quantum_nm * self.receiver_filter.passband_nm
        found = four_wave_mixing.products(wavelengths, near_nm=quantum_nm, within_hz=width_hz / 2.0)
        powers = (
            four_wave_mixing.product_power_w(
                product,
                wavelengths,
                launch_w,
                length_km=self.fibre.length_km,
                nepers_per_km=float(self.fibre.nepers_per_km(quantum_nm)),
                dispersion=self.dispersion,
            )
            for product in found
        )
        return float(sum(powers) * units.transmittance(self.fibre.fixed_loss_db))

    def leakage_w(self, channel: Traffic, quantum_nm: npt.ArrayLike) -> Array:
        """Return what the filter lets through of a channel along, or of the Rayleigh light of one against."""
        launched = units.watts(channel.launch_dbm)
        if channel.direction is Direction.ALONG:
            arrived = launched * self.fibre.transmittance(channel.wavelength_nm)
        else:
            decay = float(self.fibre.nepers_per_km(channel.wavelength_nm))
            per_km = _BACKSCATTER_PER_KM * (_BACKSCATTER_NM / channel.wavelength_nm) ** 4
            arrived = launched * per_km * backward_length_km(self.fibre.length_km, decay, decay)
        detuning = np.asarray(quantum_nm, dtype=np.float64) - channel.wavelength_nm
        return np.asarray(arrived * units.transmittance(self.receiver_filter.rejection_db(detuning)))

    def noise_photons(self, quantum_nm: npt.ArrayLike) -> NoisePhotons:
        """Return photons per second at the detectors, before their efficiency; vectorised over wavelengths in nm."""
        wavelengths = np.asarray(quantum_nm, dtype=np.float64)
        behind_filter = units.transmittance(self.receiver_filter.insertion_loss_db) / units.photon_energy_j(wavelengths)

        def photons(channels: list[Traffic], power_w: Callable[[Traffic, npt.ArrayLike], Array]) -> Array:
            total = sum((power_w(channel, wavelengths) for channel in channels), np.zeros_like(wavelengths))
            return np.asarray(total * behind_filter)

        along = [channel for channel in self.traffic if channel.direction is Direction.ALONG]
        against = [channel for channel in self.traffic if channel.direction is Direction.AGAINST]
        mixed = [self.four_wave_mixing_w(float(wavelength)) for wavelength in wavelengths.flat] if along else []
        mixing_w = np.reshape(mixed, wavelengths.shape) if along else np.zeros_like(wavelengths)
        return NoisePhotons(
            raman_along_hz=photons(along, self.raman_w),
            raman_against_hz=photons(against, self.raman_w),
            four_wave_mixing_hz=np.asarray(mixing_w * behind_filter),
            # The isolation counts from the fibre to the detector, so no insertion loss comes on top.
            leakage_hz=photons(along, self.leakage_w) / units.transmittance(self.receiver_filter.insertion_loss_db),
            rayleigh_hz=photons(against, self.leakage_w) / units.transmittance(self.receiver_filter.insertion_loss_db),
        )


def lit(detector: Detector, photons_hz: float, *, detectors: int = 2) -> Detector:
    """Return a detector whose dark counts contain background light that falls on all detectors of a basis evenly.

    Photons of the background are Poissonian, so the gate stays empty with ``exp(-efficiency rate gate)``.

    Raises:
        ValueError: a negative rate, or no detector.
    """
    light = -np.expm1(-_mean_per_gate(detector, photons_hz, detectors))
    return replace(detector, dark_count_probability=float(union(detector.dark_count_probability, light)))


def background_yield(detector: Detector, photons_hz: npt.ArrayLike, *, detectors: int = 2) -> Array:
    """Return Y0, the probability per gate that at least one detector clicks without signal: dark counts and light.

    Raises:
        ValueError: a negative rate, or no detector.
    """
    with np.errstate(divide="ignore"):  # a detector that always clicks
        log_dark = np.log1p(-detector.dark_count_probability)
    return np.asarray(-np.expm1(detectors * (log_dark - _mean_per_gate(detector, photons_hz, detectors))))


def _mean_per_gate(detector: Detector, photons_hz: npt.ArrayLike, detectors: int) -> Array:
    rate = np.asarray(photons_hz, dtype=np.float64)
    if detectors < 1 or not np.all(rate >= 0.0):
        raise ValueError(f"background is not negative and falls on detectors, got {photons_hz!r} on {detectors}")
    return np.asarray(detector.efficiency * rate / detectors * detector.gate_s)


@dataclass(frozen=True, slots=True)
class BandScan:
    """Key rate over the wavelength of the quantum channel; arrays of one shape."""

    wavelength_nm: Array
    attenuation_db: Array
    background_yield: Array
    key_rate: Array
    """In whatever unit the given function answers."""

    @property
    def best_nm(self) -> float:
        """Wavelength of the highest rate; NaN when there is no key anywhere."""
        best = int(np.argmax(self.key_rate))
        return float(self.wavelength_nm[best]) if self.key_rate[best] > 0.0 else float("nan")


def best_wavelength(
    coexistence: Coexistence,
    detector: Detector,
    candidates_nm: npt.ArrayLike,
    key_rate: Callable[[Array, Array], Array],
    *,
    detectors: int = 2,
) -> BandScan:
    """Scan candidate wavelengths for the quantum channel.

    Args:
        candidates_nm: shape (n,); keep the traffic's own wavelengths and their neighbours out.
        key_rate: secret bits from attenuation in dB and background yield, both of shape (n,).
    """
    wavelengths = np.asarray(candidates_nm, dtype=np.float64)
    noise_hz = coexistence.noise_photons(wavelengths).total_hz
    loss_db = coexistence.fibre.attenuation_db(wavelengths) + coexistence.receiver_filter.insertion_loss_db
    quiet = background_yield(detector, noise_hz, detectors=detectors)
    return BandScan(
        wavelength_nm=wavelengths, attenuation_db=loss_db, background_yield=quiet, key_rate=key_rate(loss_db, quiet)
    )
