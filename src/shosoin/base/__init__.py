"""Words that every layer uses: errors, identifiers, secret material, ports and the assurance label.

>>> from shosoin.base import KeyMaterial
>>> material = KeyMaterial(b"0123456789abcdef")
>>> repr(material)
'KeyMaterial(16 bytes, redacted)'
>>> material.take() == b"0123456789abcdef"
True
"""

from shosoin.base.errors import Alarm, Denied, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.base.ids import KmeId, ObjectId, OwnerId, SaeId, SiteId, SystemId, VersionId
from shosoin.base.label import AssuranceLabel
from shosoin.base.material import KeyMaterial
from shosoin.base.randomness import Entropy, SimulationRng

__all__ = [
    "Alarm",
    "AssuranceLabel",
    "Denied",
    "Entropy",
    "KeyMaterial",
    "KmeId",
    "ObjectId",
    "OwnerId",
    "PeerFault",
    "Rejected",
    "SaeId",
    "ShosoinError",
    "SimulationRng",
    "SiteId",
    "SystemId",
    "Unavailable",
    "VersionId",
]
