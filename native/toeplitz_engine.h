// Long products over GF(2) by an additive Fourier transform, written once over a vector of 64-bit words.
//
// A unit defines `Vec` and its operations in an unnamed namespace and then includes this file, as with engine.h.
//
//   Vec                          kLanes words of 64 bits, each an element of GF(2^64)
//   load, store                  unaligned
//   zero, xor2, xor3
//   shl(v, n), shr(v, n)         shift every word by 0 < n < 64
//   repeat(word)                 one word in every lane
//   Constant, constant(Pair)     a multiplier for all lanes; add(Constant, Constant)
//   multiply(v, Constant)        lane by lane
//   Wide, clear, add_product(Wide&, Vec, Vec), reduce(Wide)   sums of unreduced products
//   transpose(Vec[64])           bit b of word z becomes bit z of word b, in every lane
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

// The same for 2^l single coefficients, 64 to a vector; l > 6.
template <bool Forward>
void expand_bits(Word* x, int l, int i) {
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

// 2^i rows from powers of x to X_p; i is a power of two.
template <bool Forward>
void convert_rows(Word* x, std::size_t row, int i) {
    if (i == 1) return;
    const int j = i / 2;
    const auto expand = [&] { expand_rows<Forward>(x, row, i, j); };
    const auto outer = [&] { convert_rows<Forward>(x, row << j, j); };
    const auto inner = [&] {
        for (std::size_t b = 0; b < std::size_t{1} << j; ++b) convert_rows<Forward>(x + b * (row << j) * kLanes, row, j);
    };
    if constexpr (Forward) {
        expand(), outer(), inner();
    } else {
        inner(), outer(), expand();
    }
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
class Twiddles {
  public:
    explicit Twiddles(int log_points) {
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

// Values of 2^l coefficients, value p to word p * stride of `values`.
void transform(const Twiddles& t, Word* x, int l, std::size_t block, Word* values, std::size_t stride) {
    if (l == 3) {
        Vec v[8];
        for (std::size_t j = 0; j < 8; ++j) v[j] = at(x, j);
        transform_eight<true>(t, block, v);
        for (std::size_t j = 0; j < 8; ++j) store(values + j * stride, v[j]);
        return;
    }
    const std::size_t half = std::size_t{1} << (l - 1);
    const Constant w = t.layer(l - 1, block);
    for (std::size_t j = 0; j < half; ++j) {
        Vec a = at(x, j), b = at(x, j + half);
        butterfly(a, b, w);
        put(x, j, a);
        put(x, j + half, b);
    }
    transform(t, x, l - 1, 2 * block, values, stride);
    transform(t, x + half * kLanes, l - 1, 2 * block + 1, values + half * stride, stride);
}

void transform_back(const Twiddles& t, Word* x, int l, std::size_t block, const Word* values, std::size_t stride) {
    if (l == 3) {
        Vec v[8];
        for (std::size_t j = 0; j < 8; ++j) v[j] = load(values + j * stride);
        transform_eight<false>(t, block, v);
        for (std::size_t j = 0; j < 8; ++j) put(x, j, v[j]);
        return;
    }
    const std::size_t half = std::size_t{1} << (l - 1);
    transform_back(t, x, l - 1, 2 * block, values, stride);
    transform_back(t, x + half * kLanes, l - 1, 2 * block + 1, values + half * stride, stride);
    const Constant w = t.layer(l - 1, block);
    for (std::size_t j = 0; j < half; ++j) {
        Vec a = at(x, j), b = at(x, j + half);
        reverse_butterfly(a, b, w);
        put(x, j, a);
        put(x, j + half, b);
    }
}

// Rows 0 .. rows - 1 of 2^k bits each become 2^k elements; the other rows are zero.
void rows_to_elements(const Word* bits, Word* elements, int k, int rows) {
    const std::size_t row = std::size_t{1} << (k - 6);
    for (std::size_t m = 0; m < row; ++m) {
        Vec v[64];
        for (int q = 0; q < rows; ++q) v[q] = at(bits, static_cast<std::size_t>(q) * row + m);
        for (int q = rows; q < 64; ++q) v[q] = zero();
        transpose(v);
        for (std::size_t z = 0; z < 64; ++z) put(elements, 64 * m + z, v[z]);
        if (m % 4 == 3) convert_rows<true>(elements + 64 * (m - 3) * kLanes, 1, 8);
    }
}

void elements_to_rows(Word* elements, Word* bits, int k) {
    const std::size_t row = std::size_t{1} << (k - 6);
    for (std::size_t m = 0; m < row; ++m) {
        if (m % 4 == 0) convert_rows<false>(elements + 64 * m * kLanes, 1, 8);
        Vec v[64];
        for (std::size_t z = 0; z < 64; ++z) v[z] = at(elements, 64 * m + z);
        transpose(v);
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

// The `count` words of a piece into every kLanes-th word of `to`.
void load_piece(const LongFactor& f, std::uint64_t piece, std::size_t count, Word* to) {
    std::int64_t position = static_cast<std::int64_t>(piece * count * 64) - static_cast<std::int64_t>(f.shift);
    const std::int64_t end = static_cast<std::int64_t>(f.bits) - 128;
    std::size_t m = 0;
    for (; m < count && position < 0; ++m, position += 64) to[m * kLanes] = careful_word(f, position);
    const int offset = static_cast<int>(position & 7);
    for (; m < count && position <= end; ++m, position += 64) {
        Word low;
        std::memcpy(&low, f.bytes + position / 8, 8);
        const Word high = f.bytes[position / 8 + 8];
        to[m * kLanes] = low >> offset | high << 1 << (63 - offset);
    }
    for (; m < count; ++m, position += 64) to[m * kLanes] = careful_word(f, position);
}

// Adds words to the output from bit `position` on, a multiple of 64; what is beyond its end is dropped.
void add_words(const ProductJob& job, std::int64_t position, const Word* words, std::size_t count) {
    for (std::size_t m = 0; m < count; ++m, position += 64) {
        if (position >= static_cast<std::int64_t>(job.output_bits)) return;
        const std::uint64_t left = job.output_bits - static_cast<std::uint64_t>(position);
        const std::size_t bytes = left < 64 ? static_cast<std::size_t>(left + 7) / 8 : 8;
        Bytes to = job.output + position / 8;
        Word old = 0, word = words[m * kLanes];
        if (left < 64) word &= (Word{1} << left) - 1;
        std::memcpy(&old, to, bytes);
        old ^= word;
        std::memcpy(to, &old, bytes);
    }
}

// ------------------------------------------------------------------------------------------------- the whole product

std::size_t round_up(std::uint64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

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
        b_row = round_up(b_pieces) + 2 * kLanes;
        if (b_row < sums) b_row = sums;
    }

    std::size_t words() const { return points * (2 * kLanes + a_row + b_row) + sums; }
};

std::size_t scratch_bytes(const ProductJob& job) { return Shape(job).words() * sizeof(Word); }

class Product {
  public:
    Product(const ProductJob& job, Word* scratch)
        : job_(job),
          shape_(job),
          twiddles_(job.log_points),
          bits_(scratch),
          elements_(bits_ + shape_.points * kLanes),
          a_(elements_ + shape_.points * kLanes),
          b_(a_ + shape_.points * shape_.a_row),
          sums_(b_ + shape_.points * shape_.b_row) {}

    void run() {
        evaluate(job_.a, shape_.a_pieces, a_, shape_.a_row);
        evaluate(job_.b, shape_.b_pieces, b_ + kLanes, shape_.b_row);
        for (std::size_t p = 0; p < shape_.points; ++p) multiply_at(p);
        std::memset(job_.output, 0, static_cast<std::size_t>(job_.output_bits + 7) / 8);
        for (std::size_t d = 0; d < shape_.sums; d += kLanes) interpolate(d);
    }

  private:
    void evaluate(const LongFactor& f, std::size_t pieces, Word* values, std::size_t stride) {
        for (std::size_t piece = 0; piece < pieces; piece += kLanes) {
            for (std::size_t lane = 0; lane < kLanes; ++lane) {
                load_piece(f, piece + lane, shape_.piece_words, bits_ + lane);
            }
            convert_bits<true>(bits_, job_.log_points + 5, job_.log_points);
            rows_to_elements(bits_, elements_, job_.log_points, 32);
            transform(twiddles_, elements_, job_.log_points, 0, values + piece, stride);
        }
    }

    // sum_i a_i b_(d-i), kLanes sums at a time, over b in the end. Pieces that do not exist are zero on both sides.
    void multiply_at(std::size_t p) {
        const Word* a = a_ + p * shape_.a_row;
        Word* b = b_ + p * shape_.b_row;
        store(b, zero());
        store(b + kLanes + round_up(shape_.b_pieces), zero());
        for (std::size_t sum = 0; sum < shape_.sums; sum += kLanes) {
            const std::size_t d = shape_.first + sum;
            const std::size_t begin = d + 1 > shape_.b_pieces ? d + 1 - shape_.b_pieces : 0;
            const std::size_t end = d + kLanes < shape_.a_pieces ? d + kLanes : shape_.a_pieces;
            Wide total;
            clear(total);
            for (std::size_t i = begin; i < end; ++i) add_product(total, load(b + kLanes + d - i), repeat(a[i]));
            store(sums_ + sum, reduce(total));
        }
        for (std::size_t sum = 0; sum < shape_.sums; sum += kLanes) store(b + sum, load(sums_ + sum));
    }

    void interpolate(std::size_t sum) {
        transform_back(twiddles_, elements_, job_.log_points, 0, b_ + sum, shape_.b_row);
        elements_to_rows(elements_, bits_, job_.log_points);
        convert_bits<false>(bits_, job_.log_points + 6, job_.log_points);
        for (std::size_t lane = 0; lane < kLanes; ++lane) {
            const std::size_t d = shape_.first + sum + lane;
            if (d >= shape_.last) return;
            const std::size_t words = shape_.piece_words;
            const auto bits = static_cast<std::int64_t>(words * 64);
            const auto place = static_cast<std::int64_t>(d) - static_cast<std::int64_t>(job_.first);
            if (place >= 0) add_words(job_, place * bits, bits_ + lane, words);
            add_words(job_, (place + 1) * bits, bits_ + words * kLanes + lane, words);
        }
    }

    const ProductJob& job_;
    Shape shape_;
    Twiddles twiddles_;
    Word *bits_, *elements_, *a_, *b_, *sums_;
};

void multiply_long(const ProductJob& job, Bytes scratch) {
    Product(job, reinterpret_cast<Word*>(scratch)).run();
    wipe(scratch, scratch_bytes(job));
    wipe_dead_stack();
}

constexpr ToeplitzPath toeplitz_named(const char* name) { return {name, kLanes, scratch_bytes, multiply_long}; }

}  // namespace
}  // namespace shosoin
