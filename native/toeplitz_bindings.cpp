// Python's view of long products: a class `Toeplitz`, an object per path.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <new>
#include <string>

#include "python_buffers.h"
#include "toeplitz.h"

namespace shosoin {
namespace {

bool meets(ConstBytes a, std::size_t a_bytes, ConstBytes b, std::size_t b_bytes) {
    const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
    return a_bytes != 0 && b_bytes != 0 && x < y + b_bytes && y < x + a_bytes;
}

// Two inputs and an output that overlaps neither.
class Buffers {
  public:
    Buffers(nb::handle first, nb::handle second, nb::handle target) : views_(3) {
        a = views_.take(first, Views::Access::kRead, "an input");
        b = views_.take(second, Views::Access::kRead, "an input");
        output = views_.take(target, Views::Access::kWrite, "the output");
        if (meets(output, size(2), a, size(0)) || meets(output, size(2), b, size(1))) {
            refuse("the output must not overlap another buffer");
        }
    }

    std::size_t size(std::size_t i) const { return views_.size(i); }

    ConstBytes a, b;
    Bytes output;

  private:
    Views views_;
};

class Toeplitz {
  public:
    explicit Toeplitz(const std::string& path) : path_(*toeplitz_of(path_of(path).name)) {}

    void toeplitz_into(nb::handle key, std::uint64_t key_bits, nb::handle seed, nb::handle output,
                       std::uint64_t output_bits, int log_points) const {
        const Buffers buffers(key, seed, output);
        if (key_bits < 1 || output_bits < 1 || key_bits > kFactorBitsMax || output_bits > kFactorBitsMax) {
            refuse("key and output must have 1 to 2^30 bits");
        }
        check_bits(buffers.size(0), key_bits);
        check_bits(buffers.size(1), key_bits + output_bits - 1);
        check_bits(buffers.size(2), output_bits);
        check_log_points(log_points);
        bool done = false;
        {
            const nb::gil_scoped_release unlocked;
            done = toeplitz_multiply(path_, buffers.a, key_bits, buffers.b, buffers.output, output_bits, log_points);
        }
        if (!done) throw std::bad_alloc();
    }

    void product_into(nb::handle a, nb::handle b, nb::handle output, int log_points) const {
        const Buffers buffers(a, b, output);
        const std::size_t a_bytes = buffers.size(0), b_bytes = buffers.size(1);
        if (a_bytes > kFactorBitsMax / 8 || b_bytes > kFactorBitsMax / 8) refuse("factors have at most 2^30 bits");
        if (buffers.size(2) != a_bytes + b_bytes) refuse("the output must be as long as both factors");
        check_log_points(log_points);
        bool done = false;
        {
            const nb::gil_scoped_release unlocked;
            done = long_product(path_, buffers.a, a_bytes, buffers.b, b_bytes, buffers.output, log_points);
        }
        if (!done) throw std::bad_alloc();
    }

  private:
    static void check_bits(std::size_t bytes, std::uint64_t bits) {
        if (bytes != (bits + 7) / 8) {
            refuse("got " + std::to_string(bytes) + " bytes for " + std::to_string(bits) + " bits");
        }
    }

    static void check_log_points(int log_points) {
        if (log_points && (log_points < kLogPointsMin || log_points > kLogPointsMax)) {
            refuse("transforms have 2^8 to 2^16 points");
        }
    }

    const ToeplitzPath& path_;
};

}  // namespace

void bind_toeplitz(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<Toeplitz>(module, "Toeplitz", "Long products over GF(2) on one path.")
        .def(nb::init<const std::string&>(), "path"_a)
        .def("toeplitz_into", &Toeplitz::toeplitz_into, "key"_a, "key_bits"_a, "seed"_a, "output"_a, "output_bits"_a,
             "log_points"_a = 0)
        .def("product_into", &Toeplitz::product_into, "a"_a, "b"_a, "output"_a, "log_points"_a = 0);
}

}  // namespace shosoin
