// Kernels written once over a vector type V; each CPU path instantiates them with its own instructions.
//
// V holds V::kLanes elements. It offers load, store, stream, xor (add), broadcast, `times<P>` for a small public point,
// and products: V::factor prepares a multiplier, V::accumulate adds a product to an unreduced V::Sum, V::reduce ends it.
// Nothing here branches on data or indexes memory by data; points, weights and lengths are public.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels.hpp"

namespace shosoin {

// Outputs from this size on go past the caches: plain stores would first read what they overwrite.
constexpr std::size_t kStreamBytes = std::size_t{1} << 20;
// What is worked on at a time: inputs, coefficients and results of one block stay in the first-level cache.
constexpr std::size_t kBlockBytes = 2048;

template <class V>
inline V product(V a, V b) {
    typename V::Sum sum = V::empty();
    V::accumulate(sum, a, V::factor(b));
    return V::reduce(sum);
}

template <class V>
Element multiply(Element a, Element b) {
    alignas(64) Element lane[V::kLanes];
    V::store(product<V>(V::broadcast(a), V::broadcast(b)), reinterpret_cast<std::uint8_t *>(lane));
    return lane[0];
}

// Copy to an output past the caches, in whole aligned vectors; `to` may have any alignment.
template <class V>
void stream(const std::uint8_t *from, std::uint8_t *to, std::size_t bytes) {
    const std::size_t head = std::min<std::size_t>(-reinterpret_cast<std::uintptr_t>(to) % V::kBytes, bytes);
    std::memcpy(to, from, head);
    std::size_t at = head;
    for (; at + V::kBytes <= bytes; at += V::kBytes)
        V::stream(V::load(from + at), to + at);
    std::memcpy(to + at, from + at, bytes - at);
}

// ------------------------------------------------------------------------------------------------------- linear maps

template <class V>
struct LinearMap {
    using Factor = typename V::Factor;

    // One output; bytes is a multiple of V::kBytes. kInputs 0 stands for any number.
    template <std::size_t kInputs>
    static void row(const Factor *prepared, std::size_t inputs_count, const std::uint8_t *const *inputs,
                    std::uint8_t *out, std::size_t bytes) {
        constexpr std::size_t room = kInputs ? kInputs : kInputsMax;
        const std::size_t count = kInputs ? kInputs : inputs_count;
        // Copies, because a store through `out` might otherwise change them.
        Factor factors[room];
        const std::uint8_t *from[room];
        for (std::size_t i = 0; i < count; ++i) {
            factors[i] = prepared[i];
            from[i] = inputs[i];
        }
        for (std::size_t at = 0; at < bytes; at += V::kBytes) {
            typename V::Sum sum = V::empty();
            for (std::size_t i = 0; i < count; ++i)
                V::accumulate(sum, V::load(from[i] + at), factors[i]);
            V::store(V::reduce(sum), out + at);
        }
    }

    static auto row_for(std::size_t inputs_count) {
        switch (inputs_count) {
        case 1: return row<1>;
        case 2: return row<2>;
        case 3: return row<3>;
        case 4: return row<4>;
        case 5: return row<5>;
        case 6: return row<6>;
        case 7: return row<7>;
        case 8: return row<8>;
        default: return row<0>;
        }
    }

    static void prepare(const Element *row, std::size_t inputs_count, Factor *factors) {
        for (std::size_t i = 0; i < inputs_count; ++i)
            factors[i] = V::factor(V::broadcast(row[i]));
    }

    static void run(const Element *rows, std::size_t outputs_count, std::size_t inputs_count,
                    const std::uint8_t *const *inputs, std::uint8_t *const *outputs, std::size_t elements) {
        const auto make = row_for(inputs_count);
        const std::size_t bytes = elements * kElementBytes;
        const std::size_t whole = bytes - bytes % V::kBytes;
        const bool past_caches = bytes >= kStreamBytes;
        const std::uint8_t *from[kInputsMax];
        Factor factors[kInputsMax];
        alignas(64) std::uint8_t staged[kBlockBytes];
        for (std::size_t at = 0; at < whole; at += kBlockBytes) {
            const std::size_t size = std::min(kBlockBytes, whole - at);
            for (std::size_t i = 0; i < inputs_count; ++i)
                from[i] = inputs[i] + at;
            for (std::size_t m = 0; m < outputs_count; ++m) {
                prepare(rows + m * inputs_count, inputs_count, factors);
                make(factors, inputs_count, from, past_caches ? staged : outputs[m] + at, size);
                if (past_caches) stream<V>(staged, outputs[m] + at, size);
            }
        }
        if (whole < bytes) last(make, rows, outputs_count, inputs_count, inputs, outputs, whole, bytes - whole);
        if (past_caches) V::fence();
        wipe(staged, past_caches ? kBlockBytes : 0);
    }

