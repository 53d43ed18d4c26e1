// Plain 64-bit words: any processor. Multiplication shifts and masks, without branches or tables.
#include "field.hpp"

namespace shosoin {
namespace {

struct Vector64 {
    static constexpr std::size_t kLanes = 1;
    static constexpr std::size_t kBytes = 16;

    Element e;

    struct Wide {
        std::uint64_t word[4];
    };

    static Vector64 zero() { return {{0, 0}}; }
    static Vector64 load(const std::uint8_t *from) {
        Vector64 value;
        std::memcpy(&value.e, from, kBytes);  // little-endian hosts only, as the build checks
        return value;
    }
    static void store(Vector64 value, std::uint8_t *to) { std::memcpy(to, &value.e, kBytes); }
    static void stream(Vector64 value, std::uint8_t *to) { store(value, to); }
    static bool aligned(const std::uint8_t *) { return false; }
    static void fence() {}
    static void store_one(Vector64 value, Element *to) { *to = value.e; }
    static Vector64 broadcast(Element e) { return {e}; }
    static Vector64 add(Vector64 a, Vector64 b) { return {{a.e.lo ^ b.e.lo, a.e.hi ^ b.e.hi}}; }
    static Vector64 add3(Vector64 a, Vector64 b, Vector64 c) { return add(add(a, b), c); }

    // Carry-less 64 x 64 -> 128 bits, one bit of b at a time under a mask.
    static void clmul(std::uint64_t a, std::uint64_t b, std::uint64_t &lo, std::uint64_t &hi) {
        lo = a & (0 - (b & 1));
        hi = 0;
        for (int i = 1; i < 64; ++i) {
            const std::uint64_t mask = 0 - ((b >> i) & 1);
            lo ^= (a << i) & mask;
            hi ^= (a >> (64 - i)) & mask;
        }
    }

    static Wide product(Vector64 a, Vector64 b) {
        std::uint64_t l0, l1, h0, h1, m0, m1;
        clmul(a.e.lo, b.e.lo, l0, l1);
        clmul(a.e.hi, b.e.hi, h0, h1);
        clmul(a.e.lo ^ a.e.hi, b.e.lo ^ b.e.hi, m0, m1);  // Karatsuba
        m0 ^= l0 ^ h0;
        m1 ^= l1 ^ h1;
        return {{l0, l1 ^ m0, h0 ^ m1, h1}};
    }
    static void accumulate(Wide &sum, Vector64 a, Vector64 b) {
        const Wide term = product(a, b);
        for (int i = 0; i < 4; ++i)
            sum.word[i] ^= term.word[i];
    }
    static Vector64 reduce(const Wide &wide) {
        std::uint64_t w0 = wide.word[0], w1 = wide.word[1], w2 = wide.word[2];
        fold(wide.word[3], w1, w2);
        fold(w2, w0, w1);
        return {{w0, w1}};
    }
    // word * 0x87, added to a pair of words.
    static void fold(std::uint64_t word, std::uint64_t &lo, std::uint64_t &hi) {
        lo ^= word ^ (word << 1) ^ (word << 2) ^ (word << 7);
        hi ^= (word >> 63) ^ (word >> 62) ^ (word >> 57);
    }

    template <int kShift>
    static Vector64 shift(Vector64 a) {
        const std::uint64_t carry = a.e.hi >> (64 - kShift);
        return {{(a.e.lo << kShift) ^ carry ^ (carry << 1) ^ (carry << 2) ^ (carry << 7),
                 (a.e.hi << kShift) | (a.e.lo >> (64 - kShift))}};
    }
};

const Kernels kKernels = {
    "portable", LinearMap<Vector64>::run, nullptr, horner<Vector64>, xor_into<Vector64>, multiply<Vector64>,
};

}  // namespace

const Kernels *portable_kernels() { return &kKernels; }

}  // namespace shosoin
