// AES-256 without tables and without AES instructions: sixteen blocks at once, one bit of every byte in a word.
//
// The 16 bytes of a block form 4 rows and 4 columns (FIPS 197, section 3.4). Word [bit][row] holds that bit of the bytes
// of one row: 16 blocks for column 0, then for columns 1, 2 and 3. So ShiftRows is a rotation of words and MixColumns
// adds words of different rows.
//
// SubBytes inverts in GF(2^8). We go to the isomorphic field GF(16)[y]/(y^2 + y + N), where an inverse costs three
// products and one inverse in GF(16), and come back; both ways, and the affine map of SubBytes, are 8x8 matrices over
// GF(2). The compiler derives matrices, N and the logic of the small inverse from the definitions below.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels.h"

namespace shosoin {
namespace {

using Word = std::uint64_t;

namespace tower {

// GF(16) = GF(2)[z]/(z^4 + z + 1)
constexpr unsigned multiply16(unsigned a, unsigned b) {
    unsigned product = 0;
    for (int i = 0; i < 4; ++i) product ^= (b >> i & 1) ? a << i : 0;
    for (int i = 6; i >= 4; --i) product ^= (product >> i & 1) ? 0b10011u << (i - 4) : 0;
    return product;
}

constexpr unsigned inverse16(unsigned a) {
    unsigned power = 1;
    for (int i = 0; i < 14; ++i) power = multiply16(power, a);
    return power;
}

// y^2 + y + N is irreducible if no element of GF(16) is a root.
constexpr unsigned find_n() {
    for (unsigned n = 1; n < 16; ++n) {
        bool has_root = false;
        for (unsigned y = 0; y < 16; ++y) has_root = has_root || (multiply16(y, y) ^ y) == n;
        if (!has_root) return n;
    }
    return 0;
}

constexpr unsigned kN = find_n();

// (h y + l)(H y + L) with y^2 = y + N; the high four bits are the coefficient of y.
constexpr unsigned multiply256(unsigned a, unsigned b) {
    const unsigned h = a >> 4, l = a & 15, H = b >> 4, L = b & 15;
    const unsigned hh = multiply16(h, H);
    return (multiply16(h, L) ^ multiply16(l, H) ^ hh) << 4 | (multiply16(l, L) ^ multiply16(hh, kN));
}

// A root of AES's x^8 + x^4 + x^3 + x + 1: sending x there is the isomorphism.
constexpr unsigned find_root() {
    for (unsigned root = 2; root < 256; ++root) {
        unsigned powers[9] = {1};
        for (int i = 1; i < 9; ++i) powers[i] = multiply256(powers[i - 1], root);
        if ((powers[8] ^ powers[4] ^ powers[3] ^ powers[1] ^ powers[0]) == 0) return root;
    }
    return 0;
}

struct Matrix {
    unsigned column[8] = {};

