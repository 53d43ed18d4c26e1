"""One frame: what Alice discloses, and how Bob corrects his bits with it.

Alice's frame is her payload, zeros where the plan shortens, fresh random bits where it punctures. She sends the
syndrome. Bob adds the syndrome of his own frame, and looks for the error pattern that has the sum as its syndrome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shosoin.base import Entropy, PeerFault
from shosoin.kernels.array_ldpc import ArrayLdpc
from shosoin.kernels.arrays import arrays_in_use
from shosoin.kernels.buffers import Buffer
from shosoin.kernels.ldpc import KNOWN, MESSAGE_MAX, UNITS_PER_NAT, ldpc_kernels
from shosoin.link.reconciliation.code import edges_of
from shosoin.link.reconciliation.plan import FramePlan

__all__ = ["ITERATIONS_MAX", "Correction", "Disclosure", "correct", "correct_many", "disclose"]

ITERATIONS_MAX = 100
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What Alice sends for one frame."""

    message: bytes
    """The syndrome, bit i in bit i % 8 of byte i // 8."""
    leak_bits: int
    """What an eavesdropper learns of the payload at most, in bits."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What Bob has after decoding. Without ``converged`` the bits are worthless."""

    bits: bytes = field(repr=False)
    """The payload, packed like Alice's; unused bits of the last byte are zero."""
    converged: bool
    """Whether this payload has Alice's syndrome, to the last bit. The verification hash tells about the bits."""
    iterations: int


def disclose(plan: FramePlan, payload: Buffer, entropy: Entropy) -> Disclosure:
    """Return the syndrome of Alice's frame.

    Args:
        plan: agreed with Bob.
        payload: ``plan.payload_bits`` packed bits; what follows them in the last byte is ignored.
        entropy: makes the punctured bits, which stay secret and are forgotten; unused if the plan punctures none.

    Raises:
        ValueError: the payload has another size.
    """
    frame = _frame(plan, payload)
    for column in plan.punctured_columns():
        frame[column] = np.frombuffer(entropy.random_bytes(frame.shape[1]), dtype=np.uint8)
    message = _syndrome(plan, frame)
    frame[:] = 0
    return Disclosure(message, plan.leak_bits)


def correct(
    plan: FramePlan, payload: Buffer, message: bytes, qber: float | None = None, *, iterations_max: int = ITERATIONS_MAX
) -> Correction:
    """Return Bob's payload with its errors removed, if the decoder converges.

    A frame that does not converge is not tried again: the protocol discloses it in full. How many iterations a frame
    takes depends on its errors and may be seen from the time; error patterns are not secret once corrected, the bits
    are, and no time depends on them.

    Args:
        plan: agreed with Alice.
        payload: Bob's ``plan.payload_bits`` packed bits.
        message: what Alice sent.
        qber: error rate that the decoder assumes, by default the plan's.
        iterations_max: bound on the work.

    Raises:
        PeerFault: the message has not the size of a syndrome (``link.bad_syndrome``).
        ValueError: the payload has another size.
    """
    return correct_many([(plan, payload, message)], qber, iterations_max=iterations_max)[0]


def correct_many(
    received: Sequence[tuple[FramePlan, Buffer, bytes]],
    qber: float | None = None,
    *,
    iterations_max: int = ITERATIONS_MAX,
) -> list[Correction]:
    """Return what ``correct`` returns for each frame: plan, payload and message; a GPU decodes frames side by side.

    Raises:
        PeerFault, ValueError: as ``correct``.
    """
    problems = [_Problem.of(plan, payload, message, qber) for plan, payload, message in received]
    decoded = _decode(problems, iterations_max)
    return [problem.solved(*outcome) for problem, outcome in zip(problems, decoded, strict=True)]


