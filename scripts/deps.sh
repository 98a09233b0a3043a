#!/bin/sh
# deps.sh 'debian packages' 'rocks': installs those that are missing, and says so. With all there it needs no network.
set -eu
packages=$1 rocks=$2

if command -v apt-get >/dev/null; then
    missing=
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || exit 0
    echo "installing Debian packages:$missing"
    run=
    [ "$(id -u)" = 0 ] || run=sudo
    $run apt-get update -qq
    $run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi

for tool in cc pkg-config lua5.4 luarocks; do
    command -v $tool >/dev/null || { echo "deps: $tool is missing: install it with your system's packages, then run make again" >&2; exit 1; }
done
for rock in $rocks; do
    luarocks --lua-version 5.4 show "$rock" >/dev/null 2>&1 && continue
    echo "installing the rock $rock"
    luarocks --lua-version 5.4 install "$rock"
done
