// AVX-512: 64 checks at a time, corrections from a table in one register.
#include <immintrin.h>

#include "ldpc.h"

namespace shosoin {
namespace {

using Vec = __m512i;
using Sign = __mmask64;
using Same = __mmask64;
using Wide = __m512i;
struct Words {
    __m512i low, high;
};

constexpr std::size_t kChunk = 64;
constexpr std::size_t kMessageBytes = 16;
constexpr std::size_t kWideBytes = 64;

inline Words load_words(const std::int16_t* p) { return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 32)}; }
inline void store_words(std::int16_t* p, Words w) {
    _mm512_storeu_si512(p, w.low);
    _mm512_storeu_si512(p + 32, w.high);
}
inline Words joined(Words a, Words b, std::size_t count) {
    const std::uint64_t first = (std::uint64_t{1} << count) - 1;
    return {_mm512_mask_mov_epi16(b.low, static_cast<__mmask32>(first), a.low),
            _mm512_mask_mov_epi16(b.high, static_cast<__mmask32>(first >> 32), a.high)};
}
// Packing interleaves the halves in blocks of eight, unpacking undoes it: bytes live in that order.
inline Words widen(Vec v) {
    const Vec none = _mm512_setzero_si512();
    return {_mm512_srai_epi16(_mm512_unpacklo_epi8(none, v), 8), _mm512_srai_epi16(_mm512_unpackhi_epi8(none, v), 8)};
}
inline Vec narrow(Words w) { return _mm512_packs_epi16(w.low, w.high); }
inline Words add(Words a, Words b) { return {_mm512_add_epi16(a.low, b.low), _mm512_add_epi16(a.high, b.high)}; }
inline Words sub(Words a, Words b) { return {_mm512_sub_epi16(a.low, b.low), _mm512_sub_epi16(a.high, b.high)}; }
inline Vec all(int b) { return _mm512_set1_epi8(static_cast<char>(b)); }
inline Vec minimum(Vec a, Vec b) { return _mm512_min_epu8(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm512_max_epu8(a, b); }
inline Vec magnitude(Vec v) { return minimum(_mm512_abs_epi8(v), all(kLdpcMessageMax)); }

inline Vec correction(Vec distance) {
    return _mm512_permutexvar_epi8(minimum(distance, all(63)), _mm512_load_si512(kLdpcCorrection));
}

inline Vec box_plus(Vec a, Vec b) {
    const Vec low = minimum(a, b), high = maximum(a, b);
    const Vec near = correction(_mm512_sub_epi8(high, low)), far = correction(_mm512_adds_epu8(a, b));
    return _mm512_subs_epu8(_mm512_add_epi8(low, far), near);
}

inline Sign sign_of(Vec v) { return _mm512_movepi8_mask(v); }
inline Sign flip(Sign a, Sign b) { return a ^ b; }
inline Sign sign_from_bits(ConstBytes bits) {
    std::uint32_t low, high;
    __builtin_memcpy(&low, bits, 4);
    __builtin_memcpy(&high, bits + 4, 4);
    return sign_of(narrow({_mm512_movm_epi16(low), _mm512_movm_epi16(high)}));
}
inline void store_sign(Bytes p, Sign s) { __builtin_memcpy(p, &s, sizeof s); }
inline Sign load_sign(ConstBytes p) {
    Sign s;
    __builtin_memcpy(&s, p, sizeof s);
    return s;
}
inline Same same(Vec a, Vec b) { return _mm512_cmpeq_epi8_mask(a, b); }
inline Vec either(Same s, Vec if_same, Vec if_not) { return _mm512_mask_blend_epi8(s, if_not, if_same); }
inline Vec negate_where(Sign s, Vec v) { return _mm512_mask_sub_epi8(v, s, _mm512_setzero_si512(), v); }

inline void keep(Bytes slot, Sign sign, Same least, Vec) {
    __builtin_memcpy(slot, &sign, 8);
    __builtin_memcpy(slot + 8, &least, 8);
}
inline Vec recall(ConstBytes slot, Vec others, Vec every) {
    Sign sign;
    Same least;
    __builtin_memcpy(&sign, slot, 8);
    __builtin_memcpy(&least, slot + 8, 8);
    return negate_where(sign, either(least, others, every));
}
inline Vec load_bytes(ConstBytes p) { return _mm512_load_si512(p); }
inline void store_bytes(Bytes p, Vec v) { _mm512_store_si512(p, v); }

inline void pack_signs(const std::int16_t* values, std::size_t count, Bytes bits) {
    for (std::size_t i = 0; i < count; i += 32) {
        const std::uint32_t signs = _mm512_movepi16_mask(_mm512_loadu_si512(values + i));
        __builtin_memcpy(bits + i / 8, &signs, 4);
    }
}

inline Wide zero_wide() { return _mm512_setzero_si512(); }
inline Wide load_wide(ConstBytes p) { return _mm512_loadu_si512(p); }
inline void store_wide(Bytes p, Wide w) { _mm512_storeu_si512(p, w); }
inline Wide exclusive_or(Wide a, Wide b) { return _mm512_xor_si512(a, b); }
inline Wide shifted(Wide a, int right, Wide b, int left) {
    return _mm512_or_si512(_mm512_srl_epi64(a, _mm_cvtsi32_si128(right)), _mm512_sll_epi64(b, _mm_cvtsi32_si128(left)));
}

}  // namespace
}  // namespace shosoin

#include "ldpc_engine.h"

namespace shosoin {
constexpr LdpcPath ldpc_avx512_path = {"avx512", kChunk, kMessageBytes, syndrome, decode};
}
