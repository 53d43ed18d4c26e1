// The AES-256 key schedule with the processor's own instructions (FIPS 197, section 5.2).
#pragma once

#include <immintrin.h>

#include "kernels.h"

namespace shosoin {
namespace {

constexpr int kRoundKeys = 15;

// Each word of the next round key adds all words before it; `assist` is the transformed last word of the previous key.
inline __m128i next_round_key(__m128i key, __m128i assist) {
    key = _mm_xor_si128(key, _mm_slli_si128(key, 4));
    key = _mm_xor_si128(key, _mm_slli_si128(key, 8));
    return _mm_xor_si128(key, assist);
}

template <int Rcon>
inline void expand_pair(__m128i* keys) {
    keys[2] = next_round_key(keys[0], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[1], Rcon), 0xff));
    keys[3] = next_round_key(keys[1], _mm_shuffle_epi32(_mm_aeskeygenassist_si128(keys[2], 0), 0xaa));
}

inline void expand_key(ConstBytes seed, __m128i (&keys)[kRoundKeys]) {
    __m128i schedule[kRoundKeys + 1];
    schedule[0] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(seed));
    schedule[1] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(seed + 16));
    expand_pair<0x01>(schedule);
    expand_pair<0x02>(schedule + 2);
    expand_pair<0x04>(schedule + 4);
    expand_pair<0x08>(schedule + 6);
    expand_pair<0x10>(schedule + 8);
    expand_pair<0x20>(schedule + 10);
    expand_pair<0x40>(schedule + 12);
    for (int i = 0; i < kRoundKeys; ++i) keys[i] = schedule[i];
    wipe(schedule, sizeof schedule);
}

}  // namespace
}  // namespace shosoin
