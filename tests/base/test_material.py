"""Key material is taken once, in either spelling, and its buffer is overwritten."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import KeyMaterial


@given(st.binary(min_size=1, max_size=100))
def test_base64_is_what_the_standard_library_says_and_the_buffer_is_zeroed(content):
    buffer = bytearray(content)
    assert KeyMaterial.of(buffer).take_base64() == base64.b64encode(content).decode()
    assert buffer == bytes(len(content))


@pytest.mark.parametrize("first", [KeyMaterial.take, KeyMaterial.take_base64, KeyMaterial.wipe])
@pytest.mark.parametrize("second", [KeyMaterial.take, KeyMaterial.take_base64])
def test_nothing_is_taken_twice(first, second):
    material = KeyMaterial(b"0123456789abcdef")
    first(material)
    with pytest.raises(RuntimeError, match="already taken"):
        second(material)
    assert material.size_bytes == 16
    assert "0123" not in repr(material)
