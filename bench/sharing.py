"""Splitting, combining and hashing on one core, beside memcpy and beside other libraries in the same run.

Question: how near to the speed of memory does secret sharing come? "Memory" rows work on 64 MiB buffers, "L2" rows on
the same 32 KiB again and again. Rates are bytes of secret (for MAC and digest: of data) per second; memcpy's are bytes
copied. Ratios are to the 64 MiB memcpy of the same run, or to the peer named. Seconds are those of the thread's CPU
time: everything here is one thread, and a neighbour that takes the core away for a while then does not count.

Peers are used where they are installed: Intel's ISA-L (an erasure code, given coefficients from OpenSSL's AES-256-CTR)
and libgfshare (likewise), both through ctypes.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from _common import Median, Report, interleave
from shosoin.kernels import (
    POINTS,
    Digest,
    available_paths,
    combine_into,
    lagrange_weights,
    paths,
    polynomial_mac,
    split_generated_into,
    split_into,
    xor_into,
)

Array = npt.NDArray[np.uint8]
Case = Callable[[], object]

MEMORY_BYTES = int(os.environ.get("BENCH_MEMORY_MIB", "64")) << 20
L2_BYTES = 32 << 10
REFERENCE_BYTES = 4 << 20
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "9"))
SEED = bytes(range(32))
SHARES_MAX = 9

# What the best path must reach, of memcpy.
WANTED = {
    ("split 3-of-5, generated", "memory"): 0.28,
    ("split 3-of-5, generated", "L2"): 0.40,
    ("combine 3", "memory"): 0.35,
}


@contextmanager
def using(path: str) -> Iterator[None]:
    """Run the public functions on one path."""
    before = paths.active()
    paths.use(path)
    try:
        yield
    finally:
        paths.use(before.name)


class Buffers:
    """A secret, shares and coefficients of one size, touched so that their pages exist."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.secret = np.frombuffer(np.random.default_rng(1).bytes(size), np.uint8).copy()
        self.shares = [np.ones(size, np.uint8) for _ in range(SHARES_MAX)]
        self.coefficients = [self.secret[::-1].copy(), self.secret ^ np.uint8(0x5A)]
        self.out = np.ones(size, np.uint8)


def copy(target: Array, source: Array) -> None:
    """Copy with the C library's memcpy."""
    _MEMCPY(target.ctypes.data, source.ctypes.data, source.size)


_MEMCPY = ctypes.CDLL(None).memcpy
_MEMCPY.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]


def our_cases(b: Buffers) -> dict[str, Case]:
    """Return our kernels on these buffers."""
    weights = lagrange_weights([POINTS[1], POINTS[3], POINTS[4]])
    chosen = [b.shares[1], b.shares[3], b.shares[4]]

    def split(k: int, n: int) -> Case:
        points, shares = POINTS[:n], b.shares[:n]
        return lambda: split_generated_into(b.secret, SEED, points, k, shares)

    return {
        "split 3-of-5, generated": split(3, 5),
        "split 3-of-5, given": lambda: split_into(b.secret, b.coefficients, POINTS[:5], b.shares[:5]),
        "split 2-of-3, generated": split(2, 3),
        "split 5-of-9, generated": split(5, 9),
        "combine 3": lambda: combine_into(weights, chosen, b.out),
        "polynomial_mac": lambda: polynomial_mac(SEED, b.secret),
        "digest": lambda: digest(b.secret),
        "xor": lambda: xor_into(b.secret, b.coefficients[0], b.out),
    }


def digest(data: Array) -> bytes:
    """Return the digest of all data."""
    computed = Digest(SEED[:16])
    computed.update(data)
    return computed.finish()


def check(b: Buffers) -> None:
    """Check that what is timed is right: three shares give the secret back."""
    cases = our_cases(b)
    cases["split 3-of-5, generated"]()
    cases["combine 3"]()
    assert np.array_equal(b.out, b.secret)


# --------------------------------------------------------------------------------------------------------------- peers


