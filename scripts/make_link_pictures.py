"""Draw the pictures of the link's documentation, each computed by the models that it shows (about a minute)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from scipy.stats import beta

from shosoin.cli.link_plot import figure, save
from shosoin.link.channels.coexistence import Coexistence, Direction, Traffic
from shosoin.link.channels.fibre import Fibre
from shosoin.link.channels.optical_link import OpticalLink
from shosoin.link.channels.pass_key import DecoySource, expected_counts, pass_key
from shosoin.link.channels.satellite_pass import pass_over
from shosoin.link.detector import Detector
from shosoin.link.rates import decoy_published, plob, two_decoys
from shosoin.link.rates.finite_key import Block, FiniteProof, Security, finite_key_rate
from shosoin.link.rates.optimise import optimise_along
from shosoin.link.rates.registry import PROTOCOLS, Request
from shosoin.link.reconciliation import plan_frame

FRAME_ERRORS = Path(__file__).resolve().parent.parent / "docs" / "data" / "reconciliation.json"
COSTS = FRAME_ERRORS.with_name("link-costs.json")
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

_DB_PER_KM = 0.2


def _positive(values: np.ndarray) -> np.ndarray:
    """Leave out what a logarithm cannot show."""
    return np.where(values > 0.0, values, np.nan)


def draw_rates(path: Path) -> None:
    """Draw every protocol over fibre, beside the repeaterless bound."""
    lengths = np.arange(0.0, 551.0, 10.0)
    drawn = figure(7.2, 4.8)
    axes = drawn.add_subplot()
    colours = colormaps["tab20"]
    shown = [(name, entry) for name, entry in PROTOCOLS.items() if name != "plob"]
    for index, (name, entry) in enumerate(shown):
        model = entry.model()
        found = model.rate(model.parameters, Request(lengths * _DB_PER_KM, entry.block_bits, entry.can_optimise))
        style = "-" if found.is_asymptotic else "--"
        axes.semilogy(lengths, _positive(found.secret_bits_per_pulse), style, label=name, color=colours(index))
    axes.semilogy(lengths, plob.capacity_bits_per_mode(lengths * _DB_PER_KM), "k:", label="PLOB bound")
    counted_by = "pulse, pair, window, round or symbol"
    axes.set(xlabel="fibre, km at 0.2 dB/km", ylabel=f"secret bits per {counted_by} (models)", ylim=(1e-10, 2.0))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    save(drawn, path)


def _finite_rates(proof: FiniteProof, block_bits: float, losses: np.ndarray) -> np.ndarray:
    block, security = Block(key_detections=block_bits), Security()
    best = optimise_along(decoy_published.LIM_FIBRE, proof=proof, block=block, attenuation_db=losses, security=security)
    rates = []
    for loss, each in zip(losses, best, strict=True):
        found = finite_key_rate(
            decoy_published.LIM_FIBRE, each.settings, proof=proof, block=block, attenuation_db=loss, security=security
        )
        rates.append(float(found.secret_bits_per_pulse))
    return np.array(rates)


def draw_finite_key(path: Path) -> None:
    """Draw families over block size, two decoys and one."""
    lengths = np.arange(0.0, 201.0, 10.0)
    drawn = figure(7.2, 4.8)
    axes = drawn.add_subplot()
    for power in range(4, 10):
        colour = f"C{power - 4}"
        for proof, style in ((FiniteProof.LIM2014, "-"), (FiniteProof.WIESEMANN2024, "--")):
            rates = _finite_rates(proof, 10.0**power, lengths * _DB_PER_KM)
            label = f"1e{power} bits" if style == "-" else None
            axes.semilogy(lengths, _positive(rates), style, color=colour, label=label)
    axes.plot([], [], "k-", label="two decoys, Lim 2014")
    axes.plot([], [], "k--", label="one decoy, corrected proof")
    axes.set(xlabel="fibre, km at 0.2 dB/km", ylabel="secret bits per pulse (models)", ylim=(1e-9, 1e-1))
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7)
    save(drawn, path)


def draw_raman(path: Path) -> None:
    """Draw Raman photons beside one channel, along with it and against it."""
    wavelengths = np.arange(1270.0, 1621.0, 1.0)
    wavelengths = wavelengths[np.abs(wavelengths - 1550.0) > 0.5]
    drawn = figure(7.2, 4.0)
    axes = drawn.add_subplot()
    for direction, name in ((Direction.ALONG, "along with the traffic"), (Direction.AGAINST, "against it")):
        line = Coexistence(Fibre(50.0), [Traffic(1550.0, 0.0, direction)])
        noise = line.noise_photons(wavelengths)
        axes.semilogy(wavelengths, noise.raman_along_hz + noise.raman_against_hz, label=name)
    axes.set(xlabel="wavelength of the quantum channel, nm", ylabel="photons per second within 0.2 nm (model)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(title="0 dBm at 1550 nm, 50 km")
    save(drawn, path)


def draw_pass(path: Path) -> None:
    """Draw a pass of a satellite: elevation, loss, detections."""
    link = OpticalLink(
        wavelength_nm=850.0,
        waist_radius_m=0.12,
        receiver_radius_m=0.5,
        zenith_transmittance=0.7,
        half_angle_rad=1e-5,
        pointing_jitter_rad=1e-6,
        fixed_db=8.0,
    )
    seen = pass_over(link, altitude_m=5e5, maximum_elevation_deg=80.0, background_hz=1e3)
    source = DecoySource(1e8, (0.8, 0.15, 0.0), (0.7, 0.2, 0.1), 0.8, 0.01)
    detector = Detector(efficiency=0.5, dark_count_probability=2.5e-8)
    counts = expected_counts(seen, source, detector)
    key = pass_key(seen, source, detector, partial(two_decoys.secret_length))
    drawn = figure(7.2, 5.4)
    panels = drawn.subplots(3, sharex=True)
    panels[0].plot(seen.time_s, seen.elevation_deg)
    panels[0].axhline(key.elevation_min_deg, color="grey", linestyle=":")
    panels[0].set_ylabel("elevation, degrees")
    panels[1].plot(seen.time_s, seen.attenuation_db)
    panels[1].set(ylabel="loss, dB", ylim=(float(np.min(seen.attenuation_db)) - 2.0, 70.0))
    panels[2].plot(seen.time_s, counts.key_detections.sum(axis=-1) / 1e3)
    panels[2].set(ylabel="key basis, kb/s", xlabel="time from the highest point, s")
    for panel in panels:
        panel.grid(visible=True, alpha=0.3)
    bits, proof = key.length.secret_bits, "two decoys, epsilon 1e-9"
    drawn.suptitle(f"simulated: {bits / 1e3:.0f} kbit of key in {key.duration_s:.0f} s ({proof})", fontsize=9)
    save(drawn, path)


def draw_codes(path: Path) -> None:
    """Draw what the codes disclose over the Shannon limit, by frame size."""
    qbers = np.arange(0.005, 0.1001, 0.0025)
    drawn = figure(7.2, 4.0)
    axes = drawn.add_subplot()
    for frame_bits, name in ((None, "long frames"), (65536, "short frames")):
        plans = [plan_frame(float(qber), frame_bits=frame_bits) for qber in qbers]
        label = f"{name}, {plans[len(plans) // 2].payload_bits} bits"
        axes.plot(100.0 * qbers, [plan.efficiency for plan in plans], ".-", label=label)
    axes.set(xlabel="QBER, %", ylabel="disclosed bits over the Shannon limit, f", ylim=(1.0, None))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    save(drawn, path)


def draw_frame_errors(path: Path) -> None:
    """Draw the share of frames that were lost, as measured, with 95 % intervals of Clopper and Pearson."""
    measured = json.loads(FRAME_ERRORS.read_text(encoding="utf-8"))["curve"]
    lost, frames = (np.array([each[name] for each in measured], dtype=np.float64) for name in ("failed", "frames"))
    low = np.where(lost > 0, beta.ppf(0.025, np.maximum(lost, 1e-9), frames - lost + 1.0), 0.0)
    high = np.where(lost < frames, beta.ppf(0.975, lost + 1.0, np.maximum(frames - lost, 1e-9)), 1.0)
    share, efficiency = lost / frames, [each["f_ec"] for each in measured]
    drawn = figure(7.2, 3.6)
    axes = drawn.add_subplot()
    axes.errorbar(efficiency, share, yerr=[share - low, high - share], fmt="o", capsize=3)
    axes.set(xlabel="disclosed bits over the Shannon limit, f", ylabel="share of frames lost", ylim=(-0.02, 1.02))
    axes.set_title(
        f"code {measured[0]['code']}, {measured[0]['payload_bits']} bits a frame, errors simulated", fontsize=9
    )
    axes.grid(visible=True, alpha=0.3)
    save(drawn, path)


def draw_costs(path: Path) -> None:
    """Draw what one core does in a second, as measured: amplification and pipeline by block, correction by QBER."""
    measured = json.loads(COSTS.read_text(encoding="utf-8"))
    drawn = figure(9.6, 3.6)
    by_block, by_qber = drawn.subplots(1, 2)
    halves = [each for each in measured["amplification"] if each["output_bits"] * 2 == each["key_bits"]]
    best = halves[0]["path"]
    _curve(by_block, [each for each in halves if each["path"] == best], "key_bits", "amplification to half")
    piped = measured["pipeline"]
    for qber in sorted({each["qber"] for each in piped}):
        same = [each for each in piped if each["qber"] == qber]
        if len(same) > 1:
            _curve(by_block, same, "block_bits", f"whole pipeline, QBER {qber:.1%}")
    by_block.set(xscale="log", yscale="log", xlabel="bits in a block", ylabel="Mb/s, one core")
    corrected = [each for each in measured["reconciliation"] if each["path"] == best]
    for is_long, name in ((True, "long frames"), (False, "short frames")):
        frames = [each for each in corrected if (each["frame_bits"] > 1 << 17) == is_long]
        _curve(by_qber, frames, "qber", f"correction, {name}")
    whole = max(each["block_bits"] for each in piped)
    largest = [each for each in piped if each["block_bits"] == whole]
    _curve(by_qber, largest, "qber", f"whole pipeline, blocks of {whole:g}")
    by_qber.set(xlabel="QBER", ylabel="Mb/s of sifted bits, one core", ylim=(0.0, None))
    for axes in (by_block, by_qber):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    machine = measured["machine"]
    drawn.suptitle(f"{machine['cpu']}, path {best}, commit {machine['commit']}", fontsize=9)
    save(drawn, path)


def _curve(axes: Any, results: Sequence[Mapping[str, Any]], by: str, label: str) -> None:
    """Draw rates over one of their sizes; of equal sizes the median."""
    sizes = sorted({each[by] for each in results})
    rates = [float(np.median([each["mbps"] for each in results if each[by] == size])) for size in sizes]
    axes.plot(sizes, rates, ".-", label=label)


PICTURES: dict[str, Callable[[Path], None]] = {
    "link-rates": draw_rates,
    "link-finite-key": draw_finite_key,
    "link-raman": draw_raman,
    "link-pass": draw_pass,
    "link-codes": draw_codes,
    "link-frame-errors": draw_frame_errors,
    "link-costs": draw_costs,
}


def main(names: Sequence[str]) -> int:
    """Draw all pictures, or those named; return the exit code."""
    IMAGES.mkdir(exist_ok=True)
    for name in names or PICTURES:
        PICTURES[name](IMAGES / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
