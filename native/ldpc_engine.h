// The decoder, written once over chunks of checks.
//
// A unit defines, in an unnamed namespace, what its instruction set makes of these and then includes this file:
//
//   kChunk                       checks in a chunk; Vec holds a byte for each, in an order of the unit's own
//   Words                        kChunk values of 16 bits in natural order, as two halves
//   load_words, store_words      unaligned
//   joined(a, b, count)          the first `count` values of a, then those of b
//   widen(Vec)                   signed bytes to Words
//   narrow(Words)                to signed bytes, saturated
//   add, sub                     on Words
//   zero(), all(b)               of a byte
//   magnitude(Vec)               |v| of signed bytes, at most 127
//   minimum, maximum             of unsigned bytes
//   box_plus(a, b)               of magnitudes; 255 is neutral
//   Sign                         a bit a check: sign_of(Vec), sign_from_bits(natural order), flip(Sign, Sign);
//                                store_sign, load_sign: at most kChunk bytes, aligned to 16
//   Same, same(a, b), either(Same, if_same, if_not)
//   negate_where(Sign, Vec)
//   kMessageBytes                of an edge and a chunk; keep(slot, Sign, Same, Vec message) and
//                                recall(slot, others, every) store it and bring it back
//   store_bytes, load_bytes      Vec, aligned
//   pack_signs(values, count, bits)  sign bits of 16-bit values, count a multiple of 64
//   Wide, kWideBytes             for syndromes: load_wide (unaligned), store_wide, zero_wide, exclusive_or,
//                                shifted(a, right, b, left): a >> right | b << left in 64-bit lanes
#pragma once

#include <cstring>

#include "ldpc.h"

namespace shosoin {
namespace {

// parities of one row into `output`
inline void row_parities(const LdpcCode& code, std::size_t row, ConstBytes doubled, Bytes output) {
    const std::size_t block = code.block_bytes();
    const LdpcEdge* const end = code.edges + code.row_start[row + 1];
    for (std::size_t at = 0; at < block; at += kWideBytes) {
        Wide sum = zero_wide();
        for (const LdpcEdge* edge = code.edges + code.row_start[row]; edge != end; ++edge) {
            ConstBytes p = doubled + edge->column * 2 * block + edge->shift / 8 + at;
            const int right = edge->shift % 8;
            sum = exclusive_or(sum, shifted(load_wide(p), right, load_wide(p + 1), 8 - right));
        }
        store_wide(output + at, sum);
    }
}

void syndrome(const LdpcCode& code, ConstBytes doubled, Bytes parities) {
    for (std::size_t row = 0; row < code.rows; ++row) {
        row_parities(code, row, doubled, parities + row * code.block_bytes());
    }
}

// Where the values of an edge lie, for a chunk that begins at `check`. By value: what is stored may be no pointer of ours.
struct Places {
    std::int16_t* posteriors;
    std::size_t column_values, lifting;

