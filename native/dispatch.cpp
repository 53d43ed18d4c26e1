// Which paths this machine can run. Compiled for the baseline processor, like everything that runs before the choice.
#include "kernels.h"

#include <array>
#include <cstring>

namespace shosoin {

namespace {

#ifdef SHOSOIN_AVX2
// The compiler's runtime asks CPUID and, for the wide registers, XGETBV whether the system saves them.
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("aes");
}
#endif

#ifdef SHOSOIN_AVX512
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni") &&
           __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("vaes") &&
           __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("aes");
}
#endif

std::array<const Path*, 4> find_paths() {
    std::array<const Path*, 4> found{};
    std::size_t count = 0;
#ifdef SHOSOIN_AVX512
    if (has_avx512()) found[count++] = &avx512_path;
#endif
#ifdef SHOSOIN_AVX2
    if (has_avx2()) found[count++] = &avx2_path;
#endif
    found[count++] = &portable_path;
    return found;
}

}  // namespace

const Path* const* available_paths() {
    static const std::array<const Path*, 4> paths = find_paths();
    return paths.data();
}

void wipe(void* memory, std::size_t bytes) {
    std::memset(memory, 0, bytes);
    // The compiler must assume that this statement reads the memory.
    __asm__ __volatile__("" : : "r"(memory) : "memory");
}

__attribute__((noinline)) void wipe_dead_stack() {
    unsigned char dead[8192];
    wipe(dead, sizeof dead);
}

}  // namespace shosoin
