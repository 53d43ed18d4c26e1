// Kernels written once over a vector type V; each CPU path instantiates them with its own instructions.
//
// V holds V::kLanes elements. It offers load, store, stream, xor, broadcast, and the two multiplications that field
// arithmetic is made of: products without reduction (Wide) and multiplication by X^s for small s.
// Nothing here branches on data or indexes memory by data; points, weights and lengths are public.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels.hpp"

namespace shosoin {

constexpr std::size_t kElementBytes = 16;
constexpr std::size_t kInputsMax = 32;
constexpr std::size_t kPointsMax = 16;
// Outputs larger than this go past the caches: plain stores would first read what they overwrite.
constexpr std::size_t kStreamBytes = std::size_t{1} << 20;

template <class V>
inline Element multiply(Element a, Element b) {
    Element out;
    V::store_one(V::reduce(V::product(V::broadcast(a), V::broadcast(b))), &out);
    return out;
}

template <class V>
struct LinearMap {
    // One block of vectors for one output; sums the products of all inputs before the single reduction.
    static void row(const V *weights, std::size_t inputs_count, const std::uint8_t *const *inputs, std::uint8_t *out,
                    std::size_t begin, std::size_t end, bool past_caches) {
        for (std::size_t at = begin; at < end; at += V::kBytes) {
            typename V::Wide sum = V::product(V::load(inputs[0] + at), weights[0]);
            for (std::size_t i = 1; i < inputs_count; ++i)
                V::accumulate(sum, V::load(inputs[i] + at), weights[i]);
            V value = V::reduce(sum);
            if (past_caches)
                V::stream(value, out + at);
            else
                V::store(value, out + at);
        }
    }

    static void run(const Element *rows, std::size_t outputs_count, std::size_t inputs_count,
                    const std::uint8_t *const *inputs, std::uint8_t *const *outputs, std::size_t elements) {
        const std::size_t bytes = elements * kElementBytes;
        const std::size_t whole = bytes - bytes % V::kBytes;
        // Blocks keep the inputs in the second-level cache while the rows take turns.
        const std::size_t block = std::max<std::size_t>((std::size_t{64} << 10) / inputs_count, V::kBytes) /
                                  V::kBytes * V::kBytes;
        V weights[kInputsMax];
        for (std::size_t begin = 0; begin < whole; begin += block) {
            const std::size_t end = std::min(begin + block, whole);
            for (std::size_t m = 0; m < outputs_count; ++m) {
                for (std::size_t i = 0; i < inputs_count; ++i)
                    weights[i] = V::broadcast(rows[m * inputs_count + i]);
                row(weights, inputs_count, inputs, outputs[m], begin, end,
                    bytes >= kStreamBytes && V::aligned(outputs[m]));
            }
        }
        for (std::size_t at = whole; at < bytes; at += kElementBytes)
            for (std::size_t m = 0; m < outputs_count; ++m)
                tail(rows + m * inputs_count, inputs_count, inputs, outputs[m] + at, at);
        V::fence();
    }

    static void tail(const Element *weights, std::size_t inputs_count, const std::uint8_t *const *inputs,
                     std::uint8_t *out, std::size_t at) {
        Element sum{0, 0};
        for (std::size_t i = 0; i < inputs_count; ++i) {
            Element value;
            std::memcpy(&value, inputs[i] + at, kElementBytes);
            const Element term = multiply<V>(value, weights[i]);
            sum.lo ^= term.lo;
            sum.hi ^= term.hi;
        }
        std::memcpy(out, &sum, kElementBytes);
    }
};

// sum_i r^(count-1-i) d_i. Each lane runs its own Horner over every kLanes-th element, four vectors a step.
template <class V>
Element horner(Element r, const std::uint8_t *data, std::size_t count) {
    constexpr std::size_t lanes = V::kLanes;
    constexpr std::size_t step = 4 * lanes;
    Element sum{0, 0};
    std::size_t at = 0;
    const std::size_t whole = count - count % step;
    if (whole) {
        Element power[step + 1];
        power[0] = {1, 0};
        for (std::size_t i = 1; i <= step; ++i)
            power[i] = multiply<V>(power[i - 1], r);
        const V r4 = V::broadcast(power[4 * lanes]), r3 = V::broadcast(power[3 * lanes]),
                r2 = V::broadcast(power[2 * lanes]), r1 = V::broadcast(power[lanes]);
        V acc = V::zero();
        for (; at < whole; at += step) {
            const std::uint8_t *from = data + at * kElementBytes;
            typename V::Wide wide = V::product(V::load(from), r3);
            V::accumulate(wide, V::load(from + V::kBytes), r2);
            V::accumulate(wide, V::load(from + 2 * V::kBytes), r1);
            V::accumulate(wide, acc, r4);
            acc = V::add(V::reduce(wide), V::load(from + 3 * V::kBytes));
        }
        Element lane[lanes];
        V::store(acc, reinterpret_cast<std::uint8_t *>(lane));
        for (std::size_t i = 0; i < lanes; ++i) {
            const Element term = multiply<V>(lane[i], power[lanes - 1 - i]);
            sum.lo ^= term.lo;
            sum.hi ^= term.hi;
        }
    }
    for (; at < count; ++at) {
        Element value;
        std::memcpy(&value, data + at * kElementBytes, kElementBytes);
        sum = multiply<V>(sum, r);
        sum.lo ^= value.lo;
        sum.hi ^= value.hi;
    }
    return sum;
}

template <class V>
void xor_into(const std::uint8_t *a, const std::uint8_t *b, std::uint8_t *out, std::size_t bytes) {
    std::size_t at = 0;
    for (; at + V::kBytes <= bytes; at += V::kBytes)
        V::store(V::add(V::load(a + at), V::load(b + at)), out + at);
    for (; at < bytes; ++at)
        out[at] = static_cast<std::uint8_t>(a[at] ^ b[at]);
}

// Horner evaluation of the sharing polynomial at a small point (an integer up to 16 read as a polynomial).
template <class V>
inline V times_small(V value, std::uint32_t point) {
    switch (point) {
    case 1: return value;
    case 2: return V::template shift<1>(value);
    case 3: return V::add(V::template shift<1>(value), value);
    case 4: return V::template shift<2>(value);
    case 5: return V::add(V::template shift<2>(value), value);
    default: break;
    }
    V sum = (point & 1) ? value : V::zero();
    if (point & 2) sum = V::add(sum, V::template shift<1>(value));
    if (point & 4) sum = V::add(sum, V::template shift<2>(value));
    if (point & 8) sum = V::add(sum, V::template shift<3>(value));
    if (point & 16) sum = V::add(sum, V::template shift<4>(value));
    return sum;
}

// Three of five, the usual case: the products are shared between points (x^2 is the square of each term of x).
template <class V>
inline void shares_3_of_5(V s, V a, V b, V *out) {
    const V a1 = V::template shift<1>(a), a2 = V::template shift<2>(a);
    const V b2 = V::template shift<2>(b), b4 = V::template shift<4>(b);
    const V sab = V::add3(s, a, b);
    out[0] = sab;
    out[1] = V::add3(s, a1, b2);
    out[2] = V::add3(sab, a1, b2);
    out[3] = V::add3(s, a2, b4);
    out[4] = V::add3(sab, a2, b4);
}

template <class V, class Aes>
struct Split {
    static bool usual(const std::uint32_t *points, std::size_t n, std::size_t k) {
        if (n != 5 || k != 3) return false;
        for (std::uint32_t i = 0; i < 5; ++i)
            if (points[i] != i + 1) return false;
        return true;
    }

