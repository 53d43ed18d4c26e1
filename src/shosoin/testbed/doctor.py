"""What this machine gives, and what each finding means for the assurance label.

Every check looks rather than believes: the TLS handshake is done, ``fsync`` is called and timed, the generators of
``cryptography`` are run. What cannot be seen from here is reported as unknown, with the reason.
"""

from __future__ import annotations

import ctypes
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cryptography
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives.asymmetric import mldsa, mlkem

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.tls import negotiated_group
from shosoin.base.messages import retold, text
from shosoin.testbed import doctor_tls
from shosoin.testbed.doctor_tls import classical_handshake as _shake_hands
from shosoin.testbed.finding import Finding

__all__ = ["Finding", "examine"]

FSYNC_PROBES = 20
FSYNC_PROBE_BYTES = 4096
IMPLAUSIBLE_FSYNC_S = 20e-6
"""The fastest NVMe drives need longer than this to flush to anything that outlives a power cut."""
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_TIME_ERROR = 5
_TIMEX_BYTES = 512


def examine(directory: Path) -> list[Finding]:
    """Return all findings.

    Args:
        directory: where shares or testbeds would lie; its disk is tested with a small file that is removed again.
    """
    checks: list[Callable[[], Finding]] = [
        kernels,
        randomness,
        handshake,
        key_exchange,
        doctor_tls.openssl,
        doctor_tls.hybrid,
        doctor_tls.ml_dsa,
        post_quantum,
        lambda: disk(directory),
        clock,
        links,
        python,
    ]
    return [check() for check in checks]


def kernels() -> Finding:
    """Which code path splits and combines shares."""
    from shosoin.kernels import active_path  # noqa: PLC0415  # loads native code

    path = str(active_path())
    native = not path.startswith("reference")
    return Finding("kernels", path, "kernels_native" if native else "kernels_reference", native, {"path": path})


def randomness() -> Finding:
    """Where secret bits come from."""
    entropy = SystemEntropy()
    entropy.random_bytes(32)
    means = "randomness_physical" if entropy.physical else "randomness_computed"
    return Finding(
        "randomness",
        retold(entropy.source, "label.said."),
        means,
        entropy.physical,
        {"source": entropy.source, "physical": entropy.physical},
    )


def handshake() -> Finding:
    """Do a mutual TLS handshake between two ends in memory, with certificates made for it."""
    client = _shake_hands()
    cipher = client.cipher()
    details = {"version": client.version(), "cipher": cipher and cipher[0], "group": negotiated_group(client)}
    found = f"{details['version']}, {details['cipher']}"
    return Finding("tls", found, "tls_means", details["version"] == "TLSv1.3", details)


def key_exchange() -> Finding:
    """Say which group such a handshake agreed on, hybrid post-quantum or not, where this Python can tell."""
    return _group_finding(negotiated_group(_shake_hands()))


def _group_finding(group: str | None) -> Finding:
    if group is None:
        return Finding("group", text("doctor.found_group_unknown"), "group_unknown", False, {"group": None})
    hybrid = "MLKEM" in group.upper().replace("-", "")
    return Finding("group", group, "group_hybrid" if hybrid else "group_classical", hybrid, {"group": group})


def post_quantum() -> Finding:
    """Run ML-KEM-768 and ML-DSA-65 once each."""
    works = _post_quantum_works()
    library = backend.openssl_version_text()
    found = f"{cryptography.__version__} with {library}"
    means = "cryptography_ok" if works else "cryptography_missing"
    details = {"version": cryptography.__version__, "library": library, "ml_kem_768": works, "ml_dsa_65": works}
    return Finding("cryptography", found, means, works, details)


def disk(directory: Path) -> Finding:
    """Find the file system under a directory and time a real ``fsync`` in it."""
    file_system = _file_system(directory)
    fsync_s = _fsync_s(directory)
    found = f"{directory}: {file_system or 'file system unknown'}, fsync of 4 KiB takes {fsync_s * 1e6:.0f} us"
    details = {"directory": str(directory), "file_system": file_system, "fsync_us": round(fsync_s * 1e6, 1)}
    if file_system in MEMORY_FILE_SYSTEMS:
        return Finding("disk", found, "disk_memory", False, details)
    plausible = fsync_s >= IMPLAUSIBLE_FSYNC_S
    return Finding("disk", found, "disk_ok" if plausible else "disk_fast", plausible, details)


def clock() -> Finding:
    """Ask the kernel whether somebody keeps the clock right."""
    synchronised = _clock_synchronised()
    means = {True: "clock_synchronised", False: "clock_free", None: "clock_unknown"}[synchronised]
    return Finding("clock", text(f"doctor.found_{means}"), means, synchronised is True, {"synchronised": synchronised})


def links() -> Finding:
    """Say what is simulated."""
    return Finding("links", text("doctor.found_links"), "links_means", False, {"testbed_links": "simulated"})


def python() -> Finding:
    """Which Python runs this."""
    found = (
        f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    details = {"version": platform.python_version(), "machine": platform.machine(), "system": platform.system()}
    return Finding("python", found, "python_means", True, details)


def _post_quantum_works() -> bool:
    try:
        decapsulation = mlkem.MLKEM768PrivateKey.generate()
        shared, ciphertext = decapsulation.public_key().encapsulate()
        signing = mldsa.MLDSA65PrivateKey.generate()
        signing.public_key().verify(signing.sign(b"doctor"), b"doctor")
        return decapsulation.decapsulate(ciphertext) == shared
    except cryptography.exceptions.UnsupportedAlgorithm:
        return False


def _file_system(directory: Path) -> str | None:
    """Return the type of the file system that holds a directory, ``None`` where /proc does not tell."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    resolved = directory.resolve()
    best = ("", "")
    for line in mounts:
        _, mount_point, kind, *_ = line.split(" ")
        point = mount_point.encode().decode("unicode_escape")
        if resolved.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1] or None


def _fsync_s(directory: Path) -> float:
    """Return the median time to append 4 KiB and make it durable."""
    times_s: list[float] = []
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".shosoin-doctor-") as probe:
        for _ in range(FSYNC_PROBES):
            started_s = time.perf_counter()
            probe.write(os.urandom(FSYNC_PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
            times_s.append(time.perf_counter() - started_s)
    return statistics.median(times_s)


def _clock_synchronised() -> bool | None:
    """Return what adjtimex(2) says of the clock, ``None`` where it cannot be asked."""
    if sys.platform != "linux":
        return None
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else bool(state != _TIME_ERROR)