    // The elements that do not fill a vector, among zeros.
    template <class Row>
    static void last(Row make, const Element *rows, std::size_t outputs_count, std::size_t inputs_count,
                     const std::uint8_t *const *inputs, std::uint8_t *const *outputs, std::size_t at,
                     std::size_t size) {
        alignas(64) std::uint8_t padded[kInputsMax + 1][V::kBytes];
        const std::uint8_t *from[kInputsMax];
        for (std::size_t i = 0; i < inputs_count; ++i) {
            std::memset(padded[i], 0, V::kBytes);
            std::memcpy(padded[i], inputs[i] + at, size);
            from[i] = padded[i];
        }
        Factor factors[kInputsMax];
        for (std::size_t m = 0; m < outputs_count; ++m) {
            prepare(rows + m * inputs_count, inputs_count, factors);
            make(factors, inputs_count, from, padded[inputs_count], V::kBytes);
            std::memcpy(outputs[m] + at, padded[inputs_count], size);
        }
        wipe(padded, (inputs_count + 1) * V::kBytes);
    }
};

// ------------------------------------------------------------------------------------------------- polynomial hashes

// sum_i r^i d_i if kRising, else sum_i r^(count-1-i) d_i: Horner's rule from the highest power down, which for rising
// powers runs backwards through memory. Each lane has its own sum, in steps of kUnroll vectors under one reduction.
template <class V, bool kRising>
Element powers(Element r, const std::uint8_t *data, std::size_t count) {
    constexpr std::size_t kUnroll = 8;
    constexpr std::size_t lanes = V::kLanes;
    const std::size_t odd = count % lanes, vectors = count / lanes;
    const auto vector = [=](std::size_t v) {
        const std::size_t first = kRising ? (vectors - 1 - v) * lanes : odd + v * lanes;
        return V::load(data + first * kElementBytes);
    };

    alignas(64) Element lane[lanes] = {};
    V sum = V::zero();
    if (odd) {  // zeros where powers higher than any would be
        std::memcpy(lane + (kRising ? 0 : lanes - odd), data + (kRising ? vectors * lanes * kElementBytes : 0),
                    odd * kElementBytes);
        sum = V::load(reinterpret_cast<const std::uint8_t *>(lane));
    }
    Element power = {1, 0};  // of r, at last r^lanes
    for (std::size_t i = 0; i < lanes; ++i) {
        lane[kRising ? i : lanes - 1 - i] = power;
        power = multiply<V>(power, r);
    }
    const V lane_powers = V::load(reinterpret_cast<const std::uint8_t *>(lane));
    const V stride = V::broadcast(power);

    std::size_t v = 0;
    for (; v < vectors % kUnroll; ++v)
        sum = V::add(product<V>(sum, stride), vector(v));
    if (v < vectors) {
        typename V::Factor factors[kUnroll];  // the powers 1 to kUnroll of stride
        V next = stride;
        for (std::size_t i = 0; i < kUnroll; ++i) {
            factors[i] = V::factor(next);
            next = product<V>(next, stride);
        }
        for (; v < vectors; v += kUnroll) {
            typename V::Sum wide = V::empty();
            for (std::size_t i = 0; i + 1 < kUnroll; ++i)
                V::accumulate(wide, vector(v + i), factors[kUnroll - 2 - i]);
            V::accumulate(wide, sum, factors[kUnroll - 1]);
            sum = V::add(V::reduce(wide), vector(v + kUnroll - 1));
        }
        wipe(factors, sizeof factors);
    }

    V::store(product<V>(sum, lane_powers), reinterpret_cast<std::uint8_t *>(lane));
    Element total = lane[0];
    for (std::size_t i = 1; i < lanes; ++i)
        total = total ^ lane[i];
    wipe(lane, sizeof lane);
    return total;
}

template <class V>
void xor_into(const std::uint8_t *a, const std::uint8_t *b, std::uint8_t *out, std::size_t bytes) {
    std::size_t at = 0;
    for (; at + V::kBytes <= bytes; at += V::kBytes)
        V::store(V::add(V::load(a + at), V::load(b + at)), out + at);
    for (; at < bytes; ++at)
        out[at] = static_cast<std::uint8_t>(a[at] ^ b[at]);
}

// ------------------------------------------------------------------------------------------------------------- splits

// Three of five, the usual case: the products are shared between points (x^2 is the square of each term of x).
template <class V>
inline void shares_3_of_5(V s, V a, V b, V *out) {
    const V a1 = V::template times<2>(a), a2 = V::template times<4>(a);
    const V b2 = V::template times<4>(b), b4 = V::template times<16>(b);
    const V sab = V::add3(s, a, b);
    out[0] = sab;
    out[1] = V::add3(s, a1, b2);
    out[2] = V::add3(sab, a1, b2);
    out[3] = V::add3(s, a2, b4);
    out[4] = V::add3(sab, a2, b4);
}

template <class V, class Aes>
struct Split {
    // Room for the coefficients of one block and, past the caches, for its shares.
    struct Scratch {
        alignas(64) std::uint8_t coefficients[kPointsMax - 1][kBlockBytes];
        alignas(64) std::uint8_t shares[kPointsMax][kBlockBytes];
    };

