// Long products in plain C++, one piece after the other; and what no path does: the choice of sizes, the scratch memory.
#include "toeplitz.h"
#include "toeplitz_field.h"

#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <sys/mman.h>
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are little-endian in memory");

namespace shosoin {
namespace {

using Vec = Word;

constexpr std::size_t kLanes = 1;

inline Vec load(const Word* p) { return *p; }
inline void store(Word* p, Vec v) { *p = v; }
inline Vec zero() { return 0; }
inline Vec xor2(Vec a, Vec b) { return a ^ b; }
inline Vec or2(Vec a, Vec b) { return a | b; }
inline Vec xor3(Vec a, Vec b, Vec c) { return a ^ b ^ c; }
inline Vec repeat(Word word) { return word; }
inline Vec load_bytes(ConstBytes p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline void store_bytes(Bytes p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec shl(Vec v, int n) { return v << n; }
inline Vec shr(Vec v, int n) { return v >> n; }

using Constant = Pair;

inline Constant constant(Pair pair) { return pair; }
inline Constant add(Constant a, Constant b) { return {a.w ^ b.w, a.quotient ^ b.quotient}; }

struct Wide {
    Word low, high;
};

// Carry-less product by integer products, as in portable.cpp: every fifth bit of a factor at a time, so that the carries
// of at most 13 ones stay in the four zeros above their column.
inline Wide carryless_product(Word x, Word y) {
    using Double = unsigned __int128;
    constexpr Word every_fifth = 0x1084210842108421;
    Word a[5], b[5];
    for (int i = 0; i < 5; ++i) {
        a[i] = x & every_fifth << i;
        b[i] = y & every_fifth << i;
    }
    constexpr Double columns = static_cast<Double>(every_fifth << 1) << 64 | every_fifth;
    Double product = 0;
    for (int r = 0; r < 5; ++r) {
        Double sum = 0;
        for (int i = 0; i < 5; ++i) sum ^= static_cast<Double>(a[i]) * b[(r + 5 - i) % 5];
        product ^= sum & columns << r;
    }
    return {static_cast<Word>(product), static_cast<Word>(product >> 64)};
}

// The low word of it takes words only.
inline Word low_product(Word x, Word y) {
    constexpr Word every_fifth = 0x1084210842108421;
    Word product = 0;
    for (int r = 0; r < 5; ++r) {
        Word sum = 0;
        for (int i = 0; i < 5; ++i) sum ^= (x & every_fifth << i) * (y & every_fifth << (r + 5 - i) % 5);
        product ^= sum & every_fifth << r;
    }
    return product;
}

// v w = low(v w) + low(floor(v quotient / y^64) P)
inline Vec multiply(Vec v, Constant w) {
    return low_product(v, w.w) ^ low_product(carryless_product(v, w.quotient).high, kPolynomialLow);
}

inline void clear(Wide& sum) { sum = {0, 0}; }
inline void add_product(Wide& sum, Vec a, Vec b) {
    const Wide product = carryless_product(a, b);
    sum = {sum.low ^ product.low, sum.high ^ product.high};
}

// high y^64 = low(floor(high y^64 / P) P)
inline Vec reduce(const Wide& sum) {
    return sum.low ^ low_product(sum.high ^ carryless_product(sum.high, kQuotientLow).high, kPolynomialLow);
}

// Exchanges of ever smaller squares across the diagonal (Warren, Hacker's Delight, 7-3).
template <int Rows>
inline void transpose(Vec* v) {
    for (int j = Rows; j < 64; ++j) v[j] = 0;
    Word mask = 0x00000000ffffffff;
    for (int s = 32; s; s >>= 1, mask ^= mask << s) {
        for (int j = 0; j < 64; j = (j + s + 1) & ~s) {
            const Word t = (v[j] >> s ^ v[j + s]) & mask;
            v[j + s] ^= t;
            v[j] ^= t << s;
        }
    }
}

inline void transpose_lanes(Vec*) {}

}  // namespace
}  // namespace shosoin

#include "toeplitz_engine.h"

namespace shosoin {
namespace {

// About what a job costs, in clock cycles of the fastest path. From 2^13 points on the pieces outgrow the caches.
double cost(const ProductJob& job, int lanes) {
    const auto groups = [&](std::uint64_t pieces) {
        return static_cast<double>((pieces + static_cast<std::uint64_t>(lanes) - 1) / static_cast<std::uint64_t>(lanes));
    };
    const std::uint64_t a = job.pieces(job.a), b = job.pieces(job.b);
    const double sums = groups(job.output_pieces() + 1);
    const int far = job.log_points > 12 ? job.log_points - 12 : 0;
    const double transforms = (groups(a) + groups(b) + 1.3 * sums) * (24 + 4 * job.log_points + 7 * far);
    const double products = 2.3 * static_cast<double>(a < b ? a : b) * sums;
    return (transforms + products) * static_cast<double>(std::uint64_t{1} << job.log_points);
}

// The job with the size of transform that costs least; make(log_points) is the job of one size.
template <class Make>
ProductJob best_job(const Make& make, int lanes, int log_points) {
    ProductJob best = make(log_points ? log_points : kLogPointsMin);
    if (log_points) return best;
    for (int size = kLogPointsMin + 1; size <= kLogPointsMax; ++size) {
        const ProductJob job = make(size);
        if (cost(job, lanes) < cost(best, lanes)) best = job;
    }
    return best;
}

constexpr std::size_t kLargePageBytes = std::size_t{2} << 20;
constexpr std::size_t kLargePagesFromBytes = std::size_t{32} << 20;  // the C library keeps less for the next call

// Memory aligned to 64 bytes. Much of it comes in large pages where the system has them: touching a page for the first
// time, and finding it again, would otherwise take a quarter of the time.
void* new_scratch(std::size_t bytes) {
    const std::size_t unit = bytes < kLargePagesFromBytes ? 64 : kLargePageBytes;
    const std::size_t whole = (bytes + unit - 1) / unit * unit;
    void* memory = std::aligned_alloc(unit, whole);
#ifdef MADV_HUGEPAGE
    if (memory && unit == kLargePageBytes) madvise(memory, whole, MADV_HUGEPAGE);  // a wish: failing changes nothing
#endif
    return memory;
}

bool run(const ToeplitzPath& path, const ProductJob& job) {
    void* scratch = new_scratch(path.scratch_bytes(job));
    if (!scratch) return false;
    path.multiply(job, static_cast<Bytes>(scratch));
    std::free(scratch);
    return true;
}

}  // namespace

constexpr ToeplitzPath toeplitz_portable = toeplitz_named("portable");

const ToeplitzPath* toeplitz_of(const char* path) {
#ifdef SHOSOIN_AVX512
    if (!std::strcmp(path, "avx512")) return &toeplitz_avx512;
#endif
#ifdef SHOSOIN_AVX2
    if (!std::strcmp(path, "avx2")) return &toeplitz_avx2;
#endif
    return std::strcmp(path, "portable") ? nullptr : &toeplitz_portable;
}

// The output is bits key_bits - 1 and on of the product of key and seed. The key times a power of X that makes it whole
// pieces, and the seed times X, bring it to the beginning of a piece.
bool toeplitz_multiply(const ToeplitzPath& path, ConstBytes key, Word key_bits, ConstBytes seed, Bytes output,
                       Word output_bits, int log_points) {
    const auto make = [&](int size) {
        ProductJob job{{key, key_bits, 0}, {seed, key_bits + output_bits - 1, 1}, 0, output, output_bits, size};
        job.first = job.pieces(job.a);
        job.a.shift = job.first * job.piece_bits() - key_bits;
        return job;
    };
    return run(path, best_job(make, path.lanes, log_points));
}

bool long_product(const ToeplitzPath& path, ConstBytes a, Word a_bytes, ConstBytes b, Word b_bytes,
                  Bytes output, int log_points) {
    if (a_bytes == 0 || b_bytes == 0) {
        std::memset(output, 0, static_cast<std::size_t>(a_bytes + b_bytes));
        return true;
    }
    const auto make = [&](int size) {
        return ProductJob{{a, a_bytes * 8, 0}, {b, b_bytes * 8, 0}, 0, output, (a_bytes + b_bytes) * 8, size};
    };
    return run(path, best_job(make, path.lanes, log_points));
}

}  // namespace shosoin
