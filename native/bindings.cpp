// Python's view of the paths: one class `Kernels`, an object per path. It checks buffers, gives up the interpreter's
// lock and calls. What the numbers mean was checked by the caller (`shosoin.kernels`).
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "key_ids.h"
#include "python_buffers.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace shosoin {

void bind_ldpc(nb::module_& module);
void bind_pulses(nb::module_& module);
void bind_sifting(nb::module_& module);
void bind_toeplitz(nb::module_& module);

namespace {

// Elements that one seed may serve: the counter then stays below 2^60.
constexpr std::uint64_t kBlocksMax = std::uint64_t{1} << 56;

// Inputs and outputs of equal length, a multiple of 16 bytes.
class Arguments {
  public:
    Arguments(const nb::list& inputs, const nb::list& outputs) : views_(inputs.size() + outputs.size()) {
        if (inputs.size() == 0 || inputs.size() > kBuffersMax || outputs.size() > kBuffersMax) {
            refuse("got " + std::to_string(inputs.size()) + " inputs and " + std::to_string(outputs.size()) +
                   " outputs, expected 1 to 64 inputs and at most 64 outputs");
        }
        for (nb::handle object : inputs) this->inputs.push_back(views_.take(object, Views::Access::kRead, "an input"));
        for (nb::handle object : outputs) {
            this->outputs.push_back(views_.take(object, Views::Access::kWrite, "an output"));
        }
        check_sizes();
        check_overlaps();
    }

    std::size_t count() const { return bytes_ / kElementBytes; }

    std::vector<ConstBytes> inputs;
    std::vector<Bytes> outputs;

  private:
    void check_sizes() {
        bytes_ = views_.size(0);
        if (bytes_ % kElementBytes) {
            refuse("got " + std::to_string(bytes_) + " bytes, expected a multiple of 16");
        }
        for (std::size_t i = 1; i < inputs.size() + outputs.size(); ++i) {
            if (views_.size(i) != bytes_) {
                refuse("got buffers of " + std::to_string(bytes_) + " and " + std::to_string(views_.size(i)) +
                       " bytes, expected equal lengths");
            }
        }
    }

    void check_overlaps() const {
        for (std::size_t i = 0; i < outputs.size(); ++i) {
            const bool input = std::any_of(inputs.begin(), inputs.end(), [&](auto p) { return meets(outputs[i], p); });
            const bool output = std::any_of(outputs.begin(), outputs.begin() + static_cast<std::ptrdiff_t>(i),
                                            [&](auto p) { return meets(outputs[i], p); });
            if (input || output) refuse("an output must not overlap another buffer");
        }
    }

    bool meets(ConstBytes a, ConstBytes b) const {
        const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
        return bytes_ != 0 && x < y + bytes_ && y < x + bytes_;
    }

    Views views_;
    std::size_t bytes_ = 0;
};

std::vector<Element> elements(const nb::bytes& packed, std::size_t count) {
    if (packed.size() != count * kElementBytes) {
        refuse("got " + std::to_string(packed.size()) + " bytes of elements, expected " +
               std::to_string(count * kElementBytes));
    }
    std::vector<Element> result(count);
    if (count) std::memcpy(result.data(), packed.data(), packed.size());
    return result;
}

nb::bytes bytes_of(Element e) { return nb::bytes(reinterpret_cast<const char*>(&e), sizeof e); }

// The IDs of one key stream. All of a request are made or read in one call; the interpreter's lock is kept, since what
// takes the time is making Python's strings.
class StreamKeyIds {
  public:
    explicit StreamKeyIds(const std::uint8_t* secret) : ids_(secret) {}

    nb::list encode(const nb::bytes& context, const nb::sequence& addresses) const {
        nb::list made;
        for (nb::handle item : addresses) {
            const auto [offset, length] = nb::cast<std::pair<std::uint64_t, std::uint64_t>>(item);
            if (length == 0 || length >= std::uint64_t{1} << 21) refuse("a length must be 1 to 2^21 - 1");
            char text[kKeyIdChars];
            ids_.encode(bytes_at(context), context.size(), {offset, static_cast<std::uint32_t>(length)}, text);
            made.append(nb::str(text, sizeof text));
        }
        wipe_dead_stack();
        return made;
    }

