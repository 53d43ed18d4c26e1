// Sifting, written once. A unit defines in an unnamed namespace, and then includes this file:
//
//   mask64(p)                 bit i is whether octet i of the 64 at p is not zero
//   select64(to, from, mask)  puts the octets of the 64 at `from` whose bit is set at `to`, one after the other, and
//                             returns how many; it may write all 64 octets at `to`
//
// Loops over octets and numbers are plain: compilers make vectors of them, each unit's own.
#pragma once

#include <cstring>

#include "kernels.h"
#include "sifting.h"

namespace shosoin {
namespace {

constexpr std::size_t kWord = 64;

// Up to 64 octets, filled up with zeros, so that the last piece goes the way of all others.
struct Padded {
    std::uint8_t octets[kWord] = {};

    Padded() = default;
    Padded(const std::uint8_t* from, std::size_t count) { std::memcpy(octets, from, count); }
    Padded(const Padded&) = delete;
    Padded& operator=(const Padded&) = delete;
    ~Padded() { wipe(octets, sizeof octets); }
};

std::uint64_t mask_of(const std::uint8_t* from, std::size_t count) {
    if (count == kWord) return mask64(from);
    const Padded padded(from, count);
    return mask64(padded.octets);
}

bool places(const std::uint8_t* mask, std::size_t count, std::int64_t* to, std::size_t room) {
    std::size_t found = 0;
    for (std::size_t i = 0; i < count; i += kWord) {
        std::uint64_t hits = mask_of(mask + i, count - i < kWord ? count - i : kWord);
        const auto more = static_cast<std::size_t>(__builtin_popcountll(hits));
        if (more > room - found) return false;
        for (; hits; hits &= hits - 1) to[found++] = static_cast<std::int64_t>(i) + __builtin_ctzll(hits);
    }
    return found == room;
}

std::size_t keep64(const std::uint8_t* is_kept, const std::uint8_t* is_test, const std::uint8_t* values,
                   std::uint8_t* is_key, std::uint8_t* keys) {
    for (std::size_t i = 0; i < kWord; ++i) is_key[i] = static_cast<std::uint8_t>((is_kept[i] != 0) & (is_test[i] == 0));
    return select64(keys, values, mask64(is_kept) & ~mask64(is_test));
}

std::size_t keep(const std::uint8_t* is_kept, const std::uint8_t* is_test, const std::uint8_t* values,
                 std::size_t count, std::uint8_t* is_key, std::uint8_t* keys) {
    std::size_t found = 0, i = 0;
    // What is found is never more than what was looked at, so a whole piece fits behind it.
    for (; i + kWord <= count; i += kWord) {
        found += keep64(is_kept + i, is_test + i, values + i, is_key + i, keys + found);
    }
    if (const std::size_t rest = count - i; rest) {
        const Padded kept(is_kept + i, rest), test(is_test + i, rest), value(values + i, rest);
        Padded key, selected;
        const std::size_t more = keep64(kept.octets, test.octets, value.octets, key.octets, selected.octets);
        std::memcpy(is_key + i, key.octets, rest);
        std::memcpy(keys + found, selected.octets, more);
        found += more;
    }
    return found;
}

bool look_up(const SentRecord& sent, const std::int64_t* pulses, std::size_t count, std::uint8_t* bits,
             std::uint8_t* bases, std::uint8_t* intensities) {
    const SentRecord here = sent;  // in registers: for all the compiler knows, octets written below might be of `sent`
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t at = static_cast<std::uint64_t>(pulses[i]) - static_cast<std::uint64_t>(here.first);
        if (at >= here.count) return false;
        const auto shift = static_cast<unsigned>(at & 7);
        bits[i] = static_cast<std::uint8_t>(here.bits[at >> 3] >> shift & 1);
        bases[i] = static_cast<std::uint8_t>(here.bases[at >> 3] >> shift & 1);
        intensities[i] = here.intensities[at];
    }
    return true;
}

inline std::uint64_t step(const std::int64_t* pulses, std::size_t i) {
    return static_cast<std::uint64_t>(pulses[i + 1]) - static_cast<std::uint64_t>(pulses[i]) - 1;
}

std::uint64_t largest_step(const std::int64_t* pulses, std::size_t count) {
    std::uint64_t largest = 0;
    for (std::size_t i = 0; i + 1 < count; ++i) {
        const std::uint64_t here = step(pulses, i);
        largest = here > largest ? here : largest;
    }
    return largest;
}

template <class Step>
void steps_of(const std::int64_t* pulses, std::size_t count, std::uint8_t* to) {
    for (std::size_t i = 0; i + 1 < count; ++i) {
        const auto value = static_cast<Step>(step(pulses, i));
        std::memcpy(to + i * sizeof value, &value, sizeof value);
    }
}

void steps(const std::int64_t* pulses, std::size_t count, int width, std::uint8_t* to) {
    if (width == 1) return steps_of<std::uint8_t>(pulses, count, to);
    if (width == 2) return steps_of<std::uint16_t>(pulses, count, to);
    if (width == 4) return steps_of<std::uint32_t>(pulses, count, to);
    steps_of<std::uint64_t>(pulses, count, to);
}

template <class Step>
void pulses_of(std::int64_t first, const std::uint8_t* steps, std::int64_t* to, std::size_t count) {
    auto pulse = static_cast<std::uint64_t>(first);
    for (std::size_t i = 0; i < count; ++i) {
        if (i) {
            Step value;
            std::memcpy(&value, steps + (i - 1) * sizeof value, sizeof value);
            pulse += std::uint64_t{1} + value;
        }
        to[i] = static_cast<std::int64_t>(pulse);
    }
}

void pulses(std::int64_t first, const std::uint8_t* steps, int width, std::int64_t* to, std::size_t count) {
    if (width == 1) return pulses_of<std::uint8_t>(first, steps, to, count);
    if (width == 2) return pulses_of<std::uint16_t>(first, steps, to, count);
    if (width == 4) return pulses_of<std::uint32_t>(first, steps, to, count);
    pulses_of<std::uint64_t>(first, steps, to, count);
}

void pack64(const std::uint8_t* codes, std::uint8_t* to[], int planes, std::size_t octets, Padded& plane) {
    for (int p = 0; p < planes; ++p) {
        for (std::size_t i = 0; i < kWord; ++i) {
            plane.octets[i] = static_cast<std::uint8_t>(p ? codes[i] >> 1 == p - 1 : codes[i] & 1);
        }
        const std::uint64_t word = mask64(plane.octets);
        std::memcpy(to[p], &word, octets);
        to[p] += octets;
    }
}

void pack(const std::uint8_t* codes, std::size_t count, std::uint8_t* bits, std::uint8_t* const* masks,
          int intensities) {
    std::uint8_t* to[5] = {bits, nullptr, nullptr, nullptr, nullptr};
    for (int k = 0; k < intensities; ++k) to[k + 1] = masks[k];
    Padded plane;
    std::size_t i = 0;
    for (; i + kWord <= count; i += kWord) pack64(codes + i, to, intensities + 1, 8, plane);
    if (const std::size_t rest = count - i; rest) {
        Padded last;
        std::memset(last.octets, 0xFE, kWord);  // no bit, and of no intensity
        std::memcpy(last.octets, codes + i, rest);
        pack64(last.octets, to, intensities + 1, (rest + 7) / 8, plane);
    }
}

}  // namespace
}  // namespace shosoin
