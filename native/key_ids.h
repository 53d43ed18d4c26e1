// key_IDs of a key stream: the addresses of keys, masked and authenticated. `shosoin.kernels.key_ids` is the
// specification and tells the layout. Nothing here branches or loads by a secret.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shosoin {

inline constexpr std::size_t kKeyIdSecretBytes = 64;
inline constexpr std::size_t kKeyIdChars = 36;

struct KeyAddress {
    std::uint64_t offset;  // in granules
    std::uint32_t length;  // in bytes
};

// BLAKE2b (RFC 7693) with a 32-byte key, a personalisation and 8 bytes of digest, after its key block.
struct KeyedHash {
    std::uint64_t state[8];

    KeyedHash(const std::uint8_t* key, const char* person);
    std::uint64_t digest(const std::uint8_t* first, std::size_t first_bytes, const std::uint8_t* second,
                         std::size_t second_bytes) const;  // of both in a row, as a little-endian integer
};

class KeyIds {
  public:
    explicit KeyIds(const std::uint8_t* secret);
    ~KeyIds();
    KeyIds(const KeyIds&) = delete;
    KeyIds& operator=(const KeyIds&) = delete;

    void encode(const std::uint8_t* context, std::size_t context_bytes, KeyAddress address, char* text) const;

    // Whether the text is the ID of an address, the nearest to `near`, under this context.
    bool decode(const std::uint8_t* context, std::size_t context_bytes, const char* text, std::uint64_t near,
                KeyAddress& address) const;

  private:
    std::uint64_t tag_of(const std::uint8_t* context, std::size_t context_bytes, KeyAddress address) const;
    std::uint64_t mask_of(std::uint64_t tag) const;

    KeyedHash tag_, mask_;
};

}  // namespace shosoin
