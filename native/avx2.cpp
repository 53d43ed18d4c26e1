// AVX2-era processors: one element at a time with PCLMULQDQ and AES-NI; the compiler interleaves the loops.
#include <immintrin.h>

#include "aes256.hpp"
#include "field.hpp"

namespace shosoin {
namespace {

struct Vector128 {
    static constexpr std::size_t kLanes = 1;
    static constexpr std::size_t kBytes = 16;

    __m128i v;

    struct Wide {
        __m128i low, middle, high;
    };

    static Vector128 zero() { return {_mm_setzero_si128()}; }
    static Vector128 load(const std::uint8_t *from) {
        return {_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))};
    }
    static void store(Vector128 value, std::uint8_t *to) {
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to), value.v);
    }
    static void stream(Vector128 value, std::uint8_t *to) {
        _mm_stream_si128(reinterpret_cast<__m128i *>(to), value.v);
    }
    static bool aligned(const std::uint8_t *to) { return reinterpret_cast<std::uintptr_t>(to) % 16 == 0; }
    static void fence() { _mm_sfence(); }
    static void store_one(Vector128 value, Element *to) { store(value, reinterpret_cast<std::uint8_t *>(to)); }
    static Vector128 broadcast(Element e) {
        return {_mm_set_epi64x(static_cast<long long>(e.hi), static_cast<long long>(e.lo))};
    }
    static Vector128 add(Vector128 a, Vector128 b) { return {_mm_xor_si128(a.v, b.v)}; }
    static Vector128 add3(Vector128 a, Vector128 b, Vector128 c) { return add(add(a, b), c); }

    static Wide product(Vector128 a, Vector128 b) {
        return {_mm_clmulepi64_si128(a.v, b.v, 0x00),
                _mm_xor_si128(_mm_clmulepi64_si128(a.v, b.v, 0x01), _mm_clmulepi64_si128(a.v, b.v, 0x10)),
                _mm_clmulepi64_si128(a.v, b.v, 0x11)};
    }
    static void accumulate(Wide &sum, Vector128 a, Vector128 b) {
        const Wide term = product(a, b);
        sum.low = _mm_xor_si128(sum.low, term.low);
        sum.middle = _mm_xor_si128(sum.middle, term.middle);
        sum.high = _mm_xor_si128(sum.high, term.high);
    }
    static Vector128 reduce(const Wide &wide) {
        const __m128i fold = _mm_set1_epi64x(0x87);
        const __m128i high = _mm_xor_si128(wide.high, _mm_srli_si128(wide.middle, 8));
        const __m128i upper = _mm_clmulepi64_si128(high, fold, 0x01);
        const __m128i rest = _mm_xor_si128(high, _mm_srli_si128(upper, 8));
        const __m128i lower = _mm_clmulepi64_si128(rest, fold, 0x00);
        const __m128i shifted = _mm_slli_si128(_mm_xor_si128(wide.middle, upper), 8);
        return {_mm_xor_si128(_mm_xor_si128(wide.low, shifted), lower)};
    }

    template <int kShift>
    static Vector128 shift(Vector128 a) {
        const __m128i carry = _mm_srli_epi64(a.v, 64 - kShift);
        const __m128i folded = _mm_clmulepi64_si128(carry, _mm_set1_epi64x(0x87), 0x01);
        return {_mm_xor_si128(_mm_xor_si128(_mm_slli_epi64(a.v, kShift), _mm_slli_si128(carry, 8)), folded)};
    }
};

struct Aes128Lanes {
    __m128i key[15];

    explicit Aes128Lanes(const std::uint8_t *seed) { expand_aes256(seed, key); }
    ~Aes128Lanes() { wipe_round_keys(key); }

    static __m128i counter(std::uint64_t value) {
        return _mm_set_epi64x(static_cast<long long>(__builtin_bswap64(value)), 0);
    }

    Vector128 coefficient(std::uint64_t element, std::size_t j, std::size_t k) const {
        __m128i state = _mm_xor_si128(counter((k - 1) * element + (j - 1)), key[0]);
        for (int round = 1; round < 14; ++round)
            state = _mm_aesenc_si128(state, key[round]);
        return {_mm_aesenclast_si128(state, key[14])};
    }

    template <std::uint64_t kStride>
    void blocks(std::uint64_t start, Vector128 *out) const {
        constexpr std::size_t count = 2 * kStride;
        __m128i state[count];
        for (std::size_t i = 0; i < count; ++i)
            state[i] = _mm_xor_si128(counter(start + i), key[0]);
        for (int round = 1; round < 14; ++round)
            for (std::size_t i = 0; i < count; ++i)
                state[i] = _mm_aesenc_si128(state[i], key[round]);
        for (std::size_t i = 0; i < count; ++i)
            out[i] = {_mm_aesenclast_si128(state[i], key[14])};
    }
};

const Kernels kKernels = {
    "avx2",
    LinearMap<Vector128>::run,
    Split<Vector128, Aes128Lanes>::run,
    horner<Vector128>,
    xor_into<Vector128>,
    multiply<Vector128>,
};

}  // namespace

const Kernels *avx2_kernels() {
    const bool there = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("pclmul") && cpu_has_aes();
    return there ? &kKernels : nullptr;
}

}  // namespace shosoin
