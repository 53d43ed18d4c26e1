// Pulses with AVX2: four blocks in a register, one 32-bit word in the lower half of each lane.
#include <immintrin.h>

#include <cstring>

#include "kernels.h"
#include "pulses.h"
#include "pulses_philox.h"

namespace shosoin {
namespace {

struct Four {
    __m256i a, b, c, d;
};

// The upper halves of lanes hold rubbish: multiplications ignore it.
inline void round_of(Four& x, __m256i low, __m256i high) {
    const __m256i left = _mm256_mul_epu32(_mm256_set1_epi64x(kPhiloxLeft), x.a);
    const __m256i right = _mm256_mul_epu32(_mm256_set1_epi64x(kPhiloxRight), x.c);
    x.a = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(right, 32), x.b), low);
    x.b = right;
    x.c = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(left, 32), x.d), high);
    x.d = left;
}

// Four blocks in the order of their pulses.
inline void put(const Four& x, std::uint32_t* words) {
    const __m256i ab = _mm256_blend_epi32(x.a, _mm256_slli_epi64(x.b, 32), 0xAA);
    const __m256i cd = _mm256_blend_epi32(x.c, _mm256_slli_epi64(x.d, 32), 0xAA);
    const __m256i even = _mm256_unpacklo_epi64(ab, cd), odd = _mm256_unpackhi_epi64(ab, cd);  // blocks 0, 2 and 1, 3
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8), _mm256_permute2x128_si256(even, odd, 0x31));
}

void generate(const Philox& key, std::uint64_t block, std::size_t blocks, std::uint32_t* words) {
    const __m256i lanes = _mm256_set_epi64x(3, 2, 1, 0);
    for (std::size_t i = 0; i < blocks; i += 8) {
        Four x[2];
        for (int u = 0; u < 2; ++u) {
            const auto number = static_cast<long long>(block + i + 4 * static_cast<std::size_t>(u));
            x[u].a = _mm256_add_epi64(_mm256_set1_epi64x(number), lanes);
            x[u].b = _mm256_srli_epi64(x[u].a, 32);
            x[u].c = _mm256_set1_epi64x(key.stream);
            x[u].d = _mm256_set1_epi64x(key.domain);
        }
        auto low = static_cast<std::uint32_t>(key.seed), high = static_cast<std::uint32_t>(key.seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round) {
            for (int u = 0; u < 2; ++u) round_of(x[u], _mm256_set1_epi64x(low), _mm256_set1_epi64x(high));
            low += kPhiloxStepLow;
            high += kPhiloxStepHigh;
        }
        for (int u = 0; u < 2; ++u) put(x[u], words + 4 * (i + 4 * static_cast<std::size_t>(u)));
    }
}

inline __m256i load8(const std::uint32_t* words) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
}

inline std::uint32_t mask_of(__m256i lanes) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(lanes)));
}

std::size_t find(const std::uint32_t* words, std::size_t count, std::uint32_t limit, std::uint16_t* at) {
    const __m256i most = _mm256_set1_epi32(static_cast<int>(limit));
    std::size_t found = 0;
    for (std::size_t i = 0; i < count; i += 16) {
        const __m256i first = load8(words + i), second = load8(words + i + 8);
        std::uint32_t hits = mask_of(_mm256_cmpeq_epi32(_mm256_min_epu32(first, most), first)) |
                             mask_of(_mm256_cmpeq_epi32(_mm256_min_epu32(second, most), second)) << 8;
        for (; hits; hits &= hits - 1) at[found++] = static_cast<std::uint16_t>(i + __builtin_ctz(hits));
    }
    return found;
}

// Lanes of all ones where value >= limit; both below 2^31.
inline __m256i at_least(__m256i value, std::uint32_t limit) {
    return _mm256_cmpgt_epi32(value, _mm256_set1_epi32(static_cast<int>(limit) - 1));
}

struct Eight {
    __m256i level, state;
    std::uint32_t bits, bases;
};

inline Eight encode8(const std::uint32_t* words, const std::uint32_t* limits) {
    const __m256i one = _mm256_set1_epi32(1), word = load8(words), drawn = _mm256_srli_epi32(word, 16);
    const __m256i bit = _mm256_and_si256(word, one);
    const __m256i chosen = _mm256_and_si256(_mm256_srli_epi32(word, 1), _mm256_set1_epi32(0x7FFF));
    const __m256i test = at_least(chosen, limits[0]);
    __m256i level = _mm256_setzero_si256();
    for (int i = 1; i < 4; ++i) level = _mm256_sub_epi32(level, at_least(drawn, limits[i]));
    const __m256i basis = _mm256_and_si256(test, _mm256_set1_epi32(2));
    const __m256i state = _mm256_or_si256(_mm256_slli_epi32(level, 2), _mm256_or_si256(basis, bit));
    return {level, state, mask_of(_mm256_slli_epi32(word, 31)), mask_of(test)};
}

// The lowest octets of sixteen lanes, in order.
inline void put_octets(__m256i first, __m256i second, std::uint8_t* to) {
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xD8);
    const __m256i octets = _mm256_permute4x64_epi64(_mm256_packus_epi16(halves, halves), 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(octets));
}

void encode16(const std::uint32_t* words, const std::uint32_t* limits, std::uint8_t* bits, std::uint8_t* bases,
              std::uint8_t* intensity, std::uint8_t* states) {
    const Eight x = encode8(words, limits), y = encode8(words + 8, limits);
    put_octets(x.level, y.level, intensity);
    put_octets(x.state, y.state, states);
    bits[0] = static_cast<std::uint8_t>(x.bits);
    bits[1] = static_cast<std::uint8_t>(y.bits);
    bases[0] = static_cast<std::uint8_t>(x.bases);
    bases[1] = static_cast<std::uint8_t>(y.bases);
}

}  // namespace
}  // namespace shosoin

#include "pulses_engine.h"

namespace shosoin {
const PulsePath pulses_avx2_path = {"avx2", choose_from_seed, choose_from_words, detect};
}
