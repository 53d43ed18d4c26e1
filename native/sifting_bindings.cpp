// Python's view of sifting on one path. It checks what would make native code leave a buffer; what the numbers mean was
// checked by the caller (`shosoin.kernels.sifting`), which makes the outputs, so that they overlap nothing.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>

#include "python_buffers.h"
#include "sifting.h"

namespace shosoin {
namespace {

using namespace nb::literals;
constexpr auto kRead = Views::Access::kRead, kWrite = Views::Access::kWrite;

const SiftingPath& sifting_path_of(const std::string& name) {
    path_of(name);  // refuses what this machine cannot run
#ifdef SHOSOIN_AVX512
    if (name == sifting_avx512_path.name) return sifting_avx512_path;
#endif
#ifdef SHOSOIN_AVX2
    if (name == sifting_avx2_path.name) return sifting_avx2_path;
#endif
    return sifting_portable_path;
}

std::int64_t* numbers(Bytes bytes, std::size_t size) {
    if (size % 8 || reinterpret_cast<std::uintptr_t>(bytes) % alignof(std::int64_t)) {
        refuse("numbers must be whole and aligned");
    }
    return reinterpret_cast<std::int64_t*>(bytes);
}

void require(bool fits) {
    if (!fits) refuse("sizes do not fit each other");
}

void check_width(int width) {
    if (width != 1 && width != 2 && width != 4 && width != 8) refuse("a step takes 1, 2, 4 or 8 octets");
}

class Sifting {
  public:
    explicit Sifting(const std::string& path) : path_(sifting_path_of(path)) {}

    const char* name() const { return path_.name; }

    void places_into(nb::handle mask, nb::handle places) const {
        Views views(2);
        ConstBytes from = views.take(mask, kRead, "the mask");
        Bytes to = views.take(places, kWrite, "places");
        std::int64_t* at = numbers(to, views.size(1));
        bool done;
        {
            const nb::gil_scoped_release unlocked;
            done = path_.places(from, views.size(0), at, views.size(1) / 8);
        }
        require(done);
    }

    std::size_t keep_into(nb::handle is_kept, nb::handle is_test, nb::handle values, nb::handle is_key,
                          nb::handle keys) const {
        Views views(5);
        ConstBytes kept = views.take(is_kept, kRead, "a mask"), test = views.take(is_test, kRead, "a mask"),
                   from = views.take(values, kRead, "values");
        Bytes key = views.take(is_key, kWrite, "an output"), to = views.take(keys, kWrite, "an output");
        for (std::size_t i = 1; i < 5; ++i) require(views.size(i) == views.size(0));
        const nb::gil_scoped_release unlocked;
        return path_.keep(kept, test, from, views.size(0), key, to);
    }

    void look_up_into(nb::handle pulses, std::int64_t first, nb::handle bits, nb::handle bases, nb::handle intensities,
                      const nb::list& outputs) const {
        Views views(7);
        Bytes wanted = views.take(pulses, kRead, "pulses");
        const std::int64_t* at = numbers(wanted, views.size(0));
        const std::size_t count = views.size(0) / 8;
        SentRecord sent{first, 0, nullptr, nullptr, nullptr};
        sent.bits = views.take(bits, kRead, "bits");
        sent.bases = views.take(bases, kRead, "bases");
        sent.intensities = views.take(intensities, kRead, "intensities");
        sent.count = views.size(3);
        require(views.size(1) == (sent.count + 7) / 8 && views.size(2) == views.size(1) && outputs.size() == 3);
        Bytes to[3];
        for (std::size_t i = 0; i < 3; ++i) {
            to[i] = views.take(outputs[i], kWrite, "an output");
            require(views.size(4 + i) == count);
        }
        bool done;
        {
            const nb::gil_scoped_release unlocked;
            done = path_.look_up(sent, at, count, to[0], to[1], to[2]);
        }
        if (!done) refuse("a pulse is not of the record");
    }

    std::uint64_t largest_step(nb::handle pulses) const {
        Views views(1);
        Bytes from = views.take(pulses, kRead, "pulses");
        const std::int64_t* at = numbers(from, views.size(0));
        const nb::gil_scoped_release unlocked;
        return path_.largest_step(at, views.size(0) / 8);
    }

    void steps_into(nb::handle pulses, int width, nb::handle steps) const {
        Views views(2);
        Bytes from = views.take(pulses, kRead, "pulses");
        const std::int64_t* at = numbers(from, views.size(0));
        Bytes to = views.take(steps, kWrite, "steps");
        const std::size_t count = views.size(0) / 8;
        check_width(width);
        require(count && views.size(1) == (count - 1) * static_cast<std::size_t>(width));
        const nb::gil_scoped_release unlocked;
        path_.steps(at, count, width, to);
    }

    void pulses_into(std::int64_t first, nb::handle steps, int width, nb::handle pulses) const {
        Views views(2);
        ConstBytes from = views.take(steps, kRead, "steps");
        Bytes target = views.take(pulses, kWrite, "pulses");
        std::int64_t* to = numbers(target, views.size(1));
        const std::size_t count = views.size(1) / 8;
        check_width(width);
        require(count && views.size(0) == (count - 1) * static_cast<std::size_t>(width));
        const nb::gil_scoped_release unlocked;
        path_.pulses(first, from, width, to, count);
    }

    void pack_into(nb::handle codes, nb::handle bits, const nb::list& masks) const {
        Views views(6);
        ConstBytes from = views.take(codes, kRead, "codes");
        const std::size_t count = views.size(0);
        Bytes to = views.take(bits, kWrite, "an output"), of[4];
        require(1 <= masks.size() && masks.size() <= 4 && views.size(1) == (count + 7) / 8);
        for (std::size_t i = 0; i < masks.size(); ++i) {
            of[i] = views.take(masks[i], kWrite, "an output");
            require(views.size(2 + i) == views.size(1));
        }
        const auto intensities = static_cast<int>(masks.size());
        const nb::gil_scoped_release unlocked;
        path_.pack(from, count, to, of, intensities);
    }

  private:
    const SiftingPath& path_;
};

}  // namespace

void bind_sifting(nb::module_& module) {
    nb::class_<Sifting>(module, "Sifting", "What is done to every detection, on one path.")
        .def(nb::init<const std::string&>(), "path"_a)
        .def_prop_ro("name", &Sifting::name)
        .def("places_into", &Sifting::places_into, "mask"_a, "places"_a)
        .def("keep_into", &Sifting::keep_into, "is_kept"_a, "is_test"_a, "values"_a, "is_key"_a, "keys"_a)
        .def("look_up_into", &Sifting::look_up_into, "pulses"_a, "first"_a, "bits"_a, "bases"_a, "intensities"_a,
             "outputs"_a)
        .def("largest_step", &Sifting::largest_step, "pulses"_a)
        .def("steps_into", &Sifting::steps_into, "pulses"_a, "width"_a, "steps"_a)
        .def("pulses_into", &Sifting::pulses_into, "first"_a, "steps"_a, "width"_a, "pulses"_a)
        .def("pack_into", &Sifting::pack_into, "codes"_a, "bits"_a, "masks"_a);
}

}  // namespace shosoin
