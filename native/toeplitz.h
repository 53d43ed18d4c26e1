// Products of long polynomials over GF(2), whole or a slice: what one CPU path offers of them, and the common entry.
//
// Bit i of a bit string is bit i % 8 of byte i / 8 and the coefficient of X^i. Sizes and shifts are public; no running
// time or address depends on a bit of a factor.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace shosoin {

inline constexpr std::uint64_t kFactorBitsMax = std::uint64_t{1} << 30;
inline constexpr int kLogPointsMin = 8, kLogPointsMax = 16;  // of a transform

// A factor times X^shift.
struct LongFactor {
    ConstBytes bytes;
    std::uint64_t bits;
    std::uint64_t shift;
};

// Factors are cut into pieces of 32 * 2^log_points bits, since a transform of 2^log_points points holds the product of
// two of them. Bit i of the output is bit first * piece + i of the product.
struct ProductJob {
    LongFactor a;
    LongFactor b;
    std::uint64_t first;
    Bytes output;
    std::uint64_t output_bits;
    int log_points;

    std::uint64_t piece_bits() const { return std::uint64_t{32} << log_points; }
    std::uint64_t pieces(const LongFactor& f) const { return (f.bits + f.shift + piece_bits() - 1) / piece_bits(); }
    std::uint64_t output_pieces() const { return (output_bits + piece_bits() - 1) / piece_bits(); }
};

struct ToeplitzPath {
    const char* name;
    int lanes;
    std::size_t (*scratch_bytes)(const ProductJob& job);
    void (*multiply)(const ProductJob& job, Bytes scratch);  // scratch is aligned to 64 bytes, and is wiped here
};

extern const ToeplitzPath toeplitz_portable;
#ifdef SHOSOIN_AVX2
extern const ToeplitzPath toeplitz_avx2;
#endif
#ifdef SHOSOIN_AVX512
extern const ToeplitzPath toeplitz_avx512;
#endif

// The products of a path of kernels.h; nullptr if there is none of that name.
const ToeplitzPath* toeplitz_of(const char* path);

// output[i] = sum_j seed[i - j + key_bits - 1] key[j] for i < output_bits; 1 <= key_bits, output_bits. False if there is
// no memory. `log_points` other than 0 forces the size of the transforms, for tests.
bool toeplitz_multiply(const ToeplitzPath& path, ConstBytes key, std::uint64_t key_bits, ConstBytes seed, Bytes output,
                       std::uint64_t output_bits, int log_points = 0);

// output = a * b, as long as both together; sizes in bytes. False if there is no memory.
bool long_product(const ToeplitzPath& path, ConstBytes a, std::uint64_t a_bytes, ConstBytes b, std::uint64_t b_bytes,
                  Bytes output, int log_points = 0);

}  // namespace shosoin
