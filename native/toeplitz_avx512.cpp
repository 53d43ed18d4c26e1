// Long products with AVX-512, VPCLMULQDQ and GFNI: eight pieces at once.
#include <immintrin.h>

#include "toeplitz.h"
#include "toeplitz_field.h"

namespace shosoin {
namespace {

using Vec = __m512i;

constexpr std::size_t kLanes = 8;

inline Vec load(const Word* p) { return _mm512_loadu_si512(p); }
inline void store(Word* p, Vec v) { _mm512_storeu_si512(p, v); }
inline Vec zero() { return _mm512_setzero_si512(); }
inline Vec xor2(Vec a, Vec b) { return _mm512_xor_si512(a, b); }
inline Vec xor3(Vec a, Vec b, Vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
inline Vec repeat(Word word) { return _mm512_set1_epi64(static_cast<long long>(word)); }

// Masked forms with full masks here and below: gcc 12 warns of an uninitialised variable inside its unmasked ones.
inline Vec shl(Vec v, int n) { return _mm512_maskz_sll_epi64(0xff, v, _mm_cvtsi32_si128(n)); }
inline Vec shr(Vec v, int n) { return _mm512_maskz_srl_epi64(0xff, v, _mm_cvtsi32_si128(n)); }

// {w, quotient} in every 128 bits
using Constant = __m512i;

inline Constant constant(Pair pair) {
    return _mm512_maskz_broadcast_i32x4(
        0xffff, _mm_set_epi64x(static_cast<long long>(pair.quotient), static_cast<long long>(pair.w)));
}
inline Constant add(Constant a, Constant b) { return _mm512_xor_si512(a, b); }

inline Vec polynomial() { return repeat(kPolynomialLow); }

inline Vec even_low(Vec even, Vec odd) { return _mm512_maskz_unpacklo_epi64(0xff, even, odd); }
inline Vec even_high(Vec even, Vec odd) { return _mm512_maskz_unpackhi_epi64(0xff, even, odd); }

// v w = low(v w) + low(floor(v quotient / y^64) P)
inline Vec multiply(Vec v, Constant w) {
    const Vec even = _mm512_clmulepi64_epi128(v, w, 0x00), odd = _mm512_clmulepi64_epi128(v, w, 0x01);
    const Vec even_q = _mm512_clmulepi64_epi128(v, w, 0x10), odd_q = _mm512_clmulepi64_epi128(v, w, 0x11);
    const Vec even_r = _mm512_clmulepi64_epi128(even_q, polynomial(), 0x01);
    const Vec odd_r = _mm512_clmulepi64_epi128(odd_q, polynomial(), 0x01);
    return even_low(xor2(even, even_r), xor2(odd, odd_r));
}

// Products of 128 bits of the even lanes and of the odd ones.
struct Wide {
    Vec even, odd;
};

inline void clear(Wide& sum) { sum.even = sum.odd = zero(); }

inline void add_product(Wide& sum, Vec a, Vec b) {
    sum.even = xor2(sum.even, _mm512_clmulepi64_epi128(a, b, 0x00));
    sum.odd = xor2(sum.odd, _mm512_clmulepi64_epi128(a, b, 0x11));
}

// high y^64 = low(floor(high y^64 / P) P)
inline Vec reduce(const Wide& sum) {
    const Vec quotient = repeat(kQuotientLow);
    const Vec even_q = xor2(sum.even, _mm512_clmulepi64_epi128(sum.even, quotient, 0x01));
    const Vec odd_q = xor2(sum.odd, _mm512_clmulepi64_epi128(sum.odd, quotient, 0x01));
    const Vec even_r = _mm512_clmulepi64_epi128(even_q, polynomial(), 0x01);
    const Vec odd_r = _mm512_clmulepi64_epi128(odd_q, polynomial(), 0x01);
    return even_low(xor2(sum.even, even_r), xor2(sum.odd, odd_r));
}



// ---- a first transposition, by exchanges
template <int S>
inline void exchange(Vec* v, Word mask) {
    for (int base = 0; base < 64; base += 2 * S) {
        for (int j = base; j < base + S; ++j) {
            const Vec t = _mm512_and_si512(xor2(_mm512_maskz_srli_epi64(0xff, v[j], S), v[j + S]), repeat(mask));
            v[j + S] = xor2(v[j + S], t);
            v[j] = xor2(v[j], _mm512_maskz_slli_epi64(0xff, t, S));
        }
    }
}

inline void transpose(Vec* v) {
    exchange<32>(v, 0x00000000ffffffff);
    exchange<16>(v, 0x0000ffff0000ffff);
    exchange<8>(v, 0x00ff00ff00ff00ff);
    exchange<4>(v, 0x0f0f0f0f0f0f0f0f);
    exchange<2>(v, 0x3333333333333333);
    exchange<1>(v, 0x5555555555555555);
}

}  // namespace
}  // namespace shosoin

#include "toeplitz_engine.h"

namespace shosoin {
constexpr ToeplitzPath toeplitz_avx512 = toeplitz_named("avx512");
}  // namespace shosoin
