// The kernels, written once over a vector of elements.
//
// A unit defines `Vec`, `Cipher` and their operations for its instruction set in an unnamed namespace and then includes
// this file, so every function here has internal linkage: code compiled for one processor can never be linked into the
// path of another. For the same reason no template of the standard library is used here.
//
//   Vec                          kLanes elements
//   load, store, stream          unaligned load and store; store past the caches, aligned to the vector
//   fence                        orders streamed stores before what follows
//   broadcast(Element)           one element in every lane
//   zero, xor2, xor3
//   clmul<I, J>(a, b)            carry-less product of half I of a and half J of b, lane by lane
//   add_halves(v)                the sum of v's halves in its low half (and in its high half anything)
//   fold(v), fold_carry(v)       v * X^64 reduced; the second for v with few bits
//   fold_without_products        low + middle * X^64 + high * X^128 reduced, with as few carry-less products as it goes
//   shl<T>, shr<T>               shift both halves by T < 64 bits; T = 64 gives zero
//   counters(first, stride)      lane l holds the counter first + l * stride
//   add(a, b), to_block(v)       on counters; big-endian 128-bit blocks of them
//   Cipher(seed), encrypt<N>     AES-256 on N vectors at once
//
// kUnroll vectors make a group, the unit of all loops. Counts that are no multiple of a group go through padded copies.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels.h"

#define SHOSOIN_INLINE inline __attribute__((always_inline))

