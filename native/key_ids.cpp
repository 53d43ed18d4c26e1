#include "key_ids.h"

#include <cstring>
#include <utility>

#include "kernels.h"

namespace shosoin {
namespace {

constexpr std::size_t kBlockBytes = 128;
constexpr int kOffsetBits = 36, kLengthBits = 21, kAddressBits = 58;
constexpr std::uint64_t kSpan = std::uint64_t{1} << kOffsetBits;
constexpr std::uint64_t kAddressMask = (std::uint64_t{1} << kAddressBits) - 1;

// RFC 7693, sections 2.6 and 2.7.
constexpr std::uint64_t kInitial[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                       0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
constexpr std::uint8_t kSchedule[10][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0}};

std::uint64_t rotated(std::uint64_t word, int by) { return word >> by | word << (64 - by); }

std::uint64_t little_endian(const std::uint8_t* bytes) {
    std::uint64_t word = 0;
    for (int i = 7; i >= 0; --i) word = word << 8 | bytes[i];
    return word;
}

inline void mix(std::uint64_t& a, std::uint64_t& b, std::uint64_t& c, std::uint64_t& d, std::uint64_t x, std::uint64_t y) {
    a += b + x;
    d = rotated(d ^ a, 32);
    c += d;
    b = rotated(b ^ c, 24);
    a += b + y;
    d = rotated(d ^ a, 16);
    c += d;
    b = rotated(b ^ c, 63);
}

template <std::size_t kRound>
void run_round(std::uint64_t* v, const std::uint64_t* words) {
    constexpr const std::uint8_t(&s)[16] = kSchedule[kRound % 10];
    mix(v[0], v[4], v[8], v[12], words[s[0]], words[s[1]]);
    mix(v[1], v[5], v[9], v[13], words[s[2]], words[s[3]]);
    mix(v[2], v[6], v[10], v[14], words[s[4]], words[s[5]]);
    mix(v[3], v[7], v[11], v[15], words[s[6]], words[s[7]]);
    mix(v[0], v[5], v[10], v[15], words[s[8]], words[s[9]]);
    mix(v[1], v[6], v[11], v[12], words[s[10]], words[s[11]]);
    mix(v[2], v[7], v[8], v[13], words[s[12]], words[s[13]]);
    mix(v[3], v[4], v[9], v[14], words[s[14]], words[s[15]]);
}

// One after the other in straight code, so that every index is a constant and all words stay in registers.
template <std::size_t... kRounds>
void run_rounds(std::uint64_t* v, const std::uint64_t* words, std::index_sequence<kRounds...>) {
    (run_round<kRounds>(v, words), ...);
}

// `hashed`: bytes of the message up to the end of this block.
void compress(std::uint64_t* state, const std::uint8_t* block, std::uint64_t hashed, bool last) {
    std::uint64_t words[16], v[16];
    for (int i = 0; i < 16; ++i) words[i] = little_endian(block + 8 * i);
    for (int i = 0; i < 8; ++i) {
        v[i] = state[i];
        v[i + 8] = kInitial[i];
    }
    v[12] ^= hashed;
    if (last) v[14] = ~v[14];
    run_rounds(v, words, std::make_index_sequence<12>());
    for (int i = 0; i < 8; ++i) state[i] ^= v[i] ^ v[i + 8];
}

// What a text of 36 characters may have where a UUID of version 8 has hexadecimal digits; the rest is fixed.
int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

bool is_hyphen(std::size_t place) { return place == 8 || place == 13 || place == 18 || place == 23; }

// The 128 bits of the ID as two integers, in reading order.
bool parse(const char* text, std::uint64_t& high, std::uint64_t& low) {
    std::uint64_t halves[2] = {0, 0};
    for (std::size_t place = 0, digits = 0; place < kKeyIdChars; ++place) {
        if (is_hyphen(place)) {
            if (text[place] != '-') return false;
            continue;
        }
        const int digit = digit_of(text[place]);
        if (digit < 0) return false;
        std::uint64_t& half = halves[digits++ / 16];
        half = half << 4 | static_cast<std::uint64_t>(digit);
    }
    high = halves[0];
    low = halves[1];
    return (high >> 12 & 0xf) == 8 && low >> 62 == 2;
}

void print(std::uint64_t high, std::uint64_t low, char* text) {
    for (std::size_t place = 0, digits = 0; place < kKeyIdChars; ++place) {
        if (is_hyphen(place)) {
            text[place] = '-';
            continue;
        }
        const std::uint64_t half = digits < 16 ? high : low;
        text[place] = "0123456789abcdef"[half >> (60 - 4 * (digits++ % 16)) & 0xf];
    }
}

std::uint64_t swapped(std::uint64_t word) {
    std::uint64_t result = 0;
    for (int i = 0; i < 8; ++i) result = result << 8 | (word >> 8 * i & 0xff);
    return result;
}

}  // namespace

KeyedHash::KeyedHash(const std::uint8_t* key, const char* person) {
    std::uint8_t parameters[64] = {8, 32, 1, 1}, block[kBlockBytes] = {};
    std::memcpy(parameters + 48, person, std::strlen(person));  // at most 16
    for (int i = 0; i < 8; ++i) state[i] = kInitial[i] ^ little_endian(parameters + 8 * i);
    std::memcpy(block, key, 32);
    compress(state, block, kBlockBytes, false);
    wipe(block, sizeof block);
}

std::uint64_t KeyedHash::digest(const std::uint8_t* first, std::size_t first_bytes, const std::uint8_t* second,
                                std::size_t second_bytes) const {
    std::uint64_t now[8], hashed = kBlockBytes;
    std::memcpy(now, state, sizeof now);
    std::uint8_t block[kBlockBytes];
    std::size_t filled = 0;
    const std::size_t total = first_bytes + second_bytes;
    for (std::size_t at = 0; at < total;) {
        if (filled == kBlockBytes) {
            compress(now, block, hashed += kBlockBytes, false);
            filled = 0;
        }
        const bool in_first = at < first_bytes;
        const std::uint8_t* from = in_first ? first + at : second + (at - first_bytes);
        const std::size_t left = in_first ? first_bytes - at : total - at;
        const std::size_t count = left < kBlockBytes - filled ? left : kBlockBytes - filled;
        std::memcpy(block + filled, from, count);
        filled += count;
        at += count;
    }
    std::memset(block + filled, 0, kBlockBytes - filled);
    compress(now, block, hashed + filled, true);
    return now[0];
}

KeyIds::KeyIds(const std::uint8_t* secret)
    : tag_(secret, "shosoin kid tag"), mask_(secret + 32, "shosoin kid mask") {}

KeyIds::~KeyIds() {
    wipe(&tag_, sizeof tag_);
    wipe(&mask_, sizeof mask_);
}

void KeyIds::encode(const std::uint8_t* context, std::size_t context_bytes, KeyAddress address, char* text) const {
    const std::uint64_t tag = tag_of(context, context_bytes, address);
    const std::uint64_t plain = address.offset % kSpan << kLengthBits | address.length;
    const std::uint64_t high = (tag >> 16) << 16 | std::uint64_t{8} << 12 | (tag >> 4 & 0xfff);
    const std::uint64_t low = std::uint64_t{2} << 62 | (tag & 0xf) << kAddressBits | (plain ^ mask_of(tag));
    print(high, low, text);
}

bool KeyIds::decode(const std::uint8_t* context, std::size_t context_bytes, const char* text, std::uint64_t near,
                    KeyAddress& address) const {
    std::uint64_t high, low;
    if (!parse(text, high, low)) return false;
    const std::uint64_t tag = (high >> 16) << 16 | (high & 0xfff) << 4 | (low >> kAddressBits & 0xf);
    const std::uint64_t plain = (low & kAddressMask) ^ mask_of(tag);
    const std::uint64_t place = plain >> kLengthBits;
    const std::uint64_t base = near > kSpan / 2 ? near - kSpan / 2 : 0;
    address.offset = base + ((place - base) & (kSpan - 1));
    address.length = static_cast<std::uint32_t>(plain & ((1u << kLengthBits) - 1));
    const std::uint64_t wrong = tag ^ tag_of(context, context_bytes, address);
    return wrong == 0 && place < kSpan && address.length > 0;
}

// The tag in reading order: as a big-endian integer.
std::uint64_t KeyIds::tag_of(const std::uint8_t* context, std::size_t context_bytes, KeyAddress address) const {
    std::uint8_t packed[12];
    for (int i = 0; i < 8; ++i) packed[i] = static_cast<std::uint8_t>(address.offset >> (56 - 8 * i));
    for (int i = 0; i < 4; ++i) packed[8 + i] = static_cast<std::uint8_t>(address.length >> (24 - 8 * i));
    return swapped(tag_.digest(context, context_bytes, packed, sizeof packed));
}

std::uint64_t KeyIds::mask_of(std::uint64_t tag) const {
    std::uint8_t packed[8];
    for (int i = 0; i < 8; ++i) packed[i] = static_cast<std::uint8_t>(tag >> (56 - 8 * i));
    return swapped(mask_.digest(packed, sizeof packed, nullptr, 0)) & kAddressMask;
}

}  // namespace shosoin
