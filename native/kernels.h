// What one CPU path offers: a table of functions over GF(2^128) with modulus X^128 + X^7 + X^2 + X + 1.
//
// An element is 16 bytes; bit i of the little-endian integer is the coefficient of X^i. Counts are in elements. Buffers
// need no alignment. Callers have checked every argument: nothing here fails, and no running time or address depends on
// a value other than counts, points, weights and exponents, which are public.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shosoin {

struct Element {
    std::uint64_t lo;
    std::uint64_t hi;
};

inline constexpr int kSharesMax = 16;   // k and n of a sharing
inline constexpr int kBuffersMax = 64;  // inputs, or outputs, of a linear map
inline constexpr std::size_t kElementBytes = 16;
inline constexpr std::size_t kSeedBytes = 32;

using Bytes = std::uint8_t*;
using ConstBytes = const std::uint8_t*;

struct Path {
    const char* name;

    Element (*multiply)(Element a, Element b);

    // outputs[m] = sum_i weights[m * n_in + i] * inputs[i]
    void (*linear_map)(const Element* weights, int n_in, int n_out, const ConstBytes* inputs, const Bytes* outputs,
                       std::size_t count);

    // outputs[i] = secret + sum_{j=1}^{k-1} coefficients[j-1] * points[i]^j
    void (*split)(const Element* points, int k, int n, ConstBytes secret, const ConstBytes* coefficients,
                  const Bytes* outputs, std::size_t count);

    // The same; coefficient j of element e is block (first + e) * (k-1) + j - 1 of the AES-256-CTR key stream of seed.
    void (*split_generated)(const Element* points, int k, int n, ConstBytes secret, ConstBytes seed,
                            std::uint64_t first, const Bytes* outputs, std::size_t count);

    // sum_j point^(count-1-j) data[j], or with `ascending` sum_j point^j data[j]
    Element (*evaluate)(Element point, ConstBytes data, std::size_t count, bool ascending);

    // output = a + b over any number of bytes; output may be a or b
    void (*exclusive_or)(ConstBytes a, ConstBytes b, Bytes output, std::size_t bytes);
};

extern const Path portable_path;
#ifdef SHOSOIN_AVX2
extern const Path avx2_path;
#endif
#ifdef SHOSOIN_AVX512
extern const Path avx512_path;
#endif

// Paths this processor and operating system can run, best first; ends with nullptr.
const Path* const* available_paths();

// Zero memory in a way that no compiler removes.
void wipe(void* memory, std::size_t bytes);

// Zero the stack just below the caller's frame, where functions that have returned kept what did not fit the registers.
void wipe_dead_stack();

}  // namespace shosoin
