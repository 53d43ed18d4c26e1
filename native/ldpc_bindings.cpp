// Python's view of the LDPC kernels: checks shapes, lays out memory, gives up the interpreter's lock, calls, wipes.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include "ldpc.h"
#include "python_buffers.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shosoin {
namespace {

constexpr std::size_t kRowsMax = 4096, kColumnsMax = 8192, kLiftingMax = 1 << 15;
constexpr std::size_t kIterationsMax = 100000;
constexpr std::size_t kWorkspaceMax = std::size_t{1} << 30;  // a long frame takes 11 MB at most
constexpr int kKnown = 32767;

const LdpcPath& ldpc_path_of(const std::string& name) {
#ifdef SHOSOIN_AVX512
    if (name == "avx512" && path_of(name).name == name) return ldpc_avx512_path;
#endif
#ifdef SHOSOIN_AVX2
    if (name == "avx2" && path_of(name).name == name) return ldpc_avx2_path;
#endif
    if (name == "portable") return ldpc_portable_path;
    refuse("this machine has no kernels named " + name);
}

// Aligned memory that is zero at first, and wiped at the end. The decoder reads columns in no order, so large pages spare
// it much: the system is asked for them where it has them.
class Secret {
  public:
    explicit Secret(std::size_t bytes) {
        const std::size_t unit = bytes < kLargePage / 2 ? 64 : kLargePage;
        bytes_ = (bytes + unit - 1) / unit * unit;
        memory_ = std::aligned_alloc(unit, bytes_);
        if (!memory_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (unit == kLargePage) madvise(memory_, bytes_, MADV_HUGEPAGE);
#endif
        std::memset(memory_, 0, bytes_);
    }
    Secret(const Secret&) = delete;
    Secret& operator=(const Secret&) = delete;
    ~Secret() {
        wipe(memory_, bytes_);
        std::free(memory_);
    }
    Bytes bytes() const { return static_cast<Bytes>(memory_); }

  private:
    static constexpr std::size_t kLargePage = std::size_t{2} << 20;

    std::size_t bytes_ = 0;
    void* memory_ = nullptr;
};

// The edges by row, those of left out columns dropped.
struct Graph {
    Graph(std::size_t rows, std::size_t lifting, const nb::bytes& packed, const std::vector<std::int16_t>& magnitudes) {
        if (rows == 0 || rows > kRowsMax || lifting == 0 || lifting > kLiftingMax || lifting % kLdpcLiftingStep ||
            magnitudes.empty() || magnitudes.size() > kColumnsMax || packed.size() % 6) {
            refuse("a code has 1 to 4096 rows, 1 to 8192 columns, edges of 6 bytes and a lifting that is a multiple of "
                   "512 and at most 32768");
        }
        starts.assign(rows + 1, 0);
        std::vector<std::size_t> last_row(magnitudes.size(), rows), degrees(magnitudes.size(), 0);
        std::size_t row = 0;
        for (std::size_t at = 0; at < packed.size(); at += 6) {
            std::uint16_t edge[3];
            std::memcpy(edge, packed.c_str() + at, sizeof edge);
            if (edge[0] < row || edge[0] >= rows || edge[1] >= magnitudes.size() || edge[2] >= lifting) {
                refuse("an edge is outside the code or out of order");
            }
            row = edge[0];
            if (last_row[edge[1]] == row || ++degrees[edge[1]] > kLdpcDegreeMax) {
                refuse("a column has two edges in a row, or more than 250");
            }
            last_row[edge[1]] = row;
            if (magnitudes[edge[1]] == kKnown) continue;
            edges.push_back({edge[1], edge[2]});
            ++starts[row + 1];
        }
        std::size_t most = 0;
        for (std::size_t r = 0; r < rows; ++r) {
            most = std::max<std::size_t>(most, starts[r + 1]);
            starts[r + 1] += starts[r];
        }
        code = {rows, magnitudes.size(), lifting, edges.data(), starts.data(), most};
    }

    std::vector<LdpcEdge> edges;
    std::vector<std::uint32_t> starts;
    LdpcCode code{};
};

void double_blocks(const LdpcCode& code, ConstBytes bits, Bytes doubled) {
    const std::size_t block = code.block_bytes();
    for (std::size_t c = 0; c < code.columns; ++c) {
        std::memcpy(doubled + 2 * c * block, bits + c * block, block);
        std::memcpy(doubled + (2 * c + 1) * block, bits + c * block, block);
    }
}

void copy_single(const LdpcCode& code, ConstBytes doubled, Bytes bits) {
    const std::size_t block = code.block_bytes();
    for (std::size_t c = 0; c < code.columns; ++c) std::memcpy(bits + c * block, doubled + 2 * c * block, block);
}

nb::bytes take_bytes(const Secret& from, std::size_t size) {
    return nb::bytes(reinterpret_cast<const char*>(from.bytes()), size);
}

class LdpcKernels {
  public:
    explicit LdpcKernels(const std::string& path) : path_(ldpc_path_of(path)) {}

