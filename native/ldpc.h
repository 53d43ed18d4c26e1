// Quasi-cyclic LDPC codes: syndromes and the layered decoder of src/shosoin/kernels/reference_ldpc.py, bit for bit.
//
// The callers have checked shapes; nothing here allocates or fails. Time and addresses depend on the code, the
// magnitudes and the number of iterations, which are public or, for the iterations, seen anyway.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"

namespace shosoin {

inline constexpr std::size_t kLdpcChunkMax = 64;  // checks that a vector holds, at most
inline constexpr std::size_t kLdpcLiftingStep = 512;
inline constexpr int kLdpcGroupEdges = 8;
inline constexpr int kLdpcMessageMax = 127;
inline constexpr std::size_t kLdpcDegreeMax = 250;  // edges of a column: posteriors then fit 16 bits

// round(8 ln(1 + e^(-x/8)))
alignas(64) inline constexpr std::uint8_t kLdpcCorrection[64] = {
     6,  5,  5,  4,  4,  3,  3,  3,  3,  2,  2,  2,  2,  1,  1,  1,
     1,  1,  1,  1,  1,  1,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
     0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

struct LdpcEdge {
    std::uint16_t column;
    std::uint16_t shift;
};

struct LdpcCode {
    std::size_t rows, columns, lifting;
    const LdpcEdge* edges;              // of row r: row_start[r] to row_start[r + 1]
    const std::uint32_t* row_start;
    std::size_t row_edges_max;

    std::size_t edge_count() const { return row_start[rows]; }
    std::size_t block_bytes() const { return lifting / 8; }
    // A block of bits is kept twice in a row, so that a rotation is a load at an offset.
    std::size_t doubled_bytes() const { return columns * 2 * block_bytes(); }
    // A column of posteriors ends with a copy of its first chunk, for the same reason.
    std::size_t column_values() const { return lifting + kLdpcChunkMax; }
};

// Memory that the decoder works in, all of it aligned to 64 bytes and all of it secret.
struct LdpcWorkspace {
    std::int16_t* posteriors;  // columns * column_values
    Bytes messages;            // an edge and a chunk: message_bytes
    Bytes strengths;           // a check: two bytes
    Bytes hard;                // doubled_bytes
    Bytes extrinsic;           // row_edges_max * kLdpcChunkMax * 4
};

struct LdpcPath {
    const char* name;
    std::size_t chunk;          // checks worked on together
    std::size_t message_bytes;  // what an edge keeps for a chunk

    // doubled: blocks, each twice in a row; parities: rows * lifting bits
    void (*syndrome)(const LdpcCode& code, ConstBytes doubled, Bytes parities);

    // wanted: rows * lifting bits, aligned. The posteriors hold the magnitudes, their tails as well; messages and
    // strengths are zero. Leaves the pattern in work.hard. Returns the iterations used, or 0 if they did not suffice.
    std::size_t (*decode)(const LdpcCode& code, ConstBytes wanted, const LdpcWorkspace& work,
                          std::size_t iterations_max);
};

extern const LdpcPath ldpc_portable_path;
#ifdef SHOSOIN_AVX2
extern const LdpcPath ldpc_avx2_path;
#endif
#ifdef SHOSOIN_AVX512
extern const LdpcPath ldpc_avx512_path;
#endif

}  // namespace shosoin