    nb::list decode(const nb::bytes& context, const nb::sequence& key_ids, std::uint64_t near) const {
        nb::list found;
        for (nb::handle item : key_ids) {
            KeyAddress address;
            if (genuine(context, item, near, address)) {
                found.append(nb::make_tuple(address.offset, address.length));
            } else {
                found.append(nb::none());
            }
        }
        wipe_dead_stack();
        return found;
    }

  private:
    static const std::uint8_t* bytes_at(const nb::bytes& bytes) {
        return reinterpret_cast<const std::uint8_t*>(bytes.c_str());
    }

    bool genuine(const nb::bytes& context, nb::handle item, std::uint64_t near, KeyAddress& address) const {
        Py_ssize_t size = 0;
        const char* text = PyUnicode_AsUTF8AndSize(item.ptr(), &size);
        if (!text) {
            if (PyErr_ExceptionMatches(PyExc_TypeError)) nb::raise_python_error();
            PyErr_Clear();  // no UTF-8, hence no ID
            return false;
        }
        if (size != static_cast<Py_ssize_t>(kKeyIdChars)) return false;
        return ids_.decode(bytes_at(context), context.size(), text, near, address);
    }

    KeyIds ids_;
};

class Kernels {
  public:
    explicit Kernels(const std::string& name) : path_(path_of(name)) {}

    const char* name() const { return path_.name; }

    nb::bytes multiply(const nb::bytes& a, const nb::bytes& b) const {
        return bytes_of(path_.multiply(elements(a, 1)[0], elements(b, 1)[0]));
    }

    // exponent: 16 bytes, little-endian
    nb::bytes power(const nb::bytes& base, const nb::bytes& exponent) const {
        const Element a = elements(base, 1)[0], e = elements(exponent, 1)[0];
        Element result{1, 0};
        bool started = false;  // the exponent is public: its leading zeros are skipped
        for (int i = 127; i >= 0; --i) {
            const bool bit = ((i < 64 ? e.lo >> i : e.hi >> (i - 64)) & 1) != 0;
            if (started) result = path_.multiply(result, result);
            if (bit) result = started ? path_.multiply(result, a) : a;
            started = started || bit;
        }
        return bytes_of(result);
    }

    void linear_map_into(const nb::bytes& weights, const nb::list& inputs, const nb::list& outputs) const {
        const Arguments arguments(inputs, outputs);
        const int n_in = static_cast<int>(inputs.size()), n_out = static_cast<int>(outputs.size());
        const std::vector<Element> rows = elements(weights, inputs.size() * outputs.size());
        const nb::gil_scoped_release unlocked;
        path_.linear_map(rows.data(), n_in, n_out, arguments.inputs.data(), arguments.outputs.data(),
                         arguments.count());
    }

    // inputs: the secret, then the coefficients
    void split_into(const nb::bytes& points, const nb::list& inputs, const nb::list& outputs) const {
        const Arguments arguments(inputs, outputs);
        const std::vector<Element> at = checked_points(points, inputs.size(), outputs.size());
        const nb::gil_scoped_release unlocked;
        path_.split(at.data(), static_cast<int>(inputs.size()), static_cast<int>(at.size()), arguments.inputs[0],
                    arguments.inputs.data() + 1, arguments.outputs.data(), arguments.count());
    }

    void split_generated_into(const nb::bytes& points, std::size_t k, nb::handle seed, std::uint64_t first,
                              const nb::list& secret, const nb::list& outputs) const {
        const Arguments arguments(secret, outputs);
        const std::vector<Element> at = checked_points(points, k, outputs.size());
        Views views(1);
        ConstBytes key = views.take(seed, Views::Access::kRead, "the seed");
        if (views.size(0) != kSeedBytes) {
            refuse("got a seed of " + std::to_string(views.size(0)) + " bytes, expected 32");
        }
        if (first > kBlocksMax - arguments.count()) refuse("first_block and the elements must not exceed 2^56");
        const nb::gil_scoped_release unlocked;
        path_.split_generated(at.data(), static_cast<int>(k), static_cast<int>(at.size()), arguments.inputs[0], key,
                              first, arguments.outputs.data(), arguments.count());
    }

