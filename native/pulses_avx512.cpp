// Pulses with AVX-512: eight blocks in a register, one 32-bit word in the lower half of each lane.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"
#include "pulses.h"
#include "pulses_philox.h"

namespace shosoin {
namespace {

struct Eight {
    __m512i a, b, c, d;
};

inline __m512i xor3(__m512i x, __m512i y, __m512i z) { return _mm512_ternarylogic_epi64(x, y, z, 0x96); }

// The upper halves of lanes hold rubbish: multiplications ignore it.
inline void round_of(Eight& x, __m512i low, __m512i high) {
    const __m512i left = _mm512_mul_epu32(_mm512_set1_epi64(kPhiloxLeft), x.a);
    const __m512i right = _mm512_mul_epu32(_mm512_set1_epi64(kPhiloxRight), x.c);
    x.a = xor3(_mm512_srli_epi64(right, 32), x.b, low);
    x.b = right;
    x.c = xor3(_mm512_srli_epi64(left, 32), x.d, high);
    x.d = left;
}

// Eight blocks in the order of their pulses.
inline void put(const Eight& x, std::uint32_t* words) {
    const __m512i ab = _mm512_mask_blend_epi32(0xAAAA, x.a, _mm512_slli_epi64(x.b, 32));
    const __m512i cd = _mm512_mask_blend_epi32(0xAAAA, x.c, _mm512_slli_epi64(x.d, 32));
    const __m512i first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), second = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    _mm512_storeu_si512(words, _mm512_permutex2var_epi64(ab, first, cd));
    _mm512_storeu_si512(words + 16, _mm512_permutex2var_epi64(ab, second, cd));
}

void generate(const Philox& key, std::uint64_t block, std::size_t blocks, std::uint32_t* words) {
    constexpr int kUnroll = 4;  // registers whose multiplications do not wait for each other
    const __m512i lanes = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    for (std::size_t i = 0; i < blocks; i += 8 * kUnroll) {
        Eight x[kUnroll];
        for (int u = 0; u < kUnroll; ++u) {
            const auto number = static_cast<long long>(block + i + 8 * static_cast<std::size_t>(u));
            x[u].a = _mm512_add_epi64(_mm512_set1_epi64(number), lanes);
            x[u].b = _mm512_srli_epi64(x[u].a, 32);
            x[u].c = _mm512_set1_epi64(key.stream);
            x[u].d = _mm512_set1_epi64(key.domain);
        }
        auto low = static_cast<std::uint32_t>(key.seed), high = static_cast<std::uint32_t>(key.seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round) {
            for (int u = 0; u < kUnroll; ++u) round_of(x[u], _mm512_set1_epi64(low), _mm512_set1_epi64(high));
            low += kPhiloxStepLow;
            high += kPhiloxStepHigh;
        }
        for (int u = 0; u < kUnroll; ++u) put(x[u], words + 4 * (i + 8 * static_cast<std::size_t>(u)));
    }
}

std::size_t find(const std::uint32_t* words, std::size_t count, std::uint32_t limit, std::uint16_t* at) {
    const __m512i most = _mm512_set1_epi32(static_cast<int>(limit));
    std::size_t found = 0;
    for (std::size_t i = 0; i < count; i += 16) {
        std::uint32_t hits = _mm512_cmple_epu32_mask(_mm512_loadu_si512(words + i), most);
        for (; hits; hits &= hits - 1) at[found++] = static_cast<std::uint16_t>(i + __builtin_ctz(hits));
    }
    return found;
}

void encode16(const std::uint32_t* words, const std::uint32_t* limits, std::uint8_t* bits, std::uint8_t* bases,
              std::uint8_t* intensity, std::uint8_t* states) {
    const __m512i one = _mm512_set1_epi32(1), word = _mm512_loadu_si512(words), drawn = _mm512_srli_epi32(word, 16);
    const __m512i chosen = _mm512_and_si512(_mm512_srli_epi32(word, 1), _mm512_set1_epi32(0x7FFF));
    const __mmask16 test = _mm512_cmpge_epu32_mask(chosen, _mm512_set1_epi32(static_cast<int>(limits[0])));
    __m512i level = _mm512_setzero_si512();
    for (int i = 1; i < 4; ++i) {
        const __mmask16 reached = _mm512_cmpge_epu32_mask(drawn, _mm512_set1_epi32(static_cast<int>(limits[i])));
        level = _mm512_mask_add_epi32(level, reached, level, one);
    }
    const __m512i basis = _mm512_maskz_set1_epi32(test, 2);
    const __m512i state =
        _mm512_or_si512(_mm512_slli_epi32(level, 2), _mm512_or_si512(basis, _mm512_and_si512(word, one)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(intensity), _mm512_cvtepi32_epi8(level));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(states), _mm512_cvtepi32_epi8(state));
    const std::uint16_t packed_bits = _mm512_test_epi32_mask(word, one), packed_bases = test;
    std::memcpy(bits, &packed_bits, 2);
    std::memcpy(bases, &packed_bases, 2);
}

}  // namespace
}  // namespace shosoin

#include "pulses_engine.h"

namespace shosoin {
const PulsePath pulses_avx512_path = {"avx512", choose_from_seed, choose_from_words, detect};
}
