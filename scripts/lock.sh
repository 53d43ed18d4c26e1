#!/usr/bin/env bash
# Write requirements/*.txt anew: the newest versions that fit pyproject.toml, one set for every Python and platform,
# with the hashes of all their files and no index address.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check "uv==0.13.9"

compile() { # OUTPUT ARGUMENT...: the packages of pyproject.toml that the arguments choose
    local output=$1
    shift
    rm -f "$tools/lock.txt"
    "$tools/bin/uv" pip compile pyproject.toml "$@" --universal --python-version 3.11 \
        --fork-strategy fewest --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        --quiet --output-file "$tools/lock.txt" >/dev/null
    { echo "# Written by scripts/lock.sh from pyproject.toml; not by hand." && cat "$tools/lock.txt"; } >"$output"
}
compile requirements/dev.txt --group build --extra test --extra lint --extra pkcs11 --extra postgres --extra pqtls \
    --extra plots --extra gpu
# The same versions again, fewer of them: the dev lock is a superset of the run lock.
grep -oE '^[A-Za-z0-9._-]+==[^ ;\]+' requirements/dev.txt >"$tools/constraints.txt"
compile requirements/fuzz.txt --extra fuzz --constraint "$tools/constraints.txt"
compile requirements/peers.txt --extra peers --constraint "$tools/constraints.txt"
compile requirements/run.txt --group build --constraint "$tools/constraints.txt"