namespace shosoin {
namespace {

constexpr std::size_t kGroup = static_cast<std::size_t>(kLanes) * kUnroll;
constexpr std::size_t kGroupBytes = kGroup * kElementBytes;
constexpr std::size_t kVecBytes = kLanes * kElementBytes;

// Beyond this many bytes of output the shares will not be in the caches when they are wanted, so they go past them.
constexpr std::size_t kStreamBytesMin = std::size_t{8} << 20;

// Elements of each input worked on before the next row of a linear map: inputs stay in the first-level cache.
constexpr std::size_t kTile = 64 > kGroup ? 64 : kGroup;

template <bool Stream>
SHOSOIN_INLINE void put(Bytes p, Vec v) {
    if constexpr (Stream) {
        stream(p, v);
    } else {
        store(p, v);
    }
}

// low + (mixed + low + high) * X^64 + high * X^128: products after Karatsuba, added up unreduced. Carry-less products are
// what these loops wait for, so three for each factor and none for reduction until the end.
struct Sum {
    Vec low = zero();
    Vec mixed = zero();
    Vec high = zero();
};

SHOSOIN_INLINE Vec reduce(const Sum& sum) {
    const Vec middle = xor3(sum.low, sum.mixed, sum.high);
    return xor2(sum.low, fold(xor2(middle, fold(sum.high))));
}

// The same for loops whose turns do not wait for each other, where the number of multiplications counts and not the time
// until the result is there.
SHOSOIN_INLINE Vec reduce_for_throughput(const Sum& sum) {
    return fold_without_products(sum.low, xor3(sum.low, sum.mixed, sum.high), sum.high);
}

// A factor with the sum of its halves.
struct Factor {
    Element w;
    Element halves;
};

SHOSOIN_INLINE void add_product(Sum& sum, Vec v, Vec w, Vec halves) {
    sum.low = xor2(sum.low, clmul<0, 0>(v, w));
    sum.mixed = xor2(sum.mixed, clmul<0, 0>(add_halves(v), halves));
    sum.high = xor2(sum.high, clmul<1, 1>(v, w));
}

// low + high * X^64: products with factors of degree below 64.
struct SmallSum {
    Vec low = zero();
    Vec high = zero();
};

SHOSOIN_INLINE void add_small_product(SmallSum& sum, Vec v, Vec w) {
    sum.low = xor2(sum.low, clmul<0, 0>(v, w));
    sum.high = xor2(sum.high, clmul<1, 0>(v, w));
}

SHOSOIN_INLINE Vec reduce_for_throughput(const SmallSum& sum) { return xor2(sum.low, fold(sum.high)); }

SHOSOIN_INLINE Vec multiply(Vec a, Vec b) {
    Sum sum;
    add_product(sum, a, b, add_halves(b));
    return reduce(sum);
}

SHOSOIN_INLINE Element first_lane(Vec v) {
    Element lanes[kLanes];
    store(reinterpret_cast<Bytes>(lanes), v);
    return lanes[0];
}

Element multiply_elements(Element a, Element b) { return first_lane(multiply(broadcast(a), broadcast(b))); }

Factor factor_of(Element w) { return {w, {w.lo ^ w.hi, 0}}; }

// ------------------------------------------------------------------------------------------------ cutting into groups

std::size_t misalignment(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % kVecBytes; }

// Elements to do before every output is aligned to the vector, or -1 if that never happens.
int elements_before_alignment(const Bytes* outputs, int n_out) {
    const std::size_t offset = misalignment(outputs[0]);
    if (offset % kElementBytes) return -1;
    for (int i = 1; i < n_out; ++i) {
        if (misalignment(outputs[i]) != offset) return -1;
    }
    return static_cast<int>((kVecBytes - offset) % kVecBytes / kElementBytes);
}

// Run `body` on fewer elements than a group, through padded copies.
template <class Body>
void run_padded(const ConstBytes* inputs, int n_in, const Bytes* outputs, int n_out, std::size_t count,
                std::size_t start, const Body& body) {
    alignas(64) std::uint8_t in_copy[kBuffersMax][kGroupBytes];
    alignas(64) std::uint8_t out_copy[kBuffersMax][kGroupBytes];
    ConstBytes in[kBuffersMax] = {};
    Bytes out[kBuffersMax] = {};
    const std::size_t bytes = count * kElementBytes;
    for (int i = 0; i < n_in; ++i) {
        std::memset(in_copy[i], 0, kGroupBytes);
        std::memcpy(in_copy[i], inputs[i] + start * kElementBytes, bytes);
        in[i] = in_copy[i];
    }
    for (int i = 0; i < n_out; ++i) out[i] = out_copy[i];
    body(in, out, kGroup, start, false);
    wipe_dead_stack();
    for (int i = 0; i < n_out; ++i) std::memcpy(outputs[i] + start * kElementBytes, out_copy[i], bytes);
    wipe(in_copy, static_cast<std::size_t>(n_in) * kGroupBytes);
    wipe(out_copy, static_cast<std::size_t>(n_out) * kGroupBytes);
}

// Run `body(inputs, outputs, count, start, stream)` over all elements in multiples of a group; `start` is the index of
// its first element. Streams when the outputs are large and can be aligned together.
template <class Body>
void run_in_groups(const ConstBytes* inputs, int n_in, const Bytes* outputs, int n_out, std::size_t count,
                   const Body& body) {
    if (n_out == 0 || count == 0) return;
    std::size_t head = 0;
    bool streamed = false;
    if (count * kElementBytes * static_cast<std::size_t>(n_out) >= kStreamBytesMin) {
        const int before = elements_before_alignment(outputs, n_out);
        streamed = before >= 0;
        head = streamed ? static_cast<std::size_t>(before) : 0;
    }
    if (head) run_padded(inputs, n_in, outputs, n_out, head, 0, body);
    const std::size_t whole = (count - head) / kGroup * kGroup;
    if (whole) {
        ConstBytes in[kBuffersMax] = {};
        Bytes out[kBuffersMax] = {};
        for (int i = 0; i < n_in; ++i) in[i] = inputs[i] + head * kElementBytes;
        for (int i = 0; i < n_out; ++i) out[i] = outputs[i] + head * kElementBytes;
        body(in, out, whole, head, streamed);
    }
    const std::size_t done = head + whole;
    if (done < count) run_padded(inputs, n_in, outputs, n_out, count - done, done, body);
    if (streamed) fence();
}

// --------------------------------------------------------------------------------------------------------- linear map

// output = [plain +] sum_i factors[i] * inputs[i]; count is a multiple of a group. Fixed is n_in where that is known when
// compiling, so that pointers and factors stay in registers; 0 stands for any n_in.
template <bool Plain, bool Small, bool Stream, int Fixed>
void map_row(const Factor* factors, int n_in, ConstBytes plain, const ConstBytes* inputs, Bytes output,
             std::size_t count) {
    constexpr int kRoom = Fixed ? Fixed : kBuffersMax;
    const int n = Fixed ? Fixed : n_in;
    // Copies: as far as the compiler knows, a store to the output might change what the arguments point at.
    Vec w[kRoom], halves[kRoom];
    ConstBytes in[kRoom];
    for (int i = 0; i < n; ++i) {
        w[i] = broadcast(factors[i].w);
        halves[i] = broadcast(factors[i].halves);
        in[i] = inputs[i];
    }
    for (std::size_t at = 0; at < count * kElementBytes; at += kVecBytes) {
        std::conditional_t<Small, SmallSum, Sum> sum;
        for (int i = 0; i < n; ++i) {
            if constexpr (Small) {
                add_small_product(sum, load(in[i] + at), w[i]);
            } else {
                add_product(sum, load(in[i] + at), w[i], halves[i]);
            }
        }
        Vec result = reduce_for_throughput(sum);
        if constexpr (Plain) result = xor2(result, load(plain + at));
        put<Stream>(output + at, result);
    }
}

template <bool Plain, bool Small, bool Stream>
void map_row(const Factor* factors, int n_in, ConstBytes plain, const ConstBytes* inputs, Bytes output,
             std::size_t count) {
    switch (n_in) {
        case 1: return map_row<Plain, Small, Stream, 1>(factors, n_in, plain, inputs, output, count);
        case 2: return map_row<Plain, Small, Stream, 2>(factors, n_in, plain, inputs, output, count);
        case 3: return map_row<Plain, Small, Stream, 3>(factors, n_in, plain, inputs, output, count);
        case 4: return map_row<Plain, Small, Stream, 4>(factors, n_in, plain, inputs, output, count);
        case 5: return map_row<Plain, Small, Stream, 5>(factors, n_in, plain, inputs, output, count);
        case 6: return map_row<Plain, Small, Stream, 6>(factors, n_in, plain, inputs, output, count);
        case 7: return map_row<Plain, Small, Stream, 7>(factors, n_in, plain, inputs, output, count);
        case 8: return map_row<Plain, Small, Stream, 8>(factors, n_in, plain, inputs, output, count);
        default: return map_row<Plain, Small, Stream, 0>(factors, n_in, plain, inputs, output, count);
    }
}

template <bool Plain, bool Small>
void map_row(const Factor* factors, int n_in, ConstBytes plain, const ConstBytes* inputs, Bytes output,
             std::size_t count, bool streamed) {
    if (streamed) {
        map_row<Plain, Small, true>(factors, n_in, plain, inputs, output, count);
    } else {
        map_row<Plain, Small, false>(factors, n_in, plain, inputs, output, count);
    }
}

void linear_map(const Element* weights, int n_in, int n_out, const ConstBytes* inputs, const Bytes* outputs,
                std::size_t count) {
    const auto body = [&](const ConstBytes* in, const Bytes* out, std::size_t elements, std::size_t, bool streamed) {
        // One row needs no tiles: each input is read once.
        const std::size_t tile = n_out == 1 ? elements : kTile * 8;
        Factor factors[kBuffersMax];
        ConstBytes part[kBuffersMax] = {};
        for (std::size_t start = 0; start < elements; start += tile) {
            const std::size_t size = elements - start < tile ? elements - start : tile;
            for (int i = 0; i < n_in; ++i) part[i] = in[i] + start * kElementBytes;
            for (int m = 0; m < n_out; ++m) {
                for (int i = 0; i < n_in; ++i) factors[i] = factor_of(weights[m * n_in + i]);
                map_row<false, false>(factors, n_in, nullptr, part, out[m] + start * kElementBytes, size, streamed);
            }
        }
    };
    run_in_groups(inputs, n_in, outputs, n_out, count, body);
}

// -------------------------------------------------------------------------------- split at the first few of our points

// For k <= 3 the polynomial without its secret, a*x + b*x^2, is linear over GF(2) in x. So the shares at 1, X and X^2
// give those at X+1 and X^2+1 by addition, and each of the three needs shifts and one step of reduction.
template <int K, int T>
SHOSOIN_INLINE Vec share_at_power(Vec secret, const Vec (&c)[K - 1]) {
    if constexpr (K == 2 && T == 0) {
        return xor2(secret, c[0]);
    } else if constexpr (T == 0) {
        return xor3(secret, c[0], c[1]);
    } else if constexpr (K == 2) {
        return xor3(secret, shl<T>(c[0]), fold_carry(shr<64 - T>(c[0])));
    } else {
        const Vec low = xor3(secret, shl<T>(c[0]), shl<2 * T>(c[1]));
        return xor2(low, fold_carry(xor2(shr<64 - T>(c[0]), shr<64 - 2 * T>(c[1]))));
    }
}

template <int K, int N, bool Stream>
SHOSOIN_INLINE void put_shares(Vec secret, const Vec (&c)[K - 1], const Bytes* outputs, std::size_t at) {
    const Vec linear = share_at_power<K, 0>(zero(), c);
    put<Stream>(outputs[0] + at, xor2(secret, linear));
    const Vec second = share_at_power<K, 1>(secret, c);
    put<Stream>(outputs[1] + at, second);
    if constexpr (N >= 3) put<Stream>(outputs[2] + at, xor2(second, linear));
    if constexpr (N >= 4) {
        const Vec fourth = share_at_power<K, 2>(secret, c);
        put<Stream>(outputs[3] + at, fourth);
        if constexpr (N >= 5) put<Stream>(outputs[4] + at, xor2(fourth, linear));
    }
}

// Coefficients of consecutive groups, from buffers.
template <int K>
class GivenCoefficients {
  public:
    explicit GivenCoefficients(const ConstBytes* coefficients) : coefficients_(coefficients) {}

