// Plain C++: loops over sixteen checks, which compilers turn into what vectors they have. Corrections come from the table
// in memory, at addresses that depend on messages.
#include "ldpc.h"

namespace shosoin {
namespace {

constexpr std::size_t kChunk = 16;
constexpr std::size_t kMessageBytes = 16;
constexpr std::size_t kWideBytes = 8;

struct Vec {
    std::uint8_t b[kChunk];
};
using Sign = Vec;  // in the top bit of each byte
using Same = Vec;
using Wide = std::uint64_t;
struct Words {
    std::int16_t w[kChunk];
};

template <class F>
inline Vec each(const F& f) {
    Vec v;
    for (std::size_t i = 0; i < kChunk; ++i) v.b[i] = static_cast<std::uint8_t>(f(i));
    return v;
}

template <class F>
inline Words each_word(const F& f) {
    Words v;
    for (std::size_t i = 0; i < kChunk; ++i) v.w[i] = static_cast<std::int16_t>(f(i));
    return v;
}

inline Words load_words(const std::int16_t* p) {
    Words w;
    __builtin_memcpy(w.w, p, sizeof w);
    return w;
}
inline void store_words(std::int16_t* p, const Words& w) { __builtin_memcpy(p, w.w, sizeof w); }
inline int as_signed(std::uint8_t b) { return static_cast<std::int8_t>(b); }
inline Words widen(const Vec& v) {
    return each_word([&](std::size_t i) { return as_signed(v.b[i]); });
}
inline Vec narrow(const Words& w) {
    return each([&](std::size_t i) { return w.w[i] > 127 ? 127 : w.w[i] < -128 ? -128 : w.w[i]; });
}
inline Words add(const Words& a, const Words& b) {
    return each_word([&](std::size_t i) { return a.w[i] + b.w[i]; });
}
inline Words sub(const Words& a, const Words& b) {
    return each_word([&](std::size_t i) { return a.w[i] - b.w[i]; });
}
inline Vec all(int b) {
    return each([=](std::size_t) { return b; });
}
inline Vec minimum(const Vec& x, const Vec& y) {
    return each([&](std::size_t i) { return x.b[i] < y.b[i] ? x.b[i] : y.b[i]; });
}
inline Vec maximum(const Vec& x, const Vec& y) {
    return each([&](std::size_t i) { return x.b[i] < y.b[i] ? y.b[i] : x.b[i]; });
}
inline Vec magnitude(const Vec& v) {
    return each([&](std::size_t i) {
        const int size = as_signed(v.b[i]) < 0 ? -as_signed(v.b[i]) : as_signed(v.b[i]);
        return size < kLdpcMessageMax ? size : kLdpcMessageMax;
    });
}

inline Vec box_plus(const Vec& x, const Vec& y) {
    return each([&](std::size_t i) {
        const int a = x.b[i], b = y.b[i];
        const int distance = a < b ? b - a : a - b, sum = a + b;
        const int result = (a < b ? a : b) - kLdpcCorrection[distance < 63 ? distance : 63] +
                           kLdpcCorrection[sum < 63 ? sum : 63];
        return result < 0 ? 0 : result;
    });
}

inline Sign sign_of(const Vec& v) { return v; }
inline Sign flip(const Sign& x, const Sign& y) {
    return each([&](std::size_t i) { return x.b[i] ^ y.b[i]; });
}
inline Sign sign_from_bits(ConstBytes bits) {
    return each([=](std::size_t i) { return bits[i / 8] >> i % 8 << 7; });
}
inline Same same(const Vec& x, const Vec& y) {
    return each([&](std::size_t i) { return x.b[i] == y.b[i] ? 255 : 0; });
}
inline Vec either(const Same& s, const Vec& if_same, const Vec& if_not) {
    return each([&](std::size_t i) { return (if_same.b[i] & s.b[i]) | (if_not.b[i] & ~s.b[i]); });
}
inline Vec negate_where(const Sign& s, const Vec& v) {
    return each([&](std::size_t i) {
        const int m = -(s.b[i] >> 7);
        return (v.b[i] ^ m) - m;
    });
}

inline Vec load_bytes(ConstBytes p) {
    Vec v;
    __builtin_memcpy(v.b, p, sizeof v);
    return v;
}
inline void store_bytes(Bytes p, const Vec& v) { __builtin_memcpy(p, v.b, sizeof v); }
inline void keep(Bytes slot, const Sign&, const Same&, const Vec& message) { store_bytes(slot, message); }
inline Vec recall(ConstBytes slot, const Vec&, const Vec&) { return load_bytes(slot); }

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
constexpr LdpcPath ldpc_portable_path = {"portable", syndrome, decode};
}
