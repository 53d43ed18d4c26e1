// On other processors the portable path is the only one.
#include "kernels.hpp"

namespace shosoin {

const Kernels *avx512_kernels() { return nullptr; }
const Kernels *avx2_kernels() { return nullptr; }

}  // namespace shosoin