    SHOSOIN_INLINE void next(Vec (&c)[kUnroll][K - 1]) {
        for (int u = 0; u < kUnroll; ++u) {
            for (int j = 0; j < K - 1; ++j) c[u][j] = load(coefficients_[j] + at_ + u * kVecBytes);
        }
        at_ += kGroupBytes;
    }

  private:
    const ConstBytes* coefficients_;
    std::size_t at_ = 0;
};

// Coefficients of consecutive groups, from the key stream.
template <int K>
class GeneratedCoefficients {
  public:
    GeneratedCoefficients(const Cipher& cipher, std::uint64_t first)
        : cipher_(cipher), counter_(counters(first * (K - 1), K - 1)), step_(counters(kGroup * (K - 1), 0)) {
        for (int u = 0; u < kUnroll; ++u) {
            for (int j = 0; j < K - 1; ++j) {
                offsets_[u][j] = counters(static_cast<std::uint64_t>(u) * kLanes * (K - 1) + j, 0);
            }
        }
    }

    SHOSOIN_INLINE void next(Vec (&c)[kUnroll][K - 1]) {
        for (int u = 0; u < kUnroll; ++u) {
            for (int j = 0; j < K - 1; ++j) c[u][j] = to_block(add(counter_, offsets_[u][j]));
        }
        cipher_.template encrypt<kUnroll*(K - 1)>(&c[0][0]);
        counter_ = add(counter_, step_);
    }

