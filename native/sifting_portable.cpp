// Sifting in plain C++20.
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace shosoin {
namespace {

std::uint64_t mask64(const std::uint8_t* from) {
    std::uint64_t mask = 0;
    for (int i = 0; i < 8; ++i) {
        std::uint64_t octets;
        std::memcpy(&octets, from + 8 * i, 8);
        const std::uint64_t low = 0x7F7F7F7F7F7F7F7F;
        const std::uint64_t set = (((octets & low) + low) | octets) >> 7 & 0x0101010101010101;
        mask |= set * 0x0102040810204080 >> 56 << (8 * i);
    }
    return mask;
}

std::size_t select64(std::uint8_t* to, const std::uint8_t* from, std::uint64_t mask) {
    std::size_t count = 0;
    for (int i = 0; i < 64; ++i) {
        to[count] = from[i];
        count += mask >> i & 1;
    }
    return count;
}

}  // namespace
}  // namespace shosoin

#include "sifting_engine.h"

namespace shosoin {
const SiftingPath sifting_portable_path = {"portable", places, keep, look_up, largest_step, steps, pulses, pack};
}
