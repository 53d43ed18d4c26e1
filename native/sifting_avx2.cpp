// Sifting with AVX2: eight octets at a time are put together by a shuffle that a table holds for each mask.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace shosoin {
namespace {

struct Shuffles {
    alignas(64) std::uint64_t of[256];

    constexpr Shuffles() : of{} {
        for (int mask = 0; mask < 256; ++mask) {
            int found = 0;
            for (std::uint64_t i = 0; i < 8; ++i) {
                if (mask >> i & 1) of[mask] |= i << (8 * found++);
            }
        }
    }
};

constexpr Shuffles kShuffles;

inline std::uint32_t mask32(const std::uint8_t* from) {
    const __m256i octets = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return ~static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(octets, _mm256_setzero_si256())));
}

std::uint64_t mask64(const std::uint8_t* from) { return mask32(from) | std::uint64_t{mask32(from + 32)} << 32; }

std::size_t select64(std::uint8_t* to, const std::uint8_t* from, std::uint64_t mask) {
    std::size_t count = 0;
    for (int i = 0; i < 8; ++i) {
        const auto eight = static_cast<unsigned>(mask >> (8 * i) & 0xFF);
        const __m128i octets = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8 * i));
        const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(&kShuffles.of[eight]));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + count), _mm_shuffle_epi8(octets, order));
        count += static_cast<std::size_t>(__builtin_popcount(eight));
    }
    return count;
}

}  // namespace
}  // namespace shosoin

#include "sifting_engine.h"

namespace shosoin {
const SiftingPath sifting_avx2_path = {"avx2", places, keep, look_up, largest_step, steps, pulses, pack};
}
