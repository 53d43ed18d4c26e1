// Pulses in plain C++20.
#include <cstring>

#include "kernels.h"
#include "pulses.h"
#include "pulses_philox.h"

namespace shosoin {
namespace {

void generate(const Philox& key, std::uint64_t block, std::size_t blocks, std::uint32_t* words) {
    for (std::size_t i = 0; i < blocks; ++i) key.block(block + i, words + 4 * i);
}

std::size_t find(const std::uint32_t* words, std::size_t count, std::uint32_t limit, std::uint16_t* at) {
    std::size_t found = 0;
    for (std::size_t i = 0; i < count; ++i) {
        at[found] = static_cast<std::uint16_t>(i);
        found += words[i] <= limit ? 1 : 0;
    }
    return found;
}

// 1 if a >= b, both below 2^31, without a branch.
std::uint32_t at_least(std::uint32_t a, std::uint32_t b) { return 1u ^ (a - b) >> 31; }

void encode16(const std::uint32_t* words, const std::uint32_t* limits, std::uint8_t* bits, std::uint8_t* bases,
              std::uint8_t* intensity, std::uint8_t* states) {
    std::uint32_t packed_bits = 0, packed_bases = 0;
    for (int i = 0; i < 16; ++i) {
        const std::uint32_t bit = words[i] & 1, basis = at_least(words[i] >> 1 & 0x7FFF, limits[0]);
        const std::uint32_t drawn = words[i] >> 16;
        const std::uint32_t level = at_least(drawn, limits[1]) + at_least(drawn, limits[2]) + at_least(drawn, limits[3]);
        packed_bits |= bit << i;
        packed_bases |= basis << i;
        intensity[i] = static_cast<std::uint8_t>(level);
        states[i] = static_cast<std::uint8_t>(level << 2 | basis << 1 | bit);
    }
    for (int j = 0; j < 2; ++j) {
        bits[j] = static_cast<std::uint8_t>(packed_bits >> (8 * j));
        bases[j] = static_cast<std::uint8_t>(packed_bases >> (8 * j));
    }
}

}  // namespace
}  // namespace shosoin

#include "pulses_engine.h"

namespace shosoin {
const PulsePath pulses_portable_path = {"portable", choose_from_seed, choose_from_words, detect};
}
