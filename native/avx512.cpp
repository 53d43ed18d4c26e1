// AVX-512 with carry-less multiplication and AES on whole vectors: four elements at a time.
#include <immintrin.h>

#include "aes256.hpp"
#include "field.hpp"

namespace shosoin {
namespace {

struct Vector512 {
    static constexpr std::size_t kLanes = 4;
    static constexpr std::size_t kBytes = 64;

    __m512i v;

    struct Wide {
        __m512i low, middle, high;
    };

    static Vector512 zero() { return {_mm512_setzero_si512()}; }
    static Vector512 load(const std::uint8_t *from) { return {_mm512_loadu_si512(from)}; }
    static void store(Vector512 value, std::uint8_t *to) { _mm512_storeu_si512(to, value.v); }
    static void stream(Vector512 value, std::uint8_t *to) {
        _mm512_stream_si512(reinterpret_cast<__m512i *>(to), value.v);
    }
    static bool aligned(const std::uint8_t *to) { return reinterpret_cast<std::uintptr_t>(to) % 64 == 0; }
    static void fence() { _mm_sfence(); }
    static void store_one(Vector512 value, Element *to) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_castsi512_si128(value.v));
    }
    static Vector512 broadcast(Element e) {
        return {_mm512_broadcast_i32x4(
            _mm_set_epi64x(static_cast<long long>(e.hi), static_cast<long long>(e.lo)))};
    }
    static Vector512 add(Vector512 a, Vector512 b) { return {_mm512_xor_si512(a.v, b.v)}; }
    static Vector512 add3(Vector512 a, Vector512 b, Vector512 c) {
        return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, 0x96)};
    }

    static Wide product(Vector512 a, Vector512 b) {
        return {_mm512_clmulepi64_epi128(a.v, b.v, 0x00),
                _mm512_xor_si512(_mm512_clmulepi64_epi128(a.v, b.v, 0x01), _mm512_clmulepi64_epi128(a.v, b.v, 0x10)),
                _mm512_clmulepi64_epi128(a.v, b.v, 0x11)};
    }
    static void accumulate(Wide &sum, Vector512 a, Vector512 b) {
        sum.low = _mm512_xor_si512(sum.low, _mm512_clmulepi64_epi128(a.v, b.v, 0x00));
        sum.middle = _mm512_ternarylogic_epi64(sum.middle, _mm512_clmulepi64_epi128(a.v, b.v, 0x01),
                                               _mm512_clmulepi64_epi128(a.v, b.v, 0x10), 0x96);
        sum.high = _mm512_xor_si512(sum.high, _mm512_clmulepi64_epi128(a.v, b.v, 0x11));
    }
    // X^128 = X^7+X^2+X+1 (0x87): fold the upper 128 bits down, first their upper half, then their lower half.
    static Vector512 reduce(const Wide &wide) {
        const __m512i fold = _mm512_set1_epi64(0x87);
        const __m512i high = _mm512_xor_si512(wide.high, _mm512_bsrli_epi128(wide.middle, 8));
        const __m512i upper = _mm512_clmulepi64_epi128(high, fold, 0x01);
        const __m512i rest = _mm512_xor_si512(high, _mm512_bsrli_epi128(upper, 8));
        const __m512i lower = _mm512_clmulepi64_epi128(rest, fold, 0x00);
        const __m512i shifted = _mm512_bslli_epi128(_mm512_xor_si512(wide.middle, upper), 8);
        return {_mm512_ternarylogic_epi64(wide.low, shifted, lower, 0x96)};
    }

    template <int kShift>
    static Vector512 shift(Vector512 a) {
        const __m512i carry = _mm512_srli_epi64(a.v, 64 - kShift);
        const __m512i folded = _mm512_clmulepi64_epi128(carry, _mm512_set1_epi64(0x87), 0x01);
        return {_mm512_ternarylogic_epi64(_mm512_slli_epi64(a.v, kShift), _mm512_bslli_epi128(carry, 8), folded,
                                          0x96)};
    }
};

struct Aes512 {
    __m512i key[15];

    explicit Aes512(const std::uint8_t *seed) {
        __m128i narrow[15];
        expand_aes256(seed, narrow);
        for (int i = 0; i < 15; ++i)
            key[i] = _mm512_broadcast_i32x4(narrow[i]);
        wipe_round_keys(narrow);
    }
    ~Aes512() {
        for (auto &round : key)
            *static_cast<volatile __m512i *>(&round) = _mm512_setzero_si512();
    }

    // Counter blocks are big-endian; the counter itself stays below 2^64.
    static __m512i counters(std::uint64_t start, std::uint64_t stride) {
        const auto c = static_cast<long long>(start);
        const auto s = static_cast<long long>(stride);
        const __m512i plain = _mm512_set_epi64(c + 3 * s, 0, c + 2 * s, 0, c + s, 0, c, 0);
        const __m512i swap = _mm512_broadcast_i32x4(_mm_set_epi8(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
        return _mm512_shuffle_epi8(plain, swap);
    }

    Vector512 coefficient(std::uint64_t element, std::size_t j, std::size_t k) const {
        __m512i state = _mm512_xor_si512(counters((k - 1) * element + (j - 1), k - 1), key[0]);
        for (int round = 1; round < 14; ++round)
            state = _mm512_aesenc_epi128(state, key[round]);
        return {_mm512_aesenclast_epi128(state, key[14])};
    }

    // Coefficients of two neighbouring vectors for kStride = k-1 coefficients an element.
    template <std::uint64_t kStride>
    void blocks(std::uint64_t start, Vector512 *out) const {
        constexpr std::size_t count = 2 * kStride;
        __m512i state[count];
        for (std::size_t i = 0; i < count; ++i)
            state[i] = _mm512_xor_si512(counters(start + (i / kStride) * 4 * kStride + i % kStride, kStride), key[0]);
        for (int round = 1; round < 14; ++round)
            for (std::size_t i = 0; i < count; ++i)
                state[i] = _mm512_aesenc_epi128(state[i], key[round]);
        for (std::size_t i = 0; i < count; ++i)
            out[i] = {_mm512_aesenclast_epi128(state[i], key[14])};
    }
};

const Kernels kKernels = {
    "avx512",
    LinearMap<Vector512>::run,
    Split<Vector512, Aes512>::run,
    horner<Vector512>,
    xor_into<Vector512>,
    multiply<Vector512>,
};

}  // namespace

const Kernels *avx512_kernels() {
    const bool there = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                       __builtin_cpu_supports("vpclmulqdq") && cpu_has_vaes();
    return there ? &kKernels : nullptr;
}

}  // namespace shosoin
