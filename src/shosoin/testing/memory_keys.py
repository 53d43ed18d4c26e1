"""KMEs of a whole network in memory: the semantics of ETSI GS QKD 014 without processes.

Every pair of SAEs shares an endless supply unless a stock is set; each key is delivered once at each end.
Its keys come from a seeded generator, so nothing it makes may protect anything; its facts say ``simulated-qkd``.
"""

from __future__ import annotations

from collections.abc import Sequence

from shosoin.base import KeyMaterial, Rejected, SaeId, SimulationRng, Unavailable
from shosoin.base.ports import DeliveredKey, KeySourceFacts, KeyStatus

__all__ = ["MemoryKeyNetwork", "MemoryKme"]

_FACTS = KeySourceFacts(kind="simulated-qkd", simulated=True, epsilon=1e-10)


class MemoryKeyNetwork:
    """All key streams; hands out one ``MemoryKme`` per SAE."""

    def __init__(self, seed: int = 0, *, max_key_size_bits: int = 16_776_960, max_key_per_request: int = 128) -> None:
        self._rng = SimulationRng(seed)
        self._waiting: dict[tuple[SaeId, SaeId, str], bytes] = {}
        self._served = 0
        self.max_key_size_bits = max_key_size_bits
        self.max_key_per_request = max_key_per_request
        self.stock_bits: dict[tuple[SaeId, SaeId], int] = {}
        """Bits left per (master, slave); a pair that is not named never runs dry."""
        self.corrupted: set[tuple[SaeId, SaeId]] = set()
        """Pairs whose slave end gets other bits than the master."""
        self.delivered: set[str] = set()
        """Every key_ID a slave ever got, to prove single use."""

    def kme(self, sae: SaeId) -> MemoryKme:
        """Return the KME as one SAE sees it."""
        return MemoryKme(self, sae)

    def draw(self, master: SaeId, slave: SaeId, number: int, size_bits: int) -> list[DeliveredKey]:
        """Make keys for a pair."""
        left = self.stock_bits.get((master, slave))
        if left is not None:
            if left < number * size_bits:
                raise Unavailable("the key stream is dry", code="keys.stream_dry", retry_after_s=1.0)
            self.stock_bits[master, slave] = left - number * size_bits
        keys = []
        for _ in range(number):
            self._served += 1
            key_id = f"{self._served:032x}"
            content = self._rng.pseudo_bytes(size_bits // 8)
            self._waiting[master, slave, key_id] = content
            keys.append(DeliveredKey(key_id, KeyMaterial(content), _FACTS))
        return keys

    def fetch(self, master: SaeId, slave: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        """Deliver keys to the slave, once."""
        if any((master, slave, key_id) not in self._waiting for key_id in key_ids):
            raise Rejected("one or more keys specified are not found on KME", code="keys.not_found")
        keys = []
        for key_id in key_ids:
            content = self._waiting.pop((master, slave, key_id))
            if (master, slave) in self.corrupted:
                content = bytes([content[0] ^ 1]) + content[1:]
            self.delivered.add(key_id)
            keys.append(DeliveredKey(key_id, KeyMaterial(content), _FACTS))
        return keys


class MemoryKme:
    """``KeySource`` of one SAE over a ``MemoryKeyNetwork``."""

    def __init__(self, network: MemoryKeyNetwork, sae: SaeId) -> None:
        self._network = network
        self._sae = sae

    async def status(self, slave: SaeId) -> KeyStatus:
        """Return the stock for a pair."""
        bits = self._network.stock_bits.get((self._sae, slave), 1 << 40)
        return KeyStatus(
            source_kme_id=f"kme-of-{self._sae}",
            target_kme_id=f"kme-of-{slave}",
            master_sae_id=self._sae,
            slave_sae_id=slave,
            key_size_bits=256,
            stored_key_count=bits // 256,
            max_key_count=1 << 32,
            max_key_per_request=self._network.max_key_per_request,
            max_key_size_bits=self._network.max_key_size_bits,
            min_key_size_bits=8,
            max_sae_id_count=0,
            extension={"shosoin_relays": []},
        )

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        """Draw fresh keys."""
        return self._network.draw(self._sae, slave, number, size_bits)

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        """Fetch keys drawn by ``master``."""
        return self._network.fetch(master, self._sae, key_ids)