    nb::bytes evaluate(const nb::bytes& point, nb::handle data, bool ascending) const {
        const Element at = elements(point, 1)[0];
        Views views(1);
        ConstBytes bytes = views.take(data, Views::Access::kRead, "the data");
        const std::size_t size = views.size(0);
        if (size % kElementBytes) refuse("got " + std::to_string(size) + " bytes, expected a multiple of 16");
        Element value;
        {
            const nb::gil_scoped_release unlocked;
            value = path_.evaluate(at, bytes, size / kElementBytes, ascending);
        }
        return bytes_of(value);
    }

    void xor_into(nb::handle a, nb::handle b, nb::handle output) const {
        Views views(3);
        ConstBytes x = views.take(a, Views::Access::kRead, "an input");
        ConstBytes y = views.take(b, Views::Access::kRead, "an input");
        Bytes to = views.take(output, Views::Access::kWrite, "an output");
        const std::size_t size = views.size(2);
        if (views.size(0) != size || views.size(1) != size) refuse("buffers must have equal lengths");
        if (shifted(x, to, size) || shifted(y, to, size)) refuse("an output must be an input or overlap none");
        const nb::gil_scoped_release unlocked;
        path_.exclusive_or(x, y, to, size);
    }

    void wipe(nb::handle buffer) const {
        Views views(1);
        Bytes bytes = views.take(buffer, Views::Access::kWrite, "the buffer");
        const std::size_t size = views.size(0);
        const nb::gil_scoped_release unlocked;
        shosoin::wipe(bytes, size);
    }

    StreamKeyIds* key_ids(const nb::bytes& secret) const {
        if (secret.size() != kKeyIdSecretBytes) {
            refuse("key_ID secret must be 64 bytes, got " + std::to_string(secret.size()));
        }
        return new StreamKeyIds(reinterpret_cast<const std::uint8_t*>(secret.c_str()));  // Python owns it
    }

  private:
    static std::vector<Element> checked_points(const nb::bytes& points, std::size_t k, std::size_t n) {
        if (k < 2 || k > n || n > kSharesMax) refuse("k and n must satisfy 2 <= k <= n <= 16");
        return elements(points, n);
    }

    // Overlapping, but not the same.
    static bool shifted(ConstBytes a, ConstBytes b, std::size_t bytes) {
        const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
        return x != y && bytes != 0 && x < y + bytes && y < x + bytes;
    }

    const Path& path_;
};

std::vector<std::string> path_names() {
    std::vector<std::string> names;
    for (const Path* const* path = available_paths(); *path; ++path) names.emplace_back((*path)->name);
    return names;
}

}  // namespace

}  // namespace shosoin

NB_MODULE(_native, module) {
    using shosoin::Kernels;
    using shosoin::StreamKeyIds;
    module.doc() = "Native kernels; use them through shosoin.kernels.";
    module.def("path_names", &shosoin::path_names, "Names of the paths this machine can run, best first.");
    nb::class_<StreamKeyIds>(module, "KeyIds", "The IDs of one key stream.")
        .def("encode", &StreamKeyIds::encode, "context"_a, "addresses"_a)
        .def("decode", &StreamKeyIds::decode, "context"_a, "key_ids"_a, "near"_a);
    nb::class_<Kernels>(module, "Kernels", "The kernels of one path.")
        .def(nb::init<const std::string&>(), "path"_a)
        .def_prop_ro("name", &Kernels::name)
        .def("multiply", &Kernels::multiply, "a"_a, "b"_a)
        .def("power", &Kernels::power, "base"_a, "exponent"_a)
        .def("linear_map_into", &Kernels::linear_map_into, "weights"_a, "inputs"_a, "outputs"_a)
        .def("split_into", &Kernels::split_into, "points"_a, "inputs"_a, "outputs"_a)
        .def("split_generated_into", &Kernels::split_generated_into, "points"_a, "k"_a, "seed"_a, "first"_a,
             "secret"_a, "outputs"_a)
        .def("evaluate", &Kernels::evaluate, "point"_a, "data"_a, "ascending"_a)
        .def("xor_into", &Kernels::xor_into, "a"_a, "b"_a, "output"_a)
        .def("wipe", &Kernels::wipe, "buffer"_a)
        .def("key_ids", &Kernels::key_ids, "secret"_a, nb::rv_policy::take_ownership);
    shosoin::bind_ldpc(module);
    shosoin::bind_pulses(module);
    shosoin::bind_sifting(module);
    shosoin::bind_toeplitz(module);
}
