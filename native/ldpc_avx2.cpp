// AVX2: 32 checks at a time, corrections from two tables of sixteen in registers.
#include <immintrin.h>

#include "ldpc.h"

namespace shosoin {
namespace {

using Vec = __m256i;
using Sign = __m256i;  // in the top bit of each byte
using Same = __m256i;
using Wide = __m256i;
struct Words {
    __m256i low, high;
};

constexpr std::size_t kChunk = 32;
constexpr std::size_t kMessageBytes = 32;
constexpr std::size_t kWideBytes = 32;

inline __m256i load_any(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_any(void* p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }

inline Words load_words(const std::int16_t* p) { return {load_any(p), load_any(p + 16)}; }
inline void store_words(std::int16_t* p, Words w) {
    store_any(p, w.low);
    store_any(p + 16, w.high);
}
inline Words joined(Words a, Words b, std::size_t count) {
    const __m256i index = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m256i limit = _mm256_set1_epi16(static_cast<short>(count));
    const __m256i low = _mm256_cmpgt_epi16(limit, index);
    const __m256i high = _mm256_cmpgt_epi16(limit, _mm256_add_epi16(index, _mm256_set1_epi16(16)));
    return {_mm256_blendv_epi8(b.low, a.low, low), _mm256_blendv_epi8(b.high, a.high, high)};
}
// Packing interleaves the halves in blocks of eight, unpacking undoes it: bytes live in that order.
inline Words widen(Vec v) {
    const Vec none = _mm256_setzero_si256();
    return {_mm256_srai_epi16(_mm256_unpacklo_epi8(none, v), 8), _mm256_srai_epi16(_mm256_unpackhi_epi8(none, v), 8)};
}
inline Vec narrow(Words w) { return _mm256_packs_epi16(w.low, w.high); }
inline Words add(Words a, Words b) { return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)}; }
inline Words sub(Words a, Words b) { return {_mm256_sub_epi16(a.low, b.low), _mm256_sub_epi16(a.high, b.high)}; }
inline Vec all(int b) { return _mm256_set1_epi8(static_cast<char>(b)); }
inline Vec minimum(Vec a, Vec b) { return _mm256_min_epu8(a, b); }
inline Vec maximum(Vec a, Vec b) { return _mm256_max_epu8(a, b); }
inline Vec magnitude(Vec v) { return minimum(_mm256_abs_epi8(v), all(kLdpcMessageMax)); }

// A shuffle gives zero where the top bit is set: adding 112 sets it for all but the sixteen indices of this part.
template <int Part>
inline Vec part(Vec index) {
    const Vec table = _mm256_broadcastsi128_si256(
        _mm_load_si128(reinterpret_cast<const __m128i*>(kLdpcCorrection + 16 * Part)));
    const Vec local = Part == 0 ? index : _mm256_sub_epi8(index, all(16 * Part));
    return _mm256_shuffle_epi8(table, _mm256_adds_epu8(local, all(112)));
}

inline Vec correction(Vec distance) {
    static_assert(kLdpcCorrection[31] == 0);
    return _mm256_or_si256(part<0>(distance), part<1>(distance));
}

inline Vec box_plus(Vec a, Vec b) {
    const Vec low = minimum(a, b), high = maximum(a, b);
    const Vec near = correction(_mm256_sub_epi8(high, low)), far = correction(_mm256_adds_epu8(a, b));
    return _mm256_subs_epu8(_mm256_add_epi8(low, far), near);
}

inline Sign sign_of(Vec v) { return v; }
inline Sign flip(Sign a, Sign b) { return _mm256_xor_si256(a, b); }
inline Sign sign_from_bits(ConstBytes bits) {
    std::int32_t word;
    __builtin_memcpy(&word, bits, 4);
    const Vec spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(word), _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const Vec bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
    const Vec natural = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    return _mm256_permute4x64_epi64(natural, _MM_SHUFFLE(3, 1, 2, 0));
}
inline Same same(Vec a, Vec b) { return _mm256_cmpeq_epi8(a, b); }
inline Vec either(Same s, Vec if_same, Vec if_not) { return _mm256_blendv_epi8(if_not, if_same, s); }
inline Vec negate_where(Sign s, Vec v) {
    // 0 keeps and -1 negates: (v ^ m) - m
    const Vec m = _mm256_cmpgt_epi8(_mm256_setzero_si256(), s);
    return _mm256_sub_epi8(_mm256_xor_si256(v, m), m);
}

inline Vec load_bytes(ConstBytes p) { return load_any(p); }
inline void store_bytes(Bytes p, Vec v) { store_any(p, v); }
inline void store_sign(Bytes p, Sign s) { store_bytes(p, s); }
inline Sign load_sign(ConstBytes p) { return load_bytes(p); }
inline void keep(Bytes slot, Sign, Same, Vec message) { store_bytes(slot, message); }
inline Vec recall(ConstBytes slot, Vec, Vec) { return load_bytes(slot); }

inline void pack_signs(const std::int16_t* values, std::size_t count, Bytes bits) {
    for (std::size_t i = 0; i < count; i += 32) {
        const Vec bytes = _mm256_permute4x64_epi64(narrow(load_words(values + i)), _MM_SHUFFLE(3, 1, 2, 0));
        const std::int32_t signs = _mm256_movemask_epi8(bytes);
        __builtin_memcpy(bits + i / 8, &signs, 4);
    }
}

inline Wide zero_wide() { return _mm256_setzero_si256(); }
inline Wide load_wide(ConstBytes p) { return load_any(p); }
inline void store_wide(Bytes p, Wide w) { store_any(p, w); }
inline Wide exclusive_or(Wide a, Wide b) { return _mm256_xor_si256(a, b); }
inline Wide shifted(Wide a, int right, Wide b, int left) {
    return _mm256_or_si256(_mm256_srl_epi64(a, _mm_cvtsi32_si128(right)), _mm256_sll_epi64(b, _mm_cvtsi32_si128(left)));
}

}  // namespace
}  // namespace shosoin

#include "ldpc_engine.h"

namespace shosoin {
constexpr LdpcPath ldpc_avx2_path = {"avx2", kChunk, kMessageBytes, syndrome, decode};
}
