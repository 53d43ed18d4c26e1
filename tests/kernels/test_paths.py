"""Choosing a path, by environment and by what the machine has."""

import os
import subprocess
import sys

import pytest

import shosoin.kernels
from shosoin.kernels import active_path, available_paths, paths
from tests.kernels.support import NATIVE_PATHS, each_path, using

WHOLE_API = """
import shosoin.kernels as kernels

assert kernels.active_path() == "{path}", kernels.active_path()
secret = bytes(range(16)) * 10
points = [kernels.point_of(place) for place in (1, 2, 3)]
shares = [bytearray(160) for _ in points]
kernels.split_generated_into(secret, bytes(32), points, 2, shares, first_block=7)
out = bytearray(160)
kernels.combine_into(kernels.lagrange_weights(points[1:]), shares[1:], out)
assert out == secret
kernels.linear_map_into([[1, 1]], [secret, secret], [out])
assert out == bytes(160)
kernels.split_into(secret, [secret], points, shares)
assert shares[0] == bytes(160)
kernels.xor_into(secret, shares[1], out)
assert kernels.element_mul(3, kernels.element_inv(3)) == kernels.element_pow(3, 0) == 1
mac = kernels.PolynomialMac(bytes(range(32)))
mac.update(out)
tag = mac.finish()
assert tag == kernels.polynomial_mac(bytes(range(32)), out)
digest = kernels.Digest(bytes(range(16)), start_exponent=2)
digest.update(out)
print(tag.hex(), digest.finish().hex(), kernels.POINTS[:3], kernels.ELEMENT_BYTES, out.hex())
kernels.wipe(out)
assert out == bytes(160)
"""


def run(program, kernels):
    environment = {**os.environ, "SHOSOIN_KERNELS": kernels}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


@each_path
def test_the_whole_api_in_a_process_of_its_own_gives_the_same_on_every_path(path):
    result = run(WHOLE_API.format(path=path), path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == run(WHOLE_API.format(path="reference"), "reference").stdout


def test_a_path_this_machine_lacks_is_an_error_that_names_those_it_has():
    result = run("import shosoin.kernels", "avx9000")
    assert result.returncode != 0
    assert "no kernels named 'avx9000' here; this machine has: " + ", ".join(available_paths()) in result.stderr


def test_auto_takes_the_first_and_native_the_first_native():
    assert paths.choose("auto").name == paths.choose("").name == available_paths()[0]
    if NATIVE_PATHS:
        assert paths.choose("native").name == NATIVE_PATHS[0]


def test_native_is_an_error_where_there_is_none(monkeypatch):
    monkeypatch.setattr(paths, "_NATIVE_PATHS", ())
    assert paths.choose("auto").name == "reference"
    with pytest.raises(ImportError, match="'native'"):
        paths.choose("native")


def test_paths_come_best_first_and_the_reference_last():
    order = ("avx512", "avx2", "portable", "reference")
    assert [path for path in order if path in available_paths()] == list(available_paths())
    assert available_paths()[-1] == "reference"


@each_path
def test_the_active_path_is_named(path):
    with using(path):
        assert active_path() == path


def test_every_public_name_is_there():
    assert [name for name in shosoin.kernels.__all__ if not hasattr(shosoin.kernels, name)] == []
