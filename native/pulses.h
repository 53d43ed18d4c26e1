// Simulated pulses: choices of a transmitter and clicks of a receiver's detectors, on one CPU path.
// `shosoin.kernels.reference_pulses` is the specification. Callers have checked every argument.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shosoin {

inline constexpr std::size_t kPulseRows = 32;
inline constexpr std::size_t kPulsesPending = 16;
inline constexpr std::size_t kPulseDynamicsWords = 6 + 256;
inline constexpr std::size_t kPulseStateWords = 5 + 2 * kPulsesPending;
inline constexpr std::size_t kPulseOutcomesMax = 1024;
inline constexpr std::uint64_t kPulsesMax = std::uint64_t{1} << 62;

struct PulseChoices {
    std::uint8_t* bits;   // packed
    std::uint8_t* bases;  // packed
    std::uint8_t* intensity;
    std::uint8_t* states;
};

struct PulseArrivals {
    std::uint64_t seed;
    std::uint32_t domain;
    std::uint64_t basis_threshold;    // of 2^32
    const std::uint64_t* thresholds;  // kPulseRows rows
    const std::uint32_t* codes;
    std::size_t outcomes;  // in a row
    const std::uint32_t* dynamics;
};

struct PulseClicks {
    std::int64_t* pulses;
    std::uint32_t* codes;
    std::size_t room;
    std::size_t count;
};

struct PulsePath {
    const char* name;
    void (*choose_from_seed)(std::uint64_t seed, std::uint64_t first, std::size_t count, const std::uint32_t* limits,
                             const PulseChoices& out);
    void (*choose_from_words)(const std::uint8_t* words, std::size_t count, const std::uint32_t* limits,
                              const PulseChoices& out);
    // Returns how many pulses were done.
    std::size_t (*detect)(const PulseArrivals& task, std::uint64_t first, const std::uint8_t* states,
                          std::size_t count, std::int64_t* state, PulseClicks& out);
};

extern const PulsePath pulses_portable_path;
#ifdef SHOSOIN_AVX2
extern const PulsePath pulses_avx2_path;
#endif
#ifdef SHOSOIN_AVX512
extern const PulsePath pulses_avx512_path;
#endif

}  // namespace shosoin
