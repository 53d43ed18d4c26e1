// Long products with AVX2 and PCLMULQDQ: carry-less products take 128 bits at a time there, so the vector is two pieces.
#include <immintrin.h>

#include "toeplitz.h"
#include "toeplitz_field.h"

namespace shosoin {
namespace {

using Vec = __m128i;

constexpr std::size_t kLanes = 2;

inline Vec load(const Word* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store(Word* p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
inline Vec zero() { return _mm_setzero_si128(); }
inline Vec xor2(Vec a, Vec b) { return _mm_xor_si128(a, b); }
inline Vec or2(Vec a, Vec b) { return _mm_or_si128(a, b); }
inline Vec xor3(Vec a, Vec b, Vec c) { return xor2(xor2(a, b), c); }
inline Vec repeat(Word word) { return _mm_set1_epi64x(static_cast<long long>(word)); }
inline Vec load_bytes(ConstBytes p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline void store_bytes(Bytes p, Vec v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
inline Vec shl(Vec v, int n) { return _mm_sllv_epi64(v, _mm_set1_epi64x(n)); }
inline Vec shr(Vec v, int n) { return _mm_srlv_epi64(v, _mm_set1_epi64x(n)); }

using Constant = __m128i;

inline Constant constant(Pair pair) {
    return _mm_set_epi64x(static_cast<long long>(pair.quotient), static_cast<long long>(pair.w));
}
inline Constant add(Constant a, Constant b) { return _mm_xor_si128(a, b); }

inline Vec polynomial() { return repeat(kPolynomialLow); }

// v w = low(v w) + low(high(v quotient) P)
inline Vec multiply(Vec v, Constant w) {
    const Vec even = _mm_clmulepi64_si128(v, w, 0x00), odd = _mm_clmulepi64_si128(v, w, 0x01);
    const Vec even_q = _mm_clmulepi64_si128(v, w, 0x10), odd_q = _mm_clmulepi64_si128(v, w, 0x11);
    const Vec even_r = _mm_clmulepi64_si128(even_q, polynomial(), 0x01);
    const Vec odd_r = _mm_clmulepi64_si128(odd_q, polynomial(), 0x01);
    return _mm_unpacklo_epi64(xor2(even, even_r), xor2(odd, odd_r));
}

// Products of 128 bits of the even lane and of the odd one.
struct Wide {
    Vec even, odd;
};

inline void clear(Wide& sum) { sum.even = sum.odd = zero(); }

inline void add_product(Wide& sum, Vec a, Vec b) {
    sum.even = xor2(sum.even, _mm_clmulepi64_si128(a, b, 0x00));
    sum.odd = xor2(sum.odd, _mm_clmulepi64_si128(a, b, 0x11));
}

inline Vec reduce(const Wide& sum) {
    const Vec quotient = repeat(kQuotientLow);
    const Vec even_q = xor2(sum.even, _mm_clmulepi64_si128(sum.even, quotient, 0x01));
    const Vec odd_q = xor2(sum.odd, _mm_clmulepi64_si128(sum.odd, quotient, 0x01));
    const Vec even_r = _mm_clmulepi64_si128(even_q, polynomial(), 0x01);
    const Vec odd_r = _mm_clmulepi64_si128(odd_q, polynomial(), 0x01);
    return _mm_unpacklo_epi64(xor2(sum.even, even_r), xor2(sum.odd, odd_r));
}

template <int S>
inline void exchange(Vec* v, Word mask) {
    for (int base = 0; base < 64; base += 2 * S) {
        for (int j = base; j < base + S; ++j) {
            const Vec t = _mm_and_si128(xor2(_mm_srli_epi64(v[j], S), v[j + S]), repeat(mask));
            v[j + S] = xor2(v[j + S], t);
            v[j] = xor2(v[j], _mm_slli_epi64(t, S));
        }
    }
}

// Exchanges of ever smaller squares across the diagonal (Warren, Hacker's Delight, 7-3).
template <int Rows>
inline void transpose(Vec* v) {
    for (int j = Rows; j < 64; ++j) v[j] = zero();
    exchange<32>(v, 0x00000000ffffffff);
    exchange<16>(v, 0x0000ffff0000ffff);
    exchange<8>(v, 0x00ff00ff00ff00ff);
    exchange<4>(v, 0x0f0f0f0f0f0f0f0f);
    exchange<2>(v, 0x3333333333333333);
    exchange<1>(v, 0x5555555555555555);
}

inline void transpose_lanes(Vec* v) {
    const Vec first = _mm_unpacklo_epi64(v[0], v[1]);
    v[1] = _mm_unpackhi_epi64(v[0], v[1]);
    v[0] = first;
}

}  // namespace
}  // namespace shosoin

#include "toeplitz_engine.h"

namespace shosoin {
constexpr ToeplitzPath toeplitz_avx2 = toeplitz_named("avx2");
}
