// AVX2 with PCLMULQDQ and AES-NI: carry-less products and AES rounds take one element at a time there, so the vector is
// one element, and many are in flight.
#include <immintrin.h>

#include "aes_x86.h"
#include "kernels.h"

namespace shosoin {
namespace {

using Vec = __m128i;

constexpr int kLanes = 1;
constexpr int kUnroll = 4;

inline Vec load(ConstBytes p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store(Bytes p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
inline void stream(Bytes p, Vec v) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), v); }
inline void fence() { _mm_sfence(); }
inline Vec zero() { return _mm_setzero_si128(); }
inline Vec xor2(Vec a, Vec b) { return _mm_xor_si128(a, b); }
inline Vec xor3(Vec a, Vec b, Vec c) { return xor2(xor2(a, b), c); }
inline Vec broadcast(const Element& e) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(&e)); }

template <int I, int J>
inline Vec clmul(Vec a, Vec b) {
    return _mm_clmulepi64_si128(a, b, I | J << 4);
}

template <int T>
inline Vec shl(Vec v) {
    return _mm_slli_epi64(v, T);
}

template <int T>
inline Vec shr(Vec v) {
    return _mm_srli_epi64(v, T);
}

inline Vec add_halves(Vec v) { return xor2(v, _mm_shuffle_epi32(v, 0x4e)); }

inline Vec fold(Vec v) {
    const Vec overflow = _mm_clmulepi64_si128(v, _mm_cvtsi32_si128(0x87), 0x01);
    return xor2(_mm_slli_si128(v, 8), overflow);
}

inline Vec fold_carry(Vec v) { return fold(v); }

inline Vec fold_without_products(Vec low, Vec middle, Vec high) { return xor2(low, fold(xor2(middle, fold(high)))); }

inline Vec counters(std::uint64_t first, std::uint64_t) { return _mm_set_epi64x(static_cast<long long>(first), 0); }
inline Vec add(Vec a, Vec b) { return _mm_add_epi64(a, b); }

inline Vec to_block(Vec v) {
    return _mm_shuffle_epi8(v, _mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
}

class Cipher {
  public:
    explicit Cipher(ConstBytes seed) { expand_key(seed, keys_); }
    Cipher(const Cipher&) = delete;
    Cipher& operator=(const Cipher&) = delete;
    ~Cipher() { wipe(keys_, sizeof keys_); }

    template <int N>
    inline __attribute__((always_inline)) void encrypt(Vec* blocks) const {
        for (int i = 0; i < N; ++i) blocks[i] = xor2(blocks[i], keys_[0]);
        for (int round = 1; round < kRoundKeys - 1; ++round) {
            for (int i = 0; i < N; ++i) blocks[i] = _mm_aesenc_si128(blocks[i], keys_[round]);
        }
        for (int i = 0; i < N; ++i) blocks[i] = _mm_aesenclast_si128(blocks[i], keys_[kRoundKeys - 1]);
    }

  private:
    __m128i keys_[kRoundKeys];
};

}  // namespace
}  // namespace shosoin

#include "engine.h"

namespace shosoin {
constexpr Path avx2_path = path_named("avx2");
}
