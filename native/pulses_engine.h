// The part that all paths share; each unit compiles its own copy, so nothing of the standard library is instantiated.
// The unit that includes this has defined, in namespace shosoin's anonymous namespace:
//   void generate(const Philox&, std::uint64_t block, std::size_t blocks, std::uint32_t* words): a multiple of 32
//   std::size_t find(const std::uint32_t* words, std::size_t count, std::uint32_t limit, std::uint16_t* at): positions
//       of words that are at most `limit`; count is a multiple of 16
//   void encode16(const std::uint32_t* words, const std::uint32_t* limits, std::uint8_t* bits, std::uint8_t* bases,
//       std::uint8_t* intensity, std::uint8_t* states): 16 pulses

namespace shosoin {
namespace {

constexpr std::size_t kChunk = 4096;             // pulses; their words stay in the first-level cache
constexpr std::size_t kGroupBlocks = 32;                   // what `generate` makes at once
constexpr std::size_t kChunkWords = kChunk + 4 * kGroupBlocks;  // up to three words before, and whole groups

// The words of `count` <= kChunk pulses; returns where the first one's is. What follows the last one's is arbitrary.
inline const std::uint32_t* words_of(const Philox& key, std::uint64_t first, std::size_t count, std::uint32_t* words) {
    const std::size_t skipped = first % 4;
    const std::size_t blocks = (skipped + (count + 15) / 16 * 16 + 3) / 4;  // `find` looks at sixteen at a time
    generate(key, first / 4, (blocks + kGroupBlocks - 1) / kGroupBlocks * kGroupBlocks, words);
    return words + skipped;
}

inline void encode_chunk(const std::uint32_t* words, std::size_t count, const std::uint32_t* limits,
                         const PulseChoices& out, std::size_t at) {
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const std::size_t to = at + i;
        encode16(words + i, limits, out.bits + to / 8, out.bases + to / 8, out.intensity + to, out.states + to);
    }
    if (i == count) return;
    const std::size_t left = count - i, packed = (left + 7) / 8, to = at + i;
    std::uint32_t rest[16] = {};
    std::uint8_t bits[2], bases[2], intensity[16], states[16];
    std::memcpy(rest, words + i, 4 * left);
    encode16(rest, limits, bits, bases, intensity, states);
    const std::uint32_t used = (1u << left) - 1;
    for (std::size_t j = 0; j < packed; ++j) {
        out.bits[to / 8 + j] = bits[j] & static_cast<std::uint8_t>(used >> (8 * j));
        out.bases[to / 8 + j] = bases[j] & static_cast<std::uint8_t>(used >> (8 * j));
    }
    std::memcpy(out.intensity + to, intensity, left);
    std::memcpy(out.states + to, states, left);
    wipe(rest, sizeof rest);
    wipe(bits, sizeof bits);
    wipe(bases, sizeof bases);
    wipe(intensity, sizeof intensity);
    wipe(states, sizeof states);
}

void choose_from_seed(std::uint64_t seed, std::uint64_t first, std::size_t count, const std::uint32_t* limits,
                      const PulseChoices& out) {
    const Philox key{seed, 0, 0};
    alignas(64) std::uint32_t words[kChunkWords];
    for (std::size_t at = 0; at < count; at += kChunk) {
        const std::size_t size = count - at < kChunk ? count - at : kChunk;
        encode_chunk(words_of(key, first + at, size, words), size, limits, out, at);
    }
}

void choose_from_words(const std::uint8_t* given, std::size_t count, const std::uint32_t* limits,
                       const PulseChoices& out) {
    alignas(64) std::uint32_t words[kChunk];
    for (std::size_t at = 0; at < count; at += kChunk) {
        const std::size_t size = count - at < kChunk ? count - at : kChunk;
        std::memcpy(words, given + 4 * at, 4 * size);
        encode_chunk(words, size, limits, out, at);
    }
    wipe(words, sizeof words);
}

// -------------------------------------------------------------------------------------------------------- detectors

struct Waiting {
    std::int64_t pulse;
    std::int64_t detector;
};

// Two detectors gate by gate. The members are what `state` keeps between calls.
class Detectors {
  public:
    Detectors(const PulseArrivals& task, std::int64_t* state, PulseClicks& out)
        : task_(task), state_(state), out_(out), blind_{state[0], state[1]}, waiting_(static_cast<int>(state[2])) {
        for (int i = 0; i < waiting_; ++i) queue_[i] = {state[5 + 2 * i], state[6 + 2 * i]};
        const std::uint32_t* dynamics = task.dynamics;
        longest_ = dynamics[0] > dynamics[1] ? dynamics[0] : dynamics[1];
    }

    void save() const {
        state_[0] = blind_[0];
        state_[1] = blind_[1];
        state_[2] = waiting_;
        for (int i = 0; i < static_cast<int>(kPulsesPending); ++i) {
            state_[5 + 2 * i] = i < waiting_ ? queue_[i].pulse : 0;
            state_[6 + 2 * i] = i < waiting_ ? queue_[i].detector : 0;
        }
    }

    std::int64_t stopped_at() const { return stopped_at_; }

    // After-pulses that wait for pulses before this one; false if the outputs are full.
    bool flush(std::int64_t before) {
        while (waiting_ && queue_[0].pulse < before) {
            const std::int64_t pulse = queue_[0].pulse;
            std::uint32_t words[4];
            Philox{task_.seed, 2, task_.domain}.block(static_cast<std::uint64_t>(pulse), words);
            if (!gate(pulse, 0, task_.dynamics[5], words)) return false;
        }
        return true;
    }

