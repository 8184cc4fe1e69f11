#!/bin/sh
# venv.sh PYTHON FOLDER: make a virtual environment; on Debian its module is a package of its own, fetched if it is missing.
set -eu
python=$1 folder=$2
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "tbgw needs Python 3.11 or later; $python is $("$python" --version)" >&2
    exit 1
}
"$python" -c 'import ensurepip, venv' 2>/dev/null || sh "$(dirname "$0")/packages.sh" python3-venv
"$python" -m venv "$folder"
