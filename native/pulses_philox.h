// Philox4x32-10 (Salmon et al., SC 2011) for one block at a time; each path has its own for many.
#pragma once

#include <cstdint>

namespace shosoin {
namespace {

constexpr std::uint32_t kPhiloxLeft = 0xD2511F53, kPhiloxRight = 0xCD9E8D57;
constexpr std::uint32_t kPhiloxStepLow = 0x9E3779B9, kPhiloxStepHigh = 0xBB67AE85;
constexpr int kPhiloxRounds = 10;

struct Philox {
    std::uint64_t seed;
    std::uint32_t stream;
    std::uint32_t domain;

    void block(std::uint64_t number, std::uint32_t* words) const {
        auto a = static_cast<std::uint32_t>(number), b = static_cast<std::uint32_t>(number >> 32);
        std::uint32_t c = stream, d = domain;
        auto low = static_cast<std::uint32_t>(seed), high = static_cast<std::uint32_t>(seed >> 32);
        for (int round = 0; round < kPhiloxRounds; ++round) {
            const std::uint64_t left = std::uint64_t{kPhiloxLeft} * a, right = std::uint64_t{kPhiloxRight} * c;
            a = static_cast<std::uint32_t>(right >> 32) ^ b ^ low;
            b = static_cast<std::uint32_t>(right);
            c = static_cast<std::uint32_t>(left >> 32) ^ d ^ high;
            d = static_cast<std::uint32_t>(left);
            low += kPhiloxStepLow;
            high += kPhiloxStepHigh;
        }
        words[0] = a;
        words[1] = b;
        words[2] = c;
        words[3] = d;
    }
};

}  // namespace
}  // namespace shosoin