class IsaL:
    """ISA-L's ``ec_encode_data`` over GF(2^8): shares are rows (1, x, x^2) of a matrix."""

    def __init__(self, b: Buffers) -> None:
        self._library = ctypes.CDLL(library("isal"))
        self._b = b
        self._randoms = [np.ones(b.size, np.uint8) for _ in range(2)]
        self._zeros = np.zeros(b.size, np.uint8)
        powers = bytes(value for x in range(1, 6) for value in (1, x, self._multiply(x, x)))
        self._encode = self._tables(powers, 5)
        self._decode = self._tables(self._weights((2, 4, 5)), 1)

    def _multiply(self, a: int, b: int) -> int:
        return int(self._library.gf_mul(ctypes.c_ubyte(a), ctypes.c_ubyte(b))) & 0xFF

    def _inverse(self, a: int) -> int:
        return int(self._library.gf_inv(ctypes.c_ubyte(a))) & 0xFF

    def _weights(self, points: tuple[int, ...]) -> bytes:
        weights = []
        for x in points:
            weight = 1
            for other in points:
                if other != x:
                    weight = self._multiply(weight, self._multiply(other, self._inverse(x ^ other)))
            weights.append(weight)
        return bytes(weights)

    def _tables(self, matrix: bytes, rows: int) -> ctypes.Array[ctypes.c_char]:
        tables = ctypes.create_string_buffer(32 * 3 * rows)
        self._library.ec_init_tables(3, rows, matrix, tables)
        return tables

    def _apply(self, tables: ctypes.Array[ctypes.c_char], sources: list[Array], targets: list[Array]) -> None:
        self._library.ec_encode_data(self._b.size, 3, len(targets), tables, _pointers(sources), _pointers(targets))

    def split(self) -> None:
        """Make coefficients, then five shares."""
        stream = Cipher(algorithms.AES256(SEED), modes.CTR(bytes(16))).encryptor()
        for random in self._randoms:
            stream.update_into(self._zeros.data, random.data)
        self._apply(self._encode, [self._b.secret, *self._randoms], self._b.shares[:5])

    def combine(self) -> None:
        """Make the secret from shares 2, 4 and 5."""
        shares = self._b.shares
        self._apply(self._decode, [shares[1], shares[3], shares[4]], [self._b.out])


_FILL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint)