    // One gate in which light or darkness wants these detectors to click; false if the outputs are full.
    bool gate(std::int64_t pulse, std::uint32_t wanted, std::uint32_t code, const std::uint32_t* words) {
        if (out_.count == out_.room) {
            stopped_at_ = pulse;
            return false;
        }
        const std::uint32_t late = take_late(pulse);
        const std::uint32_t seeing = (pulse >= blind_[0] ? 1u : 0u) | (pulse >= blind_[1] ? 2u : 0u);
        const std::uint32_t clicks = (wanted | late) & seeing;
        const std::uint32_t lost = (wanted | late) & ~seeing;
        state_[3] += (lost & 1) + (lost >> 1);
        if (!clicks) return true;
        for (int d = 0; d < 2; ++d) {
            const std::uint32_t dead = task_.dynamics[2] ? longest_ : task_.dynamics[d];
            if (task_.dynamics[2] || (clicks >> d & 1)) blind_[d] = pulse + dead;
        }
        schedule(pulse, clicks & wanted);
        const std::uint32_t bit = clicks == 3 ? words[2] & 1 : clicks >> 1;
        const std::uint32_t basis = words[1] >= task_.basis_threshold ? 1 : 0;
        const std::uint32_t mark = (clicks & late) ? 1u << 28 : 0;
        out_.pulses[out_.count] = pulse;
        out_.codes[out_.count] = (code & 0xFFFFFFCu) | clicks | mark | bit << 29 | basis << 30;
        ++out_.count;
        return true;
    }

  private:
    std::uint32_t take_late(std::int64_t pulse) {
        std::uint32_t late = 0;
        int taken = 0;
        while (taken < waiting_ && queue_[taken].pulse == pulse) late |= 1u << queue_[taken++].detector;
        if (taken) {
            for (int i = taken; i < waiting_; ++i) queue_[i - taken] = queue_[i];
            waiting_ -= taken;
        }
        return late;
    }

    void schedule(std::int64_t pulse, std::uint32_t clicks) {
        const std::uint32_t* dynamics = task_.dynamics;
        if (!clicks || !(dynamics[3] | dynamics[4])) return;
        std::uint32_t words[4];
        Philox{task_.seed, 3, task_.domain}.block(static_cast<std::uint64_t>(pulse), words);
        for (int d = 0; d < 2; ++d) {
            if (!(clicks >> d & 1) || words[d] >= dynamics[3 + d]) continue;
            if (waiting_ == static_cast<int>(kPulsesPending)) {
                ++state_[4];
                continue;
            }
            insert({pulse + dynamics[6 + (words[2 + d] & 255)], d});
        }
    }

    void insert(Waiting entry) {
        int at = waiting_++;
        for (; at > 0 && queue_[at - 1].pulse > entry.pulse; --at) queue_[at] = queue_[at - 1];
        queue_[at] = entry;
    }

    const PulseArrivals& task_;
    std::int64_t* state_;
    PulseClicks& out_;
    std::int64_t blind_[2];
    int waiting_;
    Waiting queue_[kPulsesPending];
    std::uint32_t longest_;
    std::int64_t stopped_at_ = 0;
};

// The number of thresholds of a row that do not exceed `number`.
inline std::size_t outcome_of(const std::uint64_t* row, std::size_t outcomes, std::uint64_t number) {
    std::size_t low = 0;
    while (outcomes > 0) {
        const std::size_t half = outcomes / 2;
        const bool above = row[low + half] <= number;
        low = above ? low + half + 1 : low;
        outcomes = above ? outcomes - half - 1 : half;
    }
    return low;
}

// False if the outputs are full.
inline bool arrive(const PulseArrivals& task, Detectors& detectors, std::uint64_t pulse, std::uint8_t light,
                   std::uint32_t high) {
    std::uint32_t words[4];
    Philox{task.seed, 2, task.domain}.block(pulse, words);
    const std::uint64_t number = static_cast<std::uint64_t>(high) << 32 | words[0];
    const std::size_t row = (light & 15u) << 1 | (words[1] >= task.basis_threshold ? 1u : 0u);
    const std::uint64_t* thresholds = task.thresholds + row * task.outcomes;
    if (number >= thresholds[task.outcomes - 1]) return true;
    const std::uint32_t code = task.codes[row * task.outcomes + outcome_of(thresholds, task.outcomes, number)];
    const auto now = static_cast<std::int64_t>(pulse);
    return detectors.flush(now) && detectors.gate(now, code & 3, code, words);
}

std::size_t detect(const PulseArrivals& task, std::uint64_t first, const std::uint8_t* states, std::size_t count,
                   std::int64_t* state, PulseClicks& out) {
    std::uint64_t most = 0;
    for (std::size_t row = 0; row < kPulseRows; ++row) {
        const std::uint64_t last = task.thresholds[(row + 1) * task.outcomes - 1];
        most = last > most ? last : most;
    }
    const auto limit = static_cast<std::uint32_t>(most >> 32);
    const Philox key{task.seed, 1, task.domain};
    alignas(64) std::uint32_t words[kChunkWords];
    std::uint16_t positions[kChunk + 16];
    Detectors detectors(task, state, out);
    bool room = true;
    for (std::size_t at = 0; room && at < count; at += kChunk) {
        const std::size_t size = count - at < kChunk ? count - at : kChunk;
        const std::uint32_t* here = words_of(key, first + at, size, words);
        const std::size_t found = find(here, (size + 15) / 16 * 16, limit, positions);
        for (std::size_t i = 0; room && i < found && positions[i] < size; ++i) {
            const std::size_t offset = at + positions[i];
            room = arrive(task, detectors, first + offset, states[offset], here[positions[i]]);
        }
    }
    room = room && detectors.flush(static_cast<std::int64_t>(first + count));
    detectors.save();
    return room ? count : static_cast<std::size_t>(detectors.stopped_at() - static_cast<std::int64_t>(first));
}

}  // namespace
}  // namespace shosoin
