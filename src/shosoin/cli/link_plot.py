"""Pictures of link rates, where the extra ``plots`` (matplotlib) is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shosoin.base import Rejected, Unavailable

__all__ = ["draw_rate", "figure", "save"]

_KINDS = (".svg", ".png")


def figure(width_inches: float = 6.4, height_inches: float = 4.0) -> Any:
    """Return an empty figure that no display is needed for, and whose SVG is the same every time.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as err:
        raise Unavailable(
            "drawing needs matplotlib, which is not installed",
            code="cli.no_matplotlib",
            hint="install the extra: pip install 'shosoin[plots]'",
        ) from err
    matplotlib.rcParams.update({"svg.hashsalt": "shosoin", "svg.fonttype": "none", "font.size": 9})
    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def save(drawn: Any, path: Path) -> None:
    """Write a figure as its name says, without a date.

    Raises:
        Rejected: the name ends in neither .svg nor .png.
    """
    kind = path.suffix.lower()
    if kind not in _KINDS:
        raise Rejected(f"{path} is neither .svg nor .png", code="cli.usage")
    metadata = {"Date": None} if kind == ".svg" else {"Software": None}
    drawn.savefig(path, format=kind[1:], metadata=metadata, dpi=150)


def draw_rate(path: Path, answer: dict[str, Any]) -> None:
    """Draw what ``shosoin link rate`` answered, beside the bound that no protocol without repeater passes."""
    import numpy as np

    if path.suffix.lower() not in _KINDS:
        raise Rejected(f"{path} is neither .svg nor .png", code="cli.usage")
    drawn = figure()
    axes = drawn.add_subplot()
    points = answer["points"]
    has_length = points[0]["length_km"] is not None
    at = [point["length_km" if has_length else "attenuation_db"] for point in points]
    axes.semilogy(at, [point["secret_bits_per_pulse"] or np.nan for point in points], label=answer["protocol"])
    losses = np.array([point["attenuation_db"] for point in points])
    with np.errstate(divide="ignore"):
        bound = -np.log1p(-(10.0 ** (-losses / 10.0))) / np.log(2.0)
    axes.semilogy(at, np.where(np.isfinite(bound), bound, np.nan), "k--", label="PLOB bound")
    axes.set_xlabel("fibre, km" if has_length else "loss, dB")
    axes.set_ylabel(
        f"secret bits per {answer['bits_per'].replace('_', ' ')} (model"
        + (", asymptotic)" if answer["asymptotic"] else ")")
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    save(drawn, path)
