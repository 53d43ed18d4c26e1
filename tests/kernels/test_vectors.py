"""The vectors of docs/specs/kernels.md: a change that fails here makes stored shares unreadable.

Source: computed with OpenSSL's command line (``openssl enc -aes-256-ctr``) and multiplication on paper, not with this
package.
"""

from shosoin.kernels import POINTS, Digest, element_mul, polynomial_mac, split_generated_into
from tests.kernels.support import each_path, using

SECRET = bytes(range(48))
SHARES = (
    "dcfee18e99a8e595803f10bdd1dec2c0f749b5494796e8b47b6c54c897b339b5945b2ab0955c3384cf06edafc456b706",
    "547630f3ce5882c11923976e2aaa5b65a1b0daf3a6347e8f3c460769b701f4120faa8653842691e65ea2dfa8f81afbde",
    "8889d37e53f5615391158dd8f77997aa46e87da9f5b7802c5f3349ba3cafd3b8bbd08ec0355f8445b98d182c106162f7",
    "8dcfb04c56a50207284195e63441950c15119b8420ca9259de7026adb9225f62ebcfba9869e13fba236d2e0593421b47",
    "513053c1cb08e195a0778f50e99259c3f2493cde73496cfabd05687e328c78c85fb5b20bd8982a19c442e9817b39826e",
)


@each_path
def test_products(path):
    with using(path):
        assert element_mul(2, 2**127) == 0x87
        assert element_mul(3, 3) == 5
        a, b = 0x0123456789ABCDEF0123456789ABCDEF, 0xFEDCBA9876543210FEDCBA9876543210
        assert element_mul(a, b) == 0x725CFEE53719BB81D3FD5F4496B81A20


@each_path
def test_shares(path):
    shares = [bytearray(48) for _ in SHARES]
    with using(path):
        split_generated_into(SECRET, bytes(range(32)), POINTS[:5], 3, shares, first_block=1)
    assert tuple(share.hex() for share in shares) == SHARES


@each_path
def test_tag(path):
    with using(path):
        assert polynomial_mac(bytes(range(32)), SECRET).hex() == "59fc2615f365c0c9881e70810029a16d"


@each_path
def test_digest(path):
    with using(path):
        digest = Digest(bytes(range(16)), start_exponent=1)
        digest.update(SECRET)
        assert digest.finish().hex() == "6deba2d831b3fe2b33ed251360a530c2"