    static bool usual(const std::uint32_t *points, std::size_t n, std::size_t k) {
        if (n != 5 || k != 3) return false;
        for (std::uint32_t i = 0; i < 5; ++i)
            if (points[i] != i + 1) return false;
        return true;
    }

    static void run(const std::uint8_t *secret, const std::uint8_t *seed, const std::uint32_t *points, std::size_t n,
                    std::size_t k, std::uint8_t *const *outputs, std::size_t elements, std::uint64_t first) {
        const Aes aes(seed);
        const bool three_of_five = usual(points, n, k);
        const auto block = [&](const std::uint8_t *from, std::uint64_t element, std::uint8_t *const *to,
                               std::size_t size, Scratch &scratch) {
            if (three_of_five)
                block_3_of_5(aes, from, element, to, size);
            else
                block_of_any(aes, from, points, n, k, element, to, size, scratch);
        };
        const std::size_t bytes = elements * kElementBytes;
        const std::size_t whole = bytes - bytes % V::kBytes;
        const bool past_caches = bytes >= kStreamBytes;
        Scratch scratch;
        std::uint8_t *staged[kPointsMax], *to[kPointsMax];
        for (std::size_t i = 0; i < n; ++i)
            staged[i] = scratch.shares[i];
        for (std::size_t at = 0; at < whole; at += kBlockBytes) {
            const std::size_t size = std::min(kBlockBytes, whole - at);
            for (std::size_t i = 0; i < n; ++i)
                to[i] = outputs[i] + at;
            block(secret + at, first + at / kElementBytes, past_caches ? staged : to, size, scratch);
            for (std::size_t i = 0; past_caches && i < n; ++i)
                stream<V>(staged[i], to[i], size);
        }
        if (whole < bytes) {  // the elements that do not fill a vector, among zeros
            alignas(64) std::uint8_t padded[V::kBytes] = {};
            std::memcpy(padded, secret + whole, bytes - whole);
            block(padded, first + whole / kElementBytes, staged, V::kBytes, scratch);
            for (std::size_t i = 0; i < n; ++i)
                std::memcpy(outputs[i] + whole, staged[i], bytes - whole);
            wipe(padded, sizeof padded);
        }
        if (past_caches) V::fence();
        const std::size_t used = std::min(std::max(bytes, V::kBytes), kBlockBytes);
        for (std::size_t j = 0; j + 1 < k && !three_of_five; ++j)
            wipe(scratch.coefficients[j], used);
        for (std::size_t i = 0; i < n; ++i)
            wipe(scratch.shares[i], past_caches ? used : V::kBytes);
    }

