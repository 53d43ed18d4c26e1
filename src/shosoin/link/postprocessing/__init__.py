"""From what two devices recorded to keys that are equal and secret: both ends of decoy BB84 as state machines.

``Transmitter`` and ``Receiver`` take whole messages and device records and give messages and outcomes; who runs them
carries the bytes, keeps the journal and takes the keys. Every message is authenticated, every key-dependent bit is
counted, no block leaves longer than its bound, and none leaves at one end only.
"""

from shosoin.link.postprocessing.errors import VoidReason
from shosoin.link.postprocessing.journal import Journal
from shosoin.link.postprocessing.outcome import BlockVoid, KeyReady, Outcome
from shosoin.link.postprocessing.parameters import PROOFS, SessionParameters
from shosoin.link.postprocessing.receiver import Receiver
from shosoin.link.postprocessing.session import install_start_key
from shosoin.link.postprocessing.transmitter import Transmitter

__all__ = [
    "PROOFS",
    "BlockVoid",
    "Journal",
    "KeyReady",
    "Outcome",
    "Receiver",
    "SessionParameters",
    "Transmitter",
    "VoidReason",
    "install_start_key",
]
