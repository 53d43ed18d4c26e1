// Sifting: what is done to every detection before its bits are in a block, on one CPU path.
// `shosoin.kernels.reference_sifting` is the specification. Callers have checked every size. Which detections remain is
// public; no branch and no address depends on a bit or an intensity.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shosoin {

// What a transmitter recorded of consecutive pulses: packed bits and bases, an octet of intensity for each.
struct SentRecord {
    std::int64_t first;
    std::size_t count;
    const std::uint8_t* bits;
    const std::uint8_t* bases;
    const std::uint8_t* intensities;
};

struct SiftingPath {
    const char* name;
    // Writes the indices of octets that are not zero; false if they are not exactly `room`.
    bool (*places)(const std::uint8_t* mask, std::size_t count, std::int64_t* to, std::size_t room);
    // Returns how many octets of `keys` are written; it has room for `count`.
    std::size_t (*keep)(const std::uint8_t* is_kept, const std::uint8_t* is_test, const std::uint8_t* values,
                        std::size_t count, std::uint8_t* is_key, std::uint8_t* keys);
    // False if a pulse is not of the record; what is written is then of no use.
    bool (*look_up)(const SentRecord& sent, const std::int64_t* pulses, std::size_t count, std::uint8_t* bits,
                    std::uint8_t* bases, std::uint8_t* intensities);
    // The largest difference of neighbours, less one; 0 if there are none.
    std::uint64_t (*largest_step)(const std::int64_t* pulses, std::size_t count);
    // Differences of `count` pulses, less one, in `width` octets each: 1, 2, 4 or 8.
    void (*steps)(const std::int64_t* pulses, std::size_t count, int width, std::uint8_t* to);
    void (*pulses)(std::int64_t first, const std::uint8_t* steps, int width, std::int64_t* to, std::size_t count);
    // The lowest bits of codes, and for each intensity which codes are of it, packed.
    void (*pack)(const std::uint8_t* codes, std::size_t count, std::uint8_t* bits, std::uint8_t* const* masks,
                 int intensities);
};

extern const SiftingPath sifting_portable_path;
#ifdef SHOSOIN_AVX2
extern const SiftingPath sifting_avx2_path;
#endif
#ifdef SHOSOIN_AVX512
extern const SiftingPath sifting_avx512_path;
#endif

}  // namespace shosoin