    nb::bytes syndrome(std::size_t rows, std::size_t lifting, const nb::bytes& edges, nb::handle bits) const {
        Views views(1);
        ConstBytes from = views.take(bits, Views::Access::kRead, "the bits");
        if (lifting == 0 || views.size(0) * 8 % lifting) refuse("the bits must be whole blocks");
        if (views.size(0) * 8 / lifting > kColumnsMax) refuse("more than 8192 columns");
        const Graph graph(rows, lifting, edges, std::vector<std::int16_t>(views.size(0) * 8 / lifting, 0));
        const LdpcCode& code = graph.code;
        Secret parities(code.rows * code.block_bytes());
        {
            const nb::gil_scoped_release unlocked;
            Secret doubled(code.doubled_bytes());
            double_blocks(code, from, doubled.bytes());
            path_.syndrome(code, doubled.bytes(), parities.bytes());
            wipe_dead_stack();
        }
        return take_bytes(parities, code.rows * code.block_bytes());
    }

    nb::tuple decode(std::size_t rows, std::size_t lifting, const nb::bytes& edges, const nb::bytes& magnitudes,
                     nb::handle syndrome, std::size_t iterations_max) const {
        const std::vector<std::int16_t> prior = checked_magnitudes(magnitudes);
        const Graph graph(rows, lifting, edges, prior);
        const LdpcCode& code = graph.code;
        Views views(1);
        ConstBytes wanted = views.take(syndrome, Views::Access::kRead, "the syndrome");
        if (views.size(0) != code.rows * code.block_bytes()) refuse("the syndrome has another size than the checks");
        if (iterations_max == 0 || iterations_max > kIterationsMax) refuse("expected 1 to 100000 iterations");
        Secret errors(code.columns * code.block_bytes());
        std::size_t iterations = 0;
        {
            const nb::gil_scoped_release unlocked;
            iterations = run(code, prior, wanted, iterations_max, errors.bytes());
        }
        return nb::make_tuple(take_bytes(errors, code.columns * code.block_bytes()),
                              iterations ? iterations : iterations_max, iterations != 0);
    }

  private:
    static std::vector<std::int16_t> checked_magnitudes(const nb::bytes& packed) {
        std::vector<std::int16_t> magnitudes(packed.size() / 2);
        if (packed.size() % 2) refuse("magnitudes have two bytes each");
        if (!magnitudes.empty()) std::memcpy(magnitudes.data(), packed.c_str(), packed.size());
        for (const int m : magnitudes) {
            if (m != kKnown && (m < 0 || m > kLdpcMessageMax)) refuse("a magnitude must be 0 to 127, or 32767");
        }
        return magnitudes;
    }

    std::size_t run(const LdpcCode& code, const std::vector<std::int16_t>& prior, ConstBytes wanted,
                    std::size_t iterations_max, Bytes errors) const {
        const std::size_t posterior_bytes = code.columns * code.column_values() * 2;
        const std::size_t message_bytes = code.edge_count() * (code.lifting / path_.chunk) * path_.message_bytes;
        const std::size_t strength_bytes = code.rows * code.lifting * 2;
        const std::size_t row_bytes = std::max(code.row_edges_max * kLdpcChunkMax * 4, code.block_bytes());
        const std::size_t all = posterior_bytes + message_bytes + strength_bytes + code.doubled_bytes() + row_bytes;
        if (all > kWorkspaceMax) throw std::bad_alloc();
        Secret memory(all);
        LdpcWorkspace work{};
        Bytes at = memory.bytes();  // every part is a multiple of 64 bytes
        work.posteriors = reinterpret_cast<std::int16_t*>(at);
        work.messages = at += posterior_bytes;
        work.strengths = at += message_bytes;
        work.hard = at += strength_bytes;
        work.extrinsic = at + code.doubled_bytes();
        for (std::size_t c = 0; c < code.columns; ++c) {
            std::fill_n(work.posteriors + c * code.column_values(), code.column_values(), prior[c]);
        }
        const std::size_t iterations = path_.decode(code, wanted, work, iterations_max);
        copy_single(code, work.hard, errors);
        wipe_dead_stack();
        return iterations;
    }

    const LdpcPath& path_;
};

}  // namespace

void bind_ldpc(nb::module_& module) {
    nb::class_<LdpcKernels>(module, "LdpcKernels", "Quasi-cyclic LDPC codes on one path.")
        .def(nb::init<const std::string&>(), "path"_a)
        .def("syndrome", &LdpcKernels::syndrome, "rows"_a, "lifting"_a, "edges"_a, "bits"_a)
        .def("decode", &LdpcKernels::decode, "rows"_a, "lifting"_a, "edges"_a, "magnitudes"_a, "syndrome"_a,
             "iterations_max"_a);
}

}  // namespace shosoin