class GfShare:
    """libgfshare's encoder and decoder, 3-of-5, over GF(2^8) with log tables."""

    def __init__(self, b: Buffers) -> None:
        self._library = ctypes.CDLL(library("gfshare"))
        for name in ("gfshare_ctx_init_enc", "gfshare_ctx_init_dec"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._b = b
        self._fill = _FILL(self._fill_rand)  # the library keeps only its address
        ctypes.c_void_p.in_dll(self._library, "gfshare_fill_rand").value = ctypes.cast(
            self._fill, ctypes.c_void_p
        ).value
        numbers = bytes([1, 2, 3, 4, 5])
        self._encoder = ctypes.c_void_p(self._library.gfshare_ctx_init_enc(numbers, 5, 3, ctypes.c_size_t(b.size)))
        self._decoder = ctypes.c_void_p(
            self._library.gfshare_ctx_init_dec(bytes([2, 4, 5]), 3, ctypes.c_size_t(b.size))
        )

    @staticmethod
    def _fill_rand(target: int, size: int) -> None:
        stream = Cipher(algorithms.AES256(SEED), modes.CTR(bytes(16))).encryptor()
        stream.update_into(bytes(size), memoryview((ctypes.c_ubyte * size).from_address(target)).cast("B"))

    def split(self) -> None:
        """Make coefficients, then five shares."""
        self._library.gfshare_ctx_enc_setsecret(self._encoder, ctypes.c_void_p(self._b.secret.ctypes.data))
        for number in range(5):
            self._library.gfshare_ctx_enc_getshare(
                self._encoder, ctypes.c_ubyte(number), ctypes.c_void_p(self._b.shares[number].ctypes.data)
            )

    def combine(self) -> None:
        """Make the secret from shares 2, 4 and 5."""
        for place, number in enumerate((1, 3, 4)):
            self._library.gfshare_ctx_dec_giveshare(
                self._decoder, ctypes.c_ubyte(place), ctypes.c_void_p(self._b.shares[number].ctypes.data)
            )
        self._library.gfshare_ctx_dec_extract(self._decoder, ctypes.c_void_p(self._b.out.ctypes.data))


def _pointers(arrays: list[Array]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def library(name: str) -> str:
    """Return the file of an installed library.

    Raises:
        OSError: there is none.
    """
    found = ctypes.util.find_library(name)
    if found is None:
        raise OSError(f"no lib{name}")
    return found


def peer_cases(report: Report, b: Buffers) -> dict[str, Case]:
    """Return the peers that are installed and give the secret back."""
    cases: dict[str, Case] = {}
    for name, peer_type in (("ISA-L + OpenSSL", IsaL), ("libgfshare", GfShare)):
        try:
            peer = peer_type(b)
        except OSError:
            report.note(f"{name}: not installed")
            continue
        peer.split()
        peer.combine()
        assert np.array_equal(b.out, b.secret), name
        cases[f"split 3-of-5, generated|{name}"] = peer.split
        cases[f"combine 3|{name}"] = peer.combine
    return cases


# ----------------------------------------------------------------------------------------------------------------- runs


def on_path(path: str, case: Case) -> Case:
    """Run a case on a path."""

    def run() -> None:
        with using(path):
            case()

    return run


def emit_all(report: Report, where: str, size: int, times: dict[str, Median], memcpy: Median) -> None:
    """Report rates and their ratio to memcpy."""
    best = available_paths()[0]
    for key, seconds in times.items():
        case, path = key.split("|")
        rate = seconds.per(size / 1e9)
        wanted = WANTED.get((case, where)) if path == best != "reference" else None
        report.emit(
            f"{case} ({where})",
            path,
            rate,
            "GB/s",
            ratio=rate.value / memcpy.value,
            ratio_to="memcpy (memory)",
            wanted=wanted,
        )


def against_peers(report: Report, times: dict[str, Median]) -> None:
    """Report how many times faster the best path is than each peer."""
    best = available_paths()[0]
    for key, seconds in times.items():
        case, peer = key.split("|")
        if peer in available_paths() or peer == "libc":
            continue
        ours = times[f"{case}|{best}"]
        speedup = Median(seconds.value / ours.value, seconds.low / ours.high, seconds.high / ours.low)
        report.emit(f"{case}: times faster", best, speedup, "x", ratio=speedup.value, ratio_to=peer)


def measure_memory(report: Report) -> Median:
    """Measure on large buffers and return memcpy's rate."""
    b = Buffers(MEMORY_BYTES)
    check(b)
    cases: dict[str, Case] = {"memcpy|libc": lambda: copy(b.out, b.secret)}
    native = [path for path in available_paths() if path != "reference"]
    for path, (name, case) in itertools.product(native[:1], our_cases(b).items()):
        cases[f"{name}|{path}"] = on_path(path, case)
    cases |= peer_cases(report, b)
    times = interleave(cases, rounds=ROUNDS, clock=time.thread_time)
    memcpy = times["memcpy|libc"].per(MEMORY_BYTES / 1e9)
    emit_all(report, "memory", MEMORY_BYTES, times, memcpy)
    if native:
        against_peers(report, times)
    return memcpy


def measure_blocks(report: Report, memcpy: Median) -> None:
    """Measure every native path on blocks that stay in the second-level cache."""
    b = Buffers(L2_BYTES)
    cases: dict[str, Case] = {"memcpy|libc": lambda: copy(b.out, b.secret)}
    times = interleave(cases, rounds=ROUNDS, clock=time.thread_time)
    for path in available_paths():
        if path == "reference":
            continue
        with using(path):
            check(b)
            measured = interleave(our_cases(b), rounds=ROUNDS, clock=time.thread_time)
        times |= {f"{name}|{path}": seconds for name, seconds in measured.items()}
    emit_all(report, "L2", L2_BYTES, times, memcpy)


def measure_reference(report: Report, memcpy: Median) -> None:
    """Measure the NumPy reference on a smaller buffer; it is the peer that everyone has."""
    b = Buffers(REFERENCE_BYTES)
    with using("reference"):
        check(b)
        measured = interleave(our_cases(b), rounds=min(ROUNDS, 3), clock=time.thread_time)
    times = {f"{name}|reference": seconds for name, seconds in measured.items()}
    emit_all(report, "4 MiB", REFERENCE_BYTES, times, memcpy)


def main() -> None:
    """Measure all."""
    report = Report("sharing")
    memcpy = measure_memory(report)
    measure_blocks(report, memcpy)
    measure_reference(report, memcpy)
    report.close()


if __name__ == "__main__":
    main()