  private:
    const Cipher& cipher_;
    Vec counter_;
    Vec step_;
    Vec offsets_[kUnroll][K - 1];
};

template <int K, int N, bool Stream>
SHOSOIN_INLINE void put_group(ConstBytes secret, const Vec (&c)[kUnroll][K - 1], const Bytes* outputs,
                              std::size_t at) {
    for (int u = 0; u < kUnroll; ++u) {
        const std::size_t here = at + u * kVecBytes;
        put_shares<K, N, Stream>(load(secret + here), c[u], outputs, here);
    }
}

// The coefficients of the next group are made while the shares of this one are: two streams of instructions that do not
// wait for each other. What the compiler spills of them lies in this function's own frame, for wipe_dead_stack to find.
template <int K, int N, bool Stream, class Coefficients>
__attribute__((noinline)) void split_prefix(ConstBytes secret, Coefficients coefficients, const Bytes* outputs, std::size_t count) {
    Vec now[kUnroll][K - 1], next[kUnroll][K - 1];
    coefficients.next(now);
    const std::size_t last = (count - kGroup) * kElementBytes;
    for (std::size_t at = 0; at < last; at += kGroupBytes) {
        coefficients.next(next);
        put_group<K, N, Stream>(secret, now, outputs, at);
        for (int u = 0; u < kUnroll; ++u) {
            for (int j = 0; j < K - 1; ++j) now[u][j] = next[u][j];
        }
    }
    put_group<K, N, Stream>(secret, now, outputs, last);
}

template <int K, bool Stream, class Coefficients>
void split_prefix(int n, ConstBytes secret, const Coefficients& coefficients, const Bytes* outputs,
                  std::size_t count) {
    switch (n) {
        case 2: return split_prefix<K, 2, Stream>(secret, coefficients, outputs, count);
        case 3: return split_prefix<K, 3, Stream>(secret, coefficients, outputs, count);
        case 4: return split_prefix<K, 4, Stream>(secret, coefficients, outputs, count);
        default: return split_prefix<K, 5, Stream>(secret, coefficients, outputs, count);
    }
}

template <int K, class Coefficients>
void split_prefix(int n, ConstBytes secret, const Coefficients& coefficients, const Bytes* outputs,
                  std::size_t count, bool streamed) {
    if (streamed) {
        split_prefix<K, true>(n, secret, coefficients, outputs, count);
    } else {
        split_prefix<K, false>(n, secret, coefficients, outputs, count);
    }
}

// Whether the points are 1, X, X+1, X^2, X^2+1 up to n <= 5, and k is 2 or 3.
bool is_prefix(const Element* points, int k, int n) {
    if (k > 3 || n < 2 || n > 5) return false;
    for (int i = 0; i < n; ++i) {
        if (points[i].hi != 0 || points[i].lo != static_cast<std::uint64_t>(i) + 1) return false;
    }
    return true;
}

// -------------------------------------------------------------------------------------------------- split in general

int degree(Element e) {
    if (e.hi) return 127 - __builtin_clzll(e.hi);
    return e.lo ? 63 - __builtin_clzll(e.lo) : 0;
}

// Powers 1 .. k-1 of every point.
struct Powers {
    Factor rows[kSharesMax][kSharesMax - 1];
    bool small = true;  // all of degree below 64

