// Python's view of the pulses of one path. It checks what would make native code leave a buffer; what the numbers mean
// was checked by the caller (`shosoin.kernels.pulses`).
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstring>
#include <string>
#include <utility>

#include "pulses.h"
#include "python_buffers.h"

namespace shosoin {
namespace {

using namespace nb::literals;

const PulsePath& pulse_path_of(const std::string& name) {
    path_of(name);  // refuses what this machine cannot run
#ifdef SHOSOIN_AVX512
    if (name == pulses_avx512_path.name) return pulses_avx512_path;
#endif
#ifdef SHOSOIN_AVX2
    if (name == pulses_avx2_path.name) return pulses_avx2_path;
#endif
    return pulses_portable_path;
}

class Pulses {
  public:
    explicit Pulses(const std::string& path) : path_(pulse_path_of(path)) {}

    const char* name() const { return path_.name; }

    void choose_from_seed(std::uint64_t seed, std::uint64_t first, nb::handle limits, const nb::list& outputs) const {
        Views views(5);
        const std::uint32_t* at = limits_of(views, limits);
        const auto [out, count] = choices(views, outputs);
        const nb::gil_scoped_release unlocked;
        path_.choose_from_seed(seed, first, count, at, out);
    }

    void choose_from_words(nb::handle words, nb::handle limits, const nb::list& outputs) const {
        Views views(6);
        const std::uint32_t* at = limits_of(views, limits);
        const auto [out, count] = choices(views, outputs);
        ConstBytes given = views.take(words, Views::Access::kRead, "random words");
        if (views.size(5) != 4 * count) refuse("want four random bytes a pulse");
        const nb::gil_scoped_release unlocked;
        path_.choose_from_words(given, count, at, out);
    }

    nb::tuple detect(std::uint64_t seed, std::uint32_t domain, std::uint64_t first, nb::handle states,
                     std::uint64_t basis_threshold, nb::handle thresholds, nb::handle codes, nb::handle dynamics,
                     nb::handle state, nb::handle pulses, nb::handle found) const {
        constexpr auto kRead = Views::Access::kRead, kWrite = Views::Access::kWrite;
        Views views(7);
        ConstBytes light = views.take(states, kRead, "states");
        PulseArrivals task{seed, domain, basis_threshold, nullptr, nullptr, 0, nullptr};
        task.thresholds = aligned<std::uint64_t>(views.take(thresholds, kRead, "thresholds"));
        task.codes = aligned<std::uint32_t>(views.take(codes, kRead, "codes"));
        task.dynamics = aligned<std::uint32_t>(views.take(dynamics, kRead, "dynamics"));
        auto* carried = aligned<std::int64_t>(views.take(state, kWrite, "the state"));
        PulseClicks out{nullptr, nullptr, 0, 0};
        out.pulses = aligned<std::int64_t>(views.take(pulses, kWrite, "pulses"));
        out.codes = aligned<std::uint32_t>(views.take(found, kWrite, "found"));
        const std::size_t count = views.size(0);
        task.outcomes = views.size(1) / (8 * kPulseRows);
        out.room = views.size(5) / 8;
        check_sizes(views, task.outcomes, out.room);
        if (first > kPulsesMax || count > kPulsesMax - first) refuse("pulses must be numbered below 2^62");
        check_state(carried);
        std::size_t done;
        {
            const nb::gil_scoped_release unlocked;
            done = path_.detect(task, first, light, count, carried, out);
        }
        return nb::make_tuple(done, out.count);
    }

  private:
    template <class Word>
    static Word* aligned(Bytes bytes) {
        if (reinterpret_cast<std::uintptr_t>(bytes) % alignof(Word)) refuse("numbers must be aligned");
        return reinterpret_cast<Word*>(bytes);
    }

    static const std::uint32_t* limits_of(Views& views, nb::handle limits) {
        const auto* at = aligned<std::uint32_t>(views.take(limits, Views::Access::kRead, "limits"));
        if (views.size(0) != 16) refuse("want four limits");
        return at;
    }

    static std::pair<PulseChoices, std::size_t> choices(Views& views, const nb::list& outputs) {
        if (outputs.size() != 4) refuse("want four outputs");
        Bytes to[4];
        for (std::size_t i = 0; i < 4; ++i) to[i] = views.take(outputs[i], Views::Access::kWrite, "an output");
        const std::size_t count = views.size(4), packed = (count + 7) / 8;
        if (views.size(1) != packed || views.size(2) != packed || views.size(3) != count) {
            refuse("outputs must have one octet, or one bit, a pulse");
        }
        return {PulseChoices{to[0], to[1], to[2], to[3]}, count};
    }

    // Pulse numbers that cannot be would overflow once a dead time is added.
    static void check_state(const std::int64_t* state) {
        static constexpr auto limit = static_cast<std::int64_t>(kPulsesMax + (std::uint64_t{1} << 33));
        const auto sane = [](std::int64_t pulse) { return pulse >= 0 && pulse <= limit; };
        if (!sane(state[0]) || !sane(state[1]) || !sane(state[3]) || !sane(state[4]) || state[2] < 0 ||
            state[2] > static_cast<std::int64_t>(kPulsesPending)) {
            refuse("the state is damaged");
        }
        for (std::int64_t i = 0; i < state[2]; ++i) {
            const std::int64_t detector = state[6 + 2 * i];
            if (!sane(state[5 + 2 * i]) || detector < 0 || detector > 1) refuse("the state is damaged");
        }
    }

    static void check_sizes(const Views& views, std::size_t outcomes, std::size_t room) {
        if (outcomes == 0 || outcomes > kPulseOutcomesMax || views.size(1) != outcomes * kPulseRows * 8 ||
            views.size(2) != outcomes * kPulseRows * 4) {
            refuse("thresholds and codes must have 32 rows of equal length");
        }
        if (views.size(3) != 4 * kPulseDynamicsWords || views.size(4) != 8 * kPulseStateWords) {
            refuse("dynamics or state have the wrong size");
        }
        if (views.size(5) != 8 * room || views.size(6) != 4 * room || room == 0) {
            refuse("pulses and found must have room for equally many");
        }
    }

    const PulsePath& path_;
};

}  // namespace

void bind_pulses(nb::module_& module) {
    nb::class_<Pulses>(module, "Pulses", "Simulated pulses on one path.")
        .def(nb::init<const std::string&>(), "path"_a)
        .def_prop_ro("name", &Pulses::name)
        .def("choose_from_seed", &Pulses::choose_from_seed, "seed"_a, "first"_a, "thresholds"_a, "outputs"_a)
        .def("choose_from_words", &Pulses::choose_from_words, "words"_a, "thresholds"_a, "outputs"_a)
        .def("detect", &Pulses::detect, nb::kw_only(), "seed"_a, "domain"_a, "first"_a, "states"_a,
             "basis_threshold"_a, "thresholds"_a, "codes"_a, "dynamics"_a, "state"_a, "pulses"_a, "found"_a);
}

}  // namespace shosoin
