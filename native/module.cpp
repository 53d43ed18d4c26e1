// The Python module: checks buffers, releases the interpreter lock, calls the chosen path.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "elements are little-endian in memory; use the reference kernels on this machine"
#endif

namespace nb = nanobind;
using shosoin::Element;
using shosoin::Kernels;

namespace {

// A contiguous buffer held for the time of one call.
class Buffer {
   public:
    Buffer(nb::handle object, bool writable) {
        if (PyObject_GetBuffer(object.ptr(), &view_, writable ? PyBUF_WRITABLE : PyBUF_SIMPLE) != 0)
            throw nb::python_error();
    }
    Buffer(Buffer &&other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    Buffer &operator=(Buffer &&) = delete;
    ~Buffer() {
        if (view_.obj) PyBuffer_Release(&view_);
    }
    std::uint8_t *data() const { return static_cast<std::uint8_t *>(view_.buf); }
    std::size_t size() const { return static_cast<std::size_t>(view_.len); }

   private:
    Py_buffer view_{};
};

const Kernels *find(const std::string &name) {
    for (const Kernels *path : {shosoin::avx512_kernels(), shosoin::avx2_kernels(), shosoin::portable_kernels()})
        if (path && name == path->name) return path;
    throw nb::value_error(("this machine or build has no kernel path '" + name + "'").c_str());
}

std::vector<std::string> paths() {
    std::vector<std::string> names;
    for (const Kernels *path : {shosoin::avx512_kernels(), shosoin::avx2_kernels(), shosoin::portable_kernels()})
        if (path) names.emplace_back(path->name);
    return names;
}

std::vector<Buffer> buffers(nb::sequence objects, bool writable) {
    std::vector<Buffer> out;
    out.reserve(nb::len(objects));
    for (nb::handle object : objects) out.emplace_back(object, writable);
    return out;
}

template <class Pointer>
std::vector<Pointer> pointers(const std::vector<Buffer> &from) {
    std::vector<Pointer> out;
    for (const Buffer &buffer : from) out.push_back(buffer.data());
    return out;
}

std::vector<Element> elements(const Buffer &raw, std::size_t count) {
    if (raw.size() != count * 16) throw nb::value_error("weights do not fit the number of inputs and outputs");
    std::vector<Element> out(count);
    std::memcpy(out.data(), raw.data(), raw.size());
    return out;
}

void require_size(const std::vector<Buffer> &all, std::size_t bytes) {
    for (const Buffer &buffer : all)
        if (buffer.size() != bytes) throw nb::value_error("all buffers must have the same length");
    if (bytes % 16) throw nb::value_error("buffer lengths must be a multiple of 16 bytes");
}

Element element_of(const Buffer &raw) {
    if (raw.size() != 16) throw nb::value_error("an element has 16 bytes");
    Element value;
    std::memcpy(&value, raw.data(), 16);
    return value;
}

nb::bytes bytes_of(Element value) { return nb::bytes(reinterpret_cast<const char *>(&value), 16); }

void linear_map(const std::string &path, nb::handle rows, nb::sequence inputs, nb::sequence outputs) {
    const Kernels *kernels = find(path);
    const auto in = buffers(inputs, false), out = buffers(outputs, true);
    if (in.empty() || out.empty()) throw nb::value_error("at least one input and one output are needed");
    if (in.size() > 32) throw nb::value_error("at most 32 inputs");
    const std::size_t bytes = in[0].size();
    require_size(in, bytes);
    require_size(out, bytes);
    const auto weights = elements(Buffer(rows, false), in.size() * out.size());
    const auto from = pointers<const std::uint8_t *>(in);
    const auto to = pointers<std::uint8_t *>(out);
    nb::gil_scoped_release release;
    kernels->linear_map(weights.data(), to.size(), from.size(), from.data(), to.data(), bytes / 16);
}

bool has_generator(const std::string &path) { return find(path)->split_generated != nullptr; }

void split_generated(const std::string &path, nb::handle secret, nb::handle seed, std::vector<std::uint32_t> points,
                     std::size_t k, nb::sequence outputs, std::uint64_t first) {
    const Kernels *kernels = find(path);
    const Buffer from(secret, false), key(seed, false);
    const auto out = buffers(outputs, true);
    require_size(out, from.size());
    if (key.size() != 32 || out.size() != points.size() || points.size() > 16 || k < 2 || k > points.size())
        throw nb::value_error("a seed of 32 bytes, 2 <= k <= n <= 16 and one output a point are needed");
    if (!kernels->split_generated) throw nb::value_error("this path has no generator");
    const auto to = pointers<std::uint8_t *>(out);
    nb::gil_scoped_release release;
    kernels->split_generated(from.data(), key.data(), points.data(), points.size(), k, to.data(), from.size() / 16,
                             first);
}

nb::bytes horner(const std::string &path, nb::handle r, nb::handle data) {
    const Kernels *kernels = find(path);
    const Buffer point(r, false), from(data, false);
    if (from.size() % 16) throw nb::value_error("buffer lengths must be a multiple of 16 bytes");
    const Element at = element_of(point);
    Element value;
    {
        nb::gil_scoped_release release;
        value = kernels->horner(at, from.data(), from.size() / 16);
    }
    return bytes_of(value);
}

void xor_into(const std::string &path, nb::handle a, nb::handle b, nb::handle out) {
    const Kernels *kernels = find(path);
    const Buffer left(a, false), right(b, false), to(out, true);
    if (left.size() != right.size() || left.size() != to.size())
        throw nb::value_error("all buffers must have the same length");
    nb::gil_scoped_release release;
    kernels->xor_into(left.data(), right.data(), to.data(), to.size());
}

nb::bytes multiply(const std::string &path, nb::handle a, nb::handle b) {
    return bytes_of(find(path)->mul(element_of(Buffer(a, false)), element_of(Buffer(b, false))));
}

void wipe(nb::handle out) {
    const Buffer to(out, true);
    volatile std::uint8_t *bytes = to.data();
    for (std::size_t i = 0; i < to.size(); ++i) bytes[i] = 0;
}

}  // namespace

NB_MODULE(_native, m) {
    m.def("paths", &paths);
    m.def("linear_map", &linear_map);
    m.def("has_generator", &has_generator);
    m.def("split_generated", &split_generated);
    m.def("horner", &horner);
    m.def("xor_into", &xor_into);
    m.def("multiply", &multiply);
    m.def("wipe", &wipe);
}