    static void run(const std::uint8_t *secret, const std::uint8_t *seed, const std::uint32_t *points, std::size_t n,
                    std::size_t k, std::uint8_t *const *outputs, std::size_t elements, std::uint64_t first) {
        Aes aes(seed);
        const std::size_t bytes = elements * kElementBytes;
        bool past_caches = bytes >= kStreamBytes;
        for (std::size_t i = 0; i < n; ++i)
            past_caches = past_caches && V::aligned(outputs[i]);
        const bool three_of_five = usual(points, n, k);
        const std::size_t whole = bytes - bytes % V::kBytes;
        std::size_t at = 0;
        if (three_of_five)
            at = past_caches ? fixed<true>(aes, secret, outputs, whole, first)
                             : fixed<false>(aes, secret, outputs, whole, first);
        for (; at < whole; at += V::kBytes) {
            V shares[kPointsMax];
            one(aes, V::load(secret + at), points, n, k, first + at / kElementBytes, shares);
            for (std::size_t i = 0; i < n; ++i)
                V::store(shares[i], outputs[i] + at);
        }
        if (at < bytes) {
            alignas(64) std::uint8_t padded[V::kBytes] = {};
            std::memcpy(padded, secret + at, bytes - at);
            V shares[kPointsMax];
            one(aes, V::load(padded), points, n, k, first + at / kElementBytes, shares);
            for (std::size_t i = 0; i < n; ++i) {
                V::store(shares[i], padded);
                std::memcpy(outputs[i] + at, padded, bytes - at);
            }
            std::memset(padded, 0, sizeof padded);
        }
        V::fence();
    }

    template <bool kPastCaches>
    static std::size_t fixed(Aes &aes, const std::uint8_t *secret, std::uint8_t *const *outputs, std::size_t whole,
                             std::uint64_t first) {
        std::uint8_t *const out[5] = {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
        std::size_t at = 0;
        // Two vectors of secret a step: four keystream vectors in flight hide the latency of the AES rounds.
        for (; at + 2 * V::kBytes <= whole; at += 2 * V::kBytes) {
            V key[4], shares[5];
            const std::uint64_t block = 2 * (first + at / kElementBytes);
            aes.template blocks<2>(block, key);
            for (std::size_t half = 0; half < 2; ++half) {
                const std::size_t where = at + half * V::kBytes;
                shares_3_of_5<V>(V::load(secret + where), key[2 * half], key[2 * half + 1], shares);
                for (std::size_t i = 0; i < 5; ++i) {
                    if (kPastCaches)
                        V::stream(shares[i], out[i] + where);
                    else
                        V::store(shares[i], out[i] + where);
                }
            }
        }
        return at;
    }

    static void one(Aes &aes, V s, const std::uint32_t *points, std::size_t n, std::size_t k, std::uint64_t element,
                    V *shares) {
        V c[kPointsMax];
        for (std::size_t j = 1; j < k; ++j)
            c[j] = aes.coefficient(element, j, k);
        for (std::size_t i = 0; i < n; ++i) {
            V acc = c[k - 1];
            for (std::size_t j = k - 1; j > 1; --j)
                acc = V::add(times_small<V>(acc, points[i]), c[j - 1]);
            shares[i] = V::add(times_small<V>(acc, points[i]), s);
        }
    }
};

}  // namespace shosoin