    Powers(const Element* points, int k, int n) {
        for (int i = 0; i < n; ++i) {
            small = small && degree(points[i]) * (k - 1) < 64;
            Element power = points[i];
            for (int j = 0; j < k - 1; ++j) {
                rows[i][j] = factor_of(power);
                power = multiply_elements(power, points[i]);
            }
        }
    }
};

void split_tile(const Powers& powers, int k, int n, ConstBytes secret, const ConstBytes* coefficients,
                const Bytes* outputs, std::size_t start, std::size_t size, bool streamed) {
    for (int i = 0; i < n; ++i) {
        Bytes output = outputs[i] + start * kElementBytes;
        if (powers.small) {
            map_row<true, true>(powers.rows[i], k - 1, secret, coefficients, output, size, streamed);
        } else {
            map_row<true, false>(powers.rows[i], k - 1, secret, coefficients, output, size, streamed);
        }
    }
}

void split(const Element* points, int k, int n, ConstBytes secret, const ConstBytes* coefficients,
           const Bytes* outputs, std::size_t count) {
    ConstBytes inputs[kSharesMax];
    inputs[0] = secret;
    for (int j = 1; j < k; ++j) inputs[j] = coefficients[j - 1];
    if (is_prefix(points, k, n)) {
        const auto body = [&](const ConstBytes* in, const Bytes* out, std::size_t elements, std::size_t, bool streamed) {
            if (k == 2) {
                split_prefix<2>(n, in[0], GivenCoefficients<2>(in + 1), out, elements, streamed);
            } else {
                split_prefix<3>(n, in[0], GivenCoefficients<3>(in + 1), out, elements, streamed);
            }
        };
        return run_in_groups(inputs, k, outputs, n, count, body);
    }
    const Powers powers(points, k, n);
    const auto body = [&](const ConstBytes* in, const Bytes* out, std::size_t elements, std::size_t, bool streamed) {
        ConstBytes part[kSharesMax] = {};
        for (std::size_t start = 0; start < elements; start += kTile) {
            const std::size_t size = elements - start < kTile ? elements - start : kTile;
            for (int j = 0; j < k; ++j) part[j] = in[j] + start * kElementBytes;
            split_tile(powers, k, n, part[0], part + 1, out, start, size, streamed);
        }
    };
    run_in_groups(inputs, k, outputs, n, count, body);
}

// Coefficients 1 .. k-1 of `size` elements, one after the other, each kTile elements apart. A multiple of a group.
__attribute__((noinline)) void generate_tile(const Cipher& cipher, int k, std::uint64_t first, std::size_t size, Bytes tile) {
    const std::uint64_t stride = static_cast<std::uint64_t>(k - 1);
    for (int j = 0; j < k - 1; ++j) {
        Vec counter = counters(first * stride + static_cast<std::uint64_t>(j), stride);
        const Vec step = counters(kLanes * stride, 0);
        Bytes row = tile + static_cast<std::size_t>(j) * kTile * kElementBytes;
        for (std::size_t at = 0; at < size * kElementBytes; at += kGroupBytes) {
            Vec c[kUnroll];
            for (int u = 0; u < kUnroll; ++u) {
                c[u] = to_block(counter);
                counter = add(counter, step);
            }
            cipher.encrypt<kUnroll>(c);
            for (int u = 0; u < kUnroll; ++u) store(row + at + u * kVecBytes, c[u]);
        }
    }
}

void split_generated(const Element* points, int k, int n, ConstBytes secret, ConstBytes seed, std::uint64_t first,
                     const Bytes* outputs, std::size_t count) {
    const Cipher cipher(seed);
    if (is_prefix(points, k, n)) {
        const auto body = [&](const ConstBytes* in, const Bytes* out, std::size_t elements, std::size_t start,
                              bool streamed) {
            if (k == 2) {
                split_prefix<2>(n, in[0], GeneratedCoefficients<2>(cipher, first + start), out, elements, streamed);
            } else {
                split_prefix<3>(n, in[0], GeneratedCoefficients<3>(cipher, first + start), out, elements, streamed);
            }
        };
        run_in_groups(&secret, 1, outputs, n, count, body);
        return wipe_dead_stack();
    }
    const Powers powers(points, k, n);
    alignas(64) std::uint8_t tile[(kSharesMax - 1) * kTile * kElementBytes];
    ConstBytes coefficients[kSharesMax - 1] = {};
    for (int j = 0; j < k - 1; ++j) coefficients[j] = tile + static_cast<std::size_t>(j) * kTile * kElementBytes;
    const auto body = [&](const ConstBytes* in, const Bytes* out, std::size_t elements, std::size_t offset,
                          bool streamed) {
        for (std::size_t start = 0; start < elements; start += kTile) {
            const std::size_t size = elements - start < kTile ? elements - start : kTile;
            generate_tile(cipher, k, first + offset + start, size, tile);
            split_tile(powers, k, n, in[0] + start * kElementBytes, coefficients, out, start, size, streamed);
        }
    };
    run_in_groups(&secret, 1, outputs, n, count, body);
    wipe(tile, sizeof tile);
    wipe_dead_stack();
}

// ------------------------------------------------------------------------------------------- polynomials at one point

// Powers of a secret point for a step of kSteps vectors. The lanes keep sums of their own until the end.
constexpr int kSteps = 8;
constexpr std::size_t kStepBytes = kSteps * kVecBytes;

struct Ladder {
    Vec power[kSteps + 1];   // power[u] = point^(u * kLanes)
    Vec halves[kSteps + 1];  // the sums of their halves
    Vec lanes;               // lane l: point^(kLanes-1-l), or point^l if ascending

