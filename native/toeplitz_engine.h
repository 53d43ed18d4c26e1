// Long products over GF(2) by an additive Fourier transform, written once over a vector of 64-bit words.
//
// A unit defines `Vec` and its operations in an unnamed namespace and then includes this file, as with engine.h.
//
//   Vec                          kLanes words of 64 bits, each an element of GF(2^64)
//   load, store                  unaligned
//   load_bytes, store_bytes      the same at any address of bytes
//   zero, xor2, xor3, or2
//   shl(v, n), shr(v, n)         shift every word by 0 <= n < 64
//   repeat(word)                 one word in every lane
//   Constant, constant(Pair)     a multiplier for all lanes; add(Constant, Constant)
//   multiply(v, Constant)        lane by lane
//   Wide, clear, add_product(Wide&, Vec, Vec), reduce(Wide)   sums of unreduced products
//   transpose<rows>(Vec[64])     bit b of word z becomes bit z of word b, in every lane; from row `rows` on all is zero
//   transpose_lanes(Vec[kLanes]) lane l of vector m becomes lane m of vector l
//
// Idea. GF(2^64) is GF(2)[y]/P with y of Cantor's basis: v_32 = y, v_(i-1) = v_i^2 + v_i, v_0 = 1. With s_i the i-fold
// composition of x^2 + x, the roots of s_i are the span V_i of v_0 .. v_(i-1), and s_i(v_j) = v_(j-i). A polynomial f over
// GF(2) of degree below 64 n, n = 2^K, is known by its values on alpha + V_K, alpha = v_(32+K), because the 64 conjugates
// of these n points under squaring are all different (Li, Chen, Kuo, Cheng, Yang, arXiv 1802.03932). Write
//
//     f = sum_q f_q s_K^q,   q < 64,   deg f_q < n.
//
// On alpha + V_K, s_K is the constant y. So with every f_q in the basis X_p = prod s_i^(bit i of p) of Lin, Chung and Han
// (FOCS 2014, arXiv 1404.3458), coefficient p of f on the coset is the word of bits p of f_0 .. f_63: nothing but a
// transposition. Then come K layers of their butterflies. The way from X^i to (s_K^q, X_p) is made of exclusive ors, as
// s_i = x^(2^i) + x for i a power of two (Chen, Cheng, Kuo, Li, Yang, arXiv 1708.09746).
//
// Every lane transforms a piece of its own: no step moves data between lanes, and all constants are equal in all lanes.
// The product of many pieces by many is added up before the way back.
#pragma once

#include <cstring>

#include "toeplitz.h"
#include "toeplitz_field.h"

#define SHOSOIN_INLINE inline __attribute__((always_inline))

