#!/bin/sh
# packages.sh NAME...: install those Debian packages that are missing, where apt is there and we may use it.
set -u
missing=
for name in "$@"; do
    # A program of that name will do: the npm of nodejs.org's own package is none that Debian knows.
    command -v "$name" >/dev/null 2>&1 && continue
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing="$missing $name"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "packages.sh: no apt-get here; going on without:$missing" >&2
    exit 0
fi
sudo=
if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then sudo="sudo -n"; else
        echo "packages.sh: not allowed to install; going on without:$missing" >&2
        exit 0
    fi
fi
# Servers that come with these packages are started by the tests on ports of their own, never by the system.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # Debian's way to say that no daemon is to be started; only for as long as this script runs.
    trap '$sudo rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null && $sudo chmod 755 "$policy"
fi
# shellcheck disable=SC2086 # names are words
$sudo apt-get -qq update && $sudo apt-get -qq install -y --no-install-recommends $missing >/dev/null || {
    echo "packages.sh: apt-get failed; going on without some of:$missing" >&2
    exit 0
}