@dataclass(frozen=True, slots=True, repr=False)
class _Problem:
    """One frame as the decoder sees it."""

    plan: FramePlan
    frame: Bytes
    syndrome: bytes
    """Of the errors."""
    magnitudes: bytes

    @classmethod
    def of(cls, plan: FramePlan, payload: Buffer, message: bytes, qber: float | None) -> _Problem:
        code = plan.matrix()
        if len(message) * 8 != code.syndrome_bits:
            raise PeerFault(
                f"got a syndrome of {len(message) * 8} bits, expected {code.syndrome_bits}", code="link.bad_syndrome"
            )
        frame = _frame(plan, payload)
        syndrome = np.frombuffer(message, dtype=np.uint8) ^ np.frombuffer(_syndrome(plan, frame), dtype=np.uint8)
        return cls(plan, frame, syndrome.tobytes(), _magnitudes(plan, plan.qber if qber is None else qber))

    def solved(self, errors: bytes, iterations: int, converged: bool) -> Correction:
        """Return the payload without the errors found."""
        pattern = np.frombuffer(errors, dtype=np.uint8).reshape(self.frame.shape)
        frame = self.frame
        frame ^= pattern
        corrected = _payload_of(self.plan, frame)
        frame[:] = 0
        # Who sends the syndrome of another frame may lead the decoder to "errors" among the zeros after the payload.
        return Correction(corrected, converged and not _rest_of(self.plan, pattern).any(), iterations)


def _decode(problems: Sequence[_Problem], iterations_max: int) -> list[tuple[bytes, int, bool]]:
    arrays = arrays_in_use()
    if arrays is None:
        kernels = ldpc_kernels()
        return [kernels.decode(*_shape(each.plan), each.magnitudes, each.syndrome, iterations_max) for each in problems]
    alike: dict[tuple[str, bytes], list[int]] = {}
    for number, each in enumerate(problems):
        alike.setdefault((each.plan.code, each.magnitudes), []).append(number)
    found: dict[int, tuple[bytes, int, bool]] = {}
    for (_, magnitudes), numbers in alike.items():
        syndromes = [problems[number].syndrome for number in numbers]
        shape = _shape(problems[numbers[0]].plan)
        decoded = ArrayLdpc(arrays).decode_many(*shape, magnitudes, syndromes, iterations_max)
        found.update(zip(numbers, decoded, strict=True))
    return [found[number] for number in range(len(problems))]


def _shape(plan: FramePlan) -> tuple[int, int, bytes]:
    code = plan.matrix()
    return code.rows, code.lifting, edges_of(plan.code)


def _payload_columns(plan: FramePlan) -> npt.NDArray[np.intp]:
    return np.setdiff1d(np.arange(plan.used_columns), np.array(plan.punctured_columns(), dtype=np.intp))


def _frame(plan: FramePlan, payload: Buffer) -> Bytes:
    """Return the frame, a row of bytes for each base column, with zeros for what is no payload."""
    code = plan.matrix()
    given = np.frombuffer(payload, dtype=np.uint8)
    if given.size != -(-plan.payload_bits // 8):
        raise ValueError(f"got {given.size} bytes of payload, expected {plan.payload_bits} bits")
    columns = _payload_columns(plan)
    padded = np.zeros(columns.size * code.lifting // 8, dtype=np.uint8)
    padded[: given.size] = given
    if plan.payload_bits % 8:
        padded[given.size - 1] &= (1 << plan.payload_bits % 8) - 1
    frame = np.zeros((code.columns, code.lifting // 8), dtype=np.uint8)
    frame[columns] = padded.reshape(columns.size, -1)
    return frame


def _rest_of(plan: FramePlan, frame: Bytes) -> Bytes:
    """Return what follows the payload in its last block, the bits before it in the same byte as zeros."""
    rest = frame[_payload_columns(plan)].reshape(-1)[plan.payload_bits // 8 :]
    if plan.payload_bits % 8:
        rest[0] &= 0xFF << plan.payload_bits % 8 & 0xFF
    return rest


def _payload_of(plan: FramePlan, frame: Bytes) -> bytes:
    bits = frame[_payload_columns(plan)].reshape(-1)[: -(-plan.payload_bits // 8)]
    if plan.payload_bits % 8:
        bits[-1] &= (1 << plan.payload_bits % 8) - 1
    return bits.tobytes()


def _syndrome(plan: FramePlan, frame: Bytes) -> bytes:
    code = plan.matrix()
    return ldpc_kernels().syndrome(code.rows, code.lifting, edges_of(plan.code), frame.reshape(-1))


def _magnitudes(plan: FramePlan, qber: float) -> bytes:
    """Return how sure the decoder may be of each column before it starts."""
    code = plan.matrix()
    bounded = min(max(qber, 1e-4), 0.499)
    channel = min(MESSAGE_MAX, max(1, round(UNITS_PER_NAT * float(np.log((1 - bounded) / bounded)))))
    magnitudes = np.full(code.columns, KNOWN, dtype="<i2")
    magnitudes[: plan.used_columns] = channel
    magnitudes[list(plan.punctured_columns())] = 0
    return magnitudes.tobytes()
