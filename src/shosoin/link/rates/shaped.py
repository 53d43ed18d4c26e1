"""What every rate model does first and last: take attenuations, and hand back arrays of their shape."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array
from shosoin.link.rates.result import LinkRate

__all__ = ["attenuations", "require_block", "shaped_rate"]


def attenuations(attenuation_db: npt.ArrayLike) -> Array:
    """Return attenuations in dB as an array.

    Raises:
        ValueError: one is negative or not a finite number.
    """
    loss = np.asarray(attenuation_db, dtype=np.float64)
    if not np.all(np.isfinite(loss)) or np.any(loss < 0.0):
        raise ValueError("attenuations in dB must be finite and not negative")
    return loss


def shaped_rate(
    protocol: str,
    attenuation_db: Array,
    bits: npt.ArrayLike,
    qber: npt.ArrayLike,
    epsilons: Epsilons | None = None,
    details: Mapping[str, npt.ArrayLike] | None = None,
) -> LinkRate:
    """Return a rate whose arrays all have the shape of the attenuations; a negative rate is no key."""

    def shaped(values: npt.ArrayLike) -> Array:
        return np.array(np.broadcast_to(np.asarray(values, dtype=np.float64), attenuation_db.shape))

    figures = {name: shaped(values) for name, values in (details or {}).items()}
    return LinkRate(protocol, attenuation_db, np.maximum(shaped(bits), 0.0), shaped(qber), epsilons, figures)


def require_block(size: float, epsilons: tuple[float, ...], shares: tuple[float | None, ...] = ()) -> None:
    """Refuse a block that cannot be.

    Raises:
        ValueError: fewer than one round, an epsilon outside (0, 1), or a share (where given) outside (0, 1).
    """
    if not 1.0 <= size < float("inf"):
        raise ValueError(f"a block must have at least one round, got {size}")
    if not all(0.0 < epsilon < 1.0 for epsilon in epsilons):
        raise ValueError("every epsilon must be above 0 and below 1")
    if not all(share is None or 0.0 < share < 1.0 for share in shares):
        raise ValueError("shares must be above 0 and below 1")
