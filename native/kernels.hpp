// The native kernels as the binding sees them: one table of functions per CPU path.
//
// An element of GF(2^128) is 16 bytes, little-endian: bit i is the coefficient of X^i; modulus X^128+X^7+X^2+X+1.
// The NumPy reference (src/shosoin/kernels/reference.py) is the specification of every function here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace shosoin {

constexpr std::size_t kElementBytes = 16;
constexpr std::size_t kInputsMax = 32;
constexpr std::size_t kPointsMax = 16;

struct Element {
    std::uint64_t lo, hi;
};

inline Element operator^(Element a, Element b) { return {a.lo ^ b.lo, a.hi ^ b.hi}; }

struct Kernels {
    const char *name;

    // outputs[m] = sum_i rows[m * inputs_count + i] * inputs[i], element by element.
    void (*linear_map)(const Element *rows, std::size_t outputs_count, std::size_t inputs_count,
                       const std::uint8_t *const *inputs, std::uint8_t *const *outputs, std::size_t elements);

    // outputs[i] = secret + sum_j c_j * points[i]^j; c_j of element e is AES-256-CTR block (k-1)*(first+e) + (j-1).
    // Points are at most kPointsMax. Null where the path has no AES instructions.
    void (*split_generated)(const std::uint8_t *secret, const std::uint8_t *seed, const std::uint32_t *points,
                            std::size_t points_count, std::size_t k, std::uint8_t *const *outputs,
                            std::size_t elements, std::uint64_t first);

    // sum_i r^(count-1-i) * data[i]
    Element (*falling_powers)(Element r, const std::uint8_t *data, std::size_t count);

    // sum_i r^i * data[i]
    Element (*rising_powers)(Element r, const std::uint8_t *data, std::size_t count);

    void (*xor_into)(const std::uint8_t *a, const std::uint8_t *b, std::uint8_t *out, std::size_t bytes);

    Element (*multiply)(Element a, Element b);
};

// Null on processors (or builds) that lack the path.
const Kernels *avx512_kernels();
const Kernels *avx2_kernels();
const Kernels *portable_kernels();

// Zeros that no compiler leaves out: it cannot know that the barrier does not read them.
inline void wipe(void *from, std::size_t bytes) {
    std::memset(from, 0, bytes);
    __asm__ __volatile__("" : : "r"(from) : "memory");
}

}  // namespace shosoin
