#!/usr/bin/env bash
# Build the kernels with address and undefined-behaviour sanitizers, in build/sanitize, and run the named tests on every
# native path that this machine has: scripts/sanitize.sh TESTS..., or `make sanitize`.
set -euo pipefail
cd "$(dirname "$0")/.."

compiler=${CXX:-g++}
site=build/sanitize/site
flags="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
rm -rf "$site"
PATH="$PWD/.venv/bin:$PATH" CXX="$compiler" .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation --no-index --target "$site" --config-settings=build-dir=build/sanitize/cmake \
    --config-settings=install.strip=false "--config-settings=cmake.define.CMAKE_CXX_FLAGS=$flags" .

# The environment's Python would find the editable install first. Its base Python, given the same packages by path,
# runs no .pth files and so sees only the sanitized build.
python=$(.venv/bin/python -c 'import sys; print(sys._base_executable)')
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
# Python itself is not built with the sanitizer, hence the preload; what it still holds at exit is not our leak.
sanitized() {
    env LD_PRELOAD="$("$compiler" -print-file-name=libasan.so) $("$compiler" -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
        UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$PWD/$site:$packages" "$@"
}

# What does not load must fail here: on the reference kernels every test would pass and nothing be checked.
sanitized "$python" -c 'import shosoin.kernels._native'
paths=$(sanitized "$python" -c 'from shosoin.kernels import paths; print(*paths.available_paths())')
for path in ${paths/reference/}; do
    echo "sanitize: $path" >&2
    # A report goes to standard error as the process dies, so pytest must not hold that back.
    SHOSOIN_KERNELS=$path sanitized "$python" -m pytest --override-ini=pythonpath= -p no:cacheprovider --capture=sys -q "$@"
done