    constexpr unsigned apply(unsigned v) const {
        unsigned result = 0;
        for (int j = 0; j < 8; ++j) result ^= (v >> j & 1) ? column[j] : 0;
        return result;
    }
};

constexpr Matrix into_tower() {
    Matrix m;
    m.column[0] = 1;
    for (int j = 1; j < 8; ++j) m.column[j] = multiply256(m.column[j - 1], find_root());
    return m;
}

constexpr unsigned rotate_left(unsigned v, int by) { return (v << by | v >> (8 - by)) & 0xff; }

// Back from the tower, then SubBytes' matrix (FIPS 197, section 5.1.1); its constant 0x63 is added apart.
constexpr Matrix out_of_tower() {
    const Matrix in = into_tower();
    Matrix m;
    for (int j = 0; j < 8; ++j) {
        for (unsigned v = 0; v < 256; ++v) {
            if (in.apply(v) != 1u << j) continue;
            m.column[j] = v ^ rotate_left(v, 1) ^ rotate_left(v, 2) ^ rotate_left(v, 3) ^ rotate_left(v, 4);
        }
    }
    return m;
}

// h -> N h^2 on the four bits of h.
constexpr Matrix scaled_square() {
    Matrix m;
    for (int j = 0; j < 4; ++j) m.column[j] = multiply16(kN, multiply16(1u << j, 1u << j));
    return m;
}

constexpr Matrix square() {
    Matrix m;
    for (int j = 0; j < 4; ++j) m.column[j] = multiply16(1u << j, 1u << j);
    return m;
}

// The algebraic normal form of the inverse in GF(16): bit s of mask[o] says that output bit o has the product of the
// input bits in s as a term.
struct NormalForm {
    unsigned mask[4] = {};
};

constexpr NormalForm inverse_normal_form() {
    NormalForm form;
    for (int o = 0; o < 4; ++o) {
        for (unsigned s = 0; s < 16; ++s) {
            unsigned sum = 0;
            for (unsigned v = 0; v < 16; ++v) {
                if ((v & s) == v) sum ^= inverse16(v) >> o & 1;
            }
            form.mask[o] |= sum << s;
        }
    }
    return form;
}

constexpr Matrix kIn = into_tower();
constexpr Matrix kOut = out_of_tower();
constexpr Matrix kScaledSquare = scaled_square();
constexpr Matrix kSquare = square();
constexpr NormalForm kInverse = inverse_normal_form();

}  // namespace tower

#define SHOSOIN_INLINE_AES inline __attribute__((always_inline))

// out[i] = sum of the in[j] that row i of the matrix selects; the selection is made by the compiler.
template <int Rows, int Columns, const tower::Matrix& M>
SHOSOIN_INLINE_AES void apply(Word* out, const Word* in) {
    const auto row = [&]<std::size_t... J>(auto i, std::index_sequence<J...>) {
        Word sum = 0;
        ((sum ^= (M.column[J] >> i & 1) ? in[J] : 0), ...);
        return sum;
    };
    [&]<std::size_t... I>(std::index_sequence<I...>) {
        ((out[I] = row(std::integral_constant<int, I>{}, std::make_index_sequence<Columns>{})), ...);
    }(std::make_index_sequence<Rows>{});
}

SHOSOIN_INLINE_AES void multiply16(Word* out, const Word* a, const Word* b) {
    const Word p0 = a[0] & b[0];
    const Word p1 = (a[0] & b[1]) ^ (a[1] & b[0]);
    const Word p2 = (a[0] & b[2]) ^ (a[1] & b[1]) ^ (a[2] & b[0]);
    const Word p3 = (a[0] & b[3]) ^ (a[1] & b[2]) ^ (a[2] & b[1]) ^ (a[3] & b[0]);
    const Word p4 = (a[1] & b[3]) ^ (a[2] & b[2]) ^ (a[3] & b[1]);
    const Word p5 = (a[2] & b[3]) ^ (a[3] & b[2]);
    const Word p6 = a[3] & b[3];
    // z^4 = z + 1
    out[0] = p0 ^ p4;
    out[1] = p1 ^ p4 ^ p5;
    out[2] = p2 ^ p5 ^ p6;
    out[3] = p3 ^ p6;
}

SHOSOIN_INLINE_AES void inverse16(Word* out, const Word* a) {
    Word product[15];  // of the bits in the index; there is no term with all four, since the inverse is a permutation
    product[0] = ~Word{0};
    for (int s = 1; s < 15; ++s) product[s] = product[s & (s - 1)] & a[__builtin_ctz(static_cast<unsigned>(s))];
    const auto bit = [&]<std::size_t... S>(auto o, std::index_sequence<S...>) {
        Word sum = 0;
        ((sum ^= (tower::kInverse.mask[o] >> S & 1) ? product[S] : 0), ...);
        return sum;
    };
    [&]<std::size_t... O>(std::index_sequence<O...>) {
        ((out[O] = bit(std::integral_constant<int, O>{}, std::make_index_sequence<15>{})), ...);
    }(std::make_index_sequence<4>{});
}

// SubBytes on 64 bytes, bit i of them in word i: (h y + l)^-1 = (h y + h + l) / (N h^2 + h l + l^2)
SHOSOIN_INLINE_AES void sub_bytes(Word (&bits)[8]) {
    Word t[8];
    apply<8, 8, tower::kIn>(t, bits);
    const Word* l = t;
    const Word* h = t + 4;
    Word sum[4], norm[4], part[4], inverse[4], result[8];
    for (int i = 0; i < 4; ++i) sum[i] = h[i] ^ l[i];
    multiply16(norm, h, l);
    apply<4, 4, tower::kScaledSquare>(part, h);
    for (int i = 0; i < 4; ++i) norm[i] ^= part[i];
    apply<4, 4, tower::kSquare>(part, l);
    for (int i = 0; i < 4; ++i) norm[i] ^= part[i];
    inverse16(inverse, norm);
    multiply16(result, sum, inverse);
    multiply16(result + 4, h, inverse);
    apply<8, 8, tower::kOut>(bits, result);
    for (int i : {0, 1, 5, 6}) bits[i] = ~bits[i];  // 0x63
}

// Exchange bit i of byte k with bit k of byte i.
SHOSOIN_INLINE_AES Word transpose(Word x) {
    Word t = (x ^ x >> 7) & 0x00AA00AA00AA00AA;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000CCCC0000CCCC;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000F0F0F0F0;
    return x ^ t ^ t << 28;
}

class BitslicedAes256 {
  public:
    static constexpr int kBlocks = 16;
    using Blocks = Word[kBlocks][2];  // little-endian halves

    explicit BitslicedAes256(ConstBytes seed) {
        std::uint8_t schedule[kRounds + 1][16];
        expand(seed, &schedule[0][0]);
        for (int round = 0; round <= kRounds; ++round) slice_key(schedule[round], keys_[round]);
        wipe(schedule, sizeof schedule);
    }
    BitslicedAes256(const BitslicedAes256&) = delete;
    BitslicedAes256& operator=(const BitslicedAes256&) = delete;
    ~BitslicedAes256() { wipe(keys_, sizeof keys_); }

    void encrypt(Blocks& blocks) const {
        State s;
        slice(blocks, s);
        add_key(s, keys_[0]);
        for (int round = 1; round < kRounds; ++round) {
            sub_and_shift(s);
            mix_columns(s);
            add_key(s, keys_[round]);
        }
        sub_and_shift(s);
        add_key(s, keys_[kRounds]);
        unslice(s, blocks);
    }