namespace shosoin {
namespace {

SHOSOIN_INLINE Vec at(const Word* words, std::size_t i) { return load(words + i * kLanes); }
SHOSOIN_INLINE void put(Word* words, std::size_t i, Vec v) { store(words + i * kLanes, v); }

// ---------------------------------------------------------------------------------------- from X^i to (s_K^q, X_p)
//
// The division by s_i^(2^(l-1-i)) = x^H + x^d of 2^l coefficients, H = 2^(l-1) and d = 2^(l-1-i): what stands d below the
// top falls into the upper half, the rest of the upper half into the lower. Counts are in vectors, which hold 64
// coefficients of each lane, or one element of it.

// The case that d is whole vectors: each of the upper `half` is added `distance` = H - d lower, from above.
void divide(Word* x, std::size_t half, std::size_t distance) {
    for (std::size_t j = 2 * half; j-- > half;) put(x, j - distance, xor2(at(x, j - distance), at(x, j)));
}

void undivide(Word* x, std::size_t half, std::size_t distance) {
    for (std::size_t j = half; j < 2 * half; ++j) put(x, j - distance, xor2(at(x, j - distance), at(x, j)));
}

// The case that d is a number of bits below 64.
void divide_bits(Word* x, std::size_t half, int d) {
    put(x, half, xor2(at(x, half), shr(at(x, 2 * half - 1), 64 - d)));
    Vec upper = at(x, 2 * half - 1);
    for (std::size_t j = half; --j > 0;) {
        const Vec below = at(x, j + half - 1);
        put(x, j, xor3(at(x, j), shl(upper, d), shr(below, 64 - d)));
        upper = below;
    }
    put(x, 0, xor2(at(x, 0), shl(upper, d)));
}

void undivide_bits(Word* x, std::size_t half, int d) {
    Vec below = zero();
    for (std::size_t j = 0; j < half; ++j) {
        const Vec upper = at(x, j + half);
        put(x, j, xor3(at(x, j), shl(upper, d), shr(below, 64 - d)));
        below = upper;
    }
    put(x, half, xor2(at(x, half), shr(below, 64 - d)));
}

// To powers of s_i, for 2^l rows of `row` vectors. Halves follow at once, while they are in the cache.
template <bool Forward>
void expand_rows(Word* x, std::size_t row, int l, int i) {
    if (l == i) return;
    const std::size_t half = row << (l - 1), distance = half - (row << (l - 1 - i));
    if constexpr (Forward) divide(x, half, distance);
    if (l - 1 > i) {
        expand_rows<Forward>(x, row, l - 1, i);
        expand_rows<Forward>(x + half * kLanes, row, l - 1, i);
    }
    if constexpr (!Forward) undivide(x, half, distance);
}

// Blocks of 2 * Half among N vectors in registers, divided at once.
template <bool Forward, int N, int Half, int Distance>
SHOSOIN_INLINE void divide_in_registers(Vec* v) {
    for (int block = 0; block < N; block += 2 * Half) {
        for (int j = 0; j < Half; ++j) {
            const int from = block + (Forward ? 2 * Half - 1 - j : Half + j);
            v[from - Distance] = xor2(v[from - Distance], v[from]);
        }
    }
}

// 16 rows, each a vector, from powers of x to X_p.
template <bool Forward>
SHOSOIN_INLINE void convert_sixteen(Vec* v) {
    if constexpr (Forward) {
        divide_in_registers<true, 16, 8, 6>(v);  // s_2
        divide_in_registers<true, 16, 4, 3>(v);
        divide_in_registers<true, 16, 8, 4>(v);  // rows of four by s_1
        divide_in_registers<true, 16, 2, 1>(v);  // s_1 in each of them
    } else {
        divide_in_registers<false, 16, 2, 1>(v);
        divide_in_registers<false, 16, 8, 4>(v);
        divide_in_registers<false, 16, 4, 3>(v);
        divide_in_registers<false, 16, 8, 6>(v);
    }
}

template <bool Forward>
void convert_sixteen_rows(Word* x, std::size_t row) {
    for (std::size_t c = 0; c < row; ++c) {
        Vec v[16];
        for (std::size_t j = 0; j < 16; ++j) v[j] = at(x, j * row + c);
        convert_sixteen<Forward>(v);
        for (std::size_t j = 0; j < 16; ++j) put(x, j * row + c, v[j]);
    }
}

// 2^i rows from powers of x to X_p; i is 1, 2, 4 or 8.
template <bool Forward>
void convert_rows(Word* x, std::size_t row, int i) {
    if (i == 1) return;
    if (i == 2) return expand_rows<Forward>(x, row, 2, 1);
    if (i == 4) return convert_sixteen_rows<Forward>(x, row);
    if constexpr (Forward) {
        expand_rows<true>(x, row, 8, 4);
        convert_sixteen_rows<true>(x, row << 4);
    }
    for (std::size_t b = 0; b < 16; ++b) convert_sixteen_rows<Forward>(x + b * (row << 4) * kLanes, row);
    if constexpr (!Forward) {
        convert_sixteen_rows<false>(x, row << 4);
        expand_rows<false>(x, row, 8, 4);
    }
}

// convert_rows(x, 1, 8) with its short loops unrolled.
template <bool Forward>
SHOSOIN_INLINE void expand_32(Word* x) {
    Vec v[32];
    for (std::size_t j = 0; j < 32; ++j) v[j] = at(x, j);
    divide_in_registers<Forward, 32, 16, 15>(v);
    for (std::size_t j = 0; j < 32; ++j) put(x, j, v[j]);
}

template <bool Forward>
void convert_256(Word* x) {
    if constexpr (Forward) {
        divide(x, 128, 120);
        for (std::size_t b = 0; b < 256; b += 128) divide(x + b * kLanes, 64, 60);
        for (std::size_t b = 0; b < 256; b += 64) divide(x + b * kLanes, 32, 30);
        for (std::size_t b = 0; b < 256; b += 32) expand_32<true>(x + b * kLanes);
        convert_sixteen_rows<true>(x, 16);
    }
    for (std::size_t b = 0; b < 256; b += 16) convert_sixteen_rows<Forward>(x + b * kLanes, 1);
    if constexpr (!Forward) {
        convert_sixteen_rows<false>(x, 16);
        for (std::size_t b = 0; b < 256; b += 32) expand_32<false>(x + b * kLanes);
        for (std::size_t b = 0; b < 256; b += 64) undivide(x + b * kLanes, 32, 30);
        for (std::size_t b = 0; b < 256; b += 128) undivide(x + b * kLanes, 64, 60);
        undivide(x, 128, 120);
    }
}

// The last three layers of a division of bits by s_8, or the first three of the way back: 2^11 coefficients.
template <bool Forward, int Half, int D>
SHOSOIN_INLINE void divide_bits_in_registers(Vec* v) {
    for (int block = 0; block < 32; block += 2 * Half) {
        Vec* x = v + block;
        const auto spill = [&] { x[Half] = xor2(x[Half], shr(x[2 * Half - 1], 64 - D)); };
        if constexpr (Forward) spill();
        for (int j = Half - 1; j > 0; --j) x[j] = xor3(x[j], shl(x[j + Half], D), shr(x[j + Half - 1], 64 - D));
        x[0] = xor2(x[0], shl(x[Half], D));
        if constexpr (!Forward) spill();
    }
}

template <bool Forward>
void expand_2048_bits(Word* x) {
    Vec v[32];
    for (std::size_t j = 0; j < 32; ++j) v[j] = at(x, j);
    if constexpr (Forward) {
        divide_bits_in_registers<true, 16, 4>(v);
        divide_bits_in_registers<true, 8, 2>(v);
        divide_bits_in_registers<true, 4, 1>(v);
    } else {
        divide_bits_in_registers<false, 4, 1>(v);
        divide_bits_in_registers<false, 8, 2>(v);
        divide_bits_in_registers<false, 16, 4>(v);
    }
    for (std::size_t j = 0; j < 32; ++j) put(x, j, v[j]);
}

// To powers of s_i, for 2^l single coefficients, 64 to a vector; i is 8 or 16, and l at least 11.
template <bool Forward>
void expand_bits(Word* x, int l, int i) {
    if (i == 8 && l == 11) return expand_2048_bits<Forward>(x);
    const std::size_t half = std::size_t{1} << (l - 7);
    const int log_d = l - 1 - i;
    const std::size_t distance = log_d < 6 ? 0 : half - (std::size_t{1} << (log_d - 6));
    if constexpr (Forward) log_d < 6 ? divide_bits(x, half, 1 << log_d) : divide(x, half, distance);
    if (log_d > 0) {
        expand_bits<Forward>(x, l - 1, i);
        expand_bits<Forward>(x + half * kLanes, l - 1, i);
    }
    if constexpr (!Forward) log_d < 6 ? undivide_bits(x, half, 1 << log_d) : undivide(x, half, distance);
}

// 2^l rows from powers of x to powers of s_k, with X_p below them.
template <bool Forward>
void convert_upper_rows(Word* x, std::size_t row, int l, int k) {
    if (k == 0) return;
    const int i = k >= 8 ? 8 : k >= 4 ? 4 : k >= 2 ? 2 : 1;
    const auto expand = [&] { expand_rows<Forward>(x, row, l, i); };
    const auto outer = [&] { convert_upper_rows<Forward>(x, row << i, l - i, k - i); };
    const auto inner = [&] {
        for (std::size_t b = 0; b < std::size_t{1} << (l - i); ++b) {
            convert_rows<Forward>(x + b * (row << i) * kLanes, row, i);
        }
    };
    if constexpr (Forward) {
        expand(), outer(), inner();
    } else {
        inner(), outer(), expand();
    }
}

// The part of the conversion that needs no step of fewer than 256 coefficients: the rest is convert_rows(elements, 1, 8)
// after the transposition. 2^l coefficients, 8 <= k <= 16.
template <bool Forward>
void convert_bits(Word* x, int l, int k) {
    const int i = k == 16 ? 16 : 8;
    const std::size_t row = std::size_t{1} << (i - 6);
    const auto expand = [&] { expand_bits<Forward>(x, l, i); };
    const auto outer = [&] { convert_upper_rows<Forward>(x, row, l - i, k - i); };
    const auto inner = [&] {
        if (i == 8) return;
        for (std::size_t b = 0; b < std::size_t{1} << (l - i); ++b) {
            Word* block = x + b * row * kLanes;
            if constexpr (Forward) {
                expand_bits<Forward>(block, 16, 8);
                convert_rows<Forward>(block, 4, 8);
            } else {
                convert_rows<Forward>(block, 4, 8);
                expand_bits<Forward>(block, 16, 8);
            }
        }
    };
    if constexpr (Forward) {
        expand(), outer(), inner();
    } else {
        inner(), outer(), expand();
    }
}

// ------------------------------------------------------------------------------------------------------ constants

// Layer i multiplies by s_i(alpha + u) = v_(32+K-i) + sum of the v_(l+1) for which bit l of the block's number is set.
// They are public, but would push what is secret on the stack out of reach of the wiping, so they lie in scratch memory.
class Twiddles {
  public:
    void prepare(int log_points) {
        for (int i = 0; i < log_points; ++i) layer_[i] = constant(kCantor.v[32 + log_points - i]);
        low_[0] = high_[0] = constant({0, 0});
        for (int bit = 0; bit < 8; ++bit) {
            for (int b = 0; b < 1 << bit; ++b) {
                low_[b | 1 << bit] = add(low_[b], constant(kCantor.v[bit + 1]));
                high_[b | 1 << bit] = add(high_[b], constant(kCantor.v[bit + 9]));
            }
        }
    }

