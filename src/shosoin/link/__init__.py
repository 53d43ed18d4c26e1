"""What a QKD link yields: rate models, and a simulated link that delivers blocks at such a rate.

>>> from shosoin.link import METRO, secret_key_rate_bps
>>> 0.8e6 < secret_key_rate_bps(METRO, attenuation_db=13.5) < 1.2e6
True
"""

from shosoin.link.port import LinkFacts
from shosoin.link.rates.decoy import (
    GYS,
    METRO,
    DecoyParameters,
    cutoff_km,
    secret_key_rate_bps,
    secret_key_rate_per_pulse,
)
from shosoin.link.simulated import BlockDue, SimulatedLink

__all__ = [
    "GYS",
    "METRO",
    "BlockDue",
    "DecoyParameters",
    "LinkFacts",
    "SimulatedLink",
    "cutoff_km",
    "secret_key_rate_bps",
    "secret_key_rate_per_pulse",
]
