#!/usr/bin/env bash
# Bring .venv up to date: `scripts/setup.sh run` for what the program needs, `scripts/setup.sh dev` for tests and checks too.
#
# Every package comes from a lock with hashes, build tools included, and the build itself is not isolated: nothing
# unlocked is fetched. Each step leaves a stamp with the hash of what it was made from, so a second call takes
# milliseconds and a changed native source rebuilds. SHOSOIN_REQUIRE_NATIVE=1 turns the fallback to the reference
# kernels into an error.
set -euo pipefail

profile=${1:-run}
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
venv=.venv
lock=requirements/$profile.txt

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    printf 'setup: error: %s\nsetup: hint: %s\n' "$1" "$2" >&2
    exit 1
}

[ -f "$lock" ] || die "no lock named $lock" "call it as scripts/setup.sh run, or scripts/setup.sh dev"

# Two `make` at once must not install over each other; where flock is missing (macOS) they are on their own.
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

new_enough='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))'

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
        # A name on PATH may be a version manager's shim for a Python that is not there: only running it tells.
        if command -v "$candidate" >/dev/null && "$candidate" -c "$new_enough" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# The hash of what a step is made from: this place, this Python, standard input, and the named files.
digest_of() {
    { pwd && "$venv/bin/python" -VV && cat - "$@"; } | "$venv/bin/python" -c \
        'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'
}
is_fresh() { [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$2" ]; }

if ! "$venv/bin/python" -c "$new_enough" 2>/dev/null; then
    python=$(find_python) || die "no Python 3.11 or newer with the venv module" \
        "install one (Debian, Ubuntu: python3 and python3-venv), or name it: PYTHON=/path/to/python3 make ..."
    say "creating $venv with $("$python" -V)"
    "$python" -m venv --clear "$venv"
fi

locked=$(digest_of "$lock" </dev/null)
# The dev lock is a superset of the run lock, so `make demo` after `make test` has nothing to install.
if ! is_fresh "$profile" "$locked" && ! { [ "$profile" = run ] && is_fresh dev "$(digest_of requirements/dev.txt </dev/null)"; }; then
    say "installing locked packages from $lock"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --require-hashes --requirement "$lock" >&2
    echo "$locked" >"$venv/.stamp-$profile"
fi

export PATH="$root/$venv/bin:$PATH" # the locked cmake and ninja, whatever the machine has
compiler=$(command -v "${CXX:-c++}" g++ clang++ | head -n 1 || true)
log=$venv/build.log
slow=$venv/.reference-kernels # there when the native kernels are not

install_package() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index \
        "$@" --editable . >"$log" 2>&1
}
has_native() { "$venv/bin/python" -c 'import shosoin.kernels._native' 2>>"$log"; }

# shellcheck disable=SC2046 # our own file names, none with a space
built=$(digest_of pyproject.toml CMakeLists.txt requirements/run.txt $(find native -type f | LC_ALL=C sort) \
    <<<"$compiler ${CXXFLAGS:-}")
if ! is_fresh package "$built"; then
    say "building shosoin with ${compiler:-no C++ compiler}"
    # CMake remembers that there was no compiler; one may have been installed since.
    [ ! -f "$slow" ] || rm -rf "$slow" build
    if ! install_package; then
        cat "$log" >&2
        install_package --config-settings=wheel.cmake=false || { cat "$log" >&2; die "the package does not install" "see above"; }
        echo "the native build failed (report its output, or try another compiler: CXX=clang++ make ...)" >"$slow"
    elif [ -z "$compiler" ]; then
        echo "no C++ compiler was found (g++ 12 or clang 15 will do)" >"$slow"
    elif ! has_native; then
        echo "the native kernels do not load: $(tail -n 1 "$log")" >"$slow"
    fi
    echo "$built" >"$venv/.stamp-package"
fi

if [ -f "$slow" ]; then
    say "WARNING: $(cat "$slow")"
    say "WARNING: the reference kernels run instead: same results, far slower"
    [ "${SHOSOIN_REQUIRE_NATIVE:-0}" != 1 ] || die "no native kernels, and SHOSOIN_REQUIRE_NATIVE=1" "see the warning above"
fi