    SHOSOIN_INLINE Constant layer(int i, std::size_t block) const { return add(layer_[i], sum(block)); }
    SHOSOIN_INLINE Constant sum(std::size_t block) const { return add(low_[block & 255], high_[block >> 8]); }

  private:
    Constant layer_[kLogPointsMax], low_[256], high_[256];
};

// --------------------------------------------------------------------------------------------------- butterflies

SHOSOIN_INLINE void butterfly(Vec& a, Vec& b, Constant w) {
    a = xor2(a, multiply(b, w));
    b = xor2(b, a);
}

SHOSOIN_INLINE void reverse_butterfly(Vec& a, Vec& b, Constant w) {
    b = xor2(b, a);
    a = xor2(a, multiply(b, w));
}

template <bool Forward>
SHOSOIN_INLINE void either_butterfly(Vec& a, Vec& b, Constant w) {
    if constexpr (Forward) {
        butterfly(a, b, w);
    } else {
        reverse_butterfly(a, b, w);
    }
}

// The last three layers, from `x` to every `stride`-th word of `to`; or the first three of the way back.
template <bool Forward>
SHOSOIN_INLINE void transform_eight(const Twiddles& t, std::size_t block, Vec* v) {
    const auto layer2 = [&] {
        const Constant w = t.layer(2, block);
        for (int j = 0; j < 4; ++j) either_butterfly<Forward>(v[j], v[j + 4], w);
    };
    const auto layer1 = [&] {
        for (int b = 0; b < 2; ++b) {
            const Constant w = t.layer(1, 2 * block + static_cast<std::size_t>(b));
            for (int j = 0; j < 2; ++j) either_butterfly<Forward>(v[4 * b + j], v[4 * b + j + 2], w);
        }
    };
    const auto layer0 = [&] {
        for (int b = 0; b < 4; ++b) {
            either_butterfly<Forward>(v[2 * b], v[2 * b + 1], t.layer(0, 4 * block + static_cast<std::size_t>(b)));
        }
    };
    if constexpr (Forward) {
        layer2(), layer1(), layer0();
    } else {
        layer0(), layer1(), layer2();
    }
}

// One layer of 2^l elements.
template <bool Forward>
void one_layer(const Twiddles& t, Word* x, int l, std::size_t block) {
    const std::size_t half = std::size_t{1} << (l - 1);
    const Constant w = t.layer(l - 1, block);
    for (std::size_t j = 0; j < half; ++j) {
        Vec a = at(x, j), b = at(x, j + half);
        either_butterfly<Forward>(a, b, w);
        put(x, j, a);
        put(x, j + half, b);
    }
}

// Two layers at once: beyond the first-level cache every pass over the elements counts.
template <bool Forward>
void two_layers(const Twiddles& t, Word* x, int l, std::size_t block) {
    const std::size_t quarter = std::size_t{1} << (l - 2);
    const Constant w = t.layer(l - 1, block), left = t.layer(l - 2, 2 * block), right = t.layer(l - 2, 2 * block + 1);
    for (std::size_t j = 0; j < quarter; ++j) {
        Vec a = at(x, j), b = at(x, j + quarter), c = at(x, j + 2 * quarter), d = at(x, j + 3 * quarter);
        if constexpr (Forward) {
            butterfly(a, c, w);
            butterfly(b, d, w);
            butterfly(a, b, left);
            butterfly(c, d, right);
        } else {
            reverse_butterfly(a, b, left);
            reverse_butterfly(c, d, right);
            reverse_butterfly(a, c, w);
            reverse_butterfly(b, d, w);
        }
        put(x, j, a);
        put(x, j + quarter, b);
        put(x, j + 2 * quarter, c);
        put(x, j + 3 * quarter, d);
    }
}

// From 2^l coefficients to values, value p to word p * stride of `values`; or back.
template <bool Forward, class Value>
void transform(const Twiddles& t, Word* x, int l, std::size_t block, Value* values, std::size_t stride) {
    if (l == 3) {
        Vec v[8];
        for (std::size_t j = 0; j < 8; ++j) v[j] = Forward ? at(x, j) : load(values + j * stride);
        transform_eight<Forward>(t, block, v);
        if constexpr (Forward) {
            for (std::size_t j = 0; j < 8; ++j) store(values + j * stride, v[j]);
        } else {
            for (std::size_t j = 0; j < 8; ++j) put(x, j, v[j]);
        }
        return;
    }
    const int layers = l >= 5 ? 2 : 1;
    if constexpr (Forward) layers == 2 ? two_layers<true>(t, x, l, block) : one_layer<true>(t, x, l, block);
    const std::size_t part = std::size_t{1} << (l - layers);
    for (std::size_t i = 0; i < std::size_t{1} << layers; ++i) {
        transform<Forward>(t, x + i * part * kLanes, l - layers, (block << layers) + i, values + i * part * stride, stride);
    }
    if constexpr (!Forward) layers == 2 ? two_layers<false>(t, x, l, block) : one_layer<false>(t, x, l, block);
}

// 32 rows of 2^k bits each become 2^k elements; the other rows are zero.
void rows_to_elements(const Word* bits, Word* elements, int k) {
    const std::size_t row = std::size_t{1} << (k - 6);
    for (std::size_t m = 0; m < row; ++m) {
        Vec v[64];
        for (std::size_t q = 0; q < 32; ++q) v[q] = at(bits, q * row + m);
        transpose<32>(v);
        for (std::size_t z = 0; z < 64; ++z) put(elements, 64 * m + z, v[z]);
        if (m % 4 == 3) convert_256<true>(elements + 64 * (m - 3) * kLanes);
    }
}

void elements_to_rows(Word* elements, Word* bits, int k) {
    const std::size_t row = std::size_t{1} << (k - 6);
    for (std::size_t m = 0; m < row; ++m) {
        if (m % 4 == 0) convert_256<false>(elements + 64 * m * kLanes);
        Vec v[64];
        for (std::size_t z = 0; z < 64; ++z) v[z] = at(elements, 64 * m + z);
        transpose<64>(v);
        for (std::size_t q = 0; q < 64; ++q) put(bits, q * row + m, v[q]);
    }
}

// -------------------------------------------------------------------------------------------------- bits of factors

// 64 bits of a factor from bit `position` on, where bits outside are zero.
Word careful_word(const LongFactor& f, std::int64_t position) {
    if (position <= -64 || position >= static_cast<std::int64_t>(f.bits)) return 0;
    const std::int64_t first = position < 0 ? 0 : position;  // of the bits that are there
    const std::int64_t left = static_cast<std::int64_t>(f.bits) - first;
    const std::int64_t bytes = (left + first % 8 + 7) / 8;
    std::uint8_t near[16] = {};
    std::memcpy(near, f.bytes + first / 8, static_cast<std::size_t>(bytes < 9 ? bytes : 9));
    Word low, high;
    std::memcpy(&low, near, 8);
    std::memcpy(&high, near + 8, 8);
    const int offset = static_cast<int>(first % 8);
    Word word = offset ? low >> offset | high << (64 - offset) : low;
    if (left < 64) word &= (Word{1} << left) - 1;
    return word << (first - position);
}

// kLanes words of a factor from bit `position` on. The second load has the bits that the shift of the first one lacks.
SHOSOIN_INLINE Vec words_of(const LongFactor& f, std::int64_t position) {
    constexpr auto bits = static_cast<std::int64_t>(64 * kLanes);
    if (position >= 0 && position + bits + 8 <= static_cast<std::int64_t>(f.bits)) {
        const int offset = static_cast<int>(position % 8);
        ConstBytes from = f.bytes + position / 8;
        return or2(shr(load_bytes(from), offset), shl(load_bytes(from + 1), 8 - offset));
    }
    Word words[kLanes];
    for (std::size_t m = 0; m < kLanes; ++m) words[m] = careful_word(f, position + static_cast<std::int64_t>(64 * m));
    return load(words);
}

// Adds kLanes words to the output from bit `position` on, a multiple of 64; what is beyond its end is dropped.
SHOSOIN_INLINE void add_words(const ProductJob& job, std::int64_t position, Vec words) {
    const auto end = static_cast<std::int64_t>(job.output_bits);
    if (position + static_cast<std::int64_t>(64 * kLanes) <= end) {
        Bytes to = job.output + position / 8;
        return store_bytes(to, xor2(load_bytes(to), words));
    }
    Word each[kLanes];
    store(each, words);
    for (std::size_t m = 0; m < kLanes && position < end; ++m, position += 64) {
        const std::int64_t left = end - position;
        const std::size_t bytes = left < 64 ? static_cast<std::size_t>(left + 7) / 8 : 8;
        Word old = 0;
        std::memcpy(&old, job.output + position / 8, bytes);
        old ^= left < 64 ? each[m] & ((Word{1} << left) - 1) : each[m];
        std::memcpy(job.output + position / 8, &old, bytes);
    }
}

// kLanes pieces of `count` words, each in its lane.
void load_pieces(const LongFactor& f, std::uint64_t piece, std::size_t count, Word* to) {
    const auto start = static_cast<std::int64_t>(piece * count * 64) - static_cast<std::int64_t>(f.shift);
    for (std::size_t m = 0; m < count; m += kLanes) {
        Vec v[kLanes];
        for (std::size_t l = 0; l < kLanes; ++l) v[l] = words_of(f, start + static_cast<std::int64_t>((l * count + m) * 64));
        transpose_lanes(v);
        for (std::size_t l = 0; l < kLanes; ++l) put(to, m + l, v[l]);
    }
}

// ------------------------------------------------------------------------------------------------- the whole product

std::size_t round_up(std::uint64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

constexpr std::size_t kPad = 2 * kLanes;  // zeros before and after the values of b, as many as are added up at once

// Values lie point by point: for each point those of all pieces, so that sums over pieces run along a row.
struct Shape {
    std::size_t points, piece_words;
    std::size_t a_pieces, b_pieces;
    std::size_t first, last;  // sums of pieces' numbers that the output needs: first <= d < last
    std::size_t a_row, b_row, sums;

    explicit Shape(const ProductJob& job)
        : points(std::size_t{1} << job.log_points),
          piece_words(points / 2),
          a_pieces(job.pieces(job.a)),
          b_pieces(job.pieces(job.b)),
          first(job.first ? job.first - 1 : 0),
          last(job.first + job.output_pieces()),
          a_row(round_up(a_pieces)) {
        if (last > a_pieces + b_pieces - 1) last = a_pieces + b_pieces - 1;
        sums = round_up(last - first);
        b_row = round_up(b_pieces) + 2 * kPad;
        if (b_row < sums) b_row = sums;
    }

    std::size_t words() const { return sizeof(Twiddles) / sizeof(Word) + points * (2 * kLanes + a_row + b_row) + sums; }
};

std::size_t scratch_bytes(const ProductJob& job) { return Shape(job).words() * sizeof(Word); }

class Product {
  public:
    Product(const ProductJob& job, Word* scratch)
        : job_(job),
          shape_(job),
          twiddles_(*reinterpret_cast<Twiddles*>(scratch)),
          bits_(scratch + sizeof(Twiddles) / sizeof(Word)),
          elements_(bits_ + shape_.points * kLanes),
          a_(elements_ + shape_.points * kLanes),
          b_(a_ + shape_.points * shape_.a_row),
          sums_(b_ + shape_.points * shape_.b_row) {}

    void run() {
        twiddles_.prepare(job_.log_points);
        evaluate(job_.a, shape_.a_pieces, a_, shape_.a_row);
        evaluate(job_.b, shape_.b_pieces, b_ + kPad, shape_.b_row);
        for (std::size_t p = 0; p < shape_.points; ++p) multiply_at(p);
        std::memset(job_.output, 0, static_cast<std::size_t>(job_.output_bits + 7) / 8);
        for (std::size_t d = 0; d < shape_.sums; d += kLanes) interpolate(d);
    }

  private:
    void evaluate(const LongFactor& f, std::size_t pieces, Word* values, std::size_t stride) {
        for (std::size_t piece = 0; piece < pieces; piece += kLanes) {
            load_pieces(f, piece, shape_.piece_words, bits_);
            convert_bits<true>(bits_, job_.log_points + 5, job_.log_points);
            rows_to_elements(bits_, elements_, job_.log_points);
            transform<true>(twiddles_, elements_, job_.log_points, 0, values + piece, stride);
        }
    }

    // sum_i a_i b_(d-i), kLanes sums at a time, over b in the end. Pieces that do not exist are zero on both sides.
    void multiply_at(std::size_t p) {
        const Word* a = a_ + p * shape_.a_row;
        Word* b = b_ + p * shape_.b_row;
        for (std::size_t i = 0; i < shape_.a_row; i += 8) __builtin_prefetch(a + shape_.a_row + i);
        for (std::size_t i = 0; i < shape_.b_row; i += 8) __builtin_prefetch(b + shape_.b_row + i);
        for (std::size_t i = 0; i < kPad; i += kLanes) {
            store(b + i, zero());
            store(b + kPad + round_up(shape_.b_pieces) + i, zero());
        }
        std::size_t sum = 0;
        for (; sum + kLanes < shape_.sums; sum += 2 * kLanes) add_up<2>(a, b + kPad, sum);
        if (sum < shape_.sums) add_up<1>(a, b + kPad, sum);
        for (sum = 0; sum < shape_.sums; sum += kLanes) store(b + sum, load(sums_ + sum));
    }

    // Groups * kLanes sums from `sum` on. Where i is out of range for some of them, b is zero there.
    template <std::size_t Groups>
    SHOSOIN_INLINE void add_up(const Word* a, const Word* b, std::size_t sum) {
        const std::size_t d = shape_.first + sum;
        const std::size_t begin = d + 1 > shape_.b_pieces ? d + 1 - shape_.b_pieces : 0;
        const std::size_t end = d + Groups * kLanes < shape_.a_pieces ? d + Groups * kLanes : shape_.a_pieces;
        Wide totals[Groups];
        for (std::size_t g = 0; g < Groups; ++g) clear(totals[g]);
        for (std::size_t i = begin; i < end; ++i) {
            const Vec factor = repeat(a[i]);
            for (std::size_t g = 0; g < Groups; ++g) add_product(totals[g], load(b + d + g * kLanes - i), factor);
        }
        for (std::size_t g = 0; g < Groups; ++g) store(sums_ + sum + g * kLanes, reduce(totals[g]));
    }

    void interpolate(std::size_t sum) {
        transform<false>(twiddles_, elements_, job_.log_points, 0, static_cast<const Word*>(b_ + sum), shape_.b_row);
        elements_to_rows(elements_, bits_, job_.log_points);
        convert_bits<false>(bits_, job_.log_points + 6, job_.log_points);
        for (std::size_t m = 0; m < 2 * shape_.piece_words; m += kLanes) {
            Vec v[kLanes];
            for (std::size_t l = 0; l < kLanes; ++l) v[l] = at(bits_, m + l);
            transpose_lanes(v);
            for (std::size_t l = 0; l < kLanes && sum + l < shape_.last - shape_.first; ++l) {
                const auto place = static_cast<std::int64_t>(shape_.first + sum + l) - static_cast<std::int64_t>(job_.first);
                const std::int64_t position = (place * static_cast<std::int64_t>(shape_.piece_words) +
                                               static_cast<std::int64_t>(m)) * 64;
                if (position >= 0) add_words(job_, position, v[l]);
            }
        }
    }

    const ProductJob& job_;
    Shape shape_;
    Twiddles& twiddles_;
    Word *bits_, *elements_, *a_, *b_, *sums_;
};

// Not inlined: what it leaves on the stack is to lie below the caller's frame.
__attribute__((noinline)) void run_product(const ProductJob& job, Bytes scratch) {
    Product(job, reinterpret_cast<Word*>(scratch)).run();
}

__attribute__((noinline)) void wipe_what_run_product_left() {
    unsigned char dead[16384];  // its squares of bits take two thirds of it
    wipe(dead, sizeof dead);
}

void multiply_long(const ProductJob& job, Bytes scratch) {
    run_product(job, scratch);
    wipe(scratch, scratch_bytes(job));
    wipe_what_run_product_left();
}

constexpr ToeplitzPath toeplitz_named(const char* name) { return {name, kLanes, scratch_bytes, multiply_long}; }

}  // namespace
}  // namespace shosoin
