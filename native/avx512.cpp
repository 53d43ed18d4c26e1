// AVX-512 with VPCLMULQDQ and VAES: four elements in a vector.
#include <immintrin.h>

#include "aes_x86.h"
#include "kernels.h"

namespace shosoin {
namespace {

using Vec = __m512i;

constexpr int kLanes = 4;
constexpr int kUnroll = 4;

inline Vec load(ConstBytes p) { return _mm512_loadu_si512(p); }
inline void store(Bytes p, Vec v) { _mm512_storeu_si512(p, v); }
inline void stream(Bytes p, Vec v) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), v); }
inline void fence() { _mm_sfence(); }
inline Vec zero() { return _mm512_setzero_si512(); }
inline Vec xor2(Vec a, Vec b) { return _mm512_xor_si512(a, b); }
inline Vec xor3(Vec a, Vec b, Vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }

// Masked forms with full masks here and below: gcc 12 warns of an uninitialised variable inside its unmasked ones.
inline Vec repeat(__m128i v) { return _mm512_maskz_broadcast_i32x4(0xffff, v); }
inline Vec broadcast(const Element& e) { return repeat(_mm_loadu_si128(reinterpret_cast<const __m128i*>(&e))); }

template <int I, int J>
inline Vec clmul(Vec a, Vec b) {
    return _mm512_clmulepi64_epi128(a, b, I | J << 4);
}

template <int T>
inline Vec shl(Vec v) {
    return _mm512_maskz_slli_epi64(0xff, v, T);
}

template <int T>
inline Vec shr(Vec v) {
    return _mm512_maskz_srli_epi64(0xff, v, T);
}

inline Vec add_halves(Vec v) { return xor2(v, _mm512_maskz_shuffle_epi32(0xffff, v, _MM_PERM_BADC)); }

inline Vec fold(Vec v) {
    const Vec overflow = _mm512_clmulepi64_epi128(v, _mm512_set1_epi64(0x87), 0x01);
    return xor2(_mm512_bslli_epi128(v, 8), overflow);
}

inline Vec fold_carry(Vec v) { return fold(v); }

// X^128 = X^7 + X^2 + X + 1: three shifts of the upper half. Bits that leave its low word enter its high word; those that
// leave the high word stand for multiples of X^128 and are shifted in once more.
inline Vec fold_without_products(Vec low, Vec middle, Vec high) {
    const Vec upper = xor2(high, _mm512_bsrli_epi128(middle, 8));
    const Vec lower = xor2(low, _mm512_bslli_epi128(middle, 8));
    const Vec leaving = xor3(shr<63>(upper), shr<62>(upper), shr<57>(upper));
    const Vec crossed = _mm512_maskz_shuffle_epi32(0xffff, leaving, _MM_PERM_BADC);
    const Vec factor = xor2(upper, _mm512_maskz_mov_epi64(0x55, crossed));
    const Vec shifted = xor3(shl<1>(factor), shl<2>(factor), shl<7>(factor));
    return xor2(xor3(lower, factor, shifted), _mm512_maskz_mov_epi64(0xaa, crossed));
}

inline Vec counters(std::uint64_t first, std::uint64_t stride) {
    const auto lane = [&](std::uint64_t l) { return static_cast<long long>(first + l * stride); };
    return _mm512_set_epi64(lane(3), 0, lane(2), 0, lane(1), 0, lane(0), 0);
}

inline Vec add(Vec a, Vec b) { return _mm512_add_epi64(a, b); }

inline Vec to_block(Vec v) {
    const __m128i reverse_halves = _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_shuffle_epi8(v, repeat(reverse_halves));
}

class Cipher {
  public:
    explicit Cipher(ConstBytes seed) {
        __m128i keys[kRoundKeys];
        expand_key(seed, keys);
        for (int i = 0; i < kRoundKeys; ++i) keys_[i] = repeat(keys[i]);
        wipe(keys, sizeof keys);
    }
    Cipher(const Cipher&) = delete;
    Cipher& operator=(const Cipher&) = delete;
    ~Cipher() { wipe(keys_, sizeof keys_); }

    template <int N>
    inline __attribute__((always_inline)) void encrypt(Vec* blocks) const {
        for (int i = 0; i < N; ++i) blocks[i] = xor2(blocks[i], keys_[0]);
        for (int round = 1; round < kRoundKeys - 1; ++round) {
            for (int i = 0; i < N; ++i) blocks[i] = _mm512_aesenc_epi128(blocks[i], keys_[round]);
        }
        for (int i = 0; i < N; ++i) blocks[i] = _mm512_aesenclast_epi128(blocks[i], keys_[kRoundKeys - 1]);
    }

  private:
    Vec keys_[kRoundKeys];
};

}  // namespace
}  // namespace shosoin

#include "engine.h"

namespace shosoin {
constexpr Path avx512_path = path_named("avx512");
}
