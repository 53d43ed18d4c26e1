#!/usr/bin/env bash
# The programs of other people that tests talk to, from Debian's packages. What is there already is left alone; without
# root, or on another system, this says what is missing and the tests that need it are skipped.
set -euo pipefail

packages=(
    postgresql softhsm2 wireguard-tools wireguard-go iproute2
    strongswan strongswan-swanctl charon-systemd libstrongswan-extra-plugins libcharon-extra-plugins
)

command -v dpkg-query >/dev/null || {
    echo "system packages: not a Debian system, nothing installed" >&2
    exit 0
}
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    echo "system packages: missing, and not root: ${missing[*]}" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# Nothing that a test does not start itself may run: a service would hold its port and its files.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
