#!/bin/sh
# clients.sh: install what the tests' charge points are written on, exactly as locked, into tests/clients/node_modules.
# Without npm, or without the registry, the tests that need it are skipped, each saying so.
set -u
cd "$(dirname "$0")/../tests/clients" || exit 1
[ node_modules/.package-lock.json -nt package-lock.json ] && exit 0
if ! command -v npm >/dev/null 2>&1; then
    echo "clients.sh: no npm here; going on without the charge points in JavaScript" >&2
    exit 0
fi
# Nothing of these packages is run at installation.
npm ci --ignore-scripts --no-audit --no-fund --silent 2>/dev/null || {
    echo "clients.sh: npm ci failed; going on without the charge points in JavaScript" >&2
    exit 0
}
touch node_modules/.package-lock.json
