"""What an end tells whoever runs it: a key, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shosoin.base import KeyMaterial
from shosoin.link.counts import DecoyCounts
from shosoin.link.epsilons import Epsilons
from shosoin.link.information import binary_entropy
from shosoin.link.postprocessing.errors import VoidReason
from shosoin.link.postprocessing.sifting import SiftedBlock
from shosoin.link.rates.result import SecretLength

__all__ = ["BlockVoid", "KeyReady", "Outcome", "block_report"]


@dataclass(frozen=True, slots=True)
class KeyReady:
    """The key of a block. It is told again after a crash until ``stored`` is called, always the same."""

    block: int
    key: KeyMaterial
    report: Mapping[str, Any]
    """Figures of the block, the same at both ends; see ``block_report``."""


@dataclass(frozen=True, slots=True)
class BlockVoid:
    """A block that yields nothing."""

    block: int
    reason: VoidReason
    figures: Mapping[str, Any]


Outcome = KeyReady | BlockVoid


def block_report(
    block: SiftedBlock,
    counts: DecoyCounts,
    *,
    leak_bits: int,
    bound: SecretLength,
    secret_bits: int,
    refill_bytes: tuple[int, int],
    epsilons: Epsilons,
) -> dict[str, Any]:
    """Return the figures of a block that has a key."""
    errors = int(counts.key_errors.sum())
    qber = errors / block.key_bits
    limit = block.key_bits * float(binary_entropy(qber))
    tested = int(counts.test_detections.sum())
    return {
        "pulses": block.pulses,
        "key_basis_bits": block.key_bits,
        "key_detections": counts.key_detections.tolist(),
        "key_errors": counts.key_errors.tolist(),
        "test_detections": counts.test_detections.tolist(),
        "test_errors": counts.test_errors.tolist(),
        "qber": qber,
        "test_qber": int(counts.test_errors.sum()) / tested if tested else None,
        "leak_ec_bits": leak_bits,
        "f_ec": leak_bits / limit if limit else None,
        "proof": bound.proof,
        "vacuum_detections_min": bound.vacuum_detections_min,
        "single_photon_detections_min": bound.single_photon_detections_min,
        "phase_error_rate_max": bound.phase_error_rate_max,
        "fixed_cost_bits": bound.fixed_cost_bits,
        "bound_bits": bound.secret_bits,
        "secret_bits": secret_bits,
        "authentication_bits": 8 * sum(refill_bytes),
        "key_bits": secret_bits - 8 * sum(refill_bytes),
        "epsilons": epsilons.to_json(),
    }