    std::int16_t* at(LdpcEdge edge, std::size_t check) const {
        const std::size_t position = edge.shift + check;
        return posteriors + edge.column * column_values + position - (position >= lifting ? lifting : 0);
    }
};

// What a check knows of the magnitudes of its edges: the least, and the box-plus of all the others.
struct Strengths {
    Vec least;
    Vec others;
};

inline void take(Strengths& s, Vec value) {
    s.others = box_plus(s.others, maximum(s.least, value));
    s.least = minimum(s.least, value);
}

inline void join(Strengths& s, const Strengths& t) {
    s.others = box_plus(box_plus(s.others, t.others), maximum(s.least, t.least));
    s.least = minimum(s.least, t.least);
}

// One chunk of one layer: `count` edges, their slots, and the strengths that the check keeps.
inline void update_chunk(Places places, const LdpcEdge* edges, int count, std::size_t check, Sign parity, Bytes slots,
                         Bytes strengths, Bytes scratch) {
    constexpr std::size_t stride = kLdpcChunkMax * 4;  // words, their magnitudes, their signs

    const Vec old_others = load_bytes(strengths), old_every = load_bytes(strengths + kChunk);
    Strengths total{}, group{};
    for (int e = 0; e < count; ++e) {
        const Vec old = recall(slots + static_cast<std::size_t>(e) * kMessageBytes, old_others, old_every);
        const std::int16_t* const next = places.at(edges[e], check + kChunk);
        __builtin_prefetch(next + kChunk / 2);
        __builtin_prefetch(next + kChunk - 1);
        const Words extrinsic = sub(load_words(places.at(edges[e], check)), widen(old));
        Bytes const at = scratch + static_cast<std::size_t>(e) * stride;
        store_words(reinterpret_cast<std::int16_t*>(at), extrinsic);
        const Vec narrowed = narrow(extrinsic);
        const Sign sign = sign_of(narrowed);
        const Vec size = magnitude(narrowed);
        store_bytes(at + 2 * kChunk, size);
        store_sign(at + 3 * kChunk, sign);
        parity = flip(parity, sign);
        if (e % kLdpcGroupEdges == 0) {
            if (e == kLdpcGroupEdges) total = group;
            if (e > kLdpcGroupEdges) join(total, group);
            group = {size, all(255)};
        } else {
            take(group, size);
        }
    }
    if (count > kLdpcGroupEdges) {
        join(total, group);
    } else {
        total = group;
    }
    const Vec limit = all(kLdpcMessageMax);
    const Vec others = minimum(total.others, limit);
    const Vec every = minimum(box_plus(total.others, total.least), limit);
    store_bytes(strengths, others);
    store_bytes(strengths + kChunk, every);
    for (int e = 0; e < count; ++e) {
        Bytes const at = scratch + static_cast<std::size_t>(e) * stride;
        const Same least = same(load_bytes(at + 2 * kChunk), total.least);
        const Sign sign = flip(parity, load_sign(at + 3 * kChunk));
        const Vec message = negate_where(sign, either(least, others, every));
        keep(slots + static_cast<std::size_t>(e) * kMessageBytes, sign, least, message);
        store_words(places.at(edges[e], check),
                    add(load_words(reinterpret_cast<const std::int16_t*>(at)), widen(message)));
    }
}

// After a layer the head of a column and the copy of it at its end each hold what the other lacks.
inline void mend_tails(const LdpcCode& code, const LdpcWorkspace& work, std::size_t row) {
    for (std::size_t e = code.row_start[row]; e < code.row_start[row + 1]; ++e) {
        std::int16_t* const head = work.posteriors + code.edges[e].column * code.column_values();
        std::int16_t* const tail = head + code.lifting;
        const std::size_t crossed = code.edges[e].shift % kChunk;
        const Words both = joined(load_words(tail), load_words(head), crossed);
        store_words(head, both);
        store_words(tail, both);
    }
}

bool satisfied(const LdpcCode& code, ConstBytes wanted, const LdpcWorkspace& work) {
    const std::size_t block = code.block_bytes();
    for (std::size_t column = 0; column < code.columns; ++column) {
        Bytes const bits = work.hard + column * 2 * block;
        pack_signs(work.posteriors + column * code.column_values(), code.lifting, bits);
        std::memcpy(bits + block, bits, block);
    }
    for (std::size_t row = 0; row < code.rows; ++row) {
        row_parities(code, row, work.hard, work.extrinsic);
        if (std::memcmp(work.extrinsic, wanted + row * block, block) != 0) return false;
    }
    return true;
}

void update_row(const LdpcCode& code, ConstBytes wanted, const LdpcWorkspace& work, std::size_t row) {
    const std::size_t first = code.row_start[row], count = code.row_start[row + 1] - first;
    if (count == 0) return;
    const Places places = {work.posteriors, code.column_values(), code.lifting};
    const std::size_t chunks = code.lifting / kChunk;
    Bytes slots = work.messages + first * chunks * kMessageBytes;
    Bytes strengths = work.strengths + row * chunks * 2 * kChunk;
    ConstBytes parities = wanted + row * code.block_bytes();
    for (std::size_t check = 0; check < code.lifting; check += kChunk) {
        update_chunk(places, code.edges + first, static_cast<int>(count), check,
                     sign_from_bits(parities + check / 8), slots, strengths, work.extrinsic);
        slots += count * kMessageBytes;
        strengths += 2 * kChunk;
    }
    mend_tails(code, work, row);
}

std::size_t decode(const LdpcCode& code, ConstBytes wanted, const LdpcWorkspace& work, std::size_t iterations_max) {
    for (std::size_t iteration = 1; iteration <= iterations_max; ++iteration) {
        for (std::size_t row = 0; row < code.rows; ++row) update_row(code, wanted, work, row);
        if (satisfied(code, wanted, work)) return iteration;
    }
    return 0;
}

}  // namespace
}  // namespace shosoin
