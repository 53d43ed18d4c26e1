// Every path of this machine against multiplication on paper and against the portable path, on heap blocks of exactly
// the size a call may touch: built with -DSHOSOIN_SANITIZE=ON, so that a byte too far is an error.
#include "key_ids.h"
#include "kernels.h"
#include "sifting.h"
#include "toeplitz.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using namespace shosoin;

std::uint64_t state = 1;

std::uint64_t next_random() {  // any numbers will do; these are from Marsaglia's xorshift
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

Element random_element() { return {next_random(), next_random()}; }

// A heap block whose first byte is `offset` bytes into it and whose last byte is the last.
class Block {
  public:
    Block(std::size_t bytes, std::size_t offset) : offset_(offset), bytes_(bytes), memory_(new std::uint8_t[bytes + offset]) {
        for (std::size_t i = 0; i < bytes; ++i) begin()[i] = static_cast<std::uint8_t>(next_random());
    }
    Bytes begin() const { return memory_.get() + offset_; }
    bool operator==(const Block& other) const { return std::memcmp(begin(), other.begin(), bytes_) == 0; }

  private:
    std::size_t offset_, bytes_;
    std::unique_ptr<std::uint8_t[]> memory_;
};

std::vector<Bytes> begins(const std::vector<Block>& blocks) {
    std::vector<Bytes> result;
    for (const Block& block : blocks) result.push_back(block.begin());
    return result;
}

std::vector<Block> blocks(std::size_t n, std::size_t bytes, std::size_t offset) {
    std::vector<Block> result;
    for (std::size_t i = 0; i < n; ++i) result.emplace_back(bytes, (offset + 5 * i) % 64);
    return result;
}

void require(bool condition, const char* path, const char* what, std::size_t count) {
    if (condition) return;
    std::fprintf(stderr, "selftest: %s: %s is wrong at %zu elements\n", path, what, count);
    std::exit(1);
}

Element times_x(Element a) { return {a.lo << 1 ^ (a.hi >> 63) * 0x87, a.hi << 1 | a.lo >> 63}; }

Element multiply_on_paper(Element a, Element b) {
    Element product{0, 0};
    for (int i = 127; i >= 0; --i) {
        product = times_x(product);
        const std::uint64_t bit = (i < 64 ? b.lo >> i : b.hi >> (i - 64)) & 1;
        product = {product.lo ^ (a.lo * bit), product.hi ^ (a.hi * bit)};
    }
    return product;
}

void check_multiply(const Path& path) {
    for (int i = 0; i < 2000; ++i) {
        const Element a = random_element(), b = i % 3 ? random_element() : Element{std::uint64_t{1} << i % 64, 0};
        const Element got = path.multiply(a, b), expected = multiply_on_paper(a, b);
        require(got.lo == expected.lo && got.hi == expected.hi, path.name, "multiply", 1);
    }
}

void check_sharing(const Path& path, int k, int n, bool ours, std::size_t count, std::size_t offset) {
    const std::size_t bytes = count * kElementBytes;
    std::vector<Element> points;
    for (int i = 0; i < n; ++i) points.push_back(ours ? Element{static_cast<std::uint64_t>(i) + 1, 0} : random_element());
    const std::vector<Block> inputs = blocks(static_cast<std::size_t>(k), bytes, offset);
    const Block seed(kSeedBytes, offset % 16);
    const std::vector<ConstBytes> in = [&] {
        const std::vector<Bytes> all = begins(inputs);
        return std::vector<ConstBytes>(all.begin(), all.end());
    }();
    std::vector<Block> got[3], expected[3];
    for (int i = 0; i < 3; ++i) {
        got[i] = blocks(static_cast<std::size_t>(n), bytes, offset + 16);
        expected[i] = blocks(static_cast<std::size_t>(n), bytes, 0);
    }
    std::vector<Element> weights(static_cast<std::size_t>(n * k));
    for (Element& weight : weights) weight = random_element();
    for (const auto& [which, outputs] : {std::pair{&path, got}, std::pair{&portable_path, expected}}) {
        which->split(points.data(), k, n, in[0], in.data() + 1, begins(outputs[0]).data(), count);
        which->split_generated(points.data(), k, n, in[0], seed.begin(), offset, begins(outputs[1]).data(), count);
        which->linear_map(weights.data(), k, n, in.data(), begins(outputs[2]).data(), count);
    }
    require(got[0] == expected[0], path.name, "split", count);
    require(got[1] == expected[1], path.name, "split_generated", count);
    require(got[2] == expected[2], path.name, "linear_map", count);
}

void check_rest(const Path& path, std::size_t count, std::size_t offset) {
    const std::size_t bytes = count * kElementBytes;
    const Block a(bytes + 3, offset), b(bytes + 3, 63 - offset), got(bytes + 3, offset / 2), expected(bytes + 3, 0);
    const Element point = random_element();
    for (const bool ascending : {false, true}) {
        const Element x = path.evaluate(point, a.begin(), count, ascending);
        const Element y = portable_path.evaluate(point, a.begin(), count, ascending);
        require(x.lo == y.lo && x.hi == y.hi, path.name, "evaluate", count);
    }
    path.exclusive_or(a.begin(), b.begin(), got.begin(), bytes + 3);
    for (std::size_t i = 0; i < bytes + 3; ++i) expected.begin()[i] = a.begin()[i] ^ b.begin()[i];
    require(got == expected, path.name, "exclusive_or", count);
}

void check(const Path& path) {
    check_multiply(path);
    for (const std::size_t count : {0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65, 100, 513, 1100}) {
        for (const std::size_t offset : {0, 1, 16, 48}) {
            for (int k = 2; k <= 5; ++k) check_sharing(path, k, 5, true, count, offset);
            check_sharing(path, 3, 4, false, count, offset);
            check_sharing(path, 2, 2, true, count, offset);
            check_rest(path, count, offset);
        }
        check_sharing(path, 16, 16, true, count, 0);
    }
    check_sharing(path, 3, 5, true, 150'001, 16);  // large enough to go past the caches
    check_rest(path, 600'001, 16);
    std::printf("selftest: %s: right\n", path.name);
}

// An ID of each length of context around the ends of a hash's blocks, made and read on blocks of exactly that size.
void check_key_ids() {
    const Block secret(kKeyIdSecretBytes, 3);
    const KeyIds ids(secret.begin());
    for (std::size_t context_bytes : {0, 1, 115, 116, 117, 128, 244, 245}) {
        const Block context(context_bytes, 1), text(kKeyIdChars, 5);
        const KeyAddress made{next_random() >> 20, static_cast<std::uint32_t>(next_random() >> 44) + 1};
        KeyAddress read{};
        char* const chars = reinterpret_cast<char*>(text.begin());
        ids.encode(context.begin(), context_bytes, made, chars);
        const bool genuine = ids.decode(context.begin(), context_bytes, chars, made.offset, read);
        require(genuine && read.offset == made.offset && read.length == made.length, "portable", "key_id", context_bytes);
        chars[35] = chars[35] == '0' ? '1' : '0';
        require(!ids.decode(context.begin(), context_bytes, chars, made.offset, read), "portable", "a forged key_id",
                context_bytes);
    }
}

int bit_at(const Block& block, std::uint64_t i) { return block.begin()[i / 8] >> (i % 8) & 1; }

// Rows of a Toeplitz product by its definition: the ends of the output and some between.
void check_toeplitz(const ToeplitzPath& path, std::uint64_t key_bits, std::uint64_t output_bits, int log_points) {
    const Block key((key_bits + 7) / 8, 3), seed((key_bits + output_bits + 6) / 8, 1), output((output_bits + 7) / 8, 7);
    require(toeplitz_multiply(path, key.begin(), key_bits, seed.begin(), output.begin(), output_bits, log_points),
            path.name, "memory for toeplitz", key_bits);
    for (std::uint64_t row = 0; row < output_bits; row += 1 + next_random() % (1 + output_bits / 40)) {
        for (const std::uint64_t i : {row, output_bits - 1 - row}) {
            int sum = 0;
            for (std::uint64_t j = 0; j < key_bits; ++j) sum ^= bit_at(seed, i + key_bits - 1 - j) & bit_at(key, j);
            require(sum == bit_at(output, i), path.name, "toeplitz", key_bits);
        }
    }
    for (std::uint64_t i = output_bits; i % 8; ++i) require(bit_at(output, i) == 0, path.name, "toeplitz's end", key_bits);
}

// Bits of a product of which one factor is short, so that paper is quick.
void check_long_product(const ToeplitzPath& path, std::size_t a_bytes, std::size_t b_bytes, int log_points) {
    const Block a(a_bytes, 5), b(b_bytes, 9), output(a_bytes + b_bytes, 2), expected(a_bytes + b_bytes, 0);
    std::memset(expected.begin(), 0, a_bytes + b_bytes);
    for (std::uint64_t j = 0; j < 8 * b_bytes; ++j) {
        if (!bit_at(b, j)) continue;
        for (std::uint64_t i = 0; i < 8 * a_bytes; ++i) {
            expected.begin()[(i + j) / 8] ^= static_cast<std::uint8_t>(bit_at(a, i) << ((i + j) % 8));
        }
    }
    require(long_product(path, a.begin(), a_bytes, b.begin(), b_bytes, output.begin(), log_points), path.name,
            "memory for a product", a_bytes);
    require(output == expected, path.name, "long_product", a_bytes);
}

void check_long_products(const ToeplitzPath& path) {
    for (const std::uint64_t bits : {1, 7, 64, 65, 513, 8191, 8192, 8193, 16385}) {
        for (const std::uint64_t more : {1, 63, 8192, 8193}) {
            check_toeplitz(path, bits, more, 0);
            check_toeplitz(path, more, bits, kLogPointsMin);
        }
    }
    for (int log_points = kLogPointsMin; log_points <= 13; ++log_points) {
        check_toeplitz(path, 20 * 8192 + 5, 3 * 8192 + 1, log_points);
        check_long_product(path, 5003, 41, log_points);
        check_long_product(path, 17, 3001, log_points);
    }
    check_toeplitz(path, 40'000, 1'000, kLogPointsMax);
    std::printf("selftest: %s: long products right\n", path.name);
}

const SiftingPath& sifting_of(const char* name) {
#ifdef SHOSOIN_AVX512
    if (std::strcmp(name, sifting_avx512_path.name) == 0) return sifting_avx512_path;
#endif
#ifdef SHOSOIN_AVX2
    if (std::strcmp(name, sifting_avx2_path.name) == 0) return sifting_avx2_path;
#endif
    (void)name;
    return sifting_portable_path;
}

// A record looked up at every third pulse, those kept that have a bit, and what is kept, packed: one by one, and at once.
void check_sifting(const SiftingPath& path, std::size_t count) {
    const std::size_t sent = 3 * count, packed = (sent + 7) / 8;
    const Block bits(packed, 1), bases(packed, 2), levels(sent, 3), found(count, 4), test(count, 5), level(count, 6);
    std::vector<std::int64_t> pulses(count), back(count), places(count);
    for (std::size_t i = 0; i < count; ++i) pulses[i] = static_cast<std::int64_t>(7 + 3 * i);
    const SentRecord record{7, sent, bits.begin(), bases.begin(), levels.begin()};
    bool right = path.look_up(record, pulses.data(), count, found.begin(), test.begin(), level.begin());
    for (std::size_t i = 0; i < count; ++i) {
        right = right && found.begin()[i] == bit_at(bits, 3 * i) && test.begin()[i] == bit_at(bases, 3 * i) &&
                level.begin()[i] == levels.begin()[3 * i];
    }
    const Block is_key(count, 7), keys(count, 1), steps(count ? 2 * (count - 1) : 0, 3), mask((count + 7) / 8, 5);
    const std::size_t kept = path.keep(found.begin(), test.begin(), level.begin(), count, is_key.begin(), keys.begin());
    right = right && path.places(is_key.begin(), count, places.data(), kept);
    for (std::size_t i = 0; i < kept; ++i) {
        right = right && keys.begin()[i] == level.begin()[static_cast<std::size_t>(places[i])];
    }
    if (count) {
        path.steps(pulses.data(), count, 2, steps.begin());
        path.pulses(7, steps.begin(), 2, back.data(), count);
        right = right && back == pulses && path.largest_step(pulses.data(), count) == (count > 1 ? 2 : 0);
    }
    const Block low((count + 7) / 8, 6);
    std::uint8_t* const masks[] = {mask.begin()};
    path.pack(found.begin(), count, low.begin(), masks, 1);
    for (std::size_t i = 0; i < count; ++i) right = right && bit_at(low, i) == found.begin()[i] && bit_at(mask, i) == 1;
    require(right, path.name, "sifting", count);
}

}  // namespace

int main() {
    for (const Path* const* path = available_paths(); *path; ++path) {
        check(**path);
        check_long_products(*toeplitz_of((*path)->name));
        for (std::size_t count = 0; count < 200; ++count) check_sifting(sifting_of((*path)->name), count);
    }
    check_key_ids();
}
