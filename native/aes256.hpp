// AES-256 key expansion with AES-NI, and the CPU checks that GCC's builtin does not know by name.
//
// Source: FIPS 197, section 5.2.
#pragma once

#include <cpuid.h>
#include <immintrin.h>

#include <cstdint>

namespace shosoin {

inline bool cpu_has_vaes() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 9));
}

inline bool cpu_has_aes() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 25));
}

// w, w+w<<32, ... : the running XOR of the four words of a round key.
inline __m128i running_xor(__m128i key) {
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    return _mm_xor_si128(key, _mm_slli_si128(key, 8));
}

// keys[0], keys[1] -> keys[2] (and keys[3] unless it is the last one).
template <int kConstant, bool kLast = false>
inline void expand_step(__m128i *keys) {
    const __m128i rotated = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[1], kConstant), 0xff);
    keys[2] = _mm_xor_si128(running_xor(keys[0]), rotated);
    if (!kLast) {
        const __m128i plain = _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[2], 0), 0xaa);
        keys[3] = _mm_xor_si128(running_xor(keys[1]), plain);
    }
}

inline void expand_aes256(const std::uint8_t *seed, __m128i *keys) {
    keys[0] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(seed));
    keys[1] = _mm_loadu_si128(reinterpret_cast<const __m128i *>(seed + 16));
    expand_step<0x01>(keys);
    expand_step<0x02>(keys + 2);
    expand_step<0x04>(keys + 4);
    expand_step<0x08>(keys + 6);
    expand_step<0x10>(keys + 8);
    expand_step<0x20>(keys + 10);
    expand_step<0x40, true>(keys + 12);
}

inline void wipe_round_keys(__m128i *keys) {
    for (int i = 0; i < 15; ++i)
        *static_cast<volatile __m128i *>(keys + i) = _mm_setzero_si128();
}

}  // namespace shosoin
