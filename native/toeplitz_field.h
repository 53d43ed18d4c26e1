// GF(2^64) as GF(2)[y]/P with y of Cantor's basis, all of it computed by the compiler.
#pragma once

#include <cstdint>

#include "toeplitz.h"

namespace shosoin {
namespace {

using Word = std::uint64_t;

constexpr Word kPolynomialLow = 0x6ac0aa14aa00ab29;  // P = y^64 + this

constexpr Word multiply_plainly(Word a, Word b) {
    Word product = 0;
    for (int i = 63; i >= 0; --i) {
        product = product << 1 ^ (product >> 63) * kPolynomialLow;
        product ^= a * (b >> i & 1);
    }
    return product;
}

// A multiplier. With the quotient a product takes no division: v w = low(v w) + low(high(v quotient) P).
struct Pair {
    Word w;
    Word quotient;  // floor(w y^64 / P)
};

constexpr Pair pair_of(Word w) {
    Word quotient = 0, rest = w;
    for (int i = 0; i < 64; ++i) {
        quotient = quotient << 1 | rest >> 63;
        rest = rest << 1 ^ (rest >> 63) * kPolynomialLow;
    }
    return {w, quotient};
}

struct CantorBasis {
    Pair v[33 + kLogPointsMax] = {};

    constexpr CantorBasis() {
        Word w = 2;
        for (int i = 32; i >= 0; --i) {
            v[i] = pair_of(w);
            w ^= multiply_plainly(w, w);
        }
        for (int i = 33; i < 33 + kLogPointsMax; ++i) v[i] = pair_of(solve(v[i - 1].w));
    }

    // A z with z^2 + z = target: elimination on the images of the powers of y.
    static constexpr Word solve(Word target) {
        Word images[64] = {}, sources[64] = {};
        for (int i = 0; i < 64; ++i) {
            Word source = Word{1} << i, image = multiply_plainly(source, source) ^ source;
            for (int bit = 63; bit >= 0 && image; --bit) {
                if (!(image >> bit & 1)) continue;
                if (!images[bit]) {
                    images[bit] = image;
                    sources[bit] = source;
                    break;
                }
                image ^= images[bit];
                source ^= sources[bit];
            }
        }
        Word z = 0;
        for (int bit = 63; bit >= 0; --bit) {
            if (!(target >> bit & 1)) continue;
            target ^= images[bit];
            z ^= sources[bit];
        }
        return z;
    }
};

constexpr CantorBasis kCantor;

// s_32(y) = 1, so y^(2^32) = y + 1: every root of P is in GF(2^64) and none in GF(2^32), hence P is irreducible.
static_assert(kCantor.v[0].w == 1);
static_assert(multiply_plainly(kCantor.v[48].w, kCantor.v[48].w) == (kCantor.v[48].w ^ kCantor.v[47].w));

constexpr Word kQuotientLow = pair_of(kPolynomialLow).quotient;  // y^64 + this = floor(y^128 / P)

}  // namespace
}  // namespace shosoin