  private:
    static constexpr int kRounds = 14;
    using State = Word[4][8];  // [row][bit]

    // FIPS 197, section 5.2
    static void expand(ConstBytes seed, Bytes schedule) {
        constexpr int kKeyWords = 8;
        constexpr int kWords = 4 * (kRounds + 1);
        for (int i = 0; i < 4 * kKeyWords; ++i) schedule[i] = seed[i];
        std::uint8_t rcon = 1;
        for (int i = kKeyWords; i < kWords; ++i) {
            std::uint8_t word[4];
            for (int k = 0; k < 4; ++k) word[k] = schedule[4 * (i - 1) + k];
            if (i % kKeyWords == 0) {
                const std::uint8_t first = word[0];
                for (int k = 0; k < 3; ++k) word[k] = word[k + 1];
                word[3] = first;
            }
            if (i % 4 == 0) sub_word(word);
            if (i % kKeyWords == 0) {
                word[0] ^= rcon;
                rcon = static_cast<std::uint8_t>(rcon << 1);
            }
            for (int k = 0; k < 4; ++k) schedule[4 * i + k] = schedule[4 * (i - kKeyWords) + k] ^ word[k];
        }
    }

    static void sub_word(std::uint8_t (&word)[4]) {
        Word bits[8] = {};
        for (int i = 0; i < 8; ++i) {
            for (int k = 0; k < 4; ++k) bits[i] |= static_cast<Word>(word[k] >> i & 1) << k;
        }
        sub_bytes(bits);
        for (int k = 0; k < 4; ++k) {
            word[k] = 0;
            for (int i = 0; i < 8; ++i) word[k] |= static_cast<std::uint8_t>((bits[i] >> k & 1) << i);
        }
    }

    static void slice_key(const std::uint8_t* key, State& s) {
        for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < 8; ++i) {
                s[r][i] = 0;
                for (int c = 0; c < 4; ++c) {
                    const Word bit = key[4 * c + r] >> i & 1;
                    s[r][i] |= (Word{0} - bit) & Word{0xffff} << 16 * c;
                }
            }
        }
    }

    static void slice(const Blocks& blocks, State& s) {
        for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < 8; ++i) s[r][i] = 0;
            for (int c = 0; c < 4; ++c) {
                const int half = c / 2, shift = 8 * (4 * c + r - 8 * half);
                for (int group = 0; group < 2; ++group) {
                    Word bytes = 0;
                    for (int k = 0; k < 8; ++k) bytes |= (blocks[8 * group + k][half] >> shift & 0xff) << 8 * k;
                    bytes = transpose(bytes);
                    for (int i = 0; i < 8; ++i) s[r][i] |= (bytes >> 8 * i & 0xff) << (16 * c + 8 * group);
                }
            }
        }
    }

    static void unslice(const State& s, Blocks& blocks) {
        for (auto& block : blocks) block[0] = block[1] = 0;
        for (int r = 0; r < 4; ++r) {
            for (int c = 0; c < 4; ++c) {
                const int half = c / 2, shift = 8 * (4 * c + r - 8 * half);
                for (int group = 0; group < 2; ++group) {
                    Word bytes = 0;
                    for (int i = 0; i < 8; ++i) bytes |= (s[r][i] >> (16 * c + 8 * group) & 0xff) << 8 * i;
                    bytes = transpose(bytes);
                    for (int k = 0; k < 8; ++k) blocks[8 * group + k][half] |= (bytes >> 8 * k & 0xff) << shift;
                }
            }
        }
    }

    static SHOSOIN_INLINE_AES void sub_and_shift(State& s) {
        for (int r = 0; r < 4; ++r) {
            sub_bytes(s[r]);
            for (int i = 0; r && i < 8; ++i) s[r][i] = s[r][i] >> 16 * r | s[r][i] << (64 - 16 * r);
        }
    }

    // Each byte becomes 2 (a + b) + b + c + d, where b, c, d follow a in its column; 2 is x, and x^8 = x^4 + x^3 + x + 1.
    static SHOSOIN_INLINE_AES void mix_columns(State& s) {
        State result;
        for (int r = 0; r < 4; ++r) {
            const Word* a = s[r];
            const Word* b = s[(r + 1) % 4];
            const Word* c = s[(r + 2) % 4];
            const Word* d = s[(r + 3) % 4];
            const Word top = a[7] ^ b[7];
            for (int i = 0; i < 8; ++i) {
                const Word doubled = (i ? a[i - 1] ^ b[i - 1] : 0) ^ (i == 0 || i == 1 || i == 3 || i == 4 ? top : 0);
                result[r][i] = doubled ^ b[i] ^ c[i] ^ d[i];
            }
        }
        for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < 8; ++i) s[r][i] = result[r][i];
        }
    }

    static SHOSOIN_INLINE_AES void add_key(State& s, const State& key) {
        for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < 8; ++i) s[r][i] ^= key[r][i];
        }
    }

    State keys_[kRounds + 1];
};

}  // namespace
}  // namespace shosoin