    Ladder(Element point, bool ascending) {
        Element small[kLanes + 1];
        small[0] = {1, 0};
        for (int l = 0; l < kLanes; ++l) small[l + 1] = multiply_elements(small[l], point);
        Element arranged[kLanes];
        for (int l = 0; l < kLanes; ++l) arranged[l] = small[ascending ? l : kLanes - 1 - l];
        lanes = load(reinterpret_cast<ConstBytes>(arranged));
        power[0] = broadcast(small[0]);
        halves[0] = add_halves(power[0]);
        const Vec step = broadcast(small[kLanes]);
        for (int u = 1; u <= kSteps; ++u) {
            power[u] = multiply(power[u - 1], step);
            halves[u] = add_halves(power[u]);
        }
        wipe(small, sizeof small);
        wipe(arranged, sizeof arranged);
    }
    Ladder(const Ladder&) = delete;
    Ladder& operator=(const Ladder&) = delete;
    ~Ladder() { wipe(this, sizeof *this); }
};

// total * point^(elements of a step) + the step's own value; the vector with exponent zero is only added.
template <bool Ascending>
SHOSOIN_INLINE Vec evaluate_step(const Ladder& ladder, Vec total, ConstBytes data) {
    Sum sum;
    for (int u = 1; u < kSteps; ++u) {
        const int position = Ascending ? u : kSteps - 1 - u;
        add_product(sum, load(data + position * kVecBytes), ladder.power[u], ladder.halves[u]);
    }
    add_product(sum, total, ladder.power[kSteps], ladder.halves[kSteps]);
    return xor2(reduce(sum), load(data + (Ascending ? 0 : kSteps - 1) * kVecBytes));
}

// The elements that fill no step come first in the order of Horner's rule, beside zeros that change nothing.
template <bool Ascending>
Vec evaluate_ragged(const Ladder& ladder, ConstBytes data, std::size_t bytes) {
    alignas(64) std::uint8_t padded[kStepBytes] = {};
    std::memcpy(Ascending ? padded : padded + kStepBytes - bytes, data, bytes);
    const Vec total = evaluate_step<Ascending>(ladder, zero(), padded);
    wipe(padded, sizeof padded);
    return total;
}

template <bool Ascending>
Element evaluate(Element point, ConstBytes data, std::size_t count) {
    if (count == 0) return {0, 0};
    const Ladder ladder(point, Ascending);
    const std::size_t bytes = count * kElementBytes;
    const std::size_t ragged = bytes % kStepBytes;
    const std::size_t whole = bytes - ragged;
    Vec total = ragged ? evaluate_ragged<Ascending>(ladder, Ascending ? data + whole : data, ragged) : zero();
    for (std::size_t done = 0; done < whole; done += kStepBytes) {
        total = evaluate_step<Ascending>(ladder, total, Ascending ? data + whole - done - kStepBytes : data + ragged + done);
    }
    Element lanes[kLanes];
    store(reinterpret_cast<Bytes>(lanes), multiply(total, ladder.lanes));
    Element value{0, 0};
    for (int l = 0; l < kLanes; ++l) value = {value.lo ^ lanes[l].lo, value.hi ^ lanes[l].hi};
    return value;
}

Element evaluate_either(Element point, ConstBytes data, std::size_t count, bool ascending) {
    return ascending ? evaluate<true>(point, data, count) : evaluate<false>(point, data, count);
}

// -------------------------------------------------------------------------------------------------------------- addition

template <bool Stream>
void exclusive_or(ConstBytes a, ConstBytes b, Bytes output, std::size_t bytes) {
    std::size_t at = 0;
    for (; at + kVecBytes <= bytes; at += kVecBytes) put<Stream>(output + at, xor2(load(a + at), load(b + at)));
    for (; at < bytes; ++at) output[at] = a[at] ^ b[at];
}

void exclusive_or_any(ConstBytes a, ConstBytes b, Bytes output, std::size_t bytes) {
    // In place the lines are in the cache already.
    if (bytes < kStreamBytesMin || output == a || output == b) return exclusive_or<false>(a, b, output, bytes);
    const std::size_t head = (kVecBytes - misalignment(output)) % kVecBytes;
    exclusive_or<false>(a, b, output, head);
    exclusive_or<true>(a + head, b + head, output + head, bytes - head);
    fence();
}

constexpr Path path_named(const char* name) {
    return {name, multiply_elements, linear_map, split, split_generated, evaluate_either, exclusive_or_any};
}

}  // namespace
}  // namespace shosoin
