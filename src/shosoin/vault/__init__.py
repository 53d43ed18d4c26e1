"""The vault: objects secret-shared over sites, stored, found again, checked, and never whole anywhere but at home.

>>> from shosoin.vault import Scheme
>>> scheme = Scheme.parse("3-of-5")
>>> scheme.durable_min, scheme.write_quorum, scheme.read_quorum
(4, 4, 3)
"""

from shosoin.vault.client import ByteSink, Vault
from shosoin.vault.context import VaultContext, VaultSite
from shosoin.vault.receipts import GetReceipt, KeyPlan, Listing, PutReceipt, RemoveReceipt, Stat, VerifyReport
from shosoin.vault.scheme import Scheme
from shosoin.vault.site import OwnerRecord, SiteNode
from shosoin.vault.writing import ByteSource

__all__ = [
    "ByteSink",
    "ByteSource",
    "GetReceipt",
    "KeyPlan",
    "Listing",
    "OwnerRecord",
    "PutReceipt",
    "RemoveReceipt",
    "Scheme",
    "SiteNode",
    "Stat",
    "Vault",
    "VaultContext",
    "VaultSite",
    "VerifyReport",
]
