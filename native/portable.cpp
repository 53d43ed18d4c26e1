// Plain C++ on 64-bit words: no branch and no address depends on data. It takes for granted that the processor
// multiplies integers in constant time, as current 64-bit ones do.
#include "aes_bitsliced.h"
#include "kernels.h"

#include <cstring>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "elements are little-endian in memory");

namespace shosoin {
namespace {

struct Vec {
    std::uint64_t lo;
    std::uint64_t hi;
};

constexpr int kLanes = 1;
constexpr int kUnroll = BitslicedAes256::kBlocks;

inline Vec load(ConstBytes p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(Bytes p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline void stream(Bytes p, Vec v) { store(p, v); }
inline void fence() {}
inline Vec zero() { return {0, 0}; }
inline Vec xor2(Vec a, Vec b) { return {a.lo ^ b.lo, a.hi ^ b.hi}; }
inline Vec xor3(Vec a, Vec b, Vec c) { return xor2(xor2(a, b), c); }
inline Vec broadcast(const Element& e) { return {e.lo, e.hi}; }

// Carry-less product by integer products. Each factor is cut into five with only every fifth bit kept, so that at most
// 13 ones meet in a column and their carries stay in the four zeros above it.
inline Vec carryless_product(std::uint64_t x, std::uint64_t y) {
    using Wide = unsigned __int128;
    constexpr std::uint64_t every_fifth = 0x1084210842108421;
    std::uint64_t a[5], b[5];
    for (int i = 0; i < 5; ++i) {
        a[i] = x & every_fifth << i;
        b[i] = y & every_fifth << i;
    }
    constexpr Wide columns = static_cast<Wide>(every_fifth << 1) << 64 | every_fifth;
    Wide product = 0;
    for (int r = 0; r < 5; ++r) {
        Wide sum = 0;
        for (int i = 0; i < 5; ++i) sum ^= static_cast<Wide>(a[i]) * b[(r + 5 - i) % 5];
        product ^= sum & columns << r;
    }
    return {static_cast<std::uint64_t>(product), static_cast<std::uint64_t>(product >> 64)};
}

template <int I, int J>
inline Vec clmul(Vec a, Vec b) {
    return carryless_product(I ? a.hi : a.lo, J ? b.hi : b.lo);
}

template <int T>
inline Vec shl(Vec v) {
    return {v.lo << T, v.hi << T};
}

template <int T>
inline Vec shr(Vec v) {
    if constexpr (T == 64) {
        return zero();
    } else {
        return {v.lo >> T, v.hi >> T};
    }
}

inline Vec add_halves(Vec v) { return {v.lo ^ v.hi, 0}; }

// X^128 = X^7 + X^2 + X + 1
inline Vec fold(Vec v) {
    const std::uint64_t h = v.hi;
    return {h ^ h << 1 ^ h << 2 ^ h << 7, v.lo ^ h >> 63 ^ h >> 62 ^ h >> 57};
}

inline Vec fold_carry(Vec v) { return fold(v); }

inline Vec fold_without_products(Vec low, Vec middle, Vec high) { return xor2(low, fold(xor2(middle, fold(high)))); }

inline Vec counters(std::uint64_t first, std::uint64_t) { return {0, first}; }
inline Vec add(Vec a, Vec b) { return {0, a.hi + b.hi}; }
inline Vec to_block(Vec v) { return {0, __builtin_bswap64(v.hi)}; }

class Cipher {
  public:
    explicit Cipher(ConstBytes seed) : aes_(seed) {}

    template <int N>
    void encrypt(Vec* blocks) const {
        static_assert(N % BitslicedAes256::kBlocks == 0);
        for (int i = 0; i < N; i += BitslicedAes256::kBlocks) {
            BitslicedAes256::Blocks words;
            std::memcpy(words, blocks + i, sizeof words);
            aes_.encrypt(words);
            std::memcpy(blocks + i, words, sizeof words);
        }
    }

  private:
    BitslicedAes256 aes_;
};

}  // namespace
}  // namespace shosoin

#include "engine.h"

namespace shosoin {
constexpr Path portable_path = path_named("portable");
}
