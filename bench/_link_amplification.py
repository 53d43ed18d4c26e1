"""Privacy amplification on one core, beside other programs in the same run.

Question: how many bits of reconciled key does one core hash by a Toeplitz matrix in a second? Rates are bits of key in;
"10^7 to 5*10^6" has ten million of them and half as many out, and a seed of both together. Seconds are those of the
thread's CPU time. Ratios are to the peer named, or to the rate that a core must reach.

Peers, where they are installed: a Fourier transform of doubles from SciPy (exact at these sizes); gf2x 1.3, which
multiplies polynomials over GF(2) (Debian's libgf2x3 through ctypes, built for any x86-64; the slice of its product is
not counted); and randextract, a reference library. Their results are checked against ours before they are timed.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from _common import Median, Report, interleave
from shosoin.kernels import available_paths, paths, toeplitz_into
from shosoin.kernels.reference_toeplitz import ReferenceToeplitz

__all__ = ["report"]

Bits = npt.NDArray[np.uint8]
Case = Callable[[], object]

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
PEER_ROUNDS = min(ROUNDS, 3)
WANTED_MBPS = 300.0

BLOCKS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1 << 27)
RATIOS = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Block:
    """A reconciled block and its seed."""

    key_bits: int
    output_bits: int
    key: bytes
    seed: bytes
    output: bytearray

    @classmethod
    def of(cls, key_bits: int, output_bits: int) -> Block:
        """Return a block of noise."""
        rng = np.random.default_rng(key_bits)
        key, seed = rng.bytes((key_bits + 7) // 8), rng.bytes((key_bits + output_bits + 6) // 8)
        return cls(key_bits, output_bits, key, seed, bytearray((output_bits + 7) // 8))

    @property
    def name(self) -> str:
        """What the rows are called."""
        return f"{power_of_ten(self.key_bits)} to {power_of_ten(self.output_bits)}"

    @property
    def seed_bits(self) -> int:
        """Length of the seed."""
        return self.key_bits + self.output_bits - 1

    def ours(self, path: str) -> Case:
        """Return the kernel of one path."""
        kernel = paths.family("Toeplitz", ReferenceToeplitz, path)
        return lambda: kernel.toeplitz_into(self.key, self.key_bits, self.seed, self.output, self.output_bits)

    def public(self) -> None:
        """Run the public function on the path in use."""
        toeplitz_into(self.key, self.key_bits, self.seed, self.output, self.output_bits)


def power_of_ten(bits: int) -> str:
    """Write 5000000 as 5*10^6, and powers of two as such."""
    if bits & (bits - 1) == 0 or (bits * 2) & (bits * 2 - 1) == 0:
        return f"2^{bits.bit_length() - 1}"
    exponent = len(str(bits)) - len(str(bits).strip("0"))
    factor = bits // 10**exponent
    return f"10^{exponent}" if factor == 1 else f"{factor}*10^{exponent}"


# --------------------------------------------------------------------------------------------------------------- peers


class Fourier:
    """A cyclic convolution of doubles, as long as the seed: what wraps around misses the output."""

    name = "SciPy rfft"

    def __init__(self, block: Block) -> None:
        self._block = block
        self._points = fft.next_fast_len(block.seed_bits, real=True)

    def __call__(self) -> bytes:
        """Return the output."""
        b = self._block
        seed = np.unpackbits(np.frombuffer(b.seed, np.uint8), count=b.seed_bits, bitorder="little")
        key = np.unpackbits(np.frombuffer(b.key, np.uint8), count=b.key_bits, bitorder="little")
        spectrum = fft.rfft(seed, self._points)
        spectrum *= fft.rfft(key, self._points)
        counts = fft.irfft(spectrum, self._points)[b.key_bits - 1 : b.seed_bits]
        return np.packbits(np.rint(counts).astype(np.int64).astype(np.uint8) & 1, bitorder="little").tobytes()


class Gf2x:
    """The product of the two polynomials by libgf2x."""

    name = "gf2x"

    def __init__(self, block: Block) -> None:
        found = ctypes.util.find_library("gf2x")
        if found is None:
            raise ImportError("no libgf2x")
        self._library = ctypes.CDLL(found)
        self._block = block
        self._key = self._words(block.key, block.key_bits)
        self._seed = self._words(block.seed, block.seed_bits)
        self._product = np.zeros(self._key.size + self._seed.size, np.uint64)

    @staticmethod
    def _words(data: bytes, bits: int) -> npt.NDArray[np.uint64]:
        used = np.packbits(
            np.unpackbits(np.frombuffer(data, np.uint8), count=bits, bitorder="little"), bitorder="little"
        )
        return np.pad(used, (0, -used.size % 8)).view(np.uint64)

    def multiply(self) -> None:
        """Multiply."""
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (self._product, self._key, self._seed)]
        sizes = [ctypes.c_ulong(array.size) for array in (self._key, self._seed)]
        self._library.gf2x_mul(pointers[0], pointers[1], sizes[0], pointers[2], sizes[1])

    def __call__(self) -> bytes:
        """Return the output."""
        self.multiply()
        b = self._block
        bits = np.unpackbits(self._product.view(np.uint8), count=b.key_bits + b.seed_bits, bitorder="little")
        return np.packbits(bits[b.key_bits - 1 : b.seed_bits], bitorder="little").tobytes()


class RandExtract:
    """The reference library of arXiv 2506.00124; its seed order "row-first" is ours."""

    name = "randextract"

    def __init__(self, block: Block) -> None:
        from galois import GF2  # noqa: PLC0415  # compiles for seconds, and may be missing
        from randextract import ToeplitzHashing  # noqa: PLC0415

        self._extractor = ToeplitzHashing(input_length=block.key_bits, output_length=block.output_bits)
        self._key = GF2(np.unpackbits(np.frombuffer(block.key, np.uint8), count=block.key_bits, bitorder="little"))
        self._seed = GF2(np.unpackbits(np.frombuffer(block.seed, np.uint8), count=block.seed_bits, bitorder="little"))

    def __call__(self) -> bytes:
        """Return the output."""
        bits: Bits = np.asarray(self._extractor.extract(self._key, self._seed, seed_mode="row-first"))
        return np.packbits(bits, bitorder="little").tobytes()


def peers_of(report: Report, block: Block) -> dict[str, Case]:
    """Return the peers that are installed and agree with us; the slow one only on blocks it can do in seconds."""
    block.public()
    cases: dict[str, Case] = {}
    for peer_type in (Fourier, Gf2x, RandExtract):
        if peer_type is RandExtract and block.key_bits > 1_000_000:
            continue
        try:
            peer = peer_type(block)
        except ImportError:
            report.note(f"{peer_type.name}: not installed")
            continue
        assert peer() == block.output, peer_type.name
        cases[peer_type.name] = peer.multiply if isinstance(peer, Gf2x) else peer
    return cases


# ---------------------------------------------------------------------------------------------------------------- runs


def emit_rate(report: Report, block: Block, path: str, seconds: Median, *, wanted: bool = False) -> None:
    """Report a rate and its ratio to what a core must reach."""
    rate = seconds.per(block.key_bits / 1e6)
    report.emit(
        f"amplify {block.name}",
        path,
        rate,
        "Mb/s",
        ratio=rate.value / WANTED_MBPS,
        ratio_to=f"{WANTED_MBPS:g} Mb/s",
        wanted=1.0 if wanted else None,
    )


def measure_peers(report: Report, block: Block) -> None:
    """Measure the peers and our best path in turn."""
    best = available_paths()[0]
    peers = peers_of(report, block)
    times = interleave(peers | {best: block.ours(best)}, rounds=PEER_ROUNDS, clock=time.thread_time)
    ours = times.pop(best)
    for name, seconds in times.items():
        rate = seconds.per(block.key_bits / 1e6)
        report.emit(f"amplify {block.name}", name, rate, "Mb/s", ratio=ours.value / seconds.value, ratio_to=best)
        speedup = Median(seconds.value / ours.value, seconds.low / ours.high, seconds.high / ours.low)
        report.emit(f"amplify {block.name}: times faster", best, speedup, "x", ratio=speedup.value, ratio_to=name)


def measure_paths(report: Report, block: Block) -> None:
    """Measure every native path on the block that the target names."""
    native = [path for path in available_paths() if path != "reference"]
    times = interleave({path: block.ours(path) for path in native}, rounds=ROUNDS, clock=time.thread_time)
    for path, seconds in times.items():
        emit_rate(report, block, path, seconds, wanted=path == native[0])


def measure_blocks(report: Report) -> None:
    """Measure the best path over lengths of blocks, and over ratios of output to key."""
    best = available_paths()[0]
    shapes = [(bits, bits // 2) for bits in BLOCKS]
    shapes += [(10_000_000, round(10_000_000 * ratio)) for ratio in RATIOS]
    for key_bits, output_bits in shapes:
        block = Block.of(key_bits, output_bits)
        rounds = ROUNDS if key_bits <= 10_000_000 else PEER_ROUNDS
        times = interleave({best: block.ours(best)}, rounds=rounds, clock=time.thread_time)
        emit_rate(report, block, best, times[best])


def report(report: Report) -> None:
    """Measure privacy amplification."""
    block = Block.of(10_000_000, 5_000_000)
    if len(available_paths()) == 1:
        report.note("no native kernels here: the reference alone is measured, on a shorter block")
        block = Block.of(1_000_000, 500_000)
        emit_rate(report, block, "reference", interleave({"reference": block.public}, rounds=PEER_ROUNDS)["reference"])
        return
    measure_paths(report, block)
    measure_peers(report, block)
    measure_peers(report, Block.of(1_000_000, 500_000))
    measure_blocks(report)


def main() -> None:
    """Measure it alone."""
    alone = Report("amplification")
    report(alone)
    alone.close()


if __name__ == "__main__":
    main()