    static void block_3_of_5(const Aes &aes, const std::uint8_t *secret, std::uint64_t element,
                             std::uint8_t *const *outputs, std::size_t size) {
        std::uint8_t *const out[5] = {outputs[0], outputs[1], outputs[2], outputs[3], outputs[4]};
        std::uint64_t block = 2 * element;
        std::size_t at = 0;
        // Two vectors of secret a step: four keystream vectors in flight hide the latency of the AES rounds.
        for (; at + 2 * V::kBytes <= size; at += 2 * V::kBytes, block += 4 * V::kLanes)
            vectors_3_of_5<2>(aes, secret, block, out, at);
        if (at < size) vectors_3_of_5<1>(aes, secret, block, out, at);
    }

    template <std::size_t kVectors>
    static void vectors_3_of_5(const Aes &aes, const std::uint8_t *secret, std::uint64_t block,
                               std::uint8_t *const *out, std::size_t at) {
        V key[2 * kVectors];
        std::uint64_t starts[2 * kVectors];
        for (std::size_t i = 0; i < 2 * kVectors; ++i)
            starts[i] = block + i / 2 * 2 * V::kLanes + i % 2;
        aes.template blocks<2 * kVectors>(starts, 2, key);
        for (std::size_t i = 0; i < kVectors; ++i, at += V::kBytes) {
            V shares[5];
            shares_3_of_5<V>(V::load(secret + at), key[2 * i], key[2 * i + 1], shares);
            for (std::size_t m = 0; m < 5; ++m)
                V::store(shares[m], out[m] + at);
        }
    }

    static void block_of_any(const Aes &aes, const std::uint8_t *secret, const std::uint32_t *points, std::size_t n,
                             std::size_t k, std::uint64_t element, std::uint8_t *const *outputs, std::size_t size,
                             Scratch &scratch) {
        for (std::size_t j = 1; j < k; ++j)
            fill(aes, (k - 1) * element + (j - 1), k - 1, scratch.coefficients[j - 1], size);
        for (std::size_t i = 0; i < n; ++i)
            share_at(points[i])(secret, scratch, k, outputs[i], size);
    }

    // One coefficient of every element of a block, four vectors in flight.
    static void fill(const Aes &aes, std::uint64_t block, std::uint64_t stride, std::uint8_t *out, std::size_t size) {
        constexpr std::size_t kFlight = 4;
        V key[kFlight];
        std::uint64_t starts[kFlight];
        for (std::size_t at = 0; at < size; at += kFlight * V::kBytes) {
            for (std::size_t i = 0; i < kFlight; ++i, block += stride * V::kLanes)
                starts[i] = block;
            aes.template blocks<kFlight>(starts, stride, key);
            for (std::size_t i = 0; i < kFlight && at + i * V::kBytes < size; ++i)
                V::store(key[i], out + at + i * V::kBytes);
        }
    }

    // Horner's rule on whole vectors.
    template <std::uint32_t kPoint>
    static void share(const std::uint8_t *secret, const Scratch &scratch, std::size_t k, std::uint8_t *out,
                      std::size_t size) {
        for (std::size_t at = 0; at < size; at += V::kBytes) {
            V sum = V::load(scratch.coefficients[k - 2] + at);
            for (std::size_t j = k - 2; j > 0; --j)
                sum = V::add(V::template times<kPoint>(sum), V::load(scratch.coefficients[j - 1] + at));
            V::store(V::add(V::template times<kPoint>(sum), V::load(secret + at)), out + at);
        }
    }

    using Share = void (*)(const std::uint8_t *, const Scratch &, std::size_t, std::uint8_t *, std::size_t);

    static Share share_at(std::uint32_t point) {
        static constexpr Share at_point[kPointsMax] = {
            share<1>, share<2>,  share<3>,  share<4>,  share<5>,  share<6>,  share<7>,  share<8>,
            share<9>, share<10>, share<11>, share<12>, share<13>, share<14>, share<15>, share<16>,
        };
        return at_point[point - 1];
    }
};

}  // namespace shosoin
