// Sifting with AVX-512: sixteen octets at a time are compressed as words, since octets are so only with VBMI2.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace shosoin {
namespace {

std::uint64_t mask64(const std::uint8_t* from) {
    const __m512i octets = _mm512_loadu_si512(from);
    return _mm512_test_epi8_mask(octets, octets);
}

std::size_t select64(std::uint8_t* to, const std::uint8_t* from, std::uint64_t mask) {
    std::size_t count = 0;
    for (int i = 0; i < 4; ++i) {
        const auto sixteen = static_cast<__mmask16>(mask >> (16 * i));
        const __m512i words = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 16 * i)));
        const __m512i found = _mm512_maskz_compress_epi32(sixteen, words);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to + count), _mm512_cvtepi32_epi8(found));
        count += static_cast<std::size_t>(__builtin_popcount(sixteen));
    }
    return count;
}

}  // namespace
}  // namespace shosoin

#include "sifting_engine.h"

namespace shosoin {
const SiftingPath sifting_avx512_path = {"avx512", places, keep, look_up, largest_step, steps, pulses, pack};
}
