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
inline Vec or2(Vec a, Vec b) { return _mm512_or_si512(a, b); }
inline Vec xor3(Vec a, Vec b, Vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
inline Vec repeat(Word word) { return _mm512_set1_epi64(static_cast<long long>(word)); }

inline Vec load_bytes(ConstBytes p) { return _mm512_loadu_si512(p); }
inline void store_bytes(Bytes p, Vec v) { _mm512_storeu_si512(p, v); }

// Masked forms with full masks here and below: gcc 12 warns of an uninitialised variable inside its unmasked ones.
inline Vec shl(Vec v, int n) { return _mm512_maskz_sllv_epi64(0xff, v, _mm512_set1_epi64(n)); }
inline Vec shr(Vec v, int n) { return _mm512_maskz_srlv_epi64(0xff, v, _mm512_set1_epi64(n)); }

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



inline Vec repeat_16(__m128i bytes) { return _mm512_maskz_broadcast_i32x4(0xffff, bytes); }

// Byte j of word i becomes byte i of word j, in every lane, for eight words: halves of words change places across the
// diagonal, then quarters, then eighths.
inline void transpose_bytes(Vec* v) {
    for (int i = 0; i < 4; ++i) {
        Vec &a = v[i], &b = v[i + 4];
        const Vec lower = _mm512_mask_shuffle_epi32(b, 0x5555, a, _MM_PERM_CDAB);
        a = _mm512_mask_shuffle_epi32(a, 0xaaaa, b, _MM_PERM_CDAB);
        b = lower;
    }
    const Vec quarters = repeat_16(_mm_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2));
    for (int j = 0; j < 4; ++j) {
        const int i = j + (j & 2);
        Vec &a = v[i], &b = v[i + 2];
        const Vec lower = _mm512_mask_shuffle_epi8(b, 0x3333333333333333, a, quarters);
        a = _mm512_mask_shuffle_epi8(a, 0xcccccccccccccccc, b, quarters);
        b = lower;
    }
    const Vec eighths = repeat_16(_mm_set_epi8(14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1));
    for (int i = 0; i < 8; i += 2) {
        Vec &a = v[i], &b = v[i + 1];
        const Vec lower = _mm512_mask_shuffle_epi8(b, 0x5555555555555555, a, eighths);
        a = _mm512_mask_shuffle_epi8(a, 0xaaaaaaaaaaaaaaaa, b, eighths);
        b = lower;
    }
}

// Eight rows give words of eight bytes, one of each row; the instruction multiplies the matrix of the rows' bits by the
// unit vectors, which makes its columns bytes. It counts rows from the last, so they come in that order.
template <int Rows>
inline void transpose(Vec* v) {
    Vec squares[64];
    for (int group = 0; group < Rows / 8; ++group) {
        Vec* rows = squares + 8 * group;
        for (int i = 0; i < 8; ++i) rows[i] = v[8 * group + 7 - i];
        transpose_bytes(rows);
        for (int i = 0; i < 8; ++i) rows[i] = _mm512_gf2p8affine_epi64_epi8(repeat(0x8040201008040201), rows[i], 0);
    }
    for (int part = 0; part < 8; ++part) {
        Vec* columns = v + 8 * part;
        for (int group = 0; group < 8; ++group) columns[group] = group < Rows / 8 ? squares[8 * group + part] : zero();
        transpose_bytes(columns);
    }
}

inline void transpose_lanes(Vec* v) {
    const auto blocks = [](Vec a, Vec b, int odd) {
        return odd ? _mm512_maskz_shuffle_i64x2(0xff, a, b, 0xdd) : _mm512_maskz_shuffle_i64x2(0xff, a, b, 0x88);
    };
    Vec pairs[2][4];
    for (int i = 0; i < 4; ++i) {
        pairs[0][i] = even_low(v[2 * i], v[2 * i + 1]);
        pairs[1][i] = even_high(v[2 * i], v[2 * i + 1]);
    }
    for (int half = 0; half < 2; ++half) {
        const Vec* p = pairs[half];
        for (int odd = 0; odd < 2; ++odd) {
            const Vec first = blocks(p[0], p[1], odd), second = blocks(p[2], p[3], odd);
            v[half + 2 * odd] = blocks(first, second, 0);
            v[half + 2 * odd + 4] = blocks(first, second, 1);
        }
    }
}

}  // namespace
}  // namespace shosoin

#include "toeplitz_engine.h"

namespace shosoin {
constexpr ToeplitzPath toeplitz_avx512 = toeplitz_named("avx512");
}  // namespace shosoin
