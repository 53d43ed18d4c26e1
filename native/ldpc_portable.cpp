// Plain C++ with the vectors that GCC and Clang offer for any processor, sixteen checks at a time. Corrections are
// counted, not looked up.
#include "ldpc.h"

namespace shosoin {
namespace {

constexpr std::size_t kChunk = 16;
constexpr std::size_t kMessageBytes = 16;
constexpr std::size_t kWideBytes = 8;

// Vectors of the compiler, which it maps to what the processor has (SSE2, NEON), or to loops.
typedef std::uint8_t Vec __attribute__((vector_size(16)));
typedef std::int8_t SignedVec __attribute__((vector_size(16)));
typedef std::int8_t SignedHalf __attribute__((vector_size(8)));
typedef std::int16_t HalfWords __attribute__((vector_size(16)));
using Sign = Vec;  // in the top bit of each byte
using Same = Vec;
using Wide = std::uint64_t;
struct Words {
    HalfWords low, high;
};

template <class To, class From>
inline To as(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}

inline Words load_words(const std::int16_t* p) {
    Words w;
    __builtin_memcpy(&w, p, sizeof w);
    return w;
}
inline void store_words(std::int16_t* p, Words w) { __builtin_memcpy(p, &w, sizeof w); }
inline Words joined(Words a, Words b, std::size_t count) {
    std::int16_t first[kChunk], both[kChunk];
    __builtin_memcpy(first, &a, sizeof a);
    __builtin_memcpy(both, &b, sizeof b);
    for (std::size_t i = 0; i < count; ++i) both[i] = first[i];
    return load_words(both);
}
inline Words widen(Vec v) {
    SignedHalf halves[2];
    __builtin_memcpy(halves, &v, sizeof v);
    return {__builtin_convertvector(halves[0], HalfWords), __builtin_convertvector(halves[1], HalfWords)};
}
inline HalfWords choose(HalfWords where, HalfWords a, HalfWords b) { return (where & a) | (~where & b); }
inline SignedHalf saturated(HalfWords w) {
    const HalfWords top = HalfWords{} + 127, bottom = HalfWords{} - 128;
    w = choose(as<HalfWords>(w > top), top, w);
    w = choose(as<HalfWords>(w < bottom), bottom, w);
    return __builtin_convertvector(w, SignedHalf);
}
inline Vec narrow(Words w) {
    const SignedHalf halves[2] = {saturated(w.low), saturated(w.high)};
    Vec v;
    __builtin_memcpy(&v, halves, sizeof v);
    return v;
}
inline Words add(Words a, Words b) { return {a.low + b.low, a.high + b.high}; }
inline Words sub(Words a, Words b) { return {a.low - b.low, a.high - b.high}; }
inline Vec all(int b) { return Vec{} + static_cast<std::uint8_t>(b); }
inline Vec either(Same where, Vec if_same, Vec if_not) { return (where & if_same) | (~where & if_not); }
inline Vec minimum(Vec a, Vec b) { return either(as<Same>(a < b), a, b); }
inline Vec maximum(Vec a, Vec b) { return either(as<Same>(a < b), b, a); }
inline Vec negate_where(Sign s, Vec v) {
    const Vec m = as<Vec>(as<SignedVec>(s) < 0);
    return (v ^ m) - m;
}
inline Vec magnitude(Vec v) { return minimum(negate_where(v, v), all(kLdpcMessageMax)); }

// How many steps of kLdpcCorrection are above a distance: no address depends on a message.
constexpr std::uint8_t step_at(int value) {
    std::uint8_t x = 0;
    while (kLdpcCorrection[x] >= value) ++x;
    return x;
}
static_assert(kLdpcCorrection[0] == 6 && kLdpcCorrection[31] == 0);

template <int Value = 1>
inline Vec correction(Vec distance) {
    // A comparison that holds is -1.
    const Vec step = Vec{} - as<Vec>(distance < all(step_at(Value)));
    if constexpr (Value < 6) {
        return step + correction<Value + 1>(distance);
    } else {
        return step;
    }
}

inline Vec box_plus(Vec a, Vec b) {
    const Vec low = minimum(a, b), high = maximum(a, b), cap = all(64);
    const Vec near = correction(high - low);
    const Vec far = correction(minimum(low, cap) + minimum(high, cap));  // beyond the cap there is none
    const Vec sum = low + far;
    return sum - minimum(sum, near);
}

inline Sign sign_of(Vec v) { return v; }
inline Sign flip(Sign a, Sign b) { return a ^ b; }
inline Sign sign_from_bits(ConstBytes bits) {
    Sign s{};
    for (std::size_t i = 0; i < kChunk; ++i) s[i] = static_cast<std::uint8_t>(bits[i / 8] >> i % 8 << 7);
    return s;
}
inline Same same(Vec a, Vec b) { return as<Same>(a == b); }

inline Vec load_bytes(ConstBytes p) {
    Vec v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
inline void store_bytes(Bytes p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }
inline void store_sign(Bytes p, Sign s) { store_bytes(p, s); }
inline Sign load_sign(ConstBytes p) { return load_bytes(p); }
inline void keep(Bytes slot, Sign, Same, Vec message) { store_bytes(slot, message); }
inline Vec recall(ConstBytes slot, Vec, Vec) { return load_bytes(slot); }

inline void pack_signs(const std::int16_t* values, std::size_t count, Bytes bits) {
    for (std::size_t i = 0; i < count; i += 8) {
        unsigned byte = 0;
        for (std::size_t j = 0; j < 8; ++j) byte |= static_cast<unsigned>(values[i + j] < 0) << j;
        bits[i / 8] = static_cast<std::uint8_t>(byte);
    }
}

inline Wide zero_wide() { return 0; }
inline Wide load_wide(ConstBytes p) {
    Wide w;
    __builtin_memcpy(&w, p, sizeof w);
    return w;
}
inline void store_wide(Bytes p, Wide w) { __builtin_memcpy(p, &w, sizeof w); }
inline Wide exclusive_or(Wide a, Wide b) { return a ^ b; }
inline Wide shifted(Wide a, int right, Wide b, int left) { return a >> right | b << left; }

}  // namespace
}  // namespace shosoin

#include "ldpc_engine.h"

namespace shosoin {
constexpr LdpcPath ldpc_portable_path = {"portable", kChunk, kMessageBytes, syndrome, decode};
}
