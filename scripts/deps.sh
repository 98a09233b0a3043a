#!/bin/sh
# deps.sh 'debian packages' 'rocks' ['daemons']: installs those that are missing, and says so. With all there it needs no
# network. `daemons` are packages that bring one: those that are installed here start neither now nor at boot.
set -eu
packages=$1 rocks=$2 daemons=${3:-}

if command -v apt-get >/dev/null; then
    missing=
    for package in $daemons $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || exit 0
    echo "installing Debian packages:$missing"
    run=
    [ "$(id -u)" = 0 ] || run=sudo
    $run apt-get update -qq
    # what maintainer scripts ask before they start a daemon, under every init; a machine that has one keeps its own
    policy=/usr/sbin/policy-rc.d
    if [ -n "$daemons" ] && [ ! -e $policy ]; then
        trap "$run rm -f $policy" EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' | $run tee $policy >/dev/null
        $run chmod 755 $policy
    fi
    $run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    for daemon in $daemons; do
        case "$missing " in *" $daemon "*) $run update-rc.d "$daemon" disable ;; esac
    done
    exit 0
fi

for tool in cc pkg-config lua5.4 luarocks; do
    command -v $tool >/dev/null || { echo "deps: $tool is missing: install it with your system's packages, then run make again" >&2; exit 1; }
done
for daemon in $daemons; do
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$daemon" >/dev/null || echo "deps: $daemon is missing: its specs are skipped until you install it with your system's packages"
done
for rock in $rocks; do
    luarocks --lua-version 5.4 show "$rock" >/dev/null 2>&1 && continue
    echo "installing the rock $rock"
    luarocks --lua-version 5.4 install "$rock"
done
